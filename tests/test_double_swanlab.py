"""The SwanLab stand-in, held against the real client in processes of its own and against bare requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .doubles.server import wait_until
from .doubles.swanlab import SwanlabServer

ROOT = Path(__file__).parents[1]
TIME = "2026-01-02T03:04:05.25Z"
EXPERIMENT = {"name": "first", "createdAt": TIME, "colors": ["#528d59", "#528d59"], "cuid": "a1"}


@pytest.fixture
def server() -> Iterator[SwanlabServer]:
    with SwanlabServer() as server:
        yield server


class Client:
    """A logged-in client that sends what it is told and nothing else."""

    def __init__(self, server: SwanlabServer) -> None:
        self.server = server
        self.cookie = f"sid={self.call('POST', '/login/api_key', key=server.api_key)['sid']}"

    def call(self, method: str, path: str, body: Any = None, *, key: str = "", expect: int | None = None) -> Any:
        headers = {"authorization": key} if key else {"cookie": getattr(self, "cookie", "")}
        host, port = self.server.url.removeprefix("http://").split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
            connection.request(method, f"/api{path}", json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            content = json.loads(answer.read())
        assert answer.status == expect if expect else answer.status in (200, 201), content
        return content

    def open(self, *keys: str, expect: int | None = None) -> Any:
        """Open the run a1 of the project p, and declare *keys*."""
        self.call("POST", "/projects/tester", {"name": "p", "visibility": "PRIVATE"})
        self.ids = {"projectId": self.call("GET", "/project/tester/p")["cuid"]}
        experiment = self.call("POST", "/project/tester/p/experiment", EXPERIMENT, expect=expect)
        self.ids["experimentId"] = experiment.get("cuid")
        if keys:
            self.call("POST", "/projects/tester/p/series", {"series": [{"key": key, "type": "FLOAT"} for key in keys]})
        return experiment

    def send(self, *points: tuple[str, Any, Any], created: Any = TIME, expect: int | None = None) -> None:
        metrics = [{"key": key, "index": step, "data": data, "create_time": created} for key, step, data in points]
        self.call("POST", "/house/metrics", {**self.ids, "type": "scalar", "metrics": metrics}, expect=expect)

    def close(self) -> None:
        state = {"state": "FINISHED", "finishedAt": TIME, "from": "sdk"}
        self.call("PUT", f"/project/tester/p/runs/{self.ids['experimentId']}/state", state)

    def export(self, key: str) -> list[list[str]]:
        """The rows of the full export of one key, below the header."""
        column = {"experimentId": self.ids["experimentId"], "experimentName": "first", "key": key, "createdAt": 1}
        body = {"projectId": self.ids["projectId"], "columns": [column]}
        path = self.call("POST", "/house/metrics/scalar/export", body)["cosKey"]
        link = self.call("POST", "/files/presigned/get", {"paths": [path]})["urls"][0]
        with urllib.request.urlopen(link) as answer:
            return [line.split(",") for line in answer.read().decode().splitlines()[1:]]

    def last_steps(self) -> dict[str, int]:
        path = "/house/metrics/summaries/{projectId}/{experimentId}?all=True&createdAt=1".format(**self.ids)
        return {entry["key"]: entry["step"] for entry in self.call("GET", path)["scalar"]}


@pytest.fixture
def client(server: SwanlabServer) -> Client:
    return Client(server)


def swanlab(server: SwanlabServer, home: Path, *command: str, fails: bool = False, **env: str) -> str:
    """Run Python with *command* beside the real client, whose home and working folder is *home*; its output."""
    environ = {**os.environ, **server.env(), "HOME": str(home), "SWANLAB_TERMINAL_PROXY_TYPE": "none", **env}
    done = subprocess.run(
        [sys.executable, *command], env=environ, cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout


TRAIN = """
import sys, swanlab
first, last = int(sys.argv[1]), int(sys.argv[2])
swanlab.init(project="p", id="run_1", name="a name", resume="allow", group="g", tags=["t"], job_type="train",
             description="about", config={"lr": 0.1})
