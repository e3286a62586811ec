"""Every way in which a process ends, at every speed, with the journal in either place: what log() returned for is there."""

from __future__ import annotations

import inspect
import json
import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from offline_tracker import journal
from offline_tracker.host import Holder
from offline_tracker.store import Runs

from .conftest import Start, curve_of
from .doubles.server import wait_until

TRACKER = str(Path(sys.executable).parent / "tracker")

ENDS = {
    "SIGKILL": (-signal.SIGKILL, "crashed"),
    "SIGTERM": (-signal.SIGTERM, "crashed"),
    "SIGINT": (-signal.SIGINT, "failed"),
    "SIGSEGV": (-signal.SIGSEGV, "crashed"),
    "abort": (-signal.SIGABRT, "crashed"),
    "_exit": (0, "crashed"),
    "raise": (1, "failed"),
    "exit": (3, "finished"),  # sys.exit(3), of which atexit is not told the status
    "return": (0, "finished"),
}
"""How a training ends, the exit status that its parent sees, and the state that its run is left in."""

SPEEDS = {"full speed": (0.0, (3, 2000)), "100 a second": (0.01, (90,)), "5 a second": (0.2, (5,))}
"""Seconds between two calls, and the numbers of calls after which the end comes."""


def values(number: int) -> dict[str, Any]:
    odd = (math.nan, math.inf, -math.inf, -0.0, True, None, 2**70, "text", 5e-324, 2**53 + 1, False)
    return {"n": number, "x": number / 7, "in": {"deep": {"odd": odd[number % len(odd)]}}}


class Cell(NamedTuple):
    """One training of the matrix; *scratch* is "" where the journal lies in the run's folder."""

    id: str
    how: str
    pause_s: float
    calls: int
    scratch: str
    resume: str | None = None


def cells(speed: str, scratch: Path) -> list[Cell]:
    pause_s, counts = SPEEDS[speed]
    return [
        Cell(f"{how}-{calls}-{'scratch' if place else 'run'}", how, pause_s, calls, place)
        for how in ENDS
        for calls in counts
        for place in ("", str(scratch))
    ]


# All trainings of a test run side by side, forked from one process that has imported all they need: importing would take
# most of the time. They tell what returned by a counter each in memory that they share with a file, which outlives them
# as the journal does, and costs the loop next to nothing. By it the parent sees when a signal is due.
TRAIN = (
    "import ctypes, json, math, mmap, os, signal, sys, time\nfrom typing import Any\n"
    + inspect.getsource(values)
    + """
import offline_tracker as wandb
from offline_tracker import migrations

returned = memoryview(mmap.mmap(os.open(sys.argv[2], os.O_RDWR), 0)).cast("q")
cells = json.loads(sys.argv[3])
running = {}
for slot, (run_id, how, pause_s, calls, scratch, resume) in enumerate(cells):
    pid = os.fork()
    if pid == 0:
        break
    running[pid] = slot
else:
    statuses, told = [None] * len(cells), set()
    while running:
        for pid, slot in list(running.items()):
            _, how, _, calls, *_ = cells[slot]
            if how.startswith("SIG") and returned[slot] >= calls and slot not in told:
                os.kill(pid, getattr(signal, how))
                told.add(slot)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[slot] = os.waitstatus_to_exitcode(status)
                del running[pid]
        time.sleep(0.001)
    print(json.dumps(statuses), flush=True)
    os._exit(0)

ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with its parent
signal.signal(signal.SIGINT, signal.default_int_handler)
if scratch:
    os.environ["OFFLINE_TRACKER_SCRATCH"] = scratch
run = wandb.init(dir=sys.argv[1], id=run_id, resume=resume)
for number in range(run.step, 10**7):
    wandb.log(values(number))
    returned[slot] = number + 1
    if number + 1 >= calls and not how.startswith("SIG"):
        break
    if pause_s:
        time.sleep(pause_s)
if how == "raise":
    raise ValueError("boom")
elif how == "exit":
    sys.exit(3)
elif how == "_exit":
    os._exit(0)
elif how == "abort":
    os.abort()
"""
)


@pytest.fixture
def train(start: Start, tmp_path: Path) -> Callable[[list[Cell]], tuple[list[int], list[int]]]:
    """Run trainings to their ends, side by side; how many calls of each returned, and the exit statuses."""

    def run(trainings: list[Cell]) -> tuple[list[int], list[int]]:
        path = tmp_path / "returned"
        path.write_bytes(bytes(8 * len(trainings)))
        process = start(TRAIN, path, json.dumps(trainings))
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return memoryview(path.read_bytes()).cast("q").tolist(), json.loads(out)

    return run


