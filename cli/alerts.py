"""``tracker alerts``: what in the curves somebody should look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from offline_tracker import alerts as rules
from offline_tracker import curve
from offline_tracker.store import RunReader

from .common import JsonOption, RunOptions, RunsArgument, chosen, reading
from .words import clean, moment, put, shown, to_json

ALERT_STATUS = 3
_STYLES = {"ERROR": "red", "WARN": "yellow"}


def alerts(
    runs: RunsArgument = None,
    run: RunOptions = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="RULE", help='One of your own, as "loss > 3 for 50 rows"; repeatable.'),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what in the runs somebody should look at; exit status 3 if there is anything.

    NaN and infinities, spikes, divergence and plateaus of a loss, a learning rate that is zero, a long time without a
    row, your own rules, and what the training itself said with alert().
    """
    own = [rules.parse(text) for text in rule or ()]
    found = False
    for one in chosen(runs, run):
        with reading(one) as reader:
            for alert in sorted(_all(reader, own), key=lambda alert: (alert["time"], alert["step"] or 0)):
                found = True
                if json:
                    print(to_json({"run": one.id, **alert}), flush=True)
                else:
                    _print(one.id, alert)
    if found:
        raise typer.Exit(ALERT_STATUS)


def _all(reader: RunReader, own: list[rules.UserRule]) -> Iterator[dict[str, Any]]:
    for alert in reader.alerts():
        at = reader.step_of(alert.seq)
        text = f"{alert.title}: {alert.text}" if alert.text else alert.title
        yield _alert("alert()", None, None if at is None else at[0], alert.time, alert.level, text)
    spans = curve.live_spans(reader.rewinds, reader.last_seq)
    starts = [attempt.started_at for attempt in reader.attempts]
    for finding in rules.judge(curve.rows(reader.calls(spans)), own, starts):
        metric = shown(finding.metric) or None
        yield _alert(finding.rule, metric, finding.step, finding.time, finding.level, finding.text)


def _alert(rule: str, metric: str | None, step: int | None, at: float, level: str, text: str) -> dict[str, Any]:
    return {"rule": rule, "metric": metric, "step": step, "time": at, "level": level, "text": text}


def _print(run: str, alert: dict[str, Any]) -> None:
    from rich.text import Text

    where = f"step {alert['step']}" if alert["step"] is not None else ""
    what = " ".join(filter(None, (alert["metric"], alert["text"])))
    line = Text(f"{clean(run)}  {moment(alert['time'])}  ")
    line.append(f"{clean(alert['level']):5}", _STYLES.get(alert["level"], ""))
    line.append(f"  {where}  {clean(alert['rule'])}: {clean(what)}")
    put(line)
