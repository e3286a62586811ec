"""What the tests of the way to a remote share: runs to send, the two stand-ins, and syncs in processes of their own."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import offline_tracker
from offline_tracker import curve
from offline_tracker.curve import Row
from offline_tracker.store import RunReader, Runs
from tests.doubles.server import Double, Request, wait_until
from tests.doubles.swanlab import SwanlabServer
from tests.doubles.wandb import WandbServer

ROOT = Path(__file__).parents[1]
_EMPTY_OF_WANDB = re.compile(r"tmp\w+wandb-(artifacts|media)").fullmatch
REMOTES = ("wandb", "swanlab")

_SYNC = """
import json, sys
from offline_tracker.errors import TrackerError, UsageError
from offline_tracker.sync import sync
status = 0
for options in map(json.loads, sys.argv[1:] or sys.stdin):
    try:
        results = sync(**options)
        status = 0 if all(result.ok for result in results) else 1
        print(json.dumps([result.as_dict() for result in results]), flush=True)
    except TrackerError as error:
        status = 2 if isinstance(error, UsageError) else 1
        print(error, file=sys.stderr)
        if len(sys.argv) == 1:
            print(json.dumps(str(error)), flush=True)
sys.exit(status)
"""
"""Syncs with the options in its argument; without one, a sync for each line of its input, as `--watch` does."""

TRAIN = """
import math, os, sys
import offline_tracker as wandb
folder, first, last, every, end = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
run = wandb.init(project="p", id="a1", resume="allow" if first == 0 else "must", dir=folder, name="a name",
                 config={"lr": 0.1, "model": {"dim": 8}}, tags=["x", "y"], notes="a note", group="g", job_type="train")
for step in range(first, last):
    wandb.log({"loss": 1 / (step + 1) + (end == "finish"), "learning_rate": (1 + math.cos(step / 100)) / 2})
    if step % every == every - 1:
        run.id  # as a trainer does when it saves a checkpoint
if end == "finish":
    wandb.finish()
elif end == "flush":
    run.flush()
os.kill(os.getpid(), 9)
"""
"""MiniMind's way of logging: no steps; arguments: runs folder, first step, last + 1, checkpoint every, how it ends."""


@dataclass
class Outcome:
    """What a sync said: its exit status, a dict a result, and all of its output."""

    status: int
    results: list[dict[str, Any]]
    said: str

    @property
    def result(self) -> dict[str, Any]:
        [result] = self.results
        return result

    @property
    def reason(self) -> str:
        """Why it failed: of its one result, or of the sync as a whole."""
        return str(self.result["reason"]) if self.results else self.said