def exported(runs: Path, *options: str) -> dict[str, list[dict[str, Any]]]:
    """What ``tracker export`` says, run by run."""
    command = [TRACKER, "export", str(runs), "--format", "jsonl", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        found.setdefault(row["run"], []).append(row)
    return found


SHOWN = {repr(math.nan): "NaN", repr(math.inf): "Infinity", repr(-math.inf): "-Infinity"}


def expected(number: int) -> str:
    """A row's values as export writes them, -0.0 and 0, True and 1 told apart."""
    odd = values(number)["in"]["deep"]["odd"]
    return repr({"n": number, "x": number / 7, "in.deep.odd": SHOWN.get(repr(odd), odd)})


def check(rows: list[dict[str, Any]]) -> None:
    """Each step once, from 0 on without a gap, with exactly what was logged."""
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert [repr(row["metrics"]) for row in rows] == [expected(number) for number in range(len(rows))]


@pytest.mark.parametrize("speed", SPEEDS)
def test_no_call_that_returned_is_lost_before_or_after_a_resume(
    speed: str, runs: Runs, train: Callable[[list[Cell]], tuple[list[int], list[int]]], tmp_path: Path
) -> None:
    matrix = cells(speed, tmp_path / "scratch")
    returned, statuses = train(matrix)
    assert dict(zip(matrix, statuses, strict=True)) == {cell: ENDS[cell.how][0] for cell in matrix}
    for cell in matrix:
        left = journal.leftovers(runs.folder(cell.id))
        assert bool(left) == (not cell.scratch and ENDS[cell.how][1] == "crashed"), cell
        with runs.read(cell.id) as reader:
            assert reader.state == ENDS[cell.how][1], cell

    before = exported(runs.path)
    for cell, count in zip(matrix, returned, strict=True):
        assert count >= cell.calls
        # One more may have been journalled by a log() that had no time to return.
        assert count <= len(before[cell.id]) <= count + 1, cell
        check(before[cell.id])

    again = [cell._replace(how="return", calls=len(before[cell.id]) + 5, pause_s=0.0, resume="must") for cell in matrix]
    ends, statuses = train(again)
    assert (ends, statuses) == ([cell.calls for cell in again], [0] * len(again))
    after = exported(runs.path)
    for cell in again:
        assert len(after[cell.id]) == cell.calls
        check(after[cell.id])
        assert after[cell.id][: len(before[cell.id])] == before[cell.id]
        with runs.read(cell.id) as reader:
            every = [call.seq for call in reader.calls([(1, reader.last_seq, None)])]
            assert every == list(range(1, cell.calls + 1)), cell
            assert (len(reader.attempts), reader.state) == (2, "finished")
    assert not list(tmp_path.rglob("journal-*"))


# A shared runs folder, a journal on one node's own disk, and a reader on another node.

TWO_PARTS = (
    "import math, os, signal, sys\nfrom typing import Any\n"
    + inspect.getsource(values)
    + """
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1", resume="allow")
for number in range(run.step, run.step + 20):
    wandb.log(values(number))
sys.stdin.readline()
for number in range(run.step, run.step + 600):
    wandb.log({**values(number), "only here": number})
os.kill(os.getpid(), signal.SIGKILL)
"""
)


@pytest.fixture
def died(runs: Runs, start: Start, tmp_path: Path) -> Path:
    """A run killed at full speed, with 20 calls in run.db and 600 more in its journal in scratch; the scratch folder."""
    scratch = tmp_path / "scratch"
    process = start(TWO_PARTS, env={"OFFLINE_TRACKER_SCRATCH": str(scratch)})
    # Nothing but time brings them there, about a second at most: so far behind is who can't read the journal.
    wait_until(lambda: "a1" in runs and len(curve_of(runs, "a1")) == 20)
    with closing(sqlite3.connect(runs.folder("a1") / "run.db")) as reader:
        reader.execute("BEGIN")  # while it reads, nothing can be committed
        assert reader.execute("SELECT count(*) FROM call").fetchone() == (20,)
        process.communicate("go on\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(curve_of(runs, "a1")) == 620
    return scratch


@contextmanager
def from_another_host(runs: Runs, scratch: Path) -> Iterator[None]:
    """See the runs as another host does a while later: the attempts are of a machine whose scratch is not here."""
    path = runs.folder("a1") / "run.db"
    away = scratch.with_name("on node7")
    here = Holder.current()
    with closing(sqlite3.connect(path)) as db, db:
        attempts = db.execute("SELECT id, pid FROM attempt").fetchall()
        db.execute("UPDATE attempt SET host = 'node7', boot = 'its own', heartbeat_at = heartbeat_at - 3600")
    scratch.rename(away)
    yield
    away.rename(scratch)
    with closing(sqlite3.connect(path)) as db, db:
        for number, _ in attempts:
            db.execute("UPDATE attempt SET host = ?, boot = ? WHERE id = ?", (here.host, here.boot, number))


def test_another_host_sees_what_is_in_the_store(runs: Runs, died: Path) -> None:
    with from_another_host(runs, died):
        rows = exported(runs.path)["a1"]
        assert len(rows) == 20
        check(rows)
        with runs.read("a1") as reader:
            assert reader.state == "crashed"
    assert len(exported(runs.path)["a1"]) == 620


def test_another_host_is_told_where_the_rest_may_be(runs: Runs, died: Path) -> None:
    def shown(*options: str) -> str:
        command = [TRACKER, "show", "a1", "--runs", str(runs.path), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    folder = str(next(died.rglob("journal-*")).parent)
    assert folder not in shown()  # here it is read: nothing is missing
    with from_another_host(runs, died):
        text = shown()
        assert "node7" in text and folder in text
        (attempt,) = json.loads(shown("--json"))["attempts"]
        assert attempt["journal"] == folder


def test_a_journal_that_comes_back_behind_the_next_attempt_changes_none_of_its_calls(
    runs: Runs, died: Path, start: Start, tmp_path: Path
) -> None:
    with from_another_host(runs, died):
        process = start(TWO_PARTS, env={"OFFLINE_TRACKER_SCRATCH": str(tmp_path / "scratch of node8")})
        process.communicate("go on\n", timeout=60)
        rows = exported(runs.path)["a1"]
    # The first node can read its journal again. What is in there beyond the resume holds no more.
    assert exported(runs.path)["a1"] == rows
