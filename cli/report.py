"""``tracker report``: runs as one page for a browser that needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer

import offline_tracker
from offline_tracker import curve
from offline_tracker.curve import Span
from offline_tracker.errors import StoreError, TrackerError
from offline_tracker.store import RunReader

from .alerts import notices
from .common import RunOptions, RunsArgument, chosen, links_in, output, reading, runs_folder
from .glance import gap_json, loss_of, lr_of
from .ls import link_json
from .packing import Columns
from .words import clean, distinct, plain, plural, to_json, warn

_HERE = Path(__file__).parent
_FAVICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath d='M1 3l4 7 3-3 3 4 4 1' fill='none' stroke='%230072b2' stroke-width='2'/%3E%3C/svg%3E"
)


def report(
    runs: RunsArgument = None,
    run: RunOptions = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.html", help="File to write.")] = Path("report.html"),
) -> None:
    """Write runs as one HTML page.

    Charts to zoom and compare, configs and what differs, attempts and rewinds. The page holds all of its data and asks the
    network for nothing: open it from a disk, attach it to a mail.
    """
    picked = chosen(runs, run)
    if not picked:
        raise TrackerError(f"no runs in {runs_folder(runs)[0]}")
    columns = Columns()
    links = {folder: links_in(folder) for folder in {one.runs.path for one in picked}}
    found: list[dict[str, Any]] = []
    points = 0
    for one in picked:
        try:
            with reading(one) as reader:
                document = _run(reader, links[one.runs.path].get(one.id, ()), columns)
        except StoreError as error:
            warn(f"run {one.id} is not in the report: {error}")
        else:
            found.append(document)
            points += sum(metric["count"] for metric in document["metrics"])
    if not found:
        raise typer.Exit(1)
    text = page(found, columns)
    with output(out) as file:
        file.write(text.encode())
    size = f"{len(text) / 1e6:.1f} MB" if len(text) >= 1e5 else f"{len(text) / 1e3:.0f} kB"
    print(f"{clean(out)}: {plural(len(found), 'run')}, {points:,} points, {size}")
    if len(found) < len(picked):
        raise typer.Exit(1)


def _run(reader: RunReader, links: Sequence[Any], columns: Columns) -> dict[str, Any]:
    """Return a run as the page has it, its numbers put into *columns*."""
    info = reader.info
    spans = curve.live_spans(reader.rewinds, reader.last_seq)
    begins = [attempt.after_seq for attempt in reader.attempts]
    starts = [attempt.started_at for attempt in reader.attempts]
    seconds, total = curve.runtime(begins, starts, reader.last_times(spans))
    curves = _Curves(reader, spans)
    names = distinct(curves.values)
    return {
        "id": info.id,
        **{
            key: clean(value) if (value := getattr(info, key)) else None
            for key in ("name", "project", "group", "job_type")
        },
        "notes": [clean(line) for line in (info.notes or "").splitlines()],
        "tags": [clean(tag) for tag in info.tags],
        "state": reader.state,
        "created_at": info.created_at,
        "total_steps": info.total_steps,
        "runtime_s": total,
        "rows": len(curves.steps),
        "last_step": int(curves.steps[-1]) if curves.steps else None,
        "config": _pairs(info.config or {}),
        "summary": _pairs(reader.summary()),
        "texts": [[clean(names.get(name, name)), clean(text)] for name, text in curves.texts.items()],
        "steps": columns.put(curves.steps, rising=True),
        "times": columns.put([float(round(at * 1000)) for at in curves.times], rising=True),  # ms: 3 bytes less a row
        "metrics": [{"name": clean(names[name]), **curves.put(name, columns)} for name in _ordered(curves.values)],
        "attempts": [
            {
                "number": attempt.number,
                "host": clean(attempt.holder.host),
                "started_at": attempt.started_at,
                "ended_at": attempt.ended_at,
                "exit_code": attempt.exit_code,
                "alive": attempt.alive(),
                "why": clean(attempt.reason),
                "row": curves.row_after(attempt.after_seq),
                # What added to a time in this attempt gives the seconds that the run had run.
                "shift_s": seconds(attempt.after_seq + 1, attempt.started_at) - attempt.started_at,
            }
            for attempt in reader.attempts
        ],
        "rewinds": [
            {
                "step": rewind.step,
                "from_step": at[0] if (at := reader.step_of(min(rewind.seq, reader.last_seq))) else None,
                "time": rewind.time,
                "why": clean(rewind.reason),
                "row": curves.row_after(rewind.seq),
            }
            for rewind in reader.rewinds
        ],
        "checkpoints": len(reader.marks),
        "gaps": [{**gap_json(gap), "why": clean(gap.reason)} for gap in reader.gaps],
        "alerts": [
            {
                "step": notice.step,
                "metric": None if notice.metric is None else clean(notice.metric),
                "row": curves.row_of(notice.step),
                "time": notice.time,
                "text": notice.words,
                "level": clean(notice.level),
            }
            for notice in notices(reader, spans)
        ],
        "links": [
            {key: clean(value) if isinstance(value, str) else value for key, value in link_json(link).items()}
            for link in links
            if link.uuid == info.uuid
        ],
    }


def _pairs(values: Mapping[str, Any], path: str = "") -> list[list[str]]:
    """Return a config flat, its names joined by dots, its values as texts."""
    pairs: list[list[str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += _pairs(value, f"{path}{key}.")
        else:
            pairs.append([clean(path + key), clean(value if isinstance(value, str) else to_json(value))])
    return pairs


def _ordered(metrics: Iterable[str]) -> list[str]:
    """Return the loss, the learning rate, and then the others as they first came."""
    names = list(metrics)
    first = [name for name in (loss_of(names), lr_of(names)) if name is not None]
    return list(dict.fromkeys([*first, *names]))


class _Curves:
    """
    The rows that hold, as columns: *steps* and *times* (unix seconds) of all, of each metric its *values* in the rows *at*.

    *texts* is what a metric that is no number said last. Numbers that no float holds become infinite.
    """

    def __init__(self, reader: RunReader, spans: Sequence[Span]) -> None:
        self.steps: array[float] = array("d")
        self.times: array[float] = array("d")
        self.values: dict[str, array[float]] = {}
        self.texts: dict[str, str] = {}
        self._at: dict[str, array[float]] = {}
        self._seqs: array[int] = array("q")
        for number, row in enumerate(curve.rows(reader.calls(spans))):
            self.steps.append(row.step)
            self.times.append(row.time)
            self._seqs.append(row.seq)
            for name, value in row.values.items():
                if value is None or isinstance(value, str):
                    self.texts[name] = value or ""
                    continue
                if name not in self.values:
                    self.values[name], self._at[name] = array("d"), array("d")
                try:
                    self.values[name].append(value)
                except OverflowError:
                    self.values[name].append(math.inf if value > 0 else -math.inf)
                self._at[name].append(number)

    def row_after(self, seq: int) -> int | None:
        """Return the number of the first row behind a call, None if there is none."""
        number = bisect_right(self._seqs, seq)
        return number if number < len(self._seqs) else None

    def row_of(self, step: int | None) -> int | None:
        """Return the number of the row of a step, None if there is none."""
        number = len(self.steps) if step is None else bisect_left(self.steps, step)
        return number if number < len(self.steps) and self.steps[number] == step else None

    def put(self, name: str, columns: Columns) -> dict[str, Any]:
        """Put a metric into *columns*; returns where, and what a table says of it."""
        values, at = self.values[name], self._at[name]
        finite = [value for value in values if math.isfinite(value)]
        return {
            "values": columns.put(values),
            "at": None if len(at) == len(self.steps) else columns.put(at, rising=True),  # None: in every row
            "count": len(values),
            "nonfinite": len(values) - len(finite),
            "last": values[-1],
            "last_step": self.steps[int(at[-1])],
            "min": min(finite, default=None),
            "max": max(finite, default=None),
        }


def page(runs: Sequence[Mapping[str, Any]], columns: Columns) -> str:
    """
    Return the page.

    Its policy lets nothing in but the two scripts and the style that are in it, by their hashes. What comes from runs is in
    blocks that are no scripts, and the script puts it into the page as text.
    """
    vendor = _HERE / "vendor" / "uplot"
    licence = "".join(f" * {line}\n" for line in (vendor / "LICENSE").read_text("utf-8").splitlines())
    uplot = f"/*\n{licence} */\n{(vendor / 'uPlot.iife.min.js').read_text('utf-8')}"
    parts = "".join((_HERE / "page" / f"{name}.js").read_text("utf-8") for name in ("data", "chart", "page"))
    script = f'(() => {{\n"use strict";\n{parts}}})();'
    style = (vendor / "uPlot.min.css").read_text("utf-8") + (_HERE / "page" / "page.css").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(uplot)} {_hash(script)}; style-src {_hash(style)}; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    projects = {run["project"] for run in runs}
    title = (runs[0]["name"] or runs[0]["id"]) if len(runs) == 1 else projects.pop() if len(projects) == 1 else None
    title = title or plural(len(runs), "run")
    document = {"title": title, "version": offline_tracker.__version__, "written_at": time.time(), "runs": runs}
    data = "\n".join(
        f'<script type="text/plain" id="column-{number}">{text}</script>' for number, text in enumerate(columns.texts)
    )
    return Template((_HERE / "page" / "page.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        policy=html.escape(policy),
        favicon=html.escape(_FAVICON),
        style=style,
        document=_json_block(document),
        data=data,
        uplot=uplot,
        script=script,
    )


def _json_block(document: Any) -> str:
    """Return JSON of ASCII alone that no parser of HTML finds the end of its block in, nor a comment."""
    text = json.dumps(plain(document), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
