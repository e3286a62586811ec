"""
Columns as Arrow tables and Parquet files; needs pyarrow, which is imported on the first use.

There are two layouts. Wide, a column a metric: what `tracker export` writes, its types fixed by what all of its runs hold.
Long (`LONG`), a row a point: its columns are the same whatever was logged, so files that were written apart, of runs with
other metrics or with other types of one metric, are one table for every reader, without a merge of schemas.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from .columns import CELLS, FIRST, MORE, Snapshot, attempts_of, batches, check, distinct, extra, snapshot, text
from .store import RunReader
from .values import Scalar

FILE = "curve.parquet"
LAYOUT = 1
"""Raised when what a file of a dataset holds changes, so that those that are there are written again."""
_KEY = b"offline_tracker"
_NONE = "__HIVE_DEFAULT_PARTITION__"
_TYPES = {"int": "int64", "float": "float64", "bool": "bool_", "text": "string"}
LONG = {
    **{"run_id": "text", "metric": "text", "step": "int", "time": "float", "value": "float", "text": "text"},
    **{"attempt": "int", "live": "bool"},
}
"""
The long layout. *value* is the number: NaN is NaN, a bool 1 or 0, an int the nearest double, null for a text and for what no
double is near. *text* is null where *value* says all; else the value exactly: a text, ``true`` or ``false``, an int
beyond 2**53. *live* is false for what a rewind took back.
"""
_FLOATS = {float, type(None)}
_NUMBERS = {*_FLOATS, int}


def arrow() -> Any:
    """Return pyarrow, or raise a UsageError that says how to get it."""
    return extra("pyarrow", "'offline-tracker[parquet]'")


def schema(types: Mapping[str, str], metadata: Mapping[bytes, bytes] | None = None) -> Any:
    """Return the Arrow schema of columns of these types (`columns.TYPES`)."""
    pa = arrow()
    return pa.schema([(name, getattr(pa, _TYPES[of])()) for name, of in types.items()], metadata=metadata)


def wide_types(labels: Mapping[str, str], types: Mapping[str, str], every: bool) -> dict[str, str]:
    """Return the columns of the wide layout; *labels* and *types* are of each metric."""
    first = dict(zip(FIRST, ("text", "int", "float"), strict=True))
    more = dict(zip(MORE, ("int", "bool"), strict=True)) if every else {}
    return {**first, **more, **{label: types[metric] for metric, label in labels.items()}}


def wide(
    reader: RunReader, snap: Snapshot, labels: Mapping[str, str], types: Mapping[str, str], every: bool
) -> Iterator[Any]:
    """Yield a run as Arrow tables with a column for each of *labels*, null where a row has no value."""
    pa = arrow()
    rows = schema(wide_types(labels, types, every))
    # A batch is built of the run's own metrics, but written with those of all runs.
    for batch in batches(reader, snap.read(every), every):
        count = len(batch.step)
        cells: list[Any] = [[reader.info.id] * count, batch.step, batch.time]
        if every:
            cells += [attempts_of(reader.attempts, batch.seq), snap.live(batch)]
        for metric in labels:
            values = batch.metrics.get(metric)
            if values is None:
                cells.append(pa.nulls(count, rows.field(len(cells)).type))
                continue
            check(metric, values, types[metric])
            cells.append([text(value) for value in values] if types[metric] == "text" else values)
        yield _table(pa, cells, rows)


def long(reader: RunReader, snap: Snapshot, every: bool) -> Iterator[Any]:
    """Yield a run as Arrow tables in the long layout; each is sorted by metric, then by step."""
    pa = arrow()
    rows = schema(LONG)
    names = distinct(reader.names().values())
    for batch in batches(
        reader, snap.read(every), every, CELLS // 3
    ):  # a point takes more than twice a cell of the wide layout
        attempts = pa.array(attempts_of(reader.attempts, batch.seq), pa.int64())
        live = pa.array(snap.live(batch) if every else [True] * len(batch.seq), pa.bool_())
        shared = {
            "step": pa.array(batch.step, pa.int64()),
            "time": pa.array(batch.time, pa.float64()),
            "attempt": attempts,
            "live": live,
        }
        pieces = []
        for metric, values in batch.metrics.items():
            value, exact = _numbers(pa, values)
            piece = pa.table({"value": value, "text": exact, **shared})
            there = value.is_valid() if exact.null_count == len(values) else _either(pa, value, exact)
            piece = piece.filter(there)
            same = [pa.repeat(name, len(piece)) for name in (reader.info.id, names.get(metric, metric))]
            piece = piece.append_column("run_id", same[0]).append_column("metric", same[1])
            pieces.append(piece.select(rows.names).cast(rows))
        if pieces:
            yield pa.concat_tables(pieces).combine_chunks()


def _numbers(pa: Any, values: Sequence[Scalar]) -> tuple[Any, Any]:
    """Return the columns *value* and *text* of the long layout."""
    types = set(map(type, values))
    if types <= _NUMBERS:
        with contextlib.suppress(pa.ArrowInvalid):  # an int that a double does not hold
            return pa.array(values, pa.float64()), pa.nulls(len(values), pa.string())
    return (
        pa.array([_number(value) for value in values], pa.float64()),
        pa.array([_exact(value) for value in values], pa.string()),
    )


def _number(value: Scalar) -> float | None:
    if value is None or isinstance(value, str):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _exact(value: Scalar) -> str | None:
    if isinstance(value, float) or (type(value) is int and abs(value) <= 2**53):
        return None
    return text(value)


def _either(pa: Any, one: Any, other: Any) -> Any:
    import pyarrow.compute as compute

    return compute.or_(one.is_valid(), other.is_valid())


def _table(pa: Any, cells: Sequence[Any], rows: Any) -> Any:
    made = [
        cell if isinstance(cell, pa.Array) else pa.array(cell, field.type)
        for cell, field in zip(cells, rows, strict=True)
    ]
    return pa.Table.from_arrays(made, schema=rows)


@contextlib.contextmanager
def writing(file: str | os.PathLike[str] | IO[bytes], rows: Any) -> Iterator[Any]:
    """Open a Parquet file for tables of one schema, each of which becomes a row group."""
    from pyarrow.parquet import ParquetWriter

    texts = [field.name for field in rows if str(field.type) == "string"]
    with ParquetWriter(file, rows, compression="zstd", use_dictionary=texts) as writer:
        yield writer


class Dataset:
    """
    A hive-partitioned Parquet dataset: ``project=.../run=.../curve.parquet`` in the long layout, one file a run.

    Nothing but such files is ever in there: what is being written lies beside it, in ``.NAME.PID.part``, for Polars reads
    whatever it finds.

    Args:
        path: its folder; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> Dataset:
        arrow()
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._part.unlink(missing_ok=True)

    def put(self, reader: RunReader, every: bool) -> bool:
        """
        Bring a run's file up to date, whole or not at all; return whether that was needed.

        Args:
            every: with the calls that a rewind took back.

        Raises:
            StoreError: the run can't be read; its file is as it was.
            OSError: the dataset can't be written.
        """
        snap = snapshot(reader)
        state = _state(reader, every)
        folder = self.path / f"project={_segment(reader.info.project)}" / f"run={_segment(reader.info.id)}"
        stale = [path for path in self.path.glob(f"project=*/{folder.name}") if path != folder]
        new = _state_of(folder / FILE) != state
        if new:
            rows = schema(LONG, {_KEY: state})
            with writing(self._part, rows) as writer:
                for table in long(reader, snap, every):
                    writer.write_table(table)
            folder.mkdir(parents=True, exist_ok=True)
            self._part.replace(folder / FILE)
        for path in stale:  # the run belongs to another project now
            shutil.rmtree(path)
            with contextlib.suppress(OSError):  # others are in it
                path.parent.rmdir()
        return new or bool(stale)


def _segment(name: str | None) -> str:
    """Return a name as a part of the path, as Hive escapes it; of none as Hive writes null."""
    return quote(name, safe=" ") if name else _NONE


def _state(reader: RunReader, every: bool) -> bytes:
    """Return what a file is written from: while this is the same, so is the file."""
    # A value that comes late (from a GPU) is a record of its own in the journal, and `folded` counts those.
    folded = [(attempt.number, attempt.after_seq, attempt.folded) for attempt in reader.attempts]
    rewinds = [(rewind.seq, rewind.step) for rewind in reader.rewinds]
    return json.dumps([LAYOUT, reader.info.uuid, reader.last_seq, folded, rewinds, every]).encode()


def _state_of(path: Path) -> bytes | None:
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import read_schema

    try:
        found: bytes | None = (read_schema(path).metadata or {}).get(_KEY)
        return found
    except (OSError, ArrowException):  # there is none, or not a whole one
        return None
