"""What the tests of the way to a remote share: runs to send, the two stand-ins, and syncs in processes of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
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
from queue import SimpleQueue
from typing import IO, Any, Literal

import offline_tracker
from offline_tracker import curve
from offline_tracker.curve import Row
from offline_tracker.store import RunReader, Runs
from tests.doubles.server import Double, Request, wait_until
from tests.doubles.swanlab import SwanlabServer
from tests.doubles.wandb import WandbServer

ROOT = Path(__file__).parents[1]
REMOTES = ("wandb", "swanlab")

_SYNC = """
import json, sys
from offline_tracker.errors import TrackerError, UsageError
from offline_tracker.sync import sync
try:
    results = sync(**json.loads(sys.argv[1]))
except TrackerError as error:
    print(error, file=sys.stderr)
    sys.exit(2 if isinstance(error, UsageError) else 1)
print(json.dumps([result.as_dict() for result in results]))
sys.exit(0 if all(result.ok for result in results) else 1)
"""

_SYNCS = """
import contextlib, importlib, json, os, sys
import offline_tracker.sync.engine
program = sys.argv[1]
sys.stderr = sys.stdout
for line in sys.stdin:
    forks, options = json.loads(line)
    for name in options["to"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.argv = ["", json.dumps(options)]
    pid = os.fork() if forks else 0
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    else:
        try:
            exec(program)
        except SystemExit as end:
            if forks:
                raise
            status = end.code
    print(json.dumps({"status": status}), flush=True)
"""
"""A sync for each line of its input: the remotes' clients, most of a sync's own time, are loaded only once."""

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
        self._forks: subprocess.Popen[str] | None = None
        self._stays = False

    def double(self, remote: str) -> Any:
        return {"wandb": self.wandb, "swanlab": self.swanlab}[remote]

    def start(self, to: str | Sequence[str] = (), **options: Any) -> subprocess.Popen[str]:
        """Begin a sync; *settle_s* is short unless it is given, and the runs are named, so that the remotes are asked."""
        process = subprocess.Popen(
            [sys.executable, "-c", _SYNC, json.dumps(self._options(to, options))],
            cwd=self.home,
            env={**self.env, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def _options(self, to: str | Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
        named = [to] if isinstance(to, str) else list(to)
        options = {"runs": str(self.runs.path), "to": named, "settle_s": 0.5, **options}
        return {"only": Runs(options["runs"]).ids(), **options}

    def end(self, process: subprocess.Popen[str]) -> Outcome:
        out, errors = process.communicate(timeout=120)
        results = json.loads(out) if out.startswith("[") else []
        return Outcome(process.returncode, results, out + errors)

    def sync(self, to: str | Sequence[str] = (), *, status: int = 0, **options: Any) -> Outcome:
        """Sync to the end, which must be with *status*; with `begin`, which is the faster."""
        self.begin(to, **options)
        outcome = self.ended()
        assert outcome.status == status, outcome.said
        assert "Traceback" not in outcome.said, outcome.said
        return outcome

    def begin(self, to: str | Sequence[str], *, fork: bool = True, **options: Any) -> None:
        """Begin a sync as `start` does, but in a fork of one process that has loaded the clients, or in that itself."""
        if self._forks is not None and self._forks_env != self.env:
            self._end_forks()
        if self._forks is None:
            self._forks_env = dict(self.env)
            self._forks = subprocess.Popen(
                [sys.executable, "-c", _SYNCS, _SYNC],
                cwd=self.home,
                env={**self.env, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._lines: SimpleQueue[str] = SimpleQueue()
            self._reader = threading.Thread(target=_put_lines, args=(self._forks.stdout, self._lines))
            self._reader.start()
        assert self._forks.stdin is not None
        print(json.dumps([fork, self._options(to, options)]), file=self._forks.stdin, flush=True)

    def ended(self, within_s: float = 120.0) -> Outcome:
        """Wait for the end of what `begin` began."""
        said, results = "", []
        while True:
            line = self._line(within_s)
            if isinstance(line, dict) and "status" in line:
                return Outcome(line["status"], results, said)
            said += str(line)
            if isinstance(line, list):
                results = line

    def _line(self, within_s: float) -> Any:
        line = self._lines.get(timeout=within_s)
        try:
            return json.loads(line)
        except ValueError:
            return line

    def again(
        self, to: str, *, status: int | tuple[int, ...] = 0, within_s: float = 120.0, fork: bool = False, **options: Any
    ) -> Outcome:
        """Sync as `sync` does, but with `begin`, and by default one after the other in one process, as `--watch` does."""
        self._stays = self._stays or not fork
        self.begin(to, fork=fork, **options)
        outcome = self.ended(within_s)
        assert outcome.status in (status if isinstance(status, tuple) else (status,)), outcome.said
        assert "Traceback" not in outcome.said, outcome.said
        return outcome

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
        """The command lines of the syncs that go on here, and of all processes that they started."""
        return [words for words in self._ours().values() if words]

    def _ours(self) -> dict[int, str]:
        found = {}
        forks = self._forks.pid if self._forks is not None else 0
        mark = f"HOME={self.home}".encode()
        for path in Path("/proc").iterdir():
            try:
                if (
                    path.name.isdigit()
                    and path.name != str(forks)
                    and mark in (path / "environ").read_bytes().split(b"\0")
                ):
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended meanwhile, or is not ours to look at
        return found

    def kill_all(self) -> None:
        """SIGKILL the sync that `begin` began and all that it started, until nothing of it is left."""
        while numbers := list(self._ours()):
            for number in numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)

    def killed_at(self, to: str, match: str, skip: int, applied: bool, **options: Any) -> bool:
        """Sync as `sync_killed_at` does, with `begin`, and kill all processes at once."""
        done = threading.Event()

        def kill(_: Request) -> None:
            self.kill_all()
            done.set()

        double: Double = self.double(to)
        double.fault(match, skip=skip, drop="after" if applied else "before", hook=kill)
        self.begin(to, **options)
        outcome = self.ended()
        double.clear_faults()
        assert outcome.status in (-signal.SIGKILL, 0), outcome.said
        assert outcome.status == 0 or done.wait(60)  # else what it finds last of all might be the next sync
        return outcome.status != 0

    def check_nothing_left(self) -> None:
        """Assert that no process of a sync lives on, and that the temp folder is empty."""
        if self._stays:  # what a remote's client has started for it ends with it
            self._end_forks()
        wait_until(lambda: not self.living(), 15, f"the end of {self.living()}")
        # The wandb module makes folders when it is imported, and its wandb-core one for a socket: killed, they leave them.
        empty = re.compile(r"wandb-\d|tmp\w+wandb-(media|artifacts)$")
        left = [path for path in self.tmp.rglob("*") if not path.is_socket() and not empty.match(path.name)]
        assert left == [], left

    def _end_forks(self) -> None:
        if self._forks is not None and self._forks.stdin is not None:
            self._forks.stdin.close()
            self._forks.wait(60)
            self._reader.join(60)
            self._forks = None

    def close(self) -> None:
        for number in self._ours():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._end_forks()
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


def _put_lines(lines: IO[str], queue: SimpleQueue[str]) -> None:
    with lines:
        for line in lines:
            queue.put(line)


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
