"""
What rules found in a run, kept beside it: ``files/alerts.jsonl``, one JSON object a line, appended by whoever looked.

Not in run.db, which only a training writes: those who look may be on another host, while the run is live.
"""

from __future__ import annotations

import json
import logging
import math
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from .alerts import Finding
from .curve import Span, holds

logger = logging.getLogger("offline_tracker")

NAME = "alerts.jsonl"
_MAX_BYTES = 4 << 20
"""A rule that is always broken is said once; more than this is no alert any more, and nothing is added."""


def stored(folder: Path) -> list[Finding]:
    """
    Return what was found in the run of *folder*, in the order in which it was; [] where nothing was.

    What a rewind took back is among it; see `on_curve`.
    """
    found: dict[Finding, None] = {}
    for line in _content(folder).decode(errors="replace").split("\n")[:-1]:
        try:
            one = Finding(**json.loads(line))
            if all(type(value) in types for value, types in zip(one, _TYPES, strict=True)) and math.isfinite(one.time):
                "".join((one.rule, one.metric, one.text, one.level)).encode()
                found.setdefault(one)
        # Two wrote at once on a filesystem that can't append, or it is none of ours.
        except (ValueError, TypeError, RecursionError):
            continue
    return list(found)


def on_curve(found: Iterable[Finding], spans: Sequence[Span]) -> list[Finding]:
    """Return what of it holds, each once: two that looked at the same time may both have written it down."""
    live: dict[tuple[str, str, int], Finding] = {}
    for one in found:
        if holds(spans, one.seq, one.step):
            live.setdefault(_key(one), one)
    return list(live.values())


def store(folder: Path, found: Iterable[Finding], spans: Sequence[Span]) -> list[Finding]:
    """
    Add what is not there yet, and return that; where it can't be written it counts as new the next time, too.

    Args:
        spans: of the curve. What was found before a rewind is no reason to keep silent when it comes again.
    """
    found = list(found)
    if not found:
        return []
    known = {_key(one) for one in on_curve(stored(folder), spans)}
    new = list({_key(one): one for one in found if _key(one) not in known}.values())
    data = "".join(json.dumps(one._asdict()) + "\n" for one in new).encode()
    if new:
        try:
            (folder / "files").mkdir(exist_ok=True)
            flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(folder / "files" / NAME, flags, 0o644)
            try:
                size = os.fstat(fd).st_size
                if stat.S_ISREG(os.fstat(fd).st_mode) and size + len(data) <= _MAX_BYTES:
                    if size and os.pread(fd, 1, size - 1) != b"\n":  # one who was killed, or a full disk
                        data = b"\n" + data
                    os.write(fd, data)
            finally:
                os.close(fd)
        except OSError as error:  # somebody else's runs, or a full disk: it is found again
            logger.debug("what was found in %s is not stored: %s", folder, error)
    return new


_TYPES: tuple[tuple[type, ...], ...] = ((str,), (str,), (int,), (int, float), (int,), (str,), (str,))


def _key(one: Finding) -> tuple[str, str, int]:
    return one.rule, one.metric, one.step


def _content(folder: Path) -> bytes:
    try:
        # No link is followed, and a pipe is not waited for.
        fd = os.open(folder / "files" / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(fd, "rb") as file:
        return file.read(_MAX_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
