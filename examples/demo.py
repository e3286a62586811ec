"""
The whole way in one go: train without a network, die, resume, sync to W&B and SwanLab, and check every row there.

    python examples/demo.py

Trains `train.py` on two processes, kills all of it with SIGKILL past a checkpoint, syncs what no resume can take back,
starts the same command again, lets it finish, and syncs the rest. It uses the real clients of both remotes; where neither
WANDB_API_KEY nor SWANLAB_API_KEY is set, they talk to two stand-in servers on loopback. Ends with status 1 if a row is
missing or double anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from offline_tracker import curve
from offline_tracker.store import Runs
from offline_tracker.sync.engine import links_of
from offline_tracker.sync.remotes import Mark, Target, create

HERE = Path(__file__).resolve().parent
console = Console(width=max(100, Console().width))
KEYS = {"wandb": "WANDB_API_KEY", "swanlab": "SWANLAB_API_KEY"}


def train(out: Path, runs: Path, resume: bool, steps: int) -> subprocess.Popen[bytes]:
    """Start the training as a user would; the second time only ``--from_resume 1`` is added."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(HERE / "train.py"), "--save_dir", str(out), "--steps_per_epoch", str(steps)]
    command += ["--from_resume", "1"] if resume else []
    console.print(f"[bold]$[/] torchrun --nproc_per_node 2 examples/train.py{' --from_resume 1' if resume else ''}")
    env = {**os.environ, "OFFLINE_TRACKER_DIR": str(runs), "OMP_NUM_THREADS": "1"}
    env["PYTHONWARNINGS"] = "ignore:Failed to initialize NumPy"  # torch says so where numpy is not installed
    return subprocess.Popen(command, env=env)


def kill_past_checkpoint(process: subprocess.Popen[bytes], runs: Path) -> None:
    """Kill the training and all its children with SIGKILL, some rows after its second checkpoint."""
    while process.poll() is None:
        for run_id in Runs(runs).ids():
            with Runs(runs).read(run_id) as reader:
                if len(reader.marks) >= 2 and reader.last_seq >= reader.marks[-1].seq + 2:
                    for pid in [process.pid, *descendants(process.pid)]:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    process.wait()
                    console.print(
                        f"[bold red]SIGKILL[/] at row {reader.last_seq}, checkpoint at row {reader.marks[-1].seq}"
                    )
                    return
        time.sleep(0.05)
    raise SystemExit(f"the training ended by itself with status {process.returncode}")


def descendants(pid: int) -> list[int]:
    """Return the pids of all children of *pid*, and of theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listed.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    for child in children.get(pid, []):
        found += [child, *descendants(child)]
    return found


@contextlib.contextmanager
def remotes() -> Iterator[tuple[Mapping[str, Any], dict[str, str]]]:
    """Yield the remotes to sync to, name to stand-in server (None for the real service), and the environment for them."""
    installed = [name for name in KEYS if importlib.util.find_spec(name)]
    real = [name for name in installed if os.environ.get(KEYS[name])]
    if real:
        console.print(f"credentials are set: syncing to the real {' and '.join(real)}")
        yield dict.fromkeys(real), {}
        return
    sys.path.insert(0, str(HERE.parent))  # the stand-ins belong to the tests, which are not installed
    from tests.doubles.swanlab import SwanlabServer
    from tests.doubles.wandb import WandbServer

    console.print(f"no credentials are set: syncing to stand-ins of {' and '.join(installed)} on loopback")
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context({"wandb": WandbServer, "swanlab": SwanlabServer}[name]()) for name in installed
        }
        env: dict[str, str] = {}
        for server in servers.values():
            env |= server.env()
        yield servers, env


def sync(runs: Path, names: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Run ``tracker sync`` as a user would."""
    to = [word for name in names for word in ("--to", name)]
    console.print(f"[bold]$[/] tracker sync runs/ {' '.join(to)}")
    tracker = Path(sys.executable).parent / "tracker"
    subprocess.run([str(tracker), "sync", str(runs), *to], env={**os.environ, **env}, check=True)


