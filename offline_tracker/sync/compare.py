"""The local curve beside what a remote shows, row by row; pure functions on streams, so that a long run takes no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..curve import Row
from .remotes import Part

_KEPT = 100


class Pair(NamedTuple):
    """
    One step, at home and there.

    Attributes:
        row: of the curve, with the values that the remote should show; None if the curve has none of them there.
        there: what the remote shows; empty if it has none of them.
        again: the remote has shown this step before, so *there* is more of what was compared already.
    """

    step: int
    row: Row | None
    there: Mapping[str, float | str]
    again: bool


class Steps:
    """How many steps, and the first of them."""

    def __init__(self, steps: Iterable[int] = ()) -> None:
        self.count = 0
        self.first: list[int] = []
        for step in sorted(steps):
            self.add(step)

    def add(self, step: int) -> None:
        self.count += 1
        if len(self.first) < _KEPT:
            self.first.append(step)

    def __str__(self) -> str:
        more = self.count - len(self.first[:5])
        return ", ".join(map(str, self.first[:5])) + (f" and {more} more" if more else "")


def pairs(
    rows: Callable[[], Iterator[Row]],
    parts: Iterable[Part],
    shown: Callable[[Mapping[str, Any]], Mapping[str, float | str]],
) -> Iterator[Pair]:
    """
    Go through the curve and through what a remote shows; once through the curve for each part.

    Args:
        rows: begins the curve.
        parts: `Remote.points`, and *shown* `Remote.shown`.
    """
    covered: set[str] = set()
    for part in parts:
        yield from _merge(_wanted(rows(), shown, part.names, covered), part.rows)
        covered |= part.names or frozenset()


def _wanted(
    rows: Iterator[Row],
    shown: Callable[[Mapping[str, Any]], Mapping[str, float | str]],
    names: frozenset[str] | None,
    covered: set[str],
) -> Iterator[Row]:
    for row in rows:
        values = shown(row.values)
        if names is not None:
            values = {name: value for name, value in values.items() if name in names}
        elif covered:
            values = {name: value for name, value in values.items() if name not in covered}
        if values:
            yield row._replace(values=values)


def _merge(rows: Iterator[Row], there: Iterator[tuple[int, Mapping[str, float | str]]]) -> Iterator[Pair]:
    row = next(rows, None)
    newest: int | None = None
    for step, values in there:
        if newest is not None and step <= newest:
            yield Pair(step, None, values, True)
            continue
        newest = step
        while row is not None and row.step < step:
            yield Pair(row.step, row, {}, False)
            row = next(rows, None)
        if row is not None and row.step == step:
            yield Pair(step, row, values, False)
            row = next(rows, None)
        elif values:
            yield Pair(step, None, values, False)
    while row is not None:
        yield Pair(row.step, row, {}, False)
        row = next(rows, None)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal, NaN being equal to itself."""
    return bool(one == other) or (one != one and other != other)
