"""The stand-in for W&B serves the real client, and notices what the real service may not forgive."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.server import wait_until
from tests.doubles.wandb import WandbServer


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


class Client:
    """Runs the real client in processes of its own, at home in *home*."""

    def __init__(self, server: WandbServer, home: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "XDG_"))}
        # without WANDB_DIR the public API leaves folders in the temp folder
        self.env = {**kept, **server.env(), "HOME": str(home), "WANDB_DIR": str(home)}
        self.home = home

    def run(self, *args: str, **env: str) -> str:
        """Run ``python ARGS`` and return its output; AssertionError with the output if it fails."""
        done = subprocess.run(
            [sys.executable, *args], env={**self.env, **env}, cwd=self.home, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def python(self, code: str, **env: str) -> str:
        return self.run("-c", textwrap.dedent(code), **env)


@pytest.fixture
def client(server: WandbServer, tmp_path: Path) -> Client:
    return Client(server, tmp_path)


def post(server: WandbServer, path: str, body: dict[str, Any], key: str | None = None) -> tuple[int, Any]:
    """Send one request as the client would and return status and answer."""
    auth = base64.b64encode(f"api:{key or server.api_key}".encode()).decode()
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Authorization": f"Basic {auth}"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def graphql(server: WandbServer, query: str, **variables: Any) -> tuple[int, Any]:
    return post(server, "/graphql", {"query": query, "variables": variables})


def upsert(server: WandbServer, run_id: str = "r", **variables: Any) -> tuple[int, Any]:
    return graphql(server, "mutation UpsertBucket {}", name=run_id, **{"project": "p", **variables})


def stream(server: WandbServer, offset: int, steps: list[int], **more: Any) -> int:
    lines = [json.dumps({"_step": step, "loss": 1 / (step + 1)}) for step in steps]
    body = {"files": {"wandb-history.jsonl": {"offset": offset, "content": lines}}, **more}
    return post(server, "/files/house/p/r/file_stream", body)[0]


def resume_status(server: WandbServer) -> tuple[int, str]:
    _, answer = graphql(server, "query RunResumeStatus {}", entity="house", project="p", name="r")
    bucket = answer["data"]["model"]["bucket"]
    return bucket["historyLineCount"], bucket["historyTail"]


# The real client.


def test_an_online_run_arrives_and_resuming_it_continues_at_the_next_line(server: WandbServer, client: Client) -> None:
    client.python("""
        import wandb
        described = dict(name="a name", tags=["x"], notes="a note", group="g", job_type="train")
        run = wandb.init(project="p", id="a1", config={"lr": 0.1, "model": {"dim": 8}}, **described)
        for step in range(3):
            run.log({"loss": float("nan") if step == 1 else float(step)})
        run.finish()
        run = wandb.init(project="p", id="a1", resume="allow", config={"more": 1})
        run.log({"loss": 3.0})
        run.finish(exit_code=1)
    """)
    run = server.runs["a1"]
    assert server.steps("a1") == [0, 1, 2, 3]
    assert str(server.points("a1", "loss")) == "[(0, 0), (1, nan), (2, 2), (3, 3)]"
    assert run.config == {"lr": 0.1, "model": {"dim": 8}, "more": 1}
    assert (run.display_name, run.tags, run.notes, run.group, run.job_type) == ("a name", ["x"], "a note", "g", "train")
    assert (run.state, run.exitcode, run.summary["loss"]) == ("failed", 1, 3)
    assert run.metadata["python"].startswith("CPython")
    assert (server.unknown, server.violations, server.created) == ([], [], 1)


def test_an_offline_run_arrives_by_live_sync(server: WandbServer, client: Client) -> None:
    client.python(
        """
        import wandb
        run = wandb.init(project="p", id="off", config={"lr": 0.1})
        for step in range(5):
            run.log({"loss": float(step)}, step=10 * step)
        print("a line of output")
        run.finish()
        """,
        WANDB_MODE="offline",
    )
    assert server.log == []
    [log] = client.home.glob("wandb/offline-run-*/run-off.wandb")
    client.run("-m", "wandb", "beta", "sync", "--live", str(log))
    assert server.points("off", "loss") == [(0, 0), (10, 1), (20, 2), (30, 3), (40, 4)]
    run = server.runs["off"]
    assert (run.config, run.state, run.exitcode) == ({"lr": 0.1}, "finished", 0)
    assert any("a line of output" in line for line in run.output)
    assert (server.unknown, server.violations) == ([], [])


def test_the_public_api_reads_back_what_arrived(server: WandbServer, client: Client) -> None:
    config = {"lr": {"value": 0.1}, "model": {"value": {"dim": 8}}, "_wandb": {"value": {"t": {"12": "0"}}}}
    upsert(server, config=json.dumps(config), displayName="a name")
    stream(server, 0, [0, 5, 10])
    post(
        server, "/files/house/p/r/file_stream", {"files": {"wandb-summary.json": {"offset": 0, "content": ['{"m":1}']}}}
    )
    said = client.python("""
        import json, wandb
        api = wandb.Api()
        run = api.run("house/p/r")
        rows = [(row["_step"], row["loss"]) for row in run.scan_history()]
        keyed = [row["_step"] for row in run.scan_history(keys=["_step", "loss"])]
        sampled = len(run.history(pandas=False))
        try:
            api.run("house/p/none")
            missing = "found"
        except wandb.errors.CommError as error:
            missing = str(error)
        print(json.dumps([run.lastHistoryStep, run.historyLineCount, run.state, run.name, run.config,
                          run.summary["m"], rows, keyed, sampled, missing]))
    """)
    last, count, state, name, read_config, summary, rows, keyed, sampled, missing = json.loads(said.splitlines()[-1])
    assert (last, count, state, name, summary, sampled) == (10, 3, "running", "a name", 1, 3)
    assert read_config == {"lr": 0.1, "model": {"dim": 8}}
    assert [tuple(row) for row in rows] == server.points("r", "loss")
    assert keyed == [0, 5, 10]
    assert missing.startswith("Could not find run")
    assert server.unknown == []


def test_the_client_waits_out_a_429(server: WandbServer, client: Client) -> None:
    limited = server.fault("file_stream", status=429, headers={"Retry-After": "1"})
    began = time.monotonic()
    client.python("""
        import wandb
        with wandb.init(project="p", id="a1") as run:
            run.log({"loss": 1.0})
    """)
    assert limited.times == 0 and time.monotonic() - began > 1
    assert server.points("a1", "loss") == [(0, 1)]
    assert server.runs["a1"].state == "finished"


def test_the_client_sees_a_burnt_id_and_a_wrong_key(server: WandbServer, client: Client) -> None:
    upsert(server, "a1")
    server.delete("a1")
    said = client.python(
        """
        import wandb
        try:
            wandb.init(project="p", id="a1")
        except wandb.Error as error:
            print("burnt:", error)
        try:
            wandb.Api(api_key="f" * 40)
        except wandb.errors.AuthenticationError as error:
            print("key:", error)
        """,
        WANDB_X_GRAPHQL_RETRY_MAX="1",
        WANDB_INIT_TIMEOUT="10",
    )
    assert "burnt:" in said and "409" in said
    assert "key: Failed to verify credentials" in said
    assert server.runs == {}


# What it notices, without a client.


def test_nulls_leave_a_run_as_it_was(server: WandbServer) -> None:
    upsert(server, displayName="n", tags=["x"], groupName="g", config='{"a": {"value": 1}}')
    _, answer = upsert(server, displayName=None, tags=None, groupName=None, config=None)
    assert answer["data"]["upsertBucket"]["inserted"] is False
    run = server.runs["r"]
    assert (run.display_name, run.tags, run.group, run.config, run.upserts) == ("n", ["x"], "g", {"a": 1}, 2)


@pytest.mark.parametrize("project", ["", "a/b", "a%b", "a:b", "a?b", "a#b", "a\\b", "p" * 129])
def test_a_bad_project_name_is_refused(server: WandbServer, project: str) -> None:
    assert upsert(server, project=project)[0] == 400
    assert server.runs == {}


@pytest.mark.parametrize("run_id", ["", "a/b", "a:b", "a;b", "a,b", "a#b", "a?b", "a'b", " a", "a "])
def test_a_bad_run_id_is_refused(server: WandbServer, run_id: str) -> None:
    assert upsert(server, run_id)[0] == 400
    assert server.runs == {}


def test_a_deleted_id_answers_409_for_ever(server: WandbServer) -> None:
    upsert(server)
    server.delete("r")
    assert [upsert(server)[0], upsert(server)[0], stream(server, 0, [0])] == [409, 409, 409]


def test_strangers_are_refused(server: WandbServer) -> None:
    assert post(server, "/graphql", {"query": "query Viewer {}"}, key="f" * 40)[0] == 401
    assert upsert(server, entity="elsewhere")[0] == 404
    assert graphql(server, "query Horoscope {}")[0] == 400
    assert server.unknown == ["Horoscope"]


def test_a_retry_is_no_violation_and_arrives_once(server: WandbServer) -> None:
    upsert(server)
    assert [stream(server, 0, [0, 1]), stream(server, 0, [0, 1]), stream(server, 1, [1, 2])] == [200] * 3
    assert server.steps("r") == [0, 1, 2]
    assert server.violations == []


@pytest.mark.parametrize(
    ("offset", "steps", "says"),
    [
        (3, [2], "at offset 3, but there are 2 lines"),
        (1, [7], "overwrites 1 lines with others"),
        (2, [1], "step 1 after step 1"),
        (2, [5, 4], "step 4 after step 5"),
    ],
)
def test_a_gap_another_line_or_a_step_back_is_a_violation(
    server: WandbServer, offset: int, steps: list[int], says: str
) -> None:
    upsert(server)
    stream(server, 0, [0, 1])
    stream(server, offset, steps)
    assert len(server.violations) == 1 and says in server.violations[0]


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"_step": 1.5}', '{"_step": true}'])
def test_a_line_that_is_no_row_is_refused(server: WandbServer, line: str) -> None:
    upsert(server)
    body = {"files": {"wandb-history.jsonl": {"offset": 0, "content": [line]}}}
    assert post(server, "/files/house/p/r/file_stream", body)[0] == 400
    assert len(server.violations) == 1
    assert server.steps("r") == []


def test_the_state_follows_the_stream(server: WandbServer) -> None:
    upsert(server)
    states = []
    for more in ({}, {"complete": True, "exitcode": 0}, {}, {"complete": True, "exitcode": 3}):
        stream(server, 0, [0], **more)
        states.append(server.runs["r"].state)
    upsert(server)
    assert [*states, server.runs["r"].state] == ["running", "finished", "running", "failed", "running"]


def test_the_mark_lags_and_a_lost_batch_shows(server: WandbServer) -> None:
    upsert(server)
    stream(server, 0, [0, 1, 2])
    assert resume_status(server) == (3, json.dumps([json.dumps({"_step": 2, "loss": 1 / 3})]))
    server.lag_s = 0.5
    stream(server, 3, [3])
    assert resume_status(server)[0] in (0, 3)
    wait_until(lambda: resume_status(server)[0] == 4)
    server.lag_s = 0.0
    server.lose_last("r", 3)
    assert resume_status(server)[0] == 1
    assert server.steps("r") == [0]


def test_faults_find_an_operation_and_a_stream(server: WandbServer) -> None:
    server.fault("UpsertBucket", status=500, times=2)
    server.fault("/files/house/p/r/file_stream", status=503)
    assert [upsert(server)[0] for _ in range(3)] == [500, 500, 200]
    assert [stream(server, 0, [0]), stream(server, 0, [0])] == [503, 200]
    assert server.log == ["POST /graphql UpsertBucket"] * 3 + ["POST /files/house/p/r/file_stream history"] * 2


def test_it_runs_by_hand_and_says_how_to_use_it() -> None:
    with subprocess.Popen([sys.executable, "-m", "tests.doubles.wandb"], stdout=subprocess.PIPE, text=True) as double:
        assert double.stdout is not None
        assert double.stdout.readline().startswith("export WANDB_BASE_URL=http://127.0.0.1:")
        assert double.stdout.readline().startswith("export WANDB_API_KEY=")
        double.terminate()
