"""
What looking at runs costs, beside the bound that was set for it: one line each. `python benchmarks/look.py [WORD...]`

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
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from offline_tracker_cli.canvas import Line, chart

from offline_tracker import journal
from offline_tracker.host import Holder
from offline_tracker.store import RunInfo, Runs, RunStore
from tests.browser import NoBrowser, chromium

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
    limit = f"bound {bound:g} {unit}{verdict}" if bound < math.inf else ""
    print(f"{what:<66} {figure:9.3g} {unit:<3} {limit}".rstrip(), flush=True)


def best_s(function: Callable[[], object], times: int = 9) -> float:
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        function()
        found.append(time.perf_counter() - begin)
    return min(found)


def write_run(runs: Runs, run_id: str, rows: int, metrics: int = 3, ended: bool = True) -> None:
    """Make a run of noisy losses, a smooth learning rate and noise, ten rows a second until now; its process is gone."""
    chance = random.Random(0)
    at = time.time() - rows / 10
    info = RunInfo(run_id, uuid.uuid4().hex, at, project="look", name=f"{rows} rows", config={"lr": 5e-4})
    runs.create(replace(info, total_steps=2 * rows))
    store = RunStore(runs.folder(run_id) / "run.db")
    more = {"launch": "", "requeue": "", "reason": "new", "config": "{}", "environment": "{}"}
    attempt = store.claim(Holder("node", "boot", 1, 1), started_at=at, journal=runs.folder(run_id).resolve(), **more)
    records: list[journal.Record] = []
    for step in range(rows):
        at += 0.1 * (1 + chance.gauss(0, 0.06))
        loss = 2 + 6 * math.exp(-6 * step / rows) + chance.gauss(0, 0.08)
        values = {"loss": loss, "lr": 5e-4 * (1 + math.cos(math.pi * step / rows)), "grad_norm": chance.random()}
        kept = dict(list(values.items())[:metrics])
        records.append((step + 1, journal.CALL, step + 1, step, at, journal.CLOSES, kept))
        if len(records) == 20_000 or step + 1 == rows:
            store.append(attempt, records)
            records = []
    if ended:
        store.append(attempt, [(rows + 1, journal.END, at, 0)])
    store.close()


def tail_chart() -> None:
    ys = [math.sin(x / 5000) + random.random() for x in range(100_000)]
    line = Line([float(x) for x in range(100_000)], ys, ys)
    say("tail: a chart of 100,000 points at 120x30", 1e3 * best_s(lambda: chart([line], 120, 30)), 20, "ms")


def tail_of_a_long_run(folder: Path, rows: int = 1_000_000) -> None:
    """From the start of the command to its first frame, and what it costs while rows come in, all else being read."""
    tail_chart()
    write_run(Runs(folder), "long", rows, ended=False)
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


def one_command(folder: Path, *command: str) -> tuple[float, float]:
    """Run a command of tracker to its end; returns seconds and the most memory (MB) that it held."""
    begin = time.perf_counter()
    with subprocess.Popen([TRACKER, *command], stdout=subprocess.DEVNULL, cwd=folder) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"tracker {' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - begin, used.ru_maxrss / 1e3


def ls_of_a_thousand_runs(folder: Path, runs: int = 1000) -> None:
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    home = Runs(folder / "runs")
    for number in range(runs):
        write_run(home, f"run{number:04}", 100)
    old = time.time() - 3600
    for path in home.path.glob("*/run.db"):
        os.utime(path, (old, old))
    first_s, _ = one_command(folder, "ls")
    say(f"ls: {runs} runs, for the first time", first_s, math.inf, "s")
    say(f"ls: {runs} runs, once they were seen", min(one_command(folder, "ls")[0] for _ in range(5)), 1, "s")


def looks_at_a_long_run(folder: Path, rows: int = 1_000_000) -> None:
    write_run(Runs(folder / "runs"), "long", rows)
    say(f"show: {rows:,} rows x 3", min(one_command(folder, "show", "long")[0] for _ in range(3)), 1.5, "s")
    write_run(Runs(folder / "runs"), "other", rows)
    say(f"compare: two of {rows:,} rows x 3", one_command(folder, "compare", "long", "other")[0], 5, "s")


def exports_of_ten_million_points(folder: Path, rows: int = 3_333_334) -> None:
    """Time is only told; what is bounded is the memory."""
    write_run(Runs(folder / "runs"), "huge", rows)
    ways = {name: ["--format", name, "-o", f"out.{name}"] for name in ("csv", "jsonl", "parquet")}
    ways["parquet, --partition"] = ["--partition", "-o", "dataset"]
    for name, how in ways.items():
        took_s, used_mb = one_command(folder, "export", *how)
        say(f"export: {3 * rows / 1e6:.0f}M points as {name}: memory ({took_s:.0f} s)", used_mb, 200, "MB")
    sql = "SELECT metric, count(*), min(value) FROM curves GROUP BY metric"
    took_s, used_mb = one_command(folder, "query", sql)
    say(f"query: over {3 * rows / 1e6:.0f}M points: memory ({took_s:.0f} s)", used_mb, math.inf, "MB")


def report_of_a_million_points(folder: Path) -> None:
    """Time and size of `tracker report`, then what a browser says: first paint, charts drawn, a zoom."""
    for rows, metrics in ((333_334, 3), (1_000_000, 1)):
        runs = Runs(folder / f"report-{metrics}")
        write_run(runs, "a1", rows, metrics)
        page = folder / f"report-{metrics}.html"
        begin = time.perf_counter()
        subprocess.run([TRACKER, "report", runs.path, "-o", page], check=True, stdout=subprocess.DEVNULL)
        took_s, size_mb = time.perf_counter() - begin, page.stat().st_size / 1e6
        what = f"report, 1M points ({rows:,} rows x {metrics})"
        say(f"{what}: written", took_s, 20, "s")
        say(f"{what}: size", size_mb, 6, "MB")
        try:
            paint_ms, drawn_ms, zoom_ms = _in_a_browser(page)
        except NoBrowser as error:
            print(f"      {what}: not opened: {error}")
            continue
        say(f"{what}: first paint", paint_ms, 1000, "ms")
        say(f"{what}: charts drawn", drawn_ms, 1000, "ms")
        say(f"{what}: drawn anew after a zoom", zoom_ms, 50, "ms")


def _in_a_browser(page: Path) -> tuple[float, float, float]:
    """Return, in ms, the median first contentful paint and drawing of five visits, and the median zoom."""
    draws = "return performance.getEntriesByName('draw').map((draw) => [draw.startTime + draw.duration, draw.duration])"
    paint = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    paints, drawn, zooms = [], [], []
    with chromium() as browser:
        for _ in range(5):
            browser.get(page.as_uri())
            while not (found := browser.execute_script(draws)) or browser.execute_script(paint) is None:
                time.sleep(0.02)
            paints.append(browser.execute_script(paint))
            drawn.append(found[0][0])
            for key in "++++":
                browser.execute_script(
                    "document.querySelector('.plot').dispatchEvent(new KeyboardEvent('keydown', { key: arguments[0] }))",
                    key,
                )
                count = len(found)
                while len(found := browser.execute_script(draws)) == count:
                    time.sleep(0.02)
                zooms.append(found[-1][1])
    return sorted(paints)[2], sorted(drawn)[2], sorted(zooms)[len(zooms) // 2]


def main() -> None:
    """Measure what is named on the command line, else everything."""
    wanted = sys.argv[1:]
    for measure in (
        *(tail_of_a_long_run, ls_of_a_thousand_runs, looks_at_a_long_run),
        *(report_of_a_million_points, exports_of_ten_million_points),
    ):
        if not wanted or any(word in measure.__name__ for word in wanted):
            with tempfile.TemporaryDirectory(prefix="look-") as folder:
                measure(Path(folder))


if __name__ == "__main__":
    main()
