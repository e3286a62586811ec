"""How things are written: numbers, times, names and texts from a run, JSON, and the console."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from offline_tracker.columns import distinct as distinct
from offline_tracker.columns import shown as shown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPED_WIDTH = 4000
"""Columns where nobody's terminal is the limit: no table is cut, grep sees whole lines."""
_DELETE_AND_C1 = re.compile("[\x7f-\x9f]")


def clean(text: object) -> str:
    """Return *text* as one line that can't steer a terminal; what is not printable is escaped as in Python."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(text)
    )


def number(value: Any, digits: int = 5) -> str:
    """Return a value for people: floats to *digits* significant digits, texts cleaned."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"{Decimal(value):.{digits}g}"
    return "" if value is None else clean(value)


def duration(seconds: float) -> str:
    """Return a length of time, such as 1m16s, 1h02m03s or 2d03h04m."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h{minute:02}m"
    if hours:
        return f"{hours}h{minute:02}m{second:02}s"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def age(seconds: float) -> str:
    """Return a length of time in its largest unit, such as 12s, 4m, 3h or 9d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def plural(count: int, thing: str) -> str:
    """Return how many of a thing there are, such as "1 gap" or "2 gaps"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def moment(at: float | None, style: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a time (unix seconds) on this machine's clock; ``?`` for one that no clock shows."""
    try:
        return "" if at is None else time.strftime(style, time.localtime(at))
    except (ValueError, OverflowError, OSError):  # of a damaged file
        return "?"


def plain(value: Any) -> Any:
    """Return *value* as strict JSON has it: NaN and infinities are "NaN", "Infinity" and "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """Return *value* as strict JSON; JSON itself escapes what steers a terminal, but for DEL and C1."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return _DELETE_AND_C1.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def row_json(run: str, step: int, time: float, values: Mapping[str, Any], **more: Any) -> str:
    """Return a row as a line of jsonl (contract)."""
    metrics = {name: values[metric] for metric, name in distinct(values).items()}
    return to_json({"run": run, "step": step, "time": time, **more, "metrics": metrics})


def warn(message: object) -> None:
    """Say *message* in one line on stderr."""
    sys.stdout.flush()
    print(f"tracker: {clean(' '.join(str(message).split()))}", file=sys.stderr)


def has_unicode() -> bool:
    """Return whether stdout takes more than ASCII."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def terminal() -> Console | None:
    """Return the console of the terminal that stdout is, None if it is none that can be drawn on."""
    from rich.console import Console

    if not sys.stdout.isatty():
        return None
    console = Console(highlight=False)
    return None if console.is_dumb_terminal else console


def put(content: RenderableType, width: int = PIPED_WIDTH) -> None:
    """Print *content*; where stdout is no terminal as bare text, *width* columns wide at most."""
    from rich.console import Console

    console = terminal()
    if console is not None:
        console.print(content)
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"  # Rich draws lines of what this has
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", newline="")
    Console(file=file, force_terminal=False, color_system=None, highlight=False, width=width).print(content)
    file.seek(0)
    for line in file.read().splitlines():
        print(line.rstrip())
