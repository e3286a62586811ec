"""``tracker export``: the curve, or every call, as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TextIO

import typer

from offline_tracker import curve
from offline_tracker.curve import Span
from offline_tracker.errors import StoreError, TrackerError, UsageError
from offline_tracker.store import RunReader

from .common import Chosen, RunOptions, RunsArgument, chosen, reading
from .words import distinct, row_json, warn

_FORMATS = ("csv", "jsonl")


class Line(NamedTuple):
    """A row, or with ``--all`` a call with its *attempt* and whether it is *live*."""

    step: int
    time: float
    values: Mapping[str, Any]
    attempt: int | None = None
    live: bool | None = None


class Snapshot(NamedTuple):
    """A run as far as it is exported: it may grow meanwhile."""

    run: Chosen
    spans: Sequence[Span]
    last_seq: int


def export(
    runs: RunsArgument = None,
    run: RunOptions = None,
    format: Annotated[
        str, typer.Option("--format", metavar="csv|jsonl", help="jsonl is one JSON object a line.")
    ] = "csv",
    all: Annotated[
        bool, typer.Option("--all", help="Every call, superseded ones too, with its attempt and whether it is live.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="File to write; else stdout.", show_default=False),
    ] = None,
) -> None:
    """Write the curve as CSV or JSON lines.

    The columns are run, step and time, then one a metric; nested names are joined by a dot.
    """
    if format not in _FORMATS:
        raise UsageError(f"no format {format!r}; use {' or '.join(_FORMATS)}")
    picked = chosen(runs, run)
    broken: list[str] = []

    def lose(error: StoreError, run: Chosen) -> None:
        broken.append(run.id)
        warn(f"run {run.id} is not, or not wholly, exported: {error}")

    with _output(out) as file:
        if format == "csv":
            _write_csv(file, picked, all, lose)
        else:
            _write_jsonl(file, picked, all, lose)
    if broken:
        raise typer.Exit(1)


def _write_jsonl(file: TextIO, picked: Sequence[Chosen], every: bool, lose: Any) -> None:
    for run in picked:
        try:
            with reading(run) as reader:
                for line in _lines(reader, _snapshot(run, reader), every):
                    more = {"attempt": line.attempt, "live": line.live} if every else {}
                    file.write(row_json(run.id, line.step, line.time, line.values, **more) + "\n")
        except StoreError as error:
            lose(error, run)


def _write_csv(file: TextIO, picked: Sequence[Chosen], every: bool, lose: Any) -> None:
    snapshots: list[Snapshot] = []
    names: dict[str, None] = {}
    for run in picked:
        try:
            with reading(run) as reader:
                snapshot = _snapshot(run, reader)
                names.update(dict.fromkeys(reader.metric_names(_read(snapshot, every))))
                snapshots.append(snapshot)
        except StoreError as error:
            lose(error, run)
    first = ["run", "step", "time", *(["attempt", "live"] if every else [])]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*first, *_columns(names, first)])
    for snapshot in snapshots:
        try:
            with reading(snapshot.run) as reader:
                for line in _lines(reader, snapshot, every):
                    more = [line.attempt, _cell(line.live)] if every else []
                    cells = (_cell(line.values.get(name)) for name in names)
                    writer.writerow([snapshot.run.id, line.step, repr(line.time), *more, *cells])
        except StoreError as error:
            lose(error, snapshot.run)


def _columns(names: Collection[str], taken: Sequence[str]) -> list[str]:
    """Name the columns, each once: a metric called like one of *taken* gets a prefix."""
    columns = list(taken)
    for column in distinct(names).values():
        while column in columns:
            column = f"metric.{column}"
        columns.append(column)
    return columns[len(taken) :]


def _cell(value: Any) -> Any:
    if value is None or value is True or value is False:
        return {None: "", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, float) else value


def _snapshot(run: Chosen, reader: RunReader) -> Snapshot:
    return Snapshot(run, curve.live_spans(reader.rewinds, reader.last_seq), reader.last_seq)


def _read(snapshot: Snapshot, every: bool) -> Sequence[Span]:
    return [Span(1, snapshot.last_seq, None)] if every else snapshot.spans


def _lines(reader: RunReader, snapshot: Snapshot, every: bool) -> Iterator[Line]:
    calls = reader.calls(_read(snapshot, every))
    if not every:
        for row in curve.rows(calls):
            yield Line(row.step, row.time, row.values)
        return
    attempts = reader.attempts
    at = -1
    for call in calls:
        while at + 1 < len(attempts) and attempts[at + 1].after_seq < call.seq:
            at += 1
        live = curve.holds(snapshot.spans, call.seq, call.step)
        yield Line(call.step, call.time, call.values, attempts[at].number, live)


@contextmanager
def _output(out: Path | None) -> Iterator[TextIO]:
    """Open OUT, which appears whole or not at all; stdout without it."""
    if out is None or str(out) == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        yield sys.stdout
        return
    target = out.resolve()
    try:
        if target.exists() and not target.is_file():  # a pipe, or /dev/null: nothing to put in its place
            with target.open("w", encoding="utf-8", newline="") as file:
                yield file
            return
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                yield file
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise TrackerError(f"can't write {out}: {error.strerror}") from error
