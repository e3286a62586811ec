"""``tracker ls``: the runs of a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from enum import Enum
from typing import Annotated, Any

import typer

from offline_tracker.errors import StoreError
from offline_tracker.store import Gap

from .common import Chosen, JsonOption, RunsArgument, chosen, links_in, reading, runs_folder
from .glance import Glance, eta_text, flat, gap_json, gaps_text, glance
from .shelf import Shelf, mark_of
from .words import PIPED_WIDTH, age, clean, number, plain, put, terminal, to_json, warn

STYLES = {"running": "green", "stalled": "yellow", "finished": "blue", "failed": "red", "crashed": "red"}
_RIGHT = ("tries", "step", "loss", "lr", "eta", "age")
_DROPPED_FIRST = ("project", "name", "*", "tries", "lr", "synced")
"""The columns that a narrow terminal goes without; ``*`` stands for those of the config, the last one first."""
_NAME_WIDTH = 24
_CONFIG_COLUMNS = 6
_COLUMNS = ("run", "name", "project", "state", "tries", "step", "loss", "lr", "eta", "age", "gaps", "synced")

Links = Sequence[Mapping[str, Any]]


class Sort(str, Enum):
    """What `ls` may be sorted by."""

    age = "age"
    name = "name"
    project = "project"
    state = "state"
    step = "step"
    loss = "loss"


def ls(
    runs: RunsArgument = None,
    project: Annotated[str | None, typer.Option(help="Only the runs of this project.", show_default=False)] = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only running, finished, failed or crashed ones.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only those with this tag; repeatable.")] = None,
    sort: Annotated[Sort, typer.Option(help="Newest first; or smallest first by another column.")] = Sort.age,
    json: JsonOption = False,
) -> None:
    """List runs: state, step, loss, and the config where it differs; time left, where synced."""
    home, _ = runs_folder(runs)
    links = links_in(home)
    shelf = Shelf(home)
    seen: list[tuple[Glance, Links]] = []
    broken: dict[str, str] = {}
    for run in chosen(runs):
        try:
            found = _look(run, shelf)
        except StoreError as error:
            broken[run.id] = str(error)
            continue
        if project not in (None, found.project) or state not in (None, found.state) or {*(tag or ())} - {*found.tags}:
            continue
        here = [link for link in links.get(run.id, ()) if link.uuid == found.uuid]
        seen.append((found, [link_json(link) for link in here]))
    shelf.save()
    seen.sort(key=lambda item: _order(item[0], sort))
    if json:
        documents = [_document(found, synced) for found, synced in seen]
        documents += [{"run": run, "state": "unreadable", "error": why} for run, why in broken.items()]
        print(to_json(documents, indent=2))
    elif seen or broken:
        _print(seen, broken)
    else:
        warn(f"no runs in {home}")
    if broken:
        raise typer.Exit(1)


def _look(run: Chosen, shelf: Shelf) -> Glance:
    try:
        mark = mark_of(run.folder / "run.db")
    except OSError as error:
        raise StoreError(f"can't read {run.folder / 'run.db'}: {error}") from error
    if (kept := shelf.get(run.id, mark)) is not None:
        return Glance(**{**kept, "gaps": [Gap(*gap) for gap in kept["gaps"]]})
    with reading(run) as reader:
        found = glance(reader)
        ended = bool(reader.attempts) and reader.attempts[-1].ended_at is not None
    # Of all others the state may change while the file does not. A file that changed just now may do so again, unseen.
    if ended and mark == mark_of(run.folder / "run.db") and time.time() - mark[2] / 1e9 > 1.0:
        shelf.put(run.id, mark, asdict(replace(found, gaps=[list(gap) for gap in found.gaps])))  # type: ignore[misc]
    return found


def _order(found: Glance, by: Sort) -> tuple[Any, ...]:
    value = -found.last_at if by is Sort.age else getattr(found, by.value)
    odd = value is None or value != value or (by is Sort.loss and not isinstance(value, (int, float)))
    return odd, 0 if odd else value, -found.last_at


def link_json(link: Any) -> dict[str, Any]:
    """Return a link for JSON."""
    keys = ("remote", "entity", "project", "remote_id", "url", "confirmed_step", "confirmed_rows", "state")
    return {key: getattr(link, key) for key in keys}


def _document(found: Glance, synced: Links) -> dict[str, Any]:
    document = {key: getattr(found, key) for key in ("run", "name", "project", "state", "attempts", "step")}
    left, of = found.left or (None, None)
    return {
        **document,
        "total_steps": found.total_steps,
        "loss": found.loss,
        "lr": found.lr,
        "eta_s": left,
        "eta_of": of,
        "last_write_at": found.last_at,
        "tags": list(found.tags),
        "config": found.config,
        "gaps": [gap_json(gap) for gap in found.gaps],
        "synced": list(synced),
    }


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the config keys (nested ones joined by dots) in which runs differ, with each run's value, None without."""
    flats = [flat(config) for config in configs]
    keys = dict.fromkeys(key for values in flats for key in values)
    found = {key: [values.get(key) for values in flats] for key in keys}
    return {key: values for key, values in found.items() if any(plain(value) != plain(values[0]) for value in values)}


