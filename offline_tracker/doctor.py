"""What is wrong with a run's files, and putting it right."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from . import journal
from .errors import StoreError
from .store import SCHEMA_VERSION, Attempt, RunReader, RunStore

_TRIES = 20


class JournalFile(NamedTuple):
    """
    A journal as it lies there.

    Attributes:
        records: whole ones.
        behind: those of them that are not in the run as it was read.
        torn_bytes: those that belong to no whole record.
    """

    path: Path
    records: int
    behind: int
    size_bytes: int
    torn_bytes: int


@dataclass(frozen=True)
class Health:
    """
    How it is with a run that can be read.

    Attributes:
        state: as `RunReader.state`.
        schema: version of the file as it lies there.
        last: the newest attempt, None before the first.
        alive: whether a process writes the run; then *journals* and *pending* are its business.
        damage: what SQLite finds broken in the file, a line each.
        journals: those that can be read here.
        pending: records in them that are not in run.db.
        cut_off: the writer died inside a transaction, which has to be rolled back.
        elsewhere: dead attempts whose journals are, if there are any, in scratch on another host.
        empty: scratch folders that nothing is in any more.
        gaps: what was lost while it was logged.
    """

    run: str
    state: str
    schema: int
    last: Attempt | None
    alive: bool
    damage: tuple[str, ...]
    journals: tuple[JournalFile, ...]
    pending: int
    cut_off: bool
    elsewhere: tuple[Attempt, ...]
    empty: tuple[Path, ...]
    gaps: Sequence[Any]

    @property
    def torn_bytes(self) -> int:
        # What a living process is writing just now looks torn.
        return 0 if self.alive else sum(file.torn_bytes for file in self.journals)

    @property
    def repairable(self) -> bool:
        """Whether `repair` can do something that the run is not well without."""
        if self.alive or self.damage:
            return False
        return bool(self.cut_off or self.journals or self.schema < SCHEMA_VERSION)

    @property
    def well(self) -> bool:
        """Whether nothing is wrong, and nothing is left to be brought in, here or elsewhere."""
        left_elsewhere = bool(self.elsewhere) and self.elsewhere[-1] == self.last
        return not (self.damage or self.repairable or left_elsewhere)


def examine(folder: Path) -> Health:
    """
    Look at the run in *folder*, without changing a byte of it.

    Not for a run that this process has open itself: looking drops the locks that SQLite holds for it.

    Raises:
        StoreError: it can't be read. What else SQLite and the run's own JSON raise where the file is damaged.
    """
    for _ in range(_TRIES):
        before = _stamps(folder)
        try:
            return _examine(folder)
        except Exception:
            # A repair, or the next attempt, may have come in between, with nothing to hold it off.
            if _stamps(folder) == before:
                raise
    return _examine(folder)


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    found = []
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found.append((path.name, stat.st_size, stat.st_mtime_ns))
    return found


def _examine(folder: Path) -> Health:
    path = folder / "run.db"
    schema = _schema(path)
    with RunReader(folder) as reader:
        info, attempts, state, gaps = reader.info, reader.attempts, reader.state, reader.gaps
        damage = _damage(reader)
    last = attempts[-1] if attempts else None
    alive = last is not None and last.alive()
    scratch = _scratch(info.id, attempts)
    folded = {attempt.number: attempt.folded for attempt in attempts}
    journals = [file for place in (folder, *scratch) for file in _journals(place, folded)]
    count = sum(file.behind for file in journals) if alive or damage else _pending(folder) if journals else 0
    return Health(
        run=info.id,
        state=state,
        schema=schema,
        last=last,
        alive=alive,
        damage=damage,
        journals=tuple(journals),
        pending=count,
        cut_off=not alive and _size_bytes(path.with_name("run.db-journal")) > 0,
        elsewhere=tuple(attempt for attempt in attempts if attempt.journal in scratch and attempt.elsewhere),
        empty=() if alive else tuple(filter(_is_empty, scratch)),
        gaps=gaps,
    )


def _scratch(run_id: str, attempts: Sequence[Attempt]) -> list[Path]:
    """Where journals may lie outside the run's folder, which has the run's id for a name wherever it lies by now."""
    places = {place for attempt in attempts for place in (attempt.journal, attempt.spill)}
    return sorted(place for place in places if place is not None and place.name != run_id)


def _schema(path: Path) -> int:
    """The user_version of a database as it lies there: a reader of an old one sees a copy that was migrated."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}") from error
    version: int = struct.unpack(">I", header[60:64])[0] if len(header) == 64 else 0  # sqlite.org/fileformat2.html
    return version


def _damage(reader: RunReader) -> tuple[str, ...]:
    try:
        found = [str(line) for (line,) in reader._ask("PRAGMA quick_check(10)")]
    except StoreError as error:  # a page that makes no sense at all ends the check
        return (str(error),)
    return () if found == ["ok"] else tuple(found)


def _journals(folder: Path, folded: Mapping[int, int]) -> Iterator[JournalFile]:
    for path in journal.leftovers(folder):
        last = folded.get(journal.attempt_of(path), 0)
        records = behind = offset = torn = 0
        with contextlib.suppress(FileNotFoundError):  # its writer, or another repair, has just removed it
            while True:
                found, after, skipped = journal.read(path, offset)
                if after == offset:
                    break
                records += len(found)
                behind += sum(record[0] > last for record in found)
                offset, torn = after, torn + skipped
            size = path.stat().st_size
            yield JournalFile(path, records, behind, size, torn + size - offset)


def _pending(folder: Path) -> int:
    """How many records of dead attempts are not in the run: those that a copy takes in."""
    with (
        tempfile.TemporaryDirectory(prefix="offline_tracker-") as place,
        contextlib.closing(RunStore(folder / "run.db", Path(place) / "run.db")) as store,
    ):
        return store.fold_leftovers(delete=False)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:
        return False


def repair(folder: Path, found: Health) -> Iterator[str]:
    """
    Do what the next attempt would do with what dead ones left, and yield what was done, a line each.

    Safe to be killed in, and to be done twice, also at once. A run that a living process holds is left alone, and so is
    one with damage: writing to it might make it worse.

    Args:
        found: what `examine` said of *folder* just now.

    Raises:
        StoreError: it can't be read or written. What else SQLite raises where the file is damaged.
    """
    if found.repairable:
        store = RunStore(folder / "run.db")  # this rolls back and migrates
        try:
            if found.cut_off:
                yield "rolled back the transaction in which its writer died"
            if found.schema < SCHEMA_VERSION:
                yield f"brought its schema from version {found.schema} to {SCHEMA_VERSION}"
            count = _fold(store)
        finally:
            store.close()
        if count:
            yield f"moved {count} record{'s' * (count != 1)} from its journals into run.db"
        for file in found.journals:
            if not file.path.exists():
                torn = f", in it {file.torn_bytes} bytes of torn records" if file.torn_bytes else ""
                yield f"removed {file.path}{torn}"
    with RunReader(folder) as reader:
        if any(attempt.alive() for attempt in reader.attempts):
            return  # it goes on just now, and may want its scratch
        places = _scratch(reader.info.id, reader.attempts)
    for place in filter(_is_empty, places):
        with contextlib.suppress(OSError):
            place.rmdir()
            yield f"removed the empty folder {place}"


def _fold(store: RunStore) -> int:
    for _ in range(_TRIES):
        try:
            return store.fold_leftovers()
        except FileNotFoundError:
            pass  # another repair, or the next attempt, was faster with a journal; what it took in is not new here
    return store.fold_leftovers()
