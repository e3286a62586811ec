"""Watches a run grow: reads only what came since the last look."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from offline_tracker import alerts, curve, findings
from offline_tracker.alerts import Finding, UserRule
from offline_tracker.curve import Row, Span
from offline_tracker.errors import StoreError, TrackerError
from offline_tracker.store import Attempt, Call, Rewind, RunInfo, RunReader

from .alerts import Notice, notices, said
from .common import Chosen, reading
from .glance import clip, goals, time_left
from .history import History

_SETTLED_S = 2.0
"""How long after a call its row counts as whole, though it is open; and how old a file is whose stamp can be trusted."""
STALLED_S = 60.0
_JUDGED_ROWS = 1_000
"""With so many rows the live view begins to judge, and so many before that say what is usual."""
_PACE_S = 60.0
_PACE_BLOCKS = 400
_WINDOWS = 20

Wanted = Callable[[str], bool]
"""Whether a metric is to be shown."""


class Watched:
    """A run, opened anew only when something about it changed."""

    def __init__(self, run: Chosen) -> None:
        self.run = run
        self._newest: Attempt | None = None
        self._alive = False
        self._files: object = None
        self._files_now: object = None

    def changed(self) -> bool:
        """Return whether a look is worth it since the last one that was `taken`."""
        self._files_now, changed_at = self._look_at_files()
        if self._files_now != self._files or abs(time.time() - changed_at) < _SETTLED_S:
            return True  # two commits within one tick of the file's clock look the same
        return self._alive and self._newest is not None and not self._newest.alive()

    def taken(self, reader: RunReader, running: bool) -> None:
        """
        Remember what was looked at; the death of its newest attempt is a change too.

        Args:
            running: as was taken from it: asked again it may have died meanwhile, and nobody would be told.
        """
        self._files = self._files_now
        self._newest = reader.attempts[-1] if reader.attempts else None
        self._alive = running

    def _look_at_files(self) -> tuple[object, float]:
        try:
            stats = [
                (path.name, stat.st_size, stat.st_mtime_ns)
                for path in sorted(self.run.folder.iterdir())
                if path.name.startswith(("run.db", "journal-", "segments"))
                for stat in [path.stat()]
            ]
        except OSError:  # a journal that was there a moment ago
            return None, time.time()
        return stats, max((stat[2] for stat in stats), default=0) / 1e9


class Stream:
    """
    Gives each row of a run once; one that gets more values afterwards is given again, whole.

    Args:
        newest: begin with about so many rows; None: with the first.

    Attributes:
        starts: when each attempt began, unix seconds, as of the last look; *running* whether more rows should come;
            *spans* what is on the curve.
        said: what the training said with alert() since the look before.
    """

    def __init__(self, run: Chosen, newest: int | None = None) -> None:
        self.run = run
        self.starts: Sequence[float] = ()
        self.running = False
        self.spans: Sequence[Span] = ()
        self.said: list[Notice] = []
        self._alerts = 0
        self._watched = Watched(run)
        self._newest = newest
        self._begun = False
        self._seq = 0
        self._given = 0
        self._open: list[Call] = []
        self._complaint = ""

    def rows(self, end: bool = False) -> Iterator[Row]:
        """
        Yield the rows that came since the last time.

        Args:
            end: nobody asks again, so the open row is one too.

        Raises:
            StoreError: the run can't be read now; raised again only for another reason.
        """
        self.said = []
        if not self._watched.changed():
            yield from self._settle(end)
            return
        try:
            with reading(self.run) as reader:
                spans = curve.live_spans(reader.rewinds, reader.last_seq)
                if not self._begun and self._newest is not None:
                    self._seq = max(0, reader.last_seq - self._newest)
                    self._alerts = sum(alert.seq <= self._seq for alert in reader.alerts())
                self._begun = True
                self.said = said(reader, self._alerts)
                self._alerts += len(self.said)
                self.spans = spans
                self.starts = [attempt.started_at for attempt in reader.attempts]
                self.running = reader.state == "running"
                self._open = [call for call in self._open if curve.holds(spans, call.seq, call.step)]
                for call in reader.calls(clip(spans, self._seq + 1)):
                    if self._open and call.step != self._open[-1].step:
                        yield from self._give()
                        self._open = []
                    self._open.append(call)
                    self._seq = call.seq
                yield from self._settle(end or reader.state != "running")
                self._watched.taken(reader, self.running)
        except StoreError as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                raise

    def _settle(self, whole: bool) -> Iterator[Row]:
        if self._open:
            last = self._open[-1]
            if whole or last.closes or time.time() - last.time > _SETTLED_S:
                yield from self._give()

    def _give(self) -> Iterator[Row]:
        for row in curve.rows(self._open):
            if row.seq > self._given:
                self._given = row.seq
                yield row


class Guard:
    """
    Judges the rows of a run as they come, and keeps with the run what it finds.

    It begins with what is usual, from the rows before the first one; and anew when a rewind takes back what it has seen.

    Args:
        own: the user's rules.
    """

    def __init__(self, stream: Stream, own: Sequence[UserRule]) -> None:
        self._stream = stream
        self._own = own
        self._judge = alerts.Judge(own)
        self._last: Row | None = None

    def see(self, row: Row) -> list[Finding]:
        """Return what there is to look at in the next row of the stream."""
        last, self._last = self._last, row
        if last is None or not curve.holds(self._stream.spans, last.seq, last.step):
            self._judge = alerts.Judge(self._own)
            with reading(self._stream.run) as reader:
                for before in _rows_before(reader, row):
                    for _ in self._judge.see(before, self._stream.starts):
                        pass  # it was told when it came, or it is long past
        return self._keep(self._judge.see(row, self._stream.starts))

    def wait(self) -> list[Finding]:
        """Return that no row has come for too long, once."""
        waiting = self._judge.wait(time.time(), self._stream.starts) if self._stream.running else None
        return self._keep([] if waiting is None else [waiting])

    def _keep(self, found: Iterable[Finding]) -> list[Finding]:
        found = list(found)
        findings.store(self._stream.run.folder, found, self._stream.spans)
        return found


def _rows_before(reader: RunReader, row: Row) -> Iterator[Row]:
    """Return the newest rows of the curve before *row*, about `_JUDGED_ROWS` of them."""
    parts: list[Span] = []
    left = _JUDGED_ROWS
    for span in reversed(clip(curve.live_spans(reader.rewinds, reader.last_seq), 1, row.seq)):
        upto = row.step - 1 if span.cap is None else min(row.step - 1, span.cap)
        last = reader.last_within(span.first, span.last, upto)
        if last is not None and left > 0:
            parts.append(Span(max(span.first, last - left + 1), last, span.cap))
            left -= last - parts[-1].first + 1
    return curve.rows(reader.calls(parts[::-1]))


class Pace(NamedTuple):
    """
    Steps a second.

    Attributes:
        now: over the last minute or so.
        mean: over the stretches that *slow* and *fast* are the 10th and 90th percentile of; these are None while there
            are too few.
    """

    now: float
    mean: float
    slow: float | None
    fast: float | None


class Left(NamedTuple):
    """
    The time left, and when it is over (unix seconds).

    Attributes:
        of: "training", or "epoch" where that is all that is known.
        low, high: the seconds left at the pace of fast and of slow stretches, None while that is not known.
    """

    seconds: float
    of: str
    end_at: float
    low: float | None
    high: float | None


class View:
    """
    What the live view knows of a run.

    Attributes:
        error: why the run can't be read, or None.
        values: metric to its newest step and value, in the order of the calls.
        alerts: what the training said, and what rules found on the curve, oldest first.
        goals: what define_metric said of where metrics are best; see `glance.goals`.
    """

    def __init__(self, run: Chosen, own: Sequence[UserRule] = ()) -> None:
        self.run = run
        self._watched = Watched(run)
        self._stream = Stream(run, _JUDGED_ROWS)
        self._guard = Guard(self._stream, own)
        self._found: list[Finding] = []
        self._reader: RunReader | None = None
        self.history = History()
        self.error: str | None = None
        self.info: RunInfo | None = None
        self.state = ""
        self.attempts: Sequence[Attempt] = ()
        self.rewinds: Sequence[Rewind] = ()
        self.alerts: Sequence[Notice] = ()
        self.goals: Mapping[str, str] = {}
        self.values: dict[str, tuple[int, Any]] = {}
        self.step: int | None = None
        self.last_at = 0.0

    @property
    def behind(self) -> bool:
        """Whether there is something left to `catch_up` with."""
        return self._reader is not None

    def refresh(self, seconds: float) -> None:
        """Take in what is new; read for about so long, the rest is for `catch_up`."""
        found = self._judge()
        if not self._watched.changed() and not found:
            return
        self._found += found
        self.close()
        try:
            self._reader = self.run.runs.read(self.run.id)
            self._take(self._reader)
            self._watched.taken(self._reader, self.state == "running")
            self.error = None
        except (TrackerError, OSError, ValueError) as error:
            self._fail(error)
        else:
            self.catch_up(seconds)

    def _judge(self) -> list[Finding]:
        try:
            found = [one for row in self._stream.rows() for one in self._guard.see(row)]
            return found + self._guard.wait()
        except (TrackerError, OSError, ValueError):
            return []  # whoever draws the run meets the same error, and shows it

    def catch_up(self, seconds: float) -> None:
        """Go on to read for about so long."""
        if self._reader is None:
            return
        try:
            if self.history.read(self._reader, seconds):
                self.close()
        except (TrackerError, OSError, ValueError) as error:
            self._fail(error)
            return
        self.values = self.history.newest()
        live = self.history.live()
        self.step = live[-1].steps[1] if live else None
        started_at = self.attempts[-1].started_at if self.attempts else 0.0
        self.last_at = max((block.times[1] for block in self.history.blocks[-8:]), default=0.0)
        self.last_at = max(self.last_at, started_at)

    def _fail(self, error: Exception) -> None:
        self.error = str(error)
        self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _take(self, reader: RunReader) -> None:
        self.history.extend(reader)
        self.info, self.state = reader.info, reader.state
        self.attempts, self.rewinds = reader.attempts, reader.rewinds
        known = findings.stored(self.run.folder)
        found = [*known, *(one for one in self._found if one not in known)]
        self.alerts = notices(reader, curve.live_spans(reader.rewinds, reader.last_seq), found)
        self.goals = goals(reader.definitions())

    @property
    def stalled_s(self) -> float | None:
        """For how many seconds nothing came, when that is long for a run that is running; else None."""
        seconds = time.time() - self.last_at
        return seconds if self.state == "running" and seconds > STALLED_S else None

    def seconds_run(self) -> list[float]:
        """
        Return for each attempt what, added to a time of its calls, gives the seconds that the run had run by then.

        The clock stands still between attempts, and what a rewind took back did not happen, as `curve.runtime` has it.
        """
        last: dict[int, float] = {}
        for block in self.history.live():
            last[block.attempt] = block.times[1]
        offsets, total = [], 0.0
        for attempt in self.attempts:
            offsets.append(total - attempt.started_at)
            total += max(0.0, last.get(attempt.number, 0.0) - attempt.started_at)
        return offsets

    def pace(self) -> Pace | None:
        """Return how fast the newest attempt is, None while that is not known."""
        blocks = [block for block in self.history.live() if block.attempt == len(self.attempts)][-_PACE_BLOCKS:]
        if not blocks:
            return None
        ends = [(blocks[0].times[0], blocks[0].steps[0]), *((block.times[1], block.steps[1]) for block in blocks)]
        if not _speed(ends[0], ends[-1]):
            return None
        since = next((end for end in reversed(ends) if ends[-1][0] - end[0] >= _PACE_S), ends[0])
        windows = min(_WINDOWS, len(ends) - 1)
        edges = [ends[index * (len(ends) - 1) // windows] for index in range(windows + 1)]
        speeds = sorted(speed for pair in pairwise(edges) if (speed := _speed(*pair)))
        enough = len(speeds) >= _WINDOWS // 2
        return Pace(
            _speed(since, ends[-1]),
            _speed(ends[0], ends[-1]),
            speeds[len(speeds) // 10] if enough else None,
            speeds[-1 - len(speeds) // 10] if enough else None,
        )

    def left(self) -> Left | None:
        """Return the time left of a run that is running: as the training itself says, else from its pace."""
        if self.state != "running":
            return None
        pace, known = self.pace(), time_left(self.values)
        total = self.info.total_steps if self.info else None
        if known is None or known[1] == "epoch":
            if total and self.step is not None and pace is not None and pace.mean:
                known = max(0, total - self.step) / pace.mean, "training"
            if known is None:
                return None
        seconds, of = known
        now = time.time()
        if not math.isfinite(seconds):
            return None
        if self.stalled_s is None:
            seconds = max(0.0, seconds - max(0.0, now - self.last_at))
        low = high = None
        if pace is not None and pace.slow and pace.fast:
            low, high = seconds * min(1.0, pace.mean / pace.fast), seconds * max(1.0, pace.mean / pace.slow)
        return Left(seconds, of, now + seconds, low, high)

    def must_end_at(self, limit_s: float | None) -> float | None:
        """
        Return when the newest attempt will be ended (unix seconds), None if nothing says so.

        Args:
            limit_s: seconds from its start on; None: what the scheduler told it.
        """
        if not self.attempts or self.state != "running":
            return None
        newest = self.attempts[-1]
        if limit_s is not None:
            return newest.started_at + limit_s
        try:
            return float(newest.environment.get("slurm_job_end_time") or 0) or None
        except (TypeError, ValueError):
            return None


def _speed(one: tuple[float, int], other: tuple[float, int]) -> float:
    seconds = other[0] - one[0]
    return (other[1] - one[1]) / seconds if seconds > 0 else 0.0


def only_wanted(rows: Iterable[Row], wanted: Wanted) -> Iterator[Row]:
    """Yield rows with the metrics that are *wanted*, but none without any."""
    for row in rows:
        values: Mapping[str, Any] = {name: value for name, value in row.values.items() if wanted(name)}
        if values:
            yield row._replace(values=values)


def every(seconds: float) -> Iterator[None]:
    """Yield at once, and then every so many seconds, for ever."""
    for _ in itertools.count():
        yield
        time.sleep(seconds)
