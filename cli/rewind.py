"""``tracker rewind``: say afterwards which step a run went on from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, NamedTuple

import typer

from offline_tracker import curve
from offline_tracker.errors import StoreError, TrackerError, UsageError
from offline_tracker.segment_store import held
from offline_tracker.store import RunReader

from .common import Chosen, RunArgument, RunsOption, named, reading


class _Place(NamedTuple):
    """Where the rewind goes: behind call *seq*; *attempt* is the one that comes after it, None at the run's end."""

    seq: int
    attempt: int | None


def rewind(
    run: RunArgument,
    step: Annotated[int, typer.Option("--step", metavar="N", help="The newest step that holds; -1: none.")],
    runs: RunsOption = None,
    end: Annotated[bool, typer.Option("--end", help="Cut the run's end; the next attempt goes on there.")] = False,
) -> None:
    """Say which step the newest attempt went on from.

    The older rows behind that step N are superseded. That is for a resume which nothing in its first call gave away.
    Where there is no such attempt, or with --end, the run's end is cut: the next attempt goes on behind N. Nothing is
    deleted: tracker export --all still shows it.
    """
    picked = named(run, runs)
    try:
        with held(picked.folder) as store:
            with reading(picked) as reader:
                place = _place(reader, end)
                superseded, last = _check(reader, picked, place, step)
                before = _rows(reader)
            store.rewind(place.seq, step, "tracker rewind")
    except sqlite3.Error as error:
        raise StoreError(f"can't write {picked.folder / 'run.db'}: {error}") from error
    with reading(picked) as reader:
        after, new_last = _rows(reader), reader.last_row_step(_spans(reader))
    who = "the next attempt goes" if place.attempt is None else f"attempt {place.attempt} went"
    where = f"on behind step {step}" if step >= 0 else "on from the beginning"
    print(
        f"run {picked.id}: {who} {where}; {superseded} rows ({_range(step + 1, last)}) are superseded; "
        f"the curve has {after} rows to step {new_last}, before {before}"
        if after
        else f"run {picked.id}: {who} {where}; {superseded} rows ({_range(step + 1, last)}) are superseded"
    )


def _range(first: int, last: int) -> str:
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _spans(reader: RunReader) -> list[curve.Span]:
    return curve.live_spans(reader.rewinds, reader.last_seq)


def _rows(reader: RunReader) -> int:
    return reader.count_rows(_spans(reader))


def _place(reader: RunReader, end: bool) -> _Place:
    begins = [attempt.after_seq for attempt in reader.attempts]
    with_calls: Iterable[tuple[int, int]] = [
        (attempt.after_seq, attempt.number)
        for attempt, (begin, until) in zip(reader.attempts, pairwise([*begins, reader.last_seq]), strict=True)
        if until > begin
    ]
    starts = list(with_calls)
    return _Place(reader.last_seq, None) if end or len(starts) < 2 else _Place(*starts[-1])


def _check(reader: RunReader, run: Chosen, place: _Place, step: int) -> tuple[int, int]:
    """Return how many rows a rewind would supersede, and the last of their steps; an error if it makes no sense."""
    behind = [rewind for rewind in reader.rewinds if rewind.seq >= place.seq]
    if any(rewind.seq > place.seq for rewind in behind):
        raise TrackerError(
            f"run {run.id!r} was rewound behind its newest attempt, to step {behind[-1].step}; only --end is possible"
        )
    spans = curve.live_spans((rewind for rewind in reader.rewinds if rewind.seq <= place.seq), place.seq)
    last = reader.last_row_step(spans)
    if last is None:
        raise UsageError(f"run {run.id!r} has no rows there; nothing can be superseded")
    if step < -1 or step >= last:
        known = f"; it goes on behind step {behind[0].step} already ({behind[0].reason})" if behind else ""
        where = "the last step" if place.attempt is None else f"the last step before attempt {place.attempt}"
        raise UsageError(f"--step {step}: {where} of run {run.id!r} is {last}, so use -1 to {last - 1}{known}")
    return reader.count_rows(spans) - (reader.count_rows(spans, step) if step >= 0 else 0), last
