"""``tracker show``: one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from offline_tracker import curve
from offline_tracker.store import RunReader

from .alerts import Notice, notices
from .common import JsonOption, RunArgument, RunsOption, links_in, named, reading
from .glance import eta_text, gap_json, gaps_text, time_left
from .history import History
from .ls import STYLES, link_json
from .tables import heading, pairs, table
from .words import clean, distinct, has_unicode, moment, number, put, to_json

_SPARK_WIDTH = 24
_SPARK_S = 0.3
"""For so long is read for the sparklines; a run of a million rows is not read whole for them."""
_ALERTS = 20
_GIT = ("git_commit", "git_remote")


def show(run: RunArgument, runs: RunsOption = None, json: JsonOption = False) -> None:
    """Show one run.

    Its facts, config, the last values and the course of its metrics, attempts, their git commits, rewinds, gaps and
    checkpoints, alerts, and where it is synced.
    """
    picked = named(run, runs)
    links = links_in(picked.runs.path).get(picked.id, [])
    with reading(picked) as reader:
        document = _document(reader)
        document["links"] = [link_json(link) for link in links if link.uuid == reader.info.uuid]
    if json:
        print(to_json(document, indent=2))
    else:
        _print(document)


def _document(reader: RunReader) -> dict[str, Any]:
    info = reader.info
    spans = curve.live_spans(reader.rewinds, reader.last_seq)
    values = reader.last_values(spans)
    state = reader.state
    left, of = (time_left(values) if state == "running" else None) or (None, None)
    ends = [attempt.after_seq for attempt in reader.attempts] + [reader.last_seq]
    history = History()
    history.extend(reader)
    part = history.sample(reader, _SPARK_S)
    return {
        "run": info.id,
        "uuid": info.uuid,
        "name": info.name,
        "project": info.project,
        "entity": info.entity,
        "group": info.group,
        "job_type": info.job_type,
        "notes": info.notes,
        "tags": list(info.tags),
        "state": state,
        "created_at": info.created_at,
        "rows": reader.count_rows(spans),
        "last_step": reader.last_row_step(spans),
        "total_steps": info.total_steps,
        "eta_s": left,
        "eta_of": of,
        "config": dict(info.config or {}),
        "metrics": {
            name: {
                "step": values[metric][0],
                "value": values[metric][1],
                "sparkline": history.means(metric, _SPARK_WIDTH),
            }
            for metric, name in distinct(values).items()
        },
        "sparklines_from": part,
        "summary": reader.summary(),
        "attempts": [
            {
                "number": attempt.number,
                "host": attempt.holder.host,
                "pid": attempt.holder.pid,
                "started_at": attempt.started_at,
                "ended_at": attempt.ended_at,
                "exit_code": attempt.exit_code,
                "alive": attempt.alive(),
                "why": attempt.reason,
                "calls": end - begin,
                **{key: attempt.environment.get(key) for key in _GIT},
                "journal": None if attempt.elsewhere is None else str(attempt.elsewhere),
            }
            for attempt, (begin, end) in zip(reader.attempts, pairwise(ends), strict=True)
        ],
        "rewinds": [
            {"after_call": rewind.seq, "step": rewind.step, "time": rewind.time, "why": rewind.reason}
            for rewind in reader.rewinds
        ],
        "gaps": [gap_json(gap) for gap in reader.gaps],
        "marks": {
            "count": len(reader.marks),
            "newest": _mark(reader) if reader.marks else None,
        },
        "alerts": [notice._asdict() for notice in notices(reader, spans)],
    }


def _mark(reader: RunReader) -> dict[str, Any]:
    mark = reader.marks[-1]
    at = reader.step_of(mark.seq)
    return {"step": at[0] if at else None, "time": mark.time, "name": mark.name}


def _print(document: Mapping[str, Any]) -> None:
    from rich.text import Text

    state = document["state"]
    of = f" of {document['total_steps']}" if document["total_steps"] else ""
    last = document["last_step"]
    left = None if document["eta_s"] is None else (document["eta_s"], document["eta_of"])
    facts = {
        "run": document["run"],
        **{key: document[key] for key in ("name", "project", "entity", "group", "job_type", "notes")},
        "tags": ", ".join(document["tags"]),
        "state": Text(state, STYLES.get(state, "")),
        "created": moment(document["created_at"]),
        "step": None if last is None else f"{last}{of} ({document['rows']} rows)",
        "eta": eta_text(left),
    }
    put(pairs((name, value) for name, value in facts.items() if value))
    if document["config"]:
        heading("Config")
        put(pairs(_flat(document["config"])))
    if document["metrics"]:
        heading("Last values")
        put(_metrics(document))
    if document["summary"]:
        heading("Summary, set by hand")
        put(pairs(_flat(document["summary"])))
    if document["attempts"]:
        heading("Attempts")
        rows = [
            [
                *(item["number"], item["host"], item["pid"], moment(item["started_at"]), _end(item), item["calls"]),
                item["why"],
            ]
            for item in document["attempts"]
        ]
        put(table(["", "host", "pid", "started", "ended", "calls", "why"], rows))
        for item in document["attempts"]:
            if item["journal"]:
                where = f"on {clean(item['host'])} in {clean(item['journal'])}"
                put(
                    Text(
                        f"the last second of attempt {item['number']} may still be {where}: tracker doctor --repair there"
                    )
                )
    if any(item[key] for item in document["attempts"] for key in _GIT):
        heading("Git")
        put(table(["attempt", "commit", "remote"], _git(document["attempts"])))
    if document["rewinds"]:
        heading("Rewinds")
        rows = [[item["after_call"], item["step"], moment(item["time"]), item["why"]] for item in document["rewinds"]]
        put(table(["after call", "back to step", "at", "why"], rows))
    if document["gaps"]:
        heading("Gaps")
        put(Text(gaps_text([item["calls"] for item in document["gaps"]])))
        rows = [[item["after_call"], item["calls"], moment(item["time"]), item["why"]] for item in document["gaps"]]
        put(table(["after call", "calls lost", "at", "why"], rows))
    if document["marks"]["count"]:
        heading("Checkpoints")
        newest = document["marks"]["newest"]
        name = f", {clean(newest['name'])}" if newest["name"] else ""
        count = document["marks"]["count"]
        put(Text(f"{count}; the newest at step {newest['step']}, {moment(newest['time'])}{name}"))
    if document["alerts"]:
        count = len(document["alerts"])
        heading("Alerts" if count <= _ALERTS else f"Alerts, the newest {_ALERTS} of {count}")
        rows = [
            [
                _none(item["step"]),
                moment(item["time"]),
                item["level"],
                Notice(**item).words,
            ]
            for item in document["alerts"][-_ALERTS:]
        ]
        put(table(["step", "at", "level", "text"], rows))
    if document["links"]:
        heading("Synced")
        rows = [
            [
                *(link["remote"], f"{link['entity']}/{link['project']}/{link['remote_id']}"),
                *(_none(link["confirmed_step"]), _none(link["state"]), _none(link["url"])),
            ]
            for link in document["links"]
        ]
        put(table(["remote", "run", "to step", "state", "url"], rows))


def _metrics(document: Mapping[str, Any]) -> Any:
    from .canvas import sparkline

    unicode = has_unicode()
    rows = [
        [name, number(item["value"], 8), item["step"], sparkline(item["sparkline"], unicode)]
        for name, item in document["metrics"].items()
    ]
    part = document["sparklines_from"]
    course = "course" if part == 1 else f"course, from a sample of {part:.0%}"
    return table(["metric", "value", "step", course], rows)


def _git(attempts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of a table: attempts in a row that have the same commit and remote are one."""
    rows = []
    for facts, group in groupby(attempts, key=lambda item: [item[key] or "" for key in _GIT]):
        numbers = [item["number"] for item in group]
        rows.append([str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}", *facts])
    return rows


def _none(value: Any) -> Any:
    return "" if value is None else value


def _end(attempt: Mapping[str, Any]) -> str:
    if attempt["ended_at"] is None:
        return "still alive" if attempt["alive"] else "died"
    code = f", exit {attempt['exit_code']}" if attempt["exit_code"] else ""
    return f"{moment(attempt['ended_at'])}{code}"


def _flat(values: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value if isinstance(value, str) else to_json(value).strip('"')
