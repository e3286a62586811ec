"""A run at a glance: its state and its newest loss, learning rate and time left, without reading all of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from offline_tracker import curve
from offline_tracker.curve import Span
from offline_tracker.store import Call, Gap, RunReader

from .words import duration, number, plural, shown

_WINDOWS = (200, 2_000, 20_000)
"""How many calls are read from the end until a loss is among them."""
_LR = re.compile(r"(?:^|[^a-z])(?:lr|learning_?rate)(?:$|[^a-z])")
_EVALUATION = re.compile(r"(?:^|[^a-z])(?:val|valid|validation|eval|test)")
_LOWER = re.compile("loss|err|ppl|perplexity")
_HIGHER = re.compile("acc|reward|score|bleu|rouge|f1|auc|mfu|tokens_per_s|throughput")
_NO_LOSS = re.compile(r"loss_?scale")
_KINDS = {"min": "min", "minimize": "min", "max": "max", "maximize": "max"}
ETA, _EPOCH_LEFT = "eta", "epoch_time"

Values = Mapping[str, tuple[int, Any]]
"""Metric to its newest step and value."""


def loss_of(metrics: Iterable[str]) -> str | None:
    """Return the metric to show as the loss: ``loss``, else the plainest name with "loss" in it, evaluations last."""
    names = [name for name in metrics if "loss" in shown(name).lower()]

    def rank(name: str) -> tuple[bool, bool, bool, int, str]:
        text = shown(name).lower()
        return text != "loss", _EVALUATION.search(text) is not None, not text.endswith("loss"), len(text), text

    return min(names, key=rank, default=None)


def lr_of(metrics: Iterable[str]) -> str | None:
    """Return the metric to show as the learning rate: the shortest name with ``lr`` or ``learning_rate`` as a word."""
    names = [name for name in metrics if _LR.search(shown(name).lower())]
    return min(names, key=lambda name: (shown(name).lower() != "lr", len(name), name), default=None)


def goals(definitions: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what define_metric said of where metrics, or globs, are best, "min" or "max": the goal, else the summary."""
    said = {
        name: [_KINDS.get(str(options.get(key))) for key in ("goal", "summary")]
        for name, options in definitions.items()
    }
    return {shown(name): kind for name, (goal, summary) in said.items() if (kind := goal or summary)}


def best_is(metric: str, known: Mapping[str, str]) -> str | None:
    """
    Return whether the "min" or the "max" of a metric is its best, None if nobody knows.

    Args:
        known: `goals` of the runs; else the name tells.
    """
    text = shown(metric)
    globs = (kind for name, kind in known.items() if fnmatchcase(text, name))
    if kind := known.get(text) or next(globs, None):
        return kind
    if _NO_LOSS.search(text.lower()):
        return None
    return "min" if _LOWER.search(text.lower()) else "max" if _HIGHER.search(text.lower()) else None


def time_left(values: Values) -> tuple[float, str] | None:
    """Return the seconds left and of what: "training" (metric eta), or "epoch" (MiniMind's epoch_Time, minutes)."""
    lower = {name.lower(): value for name, (_, value) in values.items()}
    for name, factor, of in ((ETA, 1.0, "training"), (_EPOCH_LEFT, 60.0, "epoch")):
        if isinstance(value := lower.get(name), int | float):
            return value * factor, of
    return None


def eta_text(left: tuple[float, str] | None) -> str:
    """Return the time left for people; an epoch's in minutes, as MiniMind prints it."""
    if left is None:
        return ""
    return duration(left[0]) if left[1] == "training" else f"{number(left[0] / 60, 3)}min (epoch)"


def gaps_text(lost: Sequence[int]) -> str:
    """Return how many calls were lost, given for each gap, such as "2 gaps, 1200 calls lost"; "" if none was."""
    return f"{plural(len(lost), 'gap')}, {plural(sum(lost), 'call')} lost" if lost else ""


def gap_json(gap: Gap) -> dict[str, Any]:
    """Return a gap for JSON."""
    return {"after_call": gap.seq, "time": gap.time, "calls": gap.calls, "why": gap.reason}


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return a config with its nested mappings flattened, their keys joined by dots."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out.update(flat(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {f"{path}{key}": value})
    return out


def clip(spans: Iterable[Span], first: int, last: int | None = None) -> list[Span]:
    """Return the parts of *spans* from call *first* to *last*."""
    top = max((span.last for span in spans), default=0) if last is None else last
    return [
        Span(max(first, span.first), min(top, span.last), span.cap)
        for span in spans
        if span.last >= first and span.first <= top
    ]


@dataclass(frozen=True)
class Glance:
    """
    Attributes:
        step: of the newest row that holds, None if there is none.
        last_at: unix seconds of the newest call, or of the start of the newest attempt if that is later.
        left: see `time_left`; None unless the run is running.
    """

    run: str
    uuid: str
    name: str | None
    project: str | None
    state: str
    attempts: int
    step: int | None
    total_steps: int | None
    loss: Any
    lr: Any
    left: tuple[float, str] | None
    last_at: float
    gaps: Sequence[Gap] = ()
    tags: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


def newest(reader: RunReader, spans: Sequence[Span]) -> tuple[dict[str, tuple[int, Any]], Call | None]:
    """Return step and value of the metrics in the newest calls, and the newest call with a value."""
    values: dict[str, tuple[int, Any]] = {}
    last: Call | None = None
    above = reader.last_seq
    for window in _WINDOWS:
        low = max(1, reader.last_seq - window + 1)
        older: dict[str, tuple[int, Any]] = {}
        newest_here: Call | None = None
        for call in reader.calls(clip(spans, low, above)):
            older.update((name, (call.step, value)) for name, value in call.values.items())
            newest_here = call if call.values else newest_here
        values = {**older, **values}
        last = last or newest_here
        above = low - 1
        if above < 1 or loss_of(values) is not None:
            break
    return values, last


def glance(reader: RunReader) -> Glance:
    """Look at a run; reads some thousand calls at most."""
    values, last = newest(reader, curve.live_spans(reader.rewinds, reader.last_seq))
    loss, lr = loss_of(values), lr_of(values)
    info, state = reader.info, reader.state
    started_at = reader.attempts[-1].started_at if reader.attempts else info.created_at
    return Glance(
        run=info.id,
        uuid=info.uuid,
        name=info.name,
        project=info.project,
        state=state,
        attempts=len(reader.attempts),
        step=last.step if last else None,
        total_steps=info.total_steps,
        loss=values[loss][1] if loss is not None else None,
        lr=values[lr][1] if lr is not None else None,
        left=time_left(values) if state == "running" else None,
        last_at=max(started_at, last.time) if last else started_at,
        gaps=reader.gaps,
        tags=info.tags,
        config=info.config or {},
    )
