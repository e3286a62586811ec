"""
The course of a run's metrics in bounded memory, however long it gets, each call read from the store once.

The calls lie in blocks of neighbours; of each metric a block keeps the ends, the sum and the newest number. When there are
too many, neighbours are put together. A block is wholly on the curve or wholly not: blocks end where an attempt or a
rewind does, so a rewind costs one flag a block and reading the one block that it cuts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

from offline_tracker import curve
from offline_tracker.curve import Span
from offline_tracker.store import Call, Rewind, RunReader

from .glance import clip

_SETTLING = 100
"""So many of the newest calls are read again each time: a value from a GPU comes later than its call."""
_MUCH = 20_000
_SAMPLE = 4
"""So many calls stand for a block at first, when there are many to read."""
_BEHIND = 50
"""So many calls are looked at first for the rest of a row."""
_GOLDEN = (5**0.5 - 1) / 2


class Stat(NamedTuple):
    """What a block knows of a metric; *low* and *high* of its finite numbers, of which there are *finite*."""

    low: float
    high: float
    total: float
    finite: int
    last: Any
    nan: int = 0
    up: int = 0
    down: int = 0

    def joined(self, newer: Stat) -> Stat:
        return Stat(
            min(self.low, newer.low),
            max(self.high, newer.high),
            self.total + newer.total,
            self.finite + newer.finite,
            newer.last,
            self.nan + newer.nan,
            self.up + newer.up,
            self.down + newer.down,
        )


def stat(values: Sequence[Any]) -> Stat | None:
    """Return what is to know of the numbers among *values*, None if there is none."""
    try:
        total = float(sum(values))
    except (TypeError, OverflowError):  # text, None, or an int beyond all floats
        values = [number for value in values if (number := _number(value)) is not None]
        if not values:
            return None
        total = float(sum(values))
    if math.isfinite(total):
        return Stat(min(values), max(values), total, len(values), values[-1])
    finite = [value for value in values if math.isfinite(value)]
    nan = sum(value != value for value in values)
    up = sum(value == math.inf for value in values)
    low, high = (min(finite), max(finite)) if finite else (math.inf, -math.inf)
    down = len(values) - len(finite) - nan - up
    return Stat(low, high, float(sum(finite)), len(finite), values[-1], nan, up, down)


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class Block:
    """
    The calls *first* to *last*, of one attempt.

    Attributes:
        live: whether they are on the curve.
        read: 0 not at all, 1 some of them, 2 all.
        steps, times: of the first and of the last call that was read.
    """

    __slots__ = ("attempt", "first", "last", "live", "read", "stats", "steps", "times")

    def __init__(self, first: int, last: int, attempt: int, live: bool) -> None:
        self.first, self.last, self.attempt, self.live = first, last, attempt, live
        self.read = 0
        self.steps: tuple[int, int] = (0, 0)
        self.times: tuple[float, float] = (0.0, 0.0)
        self.stats: dict[str, Stat] = {}

    def __len__(self) -> int:
        return self.last - self.first + 1

    def take(self, reader: RunReader, calls: int | None = None) -> None:
        """Read all of it, or only its first *calls*."""
        last = self.last if calls is None else min(self.last, self.first + calls - 1)
        found = reader.block(self.first, last)
        self.read = 2 if last == self.last else 1
        if found is None:
            self.stats = {}
            return
        self.steps, self.times = zip(found.first, found.last, strict=True)  # type: ignore[assignment]
        stats = {name: stat(values) for name, values in found.values.items()}
        self.stats = {name: known for name, known in stats.items() if known is not None}

    def joined(self, newer: Block) -> Block:
        both = Block(self.first, newer.last, self.attempt, self.live)
        if not self.read or not newer.read:
            return both
        both.read = min(self.read, newer.read)
        filled = [block for block in (self, newer) if block.times[1]]
        if filled:
            both.steps = filled[0].steps[0], filled[-1].steps[1]
            both.times = filled[0].times[0], filled[-1].times[1]
        both.stats = dict(self.stats)
        for name, known in newer.stats.items():
            older = both.stats.get(name)
            both.stats[name] = known if older is None else older.joined(known)
        return both


class Point(NamedTuple):
    """Where a block of a metric is drawn."""

    x: float
    low: float
    high: float
    mean: float
    attempt: int


def points(blocks: Iterable[Block], name: str, x: Callable[[Block], float]) -> Iterator[Point]:
    """Yield where a metric's blocks lie, *x* never falling; what is not finite is a point of its own."""
    newest = -math.inf
    for block in blocks:
        known = block.stats.get(name)
        if known is None:
            continue
        newest = max(newest, x(block))
        for count, value in ((known.nan, math.nan), (known.up, math.inf), (known.down, -math.inf)):
            if count:
                yield Point(newest, value, value, value, block.attempt)
        if known.finite:
            mean = known.total / known.finite
            yield Point(newest, float(known.low), float(known.high), mean, block.attempt)


