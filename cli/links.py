"""``tracker links``: which remote run belongs to which local one, and mending that by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offline_tracker.errors import UsageError

from .common import JsonOption, RunsOption, named, runs_folder
from .words import PIPED_WIDTH, clean, moment, put, to_json, warn

if TYPE_CHECKING:
    from offline_tracker.sync.ledger import Link

_KEYS = (
    *("run", "remote", "server", "entity", "project", "remote_id", "url"),
    *("confirmed_step", "confirmed_rows", "confirmed_at", "state"),
)


def links(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUNS | forget RUN | set RUN ENTITY/PROJECT/ID]", show_default=False),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="REMOTE", help="Which remote; forget: else all.")] = None,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """
    List where runs were synced to, forget a link, or set one by hand.

    The remote run is not touched. Of one that was set the next sync must find the run's uuid there, or take it with
    --adopt.
    """
    from offline_tracker.sync.links import forget, relink

    match words or []:
        case ["forget", run]:
            picked = named(run, runs)
            found = forget(picked.runs.path, picked.id, to)
            said = [f"forgot {_path(link)}" for link in found]
        case ["set", run, path]:
            if to is None:
                raise UsageError("which remote? use --to REMOTE")
            picked = named(run, runs)
            link, ours = relink(picked.runs.path, picked.id, to, path)
            found = [link]
            said = [f"linked to {_path(link)}"]
            if not ours:
                said.append("it did not come from this run: the next sync needs --adopt")
        case [] | [_]:
            _list(Path(words[0]) if words else runs, to, json)
            return
        case _:
            raise UsageError(f"links {' '.join(words or ())}: use RUNS, forget RUN, or set RUN ENTITY/PROJECT/ID")
    if json:
        print(to_json([_document(link) for link in found], indent=2))
    else:
        for line in said:
            print(clean(f"{picked.id}: {line}"))


def _list(path: Path | None, to: str | None, json: bool) -> None:
    from offline_tracker.sync.links import links as all_links

    folder, only = runs_folder(path)
    found = [link for link in all_links(folder) if (not only or link.run in only) and to in (None, link.remote)]
    if json:
        print(to_json([_document(link) for link in found], indent=2))
    elif found:
        _table(found)
    else:
        warn(f"no run in {folder} was synced yet")


def _document(link: Link) -> dict[str, Any]:
    return {key: getattr(link, key) for key in _KEYS}


def _path(link: Link) -> str:
    return f"{link.remote}: {link.entity}/{link.project}/{link.remote_id}"


def _table(found: list[Link]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in ("run", "remote", "entity/project/id", "rows", "step", "confirmed", "url"):
        table.add_column(column, justify="right" if column in ("rows", "step") else "left")
    for link in found:
        where = f"{link.entity}/{link.project}/{link.remote_id}"
        step = "" if link.confirmed_step is None else str(link.confirmed_step)
        cells = (
            link.run,
            link.remote,
            where,
            str(link.confirmed_rows),
            step,
            moment(link.confirmed_at),
            link.url or "",
        )
        table.add_row(*map(clean, cells))
    put(table, PIPED_WIDTH)
