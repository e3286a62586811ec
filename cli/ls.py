"""``tracker ls``: the runs of a folder."""

from __future__ import annotations

import time
from typing import Any

import typer

from offline_tracker.errors import StoreError

from .common import Chosen, JsonOption, RunsArgument, chosen, links_in, reading, runs_folder
from .glance import Glance, eta_text, gap_json, gaps_text, glance
from .words import PIPED_WIDTH, age, clean, number, put, terminal, to_json, warn

STYLES = {"running": "green", "stalled": "yellow", "finished": "blue", "failed": "red", "crashed": "red"}
_DROPPED_FIRST = ("project", "name", "tries", "lr", "synced")
"""The columns that a narrow terminal goes without."""
_NAME_WIDTH = 24


def ls(runs: RunsArgument = None, json: JsonOption = False) -> None:
    """List runs: state, step, loss, time left, where synced."""
    home, _ = runs_folder(runs)
    links = links_in(home)
    seen: list[tuple[Glance, list[dict[str, Any]]]] = []
    broken: dict[str, str] = {}
    for run in chosen(runs):
        try:
            found = _look(run)
        except StoreError as error:
            broken[run.id] = str(error)
        else:
            here = [link for link in links.get(run.id, ()) if link.uuid == found.uuid]
            seen.append((found, [link_json(link) for link in here]))
    seen.sort(key=lambda item: item[0].last_at, reverse=True)
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


def _look(run: Chosen) -> Glance:
    with reading(run) as reader:
        return glance(reader)


def link_json(link: Any) -> dict[str, Any]:
    """Return a link for JSON."""
    keys = ("remote", "entity", "project", "remote_id", "url", "confirmed_step", "confirmed_rows", "state")
    return {key: getattr(link, key) for key in keys}


def _document(found: Glance, synced: list[dict[str, Any]]) -> dict[str, Any]:
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
        "gaps": [gap_json(gap) for gap in found.gaps],
        "synced": synced,
    }


def _print(seen: list[tuple[Glance, list[dict[str, Any]]]], broken: dict[str, str]) -> None:
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    rows = [_cells(found, synced) for found, synced in seen]
    rows += [{"run": clean(run), "state": "unreadable"} for run in broken]
    columns = ["run", "name", "project", "state", "tries", "step", "loss", "lr", "eta", "age", "gaps", "synced"]
    columns = [column for column in columns if any(row.get(column) for row in rows)]
    console = terminal()
    for dropped in ("", *_DROPPED_FIRST):
        columns = [column for column in columns if column != dropped]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        for column in columns:
            right = column in ("tries", "step", "loss", "lr", "eta", "age")
            table.add_column(
                column,
                justify="right" if right else "left",
                no_wrap=True,
                overflow="ellipsis",
                max_width=_NAME_WIDTH if console is not None and column in ("name", "project") else None,
            )
        for row in rows:
            style = STYLES.get(row["state"], "red")
            table.add_row(*(Text(row.get(column, ""), style if column == "state" else "") for column in columns))
        if (
            console is None
            or Measurement.get(console, console.options.update(width=PIPED_WIDTH), table).maximum <= console.width
        ):
            break
    put(table)
    for run, why in broken.items():
        put(Text(f"{clean(run)}: {clean(why)}"))


def _cells(found: Glance, synced: list[dict[str, Any]]) -> dict[str, str]:
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


def _synced(link: dict[str, Any], step: int | None) -> str:
    if link["confirmed_step"] is None:
        return f"{link['remote']}: nothing yet"
    return link["remote"] if link["confirmed_step"] == step else f"{link['remote']} to {link['confirmed_step']}"