for step in range(first, last):
    swanlab.log({"train/loss": 1 / (step + 1), "odd": float("nan") if step == 1 else step}, step=step)
swanlab.finish()
"""

READ = """
import json, sys, swanlab
run = swanlab.Api().run("tester/p/run_1")
metrics = {entry["key"]: entry["metrics"] for entry in run.metrics(sys.argv[1:], all=True)["list"]}
print("\\n" + json.dumps({"state": run.state, "summary": run.summary(), "metrics": metrics, "logs": run.logs(),
                          "config": run.profile["config"], "keys": [key.key for key in run.series()]}))
"""

REQUESTS = """
import os
from google.protobuf.timestamp_pb2 import Timestamp
from swanlab.proto.swanlab.run.v1.run_pb2 import RunState
from swanlab.sdk.internal.core_python import client
from swanlab.sdk.internal.core_python.api import experiment, project, upload

client.new(os.environ["SWANLAB_API_KEY"], os.environ["SWANLAB_API_HOST"])
found = project.get_or_create_project(username=None, name="p", public=False)
made, new = experiment.create_or_resume_experiment(
    "tester", "p", name="a name", resume="allow", run_id="run_1", color="#528d59", description=None, job_type=None,
    group=None, tags=None, created_at=Timestamp())
assert new
ids = "tester", "p", made["cuid"]
upload.upload_config(*ids, content={"lr": {"value": 0.1, "sort": 0, "desc": ""}})
upload.upload_metadata(*ids, content={"hostname": "node1"})
upload.upload_requirements(*ids, content="torch==2.0")
upload.upload_conda(*ids, content="name: base")
upload.upload_columns("tester", "p", columns={"series": [{"key": "loss", "type": "FLOAT"}]})
time = "2026-01-02T03:04:05.123456789Z"
upload.upload_scalar(found["cuid"], made["cuid"], metrics=[
    {"key": "loss", "index": 0, "data": 0.5, "create_time": time},
    {"key": "loss", "index": 1, "data": "nan", "create_time": time},
    {"key": "loss", "index": 1, "data": 0.25, "create_time": time}])
upload.upload_log(found["cuid"], made["cuid"], metrics=[
    {"level": "INFO", "epoch": 1, "message": "hello", "create_time": time}])