def local_points(runs: Path, run_id: str) -> tuple[dict[str, list[tuple[int, float]]], int, int]:
    """Return the curve as metric to (step, value), the number of its rows, and how many calls were superseded."""
    with Runs(runs).read(run_id) as reader:
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        points: dict[str, list[tuple[int, float]]] = {}
        rows = calls = 0
        for row in curve.rows(reader.calls(spans)):
            rows += 1
            for name, value in row.values.items():
                points.setdefault(name, []).append((row.step, value))
        calls = sum(1 for _ in reader.calls(spans))
        return points, rows, reader.last_seq - calls


def check(server: Any, name: str, remote_id: str, points: Mapping[str, list[tuple[int, float]]]) -> list[str]:
    """Return what is wrong at a stand-in: each metric must be there point by point, in order, once."""
    problems = [
        f"{name}: {text}" for text in (*server.violations, *(f"unknown request {label}" for label in server.unknown))
    ]
    if len(server.runs) != 1:
        problems.append(f"{name}: {len(server.runs)} runs instead of one")
    for metric, wanted in points.items():
        there = server.points(remote_id, metric)
        if there != wanted:
            problems.append(f"{name}: {metric} has {len(there)} points instead of these {len(wanted)}")
    return problems


def report(runs: Path, servers: Mapping[str, Any], env: Mapping[str, str]) -> list[str]:
    """Print the table, and return what is wrong."""
    os.environ.update(env)
    problems: list[str] = []
    columns = ("run", "rows", "rewound rows", "remote", "rows there", "last step", "confirmed")
    table = Table(*columns, title="What the remotes hold, read back")
    for run_id, links in links_of(runs).items():
        points, rows, rewound = local_points(runs, run_id)
        for link in links:
            remote = create(link.remote)
            remote.connect()
            found = remote.look(Target(link.project, link.entity, link.remote_id))
            mark = found.mark if found else Mark(None, 0)
            there = mark.rows
            if servers[link.remote] is not None:
                problems += check(servers[link.remote], link.remote, link.remote_id, points)
                there = len(servers[link.remote].points(link.remote_id, "loss"))
            confirmed = link.confirmed_rows == rows and mark.last_step == link.confirmed_step
            if not confirmed:
                problems.append(f"{link.remote}: {link.confirmed_rows} of {rows} rows are confirmed")
            if there not in (rows, None):
                problems.append(f"{link.remote}: {there} rows instead of {rows}")
            # The real SwanLab tells the last step of each metric, not how many points it has.
            cells = [run_id, rows, rewound, link.remote, "?" if there is None else there, mark.last_step]
            table.add_row(*map(str, cells), "yes" if confirmed else "NO")
    console.print(table)
    if not table.row_count or not servers:
        problems.append("nothing was synced")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description="Train, die, resume, sync, check")
    parser.add_argument("--dir", type=Path, help="where runs/ and the checkpoint go; a new temporary folder by default")
    parser.add_argument("--steps", type=int, default=100, help="training steps an epoch")
    args = parser.parse_args()
    home = args.dir or Path(tempfile.mkdtemp(prefix="offline_tracker-demo-"))
    runs, out = home / "runs", home / "out"
    with remotes() as (servers, env):
        kill_past_checkpoint(train(out, runs, resume=False, steps=args.steps), runs)
        sync(runs, servers, env)
        if status := train(out, runs, resume=True, steps=args.steps).wait():
            raise SystemExit(f"the resumed training failed with status {status}")
        sync(runs, servers, env)
        problems = report(runs, servers, env)
    for problem in problems:
        console.print(f"[bold red]WRONG[/] {problem}", highlight=False)
    if not problems:
        console.print(f"Every row is there once. Look at the runs: tracker show --runs {runs} RUN, tracker ls {runs}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
