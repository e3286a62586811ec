"""
Rows become columns: what export, query and `open_runs` share.

A column has a type of `TYPES`, the first that holds each of its values exactly: ``int`` (64 bits), ``float`` (a double; an
int up to 2**53 among floats is one), ``bool``, else ``text``, in which a value stands as `text` writes it. A None that was
logged is a missing value; NaN is a value.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from . import curve
from .curve import Span
from .errors import StoreError, UsageError
from .store import Attempt, RunReader
from .values import SEPARATOR, TEXT, Scalar, decode

TYPES = ("int", "float", "bool", "text")
FIRST = ("run", "step", "time")
"""The columns before the metrics; with every call also `MORE`."""
MORE = ("attempt", "live")
CELLS = 300_000
"""A batch has about so many: 10 MB of Python's numbers."""
_TEXT_CELLS = 64
"""So many characters of a text weigh as much as a cell."""


class Batch(NamedTuple):
    """
    Rows (or calls), column by column, all of one length.

    Attributes:
        seq: the number of the last call of each row; *time*, in unix seconds, is that call's.
        metrics: a metric's full name to its values, None where it has none.
    """

    seq: list[int]
    step: list[int]
    time: list[float]
    metrics: dict[str, list[Scalar]]


class Snapshot(NamedTuple):
    """A run as far as it is read: it may grow meanwhile."""

    spans: Sequence[Span]
    last_seq: int

    def read(self, every: bool) -> Sequence[Span]:
        """Return the calls to read: those of the curve, or *every* one."""
        return [Span(1, self.last_seq, None)] if every else self.spans

    def live(self, batch: Batch) -> list[bool]:
        """Return of each row whether it is on the curve."""
        return [curve.holds(self.spans, seq, step) for seq, step in zip(batch.seq, batch.step, strict=True)]


def snapshot(reader: RunReader) -> Snapshot:
    return Snapshot(curve.live_spans(reader.rewinds, reader.last_seq), reader.last_seq)


def batches(reader: RunReader, spans: Sequence[Span], every: bool = False, cells: int = CELLS) -> Iterator[Batch]:
    """
    Yield the rows that *spans* of a run make, as `curve.rows` does, in batches of about so many *cells*.

    Args:
        every: a row a call, also one without a value.

    Raises:
        StoreError: the run can't be read.
    """
    seqs: list[int] = []
    steps: list[int] = []
    times: list[float] = []
    columns: dict[int, list[Scalar]] = {}
    weight = 0
    for calls, points in reader.chunks(spans):
        with_value = {point[0] for point in points}
        place: dict[int, int] = {}
        begun = len(steps)
        row, step = begun - 1, steps[-1] if begun else None
        for seq, at_step, time, _ in calls:
            if every or at_step != step:
                if not every and seq not in with_value:
                    continue
                row, step = row + 1, at_step
                seqs.append(seq)
                steps.append(step)
                times.append(time)
            elif seq in with_value:  # the open row gets more, and the time of it
                seqs[row], times[row] = seq, time
            place[seq] = row
        for column in columns.values():
            column += [None] * (len(steps) - begun)
        for seq, metric, value, kind in points:
            if (row := place.get(seq, -1)) >= 0:
                if metric not in columns:
                    columns[metric] = [None] * len(steps)
                if kind is not None:
                    weight += len(value) // _TEXT_CELLS if kind == TEXT else 0
                    value = decode(value, kind)
                columns[metric][row] = value
        if len(steps) > 1 and len(steps) * (len(columns) + 1) + weight >= cells:
            last = len(steps) - 1  # this row is open
            kept = {metric: column[last:] for metric, column in columns.items() if column[last] is not None}
            rest = seqs[last:], steps[last:], times[last:]
            del seqs[last], steps[last], times[last]
            for column in columns.values():
                del column[last]
            yield _named(reader, seqs, steps, times, columns)
            seqs, steps, times = rest
            columns, weight = kept, 0
    if steps:
        yield _named(reader, seqs, steps, times, columns)


def _named(
    reader: RunReader, seqs: list[int], steps: list[int], times: list[float], columns: Mapping[int, list[Scalar]]
) -> Batch:
    names = reader.names()
    return Batch(seqs, steps, times, {names[metric]: columns[metric] for metric in sorted(columns)})


def attempts_of(attempts: Sequence[Attempt], seqs: Iterable[int]) -> list[int]:
    """Return the number of the attempt that each call is of."""
    after = [attempt.after_seq for attempt in attempts]
    return [attempts[bisect_left(after, seq) - 1].number for seq in seqs]


def text(value: Scalar) -> str | None:
    """Return *value* as CSV and a text column have it: floats exactly, ``nan``, ``inf``, ``true``; None for None."""
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else repr(value)


def type_of(kinds: Set[str]) -> str:
    """Return the type of a column whose values are of these kinds; see `RunReader.kinds`."""
    if not kinds <= {"float", "int", "long"}:
        return "bool" if kinds == {"bool"} else "text"
    if "float" not in kinds and kinds:
        return "int"
    return "text" if "long" in kinds else "float"


def kinds_of(values: Iterable[Scalar]) -> set[str]:
    """Return which kinds of values there are, as `RunReader.kinds` calls them."""
    return {_kind(value) for value in values} - {""}


_OF: dict[str, set[type]] = {"int": {int}, "float": {float, int}, "bool": {bool}}


def check(metric: str, values: Iterable[Scalar], type_: str) -> None:
    """
    Raises:
        StoreError: a value that came to the run after its kinds were asked for has no place in a column of that type.
    """
    if type_ != "text" and not set(map(type, values)) <= _OF[type_] | {type(None)}:
        raise StoreError(f"{shown(metric)} got a value of another kind while it was read; read it again")


def _kind(value: Scalar) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if abs(value) <= 2**53 else "long" if -(2**63) <= value < 2**63 else "big"
    if value is None or isinstance(value, str):
        return "" if value is None else "text"
    return "bool" if isinstance(value, bool) else "float"


def labels(names: Collection[str], taken: Sequence[str] = FIRST) -> dict[str, str]:
    """Name the column of each metric, each another: one called like one of *taken* gets a prefix."""
    found: dict[str, str] = {}
    used = set(taken)
    for metric, column in distinct(names).items():
        while column in used:
            column = f"metric.{column}"
        used.add(column)
        found[metric] = column
    return found


def shown(metric: str) -> str:
    """Return a metric's name as users know it: nested names joined by a dot."""
    return metric.replace(SEPARATOR, ".")


def distinct(metrics: Collection[str]) -> dict[str, str]:
    """Return each metric as `shown`, but one that is nested into a name which another has is joined by slashes."""
    names = {metric: shown(metric) for metric in metrics}
    return {
        metric: metric.replace(SEPARATOR, "/") if names[metric] != metric and names[metric] in names else name
        for metric, name in names.items()
    }


def extra(module: str, needs: str = "") -> Any:
    """
    Import a module that need not be installed.

    Args:
        needs: what to install for it, where that is not the module itself.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UsageError(f"{module} is not installed; pip install {needs or module}") from None
