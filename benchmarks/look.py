"""What looking at runs costs, beside the bound that was set for it: one line each. `python benchmarks/look.py`"""

from __future__ import annotations

import math
import random
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from offline_tracker import journal
from offline_tracker.host import Holder
from offline_tracker.store import RunInfo, Runs, RunStore
from tests.browser import NoBrowser, chromium

TRACKER = Path(sys.executable).parent / "tracker"


def say(what: str, figure: float, bound: float, unit: str) -> None:
    verdict = "" if figure <= bound else "   OVER"
    print(f"{what:<66} {figure:9.3g} {unit:<3} bound {bound:g} {unit}{verdict}", flush=True)


def write_run(runs: Runs, run_id: str, rows: int, metrics: int) -> None:
    """Make a finished run of noisy losses, a smooth learning rate and noise, ten rows a second."""
    chance = random.Random(0)
    at = 1.7e9
    runs.create(RunInfo(run_id, uuid.uuid4().hex, at, project="look", name=f"{rows} rows", config={"lr": 5e-4}))
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
    store.append(attempt, [(rows + 1, journal.END, at, 0)])
    store.close()


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
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        report_of_a_million_points(Path(folder))


if __name__ == "__main__":
    main()
