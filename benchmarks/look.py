"""
What looking at runs costs, beside the bound that was set for it: one line each. `python benchmarks/look.py`

Each figure is the best of several on a shared machine, except where a process is watched for a while.
"""

from __future__ import annotations

import fcntl
import math
import os
import pty
import random
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from offline_tracker_cli.canvas import Line, chart

from offline_tracker import journal
from offline_tracker.host import Holder
from offline_tracker.store import RunInfo, Runs, RunStore

TRACKER = str(Path(sys.executable).parent / "tracker")
GROWING = """
import sys, time
import offline_tracker
offline_tracker.init(id=sys.argv[2], dir=sys.argv[1])
while True:
    offline_tracker.log({"loss": 2.0, "lr": 2e-4, "grad_norm": 1.0})
    time.sleep(0.1)
"""


def say(what: str, figure: float, bound: float, unit: str) -> None:
    verdict = "" if figure <= bound else "   OVER"
    print(f"{what:<66} {figure:9.3g} {unit:<3} bound {bound:g} {unit}{verdict}", flush=True)


def best_s(function: Callable[[], object], times: int = 9) -> float:
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        function()
        found.append(time.perf_counter() - begin)
    return min(found)


def make_run(runs: Runs, run_id: str, rows: int) -> None:
    """Write a run of three metrics, whose process is gone."""
    runs.create(RunInfo(run_id, uuid.uuid4().hex, time.time(), project="look", total_steps=2 * rows))
    store = RunStore(runs.folder(run_id) / "run.db")
    more = {"launch": "", "requeue": "", "reason": "new", "config": "{}", "environment": "{}"}
    begin = time.time() - rows / 10
    attempt = store.claim(Holder("elsewhere", "", 1, 1), started_at=begin, journal=store.path.parent.resolve(), **more)
    noise = random.Random(1)
    for first in range(0, rows, 20_000):
        records = []
        for step in range(first, min(rows, first + 20_000)):
            loss = 2 + 8 * math.exp(-5 * step / rows) + noise.gauss(0, 0.2)
            values = {"loss": loss, "lr": 5e-4 * (1 - step / rows / 2), "grad_norm": noise.lognormvariate(0, 0.5)}
            records.append((step + 1, journal.CALL, step + 1, step, begin + step / 10, 1, values))
        store.append(attempt, records, begin)
    store.close()


def tail_chart() -> None:
    ys = [math.sin(x / 5000) + random.random() for x in range(100_000)]
    line = Line([float(x) for x in range(100_000)], ys, ys)
    say("tail: a chart of 100,000 points at 120x30", 1e3 * best_s(lambda: chart([line], 120, 30)), 20, "ms")


def tail_of_a_long_run(folder: Path, rows: int = 1_000_000) -> None:
    """From the start of the command to its first frame, and what it costs while rows come in, all else being read."""
    make_run(Runs(folder), "long", rows)
    command = [sys.executable, "-c", GROWING, str(folder), "long"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as writer:
        try:
            begin = time.perf_counter()
            pid, terminal = pty.fork()
            if pid == 0:
                os.environ |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
                os.execv(TRACKER, [TRACKER, "tail", str(folder)])
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
            seen = b""
            while b"best" not in seen:
                seen += os.read(terminal, 65536)
            say(f"tail: first frame of a run of {rows:,} rows", time.perf_counter() - begin, 1, "s")
            _drain(terminal, 15)
            before, since = _cpu_s(pid), time.perf_counter()
            _drain(terminal, 20)
            part = (_cpu_s(pid) - before) / (time.perf_counter() - since)
            say("tail: its cost from then on, of a core, ten rows a second", 100 * part, 5, "%")
            os.write(terminal, b"q")
            os.waitpid(pid, 0)
        finally:
            writer.kill()


def _drain(terminal: int, seconds: float) -> None:
    until = time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        if select.select([terminal], [], [], left)[0]:
            os.read(terminal, 65536)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    tail_chart()
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        tail_of_a_long_run(Path(folder))


if __name__ == "__main__":
    main()
