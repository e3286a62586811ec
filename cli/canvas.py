"""
Charts in text: sparklines, and lines drawn with braille dots, two by four a character. Pure functions.

A dot column shows the least and the greatest of all points that fall on it, so that a spike is seen however many points
there are; the points are never looped over one by one.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.text import Text

_LEFT = [sum((0x40, 0x04, 0x02, 0x01)[bit] for bit in range(4) if nibble >> bit & 1) for nibble in range(16)]
_RIGHT = [sum((0x80, 0x20, 0x10, 0x08)[bit] for bit in range(4) if nibble >> bit & 1) for nibble in range(16)]
_UPPER, _LOWER = 0x1B, 0xE4
"""The dots of a braille character: those of its upper and of its lower half."""
_ASCII = str.maketrans("│┤└─┴▲▼", "||+-+^v")
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_NAN, _UP, _DOWN = "x", "▲", "▼"
_LETTER_EVERY = 14
_MOST = sys.float_info.max


class Line(NamedTuple):
    """
    A series of points.

    Attributes:
        xs: ascending and finite, shape ``(n,)``.
        lows, highs: what lies at each x: one number (then both are the same list), or the ends of many. NaN and
            infinities are marked at their place.
        letter: put on the line here and there, which tells lines apart without colour; "" for none.
    """

    xs: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    style: str = ""
    letter: str = ""


class Mark(NamedTuple):
    """A place on the x axis: *label* below it, and a thin upright line if it is to be seen."""

    x: float
    label: str = ""
    upright: bool = True


class _Column(NamedTuple):
    """What falls on a dot column; *first* and *last* are what its neighbours are joined with. NaN: no finite point."""

    low: float
    high: float
    first: float
    last: float
    odd: str


def ema(values: Sequence[float], weight: float) -> list[float]:
    """
    Smooth *values* with a debiased exponential moving average.

    Args:
        values: shape ``(n,)``, oldest first; NaN and infinities stay as they are and do not count.
        weight: of the past, 0 (none) to below 1.

    Source: bias correction as in Adam, Kingma & Ba 2015, section 3.
    """
    out: list[float] = []
    mean, past = 0.0, 1.0
    for value in values:
        if math.isfinite(value):
            mean = weight * mean + (1 - weight) * value
            past *= weight
            value = mean / (1 - past)
        out.append(value)
    return out


def sparkline(values: Sequence[float], unicode: bool = True) -> str:
    """
    Return *values* as bars, a character each; ``x`` for what is not finite.

    Args:
        unicode: use blocks; else ASCII.
    """
    bars = _BARS if unicode else _ASCII_BARS
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return _NAN
        # Halves, for the distance itself may be infinite.
        part = (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.5
        return bars[min(len(bars) - 1, int(part * len(bars)))]

    return "".join(map(bar, values))


def chart(
    lines: Sequence[Line],
    width: int,
    height: int,
    *,
    marks: Sequence[Mark] = (),
    log_y: bool = False,
    x_text: Callable[[float], str] = "{:.4g}".format,
    y_text: Callable[[float], str] = "{:.4g}".format,
    x_range: tuple[float, float] | None = None,
    label_width: int = 0,
    unicode: bool = True,
) -> list[Text]:
    """
    Return a chart with its axes, as *height* lines of *width* characters; the line that comes last lies on top.

    Args:
        log_y: a logarithmic axis; points at or below zero have no place on it.
        x_range: the ends of the x axis; by default those of the points.
        label_width: what the labels of the y axis take at least, so that charts below each other align.
        unicode: use braille; else ASCII, of a quarter of the resolution.
    """
    rows = height - 1
    drawn = [line for line in lines if line.xs]
    if rows < 1 or width < 8 or not drawn:
        return [Text(" " * width) for _ in range(height)]
    left, right = x_range or (min(line.xs[0] for line in drawn), max(line.xs[-1] for line in drawn))
    ends = _y_range([_columns(line, left, right, 1) for line in drawn], log_y)
    labels = _labels(ends, rows, y_text)
    gutter = min(max(label_width, *map(len, labels)), width // 2)
    cells = width - gutter - 1
    columns = [_columns(line, left, right, 2 * cells) for line in drawn]
    ends = _y_range(columns, log_y)  # of what is inside *x_range*
    labels = _labels(ends, rows, y_text)

    text = [[" "] * cells for _ in range(rows)]
    styles = [[""] * cells for _ in range(rows)]
    for mark in marks:
        if mark.upright and left <= mark.x <= right:
            cell = _place(mark.x, left, right, cells)
            for row in range(rows):
                text[row][cell], styles[row][cell] = "│", "dim"
    masks = [_masks(each, _scaled(ends, rows * 4)) for each in columns]
    _fill(text, styles, masks, [line.style for line in drawn])
    for index, (line, mask) in enumerate(zip(drawn, masks, strict=True)):
        if line.letter:
            _put_letters(text, styles, mask, line, index * _LETTER_EVERY // len(drawn))
    for each in columns:
        _put_odd(text, styles, each)

    bottom = _axis(cells, left, right, marks, x_text)
    out = []
    for row in range(rows):
        out.append(Text(f"{labels[row][:gutter]:>{gutter}}{'┤' if labels[row] else '│'}", "dim"))
        _append(out[-1], text[row], styles[row])
    out.append(Text(f"{'':{gutter}}└{bottom}", "dim"))
    return out if unicode else [_in_ascii(line) for line in out]


def _columns(line: Line, left: float, right: float, count: int) -> list[_Column | None]:
    """What falls on each of *count* columns between *left* and *right*; None where nothing does."""
    xs, lows, highs = line.xs, line.lows, line.highs
    width = right - left
    out: list[_Column | None] = [None] * count
    start = bisect_left(xs, left)
    for index in range(count):
        if index == count - 1:
            stop = len(xs) if right >= xs[-1] else bisect_left(xs, math.nextafter(right, math.inf), start)
        else:
            stop = bisect_left(xs, left + width * (index + 1) / count, start)
        if stop > start:
            low, high = lows[start:stop], highs[start:stop]
            odd = ""
            if not math.isfinite(sum(low) + sum(high)):
                odd, low, high = _without_odd(low, high)
            if low:
                first, last = low[0] / 2 + high[0] / 2, low[-1] / 2 + high[-1] / 2
                out[index] = _Column(min(low), max(high), first, last, odd)
            else:
                out[index] = _Column(math.nan, math.nan, math.nan, math.nan, odd)
            start = stop
    return out


def _without_odd(lows: Sequence[float], highs: Sequence[float]) -> tuple[str, list[float], list[float]]:
    """The marks of what is not finite, and the rest."""
    odd = {_mark_of(value) for pair in zip(lows, highs, strict=True) for value in pair} - {""}
    kept = [pair for pair in zip(lows, highs, strict=True) if math.isfinite(pair[0]) and math.isfinite(pair[1])]
    return "".join(sorted(odd)), [low for low, _ in kept], [high for _, high in kept]


def _mark_of(value: float) -> str:
    return "" if math.isfinite(value) else _NAN if value != value else _UP if value > 0 else _DOWN


class _Ends(NamedTuple):
    """The ends of the y axis."""

    low: float
    high: float
    log: bool


def _y_range(columns: Sequence[Sequence[_Column | None]], log: bool) -> _Ends | None:
    found = [column for each in columns for column in each if column is not None and column.low == column.low]
    lows = [value for column in found for value in (column.low, column.high) if not log or value > 0]
    if not lows:
        return None
    low, high = min(lows), max(lows)
    if log:
        low, high = math.log10(low), math.log10(high)
    if low == high:
        pad = abs(low) / 10 or 1.0
        low, high = max(-_MOST, low - pad), min(_MOST, high + pad)
    return _Ends(low, high, log)


def _scaled(ends: _Ends | None, dots: int) -> Callable[[float], int]:
    """What gives the dot row of a number, 0 at the bottom; below that where it has no place."""

    def row(value: float) -> int:
        if ends is None:
            return -1
        if ends.log:
            if value <= 0:
                return 0
            value = math.log10(value)
        # Halves, for the distance itself may be infinite.
        part = (value / 2 - ends.low / 2) / (ends.high / 2 - ends.low / 2)
        return min(dots - 1, max(0, round(part * (dots - 1))))

    return row


def _masks(columns: Sequence[_Column | None], row: Callable[[float], int]) -> list[int]:
    """The dots of each dot column as the bits of a number, the lowest dot first; neighbours are joined by a line."""
    masks = [0] * len(columns)
    before: tuple[int, int] | None = None
    for index, column in enumerate(columns):
        if column is None:
            continue
        if column.low != column.low or row(column.high) < 0:
            before = None
            continue
        masks[index] |= _bits(row(column.low), row(column.high))
        first = row(column.first)
        if before is not None:
            at, level = before
            steps = index - at
            ends = [level + (first - level) * step // steps for step in range(steps + 1)]
            for step in range(1, steps + 1):
                a, b = ends[step - 1], ends[step]
                if a != b:
                    a += 1 if b > a else -1  # the end before is in the column before
                masks[at + step] |= _bits(min(a, b), max(a, b))
        before = index, row(column.last)
    return masks


def _bits(low: int, high: int) -> int:
    return ((1 << (high - low + 1)) - 1) << low


def _fill(text: list[list[str]], styles: list[list[str]], masks: Sequence[Sequence[int]], of: Sequence[str]) -> None:
    rows = len(text)
    dots: dict[tuple[int, int], int] = {}
    for mask, style in zip(masks, of, strict=True):
        for cell in range(len(mask) // 2):
            left, right = mask[2 * cell], mask[2 * cell + 1]
            both = left | right
            if not both:
                continue
            for level in range(((both & -both).bit_length() - 1) // 4, (both.bit_length() - 1) // 4 + 1):
                code = _LEFT[left >> 4 * level & 15] | _RIGHT[right >> 4 * level & 15]
                if code:
                    row = rows - 1 - level
                    dots[row, cell] = code = dots.get((row, cell), 0) | code
                    text[row][cell], styles[row][cell] = chr(0x2800 + code), style


def _put_letters(text: list[list[str]], styles: list[list[str]], mask: Sequence[int], line: Line, offset: int) -> None:
    used = [cell for cell in range(len(mask) // 2) if mask[2 * cell] | mask[2 * cell + 1]]
    cells = [cell for cell in used if cell % _LETTER_EVERY == offset] or used[:1]
    for cell in cells:
        both = mask[2 * cell] | mask[2 * cell + 1]
        middle = ((both & -both).bit_length() + both.bit_length() - 2) // 2
        row = len(text) - 1 - middle // 4
        text[row][cell], styles[row][cell] = line.letter, f"bold {line.style}"


def _put_odd(text: list[list[str]], styles: list[list[str]], columns: Sequence[_Column | None]) -> None:
    for index, column in enumerate(columns):
        for mark in column.odd if column is not None else "":
            row = 0 if mark == _UP else len(text) - 1
            text[row][index // 2], styles[row][index // 2] = mark, "bold red"


def _labels(ends: _Ends | None, rows: int, y_text: Callable[[float], str]) -> list[str]:
    """The labels of the rows, "" for most: at the top, at the bottom, and in the middle if there is room."""
    labels = [""] * rows
    if ends is not None:
        for row in {0, rows - 1} | ({rows // 2} if rows >= 7 else set()):
            part = (rows - 1 - row) / (rows - 1) if rows > 1 else 1.0
            value = ends.low * (1 - part) + ends.high * part
            if not ends.log:
                labels[row] = y_text(value)
            elif -307 < value < 308:
                labels[row] = y_text(10**value)
    return labels


def _place(x: float, left: float, right: float, cells: int) -> int:
    return min(cells - 1, int((x - left) / (right - left) * cells)) if right > left else 0


def _axis(cells: int, left: float, right: float, marks: Sequence[Mark], x_text: Callable[[float], str]) -> str:
    line = ["─"] * cells
    begin, end = x_text(left), x_text(right)
    taken = [False] * cells

    def put(at: int, word: str) -> None:
        if at >= 0 and at + len(word) <= cells and not any(taken[max(0, at - 1) : at + len(word) + 1]):
            line[at : at + len(word)] = word
            taken[at : at + len(word)] = [True] * len(word)

    put(0, begin)
    if end != begin:
        put(cells - len(end), end)
    for mark in marks:
        if left <= mark.x <= right:
            at = _place(mark.x, left, right, cells)
            put(at, f"┴{mark.label}")
    return "".join(line)


def _append(line: Text, characters: Sequence[str], styles: Sequence[str]) -> None:
    start = 0
    for index in range(1, len(characters) + 1):
        if index == len(characters) or styles[index] != styles[start]:
            line.append("".join(characters[start:index]), styles[start])
            start = index


def _in_ascii(line: Text) -> Text:
    def one(character: str) -> str:
        dots = ord(character) - 0x2800
        if not 0 <= dots <= 0xFF:
            return character
        upper, lower = dots & _UPPER, dots & _LOWER
        return ":" if upper and lower else "'" if upper else "."

    line.plain = "".join(map(one, line.plain.translate(_ASCII)))
    return line