def _print(seen: Sequence[tuple[Glance, Links]], broken: Mapping[str, str]) -> None:
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    config = {f"*{key}": values for key, values in differing([found.config for found, _ in seen]).items()}
    shown = [key for key in config if max(len(number(value, 4)) for value in config[key]) <= _NAME_WIDTH]
    rows = [_cells(found, synced) for found, synced in seen]
    for key in shown[:_CONFIG_COLUMNS]:
        for row, value in zip(rows, config[key], strict=True):
            row[key] = number(value, 4)
    rows += [{"run": clean(run), "state": "unreadable"} for run in broken]
    after_loss = _COLUMNS.index("loss") + 1
    columns = [*_COLUMNS[:after_loss], *shown[:_CONFIG_COLUMNS], *_COLUMNS[after_loss:]]
    columns = [column for column in columns if any(row.get(column) for row in rows)]
    head = {column: column.lstrip("*") for column in columns}
    head.update({column: f"config.{name}" for column, name in head.items() if column != name and name in _COLUMNS})
    console = terminal()
    width = PIPED_WIDTH if console is None else console.width
    most = {"name": _NAME_WIDTH, "project": _NAME_WIDTH} if console is not None else {}
    sizes = {}
    for column in columns:
        size = max(cell_len(head[column]), *(cell_len(row.get(column, "")) for row in rows))
        sizes[column] = min(size, most.get(column, size))
    for dropped in _DROPPED_FIRST:
        while sum(sizes[column] + 2 for column in columns) - 2 > width and (
            gone := [column for column in columns if column == dropped or column.startswith(dropped)]
        ):
            columns.remove(gone[-1])
    out = Text(no_wrap=True, overflow="ellipsis")
    for row in (head, *rows):
        for column in columns:
            text, size = row.get(column, ""), sizes[column]
            if cell_len(text) > size:
                text = set_cell_size(text, size - 1) + "…"
            blank = " " * (size - cell_len(text))
            right = column in _RIGHT or column.startswith("*")
            style = "bold" if row is head else STYLES.get(text, "red") if column == "state" else ""
            out.append(f"{blank}{text}" if right else f"{text}{blank}", style).append(
                "" if column == columns[-1] else "  "
            )
        out.append("\n")
    out.right_crop(1)
    put(out)
    for run, why in broken.items():
        put(Text(f"{clean(run)}: {clean(why)}"))


def _cells(found: Glance, synced: Links) -> dict[str, str]:
    step = "" if found.step is None else str(found.step)
    return {
        "run": found.run,
        "name": clean(found.name or ""),
        "project": clean(found.project or ""),
        "state": found.state,
        "tries": str(found.attempts),
        "step": f"{step}/{found.total_steps}" if found.total_steps and step else step,
        "loss": number(found.loss, 4),
        "lr": number(found.lr, 4),
        "eta": eta_text(found.left),
        "age": age(time.time() - found.last_at),
        "gaps": gaps_text([gap.calls for gap in found.gaps]),
        "synced": ", ".join(_synced(link, found.step) for link in synced) or "-",
    }


def _synced(link: Mapping[str, Any], step: int | None) -> str:
    if link["confirmed_step"] is None:
        return f"{link['remote']}: nothing yet"
    return str(link["remote"]) if link["confirmed_step"] == step else f"{link['remote']} to {link['confirmed_step']}"
