"""Many runs: what did not change costs a look at its files, what did goes several at once through one client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import offline_tracker
from offline_tracker.sync.ledger import Ledger
from tests.doubles.server import Request
from tests.doubles.swanlab import SwanlabServer
from tests.syncing import REMOTES, House, add, begin, loss, losses, made

TRACKER = Path(sys.executable).parent / "tracker"


def look(house: House, remote: str = "swanlab", **options: object) -> tuple[str, int]:
    """Sync all runs without naming them; what was said of the one, and how many requests that took."""
    before = len(house.double(remote).log)
    result = house.sync(remote, only=[], **options).result
    return result["status"], len(house.double(remote).log) - before


def age(house: House, run_id: str = "a1", seconds: float = 60.0) -> None:
    """Let a run's files be as if they had been written some time ago."""
    for path in house.runs.folder(run_id).glob("*"):
        at = path.stat().st_mtime - seconds
        os.utime(path, (at, at))


# Nothing new.


@pytest.mark.parametrize("remote", REMOTES)
def test_a_run_that_did_not_change_is_neither_opened_nor_asked_for(house: House, remote: str) -> None:
    made(house.runs)
    age(house)
    first = house.sync(remote, only=[]).result
    path = house.runs.folder("a1") / "run.db"
    stat, content = path.stat(), path.read_bytes()
    with open(path, "r+b") as file:
        file.write(b"none of its bytes is looked at")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    house.double(remote).down()
    asked = len(house.double(remote).log)
    again = house.sync(remote, only=[]).result
    assert again == {**first, "status": "nothing new", "sent": 0}
    house.double(remote).up()
    path.write_bytes(content)
    named = house.sync(remote, only=["a1"]).result
    assert (named["status"], named["rows"]) == ("nothing new", 20)
    assert len(house.double(remote).log) > asked


def _row(house: House) -> None:
    add(offline_tracker.init(id="a1", dir=house.runs.path, reinit=True), [20])
    offline_tracker.finish()


def _journal(house: House) -> None:
    house.train(20, 3000, 10_000, "kill")


def _link(house: House) -> None:
    with Ledger(house.runs.path) as ledger:
        ledger._db.execute("DELETE FROM link")


def _touch(house: House) -> None:
    (house.runs.folder("a1") / "run.db").touch()


@pytest.mark.parametrize("change", [_row, _journal, _link, _touch])
def test_any_change_of_its_files_or_its_link_is_looked_at(house: House, change: Callable[[House], None]) -> None:
    made(house.runs)
    age(house)
    look(house)
    assert look(house) == ("nothing new", 0)
    change(house)
    status, requests = look(house)
    assert requests > 0
    assert status == ("confirmed" if change is not _touch else "nothing new")
    house.check("swanlab", "a1", house.points("a1", "loss"))


def test_other_options_and_another_server_are_looked_at(house: House) -> None:
    run = begin(house.runs, steps=range(10))
    run.mark_checkpoint("ten")
    add(run, range(10, 20))
    offline_tracker.finish(exit_code=1)
    age(house)
    assert house.sync("swanlab", only=[]).result["held_back"] == 10
    again = house.sync("swanlab", only=[]).result
    assert (again["status"], again["held_back"], again["last_step"]) == ("nothing new", 10, 9)
    assert again["notes"] == ["10 rows after the last checkpoint held back (--eager sends them)"]
    assert look(house) == ("nothing new", 0)
    assert look(house, project="other")[1] > 0
    assert look(house, eager=True)[0] == "confirmed"
    assert look(house) == ("nothing new", 0)
    with SwanlabServer() as second:
        house.env |= second.env()
        house.sync("swanlab", only=[])
        assert [run.run_id for run in second.runs.values()] == ["a1"]


def test_a_file_that_may_still_change_within_the_clock_s_tick_is_not_trusted(house: House) -> None:
    made(house.runs)
    age(house, seconds=-3600)
    look(house)
    assert look(house)[1] > 0


