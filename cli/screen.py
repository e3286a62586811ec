"""How the live view looks: frames of runs, as lines of text drawn from what `watch.View` knows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from .alerts import STYLES as ALERT_STYLES
from .canvas import Line, Mark, chart, ema
from .dashboard import HELP, SMOOTHING, Dashboard
from .glance import ETA, best_is, loss_of, lr_of
from .history import Block, Point, Stat, points
from .ls import STYLES
from .watch import Left, View
from .words import age, clean, duration, moment, number, plural, shown

if TYPE_CHECKING:
    from offline_tracker.sync.ledger import Link

_CHART_WIDTH, _CHART_HEIGHT = 38, 7
"""The least of a chart."""
_NARROWEST = 22
"""The width of a chart when many columns are asked for."""
_WIDEST = 4
"""So many columns of charts there are at most, unless asked for more."""
_NEWS_MAX = 60
_SHAPE = 3.5
"""Characters to lines of a chart that is pleasant to read."""
_FRAME_CHART = 11
"""The height of a chart where nothing limits it."""
_LABELS = 7
_ATTEMPTS = ("cyan", "bright_blue")
_RUNS = ("cyan", "magenta", "yellow", "green", "bright_blue", "red", "bright_magenta", "bright_green", "white")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Look:
    """
    What a terminal can show.

    Attributes:
        unicode: braille and lines; else ASCII.
        color: else lines are told apart by letters alone, and nothing pale lies behind them.
        limit_s: the time limit that the user named, in seconds from the start of an attempt.
        links: a run's folder to where runs of its id were synced.
    """

    def __init__(self, unicode: bool = True, color: bool = True, limit_s: float | None = None) -> None:
        self.unicode, self.color, self.limit_s = unicode, color, limit_s
        self.links: Mapping[Path, Sequence[Link]] = {}

    @property
    def dot(self) -> str:
        return "·" if self.unicode else "-"


def ordered(views: Sequence[View]) -> list[View]:
    """Put those first that run, by id so that they keep their places, and then those that wrote last."""
    running = [view for view in views if view.state == "running"]
    ended = [view for view in views if view.state != "running"]
    return sorted(running, key=lambda view: view.run.id) + sorted(ended, key=lambda view: -view.last_at)


def frame(
    board: Dashboard, views: Sequence[View], width: int, height: int | None, look: Look, empty: str = "no runs yet"
) -> list[Text]:
    """
    Draw what *board* asks for; puts its page into what there is.

    Args:
        height: lines of the terminal, all of which are filled; None: as many as it takes, and no line about keys.
        empty: what to say if there are no runs.
    """
    views = ordered(views)
    head = _header(views, width, height, look, len(board.runs) - len(views)) if views else [Text(empty)]
    if height is None:
        body = _grid(board, views, width, None, look) if views else []
        return [_fit(line, width) for line in head + body]
    head = head[: max(1, height - _CHART_HEIGHT - 1)]
    rest = height - len(head) - 1
    if board.mode == "help":
        body = _help(width)
    elif board.mode == "runs":
        body = _chooser(board, views, width, rest)
    elif board.mode == "alerts":
        body = _alerts(views, rest)
    else:
        body = _grid(board, views, width, rest, look) if views else []
    body = (body + [Text()] * rest)[: max(0, rest)]
    return [_fit(line, width) for line in (head + body)[: height - 1]] + [
        _fit(_footer(board, views, width, look), width)
    ]


def _fit(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis")
    return line


# The header: three lines for one run, one line each for several.


def _header(views: Sequence[View], width: int, height: int | None, look: Look, more: int) -> list[Text]:
    if len(views) == 1:
        lines = _large(views[0], width, look)
        return [*lines, Text()] if height is None or height > 30 else lines
    if height is None:
        return [line for view in views for line in [*_large(view, width, look), Text()]]
    lines = _small(views, width, look)
    if more > 0:
        lines[0].append(f"   +{more} more (r)", "dim")
    return [*lines, Text()] if height > 30 else lines


def _large(view: View, width: int, look: Look) -> list[Text]:
    title = Text(view.run.id, "bold", end="")
    for part in (view.info.project, view.info.name) if view.info else ():
        if part and part != view.run.id:
            title.append(f" {look.dot} {clean(part)}", "not bold")
    state = _state(view)
    if view.attempts:
        state.append(f"   {_attempt(view)}", "default")
    title.truncate(max(8, width - state.cell_len - 3), overflow="ellipsis")
    gap = max(2, width - title.cell_len - state.cell_len)
    title.append(" " * gap).append_text(state)
    if view.error is not None:
        return [title, Text(clean(view.error), "red")]
    eta, *limit = _left(view, look) or [Text()]
    progress = [_step(view), _pace(view), eta]
    facts = [*_newest(view), *limit, _news(view), _synced(view, look)]
    return [title, *(Text("   ").join(part for part in parts if part.plain) for parts in (progress, facts))]


def _small(views: Sequence[View], width: int, look: Look) -> list[Text]:
    rows = []
    for index, view in enumerate(views):
        letter = Text(f"{_letter(index)} ", f"bold {_RUNS[index % len(_RUNS)]}")
        if view.error is not None:
            rows.append([letter + Text(view.run.id, "bold"), _state(view), Text(clean(view.error), "red")])
            continue
        left = _left(view, look, short=True)
        loss, lr = [*_newest(view), Text(), Text()][:2]
        named = [part for part in (view.info.name if view.info else None,) if part and part != view.run.id]
        rows.append(
            [
                letter + Text(view.run.id, "bold"),
                _state(view, short=True),
                _step(view, short=True),
                loss,
                left[0] if left else Text(),
                left[1] if len(left) > 1 else Text(),
                lr,
                _pace(view),
                Text(_attempt(view)),
                _synced(view, look),
                Text(clean(named[0]) if named else "", "dim"),
                _news(view),
            ]
        )
    sizes: list[int] = []
    for column in range(12):
        cells = [row[column].cell_len for row in rows if len(row) > 3 and column < len(row)]
        sizes.append(max(cells, default=0))
    sizes[0] = max(row[0].cell_len for row in rows)
    sizes[1] = max(row[1].cell_len for row in rows)
    lines = []
    for row in rows:
        line = Text()
        for cell, size in zip(row, sizes, strict=False):
            if size and (len(row) < 4 or line.cell_len + size <= width):
                line.append_text(cell).append(" " * (size - cell.cell_len + 2))
        line.rstrip()
        lines.append(line)
    return lines


def _letter(index: int) -> str:
    return _LETTERS[index % len(_LETTERS)]


def _state(view: View, short: bool = False) -> Text:
    if view.error is not None:
        return Text("unreadable", "red")
    seconds = max(0.0, time.time() - view.last_at)
    if view.stalled_s is not None:
        text = f"stalled {age(seconds)}" if short else f"stalled, last write {duration(seconds)} ago"
        return Text(text, STYLES["stalled"])
    exit_code = view.attempts[-1].exit_code if view.attempts else None
    text = view.state + (f" (exit {exit_code})" if view.state == "failed" and not short else "")
    if view.state != "running" and not short and view.last_at:
        text += f", last write {age(seconds)} ago"
    return Text(text, STYLES.get(view.state, ""))


def _attempt(view: View) -> str:
    text = f"attempt {len(view.attempts)}"
    return f"{text}, {plural(len(view.rewinds), 'rewind')}" if view.rewinds else text


def _step(view: View, short: bool = False) -> Text:
    total = view.info.total_steps if view.info else None
    if view.step is None:
        return Text("no rows yet")
    if short:
        return Text(f"{view.step}/{total}" if total else f"step {view.step}")
    text = Text("step ").append(str(view.step), "bold")
    return text.append(f" of {total} ({view.step / total:.0%})") if total else text


def _pace(view: View) -> Text:
    pace = view.pace() if view.state == "running" else None
    if pace is None or not pace.now:
        return Text()
    return Text(f"{number(pace.now, 3)} steps/s" if pace.now >= 0.1 else f"{duration(1 / pace.now)}/step")


def _left(view: View, look: Look, short: bool = False) -> list[Text]:
    """The time left, and whether it fits the time limit."""
    left = view.left()
    if left is None:
        return []
    if left.of == "epoch":
        return [Text(f"ETA {number(left.seconds / 60, 3)}min (epoch)")]
    text = Text("ETA ").append(_about(left.seconds), "bold")
    if left.low is not None and left.high is not None and not short:
        low, high = _about(left.low), _about(left.high)
        text.append(f" ({low} to {high})" if low != high else "")
    text.append(f" {'at' if short else 'ends'} {_clock(left.end_at)}")
    must_end_at = view.must_end_at(look.limit_s)
    return [text] if must_end_at is None else [text, _limit(left, must_end_at, short)]


def _limit(left: Left, must_end_at: float, short: bool) -> Text:
    late = left.end_at - must_end_at
    slower = 0.0 if left.high is None else left.high - left.seconds
    if late > 0:
        return Text("won't fit" if short else f"won't fit the time limit ({_clock(must_end_at)})", "bold red")
    if late + slower > 0:
        return Text("may not fit" if short else f"may not fit the time limit ({_clock(must_end_at)})", "yellow")
    return Text("" if short else f"time limit {_clock(must_end_at)}", "dim")


def _about(seconds: float) -> str:
    """A length of time, no finer than it is known."""
    if seconds < 600:
        return duration(seconds)
    if seconds < 3600:
        return f"{int(seconds // 60)}m"
    if seconds < 86400:
        return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02}m"
    return f"{int(seconds // 86400)}d{int(seconds % 86400 // 3600):02}h"


def _clock(at: float) -> str:
    today = moment(time.time(), "%Y-%m-%d") == moment(at, "%Y-%m-%d")
    return (
        moment(at, "%H:%M") if today else moment(at, "%a %H:%M" if at - time.time() < 6 * 86400 else "%Y-%m-%d %H:%M")
    )


def _newest(view: View) -> list[Text]:
    found = []
    for word, name in (("loss", loss_of(view.values)), ("lr", lr_of(view.values))):
        if name is not None:
            found.append(Text(f"{word} ").append_text(_value(view.values[name][1], 5, "bold")))
    return found


def _value(value: Any, digits: int, style: str = "") -> Text:
    odd = isinstance(value, float) and not math.isfinite(value)
    return Text(number(value, digits), "bold red" if odd else style)


def _synced(view: View, look: Look) -> Text:
    links = look.links.get(view.run.folder, ()) if view.info else ()
    words = [
        f"{clean(link.remote)} {'nothing yet' if link.confirmed_step is None else f'to {link.confirmed_step}'}"
        for link in links
        if view.info and link.uuid == view.info.uuid
    ]
    return Text(f"synced: {', '.join(words)}" if words else "", "dim")


def _news(view: View) -> Text:
    """What should be seen: the newest alert."""
    if not view.alerts:
        return Text()
    newest = view.alerts[-1]
    more = f" (+{len(view.alerts) - 1}, a)" if len(view.alerts) > 1 else ""
    where = f"step {newest.step}" if newest.step is not None else f"{age(time.time() - newest.time)} ago"
    style = "bold red" if newest.level == "ERROR" else "yellow"
    return Text(f"! {newest.words[:_NEWS_MAX]}, {where}{more}", style)


# The charts.


def _metrics(board: Dashboard, views: Sequence[View]) -> list[str]:
    """Loss and learning rate first, then the others as they came; the time left is in the header."""
    names = list(dict.fromkeys(name for view in views for name in view.values))
    first = [name for name in (loss_of(names), lr_of(names)) if name is not None]
    return [name for name in dict.fromkeys([*first, *names]) if name != ETA and board.wanted(name)]


def _grid(board: Dashboard, views: Sequence[View], width: int, height: int | None, look: Look) -> list[Text]:
    metrics = _metrics(board, views)
    overlaid = board.compare and len(views) > 1
    cells: list[tuple[str, list[tuple[int, View]]]] = []
    for name in metrics:
        having = [(index, view) for index, view in enumerate(views) if name in view.values]
        cells += [(name, having)] if overlaid else [(name, [one]) for one in having]
    if not cells:
        reading = any(view.behind for view in views)
        none = f"no metric like {clean(board.filter)!r}" if board.filter else "no numbers yet"
        return [Text("reading..." if reading else none, "dim")]
    columns, rows = _layout(board, len(cells), width, height)
    each = _FRAME_CHART if height is None else height // rows
    board.pages = 1 if height is None else -(-len(cells) // (columns * rows))
    board.page = min(board.page, board.pages - 1)
    if height is not None:
        cells = cells[board.page * columns * rows :][: columns * rows]
    size = (width - 2 * (columns - 1)) // columns
    lines = []
    for start in range(0, len(cells), columns):
        charts = [
            _chart(board, name, of, size, each, look, len(views) > 1) for name, of in cells[start : start + columns]
        ]
        for parts in zip(*charts, strict=True):
            line = Text(no_wrap=True)
            for index, part in enumerate(parts):
                line.append_text(part)
                if index < len(parts) - 1:
                    line.append(" " * (size - part.cell_len + 2))
            lines.append(line)
    return lines


def _layout(board: Dashboard, count: int, width: int, height: int | None) -> tuple[int, int]:
    """Columns and rows of charts: on as few pages as can be, in the shape that is nearest to a good one."""

    def rows(columns: int) -> int:
        needed = -(-count // columns)
        return needed if height is None else max(1, min(needed, height // _CHART_HEIGHT))

    if board.columns:
        columns = min(board.columns, count, max(1, (width + 2) // _NARROWEST))
        return columns, rows(columns)

    def badness(columns: int) -> tuple[int, float]:
        high = _FRAME_CHART if height is None else max(1, height) / rows(columns)
        return -(-count // (columns * rows(columns))), abs(math.log(width / columns / high / _SHAPE))

    fitting = max(1, min(_WIDEST, count, (width + 2) // (_CHART_WIDTH + 2)))
    columns = min(range(1, fitting + 1), key=badness)
    return columns, rows(columns)


def _chart(
    board: Dashboard, name: str, of: Sequence[tuple[int, View]], width: int, height: int, look: Look, several: bool
) -> list[Text]:
    """One metric of one run, or of several overlaid."""
    weight = SMOOTHING[board.smoothing]
    title = Text(no_wrap=True)
    lines: list[Line] = []
    marks: list[Mark] = []
    if len(of) == 1:
        index, view = of[0]
        if several:
            title.append(f"{_letter(index)} ", f"bold {_RUNS[index % len(_RUNS)]}")
        title.append(clean(shown(name)), "bold").append(" ").append_text(_value(view.values[name][1], 5))
        styles = (_RUNS[index % len(_RUNS)],) * 2 if several else _ATTEMPTS
        if board.dead:
            lines += _dead(view, name, board.by_time)
        lines += _curve(view, name, board.by_time, weight, look, styles)
        marks = _marks(view, board.by_time)
    else:
        title.append(clean(shown(name)), "bold")
        for index, view in of:
            style = _RUNS[index % len(_RUNS)]
            title.append(f"  {_letter(index)} ", f"bold {style}").append_text(_value(view.values[name][1], 4))
            found = _curve(view, name, board.by_time, weight, look, (style, style))
            smooth = found[-1:] if weight else found
            lines += [line._replace(letter=_letter(index)) for line in smooth]
    best = _best([view for _, view in of], name)
    title.truncate(width, overflow="ellipsis")
    if title.cell_len + best.cell_len + 2 <= width:
        title.append(" " * (width - title.cell_len - best.cell_len)).append_text(best)
    body = chart(
        lines,
        width,
        height - 1,
        marks=marks,
        x_range=_range([view for _, view in of], board.by_time, board.dead and len(of) == 1),
        log_y=board.log_y,
        x_text=_elapsed if board.by_time else _step_text,
        y_text=_short,
        label_width=_LABELS,
        unicode=look.unicode,
    )
    return [title, *body]


def _x(block: Block, offsets: Sequence[float] | None) -> float:
    if offsets is None:
        return (block.steps[0] + block.steps[1]) / 2
    middle = block.times[0] / 2 + block.times[1] / 2
    return middle + (offsets[block.attempt - 1] if block.attempt <= len(offsets) else 0.0)


def _curve(view: View, name: str, by_time: bool, weight: float, look: Look, styles: tuple[str, str]) -> list[Line]:
    """The lines of what holds, one an attempt; the smoothed one last, above what it was made of."""
    offsets = view.seconds_run() if by_time else None
    found = list(points(view.history.live(), name, lambda block: _x(block, offsets)))
    lines = []
    smooth = iter(ema([point.mean for point in found], weight) if weight else ())
    for attempt, group in groupby(found, key=lambda point: point.attempt):
        part = list(group)
        style = styles[attempt % 2]
        if not weight:
            lines.append(_line(part, style))
        elif look.color:
            lines.insert(0, _line(part, f"dim {style}"))
        if weight:
            means = list(islice(smooth, len(part)))
            lines.append(Line([point.x for point in part], means, means, style))
    return lines


def _line(part: Sequence[Point], style: str) -> Line:
    return Line([point.x for point in part], [point.low for point in part], [point.high for point in part], style)


def _dead(view: View, name: str, by_time: bool) -> list[Line]:
    offsets = view.seconds_run() if by_time else None
    lines = []
    for (live, _), blocks in groupby(view.history.blocks, key=lambda block: (block.live, block.attempt)):
        if not live:
            read = (block for block in blocks if block.read)
            lines.append(_line(list(points(read, name, lambda block: _x(block, offsets))), "bright_black"))
    return lines


def _marks(view: View, by_time: bool) -> list[Mark]:
    """Where attempts go on, and what a rewind went back to."""
    offsets = view.seconds_run() if by_time else None
    live = view.history.live()
    found: dict[int, Mark] = {}
    for rewind in view.rewinds:
        block = next((block for block in live if block.first > rewind.seq), None)
        if block is not None:
            found[block.first] = Mark(_start(block, offsets))
    before = 1
    for block in live:
        if block.attempt != before:
            before = block.attempt
            rewound = block.first in found
            found[block.first] = Mark(_start(block, offsets), str(before), rewound)
    return list(found.values())


def _range(views: Sequence[View], by_time: bool, dead: bool) -> tuple[float, float] | None:
    """From where to where the runs go, so that all charts of a run have the same axis."""
    ends: list[float] = []
    for view in views:
        offsets = view.seconds_run() if by_time else None
        blocks = [block for block in view.history.blocks if block.read] if dead else view.history.live()
        for block in blocks if dead else [*blocks[:1], *blocks[-1:]]:
            ends += [_start(block, offsets), _end(block, offsets)]
    return (min(ends), max(ends)) if ends else None


def _start(block: Block, offsets: Sequence[float] | None) -> float:
    return float(block.steps[0]) if offsets is None else block.times[0] + offsets[block.attempt - 1]


def _end(block: Block, offsets: Sequence[float] | None) -> float:
    return float(block.steps[1]) if offsets is None else block.times[1] + offsets[block.attempt - 1]


def _best(views: Sequence[View], name: str) -> Text:
    """The best value and its step, or from where to where it goes; and what is not finite."""
    stats = [
        (block.stats[name], block.steps[1]) for view in views for block in view.history.live() if name in block.stats
    ]
    finite = [(known, step) for known, step in stats if known.finite]
    text = Text()
    if finite:
        kind = best_is(name, {metric: kind for view in views for metric, kind in view.goals.items()})
        low, high = min(known.low for known, _ in finite), max(known.high for known, _ in finite)
        if kind is None:
            text.append(f"{number(low, 3)} to {number(high, 3)}", "dim")
        else:
            best = low if kind == "min" else high
            step = next(step for known, step in finite if best in (known.low, known.high))
            text.append(f"best {number(best, 4)} at {_step_text(step)}", "dim")
    odd = _odd([known for known, _ in stats])
    if odd:
        text = Text(odd, "bold red").append(" " if text.plain else "").append_text(text)
    return text


def _odd(stats: Sequence[Stat]) -> str:
    nan, infinite = sum(known.nan for known in stats), sum(known.up + known.down for known in stats)
    return " ".join(f"{count} {word}" for count, word in ((nan, "NaN"), (infinite, "inf")) if count)


def _short(value: float) -> str:
    """A number in seven characters, or eight below zero."""
    size = abs(value)
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if 1e4 <= size < 1e13 and size >= factor:
            return f"{value / factor:.4g}{unit}"
    text = f"{value:.4g}"
    if len(text.lstrip("-")) <= _LABELS and "e" not in text:
        return text
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _step_text(step: float) -> str:
    if step < 100_000:
        return f"{round(step)}"
    return f"{step / 1e6:.4g}M" if step >= 1e6 else f"{step / 1e3:.4g}k"


def _elapsed(seconds: float) -> str:
    return _about(max(0.0, seconds))


# Around the charts.


def _footer(board: Dashboard, views: Sequence[View], width: int, look: Look) -> Text:
    if board.mode == "filter":
        return (
            Text("/", "bold")
            .append(clean(board.filter), "bold")
            .append("_", "blink")
            .append("   Enter keeps, Esc clears", "dim")
        )
    if board.mode == "runs":
        return Text("space show or hide   o only this   a automatic   Enter back", "dim")
    states: Mapping[str, str] = {
        "?": "help",
        "/": f"filter {clean(board.filter)}" if board.filter else "filter",
        "s": f"smooth {SMOOTHING[board.smoothing]:g}" if board.smoothing else "smooth",
        "y": "log" if board.log_y else "linear",
        "x": "time" if board.by_time else "step",
        **({"c": "overlaid" if board.compare else "apart"} if len(views) > 1 else {}),
        **({"r": f"runs {len(views)}/{len(board.runs)}"} if len(board.runs) > 1 else {}),
        **({"a": f"alerts {count}"} if (count := sum(len(view.alerts) for view in views)) else {}),
        **({"d": "dead shown" if board.dead else "dead"} if any(view.rewinds for view in views) else {}),
    }
    line = Text("q", "bold").append(" quit", "dim")
    for key, word in states.items():
        line.append(f"  {key}", "bold").append(f" {word}", "dim")
    right = Text()
    reading = [view.history.part_read for view in views if view.behind]
    if reading:
        right.append(f"reading {min(reading):.0%}  ", "yellow")
    if board.paused:
        right.append("PAUSED  ", "bold yellow")
    if board.pages > 1:
        right.append(f"page {board.page + 1}/{board.pages}")
    right.rstrip()
    line.truncate(max(0, width - right.cell_len - 2), overflow="ellipsis")
    return line.append(" " * max(1, width - line.cell_len - right.cell_len)).append_text(right)


def _help(width: int) -> list[Text]:
    size = max(len(key) for key, _ in HELP)
    lines = [Text(), Text("Keys", "bold"), Text()]
    lines += [Text(f"  {key:<{size}}  ", "bold").append(text, "not bold") for key, text in HELP]
    return [
        *lines,
        Text(),
        Text("  Charts: x NaN, ^ v infinity; a thin line where a rewind went back to,", "dim"),
        Text("  the number of an attempt where it begins. Colours alternate by attempt.", "dim"),
    ]


def _alerts(views: Sequence[View], height: int) -> list[Text]:
    """All that somebody should look at, the newest first."""
    found = sorted(((notice, view) for view in views for notice in view.alerts), key=lambda one: -one[0].time)
    lines = [Text(f"Alerts, the newest first ({len(found)})", "bold")]
    for notice, view in found[: height - 1]:
        line = Text(f"{moment(notice.time)}  ")
        line.append(f"{clean(notice.level):5}", ALERT_STYLES.get(notice.level, ""))
        line.append(f"  {view.run.id}  " if len(views) > 1 else "  ")
        line.append(f"step {notice.step}  " if notice.step is not None else "").append(notice.words)
        lines.append(line)
    return lines


def _chooser(board: Dashboard, views: Sequence[View], width: int, height: int) -> list[Text]:
    known = {view.run.folder: view for view in views}
    visible = {run.folder for run in board.visible()}
    first = max(0, min(board.cursor - height // 2, len(board.runs) - height + 1))
    size = max((len(run.id) for run in board.runs), default=0)
    lines = [Text(f"Runs, those that wrote last first ({len(board.runs)})", "bold")]
    for index, run in enumerate(board.runs[first : first + height - 1], first):
        line = Text(
            f"{'>' if index == board.cursor else ' '} [{'x' if run.folder in visible else ' '}] {run.id:<{size}}"
        )
        view = known.get(run.folder)
        if view is not None:
            line.append("  ").append_text(_state(view, short=True)).append("  ").append_text(_step(view, short=True))
            if view.info and view.info.name:
                line.append(f"  {clean(view.info.name)}", "dim")
        if index == board.cursor:
            line.stylize("reverse")
        lines.append(line)
    return lines
