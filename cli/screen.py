"""How the live view looks: frames of runs, drawn with Rich from what `watch.View` knows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .glance import ETA, eta_text, loss_of, lr_of, time_left
from .ls import STYLES
from .trace import BARS, PLAIN_BARS
from .watch import View
from .words import age, clean, duration, moment, number, shown

_LEAST_LINES = 9
"""Of a run that is shown in a frame: its borders, its facts, two metrics, and a table of three rows."""
_ROWS = 8
_METRICS = 8
_LINES_IN_SHORT = 5
_HINT = "Ctrl-C ends this view, not the training"


def ordered(views: Sequence[View]) -> list[View]:
    """Put those first that run, by id so that they keep their places, and then those that wrote last."""
    running = [view for view in views if view.state == "running"]
    ended = [view for view in views if view.state != "running"]
    return sorted(running, key=lambda view: view.run.id) + sorted(ended, key=lambda view: -view.last_at)


def frame(
    views: Sequence[View], more: int, empty: str, width: int, height: int | None, unicode: bool = True
) -> RenderableType:
    """
    Draw runs.

    Args:
        more: how many runs there are besides.
        empty: what to say if there are none.
        height: lines that there are for it; the runs that do not fit get one line each. None: as many as it takes.
    """
    if not views:
        return Group(Text(empty), *([Text(_HINT, "dim")] if height else []))
    views = ordered(views)
    if height is None:
        return Group(*(_panel(view, width, None, unicode) for view in views))
    height -= 1  # the hint
    running = sum(view.state == "running" for view in views)
    large = max(1, min(running, height // _LEAST_LINES))
    short = views[large:]
    lines = min(len(short), _LINES_IN_SHORT, max(0, height - large * _LEAST_LINES))
    each = (height - lines) // large
    parts: list[RenderableType] = [_panel(view, width, each, unicode) for view in views[:large]]
    if lines:
        parts.append(_in_short(short[:lines], width))
    hidden = more + len(short) - lines
    parts.append(Text(f"{hidden} more: tracker ls   {_HINT}" if hidden else _HINT, "dim", no_wrap=True))
    return Group(*parts)


def _width(text: str | Text) -> int:
    return text.cell_len if isinstance(text, Text) else cell_len(text)


def _state(view: View) -> Text:
    if view.error is not None:
        return Text("unreadable", "red")
    stalled = view.stalled_s
    if stalled is not None:
        return Text(f"stalled {duration(stalled)}", STYLES["stalled"])
    return Text(view.state, STYLES.get(view.state, ""))


def _step(view: View) -> str:
    total = view.info.total_steps if view.info else None
    if view.step is None:
        return "no rows yet"
    return f"step {view.step} of {total}" if total else f"step {view.step}"


def _eta(view: View) -> str:
    return eta_text(time_left(view.values)) if view.state == "running" else ""


def _panel(view: View, width: int, height: int | None, unicode: bool) -> Panel:
    title = Text(view.run.id, "bold")
    for part in (view.info.project, view.info.name) if view.info else ():
        if part and part != view.run.id:
            title.append(f" · {clean(part)}" if unicode else f" - {clean(part)}", "not bold")
    title.truncate(width - 6, overflow="ellipsis")
    facts = Text(no_wrap=True, overflow="ellipsis").append_text(_state(view))
    if view.attempt:
        facts.append(f"   attempt {view.attempt}   ").append(_step(view), "bold")
        if eta := _eta(view):
            facts.append("   ETA ").append(eta, "bold")
        facts.append(f"   written {age(time.time() - view.last_at)} ago", "dim")
    inner = width - 4
    parts: list[RenderableType] = [facts]
    if view.error is not None:
        parts.append(Text(clean(view.error), "red"))
    names = _by_rank(view)
    drawn = [name for name in names if name in view.traces and not (name == ETA and _eta(view))]
    free = _METRICS + _ROWS + 1 if height is None else height - 3
    metrics = min(len(drawn), _METRICS, max(2, free - 1 - _ROWS, free // 2))
    if metrics:
        parts.append(_traces(view, drawn[:metrics], inner, BARS if unicode else PLAIN_BARS))
    rows = view.newest_rows(min(_ROWS, free - metrics - 1)) if free - metrics > 1 else []
    if rows:
        if height is None or free - metrics - 1 > len(rows):
            parts.append(Text())
        parts.append(_rows(rows, names, inner))
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim", width=width)


def _by_rank(view: View) -> list[str]:
    """Loss and learning rate first, then the others as they came."""
    names = list(dict.fromkeys([*view.traces, *view.values]))
    first = [name for name in (loss_of(names), lr_of(names)) if name is not None]
    return list(dict.fromkeys([*first, *(name for name in names if name != ETA), *names]))


def _traces(view: View, names: list[str], width: int, bars: str) -> Table:
    label = min(24, max(_width(clean(shown(name))) for name in names))
    values = {name: number(view.values[name][1]) for name in names}
    spans = {name: _span(view.traces[name].range()) for name in names}
    # At least so wide, so that the lines do not jump about while the numbers change.
    span = max(18, *map(len, spans.values())) if width >= 70 else 0
    value = min(24, max(10, *map(_width, values.values())))
    line = max(8, width - label - value - span - 2 * (3 if span else 2))
    table = Table.grid(padding=(0, 2, 0, 0))
    for size, right in ((label, False), (value, True), (line, False), (span, False)):
        if size:
            table.add_column(width=size, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for name in names:
        cells = [Text(clean(shown(name))), Text(values[name], "bold"), Text(view.traces[name].line(line, bars), "cyan")]
        table.add_row(*cells, *([Text(spans[name], "dim")] if span else []))
    return table


def _span(ends: tuple[float, float] | None) -> str:
    return f"{number(ends[0], 3)} to {number(ends[1], 3)}" if ends else ""


def _rows(rows: Sequence[Any], names: list[str], width: int) -> Table:
    """The newest rows, with as many metrics as there is room for."""
    columns = [
        ("step", [str(row.step) for row in rows]),
        ("time", [moment(row.time, "%H:%M:%S") for row in rows]),
    ]
    for name in names:
        column = [number(row.values[name]) if name in row.values else "" for row in rows]
        if any(column):
            columns.append((clean(shown(name)), column))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    kept: list[list[str]] = []
    for heading, column in columns:
        size = min(20, max(map(_width, (heading, *column))))
        width -= size + 2
        if width < -2 and len(kept) > 2:
            break
        kept.append(column)
        table.add_column(Text(heading), justify="right", no_wrap=True, overflow="ellipsis", max_width=size)
    for cells in zip(*kept, strict=True):
        table.add_row(*map(Text, cells))
    return table


def _in_short(views: Sequence[View], width: int) -> Text:
    """One line a run."""
    cells: list[list[str | Text]] = []
    for view in views:
        names = {name: value for name, (_, value) in view.values.items()}
        loss, lr = loss_of(names), lr_of(names)
        if view.error is not None:
            cells.append([view.run.id, _state(view), clean(view.error)])
            continue
        eta = _eta(view)
        cells.append(
            [
                view.run.id,
                _state(view),
                _step(view),
                f"loss {number(names[loss], 4)}" if loss is not None else "",
                f"lr {number(names[lr], 4)}" if lr is not None and width >= 100 else "",
                f"ETA {eta}" if eta else f"{age(time.time() - view.last_at)} ago",
                clean(view.info.name or "") if view.info else "",
            ]
        )
    sizes = [max((_width(row[column]) for row in cells if len(row) > 3), default=0) for column in range(7)]
    sizes[:2] = (max(_width(row[column]) for row in cells) for column in range(2))
    lines = []
    for row in cells:
        line = Text(no_wrap=True)
        for cell, size in zip(row, sizes, strict=False):
            if size:
                line.append_text(cell.copy() if isinstance(cell, Text) else Text(cell))
                line.append(" " * (size - _width(cell) + 2))
        line.rstrip()
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return Text("\n").join(lines)
