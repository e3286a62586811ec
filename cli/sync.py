"""`tracker sync`: replay runs to remotes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from offline_tracker.errors import UsageError

if TYPE_CHECKING:
    from offline_tracker.sync.engine import SyncResult


def sync(
    runs: Annotated[
        Path | None, typer.Argument(help="Runs folder, or one run's. [default: $OFFLINE_TRACKER_DIR or ./runs]")
    ] = None,
    to: Annotated[list[str] | None, typer.Option("--to", help="wandb or swanlab; may be given twice.")] = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="Only this run: an id, or a unique prefix.")] = None,
    project: Annotated[str | None, typer.Option(help="Project at the remote, the first time.")] = None,
    entity: Annotated[str | None, typer.Option(help="Entity (user, team or workspace) there, the first time.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    eager: Annotated[bool, typer.Option("--eager", help="Send also rows that a resume may still supersede.")] = False,
    on_conflict: Annotated[
        str,
        typer.Option(
            metavar="keep|new-run|rewind",
            help="When a remote holds superseded rows: report it, replay anew, or have it take them back (W&B).",
        ),
    ] = "keep",
    downtime: Annotated[
        bool | None,
        typer.Option("--downtime/--no-downtime", help="Count the time between attempts, too; the first time."),
    ] = None,
    settle: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait for what a killed sync had in flight."),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="How long a remote may fail or show no progress. [default: 90]"),
    ] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over a remote run of the same id, if its rows are this run's.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="How many runs are on their way at once.")] = 4,
    watch: Annotated[bool, typer.Option("--watch", help="Go on while trainings write, until Ctrl-C.")] = False,
    max_rps: Annotated[float | None, typer.Option(min=0.01, help="At most so many requests a second.")] = None,
    max_kbps: Annotated[float | None, typer.Option(min=1, help="At most so many kilobytes of rows a second.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; with --watch one object a line.")
    ] = False,
) -> None:
    """
    Replay runs to W&B or SwanLab; every row once, confirmed by reading it back.

    Without --to a run goes to $OFFLINE_TRACKER_TO, else to where it went before, else to the one remote that there are
    credentials for. Exit status: 0 all confirmed, 1 some run is not, 2 usage.
    """
    from offline_tracker.sync import engine

    from .common import runs_folder

    folder, only = runs_folder(runs)
    options: dict[str, Any] = {
        "to": to or (),
        "only": run or only,
        "project": project,
        "entity": entity,
        "eager": eager,
        "on_conflict": on_conflict,
        "downtime": downtime,
        "settle_s": settle,
        "patience_s": engine.PATIENCE_S if patience is None else patience,
        "adopt": adopt,
        "jobs": jobs,
        "max_rps": max_rps,
        "max_kbps": max_kbps,
    }
    if watch:
        if dry_run:
            raise UsageError("--watch sends, --dry-run does not: use one of them")
        from offline_tracker.sync.watching import watch as follow

        _follow(follow(folder, **options), as_json)
    with _progress(quiet=as_json) as progress:
        results = engine.sync(folder, dry_run=dry_run, progress=progress, done=None if as_json else _print, **options)
    ok = all(result.ok for result in results)
    if as_json:
        print(json.dumps({"ok": ok, "results": [result.as_dict() for result in results]}, indent=2))
    elif not results:
        print(f"no runs in {folder}")
    raise typer.Exit(0 if ok else 1)


def _follow(results: Generator[SyncResult], as_json: bool) -> NoReturn:
    """Print results as they come until Ctrl-C or SIGTERM; exit with 1 if the last word on some run is a failure."""
    failed: set[tuple[str, str]] = set()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        with closing(results):
            for result in results:
                pair = (result.run, result.remote)
                failed = failed - {pair} if result.ok else failed | {pair}
                if as_json:
                    print(json.dumps(result.as_dict()), flush=True)
                else:
                    _print(result)
    except KeyboardInterrupt:
        pass
    raise typer.Exit(1 if failed else 0)


def _print(result: SyncResult) -> None:
    if not result.ok:
        print(f"{result.run} -> {result.remote}: NOT SYNCED: {result.reason}", file=sys.stderr, flush=True)
        return
    print(f"{result.run} -> {result.remote} {result.project}: {_said(result)}", flush=True)
    for note in result.notes:
        print(f"  {note}")
    if result.url and result.status == "confirmed":
        print(f"  {result.url}", flush=True)


def _said(result: SyncResult) -> str:
    upto = f"{result.rows} rows up to step {result.last_step}" if result.rows else "no rows yet"
    if result.status == "would send":
        return f"would send {result.sent} rows"
    if result.status == "nothing new":
        return f"nothing new, {upto}"
    return f"{result.sent} rows sent, {upto} confirmed"


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, str, int, int], None] | None]:
    """A bar for each run that is on its way; nothing where nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {}

        def advance(run: str, remote: str, done: int, total: int) -> None:
            if (run, remote) not in tasks:
                tasks[run, remote] = bar.add_task(f"{run} -> {remote}", total=total)
            bar.update(tasks[run, remote], completed=done, total=total)

        yield advance
