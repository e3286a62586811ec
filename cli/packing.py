"""Columns of numbers as text in a page: floats, their bytes in planes, gzip, base64."""

from __future__ import annotations

import base64
import gzip
import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

_LEVEL = 6
"""Of gzip: 9 takes six times as long and saves 1%."""
_SINGLE_MIN, _SINGLE_MAX = 1.2e-38, 3.4e38
_SINGLE_ERROR = 2.0**-24
_HARMLESS = 1e-5
"""So much of what a column spans may be lost by taking it in single precision: a hundredth of a pixel."""


class Columns:
    """
    The columns of a page, in the order in which they were put.

    Each is little-endian floats whose first bytes stand first, then all second bytes and so on (the signs and exponents of
    neighbours are alike, which halves what gzip makes of them); gzip of that; base64 of that.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []

    def put(self, values: Sequence[float], rising: bool = False) -> dict[str, Any]:
        """
        Add a column and return what the page needs to read it.

        Single precision where nobody can see the difference, else double; NaN and infinities survive.

        Args:
            rising: store the first value and then differences; for integers, which stay exact up to 2**53.
        """
        if rising:
            numbers = array("d", values[:1])
            numbers.extend(map(float.__sub__, values[1:], values))
        else:
            numbers = array("f" if _single(values) else "d", values)
        if sys.byteorder == "big":
            numbers.byteswap()
        raw = numbers.tobytes()
        planes = b"".join(raw[place :: numbers.itemsize] for place in range(numbers.itemsize))
        self.texts.append(base64.b64encode(gzip.compress(planes, _LEVEL, mtime=0)).decode())
        return {"column": len(self.texts) - 1, "bytes": numbers.itemsize, "rising": rising}


def _single(values: Iterable[float]) -> bool:
    sizes = [value for value in values if math.isfinite(value)]
    if not sizes:
        return True
    low, high = min(sizes), max(sizes)
    biggest = max(-low, high)
    smallest = min((abs(value) for value in sizes if value), default=1.0)
    fits = biggest < _SINGLE_MAX and smallest > _SINGLE_MIN
    return fits and (biggest * _SINGLE_ERROR <= _HARMLESS * (high - low))
