"""
Slow, full, read-only and hanging filesystems: training goes on, and what log() returned for is there in the end.

A training is a process of its own, told line by line what to do, so that one that hangs is killed and fails its test.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from offline_tracker import journal
from offline_tracker.store import Runs

from .conftest import Start, curve_of
from .faultfs import CHANGES, FaultFS
from .test_cli import TRACKER

MountFaults = Callable[..., FaultFS]
MountTmpfs = Callable[..., Path]

DEADLINE_S = 30.0

TRAINING = """
import json, logging, sys, time
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
import offline_tracker
from offline_tracker import writer
folder, first, memory_calls = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
writer.MEMORY_CALLS = memory_calls or writer.MEMORY_CALLS
try:
    run = offline_tracker.init(dir=folder, id="a1")
except offline_tracker.TrackerError as error:
    print(json.dumps([type(error).__name__, str(error)]), flush=True)
    sys.exit(3)
print(json.dumps([None, run.dir]), flush=True)
step = first
for line in sys.stdin:
    order, *number = line.split()
    answer = None
    if order == "log":
        took = []
        for step in range(step, step + int(number[0])):
            begun = time.perf_counter()
            run.log({"n": step, "loss": 1 / (step + 1)}, step=step)
            took.append(time.perf_counter() - begun)
        step += 1
        answer = sorted(took)[len(took) * 99 // 100]
    elif order == "flush":
        try:
            run.flush(timeout_s=float(number[0]))
        except offline_tracker.StoreError as error:
            answer = str(error)
    elif order == "finish":
        run.finish()
    print(json.dumps(answer), flush=True)
"""


class Training:
    """A process that logs ``n`` and ``loss`` into run a1, step after step."""

    def __init__(self, process: subprocess.Popen[str], step: int) -> None:
        self._process = process
        self.step = step
        self.refused, self.said = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        timer = threading.Timer(DEADLINE_S, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        assert line, f"the training hung or died: {self._process.communicate()[1]}"
        return json.loads(line)

    def _order(self, *words: object) -> Any:
        assert self._process.stdin
        print(*words, file=self._process.stdin, flush=True)
        return self._answer()

    def log(self, calls: int) -> float:
        """Log so many calls as fast as it goes; the 99th percentile of what one takes, seconds."""
        self.step += calls
        p99: float = self._order("log", calls)
        return p99

    def flush(self, timeout_s: float = DEADLINE_S / 2) -> str | None:
        """Wait until all is in run.db; what it says if it is not."""
        problem: str | None = self._order("flush", timeout_s)
        return problem

    def finish(self) -> list[str]:
        """Finish the run and end; what was said on the way as a warning or worse."""
        self._order("finish")
        return self._end(0)

    def kill(self) -> list[str]:
        self._process.kill()
        return self._end(-signal.SIGKILL)

    def _end(self, status: int) -> list[str]:
        _, errors = self._process.communicate(timeout=DEADLINE_S)
        assert self._process.returncode == status, errors
        assert "Traceback" not in errors
        return [line for line in errors.splitlines() if not line.startswith("INFO")]


Train = Callable[..., Training]


@pytest.fixture
def train(start: Start, tmp_path: Path) -> Train:
    """Start a training; $TMPDIR is the folder ``tmp`` of *tmp_path* unless given."""

    def begin(runs: Path, step: int = 0, memory_calls: int = 0, **environ: object) -> Training:
        (tmp_path / "tmp").mkdir(exist_ok=True)
        env = {"TMPDIR": str(tmp_path / "tmp"), **{name: str(value) for name, value in environ.items()}}
        return Training(start(TRAINING, runs, step, memory_calls, env=env), step)

    return begin


def logged(count: int) -> dict[int, dict[str, Any]]:
    return {step: {"n": step, "loss": 1 / (step + 1)} for step in range(count)}


def same(rows: Mapping[int, Any], expected: Mapping[int, Any]) -> bool:
    """Whether the rows are those; pytest would write both out in full."""
    return rows == expected


def journals(root: Path) -> list[Path]:
    return sorted(root.rglob("journal-*"))


# Slow.


def test_an_fsync_that_takes_five_seconds_is_not_felt(faultfs: MountFaults, train: Train) -> None:
    fs = faultfs()
    training = train(fs.path)
    fs.delay("fsync", 5.0)
    training.log(10)
    fs.wait_blocked(op="fsync")
    assert training.log(10_000) < 1e-3
    assert fs.blocked("fsync") == 1  # all that time
    fs.lift()
    assert training.finish() == []
    assert same(curve_of(Runs(fs.path), "a1"), logged(training.step))


READER = """
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[2]}?mode=ro", uri=True)
cursor = db.execute("SELECT seq FROM call")  # a row was asked for, and not the last: the lock is held
cursor.fetchone()
print("reading", flush=True)
sys.stdin.readline()
"""


def test_a_reader_that_holds_its_lock_is_not_felt(faultfs: MountFaults, train: Train, start: Start) -> None:
    fs = faultfs()
    training = train(fs.path)
    training.log(100)
    assert training.flush() is None
    reader = start(READER, fs.path / "a1" / "run.db")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    training.log(10)
    assert training.flush(2.0) is not None  # it does hold up the writer
    assert training.log(10_000) < 1e-3
    reader.communicate("done\n", timeout=DEADLINE_S)
    assert training.finish() == []
    assert same(curve_of(Runs(fs.path), "a1"), logged(training.step))


# Hanging.


def test_a_filesystem_that_hangs_does_not_stop_a_minute_of_training(
    faultfs: MountFaults, train: Train, tmp_path: Path
) -> None:
    fs = faultfs()
    training = train(fs.path)
    training.log(10)
    assert training.flush() is None
    fs.hang()
    training.log(1)
    fs.wait_blocked()
    assert training.log(60_000) < 1e-3
    (at,) = {path.parent for path in journals(tmp_path / "tmp")}
    assert at.parent.name.startswith("offline_tracker")
    assert at.name.startswith("a1-")
    fs.lift()
    assert training.finish() == []
    assert same(curve_of(Runs(fs.path), "a1"), logged(training.step))
    assert journals(tmp_path) == []


def test_a_training_that_is_killed_while_its_filesystem_hangs_has_lost_nothing(
    faultfs: MountFaults, train: Train
) -> None:
    fs = faultfs()
    training = train(fs.path)
    training.log(10)
    assert training.flush() is None
    fs.hang("write")
    training.log(5_000)
    fs.wait_blocked(op="write")
    training.kill()
    fs.lift()
    assert same(curve_of(Runs(fs.path), "a1"), logged(training.step))
    training = train(fs.path, training.step)
    training.log(10)
    training.finish()
    assert same(curve_of(Runs(fs.path), "a1"), logged(training.step))


# Failing.

FAILURES: dict[str, tuple[str, ...]] = {
    "ENOSPC": ("write", "create", "mkdir", "link"),
    "EDQUOT": ("write", "create", "mkdir", "link", "fsync"),
    "EIO": ("write", "read", "fsync", "setattr"),
    "ESTALE": ("write", "read", "getattr", "setattr", "fsync", "open", "open_write"),
    "EROFS": CHANGES,
}
"""What fails on a disk that is full, over quota, broken, on a server that restarted, and read-only."""

PLACES = {"run.db": ["/runs/*"], "journal": ["/scratch/*"], "both": ["/runs/*", "/scratch/*"]}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", FAILURES)
def test_a_filesystem_that_fails_costs_a_warning_and_no_call(
    name: str, where: str, faultfs: MountFaults, train: Train
) -> None:
    fs = faultfs()
    runs, scratch = fs.path / "runs", fs.path / "scratch"

    def fail() -> None:
        for glob in PLACES[where]:
            fs.fail(FAILURES[name], getattr(errno, name), glob)

    training = train(runs, OFFLINE_TRACKER_SCRATCH=scratch)
    training.log(500)
    assert training.flush() is None
    fail()
    training.log(1)
    unread = "read" in FAILURES[name]  # what the failing journal holds can't be folded in either
    if where != "journal" or not unread:
        assert (training.flush(0.3) is None) == (where == "journal")
    training.log(500)  # behind a writer that has met the failure
    fs.lift()
    assert training.flush() is None
    assert same(curve_of(Runs(runs), "a1"), logged(training.step))
    fail()
    training.log(500)
    warnings = training.kill()
    assert 1 <= len(warnings) <= 1 + (where == "both" or (where == "journal" and unread)), warnings
    fs.lift()
    if where == "run.db":
        assert same(curve_of(Runs(runs), "a1"), logged(training.step))
    training = train(runs, training.step, OFFLINE_TRACKER_SCRATCH=scratch)
    training.log(50)
    assert training.finish() == []
    assert same(curve_of(Runs(runs), "a1"), logged(training.step))
    assert journals(fs.backing.parent) == []


def test_a_short_write_tears_one_record_which_is_kept_elsewhere(
    faultfs: MountFaults, train: Train, tmp_path: Path
) -> None:
    fs = faultfs()
    runs, scratch = fs.path / "runs", fs.path / "scratch"
    training = train(runs, OFFLINE_TRACKER_SCRATCH=scratch)
    training.log(10)
    fs.hang("write", "/runs/*")  # else they would be in run.db before they are read
    fs.full_after(20, "/scratch/*")
    training.log(10)
    fs.wait_blocked(op="write")
    assert len(training.kill()) == 1
    fs.lift()
    torn = journal.parse(journals(fs.backing / "scratch")[0].read_bytes())
    assert len(torn[0]) == 10
    assert journals(fs.backing / "scratch")[0].stat().st_size == torn[1] + 20
    training = train(runs, training.step, OFFLINE_TRACKER_SCRATCH=scratch)
    training.log(10)
    training.finish()
    assert same(curve_of(Runs(runs), "a1"), logged(training.step))
    assert journals(tmp_path) == []


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return filler


@pytest.mark.parametrize("spill", ["elsewhere", "full too"])
def test_a_disk_that_is_really_full_takes_all_when_there_is_room(spill: str, tmpfs: MountTmpfs, train: Train) -> None:
    disk = tmpfs(size_bytes=8 << 20)
    environ = {"TMPDIR": disk} if spill == "full too" else {}
    training = train(disk / "runs", **environ)
    training.log(100)
    assert training.flush() is None
    filler = fill(disk)
    assert training.log(3_000) < 1e-3
    assert training.flush(0.3) is not None
    filler.unlink()
    assert training.flush() is None
    training.log(100)
    warnings = training.finish()
    assert 1 <= len(warnings) <= 2 + (spill == "full too"), warnings
    assert same(curve_of(Runs(disk / "runs"), "a1"), logged(training.step))
    assert journals(disk) == []


def test_a_disk_that_stays_full_is_told_at_the_end_and_the_next_attempt_brings_the_calls(
    tmpfs: MountTmpfs, train: Train, tmp_path: Path
) -> None:
    disk = tmpfs(size_bytes=2 << 20)
    training = train(disk / "runs")
    training.log(100)
    filler = fill(disk)
    training.log(3_000)
    assert 1 <= len(training.finish()) <= 3
    filler.unlink()
    training = train(disk / "runs", training.step)
    training.log(10)
    assert training.finish() == []
    assert same(curve_of(Runs(disk / "runs"), "a1"), logged(training.step))
    assert journals(tmp_path) == []


def test_what_had_to_be_given_up_is_a_gap_that_is_told(tmpfs: MountTmpfs, train: Train) -> None:
    disk = tmpfs(size_bytes=4 << 20)
    runs = disk / "runs"
    training = train(runs, memory_calls=1000, TMPDIR=disk)
    training.log(100)
    assert training.flush() is None
    filler = fill(disk)
    training.log(10_000)
    filler.unlink()
    assert training.flush() is None
    training.log(100)
    warnings = training.finish()
    assert 1 <= len(warnings) <= 4, warnings
    rows = curve_of(Runs(runs), "a1")
    everything = logged(training.step)
    assert all(everything[step] == values for step, values in rows.items())
    kept = [step for step in rows if 100 <= step < 10_100]
    assert 500 <= len(kept) <= 1001
    assert kept[0] < 1000  # what is kept spans the whole time
    assert kept[-1] > 9000
    lost = len(everything) - len(rows)
    for command in (["ls", runs], ["show", runs / "a1"], ["doctor", runs]):
        told = subprocess.run([TRACKER, *command], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
        assert str(lost) in told.stdout.replace(",", ""), command


# From the beginning.


@pytest.fixture(params=["a read-only filesystem", "a folder without permission", "a run on what became read-only"])
def unwritable(
    request: pytest.FixtureRequest, faultfs: MountFaults, tmpfs: MountTmpfs, train: Train
) -> Iterator[tuple[Path, FaultFS | None, int]]:
    """A runs folder that can't be written, what made it so, and how many calls are in it already."""
    if request.param == "a read-only filesystem":
        yield tmpfs(read_only=True) / "runs", None, 0
        return
    fs = faultfs()
    before = 0
    if request.param == "a run on what became read-only":
        training = train(fs.path)
        training.log(10)
        training.finish()
        before = training.step
        fs.fail(CHANGES, errno.EROFS)
    else:
        fs.fail(CHANGES, errno.EACCES)
    yield fs.path, fs, before