class History:
    """
    A run's blocks, in the order of the calls.

    Args:
        most: keep at most so many blocks, unless more attempts and rewinds than that divide them. (A chart of 200
            characters has 400 dots.)

    Attributes:
        size: how many calls a block has.
    """

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self.blocks: list[Block] = []
        self.size = 1
        self._rewinds: list[Rewind] = []
        self._cuts: dict[tuple[int, int, int], int | None] = {}

    def extend(self, reader: RunReader) -> None:
        """Take note of new calls, attempts and rewinds; what has to be read for it is read by `read`."""
        fresh = [rewind for rewind in reader.rewinds if rewind not in self._rewinds]
        if len(self._rewinds) + len(fresh) != len(reader.rewinds):  # not the run that it was
            self.blocks, self.size, self._cuts = [], 1, {}
        self._rewinds = list(reader.rewinds)
        if fresh:
            # A rewind that is set by hand gives the calls behind it other steps.
            self._drop_behind(min(rewind.seq for rewind in fresh))
        if self.blocks:
            self._drop_behind(self.blocks[-1].last - _SETTLING)
        stretches = list(self._stretches(reader))
        while self.size * (self._most - len(stretches)) < reader.last_seq and self.size < reader.last_seq:
            self.size *= 2
        self._tile(stretches)
        self._join()

    def _drop_behind(self, seq: int) -> None:
        while self.blocks and self.blocks[-1].last > seq:
            self.blocks.pop()

    def _stretches(self, reader: RunReader) -> Iterator[tuple[int, int, int, bool]]:
        """First and last call, attempt, and whether they are on the curve: all calls, cut where any of it changes."""
        edges = [0, *(attempt.after_seq for attempt in reader.attempts[1:]), reader.last_seq]
        for span in curve.live_spans(reader.rewinds, reader.last_seq):
            for number, (after, last) in enumerate(pairwise(edges), 1):
                first, last = max(span.first, after + 1), min(span.last, last)
                if first > last:
                    continue
                cut: int | None = last
                if span.cap is not None:
                    key = (first, last, span.cap)
                    if key not in self._cuts:
                        self._cuts[key] = reader.last_within(*key)
                    cut = self._cuts[key]
                if cut is not None:
                    yield first, cut, number, True
                    first = cut + 1
                if first <= last:
                    yield first, last, number, False

    def _tile(self, stretches: Sequence[tuple[int, int, int, bool]]) -> None:
        """Keep the blocks that no stretch cuts, and put new ones where there is none."""
        old, at = self.blocks, 0
        self.blocks = []
        for first, last, attempt, live in stretches:
            while first <= last:
                while at < len(old) and old[at].first < first:
                    at += 1
                if at < len(old) and old[at].first == first and old[at].last <= last:
                    block = old[at]
                    block.attempt, block.live = attempt, live
                else:
                    end = min(last, first + self.size - 1)
                    if at < len(old) and first < old[at].first <= end:
                        end = old[at].first - 1
                    block = Block(first, end, attempt, live)
                self.blocks.append(block)
                first = block.last + 1

    def _join(self) -> None:
        """Put neighbours together where both fit into one block."""
        joined: list[Block] = []
        for block in self.blocks:
            before = joined[-1] if joined else None
            if (
                before is not None
                and len(before) + len(block) <= self.size
                and (before.attempt, before.live) == (block.attempt, block.live)
            ):
                joined[-1] = before.joined(block)
            else:
                joined.append(block)
        self.blocks = joined

    def read(self, reader: RunReader, seconds: float) -> bool:
        """Read what is not read yet, the newest first, for about so long; return whether all of it is."""
        until = time.perf_counter() + seconds
        missing = [block for block in self.blocks if block.read < 2]
        if sum(map(len, missing)) > _MUCH:
            missing[-1].take(reader)
            for block in missing:
                if not block.read:
                    block.take(reader, _SAMPLE)
        for block in reversed(missing):
            if block.read < 2:
                if time.perf_counter() > until:
                    return False
                block.take(reader)
        return True

    def sample(self, reader: RunReader, seconds: float) -> float:
        """
        Read some calls of each block of the curve, then for about so long whole blocks from all over it.

        Returns the part of the curve that is read, 0 to 1.
        """
        until = time.perf_counter() + seconds
        curve_of = [block for block in self.blocks if block.live]
        for block in curve_of:
            if not block.read:
                block.take(reader, _SAMPLE)
        # Multiples of the golden ratio lie evenly between 0 and 1, wherever one stops.
        for _, block in sorted(enumerate(curve_of), key=lambda item: item[0] * _GOLDEN % 1.0):
            if block.read < 2:
                if time.perf_counter() > until:
                    break
                block.take(reader)
        calls = sum(map(len, curve_of))
        read = sum(len(block) if block.read == 2 else _SAMPLE for block in curve_of)
        return read / calls if calls else 1.0

    @property
    def part_read(self) -> float:
        """How much of it is read, 0 to 1."""
        calls = sum(map(len, self.blocks))
        return sum(len(block) for block in self.blocks if block.read == 2) / calls if calls else 1.0

    def live(self) -> list[Block]:
        """Return the blocks of the curve."""
        return [block for block in self.blocks if block.live and block.read]

    def newest(self) -> dict[str, tuple[int, Any]]:
        """Return step and value of each metric's newest number on the curve, metrics in the order of the calls."""
        found: dict[str, tuple[int, Any]] = {}
        names: dict[str, None] = {}
        for block in self.live():
            for name, known in block.stats.items():
                names.setdefault(name)
                found[name] = block.steps[1], known.last
        return {name: found[name] for name in names}

    def means(self, name: str, most: int) -> list[float]:
        """Return the course of a metric as at most so many means of neighbouring calls; NaN where nothing is finite."""
        found = [block.stats[name] for block in self.live() if name in block.stats]
        count = min(most, len(found))
        groups = [found[index * len(found) // count : (index + 1) * len(found) // count] for index in range(count)]
        joined = [reduce(Stat.joined, group) for group in groups]
        return [known.total / known.finite if known.finite else math.nan for known in joined]

    def all_of(self, name: str) -> Stat | None:
        """Return what is known of a metric in all, None if it has no number."""
        found = [block.stats[name] for block in self.live() if name in block.stats]
        return reduce(Stat.joined, found) if found else None

    def course(self, name: str) -> tuple[list[float], list[float], list[float]]:
        """Return step, low and high of each of a metric's `points`."""
        found = list(points(self.live(), name, lambda block: (block.steps[0] + block.steps[1]) / 2))
        return [point.x for point in found], [point.low for point in found], [point.high for point in found]

    def best(self, reader: RunReader, name: str, kind: str) -> tuple[int, Any] | None:
        """
        Return step and value of the best finite number of the curve's rows, None if there is none; the first of equals.

        Everything must have been read. Where it can lie is read once more, for a block knows no steps, nor which value
        another one of the same step has replaced.

        Args:
            kind: "min" or "max".
        """
        sign = 1 if kind == "min" else -1
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        having = [block for block in self.live() if name in block.stats and block.stats[name].finite]

        def bound(block: Block) -> float:
            return sign * (block.stats[name].low if kind == "min" else block.stats[name].high)

        found: tuple[int, Any] | None = None
        for block in sorted(having, key=bound):
            if found is not None and sign * found[1] <= bound(block):
                break
            for row in curve.rows(_calls(reader, spans, block)):
                value = _number(row.values.get(name))
                if value is not None and math.isfinite(value) and (found is None or sign * (value - found[1]) < 0):
                    found = row.step, row.values[name]
        return found


def _calls(reader: RunReader, spans: Sequence[Span], block: Block) -> Iterator[Call]:
    """The calls of a block of the curve, and those behind it that belong to its last row."""
    call: Call | None = None
    for call in reader.calls(clip(spans, block.first, block.last)):
        yield call
    step = call.step if call is not None else None
    for part in (clip(spans, block.last + 1, block.last + _BEHIND), clip(spans, block.last + _BEHIND + 1)):
        for call in reader.calls(part):
            if call.step != step:
                return
            yield call
