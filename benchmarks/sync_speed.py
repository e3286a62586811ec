"""
What a sync costs: offline_tracker's and, of the same rows, the clients' own.

The stand-in servers of the tests take the rows, each in a process of its own and new for each measurement; the syncs take
turns, so that a noisy moment of the machine meets all alike. What is timed is the command from start to end: for
offline_tracker that is with reading back, for the others without. A sync that leaves a row missing or double counts as
failed and is named. Ratios are what to look at: the servers, too, run on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
OURS = "offline_tracker"


def row(index: int) -> dict[str, float]:
    return {"loss": 2.0 + 1.0 / (index + 3), "lr": 5e-4 * (1.0 - index / 1e7), "epoch_Time": 60.0 - index / 7e5}


# What a worker does: one job in a process of its own.


def make_ours(folder: Path, runs: int, rows: int, first: int = 0) -> None:
    """Log *rows* rows to each of some runs, from step *first* on; those that are there go on."""
    import offline_tracker

    for number in range(runs):
        run = offline_tracker.init(project="speed", id=f"run{number}", dir=folder, reinit=True)
        for index in range(first, first + rows):
            run.log(row(index), step=index)
            if index % 20_000 == 19_999:
                run.flush()  # a bulk like this is no training; what does not fit into memory would be thinned
        offline_tracker.finish()


def make_wandb(folder: Path, runs: int, rows: int) -> None:
    """Make offline folders with wandb itself."""
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    for number in range(runs):
        run = wandb.init(project="speed", id=f"run{number}", dir=folder, mode="offline", settings=quiet, reinit=True)
        for index in range(rows):
            run.log(row(index))
        run.finish()


def make_wandb_many(folder: Path, runs: int, rows: int) -> None:
    """Make offline folders as wandb does, without its start-up a run."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    from offline_tracker.curve import Row
    from offline_tracker.sync.remotes import Facts
    from offline_tracker.sync.remotes.wandb_log import TransactionLog

    for number in range(runs):
        name = f"run{number}"
        path = folder / "wandb" / f"offline-run-20250101_000000-{name}"
        (path / "files").mkdir(parents=True)
        log = TransactionLog(path / f"run-{name}.wandb", wandb_internal_pb2, wandb.__version__)
        facts = Facts(name, "uuid", name, "speed", "", time.time(), "finished")
        log.run(name, facts)
        log.environment(facts)
        for index in range(rows):
            log.history(Row(index, time.time(), row(index), index), float(index))
        log.summary(row(rows), float(rows))
        log.exit(0, float(rows))
        log.close()


def make_swanlab(folder: Path, runs: int, rows: int) -> None:
    """Make offline folders with swanlab itself."""
    import swanlab

    quiet = swanlab.Settings(
        probe=swanlab.Settings.Probe(monitor=False), terminal=swanlab.Settings.Terminal(proxy_type="none")
    )
    for _ in range(runs):
        swanlab.init(project="speed", mode="offline", logdir=str(folder), settings=quiet)
        for index in range(rows):
            swanlab.log(row(index))
        swanlab.finish()


def serve(remote: str) -> None:
    """Be a stand-in server: say how to reach it, and for each line of input which run has how many points of loss."""
    sys.path.insert(0, str(ROOT))
    from tests.doubles.swanlab import SwanlabServer
    from tests.doubles.wandb import WandbServer

    with WandbServer() if remote == "wandb" else SwanlabServer() as server:
        print(json.dumps(server.env()), flush=True)
        for _ in sys.stdin:
            found = {}
            for name in server.runs:
                steps = [step for step, _ in server.points(name, "loss")]
                found[name] = [len(steps), len(set(steps))]
            print(json.dumps(found), flush=True)


MAKERS = {"ours": make_ours, "wandb": make_wandb, "wandb_many": make_wandb_many, "swanlab": make_swanlab}


# What the main process does.


def environment(home: Path) -> dict[str, str]:
    """Nothing of this machine's keys, settings or jobs reaches a worker."""
    kept = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")
    env = {key: os.environ[key] for key in kept if key in os.environ} | {"HOME": str(home), "TMPDIR": str(home)}
    return env | {"WANDB_ERROR_REPORTING": "false", "PYTHONPATH": str(ROOT)}


