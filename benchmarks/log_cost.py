"""
What logging costs a training: the same loop through offline_tracker and through its peers.

Every measurement is a fresh process, and the peers take turns, so that a noisy moment of the machine meets all alike. A
call logs three floats; what is timed is the call alone, with ``time.perf_counter_ns``. The peer "(nothing)" is a
function that does nothing: what it shows is the measuring itself, and the stalls of the machine. All have their
defaults, except that no console is captured and no hardware is sampled. A kill is a SIGKILL of the process alone, after
two seconds at full speed: wandb's helper process lives on and saves what had reached it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

OURS = "offline_tracker"
NOTHING = "(nothing)"
RATE = 100
"""Calls a second of the slow loop; so many steps of 10 ms does the training make, too."""
PAIRS = 5
"""How often a training's loop is timed without and with logging in one process."""

Log = Callable[[dict[str, float]], Any]
Opened = tuple[Log, Callable[[], Any]]


@dataclass(frozen=True)
class Peer:
    """
    One tracker. *package* has to be installed for it.

    Args:
        load: the import, as a statement; *loaded* is what a training has imported anyway.
        open: begins a run below a folder and returns its log and finish.
        rows: counts the calls that can be read back from such a folder, with the peer's own reader.
    """

    package: str
    load: str
    open: Callable[[Path], Opened]
    rows: Callable[[Path], int]
    loaded: str = ""


def open_ours(folder: Path) -> Opened:
    import offline_tracker

    offline_tracker.init(project="cost", id="cost", dir=folder)
    return offline_tracker.log, offline_tracker.finish


def rows_of_ours(folder: Path) -> int:
    out = folder.parent / "export.jsonl"
    tracker = Path(sys.executable).parent / "tracker"
    subprocess.run([tracker, "export", folder, "--format", "jsonl", "-o", out], check=True, stdout=sys.stderr)
    with open(out) as lines:
        return sum(1 for _ in lines)


def open_wandb(folder: Path) -> Opened:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    wandb.init(project="cost", dir=folder, mode="offline", settings=quiet)
    return wandb.log, wandb.finish


def rows_of_wandb(folder: Path) -> int:
    from wandb.proto import wandb_internal_pb2 as pb

    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    return sum(pb.Record.FromString(data).HasField("history") for data in wandb_log(path.read_bytes()))


def wandb_log(data: bytes) -> Iterator[bytes]:
    """
    Yield the whole records of a W&B transaction log; wandb's own reader is in Go.

    Source: LevelDB's doc/log_format.md; W&B puts a header of 7 bytes before it.
    """
    at, record = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += 7 + length
        if at > len(data) or not 1 <= kind <= 4:
            return
        record = (b"" if kind in (1, 2) else record) + data[at - length : at]
        if kind in (1, 4):
            yield record


def open_swanlab(folder: Path) -> Opened:
    import swanlab

    quiet = swanlab.Settings(
        probe=swanlab.Settings.Probe(monitor=False), terminal=swanlab.Settings.Terminal(proxy_type="none")
    )
    swanlab.init(project="cost", mode="offline", logdir=str(folder), settings=quiet)
    return swanlab.log, swanlab.finish


def rows_of_swanlab(folder: Path) -> int:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    [path] = folder.glob("run-*/*.swanlab")
    reader = DataStoreReader()
    reader.open(path)
    keys = {"loss": 0, "lr": 0, "epoch_Time": 0}
    try:
        while (data := reader.scan()) is not None:
            record = Record.FromString(data)
            if record.HasField("scalar"):
                keys[record.scalar.key] += 1
    except Exception as error:  # behind a torn record its reader reads no more
        print(f"swanlab's reader: {error!r}", file=sys.stderr)
    return min(keys.values())


def open_trackio(folder: Path) -> Opened:
    import trackio

    trackio.init(project="cost", embed=False, auto_log_gpu=False, auto_log_cpu=False)
    return trackio.log, trackio.finish


def rows_of_trackio(folder: Path) -> int:
    import sqlite3
    from contextlib import closing

    path = folder / "cost.db"
    if not path.exists():  # killed before it wrote for the first time
        return 0
    with closing(sqlite3.connect(path)) as db:
        count: int = db.execute("SELECT count(*) FROM metrics").fetchone()[0]
        return count


def open_tensorboard(folder: Path) -> Opened:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)
    step = 0

    def log(data: dict[str, float]) -> None:
        nonlocal step
        for name, value in data.items():
            writer.add_scalar(name, value, step)
        step += 1

    return log, writer.close


