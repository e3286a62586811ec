"""The course of a metric in one line, of bounded size however long it gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-=+*#@"
"""For a terminal without Unicode."""
_MOST = 1024


class Trace:
    """
    A series of numbers, kept as means of equally many neighbours: as many as it takes for a thousand of them at most.

    NaN and infinities are no part of a mean; a mean without a number is NaN.
    """

    def __init__(self) -> None:
        self._means: list[tuple[float, int]] = []  # and of how many numbers
        self._each = 1
        self._sum, self._count, self._seen = 0.0, 0, 0
        self._low, self._high = math.inf, -math.inf

    def add(self, number: float) -> None:
        try:
            value = float(number)
        except OverflowError:  # an int beyond all floats
            value = math.inf
        if math.isfinite(value):
            self._sum += value
            self._count += 1
            self._low, self._high = min(self._low, value), max(self._high, value)
        self._seen += 1
        if self._seen == self._each:
            self._means.append(self._mean())
            self._sum, self._count, self._seen = 0.0, 0, 0
            if len(self._means) == _MOST:
                self._means = [_joined(pair) for pair in zip(self._means[::2], self._means[1::2], strict=True)]
                self._each *= 2

    def _mean(self) -> tuple[float, int]:
        return (self._sum / self._count if self._count else math.nan), self._count

    def range(self) -> tuple[float, float] | None:
        """Return the least and the greatest number, None if there is none."""
        return (self._low, self._high) if self._low <= self._high else None

    def line(self, width: int, bars: str = BARS) -> str:
        """Return the course in at most *width* characters; ``x`` where there was no number at all."""
        means = self._means + ([self._mean()] if self._seen else [])
        if len(means) > width:
            edges = [*(index * len(means) // width for index in range(width)), len(means)]
            means = [_joined(means[first:last]) for first, last in pairwise(edges)]
        numbers = [mean for mean, _ in means if mean == mean]
        low, high = min(numbers, default=0.0), max(numbers, default=0.0)
        return "".join(_bar(mean, low, high, bars) for mean, _ in means)


def _joined(means: Sequence[tuple[float, int]]) -> tuple[float, int]:
    count = sum(count for _, count in means)
    return (sum(mean * (number / count) for mean, number in means if number) if count else math.nan), count


def _bar(mean: float, low: float, high: float, bars: str) -> str:
    if mean != mean:
        return "x"
    part = (mean / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5  # halves: high - low may be infinite
    return bars[min(len(bars) - 1, int(part * len(bars)))]