def make(home: Path, what: str, folder: Path, **options: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    job = json.dumps([what, str(folder), options])
    done = subprocess.run(
        [sys.executable, __file__, "--make", job], env=environment(home), cwd=home, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"can't make {what}: {done.stderr.strip()[-2000:]}")
    return folder


class Server:
    """A stand-in server in a process of its own; *env* says how to reach it."""

    def __init__(self, remote: str, home: Path) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", remote], env=environment(home), stdin=pipe, stdout=pipe, text=True
        )
        assert self._process.stdout is not None and self._process.stdin is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.env = {**environment(home), **json.loads(self._out.readline())}

    def check(self, runs: int, rows: int) -> None:
        """Raise RuntimeError unless so many runs have so many rows each, none of them twice."""
        self._in.write("\n")
        self._in.flush()
        found = json.loads(self._out.readline())
        wrong = {name: counts for name, counts in found.items() if counts != [rows, rows]}
        if len(found) != runs or wrong:
            some = dict(list(wrong.items())[:3])
            raise RuntimeError(f"{len(found)} of {runs} runs arrived, with rows and steps other than {rows}: {some}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def server(remote: str, home: Path) -> Iterator[Server]:
    one = Server(remote, home)
    try:
        yield one
    finally:
        one.close()


def timed(command: Sequence[object], at: Server, home: Path) -> dict[str, float]:
    """Run a command to its end; seconds, and the peak memory in MiB of it alone and with all that it started."""
    words = [str(word) for word in command]
    begun = time.perf_counter()
    with open(home / "said", "w+") as said:
        process = subprocess.Popen(words, env=at.env, cwd=home, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        peaks = {"alone": 0.0, "all": 0.0}
        ended = threading.Event()
        watcher = threading.Thread(target=_watch_memory, args=(process.pid, peaks, ended))
        watcher.start()
        status = process.wait()
        seconds = time.perf_counter() - begun
        ended.set()
        watcher.join()
        said.seek(0)
        if status:
            raise RuntimeError(f"{' '.join(words[:3])}: status {status}: {said.read()[-1000:]}")
    return {"seconds": seconds, "alone_mib": peaks["alone"], "all_mib": peaks["all"]}


def _watch_memory(pid: int, peaks: dict[str, float], ended: threading.Event) -> None:
    while not ended.wait(0.1):
        children: dict[int, list[int]] = defaultdict(list)
        sizes = {}
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
            except OSError:
                continue  # it has ended
            children[int(fields["PPid"])].append(int(path.parent.name))
            sizes[int(path.parent.name)] = int(fields.get("VmRSS", "0 kB").split()[0]) / 1024
        family = [pid]
        for each in family:
            family += children[each]
        peaks["alone"] = max(peaks["alone"], sizes.get(pid, 0.0))
        peaks["all"] = max(peaks["all"], sum(sizes.get(each, 0.0) for each in family))


Found = dict[str, dict[str, list[dict[str, float]]]]
"""Case to who to one measurement a round."""


class Bench:
    """All cases, in some folder of their own."""

    def __init__(self, args: argparse.Namespace, home: Path) -> None:
        self.args, self.home = args, home
        self.found: Found = defaultdict(lambda: defaultdict(list))
        self.failed: list[str] = []

    def tracker(self, runs: Path, remote: str) -> list[object]:
        return [BIN / "tracker", "sync", runs, "--to", remote, "--jobs", self.args.jobs, "--json"]

    def note(self, case: str, who: str, at: Server, command: Sequence[object], runs: int, rows: int) -> None:
        """Time one command and look at what has arrived."""
        try:
            measured = timed(command, at, self.home)
            at.check(runs, rows)
        except RuntimeError as error:
            if who == OURS:
                raise
            self.failed.append(f"{case}, {who}: {error}")
            return
        self.found[case][who].append(measured)

    def fresh(self, folder: Path) -> Path:
        """Copy a folder, for a sync leaves marks in it."""
        copy = self.home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(folder, copy))

    def one(self) -> None:
        """One run to each remote."""
        rows = self.args.rows
        ours = make(self.home, "ours", self.home / "one", runs=1, rows=rows)
        offline = make(self.home, "wandb", self.home / "one-wandb", runs=1, rows=rows)
        local = make(self.home, "swanlab", self.home / "one-swanlab", runs=1, rows=rows)
        for _ in range(self.args.rounds):
            for remote in ("wandb", "swanlab"):
                with server(remote, self.home) as at:
                    self.note(remote, OURS, at, self.tracker(self.fresh(ours), remote), 1, rows)
            with server("wandb", self.home) as at:
                [folder] = self.fresh(offline).glob("wandb/offline-run-*")
                self.note("wandb", "wandb sync", at, [BIN / "wandb", "sync", folder], 1, rows)
            with server("swanlab", self.home) as at:
                [folder] = self.fresh(local).glob("run-*")
                self.note(
                    "swanlab", "swanlab sync --id", at, [BIN / "swanlab", "sync", folder, "--id", "run0"], 1, rows
                )

    def many(self) -> None:
        """Many small runs."""
        runs, rows = self.args.runs, self.args.run_rows
        ours = make(self.home, "ours", self.home / "many", runs=runs, rows=rows)
        offline = make(self.home, "wandb_many", self.home / "many-wandb", runs=runs, rows=rows)
        for _ in range(self.args.rounds):
            with server("wandb", self.home) as at:
                self.note("many", OURS, at, self.tracker(self.fresh(ours), "wandb"), runs, rows)
            for who, words in (("wandb sync", ["sync"]), ("wandb beta sync", ["beta", "sync", "-n", self.args.jobs])):
                with server("wandb", self.home) as at:
                    folders = sorted(self.fresh(offline).glob("wandb/offline-run-*"))
                    self.note("many", who, at, [BIN / "wandb", *words, *folders], runs, rows)

    def idle(self) -> None:
        """Runs of which there is nothing new."""
        runs = self.args.idle
        ours = make(self.home, "ours", self.home / "idle", runs=runs, rows=2)
        with server("swanlab", self.home) as at:
            command = self.tracker(ours, "swanlab")
            timed(command, at, self.home)
            timed(command, at, self.home)  # what was written just before the first one is trusted only now
            for _ in range(self.args.rounds):
                self.note("idle", OURS, at, command, runs, 2)

    def long(self) -> None:
        """A long run, and one percent more of it."""
        rows, more = self.args.long, max(1, self.args.long // 100)
        whole = make(self.home, "ours", self.home / "long", runs=1, rows=rows)
        for remote in ("wandb", "swanlab"):
            with server(remote, self.home) as at:
                ours = self.fresh(whole)
                command = self.tracker(ours, remote)
                self.note(f"long {remote}", OURS, at, command, 1, rows)
                make(self.home, "ours", ours, runs=1, rows=more, first=rows)
                self.note(f"long {remote}, 1% more", OURS, at, command, 1, rows + more)


def summary(found: Found) -> dict[str, dict[str, dict[str, float]]]:
    """Return case to who to the median of each figure."""
    return {
        case: {
            who: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            for who, rounds in parts.items()
        }
        for case, parts in found.items()
    }


def show(found: dict[str, dict[str, dict[str, float]]], args: argparse.Namespace, markdown: bool) -> None:
    titles = {
        "wandb": (f"{args.rows} rows to W&B", "wandb sync", 0.7),
        "swanlab": (f"{args.rows} rows to SwanLab", "swanlab sync --id", 0.4),
        "many": (f"{args.runs} runs of {args.run_rows} rows to W&B", "wandb sync", 0.7),
        "idle": (f"{args.idle} runs, nothing new", "", 0.0),
        **{
            title: (text, base, 0.1)
            for remote in ("wandb", "swanlab")
            for title, text, base in (
                (f"long {remote}", f"{args.long} rows to {remote}", ""),
                (f"long {remote}, 1% more", f"1% more to {remote}", f"long {remote}"),
            )
        },
    }
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, padding=0)
    for heading in ("", "seconds", "others", "of that", "goal", "MiB alone", "MiB all"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for case, parts in found.items():
        if OURS not in parts:
            continue
        title, base, goal = titles[case]
        ours = parts[OURS]
        others = {who: each["seconds"] for who, each in parts.items() if who != OURS}
        if base in found:
            others[base] = found[base][OURS]["seconds"]
        table.add_row(
            title,
            f"{ours['seconds']:.2f}",
            ", ".join(f"{who} {seconds:.2f}" for who, seconds in others.items()),
            ", ".join(f"{ours['seconds'] / seconds:.2f}" for seconds in others.values()),
            f"{goal:.1f}" if others else ("< 1 s" if case == "idle" else ""),
            f"{ours['alone_mib']:.0f}",
            f"{ours['all_mib']:.0f}",
        )
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a sync costs, with offline_tracker and with the clients' own.")
    parser.add_argument("--rows", type=int, default=100_000, help="of the one run")
    parser.add_argument("--runs", type=int, default=200, help="how many small runs")
    parser.add_argument("--run-rows", type=int, default=500, help="rows of a small run")
    parser.add_argument("--idle", type=int, default=1000, help="runs with nothing new")
    parser.add_argument("--long", type=int, default=1_000_000, help="rows of the long run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--only", action="append", choices=["one", "many", "idle", "long"], help="may be repeated")
    parser.add_argument("--markdown", action="store_true", help="print the table as README has it")
    parser.add_argument("--json", type=Path, help="write all figures to a file")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        what, folder, options = json.loads(args.make)
        MAKERS[what](Path(folder), **options)
        return
    if args.serve:
        serve(args.serve)
        return
    with tempfile.TemporaryDirectory(prefix="sync_speed-") as home:
        bench = Bench(args, Path(home))
        for case in args.only or ("one", "many", "idle", "long"):
            getattr(bench, case)()
    found = summary(bench.found)
    show(found, args, args.markdown)
    for text in bench.failed:
        print(f"left out: {text}")
    if args.json:
        args.json.write_text(json.dumps({"rounds": bench.found, "summary": found, "failed": bench.failed}, indent=2))


if __name__ == "__main__":
    main()
