"""
What in a curve somebody should look at: rules that judge its rows one after the other; pure, in bounded memory.

The rules of thumb are for losses and learning rates, known by their names; `parse` makes a rule of a user's own words.
"""

from __future__ import annotations

import math
import operator
import re
import statistics
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .curve import Row
from .errors import UsageError
from .values import SEPARATOR

INFO, WARN, ERROR = "INFO", "WARN", "ERROR"

_WINDOW_ROWS = 50
_SPIKE_Z = 10.0
_DIVERGED_ROWS = 100
_HALF_LIFE_ROWS = 50
_PLATEAU_ROWS = 1000
_PLATEAU_SHARE = 0.2
_ZERO_ROWS = 20
_STALL_S = 300.0
_STALL_TIMES = 20.0
_LOSS = re.compile(r"loss|perplexity|ppl", re.IGNORECASE)
_RATE = re.compile(r"(?:^|[^a-z])(?:lr|learning_?rate)(?:$|[^a-z])", re.IGNORECASE)
_RULE = re.compile(r"\s*(\S+)\s*(<=|>=|==|!=|<|>)\s*(\S+?)(?:\s+for\s+(\d+)\s+rows?)?\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class Finding(NamedTuple):
    """Something to look at: *rule* names why, *time* in unix seconds, *level* INFO, WARN or ERROR."""

    rule: str
    metric: str
    step: int
    time: float
    seq: int
    text: str
    level: str


class Rule:
    """Judges the values of one metric, in order; what it says twice in a row it says once."""

    name = ""
    level = WARN

    def see(self, value: float) -> str | None:
        """Return what is the matter at this row, None if nothing is."""
        raise NotImplementedError


class NotFinite(Rule):
    """NaN or infinity."""

    name, level = "not finite", ERROR

    def see(self, value: float) -> str | None:
        return None if math.isfinite(value) else f"is {value}"


class Spike(Rule):
    """
    A value far above the last `_WINDOW_ROWS`, by their median and its absolute deviation.

    Source of the robust z: Iglewicz & Hoaglin 1993, "How to detect and handle outliers".
    """

    name = "spike"

    def __init__(self) -> None:
        self._window: deque[float] = deque()
        self._sorted: list[float] = []

    def see(self, value: float) -> str | None:
        if not math.isfinite(value):
            return None
        said = None
        if len(self._window) == _WINDOW_ROWS:
            middle = self._sorted[_WINDOW_ROWS // 2]

            def deviations(deviation: float) -> float:
                return (value - middle) / max(1.4826 * deviation, 1e-3 * abs(middle), 1e-300)

            # Fewer than half of the window lie between its quarters, so the median deviation is no less than the nearer
            # one: that is enough for nearly every row, and a tenth of the work.
            quarter = _WINDOW_ROWS // 4
            z = deviations(min(middle - self._sorted[quarter], self._sorted[-1 - quarter] - middle))
            if z > _SPIKE_Z:
                z = deviations(statistics.median(abs(other - middle) for other in self._window))
            if z > _SPIKE_Z:
                said = f"jumps to {value:.5g}, {z:.0f} deviations above the median {middle:.5g} of {_WINDOW_ROWS} rows"
            self._sorted.remove(self._window.popleft())
        self._window.append(value)
        insort(self._sorted, value)
        return said


class Divergence(Rule):
    """Half of what the smoothed loss had gained is lost again, for `_DIVERGED_ROWS`."""

    name, level = "divergence", ERROR

    def __init__(self) -> None:
        self._mean = _Mean()
        self._first = self._least = math.nan
        self._rows = 0

    def see(self, value: float) -> str | None:
        mean = self._mean.add(value)
        if self._mean.rows < _HALF_LIFE_ROWS:
            return None
        if self._mean.rows == _HALF_LIFE_ROWS:
            self._first = self._least = mean
        self._least = min(self._least, mean)
        gained = self._first - self._least
        self._rows = self._rows + 1 if mean - self._least > max(gained / 2, 0.1 * abs(self._least)) else 0
        if self._rows < _DIVERGED_ROWS:
            return None
        return f"has risen from {self._least:.5g} to {mean:.5g} (smoothed) and stays there for {_DIVERGED_ROWS} rows"


class Plateau(Rule):
    """The smoothed loss has not become less for a thousand rows, and a fifth of all."""

    name, level = "plateau", INFO

    def __init__(self) -> None:
        self._mean = _Mean()
        self._least = math.inf
        self._at = 0

    def see(self, value: float) -> str | None:
        mean = self._mean.add(value)
        if mean < self._least - 1e-3 * abs(self._least) or not math.isfinite(self._least):
            self._least, self._at = mean, self._mean.rows
        rows = self._mean.rows - self._at
        if rows < max(_PLATEAU_ROWS, _PLATEAU_SHARE * self._mean.rows):
            return None
        return f"has not become less than {self._least:.5g} (smoothed) for {max(_PLATEAU_ROWS, rows)} rows"


class Zero(Rule):
    """A learning rate that is zero, and stays so."""

    name = "zero"

    def __init__(self) -> None:
        self._rows = 0

    def see(self, value: float) -> str | None:
        self._rows = self._rows + 1 if value == 0.0 else 0
        return f"is 0 for {_ZERO_ROWS} rows" if self._rows >= _ZERO_ROWS else None


class Own(Rule):
    """A user's rule; see `parse`."""

    def __init__(self, text: str, compare: str, bound: float, rows: int) -> None:
        self.name = text
        self._compare = _COMPARE[compare]
        self._bound = bound
        self._wanted = rows
        self._rows = 0

    def see(self, value: float) -> str | None:
        self._rows = self._rows + 1 if self._compare(value, self._bound) else 0
        if self._rows < self._wanted:
            return None
        return f"is {value:.5g}" + (f", for {self._wanted} rows" if self._wanted > 1 else "")


class _Mean:
    """A debiased exponential moving average of what is finite; Kingma & Ba 2015, section 3."""

    def __init__(self) -> None:
        self._decay = 0.5 ** (1 / _HALF_LIFE_ROWS)
        self._sum = self._weight = 0.0
        self.rows = 0

    def add(self, value: float) -> float:
        if math.isfinite(value):
            self._sum = self._decay * self._sum + value
            self._weight = self._decay * self._weight + 1.0
            self.rows += 1
        return self._sum / self._weight if self._weight else math.nan


class UserRule(NamedTuple):
    """What a user wants to be told of: *metric* as it was written, and how the rule is made anew for a run."""

    metric: str
    make: Callable[[], Rule]


def parse(text: str) -> UserRule:
    """
    Return the rule that *text* says, such as ``loss > 3 for 50 rows`` or ``grad.norm >= 100``.

    Raises:
        UsageError: it does not say one.
    """
    match = _RULE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        metric, compare, bound, rows = match[1], match[2], float(match[3]), int(match[4] or 1)
    except ValueError:
        raise UsageError(
            f'rule {text!r}: use "METRIC > NUMBER", with one of < <= > >= == !=, and "for N rows"'
        ) from None
    return UserRule(metric, lambda: Own(" ".join(text.split()), compare, bound, max(1, rows)))


class Judge:
    """
    Judges the rows of one run as they come.

    Args:
        own: rules of the user, besides those that are always there.
    """

    def __init__(self, own: Sequence[UserRule] = ()) -> None:
        self._own = own
        self._rules: dict[str, list[Rule]] = {}
        self._saying: dict[tuple[str, str], bool] = {}
        self._pace = _Pace()
        self._last: Row | None = None

    def see(self, row: Row, starts: Sequence[float] = ()) -> Iterator[Finding]:
        """
        Yield what there is to look at in the next row; one that comes again has got more values.

        Args:
            starts: when each attempt began, unix seconds: between two of them no rows are missing.
        """
        last, self._last = self._last, row
        again = last is not None and last.step == row.step
        if (said := self._pace.see(row.time, starts)) is not None and last is not None:
            yield Finding("stall", "", last.step, last.time, last.seq, said, WARN)  # as `wait` has it
        for metric, value in row.values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if again and last is not None and metric in last.values:
                continue
            if metric not in self._rules:
                self._rules[metric] = _rules_for(metric, self._own)
            for rule in self._rules[metric]:
                said = rule.see(value)
                key = metric, rule.name
                if said is not None and not self._saying.get(key):
                    yield Finding(rule.name, metric, row.step, row.time, row.seq, said, rule.level)
                self._saying[key] = said is not None

    def wait(self, now: float, starts: Sequence[float] = ()) -> Finding | None:
        """
        Return that no row has come for a long time up to *now*, once; the next row does not say it again.

        Args:
            starts: as for `see`: an attempt that has no row yet is no stall, however long the run was down before.
        """
        if self._last is None or (said := self._pace.wait(now, starts)) is None:
            return None
        return Finding("stall", "", self._last.step, self._last.time, self._last.seq, said, WARN)


def _rules_for(metric: str, own: Sequence[UserRule]) -> list[Rule]:
    name = metric.replace(SEPARATOR, ".")
    rules: list[Rule] = [NotFinite()]
    if _LOSS.search(name):
        rules += [Spike(), Divergence(), Plateau()]
    if _RATE.search(name):
        rules.append(Zero())
    return rules + [rule.make() for rule in own if rule.metric == name]


class _Pace:
    """Tells of a long time without a row, where rows had come at a steady pace; the downtime of a resume is none."""

    def __init__(self) -> None:
        self._before = math.nan
        self._recent: deque[float] = deque(maxlen=_WINDOW_ROWS)
        self._waited = False

    def see(self, at: float, starts: Sequence[float]) -> str | None:
        before, self._before = self._before, at
        waited, self._waited = self._waited, False
        seconds = at - before
        if not seconds >= 0 or (seconds >= _STALL_S and any(before < start <= at for start in starts)):
            return None
        said = None if waited else self._said(seconds)
        self._recent.append(seconds)
        return said

    def wait(self, now: float, starts: Sequence[float]) -> str | None:
        if self._waited or any(self._before < start <= now for start in starts):
            return None
        if (said := self._said(now - self._before)) is None:
            return None
        self._waited = True
        return said

    def _said(self, seconds: float) -> str | None:
        usual = statistics.median(self._recent) if len(self._recent) > 5 and seconds >= _STALL_S else 0.0
        if not usual or seconds < max(_STALL_S, _STALL_TIMES * usual):
            return None
        return f"no row came for {seconds:.0f} s, where one had come every {usual:.3g} s"