def rows_of_tensorboard(folder: Path) -> int:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    keys = {"loss": 0, "lr": 0, "epoch_Time": 0}
    for path in folder.glob("events.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                keys[value.tag] += 1
    return min(keys.values())


WRITER = "from torch.utils.tensorboard import SummaryWriter"
PEERS = {
    NOTHING: Peer("sys", "pass", lambda folder: (lambda data: None, lambda: None), lambda folder: 0),
    OURS: Peer("offline_tracker", "import offline_tracker", open_ours, rows_of_ours),
    "wandb": Peer("wandb", "import wandb", open_wandb, rows_of_wandb),
    "swanlab": Peer("swanlab", "import swanlab", open_swanlab, rows_of_swanlab),
    "trackio": Peer("trackio", "import trackio", open_trackio, rows_of_trackio),
    "tensorboard": Peer("tensorboard", WRITER, open_tensorboard, rows_of_tensorboard, loaded="import torch"),
}


# What a worker does: one job in a process of its own, one line of JSON.


def drive(log: Log, times: array[int], seconds: float, rate: float | None = None) -> int:
    """Log until *times* is full or the seconds are over, *rate* calls a second or as fast as it goes; the calls made."""
    clock = time.perf_counter_ns
    begun = clock()
    end = begun + int(seconds * 1e9)
    for index in range(len(times)):
        data = {"loss": 2.0 + 1.0 / (index + 3), "lr": 5e-4 * (1.0 - index / 1e7), "epoch_Time": 60.0 - index / 7e5}
        if rate is not None:
            time.sleep(max(0.0, (begun + index * 1e9 / rate - clock()) / 1e9))
        before = clock()
        log(data)
        after = clock()
        times[index] = after - before
        if after > end:
            return index + 1
    return len(times)


def memory_mib(field: str) -> float:
    """Add up VmRSS, or its peak VmHWM, of this process and of those it has started: wandb does its work in one."""
    status = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended
            lines = path.read_text().splitlines()
            status[int(path.parent.name)] = dict(line.split(":", 1) for line in lines)
    total, family = 0.0, [os.getpid()]
    for pid in family:
        total += int(status[pid].get(field, "0 kB").split()[0]) / 1024
        family += [child for child, fields in status.items() if int(fields["PPid"]) == pid]
        if field == "VmRSS":
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts from here on
    return total


def job_import(peer: Peer, folder: Path) -> dict[str, Any]:
    exec(peer.loaded)
    begun = time.perf_counter()
    exec(peer.load)
    return {"import_ms": (time.perf_counter() - begun) * 1e3}


def job_log(peer: Peer, folder: Path, calls: int, seconds: float, rate: float | None = None) -> dict[str, Any]:
    exec(peer.load)
    begun = time.perf_counter()
    log, finish = peer.open(folder)
    init_ms = (time.perf_counter() - begun) * 1e3
    times = array("q", bytes(8 * calls))  # written once, so that it does not count as growth
    memory = memory_mib("VmRSS")
    begun = time.perf_counter()
    made = drive(log, times, seconds, rate)
    looped = time.perf_counter()
    peak, grown = memory_mib("VmHWM") - memory, memory_mib("VmRSS") - memory  # in this order: the latter resets
    measured = time.perf_counter()
    finish()
    total_s = time.perf_counter() - measured + looped - begun
    ordered = sorted(times[:made])
    result = {"calls": made, "init_ms": init_ms, "calls_a_s": made / total_s, "grown_mib": grown, "peak_mib": peak}
    result |= {"median_us": ordered[made // 2] / 1e3, "p99_us": ordered[made * 99 // 100] / 1e3}
    return result | {"max_ms": ordered[-1] / 1e6}


def job_kill(peer: Peer, folder: Path, calls: int, seconds: float) -> None:
    exec(peer.load)
    log, _ = peer.open(folder)
    made = drive(log, array("q", bytes(8 * calls)), seconds)
    print(json.dumps({"calls": made}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def job_rows(peer: Peer, folder: Path) -> dict[str, Any]:
    return {"rows": peer.rows(folder)}


def job_train(peer: Peer, folder: Path, steps: int) -> dict[str, Any]:
    """Time a small training, steps of about 10 ms, without logging and then with it; the slow-downs in percent."""
    import torch

    exec(peer.load)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batch = torch.randn(128, 256)
    log, finish = peer.open(folder)

    def loop(log: Log, count: int) -> float:
        begun = time.perf_counter()
        for index in range(count):
            optimizer.zero_grad()
            loss = (model(batch) - batch).square().mean()
            loss.backward()
            optimizer.step()
            log({"loss": loss.item(), "lr": 0.01, "epoch_Time": 60.0 - index / 7e5})
        return time.perf_counter() - begun

    silent, _ = PEERS[NOTHING].open(folder)
    for count in (5, 10, 20):
        batch = torch.randn(max(1, round(len(batch) * count / RATE / loop(silent, count))), 256)
    slower = []
    for _ in range(PAIRS):
        without = loop(silent, steps)
        slower.append(100 * (loop(log, steps) / without - 1))
        time.sleep(min(1.0, without))  # what is written late is not to fall into the next loop without logging
    finish()
    return {"slower_percent": slower}


JOBS: dict[str, Callable[..., Any]] = {
    "import": job_import,
    "log": job_log,
    "kill": job_kill,
    "rows": job_rows,
    "train": job_train,
}


# What the main process does: hand out the jobs, and tell what came out.


def ask(kind: str, name: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Have a job done in a fresh process; RuntimeError with what it said if it fails."""
    home, data = folder / "home", folder / "data"
    home.mkdir(exist_ok=True)
    data.mkdir(exist_ok=True)
    # Nothing of this machine's keys, settings or jobs reaches a worker.
    kept = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG")
    env = {key: os.environ[key] for key in kept if key in os.environ} | {"HOME": str(home), "TMPDIR": str(home)}
    env |= {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    env |= {"TRACKIO_DIR": str(data), "HF_HUB_OFFLINE": "1"}
    job = json.dumps([kind, name, str(data), options])
    # It is read to the end of its output, which is also that of a helper process that outlives it (wandb has one).
    done = subprocess.run([sys.executable, __file__, "--job", job], env=env, cwd=home, capture_output=True, text=True)
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not answers or done.returncode != (-signal.SIGKILL if kind == "kill" else 0):
        raise RuntimeError(f"{name}, {kind}: {done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(answers[-1])
    if kind in ("log", "kill") and name != NOTHING:
        answer["bytes_a_call"] = (
            sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) / answer["calls"]
        )
        answer["lost"] = answer["calls"] - ask("rows", name, folder)["rows"]
        answer["lost_percent"] = 100 * answer["lost"] / answer["calls"]
    return answer


Results = dict[str, dict[str, list[dict[str, Any]]]]
"""Peer to job to one result a round."""


def measure(names: Sequence[str], args: argparse.Namespace) -> Results:
    """Do all jobs with all peers, which take turns; a peer that fails is left out from there on, and named."""
    jobs: dict[str, tuple[str, dict[str, Any]]] = {
        "import": ("import", {}),
        "full": ("log", {"calls": args.calls, "seconds": args.seconds}),
        "paced": ("log", {"calls": max(1, round(args.paced * RATE)), "seconds": 1e6, "rate": RATE}),
        "kill": ("kill", {"calls": 10 * args.calls, "seconds": min(2.0, args.seconds)}),
        "train": ("train", {"steps": args.steps}),
    }
    if not args.steps or importlib.util.find_spec("torch") is None:
        del jobs["train"]
    results: Results = {name: {job: [] for job in jobs} for name in names}
    for number in range(1, args.rounds + 1):
        for job, (kind, options) in jobs.items():
            for name in list(results):
                if name == NOTHING and job in ("import", "kill"):
                    continue
                if sys.stderr.isatty():
                    print(f"\rround {number} of {args.rounds}: {job}, {name}".ljust(60), end="\r", file=sys.stderr)
                with tempfile.TemporaryDirectory(prefix="log_cost-") as folder:
                    try:
                        results[name][job].append(ask(kind, name, Path(folder), **options))
                    except RuntimeError as error:
                        if name == OURS:
                            raise
                        del results[name]
                        print(f"{error}\n{name} is left out", file=sys.stderr)
    return results


def summary(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Return a peer's figures, ``job.figure``: the median over the rounds, but of max_ms, and lost at the end, the most."""
    out: dict[str, float] = {}
    for job, rounds in results.items():
        for key in rounds[0] if rounds else ():
            values = [value for each in rounds for value in (each[key] if isinstance(each[key], list) else [each[key]])]
            worst = key == "max_ms" or (job, key) == ("full", "lost")
            out[f"{job}.{key}"] = max(values) if worst else statistics.median(values)
            if key == "slower_percent":
                out["train.from_percent"], _, out["train.to_percent"] = statistics.quantiles(values)
    return out


Column = tuple[str, str, str, bool]
"""Title, figure, format, and whether its ratio to offline_tracker says something."""

FULL: list[Column] = [
    ("calls", "full.calls", "{:.0f}", False),
    ("median µs", "full.median_us", "{:.2f}", True),
    ("p99 µs", "full.p99_us", "{:.1f}", True),
    ("max ms", "full.max_ms", "{:.1f}", False),
    ("calls/s", "full.calls_a_s", "{:.0f}", True),
    ("bytes/call", "full.bytes_a_call", "{:.0f}", True),
    ("MiB more", "full.grown_mib", "{:.1f}", False),
    ("peak", "full.peak_mib", "{:.1f}", False),
    ("lost", "full.lost", "{:.0f}", False),
]
SLOW: list[Column] = [
    ("median µs", "paced.median_us", "{:.1f}", True),
    ("p99 µs", "paced.p99_us", "{:.0f}", True),
    ("max ms", "paced.max_ms", "{:.1f}", False),
    ("import ms", "import.import_ms", "{:.0f}", True),
    ("init ms", "full.init_ms", "{:.0f}", True),
    ("lost, killed", "kill.lost_percent", "{:.2f}%", False),
    ("slower by", "train.slower_percent", "{:+.2f}%", False),
    ("from", "train.from_percent", "{:+.1f}%", False),  # the middle half of the differences
    ("to", "train.to_percent", "{:+.1f}%", False),
]
README = [*FULL[1:3], *FULL[4:7], *SLOW[3:7]]


def show(title: str, columns: Sequence[Column], found: Mapping[str, Mapping[str, float]], readme: bool = False) -> None:
    """Print a table: the peers' figures with their ratios to ours; for README the ratios alone."""
    shown = Table(title=title, title_justify="left", box=box.MARKDOWN if readme else box.SIMPLE_HEAD, padding=0)
    shown.add_column("", no_wrap=True)
    for heading, *_ in columns:
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, figures in found.items():
        line = [name]
        for _, key, form, compare in columns:
            value, ours = figures.get(key), found[OURS].get(key)
            texts = [] if value is None else [form.format(value)]
            if value is not None and compare and ours and name not in (OURS, NOTHING):
                ratio = value / ours
                texts = [*([] if readme else texts), f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2g}x"]
            line.append(" ".join(texts))
        shown.add_row(*line)
    Console(width=200 if readme else 120).print(shown)


def machine() -> str:
    """Say what it ran on: the cores, the filesystem of the temporary folder, Python."""
    folder = Path(tempfile.gettempdir()).resolve()
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    below = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    filesystem = max(below, key=lambda mount: len(mount[1]))[2]
    return f"{len(os.sched_getaffinity(0))} cores, {filesystem}, Python {platform.python_version()}"


def million(calls: int) -> dict[str, Any]:
    """Log so many calls with offline_tracker alone."""
    with tempfile.TemporaryDirectory(prefix="log_cost-") as folder:
        return ask("log", OURS, Path(folder), calls=calls, seconds=1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description="What logging costs a training, with offline_tracker and its peers.")
    parser.add_argument("--calls", type=int, default=100_000, help="calls of a loop at full speed (default 100000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="such a loop ends after so many, though (10)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured (3)")
    parser.add_argument("--paced", type=float, default=5.0, help=f"seconds of the loop at {RATE} calls a second (5)")
    parser.add_argument("--steps", type=int, default=100, help="steps of a training loop; 0 leaves it out (100)")
    parser.add_argument("--only", action="append", choices=[name for name in PEERS if name not in (OURS, NOTHING)])
    parser.add_argument("--million", action="store_true", help="a million calls of offline_tracker, nothing else")
    parser.add_argument("--markdown", action="store_true", help="print README's table, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single result there")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        kind, name, folder, options = json.loads(args.job)
        return print(json.dumps(JOBS[kind](PEERS[name], Path(folder), **options)), flush=True)
    print(machine())
    wanted = [name for name in PEERS if name in (OURS, NOTHING) or not args.only or name in args.only]
    names = [name for name in wanted if importlib.util.find_spec(PEERS[name].package)]
    for name in wanted:
        if name not in names:
            print(f"{name} is not installed: pip install -e '.[bench]'")
    results: Results = {OURS: {"full": [million(1_000_000)]}} if args.million else measure(names, args)
    found = {name: summary(jobs) for name, jobs in results.items()}
    show("As fast as it goes, three floats a call", FULL, found)
    if not args.million:
        show(f"{RATE} calls a second; start; SIGKILL; a training of {RATE} steps a second", SLOW, found)
    if args.markdown:
        show("", README, {name: figures for name, figures in found.items() if name != NOTHING}, readme=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "summary": found, "results": results}, indent=1))
    sys.exit(0 if args.million or len(found) == len(names) else 1)


if __name__ == "__main__":
    main()
