"""``tracker tail``: runs as they grow; a live view on a terminal, lines where the output is piped."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any, NoReturn

import typer

from offline_tracker.curve import Row
from offline_tracker.errors import StoreError

from .common import Chosen, JsonOption, RunOptions, RunsArgument, chosen, runs_folder
from .glance import loss_of, lr_of
from .watch import Stream, View, Wanted, every, only_wanted
from .words import clean, moment, number, put, row_json, shown, terminal, warn

_REFRESH_S = 0.5
_FIRST_ROWS = 10
_CALLS = 20_000
"""How many of a run's newest calls the traces show."""
_CALLS_IN_SHORT = 400
_RUNS_READ = 12
"""The live view reads so many runs: those whose files changed last."""
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
    json: JsonOption = False,
) -> None:
    """Watch runs live: loss, learning rate, time left, rows.

    Where the output is no terminal it is a line a row: time, run, step, then the metrics. With --json it is one JSON
    object a row, as in tracker export; a row that gets more values later is printed again. Ctrl-C ends it.
    """
    picked = chosen(runs, run)

    def pick() -> list[Chosen]:
        return picked if run else chosen(runs)

    def wanted(name: str) -> bool:
        return not metric or any(fnmatchcase(shown(name), glob) for glob in metric)

    console = terminal()
    if json:
        _follow(pick, wanted, once, None, lambda run, row: row_json(run, row.step, row.time, row.values))
    elif once:
        _once(pick, wanted, str(runs_folder(runs)[0]) if not run else "")
    elif console is not None:
        _live(console, pick, wanted, bool(run), "" if run else str(runs_folder(runs)[0]))
    else:
        _follow(pick, wanted, once, _FIRST_ROWS, _line)


def _line(run: str, row: Row) -> str:
    first = [name for name in (loss_of(row.values), lr_of(row.values)) if name is not None]
    names = dict.fromkeys([*first, *row.values])
    values = (f"{clean(shown(name))}={_word(row.values[name])}" for name in names)
    return f"{moment(row.time, '%Y-%m-%dT%H:%M:%S')} {run} {row.step} {' '.join(values)}"


def _word(value: Any) -> str:
    if isinstance(value, str):
        text = clean(value)
        return '"' + text.replace('"', '\\"') + '"' if not text or " " in text else text
    return "null" if value is None else number(value, 6)


def _follow(pick: Pick, wanted: Wanted, once: bool, first: int | None, write: Callable[[str, Row], str]) -> None:
    streams: dict[Any, Stream] = {}
    broken = False
    try:
        for _ in every(_REFRESH_S):
            for run in pick():
                if run.folder not in streams:
                    streams[run.folder] = Stream(run, first)
                stream = streams[run.folder]
                try:
                    for row in only_wanted(stream.rows(end=once), wanted):
                        print(write(run.id, row))
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


def _once(pick: Pick, wanted: Wanted, folder: str) -> None:
    from .screen import frame

    views = [View(run, wanted, _CALLS) for run in pick()]
    for view in views:
        view.refresh()
    console = terminal()
    width = console.width if console is not None else _FRAME_WIDTH
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    put(frame(views, 0, f"no runs in {folder}", width, None, unicode), width)
    if any(view.error is not None for view in views):
        raise typer.Exit(1)


def _live(console: Any, pick: Pick, wanted: Wanted, named: bool, folder: str) -> None:
    from rich.live import Live

    from .screen import frame

    def ended(*_: object) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)  # by way of Live, which gives the terminal back

    signal.signal(signal.SIGTERM, ended)
    views: dict[Any, View] = {}
    unicode = not console.options.ascii_only
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for _ in every(_REFRESH_S):
                runs = pick()
                shown_runs = runs if named else _newest(runs)
                for index, run in enumerate(shown_runs):
                    back = _CALLS if named or index < 4 else _CALLS_IN_SHORT
                    views.setdefault(run.folder, View(run, wanted, back)).refresh()
                here = [views[run.folder] for run in shown_runs]
                more = len(runs) - len(here)
                size = console.size
                live.update(
                    frame(here, more, f"no runs in {folder} yet", size.width, size.height, unicode), refresh=True
                )
    except KeyboardInterrupt:
        return


def _newest(runs: list[Chosen]) -> list[Chosen]:
    def changed_at(run: Chosen) -> float:
        times = [0.0]
        for name in ("run.db", "segments"):  # a run that is alive touches run.db every ten seconds
            with contextlib.suppress(OSError):
                times.append((run.folder / name).stat().st_mtime)
        return max(times)

    return sorted(runs, key=changed_at, reverse=True)[:_RUNS_READ]
