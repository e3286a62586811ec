"""
Calls and rewinds become rows; pure functions, no SQL.

A rewind at call *r* to step *s* says: of the calls up to *r*, those whose step is above *s* do not hold any more. So a
call holds if no rewind behind it is to a step below its own. Between two rewinds one cap is true for all calls, and along
the calls that hold the step never falls: that is what lets everything here work on a stream.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Span(NamedTuple):
    """Calls *first* to *last*, of which those up to step *cap* hold (None: all)."""

    first: int
    last: int
    cap: int | None


class Row(NamedTuple):
    """
    What one step shows: of each metric the value that was logged last, and the time (unix seconds) of the last call.

    *seq* is that call's.
    """

    step: int
    time: float
    values: Mapping[str, Any]
    seq: int


class _Rewind(Protocol):
    @property
    def seq(self) -> int: ...
    @property
    def step(self) -> int: ...


class _Call(Protocol):
    @property
    def seq(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def time(self) -> float: ...
    @property
    def values(self) -> Mapping[str, Any]: ...


def live_spans(rewinds: Iterable[_Rewind], last_seq: int) -> list[Span]:
    """Return the stretches of the calls 1 to *last_seq* that hold, in order."""
    caps: dict[int, int] = {}
    for rewind in rewinds:
        seq = min(rewind.seq, last_seq)
        caps[seq] = min(rewind.step, caps.get(seq, rewind.step))
    spans: list[Span] = []
    cap: int | None = None
    end = last_seq
    for seq in sorted(caps, reverse=True):  # from the back, so that the caps behind a stretch are known
        if seq < end:
            spans.append(Span(seq + 1, end, cap))
        cap = caps[seq] if cap is None else min(cap, caps[seq])
        end = seq
    if end > 0:
        spans.append(Span(1, end, cap))
    return spans[::-1]


def holds(spans: Sequence[Span], seq: int, step: int) -> bool:
    """Return whether a call is on the curve."""
    return any(span.first <= seq <= span.last and (span.cap is None or step <= span.cap) for span in spans)


def rows(calls: Iterable[_Call]) -> Iterator[Row]:
    """
    Merge calls that hold, in their order, into rows; a call without a value makes none.

    Args:
        calls: as `RunReader.calls` gives them for `live_spans`.
    """
    step: int | None = None
    seq, time, values = 0, 0.0, {}  # type: int, float, dict[str, Any]
    for call in calls:
        if call.step != step:
            if values and step is not None:
                yield Row(step, time, values, seq)
            step, values = call.step, {}
        if call.values:
            seq, time = call.seq, call.time
            values.update(call.values)
    if values and step is not None:
        yield Row(step, time, values, seq)


def sendable_step(last: tuple[int, bool] | None, mark: int | None, ended: bool, eager: bool) -> int | None:
    """
    Return the highest step whose row no rewind and no later call can change any more, or None if there is none.

    Args:
        last: step of the newest call that holds, and whether that call closed its row.
        mark: step of the newest mark that holds, or None without marks.
        ended: the run has finished: all of it may go.
        eager: let all go but an open row, though a rewind may come.
    """
    if last is None:
        return None
    step, closed = last
    if ended:
        return step
    newest = step if closed else step - 1
    return newest if eager or mark is None else min(mark, newest)


def lost_steps(rewinds: Iterable[_Rewind], sent_seq: int, sent_step: int) -> tuple[int, int] | None:
    """
    Return the first and last step that a remote holds from a branch that died since, or None.

    Args:
        sent_seq: the newest call that was sent.
        sent_step: its step.
    """
    steps = [rewind.step for rewind in rewinds if rewind.seq >= sent_seq and rewind.step < sent_step]
    return (min(steps) + 1, sent_step) if steps else None


def runtime(
    after_seqs: Sequence[int],
    started_at: Sequence[float],
    last_times: Sequence[float | None],
    downtime: bool = False,
) -> tuple[Callable[[int, float], float], float]:
    """
    Return what tells the seconds that a run had run at a call, and how long it has run in all.

    The clock stands still between attempts, and what a rewind took back did not happen: an attempt goes on from the last
    call that holds before it.

    Args:
        after_seqs: of each attempt, the run's newest call before it; *started_at* its start, in unix seconds.
        last_times: the time of its newest call that holds, None if there is none.
        downtime: let the clock go on between attempts.
    """
    offsets: list[float] = []
    total = 0.0
    for start, last in zip(started_at, last_times, strict=True):
        offsets.append(max(0.0, start - started_at[0]) if downtime else total)
        total = offsets[-1] + max(0.0, last - start) if last is not None else total

    def seconds(seq: int, time: float) -> float:
        attempt = max(0, bisect_left(after_seqs, seq) - 1)
        return max(0.0, offsets[attempt] + time - started_at[attempt])

    return seconds, total
