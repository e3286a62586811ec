"""``tracker alerts``: what in the curves somebody should look at."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import typer

from offline_tracker import alerts as rules
from offline_tracker import curve, findings
from offline_tracker.curve import Span
from offline_tracker.store import RunReader

from .common import JsonOption, RunOptions, RunsArgument, chosen, reading
from .words import clean, moment, put, shown, to_json

ALERT_STATUS = 3
STYLES = {"ERROR": "red", "WARN": "yellow"}
RuleOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="RULE",
        help='Also one of your own, as "loss > 3 for 50 rows"; repeatable.',
        show_default=False,
    ),
]


class Notice(NamedTuple):
    """An alert as people see it; *rule* is ``alert()`` for one that the training made itself."""

    rule: str
    metric: str | None
    step: int | None
    time: float
    level: str
    text: str

    @property
    def words(self) -> str:
        """What it says, in one line, without what a terminal would obey."""
        what = " ".join(filter(None, (self.metric, self.text)))
        return clean(what if self.rule == "alert()" else f"{self.rule}: {what}")


def alerts(
    runs: RunsArgument = None,
    run: RunOptions = None,
    rule: RuleOptions = None,
    new: Annotated[bool, typer.Option("--new", help="Only what nobody was told before, for a job of cron.")] = False,
    json: JsonOption = False,
) -> None:
    """Say what in the runs somebody should look at; exit status 3 if there is anything.

    NaN and infinities, spikes, divergence and plateaus of a loss, a learning rate that is zero, a long time without a
    row, your own rules, and what the training itself said with alert(). What is found is kept with the run, and shown
    by tail, show and report; sync delivers it.
    """
    own = [rules.parse(text) for text in rule or ()]
    any_told = False
    for one in chosen(runs, run):
        with reading(one) as reader:
            spans = curve.live_spans(reader.rewinds, reader.last_seq)
            judge = rules.Judge(own)
            starts = [attempt.started_at for attempt in reader.attempts]
            found = [finding for row in curve.rows(reader.calls(spans)) for finding in judge.see(row, starts)]
            if reader.state == "running" and (waiting := judge.wait(time.time(), starts)) is not None:
                found.append(waiting)
            known = findings.stored(one.folder)
            fresh = findings.store(one.folder, found, spans)
            told = of_findings(fresh, spans) if new else notices(reader, spans, [*known, *fresh])
        for notice in told:
            any_told = True
            if json:
                print(to_json({"run": one.id, **notice._asdict()}), flush=True)
            else:
                _print(one.id, notice)
    if any_told:
        raise typer.Exit(ALERT_STATUS)


def notices(reader: RunReader, spans: Sequence[Span], found: Sequence[rules.Finding] | None = None) -> list[Notice]:
    """
    Return what there is to see of a run, oldest first: what the training said, and of what rules found what is on the curve.

    Args:
        found: what rules found; None: what is stored.
    """
    both = said(reader) + of_findings(findings.stored(reader.folder) if found is None else found, spans)
    return sorted(both, key=lambda notice: (notice.time, -1 if notice.step is None else notice.step))


def said(reader: RunReader, first: int = 0) -> list[Notice]:
    """Return what the training itself called attention to, in the order in which it did, from the alert *first* on."""
    found = []
    for alert in reader.alerts()[first:]:
        at = reader.step_of(alert.seq)
        text = f"{alert.title}: {alert.text}" if alert.text else alert.title
        found.append(Notice("alert()", None, None if at is None else at[0], alert.time, alert.level, text))
    return found


def of_findings(found: Iterable[rules.Finding], spans: Sequence[Span] | None = None) -> list[Notice]:
    """Return what of it is on the curve; without *spans* all of it is."""
    return [
        Notice(one.rule, shown(one.metric) or None, one.step, one.time, one.level, one.text)
        for one in (found if spans is None else findings.on_curve(found, spans))
    ]


def _print(run: str, notice: Notice) -> None:
    from rich.text import Text

    where = f"step {notice.step}" if notice.step is not None else ""
    line = Text(f"{clean(run)}  {moment(notice.time)}  ")
    line.append(f"{clean(notice.level):5}", STYLES.get(notice.level, ""))
    mark = "alert(): " if notice.rule == "alert()" else ""
    line.append(f"  {where}  {mark}{notice.words}")
    put(line)
