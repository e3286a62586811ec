"""Watches a run grow: reads only what came since the last look."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from offline_tracker import curve
from offline_tracker.curve import Row
from offline_tracker.errors import StoreError
from offline_tracker.store import Attempt, Call, Rewind, RunInfo, RunReader

from .common import Chosen, reading
from .glance import clip
from .trace import Trace

_SETTLED_S = 2.0
"""How long after a call its row counts as whole, though it is open; and how old a file is whose stamp can be trusted."""
_CALLS_KEPT = 400
STALLED_S = 60.0

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

    def taken(self, reader: RunReader) -> None:
        """Remember what was looked at; the death of its newest attempt is a change too."""
        self._files = self._files_now
        self._newest = reader.attempts[-1] if reader.attempts else None
        self._alive = reader.state == "running"

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
    """

    def __init__(self, run: Chosen, newest: int | None = None) -> None:
        self.run = run
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
        if not self._watched.changed():
            yield from self._settle(end)
            return
        try:
            with reading(self.run) as reader:
                spans = curve.live_spans(reader.rewinds, reader.last_seq)
                if not self._begun and self._newest is not None:
                    self._seq = max(0, reader.last_seq - self._newest)
                self._begun = True
                self._open = [call for call in self._open if curve.holds(spans, call.seq, call.step)]
                for call in reader.calls(clip(spans, self._seq + 1)):
                    if self._open and call.step != self._open[-1].step:
                        yield from self._give()
                        self._open = []
                    self._open.append(call)
                    self._seq = call.seq
                yield from self._settle(end or reader.state != "running")
                self._watched.taken(reader)
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


class View:
    """
    What the live view shows of a run.

    Args:
        calls: look back so many calls for the traces.

    Attributes:
        error: why the run can't be read, or None.
        values: metric to its newest step and value, in the order of the calls.
        traces: metric to its course, over the calls that were read.
    """

    def __init__(self, run: Chosen, wanted: Wanted, calls: int) -> None:
        self.run = run
        self._wanted = wanted
        self._back = calls
        self._watched = Watched(run)
        self.error: str | None = None
        self.info: RunInfo | None = None
        self.state = ""
        self.attempt = 0
        self.last_at = 0.0
        self._rewinds: list[Rewind] | None = None
        self._forget()

    def _forget(self) -> None:
        self._seq: int | None = None
        self._calls: deque[Call] = deque(maxlen=_CALLS_KEPT)
        self.values: dict[str, tuple[int, Any]] = {}
        self.traces: dict[str, Trace] = {}
        self.step: int | None = None

    @property
    def stalled_s(self) -> float | None:
        """For how many seconds nothing came, when that is long for a run that is running; else None."""
        seconds = time.time() - self.last_at
        return seconds if self.state == "running" and seconds > STALLED_S else None

    def refresh(self) -> None:
        """Take in what is new."""
        if not self._watched.changed():
            return
        try:
            with reading(self.run) as reader:
                self._take(reader)
                self._watched.taken(reader)
            self.error = None
        except StoreError as error:
            self.error = str(error)

    def _take(self, reader: RunReader) -> None:
        if reader.rewinds != self._rewinds:  # what was read may not hold any more
            self._rewinds = reader.rewinds
            self._forget()
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        first = max(0, reader.last_seq - self._back) if self._seq is None else self._seq
        last_at = self.last_at
        for call in reader.calls(clip(spans, first + 1)):
            last_at = call.time
            if not call.values:
                continue
            self._calls.append(call)
            self.step = call.step
            for name, value in call.values.items():
                self.values[name] = (call.step, value)
                if isinstance(value, int | float) and self._wanted(name):
                    if name not in self.traces:
                        self.traces[name] = Trace()
                    self.traces[name].add(value)
        self._seq = reader.last_seq
        self.info, self.state, self.attempt = reader.info, reader.state, len(reader.attempts)
        self.last_at = max(last_at, reader.attempts[-1].started_at if reader.attempts else 0.0)

    def newest_rows(self, count: int) -> list[Row]:
        """Return the newest rows with a metric that is wanted, the newest last."""
        rows = only_wanted(curve.rows(self._calls), self._wanted)
        return list(deque(rows, maxlen=count))


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
