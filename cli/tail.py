"""``tracker tail``: runs as they grow; a live view on a terminal, lines where the output is piped."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from offline_tracker import alerts as rules
from offline_tracker.curve import Row
from offline_tracker.errors import StoreError, UsageError

from .alerts import Notice, RuleOptions, of_findings
from .common import Chosen, JsonOption, RunOptions, RunsArgument, chosen, runs_folder
from .dashboard import Dashboard
from .glance import loss_of, lr_of
from .watch import Guard, Stream, View, Wanted, every, only_wanted
from .words import clean, has_unicode, moment, number, put, row_json, shown, terminal, to_json, warn

if TYPE_CHECKING:
    from rich.console import Console

    from offline_tracker.sync.ledger import Link

_REFRESH_S = 1.0
_FOLLOW_S = 0.5
_LOOK_S = 3.0
"""How often is looked for new runs, and for where they are synced."""
_READ_S = 0.1
"""For so long is read at a stretch while a key may be waiting."""
_FIRST_ROWS = 10
_FRAME_WIDTH = 100

Pick = Callable[[], list[Chosen]]


def tail(
    runs: RunsArgument = None,
    run: RunOptions = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="GLOB", help="Only metrics with such a name; repeatable.", show_default=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show what there is now, and end.")] = False,
    time_limit: Annotated[
        str | None,
        typer.Option(
            "--time-limit", metavar="TIME", help="Warn if a run won't end in time, e.g. 12h.", show_default=False
        ),
    ] = None,
    rule: RuleOptions = None,
    json: JsonOption = False,
) -> None:
    """Watch runs live: charts, time left, pace; press ? for the keys.

    Where the output is no terminal it is a line a row: time, run, step, then the metrics. With --json it is one JSON
    object a row, as in tracker export; a row that gets more values later is printed again. Ctrl-C ends it.

    Rows are judged as they come, as tracker alerts does: what is found is kept with the run. It is a line that begins with
    ALERT, as what the training says with alert(), or with --json an object {"run": ID, "alert": {...}}.

    --time-limit counts from the start of an attempt, in Slurm's forms or as 90m, 1d12h; without it the end that Slurm
    told the training (SLURM_JOB_END_TIME) is used.
    """
    own = [rules.parse(text) for text in rule or ()]
    limit_s = None if time_limit is None else _seconds(time_limit)
    picked = chosen(runs, run)

    def pick() -> list[Chosen]:
        return picked if run else chosen(runs)

    console = terminal()
    folder = "" if run else str(runs_folder(runs)[0])
    board = Dashboard(metric or (), named=bool(run))
    if json:
        _follow(pick, board.wanted, own, once, None, _JSON)
    elif once:
        _once(pick, board, own, limit_s, folder)
    elif console is not None and sys.stdin.isatty():
        _live(console, (lambda: picked) if run else lambda: _newest_first(pick()), board, own, limit_s, folder)
    else:
        _follow(pick, board.wanted, own, once, _FIRST_ROWS, _PLAIN)


def _line(run: str, row: Row) -> str:
    first = [name for name in (loss_of(row.values), lr_of(row.values)) if name is not None]
    names = dict.fromkeys([*first, *row.values])
    values = (f"{clean(shown(name))}={_word(row.values[name])}" for name in names)
    return f"{moment(row.time, '%Y-%m-%dT%H:%M:%S')} {run} {row.step} {' '.join(values)}"


def _alert_line(run: str, notice: Notice) -> str:
    step = "-" if notice.step is None else notice.step
    return f"ALERT {moment(notice.time, '%Y-%m-%dT%H:%M:%S')} {run} {step} {clean(notice.level)} {notice.words}"


class Writer(NamedTuple):
    """How a row and an alert are written, each on a line."""

    row: Callable[[str, Row], str]
    alert: Callable[[str, Notice], str]


_PLAIN = Writer(_line, _alert_line)
_JSON = Writer(
    lambda run, row: row_json(run, row.step, row.time, row.values),
    lambda run, notice: to_json({"run": run, "alert": notice._asdict()}),
)


def _word(value: Any) -> str:
    if isinstance(value, str):
        text = clean(value)
        return '"' + text.replace('"', '\\"') + '"' if not text or " " in text else text
    return "null" if value is None else number(value, 6)


def _follow(
    pick: Pick, wanted: Wanted, own: Sequence[rules.UserRule], once: bool, first: int | None, write: Writer
) -> None:
    streams: dict[Any, tuple[Stream, Guard]] = {}
    broken = False
    try:
        for _ in every(_FOLLOW_S):
            for run in pick():
                if run.folder not in streams:
                    stream = Stream(run, first)
                    streams[run.folder] = stream, Guard(stream, own)
                stream, guard = streams[run.folder]
                try:
                    for row in stream.rows(end=once):
                        for shown_row in only_wanted([row], wanted):
                            print(write.row(run.id, shown_row))
                        for notice in of_findings(guard.see(row)):
                            print(write.alert(run.id, notice))
                    for notice in [*of_findings(guard.wait()), *stream.said]:
                        print(write.alert(run.id, notice))
                except StoreError as error:
                    broken = True
                    warn(f"run {run.id}: {error}")
            sys.stdout.flush()
            first = None  # of a run that appears now
            if once:
                break
    except KeyboardInterrupt:
        return
    if broken:
        raise typer.Exit(1)


def _once(pick: Pick, board: Dashboard, own: Sequence[rules.UserRule], limit_s: float | None, folder: str) -> None:
    from .screen import Look, frame

    board.runs = pick()
    views = [View(run, own) for run in board.runs]
    for view in views:
        view.refresh(math.inf)
    console = terminal()
    look = Look(has_unicode(), console is not None and not console.no_color, limit_s)
    look.links = _links(board.runs)
    width = console.width if console is not None else _FRAME_WIDTH
    for line in frame(board, views, width, None, look, f"no runs in {folder}"):
        put(line, width)
    if any(view.error is not None for view in views):
        raise typer.Exit(1)


def _live(
    console: Console,
    pick: Pick,
    board: Dashboard,
    own: Sequence[rules.UserRule],
    limit_s: float | None,
    folder: str,
) -> None:
    from rich.console import ConsoleDimensions
    from rich.live import Live
    from rich.text import Text

    from .keys import keyboard
    from .screen import Look, frame

    views: dict[Path, View] = {}
    look = Look(not console.options.ascii_only, not console.no_color, limit_s)
    seen: object = None

    def draw() -> None:
        nonlocal seen
        # As the terminal says: $COLUMNS and $LINES, which Rich would believe, do not change with it.
        console.size = size = ConsoleDimensions(*os.get_terminal_size(sys.stdout.fileno()))
        here = [views[run.folder] for run in board.visible() if run.folder in views]
        lines = frame(board, here, size.width, size.height, look, f"no runs in {folder} yet")
        if lines != seen or size != live.console.size:
            live.update(Text("\n", no_wrap=True).join(lines), refresh=True)
        seen = lines

    def resumed() -> None:
        nonlocal seen
        seen = None
        live.start()

    live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
    try:
        with keyboard(live.stop, resumed) as keys, live:
            look_at = refresh_at = 0.0
            while not board.done:
                now = time.monotonic()
                if now >= look_at and not board.paused:
                    with contextlib.suppress(OSError):  # a server that is away comes back
                        board.runs = pick()
                    look.links = _links(board.runs)
                    look_at = now + _LOOK_S
                if now >= refresh_at and not board.paused:
                    for run in board.visible():
                        views.setdefault(run.folder, View(run, own)).refresh(_READ_S)
                    refresh_at = now + _REFRESH_S
                draw()
                behind = [view for view in views.values() if view.behind]
                for key in keys.read(0.0 if behind else refresh_at - time.monotonic()):
                    board.press(key)
                    refresh_at = 0.0 if board.mode == "runs" else refresh_at
                for view in behind:
                    view.catch_up(_READ_S)
    except (KeyboardInterrupt, EOFError):
        return
    finally:
        for view in views.values():
            view.close()


def _links(runs: Sequence[Chosen]) -> dict[Path, list[Link]]:
    """Return where runs are synced; a ledger that can't be read is for ``tracker ls`` to complain about."""
    from offline_tracker.sync.engine import links_of

    found: dict[Path, list[Link]] = {}
    for folder in {run.runs.path for run in runs}:
        with contextlib.suppress(StoreError, OSError):
            found |= {folder / run_id: links for run_id, links in links_of(folder).items()}
    return found


