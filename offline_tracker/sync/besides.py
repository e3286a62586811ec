"""What a run has beside its rows, in the order in which it came, so that a count says which of it a remote holds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property

from .. import console, curve, findings, store
from ..alerts import Finding
from ..store import RunReader
from ..values import SEPARATOR
from .remotes import Alert, Besides, Line, Sample, Tally


class Local:
    """
    The samples, console lines and alerts of one reader.

    Args:
        runtime: seconds that the run had run at a call, of (seq, time).
        alerts: whether alerts go as such; else they stand among the lines of the console.
    """

    def __init__(self, reader: RunReader, runtime: Callable[[int, float], float], alerts: bool) -> None:
        self._reader, self._runtime, self._has_alerts = reader, runtime, alerts

    @cached_property
    def tally(self) -> Tally:
        """How much there is of it."""
        return Tally(self._reader.count_samples(), len(self._lines))

    @cached_property
    def _lines(self) -> list[Line]:
        runs = [(attempt.number, attempt.alive()) for attempt in self._reader.attempts]
        lines = [Line(*printed) for printed in console.read(self._reader.folder / "files", runs)]
        return [line for line in lines if not self._has_alerts or line.source != "alert"]

    @cached_property
    def alerts(self) -> list[store.Alert]:
        """What the training called attention to, as far as it goes up as alerts."""
        return self._reader.alerts() if self._has_alerts else []

    @cached_property
    def findings(self) -> list[Finding]:
        """What rules found; the first ones stay the first."""
        return findings.stored(self._reader.folder)

    def alerts_upto(self, seq: int) -> tuple[int, int]:
        """Return how many alerts came before the call after *seq*, and how many findings are of it."""
        return (
            sum(alert.seq <= seq for alert in self.alerts),
            max((number for number, finding in enumerate(self.findings, 1) if finding.seq <= seq), default=0),
        )

    def above(self, held: Tally, alerts: int, told: int) -> Besides:
        """Return what comes after what a remote holds, and after so many alerts and findings."""
        samples, lines = held.samples or 0, held.lines or 0
        starts = [attempt.started_at for attempt in self._reader.attempts]
        after = [attempt.after_seq for attempt in self._reader.attempts]

        def seconds(time: float) -> float:
            return self._runtime(after[max(0, bisect_right(starts, time) - 1)] + 1, time)

        return Besides(
            [Sample(time, seconds(time), values) for time, values in self._reader.samples(samples)],
            self._lines[lines:],
            [*self._said(alerts), *self._found(told)] if self._has_alerts else [],
            samples,
            lines,
        )

    def _said(self, first: int) -> Iterator[Alert]:
        for _, _, title, text, level in self.alerts[first:]:
            yield Alert(title, text, _level(level))

    def _found(self, first: int) -> Iterator[Alert]:
        reader = self._reader
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        live = {id(one) for one in findings.on_curve(self.findings, spans)}
        for one in self.findings[first:]:
            if id(one) in live:
                name = one.metric.replace(SEPARATOR, ".")
                yield Alert(" ".join(filter(None, (name, one.rule))), f"step {one.step}: {one.text}", _level(one.level))


def _level(level: str) -> str:
    return level.upper() if level.upper() in ("INFO", "WARN", "ERROR") else "INFO"