experiment.send_experiment_heartbeat(experiment_id=made["cuid"])
print(experiment.get_experiment_summary(found["cuid"], made["cuid"], made["createdAt"]))
experiment.stop_experiment(*ids, state=RunState.RUN_STATE_CRASHED, finished_at=Timestamp())
"""


def test_a_run_of_the_real_client_arrives_and_goes_on_with_the_same_id(server: SwanlabServer, tmp_path: Path) -> None:
    started = time.time()
    swanlab(server, tmp_path, "-c", TRAIN, "0", "3")
    swanlab(server, tmp_path, "-c", TRAIN, "0", "5")

    run = server.runs["run_1"]
    assert (run.project.name, run.name, run.description, run.group) == ("p", "a name", "about", "g")
    assert (run.tags, run.job, run.config) == (["t"], "train", {"lr": 0.1})
    assert (run.state, run.opened, run.finished) == ("FINISHED", 2, 2)
    assert run.heartbeats >= 1
    assert run.metadata
    assert run.requirements
    assert run.series["train/loss"]["type"] == "FLOAT"
    assert server.points("run_1", "train/loss") == [(step, 1 / (step + 1)) for step in range(5)]
    assert [step for step, value in server.points("run_1", "odd") if math.isnan(value)] == [1]
    assert all(started < at < time.time() for at in server.times("run_1", "odd"))
    assert not server.violations
    assert not server.unknown
    assert "PUT /project/tester/p/runs/run_1/state" in server.log


def test_the_real_api_reads_back_every_point(server: SwanlabServer, tmp_path: Path) -> None:
    swanlab(server, tmp_path, "-c", REQUESTS)
    back = json.loads(swanlab(server, tmp_path, "-c", READ, "loss").splitlines()[-1])

    loss = back["metrics"]["loss"]
    assert [point["step"] for point in loss] == [0, 1, 1]
    assert [point["value"] for point in loss if not math.isnan(point["value"])] == [0.5, 0.25]
    assert {point["timestamp"] for point in loss} == {1767323045123}
    assert back["summary"]["loss"]["step"] == 1
    assert back["summary"]["loss"]["value"] == 0.25
    assert (back["state"], back["keys"]) == ("CRASHED", ["loss"])
    assert back["config"]["lr"]["value"] == 0.1
    assert [line["message"] for line in back["logs"]["logs"]] == ["hello"]
    run = server.runs["run_1"]
    assert (run.metadata, run.requirements, run.conda) == ({"hostname": "node1"}, "torch==2.0", "name: base")
    assert not server.violations
    assert not server.unknown


def test_a_batch_whose_answer_was_lost_arrives_twice(server: SwanlabServer, tmp_path: Path) -> None:
    server.fault("POST /house/metrics", drop="after")
    swanlab(server, tmp_path, "-c", TRAIN, "0", "3")
    steps = [step for step, _ in server.points("run_1", "train/loss")]
    assert sorted(set(steps)) == [0, 1, 2]
    assert len(steps) > 3
    back = json.loads(swanlab(server, tmp_path, "-c", READ, "train/loss").splitlines()[-1])
    assert [point["step"] for point in back["metrics"]["train/loss"]] == sorted(steps)


def test_a_second_sync_sends_everything_twice_while_the_summary_lags(server: SwanlabServer, tmp_path: Path) -> None:
    swanlab(server, tmp_path, "-c", TRAIN, "0", "3", SWANLAB_MODE="offline", SWANLAB_RUN_DIR="r")
    sync = "-m", "swanlab", "sync", str(tmp_path / "swanlog" / "r"), "--id", "run_1"
    swanlab(server, tmp_path, *sync)
    swanlab(server, tmp_path, *sync)
    assert [step for step, _ in server.points("run_1", "odd")] == [0, 1, 2]
    server.lag_s = 3600
    swanlab(server, tmp_path, *sync)
    assert [step for step, _ in server.points("run_1", "odd")] == [0, 1, 2, 0, 1, 2]


def test_the_real_client_is_refused_with_a_wrong_key(server: SwanlabServer, tmp_path: Path) -> None:
    assert "401" in swanlab(server, tmp_path, "-c", TRAIN, "0", "1", fails=True, SWANLAB_API_KEY="wrong")
    assert set(server.log) == {"POST /login/api_key"}
    assert not server.runs


def test_a_request_needs_a_session(server: SwanlabServer, client: Client) -> None:
    client.call("POST", "/login/api_key", key="wrong", expect=401)
    client.open("loss")
    server.expire_sessions()
    client.send(("loss", 0, 1.0), expect=401)
    assert not server.points("a1", "loss")


def test_points_of_a_run_that_is_not_running_are_hidden(server: SwanlabServer, client: Client) -> None:
    client.open("loss")
    client.send(("loss", 0, 1.0))
    client.close()
    client.send(("loss", 1, 1.0))
    assert server.violations == ["1 points while a1 is FINISHED"]
    assert server.points("a1", "loss") == [(0, 1.0)]
    assert client.last_steps() == {"loss": 0}
    assert [point.step for point in server.runs["a1"].hidden] == [1]
    client.open(expect=200)
    client.send(("loss", 1, 1.0))
    assert server.points("a1", "loss") == [(0, 1.0), (1, 1.0)]
    assert len(server.violations) == 1


def test_times_come_back_to_the_last_bit_of_a_float(server: SwanlabServer, client: Client) -> None:
    client.open("loss")
    client.send(("loss", 0, 1.0), created="2026-01-02T04:04:05.123456789+01:00")
    assert server.times("a1", "loss") == [1767323045.123456789]


def test_the_export_is_by_step_and_may_fold_duplicates(server: SwanlabServer, client: Client) -> None:
    client.open("loss", "lr")
    client.send(("loss", 1, 0.5), ("lr", 0, 1.0), ("loss", 0, "nan"), ("loss", 1, 0.25))
    at = "1767323045250"
    assert client.export("loss") == [["0", "nan", at], ["1", "0.5", at], ["1", "0.25", at]]
    server.folds = True
    assert client.export("loss") == [["0", "nan", at], ["1", "0.25", at]]


@pytest.mark.parametrize(
    ("point", "created"),
    [
        (("loss", 0, "inf"), TIME),
        (("loss", 0, True), TIME),
        (("loss", 0, None), TIME),
        (("loss", 0, math.inf), TIME),
        (("loss", 0.0, 1.0), TIME),
        (("loss", -1, 1.0), TIME),
        (("loss", 2**48 + 1, 1.0), TIME),
        (("/loss", 0, 1.0), TIME),
        (("lo\nss", 0, 1.0), TIME),
        (("loss", 0, 1.0), "2026-01-02 03:04:05"),
        (("loss", 0, 1.0), "2026-13-02T03:04:05Z"),
        (("loss", 0, 1.0), 1767323045),
        (("loss", 0, 1.0), None),
    ],
)
def test_a_malformed_point_is_a_violation(
    server: SwanlabServer, client: Client, point: tuple[str, Any, Any], created: Any
) -> None:
    client.open("loss")
    client.send(("loss", 1, 1.0), point, created=created, expect=400)
    assert len(server.violations) == 1
    assert not server.runs["a1"].points


def test_undeclared_columns_and_large_batches_are_violations(server: SwanlabServer, client: Client) -> None:
    client.open("loss")
    client.send(("lr", 0, 1.0))
    client.send(*[("loss", step, 1.0) for step in range(10_001)])
    assert server.violations == ["points of 'lr' before its column was declared", "a batch of 10001 points, over 10000"]
    server.max_body = 100
    client.send(("loss", 10_001, 1.0), expect=413)
    assert len(server.violations) == 3
    assert len(server.points("a1", "loss")) == 10_001


def test_experiments_and_projects_have_rules(server: SwanlabServer, client: Client) -> None:
    client.call("POST", "/projects/tester", {"name": "a b", "visibility": "PRIVATE"}, expect=400)
    client.call("POST", "/projects/other", {"name": "p", "visibility": "PRIVATE"}, expect=403)
    client.call("GET", "/project/tester/p", expect=404)
    client.open(expect=201)
    refused: list[dict[str, Any]] = [
        {"cuid": "a/b"},
        {"name": ""},
        {"createdAt": "now"},
        {"labels": [{"name": "t"}] * 31},
        {"tags": []},
    ]
    for wrong in refused:
        client.call("POST", "/project/tester/p/experiment", {**EXPERIMENT, **wrong}, expect=400)
    assert list(server.runs) == ["a1"]
    assert len(server.violations) == 6


def test_a_deleted_run_is_gone_and_its_id_is_used_up(server: SwanlabServer, client: Client) -> None:
    client.open("loss")
    server.delete("a1")
    client.send(("loss", 0, 1.0), expect=404)
    client.call("GET", "/project/tester/p/runs/a1", expect=404)
    client.open(expect=409)


def test_the_last_batch_can_be_lost_and_the_summary_can_lag(server: SwanlabServer, client: Client) -> None:
    client.open("loss")
    client.send(*[("loss", step, 1.0) for step in range(4)])
    server.lose_last("a1", 2)
    assert client.last_steps() == {"loss": 1}
    assert len(server.points("a1", "loss")) == 2
    server.lag_s = 3600
    assert client.last_steps() == {}


def test_what_is_not_served_is_recorded(server: SwanlabServer, client: Client) -> None:
    client.call("POST", "/resources/presigned/put", {}, expect=404)
    assert server.unknown == ["POST /resources/presigned/put"]


def test_it_runs_in_the_foreground_and_prints_the_environment() -> None:
    command = [sys.executable, "-m", "tests.doubles.swanlab"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = wait_until(process.stdout.readline)
        process.terminate()
    assert first.startswith("export SWANLAB_API_HOST=http://127.0.0.1:")
