"""What `tracker ls` keeps of ended runs, so that it opens only those that have changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

_FORMAT = 1


class Shelf:
    """
    JSON documents by run, each good as long as the run's run.db is the same file, unchanged.

    It lies in this user's cache folder, never in the runs folder, which may not be ours to write. What can't be read or
    written there costs time, nothing else.

    Args:
        runs: the runs folder.
    """

    def __init__(self, runs: Path) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        name = hashlib.sha256(os.fsencode(runs.resolve())).hexdigest()[:16]
        self._path = Path(cache) / "offline_tracker" / f"ls-{_FORMAT}-{name}.json"
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._path.read_text())
            self._old = found if isinstance(found, dict) else {}

    def get(self, run: str, mark: list[int]) -> dict[str, Any] | None:
        """Return what was put for a run, if its mark is still the same."""
        found = self._old.get(run)
        if not isinstance(found, list) or len(found) != 2 or found[0] != mark:
            return None
        self._new[run] = found
        document: dict[str, Any] = found[1]
        return document

    def put(self, run: str, mark: list[int], document: dict[str, Any]) -> None:
        self._new[run] = [mark, document]

    def save(self) -> None:
        """Keep what was put or asked for; the rest is dropped."""
        if self._new == self._old:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                json.dump(self._new, file)
            Path(file.name).replace(self._path)


def mark_of(path: Path) -> list[int]:
    """Return what changes with a file: its inode, its size in bytes, the time of its last change in ns."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
