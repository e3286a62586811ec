"""
What lies in ``runs/<id>/segments/``: a run in pieces, for a filesystem whose locks don't reach other hosts.

SQLite's locks would not meet there, and a reader on another host would see half a commit. So the live database lies on
the writer's node, and only whole files appear here, by a rename:

- ``run.db``, in the run's folder: the whole database as it once was, marked as such in its header (`MARK`). An attempt
  says in its row how many of its segments that holds.
- ``ATTEMPT-N``: the records of an attempt's Nth append, as one record in the journal's format. Never changed; removed
  once a run.db that holds it is there. ``ATTEMPT-0`` is what is being written.
- ``claim-ATTEMPT``: who took that attempt, and when it was touched last. Creating it is what decides between two hosts
  that want the run at once. It stays: a host that has not seen this attempt yet can't take its number again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import marshal
import os
import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, NamedTuple

from . import journal
from .host import Holder, stale
from .journal import FORMAT, HEADER, MAGIC, Record

logger = logging.getLogger("offline_tracker")

MARK = 0x5365676D
"""``PRAGMA application_id`` of a run.db that is only ever replaced whole; it lies in bytes 68 to 71 of the file."""
_MARK_AT = 68
_SEGMENT = re.compile(r"(\d+)-(\d+)")

Stamp = tuple[int, int, int, int]
"""By which a run.db is told from the one that replaced it."""


class Claim(NamedTuple):
    """Who took an attempt; *holder* is None as long as that is being written. Times in unix seconds."""

    holder: Holder | None
    since: float
    beat_at: float

    def held_by_another(self, holder: Holder) -> bool:
        if self.holder is None:
            return not stale(self.beat_at)
        return self.holder != holder and self.holder.holds_since(self.beat_at)


class Segments:
    """
    The pieces of one run. Errors are OSError; what was published before is then as it was.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "segments"
        self._database = run / "run.db"

    def there(self) -> bool:
        return self.path.is_dir()

    def stamp(self) -> Stamp | None:
        """Return the stamp of run.db if it is only ever replaced whole, else None."""
        with open(self._database, "rb") as file:  # and stat of the open file: NFS asks its server only at an open
            status = os.fstat(file.fileno())
            return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size) if _is_marked(file) else None

    # Claims.

    def take(self, attempt: int, holder: Holder, since: float) -> None:
        """
        Take an attempt's number for *holder*.

        Raises:
            FileExistsError: somebody was faster.
        """
        self.path.mkdir(exist_ok=True)
        # Not a link, which some filesystems lack; that it is empty for a moment is seen to in `Claim`.
        with open(self._claim(attempt), "x") as file:
            try:
                file.write(json.dumps({"since": since, **asdict(holder)}))
                file.flush()
                os.fsync(file.fileno())
                self.beat(attempt, since)  # its mtime is of our clock then, not of the file server's
            except OSError:
                self.release(attempt)
                raise

    def claim(self, attempt: int) -> Claim | None:
        """Return who took an attempt, None if nobody did."""
        try:
            with open(self._claim(attempt)) as file:
                text, beat_at = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        try:
            facts = json.loads(text)
            return Claim(Holder(facts["host"], facts["boot"], facts["pid"], facts["started"]), facts["since"], beat_at)
        except (ValueError, KeyError, TypeError, AttributeError):
            return Claim(None, beat_at, beat_at)

    def beat(self, attempt: int, at: float) -> None:
        """Show that an attempt's holder lives."""
        os.utime(self._claim(attempt), (at, at))

    def release(self, attempt: int) -> None:
        """Take back a claim from which no attempt came."""
        self._claim(attempt).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others may have claims there
            self.path.rmdir()

    def _claim(self, attempt: int) -> Path:
        return self.path / f"claim-{attempt}"

    # Segments.

    def read(self, attempt: int, number: int) -> list[Record] | None:
        """Return the records of a segment, None if it is not there (yet, or any more)."""
        path = self._segment(attempt, number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        found, _, _ = journal.parse(data)
        if len(found) != 1:
            logger.warning("%s is damaged; what was in it is lost", path)
            return []
        return list(found[0])

    def publish(self, attempt: int, number: int, records: Sequence[Record]) -> int:
        """Make a segment appear, whole; returns its size in bytes."""
        payload = marshal.dumps(tuple(records), FORMAT)
        head = HEADER.pack(MAGIC, len(payload), zlib.crc32(payload))

        def write(file: BinaryIO) -> None:
            file.write(head)
            file.write(payload)

        self._appear(attempt, self._segment(attempt, number), write)
        return len(head) + len(payload)

    def publish_whole(self, attempt: int, database: Path) -> None:
        """Make a copy of *database*, which is marked and at rest, appear as run.db; it outlasts a power cut."""

        def write(file: BinaryIO) -> None:
            with open(database, "rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)

        self._appear(attempt, self._database, write)
        fsync(self._database.parent)

    def _appear(self, attempt: int, path: Path, write: Callable[[BinaryIO], None]) -> None:
        made = self._segment(attempt, 0)  # one name for all that an attempt publishes: a crash leaves one at most
        try:
            with open(made, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            made.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                made.unlink()
            raise

    def remove(self, below: tuple[int, int]) -> None:
        """Remove the segments below *below* (attempt, number), which run.db holds, and what crashes left."""
        for name in os.listdir(self.path):
            match = _SEGMENT.fullmatch(name)
            if match and (int(match[1]), int(match[2])) < below:
                (self.path / name).unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Remove everything, when the run is no longer in pieces."""
        shutil.rmtree(self.path)

    def _segment(self, attempt: int, number: int) -> Path:
        return self.path / f"{attempt}-{number}"


def _is_marked(file: BinaryIO) -> bool:
    file.seek(_MARK_AT)
    return file.read(4) == MARK.to_bytes(4, "big")


def is_marked(database: Path) -> bool:
    """Return whether a run.db is only ever replaced whole. Not for one that SQLite has open: closing it drops its locks."""
    with open(database, "rb") as file:
        return _is_marked(file)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, outlast a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if not (
            path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)
        ):  # CIFS and some FUSE know none of folders
            raise
    finally:
        os.close(fd)