def test_a_run_that_dies_without_a_word_is_looked_at_again(house: House) -> None:
    code = "import offline_tracker as w, sys\nr = w.init(project='p', id='a1', dir=sys.argv[1])\nw.log({'loss': 1.0})\n"
    code += "r.flush()\nprint('ready', flush=True)\ninput()"
    command = [sys.executable, "-c", code, str(house.runs.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[1]) as training:
        assert training.stdout is not None and training.stdout.readline() == "ready\n"
        training.send_signal(signal.SIGSTOP)  # it lives, and writes no heartbeat while we look
        age(house)
        look(house)
        assert house.swanlab.runs["a1"].state == "RUNNING"
        assert look(house) == ("nothing new", 0)
        training.kill()
    assert look(house)[0] == "confirmed"
    assert house.swanlab.runs["a1"].state == "CRASHED"
    assert look(house) == ("nothing new", 0)


# Several at once.


@pytest.mark.parametrize("remote", REMOTES)
def test_several_runs_are_on_their_way_at_once_through_one_client(house: House, remote: str) -> None:
    ids = [f"r{number}" for number in range(6)]
    for run_id in ids:
        made(house.runs, run_id)
    match = {"wandb": "file_stream", "swanlab": "POST /house/metrics"}[remote]
    meeting = threading.Barrier(3)
    cores: set[str] = set()

    def meet(_: Request) -> None:
        meeting.wait(60)  # none of them goes on before three are here
        cores.update(words for words in house.living() if "wandb-core" in words)

    for _ in range(3):
        house.double(remote).fault(match, hook=meet)
    results = house.sync(remote, jobs=3).results
    assert [(result["run"], result["status"]) for result in results] == [(run_id, "confirmed") for run_id in ids]
    for run_id in ids:
        house.check(remote, run_id, losses(range(20)))
    assert len(cores) == (2 if remote == "wandb" else 0)  # one reads, one sends
    house.check_nothing_left()


def test_a_run_that_is_refused_costs_no_other_one_that_goes_with_it(house: House) -> None:
    ids = [f"r{number}" for number in range(4)]
    for run_id in ids:
        made(house.runs, run_id)
    house.wandb.fault("/r2/file_stream", status=403, times=99)
    results = house.sync("wandb", status=1, patience_s=20).results
    assert [result["status"] for result in results] == ["confirmed", "confirmed", "failed", "confirmed"]
    assert "403" in results[2]["reason"]
    assert [result["reason"] for result in results if result["run"] != "r2"] == [None] * 3
    house.wandb.clear_faults()
    house.sync("wandb")
    for run_id in ids:
        house.check("wandb", run_id, losses(range(20)))


def test_copies_of_one_run_take_turns(house: House) -> None:
    made(house.runs)
    shutil.copytree(house.runs.folder("a1"), house.runs.path / "a2")
    for result in house.sync("swanlab").results:
        assert result["status"] in ("confirmed", "nothing new"), result
    house.check("swanlab", "a1", losses(range(20)))


# The end of a sync, whatever way.


def killed_at(house: House, remote: str, match: str, number: int) -> None:
    """Begin a sync of four runs and kill it at a request; another run's sync removes all, and a last one mends all."""
    assert house.sync_killed_at(remote, match, number, applied=True, only=["r0", "r1", "r2", "r3"])
    house.sync(remote, only=["other"])
    house.check_nothing_left()
    house.sync(remote)
    for run_id in ("r0", "r1", "r2", "r3"):
        house.check(remote, run_id, losses(range(20)))
    house.check_nothing_left()


@pytest.mark.parametrize(
    "moment", [("wandb", "file_stream", 2), ("wandb", "UpsertBucket", 5), ("swanlab", "metrics", 2)]
)
def test_a_sync_of_several_runs_that_is_killed_leaves_nothing_and_is_mended(
    house: House, moment: tuple[str, str, int]
) -> None:
    for run_id in ("r0", "r1", "r2", "r3", "other"):
        made(house.runs, run_id)
    killed_at(house, *moment)


@pytest.mark.parametrize("remote", REMOTES)
def test_ctrl_c_ends_a_sync_cleanly(house: House, remote: str) -> None:
    for run_id in ("r0", "r1"):
        made(house.runs, run_id)
    match = {"wandb": "file_stream", "swanlab": "/summaries"}[remote]
    arrived = threading.Event()
    house.double(remote).fault(match, status=500, times=99, hook=lambda _: arrived.set())
    command = [TRACKER, "sync", house.runs.path, "--to", remote, "--settle", "0.5"]
    with subprocess.Popen(command, env=house.env, cwd=house.home, stderr=subprocess.PIPE, text=True) as process:
        assert arrived.wait(60)
        process.send_signal(signal.SIGINT)
        # Once in hundreds of times it took more than 60 s; why is not known.
        _, errors = process.communicate(timeout=150)
    assert (process.returncode, errors) == (130, "")
    house.check_nothing_left()
    with Ledger(house.runs.path) as ledger:
        assert ledger._db.execute("SELECT * FROM lease").fetchall() == []
    house.double(remote).clear_faults()
    house.sync(remote)
    for run_id in ("r0", "r1"):
        house.check(remote, run_id, losses(range(20)))


def test_the_ledger_of_an_older_version_is_brought_up_to_date(house: House) -> None:
    made(house.runs)
    house.sync("swanlab")
    with Ledger(house.runs.path) as ledger:
        ledger._db.executescript("DROP TABLE seen; PRAGMA user_version = 1")
        ledger._db.execute("DELETE FROM _sqlite_migrations WHERE name LIKE 'm002%'")
    age(house)
    look(house)
    assert look(house) == ("nothing new", 0)


# A thin line.


def test_requests_and_bytes_go_no_faster_than_asked_for(house: House) -> None:
    ids = [f"r{number}" for number in range(3)]
    for run_id in ids:
        made(house.runs, run_id)
    at: list[float] = []
    house.swanlab.fault("", times=999, hook=lambda _: at.append(time.monotonic()))
    house.sync("swanlab", jobs=3, max_rps=20)
    assert at[-1] - at[0] > (len(at) - 1) / 20 * 0.9  # over all runs
    for first, last in zip(at, at[20:], strict=False):  # one may have been late, the other not
        assert last - first > 0.5
    run = begin(house.runs, "long", steps=())
    for step in range(2000):
        run.log({"loss": loss(step)})
    offline_tracker.finish()
    house.sync("wandb", only=["long"], max_kbps=50)
    there = house.wandb.runs["long"]
    size_bytes = sum(len(json.dumps(line)) for line in there.history)
    assert there.marks[-1][0] - there.marks[0][0] > size_bytes / 50_000 / 2  # the first of it may wait for the last
    house.check("wandb", "long", losses(range(2000)))
    for run_id in ids:
        house.check("swanlab", run_id, losses(range(20)))
