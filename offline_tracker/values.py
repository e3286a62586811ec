"""
What may be logged, and how it becomes points.

A point's value is a float, an int, a bool, a str or None. Nested dicts become one point a leaf, whose name is the path
joined by `SEPARATOR`; W&B shows such a name as ``a.b``, SwanLab as ``a/b``, so the path itself must survive until then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

Scalar = float | int | bool | str | None

SEPARATOR = "\x1f"
"""ASCII's unit separator: no metric is called so, whereas dots and slashes are in half of all names."""

NAN, BOOL, BIG_INT, TEXT = 1, 2, 3, 4
"""The kinds of a stored value that SQLite alone would change: NaN becomes NULL, True 1, an int over 63 bits an error."""

_PLAIN = frozenset((float, int, bool, type(None)))
_MAX_BITS = 4096


def points(
    data: Mapping[Any, Any], warn: Callable[[str, str], None], late: dict[str, Any] | None = None
) -> dict[str, Scalar]:
    """
    Return *data* as points, name to value.

    0-d tensors and numpy scalars become Python scalars; of a value that can't be a point, *warn* is told a name that is
    the same each time, and why; the others are kept.

    Args:
        late: takes the scalars that are on a GPU, name to tensor, because reading them would wait for it; their place in
            the result is held by None.
    """
    out: dict[str, Scalar] = {}
    for key, value in data.items():
        if type(value) is float and type(key) is str and key.isascii() and key:
            out[key] = value
            continue
        leaves: dict[str, Scalar] = {}
        try:
            _add(leaves, key, value, warn, late)
        except RecursionError:
            warn(shown(key), f"{shown(key)} is not logged: a dict that holds itself")
        else:
            out.update(leaves)
    return out


def _add(
    out: dict[str, Scalar],
    key: Any,
    value: Any,
    warn: Callable[[str, str], None],
    late: dict[str, Any] | None,
    path: str = "",
) -> None:
    try:
        if not isinstance(key, str) or not key:
            text = f"the key {shown(key)} is not a name (a str of one character or more); its value is not logged"
            return warn(f"key {type(key).__name__}", text)
        name = path + clean_text(key)
        if type(value) in _PLAIN or isinstance(value, str):
            pass
        elif isinstance(value, Mapping):
            for inner, leaf in value.items():
                _add(out, inner, leaf, warn, late, name + SEPARATOR)
            return
        elif late is not None and getattr(value, "is_cuda", False) is True:
            late[name] = _on_device(value)
            value = None
        else:
            value = _scalar(value)
        if isinstance(value, str):
            value = clean_text(value)
        elif type(value) is int and value.bit_length() > _MAX_BITS:
            raise OverflowError(f"an int of {value.bit_length()} bits")
        out[name] = value
    except RecursionError:
        raise
    except Exception as error:  # somebody else's class: anything may come out of it
        shown_name = shown((path + key).replace(SEPARATOR, ".")) if type(key) is str else shown(key)
        warn(shown_name, f"{shown_name} is not logged: {shown(error, str)}")


def _on_device(value: Any) -> Any:
    """Return a tensor on a GPU as one that can be copied from there by this process alone."""
    if hasattr(value, "placements"):  # a DTensor; its full_tensor() would wait for all the other ranks
        if not all(placement.is_replicate() for placement in value.placements):
            raise TypeError("a DTensor that is spread over ranks; log(value.full_tensor()) on all of them")
        value = value.to_local()
    if value.numel() != 1:
        raise TypeError(f"{type(value).__name__} of {value.numel()} elements is not one number")
    if value.is_complex():
        raise TypeError("a complex number is not a number that can be drawn")
    return value


def _scalar(value: Any) -> Scalar:
    size = getattr(value, "numel", None) or getattr(value, "size", 1)
    count = size() if callable(size) else size
    if count != 1:
        raise TypeError(f"{type(value).__name__} of {count} elements is not one number")
    if hasattr(value, "item"):
        value = value.item()
    if type(value) in _PLAIN or isinstance(value, str):
        return value  # type: ignore[no-any-return]
    if isinstance(value, int):
        return int(value)
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"a {type(value).__name__} is not a number, a text, a bool or None")


def clean_text(text: str) -> str:
    """Return *text* as SQLite and JSON can hold it: a lone surrogate would block every call behind it for ever."""
    text = str.__str__(text)  # of a subclass (an enum, numpy's) what is in it, whatever its own __str__ says
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()


def shown(value: Any, how: Callable[[Any], str] = repr) -> str:
    """Return the text of *value* for a message, also where its own class raises instead."""
    try:
        return how(value)
    except Exception:
        return f"<{type(value).__name__}>"


def encode(value: Scalar) -> tuple[Any, int | None]:
    """Return *value* as the columns ``value`` and ``kind``; `decode` gives it back exactly."""
    if value is None or (type(value) is float and value == value):
        return value, None
    if type(value) is bool:
        return int(value), BOOL
    if type(value) is float:
        return None, NAN
    if type(value) is int:
        return (value, None) if -(2**63) <= value < 2**63 else (str(value), BIG_INT)
    return value, TEXT


def decode(value: Any, kind: int | None) -> Scalar:
    """Return the value that `encode` was given."""
    if kind is None or kind == TEXT:
        return value  # type: ignore[no-any-return]
    if kind == NAN:
        return math.nan
    return bool(value) if kind == BOOL else int(value)


def to_json(value: Any) -> str:
    """Return *value* (of a config or a summary) as JSON text; what JSON can't hold becomes its text, and never an error."""
    try:
        return json.dumps(value, default=_jsonable, allow_nan=True)
    except Exception:  # it holds itself, or something whose own class raises
        return json.dumps(_plain_json(value, 0), allow_nan=True)


def _jsonable(value: Any) -> Any:
    if hasattr(value, "item"):
        try:
            return value.item()
        except Exception:  # an array: its text will do
            return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__dict__") and type(value).__name__ == "Namespace":
        return vars(value)
    return str(value)


def _plain_json(value: Any, depth: int) -> Any:
    if depth < 20 and type(value) is dict:
        return {shown(key, str): _plain_json(item, depth + 1) for key, item in value.items()}
    if depth < 20 and type(value) in (list, tuple):
        return [_plain_json(item, depth + 1) for item in value]
    return value if type(value) in (str, int, float, bool, type(None)) else shown(value, str)