def _newest_first(runs: list[Chosen]) -> list[Chosen]:
    def changed_at(run: Chosen) -> float:
        times = [0.0]
        for name in ("run.db", "segments"):  # a run that is alive touches run.db every ten seconds
            with contextlib.suppress(OSError):
                times.append((run.folder / name).stat().st_mtime)
        return max(times)

    return sorted(runs, key=changed_at, reverse=True)


def _seconds(text: str) -> float:
    """
    Return a length of time in seconds: with units as in 1d12h or 90m, or in a form of Slurm's: minutes[:seconds],
    hours:minutes:seconds, days-hours[:minutes[:seconds]].

    Raises:
        UsageError: it is none of these.
    """
    if units := re.fullmatch(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text):
        parts = [int(part or 0) for part in units.groups()]
    elif re.fullmatch(r"(\d+-\d+(:\d+){0,2})|(\d+(:\d+){0,2})", text):
        parts = [int(part) for part in re.split("[-:]", text)]
        if "-" not in text:
            parts = [0, 0, *parts] if len(parts) < 3 else [0, *parts]
        parts += [0] * (4 - len(parts))
    else:
        raise UsageError(f"--time-limit {text!r}: use a length of time such as 90m, 1d12h, 12:00:00 or 1-12:00:00")
    days, hours, minutes, seconds = parts
    return ((days * 24.0 + hours) * 60 + minutes) * 60 + seconds
