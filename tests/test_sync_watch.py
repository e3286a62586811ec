"""`tracker sync --watch`: rows arrive while the training writes, the remote tells the truth, and failures pass."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker.sync.ledger import Ledger
from tests.doubles.server import wait_until
from tests.doubles.swanlab import SwanlabServer
from tests.doubles.wandb import WandbServer
from tests.syncing import REMOTES, ROOT, House, add, begin, losses, made

TRACKER = Path(sys.executable).parent / "tracker"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with WandbServer() as wandb, SwanlabServer() as swanlab:
        house = House(tmp_path, wandb, swanlab)
        house.runs.path.mkdir()
        yield house
        offline_tracker.finish()
        house.close()


class Watch:
    """A running `tracker sync --watch --json`; `told` is what it has said so far."""

    def __init__(self, process: subprocess.Popen[str], out: Path) -> None:
        self.process, self._out = process, out

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def end(self, status: int = 0, by: int = signal.SIGTERM) -> None:
        self.process.send_signal(by)
        _, errors = self.process.communicate(timeout=60)
        assert (self.process.returncode, errors) == (status, "")


@contextmanager
def watching(house: House, remote: str, *options: str) -> Iterator[Watch]:
    out = house.home / "told"
    with open(out, "w") as file:
        command = [TRACKER, "sync", house.runs.path, "--to", remote, "--watch", "--json", "--settle", "0.5", *options]
        env = {**house.env, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, env=env, cwd=house.home, stdout=file, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    try:
        yield Watch(process, out)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def arrived(house: House, remote: str, run_id: str, count: int, metric: str = "loss") -> Callable[[], bool]:
    double = house.double(remote)
    return lambda: run_id in double.runs and len(double.points(run_id, metric)) == count


def state(house: House, remote: str, run_id: str = "a1") -> str:
    return str(house.double(remote).runs[run_id].state).lower()


@pytest.mark.parametrize("remote", REMOTES)
def test_rows_arrive_while_the_training_writes_and_the_state_is_true(house: House, remote: str) -> None:
    with watching(house, remote) as watch:
        run = begin(house.runs, steps=range(5))  # after the watch has begun
        wait_until(arrived(house, remote, "a1", 5), what="the first rows")
        assert state(house, remote) == "running"
        add(run, range(5, 8))
        wait_until(arrived(house, remote, "a1", 8), what="the next rows")
        assert state(house, remote) == "running"
        begun = len(watch.told)
        made(house.runs, "b2")  # which finishes a1 first
        wait_until(arrived(house, remote, "b2", 20), what="another run")
        for run_id in ("a1", "b2"):
            wait_until(lambda run_id=run_id: state(house, remote, run_id) == "finished", what="the end")
        wait_until(lambda: {result["run"] for result in watch.told[begun:]} == {"a1", "b2"})
        assert {result["status"] for result in watch.told} == {"confirmed"}
        assert sum(result["sent"] for result in watch.told if result["run"] == "a1") == 8
        watch.end()
    house.check(remote, "a1", losses(range(8)))
    house.check(remote, "b2", losses(range(20)))
    house.check_nothing_left()


def test_what_is_idle_is_left_alone(house: House) -> None:
    for run_id in ("idle-1", "idle-2", "idle-3"):
        made(house.runs, run_id)
        for path in house.runs.folder(run_id).glob("*"):
            os.utime(path, (1e9, 1e9))
    house.sync("swanlab", only=[])
    asked = len(house.swanlab.log)
    with watching(house, "swanlab") as watch:
        run = begin(house.runs, steps=range(5))
        wait_until(arrived(house, "swanlab", "a1", 5))
        add(run, range(5, 8))
        wait_until(arrived(house, "swanlab", "a1", 8))
        watch.end()
    idle = ("idle-1", "idle-2", "idle-3")
    assert [label for label in house.swanlab.log[asked:] if any(run_id in label for run_id in idle)] == []
    assert {result["run"] for result in watch.told} == {"a1"}


def test_a_training_that_dies_has_crashed_there_too(house: House) -> None:
    code = "import offline_tracker as w, sys\nr = w.init(project='p', id='a1', dir=sys.argv[1])\nw.log({'loss': 1.0})\n"
    code += "r.flush()\ninput()"
    with watching(house, "swanlab") as watch:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, str(house.runs.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=env, cwd=house.home) as training:
            wait_until(arrived(house, "swanlab", "a1", 1))
            assert state(house, "swanlab") == "running"
            training.kill()
        wait_until(lambda: state(house, "swanlab") == "crashed", what="the end")
        watch.end()
    house.check("swanlab", "a1", losses(range(1)))


def test_a_remote_that_is_down_is_said_once_and_waited_for(house: House) -> None:
    house.wandb.down()
    made(house.runs)
    with watching(house, "wandb") as watch:
        wait_until(lambda: watch.told, 60, "the failure")
        house.wandb.up()
        wait_until(lambda: len(watch.told) > 1, 60, "the rows")
        assert [result["status"] for result in watch.told] == ["failed", "confirmed"]
        assert "127.0.0.1" in watch.told[0]["reason"]
        watch.end()
    house.check("wandb", "a1", losses(range(20)))


def test_a_refusal_is_said_once_and_tried_again(house: House) -> None:
    house.swanlab.fault("POST /house/metrics", status=403, times=2)
    made(house.runs)
    with watching(house, "swanlab") as watch:
        wait_until(lambda: len(watch.told) > 1, 60, "the rows")
        assert [result["status"] for result in watch.told] == ["failed", "confirmed"]
        assert "403" in watch.told[0]["reason"]
        watch.end()
    house.check("swanlab", "a1", losses(range(20)))


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_ended_in_the_middle_it_leaves_what_the_next_sync_mends(house: House, by: int) -> None:
    made(house.runs, "a1")
    made(house.runs, "b2", project="bad/name")
    with watching(house, "wandb") as watch:
        house.wandb.fault("file_stream", status=503, times=99)
        wait_until(lambda: any("file_stream" in label for label in house.wandb.log) and watch.told)
        watch.end(status=1, by=by)  # b2 can't be sent
        assert "'bad/name' is refused" in watch.told[0]["reason"]
    house.check_nothing_left()
    with Ledger(house.runs.path) as ledger:
        assert ledger._db.execute("SELECT * FROM lease").fetchall() == []
    house.wandb.clear_faults()
    house.sync("wandb", only=["a1"])
    house.check("wandb", "a1", losses(range(20)))


def test_it_must_be_clear_from_the_start_where_runs_go(house: House) -> None:
    def said(*options: str) -> tuple[int, str]:
        command = [TRACKER, "sync", house.runs.path, "--watch", *options]
        done = subprocess.run(command, env=house.env, cwd=house.home, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    assert said() == (
        2,
        "tracker: to which remote? there are credentials for swanlab and wandb; use --to swanlab or --to wandb,"
        " or set OFFLINE_TRACKER_TO\n",
    )
    del house.env["WANDB_API_KEY"]
    status, errors = said("--to", "wandb")
    assert status == 2 and "set WANDB_API_KEY" in errors
    assert said("--to", "swanlab", "--dry-run")[0] == 2
    assert said("--to", "swanlab", "--on-conflict", "new") == (
        2,
        "tracker: on_conflict='new': use keep, new-run or rewind\n",
    )