class House:
    """
    A runs folder, both stand-ins, and a home and a temp folder of their own for the syncs.

    Attributes:
        env: what the syncs run in; a test may change it.
    """

    def __init__(self, root: Path, wandb: WandbServer, swanlab: SwanlabServer) -> None:
        self.runs = Runs(root / "runs")
        self.wandb, self.swanlab = wandb, swanlab
        self.home, self.tmp = root / "home", root / "t"
        self.home.mkdir()
        self.tmp.mkdir()
        self.env = {
            **os.environ,
            **wandb.env(),
            **swanlab.env(),
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "1",
            "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "1",
            "WANDB_X_GRAPHQL_RETRY_MAX": "2",
        }
        self._started: list[subprocess.Popen[str]] = []
        self._again: subprocess.Popen[str] | None = None

    def double(self, remote: str) -> Any:
        return {"wandb": self.wandb, "swanlab": self.swanlab}[remote]

    def start(self, to: str | Sequence[str] = (), **options: Any) -> subprocess.Popen[str]:
        """Begin a sync; *settle_s* is short unless it is given, and the runs are named, so that the remotes are asked."""
        named = [to] if isinstance(to, str) else list(to)
        options = {"runs": str(self.runs.path), "to": named, "settle_s": 0.5, **options}
        options.setdefault("only", Runs(options["runs"]).ids())
        process = subprocess.Popen(
            [sys.executable, "-c", _SYNC, json.dumps(options)],
            cwd=self.home,
            env={**self.env, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> Outcome:
        out, errors = process.communicate(timeout=120)
        results = json.loads(out) if out.startswith("[") else []
        return Outcome(process.returncode, results, out + errors)

    def sync(self, to: str | Sequence[str] = (), *, status: int = 0, **options: Any) -> Outcome:
        """Sync to the end, which must be with *status*."""
        outcome = self.end(self.start(to, **options))
        assert outcome.status == status, outcome.said
        assert "Traceback" not in outcome.said, outcome.said
        return outcome

    def again(self, to: str, *, status: int | tuple[int, ...] = 0, within_s: float = 120.0, **options: Any) -> Outcome:
        """Sync as `sync` does, in one process for all calls: to begin one each time takes most of a story's time."""
        if self._again is None:
            pipe = subprocess.PIPE
            self._again = subprocess.Popen(
                [sys.executable, "-c", _SYNC],
                cwd=self.home,
                env={**self.env, "PYTHONPATH": str(ROOT)},
                stdin=pipe,
                stdout=pipe,
                text=True,
            )
            self._started.append(self._again)
        assert self._again.stdin is not None and self._again.stdout is not None
        # Named, so that the remote is asked also where no file has changed.
        options = {"runs": str(self.runs.path), "to": [to], "only": ["a1"], "settle_s": 0.5, **options}
        print(json.dumps(options), file=self._again.stdin, flush=True)
        assert select.select([self._again.stdout], [], [], within_s)[0], f"no answer to {options}"
        said = self._again.stdout.readline()
        answer = json.loads(said)
        failed = isinstance(answer, str) or any(result["status"] == "failed" for result in answer)
        outcome = Outcome(int(failed), answer if isinstance(answer, list) else [], said)
        assert outcome.status in (status if isinstance(status, tuple) else (status,)), outcome.said
        return outcome

    def end_again(self) -> None:
        """End the process of `again`, which must be glad to."""
        if self._again is not None:
            self._again.communicate(timeout=60)
            assert self._again.returncode in (0, 1)
            self._again = None

    def sync_killed_at(self, to: str, match: str, skip: int, applied: bool, **options: Any) -> bool:
        """
        Begin a sync and SIGKILL it when request number *skip* with *match* arrives; False if it ended before that.

        Args:
            applied: the request has its effect all the same; else the connection is cut.
        """
        begun: list[subprocess.Popen[str]] = []
        ready = threading.Event()

        def kill(_: Request) -> None:
            assert ready.wait(10)
            begun[0].send_signal(signal.SIGKILL)

        double: Double = self.double(to)
        drop: Literal["before", "after"] = "after" if applied else "before"
        double.fault(match, skip=skip, drop=drop, hook=kill)
        begun.append(self.start(to, **options))
        ready.set()
        outcome = self.end(begun[0])
        double.clear_faults()
        assert outcome.status in (-signal.SIGKILL, 0), outcome.said
        return outcome.status != 0

    def train(self, *args: object) -> None:
        """Run `TRAIN` in a process of its own until it is gone."""
        command = [sys.executable, "-c", TRAIN, str(self.runs.path), *map(str, args)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=self.home, timeout=60)
        assert done.returncode == -signal.SIGKILL

    def local(self, run_id: str) -> list[Row]:
        with self.runs.read(run_id) as reader:
            return rows_of(reader)

    def points(self, run_id: str, metric: str) -> list[tuple[int, Any]]:
        """The local curve of one metric."""
        return [(row.step, row.values[metric]) for row in self.local(run_id) if metric in row.values]

    def check(self, remote: str, run_id: str, expected: Iterable[tuple[int, Any]], metric: str = "loss") -> None:
        """Assert that a remote holds exactly these points of one metric, in order, and that the way there was clean."""
        double = self.double(remote)
        assert double.points(run_id, metric) == list(expected)
        assert double.violations == []
        assert double.unknown == []

    def living(self) -> list[str]:
        """The command lines of processes that a sync of ours started, or that this one is."""
        found = []
        mark = f"HOME={self.home}".encode()
        for path in Path("/proc").iterdir():
            try:
                if path.name.isdigit() and mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it has ended meanwhile, or is not ours to look at
        return [words for words in found if words]

    def check_nothing_left(self) -> None:
        """Assert that no process of a sync lives on and that the temp folder is empty."""
        self.end_again()
        wait_until(lambda: not self.living(), 15, f"the end of {self.living()}")
        # wandb makes two empty folders when it is imported, which stay if the process is killed.
        left = [str(path.relative_to(self.tmp)) for path in self.tmp.rglob("*") if not _EMPTY_OF_WANDB(path.name)]
        assert left == [], left

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@contextmanager
def all_at_once(
    home: Path, runs: Path, stories: Mapping[str, Callable[[House], None]], threads: int = 4
) -> Iterator[dict[str, Future[None]]]:
    """
    Begin some stories, each in a house of its own with a copy of *runs*, and give for each what waits for its end.

    Nearly all that a sync to W&B does is wait, so one after the other they would take several times as long. A story
    must not use the run of this process: others do at the same time.
    """

    def tell(number: int, story: Callable[[House], None]) -> None:
        root = home / str(number)
        shutil.copytree(runs, root / "runs")
        with WandbServer() as wandb, SwanlabServer() as swanlab, closing(House(root, wandb, swanlab)) as house:
            story(house)

    with ThreadPoolExecutor(threads) as pool:
        told = {name: pool.submit(tell, number, story) for number, (name, story) in enumerate(stories.items())}
        try:
            yield told
        finally:
            pool.shutdown(cancel_futures=True)


def rows_of(reader: RunReader) -> list[Row]:
    spans = curve.live_spans(reader.rewinds, reader.last_seq)
    return list(curve.rows(reader.calls(spans)))


def loss(step: int) -> float:
    return 1 / (step + 1)


def losses(steps: Iterable[int]) -> list[tuple[int, float]]:
    return [(step, loss(step)) for step in steps]


def begin(runs: Runs, run_id: str = "a1", steps: Iterable[int] = range(20), **init: Any) -> Any:
    """Begin a run in this process, log `loss` at *steps* and return it once they are in run.db."""
    run = offline_tracker.init(**{"project": "p", "id": run_id, "dir": runs.path, "reinit": True, **init})
    add(run, steps)
    return run


def add(run: Any, steps: Iterable[int]) -> None:
    for step in steps:
        run.log({"loss": loss(step)}, step=step, commit=True)
    run.flush()


def made(runs: Runs, run_id: str = "a1", steps: Iterable[int] = range(20), **init: Any) -> None:
    """Make a finished run."""
    begin(runs, run_id, steps, **init)
    offline_tracker.finish()


def hashes(folder: Path) -> dict[str, str]:
    """What a folder holds, file by file, with the time of the last change."""
    return {
        str(path.relative_to(folder)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, with NaN equal to itself and True not to 1."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other
