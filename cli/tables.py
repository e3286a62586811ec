"""Tables, and pairs of a name and a value; texts from runs are cleaned on the way in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .words import clean, put

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def heading(text: str) -> None:
    """Print a heading, with an empty line before it."""
    from rich.text import Text

    put(Text(f"\n{text}", "bold"))


def pairs(items: Iterable[tuple[str, Any]]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in items:
        table.add_row(_text(name), _text(value))
    return table


def table(columns: Sequence[str | Text], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table; a column of whole numbers is flush right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for index, column in enumerate(columns):
        right = all(isinstance(row[index], int) for row in rows)
        table.add_column(_text(column), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _text(value: Any) -> Text:
    from rich.text import Text

    return value if isinstance(value, Text) else Text(clean(value))
