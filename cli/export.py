"""``tracker export``: the curve, or every call, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple, TextIO

import typer

from offline_tracker import curve, parquet
from offline_tracker.columns import FIRST, MORE, Snapshot, attempts_of, batches, labels, snapshot, text, type_of
from offline_tracker.errors import StoreError, TrackerError, UsageError
from offline_tracker.store import RunReader

from .common import Chosen, RunOptions, RunsArgument, chosen, output, reading
from .words import plural, row_json, warn

_FORMATS = ("csv", "jsonl", "parquet")


class Line(NamedTuple):
    """A row, or with ``--all`` a call with its *attempt* and whether it is *live*."""

    step: int
    time: float
    values: Mapping[str, Any]
    attempt: int | None = None
    live: bool | None = None


def export(
    runs: RunsArgument = None,
    run: RunOptions = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="csv|jsonl|parquet",
            help="jsonl is one JSON object a line; parquet needs the extra of that name.  [default: csv]",
            show_default=False,
        ),
    ] = None,
    all: Annotated[
        bool, typer.Option("--all", help="Every call, superseded ones too, with its attempt and whether it is live.")
    ] = False,
    partition: Annotated[
        bool,
        typer.Option(
            "--partition",
            help="Make OUT, or bring up to date, a folder project=.../run=.../curve.parquet that DuckDB, Polars and Spark"
            " read as one table.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="File to write; else stdout.", show_default=False),
    ] = None,
) -> None:
    """Write the curve as CSV, JSON lines or Parquet.

    The columns are run, step and time, then one a metric; nested names are joined by a dot. With --partition there is a
    row for each value instead, with the metric's name.
    """
    format = format or ("parquet" if partition else "csv")
    if format not in _FORMATS:
        raise UsageError(f"no format {format!r}; use {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    if partition and (format != "parquet" or out is None):
        raise UsageError("--partition writes Parquet into a folder: name it with -o, and no other format")
    if format == "parquet":
        parquet.arrow()
        if not partition and out in (None, Path("-")) and sys.stdout.isatty():
            raise UsageError("Parquet is nothing for a terminal; name a file with -o")
    picked = chosen(runs, run)
    broken: list[str] = []

    def lose(error: StoreError, run: Chosen) -> None:
        broken.append(run.id)
        warn(f"run {run.id} is not, or not wholly, exported: {error}")

    if partition:
        assert out is not None
        _write_partition(out, picked, all, lose)
    else:
        with output(out) as file:
            if format == "parquet":
                _write_parquet(file, picked, all, lose)
            else:
                with _as_text(file) as text:
                    (_write_csv if format == "csv" else _write_jsonl)(text, picked, all, lose)
    if broken:
        raise typer.Exit(1)


def _write_jsonl(file: TextIO, picked: Sequence[Chosen], every: bool, lose: Any) -> None:
    for run in picked:
        try:
            with reading(run) as reader:
                for line in _lines(reader, snapshot(reader), every):
                    more = {"attempt": line.attempt, "live": line.live} if every else {}
                    file.write(row_json(run.id, line.step, line.time, line.values, **more) + "\n")
        except StoreError as error:
            lose(error, run)


def _write_csv(file: TextIO, picked: Sequence[Chosen], every: bool, lose: Any) -> None:
    snapshots: list[tuple[Chosen, Snapshot]] = []
    names: dict[str, None] = {}
    for run in picked:
        try:
            with reading(run) as reader:
                snap = snapshot(reader)
                names.update(dict.fromkeys(reader.metric_names(snap.read(every))))
                snapshots.append((run, snap))
        except StoreError as error:
            lose(error, run)
    first = [*FIRST, *(MORE if every else ())]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*first, *labels(names, first).values()])
    for run, snap in snapshots:
        try:
            with reading(run) as reader:
                for batch in batches(reader, snap.read(every), every):
                    columns: list[Iterable[Any]] = [repeat(run.id), batch.step, batch.time]
                    if every:
                        columns += [attempts_of(reader.attempts, batch.seq), map(text, snap.live(batch))]
                    columns += [_cells(batch.metrics.get(name)) for name in names]
                    writer.writerows(zip(*columns, strict=False))
        except StoreError as error:
            lose(error, run)


def _cells(values: Sequence[Any] | None) -> Iterable[Any]:
    """Return a column as `text` has it; of all but a bool the csv module makes the same."""
    if values is None:
        return repeat(None)
    return map(text, values) if bool in set(map(type, values)) else values


def _write_parquet(file: BinaryIO, picked: Sequence[Chosen], every: bool, lose: Any) -> None:
    snapshots: list[tuple[Chosen, Snapshot]] = []
    kinds: dict[str, set[str]] = {}
    for run in picked:
        try:
            with reading(run) as reader:
                snap = snapshot(reader)
                for metric, found in reader.kinds(snap.read(every)).items():
                    kinds.setdefault(metric, set()).update(found)
                snapshots.append((run, snap))
        except StoreError as error:
            lose(error, run)
    names = labels(kinds, [*FIRST, *(MORE if every else ())])
    types = {metric: type_of(found) for metric, found in kinds.items()}
    with parquet.writing(file, parquet.schema(parquet.wide_types(names, types, every))) as writer:
        for run, snap in snapshots:
            try:
                with reading(run) as reader:
                    for table in parquet.wide(reader, snap, names, types, every):
                        writer.write_table(table)
            except StoreError as error:
                lose(error, run)


def _write_partition(out: Path, picked: Sequence[Chosen], every: bool, lose: Any) -> None:
    twice = [run_id for run_id, count in Counter(run.id for run in picked).items() if count > 1]
    if twice:
        raise UsageError(f"there are two runs {twice[0]!r}; give each runs folder a dataset of its own")
    changed = 0
    try:
        with parquet.Dataset(out) as dataset:
            for run in picked:
                try:
                    with reading(run) as reader:
                        changed += dataset.put(reader, every)
                except StoreError as error:
                    lose(error, run)
    except OSError as error:
        raise TrackerError(f"can't write {out}: {error.strerror or error}") from error
    print(f"{out}: {plural(changed, 'run')} written, {len(picked) - changed} unchanged or left out")


def _lines(reader: RunReader, snap: Snapshot, every: bool) -> Iterator[Line]:
    calls = reader.calls(snap.read(every))
    if not every:
        for row in curve.rows(calls):
            yield Line(row.step, row.time, row.values)
        return
    attempts = reader.attempts
    at = -1
    for call in calls:
        while at + 1 < len(attempts) and attempts[at + 1].after_seq < call.seq:
            at += 1
        live = curve.holds(snap.spans, call.seq, call.step)
        yield Line(call.step, call.time, call.values, attempts[at].number, live)


@contextmanager
def _as_text(file: BinaryIO) -> Iterator[TextIO]:
    wrapped = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        yield wrapped
        wrapped.flush()
    finally:
        with suppress(OSError, ValueError):
            wrapped.detach()
