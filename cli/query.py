"""``tracker query``: SQL over runs."""

from __future__ import annotations

import csv as csv_module
import sys
from functools import partial
from itertools import islice
from typing import Annotated, Any

import typer

from offline_tracker import query as library
from offline_tracker.columns import text
from offline_tracker.errors import StoreError, UsageError

from .common import JsonOption, RunOptions, RunsArgument, chosen, reading
from .words import clean, number, put, to_json, warn

_SHOWN = 1_000
"""So many rows has a table; the other formats have all."""


def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT.", show_default=False)],
    runs: RunsArgument = None,
    run: RunOptions = None,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Ask runs with SQL (DuckDB, the extra "query").

    Tables: curves (run, metric, step, time, value, text, attempt), runs and attempts; DESCRIBE tells their columns. What
    is no number stands in text. It can read these and nothing else.
    """
    if json and csv:
        raise UsageError("--json or --csv, not both")
    picked = chosen(runs, run)
    broken: set[str] = set()

    def lose(error: StoreError, which: int) -> None:
        broken.add(picked[which].id)
        warn(f"run {picked[which].id} is left out: {error}")

    with library.query(sql, [partial(reading, run) for run in picked], lose) as answer:
        if json:
            _print_json(answer)
        elif csv:
            writer = csv_module.writer(sys.stdout, lineterminator="\n")
            writer.writerow(answer.columns)
            writer.writerows([text(_plain(cell)) for cell in row] for row in answer.rows)
        else:
            _print_table(answer)
    if broken:
        raise typer.Exit(1)


def _print_json(answer: library.Answer) -> None:
    print("[", end="")
    for at, row in enumerate(answer.rows):
        line = to_json(dict(zip(answer.columns, map(_plain, row), strict=True)))
        print(",\n" if at else "", line, sep="", end="")
    print("]")


def _print_table(answer: library.Answer) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = list(islice(answer.rows, _SHOWN))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for index, name in enumerate(answer.columns):
        numbers = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(Text(clean(name)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    put(table)
    if next(answer.rows, None) is not None:
        warn(f"these are the first {_SHOWN} rows; --csv and --json print all")


def _cell(value: Any) -> str:
    plain = _plain(value)
    return number(plain, 8) if not isinstance(plain, list | dict) else clean(to_json(plain))


def _plain(value: Any) -> Any:
    """Return what DuckDB gives as what JSON has; a time, a decimal or bytes as its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else str(value)
