"""``tracker compare``: several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from offline_tracker import curve
from offline_tracker.errors import RunNotFound, TrackerError, UsageError
from offline_tracker.store import RunReader

from .common import Chosen, JsonOption, RunsOption, named, reading
from .glance import ETA, best_is, goals, loss_of, lr_of
from .history import History
from .ls import STYLES, differing
from .tables import heading, table
from .words import clean, distinct, has_unicode, moment, number, put, shown, terminal, to_json, warn

_COLORS = ("cyan", "magenta", "yellow", "green", "bright_blue", "red", "bright_magenta", "bright_green", "white")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHARTS = 12
"""So many charts there are at most, unless metrics were picked."""
_CHART_WIDTH = 38
"""The least of one of two charts beside each other."""
_CHART_HEIGHT, _TALLEST = 10, 16
_PIPED_WIDTH = 100
_CONFIG_WIDTH = 12
"""The least that a run's column of the config takes where the terminal is narrow."""


@dataclass
class _Side:
    """One of the runs; *metrics* as in JSON, by full name."""

    facts: dict[str, Any]
    config: Mapping[str, Any]
    history: History
    metrics: dict[str, dict[str, Any]]


def compare(
    run: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN RUN...", help="Ids, unique prefixes of them, or folders.", show_default=False),
    ] = None,
    runs: RunsOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="GLOB", help="Only metrics with such a name; repeatable.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare runs: configs where they differ, best and last values, charts.

    Where a metric is best is what define_metric said (goal, summary), else the least of a loss, error or perplexity, and
    the greatest of an accuracy, reward or score. All rows are read, so that it is exact.
    """
    picked, broken = _picked(run or [], runs)
    known: dict[str, str] = {}
    sides: list[_Side] = []

    def each(take: Callable[[RunReader], object]) -> None:
        for name, one in picked.items():
            if name in broken:
                continue
            try:
                with reading(one) as reader:
                    take(reader)
            except (TrackerError, OSError) as error:
                broken[name] = str(error)

    # First what is best, which one run may have said for all of them.
    each(lambda reader: known.update({**goals(reader.definitions()), **known}))
    each(lambda reader: sides.append(_side(reader, metric or [], known)))
    document = _document(sides, broken, known)
    if json:
        print(to_json(document, indent=2))
    elif sides:
        _print(document, sides, bool(metric))
    for name, why in broken.items():
        warn(f"run {name}: {why}")
    if broken:
        raise typer.Exit(1)


def _picked(names: Sequence[str], runs: Path | None) -> tuple[dict[str, Chosen], dict[str, str]]:
    """The runs, each once, by what the user called them; and of what is none why."""
    found: dict[Path, tuple[str, Chosen]] = {}
    broken: dict[str, str] = {}
    too_few = UsageError("compare takes two runs or more; tracker show RUN shows one")
    if len(names) < 2:
        raise too_few
    for name in names:
        try:
            one = named(name, runs)
            found.setdefault(one.folder.resolve(), (name, one))
        except RunNotFound as error:
            broken[name] = str(error)
    if len(found) + len(broken) < 2:
        raise too_few
    return dict(found.values()), broken


def _side(reader: RunReader, globs: Sequence[str], known: Mapping[str, str]) -> _Side:
    info = reader.info
    spans = curve.live_spans(reader.rewinds, reader.last_seq)
    last = reader.last_values(spans)
    history = History()
    history.extend(reader)
    history.read(reader, math.inf)
    metrics: dict[str, dict[str, Any]] = {}
    for name in reader.names().values():
        if name not in last or not _wanted(name, globs):
            continue
        kind = best_is(name, known)
        best = history.best(reader, name, kind) if kind else None
        every = history.all_of(name)
        metrics[name] = {
            "last": {"step": last[name][0], "value": last[name][1]},
            "best": {"step": best[0], "value": best[1]} if best else None,
            "nan": every.nan if every else 0,
            "infinite": every.up + every.down if every else 0,
        }
    facts = {
        "run": info.id,
        "name": info.name,
        "project": info.project,
        "state": reader.state,
        "created_at": info.created_at,
        "attempts": len(reader.attempts),
        "last_step": reader.last_row_step(spans),
        "total_steps": info.total_steps,
    }
    return _Side(facts, info.config or {}, history, metrics)


def _wanted(name: str, globs: Sequence[str]) -> bool:
    return not globs or any(fnmatchcase(shown(name), glob) for glob in globs)


def _document(sides: Sequence[_Side], broken: Mapping[str, str], known: Mapping[str, str]) -> dict[str, Any]:
    """What JSON has; lists have an item a run, in the order of *runs*."""
    metrics: dict[str, Any] = {}
    for name, label in distinct(_ordered(sides)).items():
        kind = best_is(name, known)
        values = [side.metrics.get(name) for side in sides]
        found = [value["best"]["value"] for value in values if value and value["best"]]
        best = (min(found) if kind == "min" else max(found)) if found else None
        metrics[label] = {
            "best_is": kind,
            "runs": [
                value and {**value, "is_best": bool(value["best"]) and value["best"]["value"] == best}
                for value in values
            ],
        }
    return {
        "runs": [side.facts for side in sides],
        "unreadable": [{"run": name, "error": why} for name, why in broken.items()],
        "config": differing([side.config for side in sides]) if sides else {},
        "metrics": metrics,
    }


def _ordered(sides: Sequence[_Side]) -> list[str]:
    """Loss and learning rate first, then the others as they came."""
    names = list(dict.fromkeys(name for side in sides for name in side.metrics))
    first = [name for name in (loss_of(names), lr_of(names)) if name is not None]
    return list(dict.fromkeys([*first, *names]))


def _print(document: Mapping[str, Any], sides: Sequence[_Side], picked: bool) -> None:
    from rich.text import Text

    console = terminal()
    width = _PIPED_WIDTH if console is None else console.width
    rows: list[list[Any]] = []
    for index, facts in enumerate(document["runs"]):
        step, total = facts["last_step"], facts["total_steps"]
        rows.append(
            [
                *(_letter(index), facts["run"], Text(facts["state"], STYLES.get(facts["state"], ""))),
                "" if step is None else f"{step}/{total}" if total else str(step),
                *(facts["attempts"], moment(facts["created_at"], "%Y-%m-%d %H:%M"), facts["name"] or ""),
            ]
        )
    put(table(["", "run", "state", "step", "tries", "created", "name"], rows))
    if len(sides) > 1:
        heading("Config, where it differs")
        _print_config(document["config"], len(sides), width if console is not None else None)
    if document["metrics"]:
        heading("Metrics, * the best run")
        put(_metrics(document))
    _print_charts(sides, picked, width, 0 if console is None else console.height)


def _print_config(config: Mapping[str, Sequence[Any]], runs: int, width: int | None) -> None:
    """Runs side by side; where the terminal has no room for all of them, so many below each other."""
    from rich.text import Text

    if not config:
        put(Text("nowhere", "dim"))
        return
    keys = min(max(len(clean(key)) for key in config), 40)
    each = runs if width is None else max(1, (width - keys - 2) // (_CONFIG_WIDTH + 2))
    for first in range(0, runs, each):
        some = range(first, min(runs, first + each))
        rows = [[key, *(_config_value(values[index]) for index in some)] for key, values in config.items()]
        put(table(["", *(_letter(index) for index in some)], rows))


def _config_value(value: Any) -> str:
    if value is None:
        return "-"
    return number(value, 8) if isinstance(value, int | float | str) else to_json(value)


def _metrics(document: Mapping[str, Any]) -> Any:
    """A row for each metric of each run, which has room on any terminal, and for grep the names."""
    from rich.text import Text

    rows: list[list[Any]] = []
    odd = False
    for name, item in document["metrics"].items():
        label = f"{clean(name)} ({item['best_is']})" if item["best_is"] else clean(name)
        for index, value in enumerate(item["runs"]):
            if value is None:
                continue
            best, last = value["best"], value["last"]
            count = [f"{value[key]} {word}" for key, word in (("nan", "NaN"), ("infinite", "inf")) if value[key]]
            odd = odd or bool(count)
            mark = "*" if value["is_best"] and len(document["runs"]) > 1 else ""
            rows.append(
                [
                    label,
                    _letter(index),
                    Text(f"{number(best['value'], 6)}{mark}" if best else "", "bold" if mark else ""),
                    f"{best['step']}" if best else "",
                    *(number(last["value"], 6), f"{last['step']}", Text(" ".join(count), "red")),
                ]
            )
    columns = ["metric", "run", "best", "at step", "last", "at step", "not finite"]
    return table(columns, rows) if odd else table(columns[:-1], [row[:-1] for row in rows])


def _letter(index: int) -> Any:
    from rich.text import Text

    return Text(_LETTERS[index % len(_LETTERS)], f"bold {_COLORS[index % len(_COLORS)]}")


def _print_charts(sides: Sequence[_Side], picked: bool, width: int, height: int) -> None:
    from rich.text import Text

    if len(sides) < 2:
        return
    shared = [name for name in _ordered(sides) if sum(side.history.all_of(name) is not None for side in sides) > 1]
    shared = [name for name in shared if picked or name != ETA]
    if not shared:
        put(Text("\nThe runs have no numbers of a metric in common.", "dim"))
        return
    names = shared if picked else shared[:_CHARTS]
    columns = 2 if len(names) > 1 and width >= 2 * _CHART_WIDTH + 2 else 1
    each = min(_TALLEST, max(_CHART_HEIGHT, height // 3))
    size = (width - 2 * (columns - 1)) // columns
    labels = distinct(_ordered(sides))
    heading("Charts, by step")
    for first in range(0, len(names), columns):
        charts = [_chart(sides, name, labels[name], size, each) for name in names[first : first + columns]]
        lines = []
        for parts in zip(*charts, strict=True):
            line = Text(no_wrap=True)
            for part in parts:
                line.append(" " * (2 if line.plain else 0)).append_text(part).append(" " * (size - part.cell_len))
            lines.append(line)
        put(Text("\n", no_wrap=True, overflow="crop").join(lines), width)
    if len(names) < len(shared):
        put(Text(f"{len(shared) - len(names)} more in common; --metric GLOB picks", "dim"))


def _chart(sides: Sequence[_Side], name: str, label: str, width: int, height: int) -> list[Any]:
    """A metric's title and chart, the runs that have it above each other."""
    from rich.text import Text

    from .canvas import Line, chart

    title = Text(clean(label), "bold", no_wrap=True)
    lines = []
    for index, side in enumerate(sides):
        if name in side.metrics and (xs := (course := side.history.course(name))[0]):
            letter = _letter(index)
            title.append("  ").append_text(letter).append(
                f" {number(side.metrics[name]['last']['value'], 4)}", "not bold"
            )
            lines.append(Line(xs, *course[1:], str(_COLORS[index % len(_COLORS)]), letter.plain))
    title.truncate(width, overflow="crop")
    blocks = [block for side in sides for block in side.history.live()]
    ends = min(block.steps[0] for block in blocks), max(block.steps[1] for block in blocks)
    body = chart(lines, width, height, x_range=ends, x_text="{:.0f}".format, label_width=8, unicode=has_unicode())
    return [title, *body]