Unwritable = tuple[Path, FaultFS | None, int]


def test_init_on_an_unwritable_folder_says_so_at_once_in_one_line(unwritable: Unwritable, train: Train) -> None:
    runs, _, _ = unwritable
    begun = time.monotonic()
    training = train(runs)
    assert time.monotonic() - begun < 10
    assert training.refused == "StoreError"
    assert str(runs) in training.said
    assert "\n" not in training.said


def test_init_on_an_unwritable_folder_trains_on_with_the_spill_alone_where_that_is_wanted(
    unwritable: Unwritable, train: Train, tmp_path: Path
) -> None:
    runs, fs, before = unwritable
    training = train(runs, before, OFFLINE_TRACKER_ON_ERROR="warn")
    assert training.refused is None
    training.log(500)
    warnings = training.finish()
    assert 1 <= len(warnings) <= 2, warnings
    (away,) = (path.parent.parent for path in (tmp_path / "tmp").rglob("run.db"))
    assert same(curve_of(Runs(away), "a1"), logged(training.step))  # with what it held before, where that can be read
    if fs is not None:
        fs.lift()
        training = train(runs, training.step)
        training.log(10)
        training.finish()
        assert same(curve_of(Runs(runs), "a1"), logged(training.step))
        assert list(away.glob("*")) == []
        assert journals(tmp_path) == []


def test_a_folder_that_is_unwritable_only_at_init_has_all_in_the_end(
    faultfs: MountFaults, train: Train, tmp_path: Path
) -> None:
    fs = faultfs()
    fs.fail(CHANGES, errno.EROFS)
    training = train(fs.path, OFFLINE_TRACKER_ON_ERROR="warn")
    training.log(500)
    fs.lift()
    assert training.flush() is None
    training.log(10)
    assert len(training.finish()) == 1
    assert same(curve_of(Runs(fs.path), "a1"), logged(training.step))
    assert journals(tmp_path) == []
