"""
The runs folder, and one run's SQLite file. All SQL about runs is here.

`RunStore` is the one writer of a run, `RunReader` what everything else uses. Reading never changes a run: where a dead
writer left something to be done (a journal to be folded in, a transaction to be rolled back, an older schema), or a run is
in segments, a reader does it to a private copy.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, cycle, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from . import journal
from .errors import BadName, NewerSchema, RunBusy, RunExists, RunNotFound, StoreError
from .host import Holder
from .journal import CLOSES as CLOSES
from .journal import EXPLICIT, Record
from .segments import MARK, Segments, Stamp, fsync, is_marked
from .values import BIG_INT, BOOL, NAN, TEXT, Scalar, clean_text, decode, encode, to_json

logger = logging.getLogger("offline_tracker")

SCHEMA_VERSION = 2
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ONES_OWN = re.compile(r"run\.db|journal-")
_SYNCED_FILES = re.compile(r"console-.*\.log$|alerts\.jsonl$")
_ANY = re.compile("")
_ROWS = (1000, *(1 << bit for bit in range(9, -1, -1)))
"""
How many rows one INSERT has: what the writer puts into a transaction, and below that powers of two. Preparing a
statement costs more than running it, so there are few of them.
"""
_VARIABLES = 8_000
"""At most so many in a statement, or as many as the library takes; a prepared one has about 150 bytes for each."""
_STATEMENTS = 48
"""How many stay prepared."""
_ALIKE = 8
"""So many calls with the same metrics are worth a statement of their own."""
_CALLS_A_READ = 5_000
_POINTS_A_READ = 50_000
_NO_CAP = 2**63 - 1
_POINTS = "CROSS JOIN point p ON p.seq = c.seq"
_META = {"name": "name", "project": "project", "entity": "entity", "group": "run_group", "job_type": "job_type"}
_META |= {"notes": "notes", "tags": "tags", "total_steps": "total_steps"}

SEGMENTS = "segments"
"""The mode of an attempt whose live database lies on its own node; see `offline_tracker.segments`."""
_WITH_SEQ = (journal.CALL, journal.VALUES)

Spans = Sequence[tuple[int, int, int | None]]
"""Live stretches of calls: first seq, last seq, and the highest step that holds in between (None: all)."""


class Call(NamedTuple):
    """One ``log()``: *step* is the row it belongs to, *time* in unix seconds."""

    seq: int
    step: int
    time: float
    flags: int
    values: dict[str, Scalar]

    @property
    def closes(self) -> bool:
        return bool(self.flags & CLOSES)


class Block(NamedTuple):
    """
    Neighbouring calls as columns, whether they hold or not.

    Attributes:
        first, last: step and time (unix seconds) of the first and of the last of them.
        values: metric to what was logged of it, in order.
    """

    first: tuple[int, float]
    last: tuple[int, float]
    values: dict[str, list[Scalar]]


class Rewind(NamedTuple):
    """Calls up to *seq* whose step is above *step* do not hold any more."""

    seq: int
    step: int
    time: float
    reason: str


class Mark(NamedTuple):
    """A checkpoint was saved after call *seq*; *name* is None where it was only the id that was read."""

    seq: int
    time: float
    name: str | None


class Sample(NamedTuple):
    """What the hardware did at *time*, unix seconds."""

    time: float
    values: dict[str, float]


class Alert(NamedTuple):
    """What a training called attention to, after call *seq*; *level* is INFO, WARN or ERROR."""

    seq: int
    time: float
    title: str
    text: str
    level: str


class Gap(NamedTuple):
    """So many *calls* behind call *seq* were lost."""

    seq: int
    time: float
    calls: int
    reason: str


@dataclass(frozen=True)
class RunInfo:
    """What a run is; *uuid* is unique for ever, the id only in its folder. *created_at* in unix seconds."""

    id: str
    uuid: str
    created_at: float
    project: str | None = None
    name: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    total_steps: int | None = None


@dataclass(frozen=True)
class Attempt:
    """
    One process life of a run; times in unix seconds.

    Attributes:
        after_seq: the run's last call before it.
        journal: the folder of its journal.
        spill: the folder where the journal may go on when it can't be written there.
        folded: number of the last journal record that is in run.db.
        mode: `SEGMENTS`, or "" where run.db itself is written.
        segments: how many of its segments are in run.db.
    """

    number: int
    holder: Holder
    started_at: float
    heartbeat_at: float
    ended_at: float | None
    exit_code: int | None
    after_seq: int
    journal: Path
    folded: int
    launch: str
    requeue: str
    reason: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    spill: Path | None = None
    mode: str = ""
    segments: int = 0

    def alive(self) -> bool:
        """Whether its process still writes: known on its own host, elsewhere judged by the heartbeat."""
        return self.ended_at is None and self.holder.holds_since(self.heartbeat_at)

    @property
    def elsewhere(self) -> Path | None:
        """Where, on the host that it died on, the last of its calls may still be; None if nothing can be there."""
        if self.ended_at is not None or self.journal.is_dir() or self.holder.alive() is not None or self.alive():
            return None
        return self.journal

    def busy(self, run_id: str) -> RunBusy:
        """Return the error that says who holds the run."""
        return self.holder.busy(run_id, self.started_at, self.heartbeat_at)


def check_id(run_id: str) -> str:
    """
    Return *run_id* if every remote takes it.

    Raises:
        BadName: it is not 1 to 64 of ``A-Z a-z 0-9 _ -``.
    """
    if not _ID.fullmatch(run_id):
        raise BadName(f"run id {run_id!r}: use 1 to 64 of A-Z a-z 0-9 _ - (remotes refuse the rest)")
    return run_id


class Look(NamedTuple):
    """Equal *text* of two moments: no file of the run has changed; *changed_at* is when one did last (unix seconds)."""

    text: str
    changed_at: float


class Runs:
    """A runs folder: one folder a run, each with its run.db."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def ids(self) -> list[str]:
        """Return the ids of all runs, sorted; [] where the folder does not exist."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if _ID.fullmatch(entry.name)]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if (self.path / name / "run.db").exists())

    def folder(self, run_id: str) -> Path:
        return self.path / run_id

    def __contains__(self, run_id: str) -> bool:
        return (self.folder(run_id) / "run.db").exists()

    def find(self, text: str) -> str:
        """
        Return the id that *text* means: an id, or a unique prefix of one.

        Raises:
            RunNotFound: none or more than one begins so.
        """
        ids = self.ids()
        if text in ids:
            return text
        begin = [run_id for run_id in ids if run_id.startswith(text)] if text else []
        if len(begin) == 1:
            return begin[0]
        raise RunNotFound(text, self.path, begin[:5] or self.close_to(text, ids))

    def stamp(self, run_id: str, journals: Iterable[str | os.PathLike[str]] = ()) -> Look:
        """
        Return by what a change of the run shows, without opening a file of it.

        Args:
            journals: folders outside the run's own where journals of it may lie, see `RunReader.journals`.
        """
        home = self.folder(run_id)
        found = [*_stats(home, _ONES_OWN), *_stats(home / "files", _SYNCED_FILES), *_stats(home / "segments")]
        found += chain.from_iterable(map(_stats, journals))
        text = hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:32]
        return Look(text, max((mtime_ns for _, _, mtime_ns, _ in found), default=0) / 1e9)

    def close_to(self, run_id: str, ids: Sequence[str] | None = None) -> list[str]:
        return difflib.get_close_matches(run_id, self.ids() if ids is None else ids, n=3)

    def read(self, run_id: str) -> RunReader:
        """
        Open a run for reading.

        Raises:
            RunNotFound: it is not there.
            StoreError: its file can't be read.
        """
        if run_id not in self:
            raise RunNotFound(run_id, self.path, self.close_to(run_id))
        return RunReader(self.folder(run_id))

    def create(self, info: RunInfo) -> None:
        """
        Make an empty run; it appears whole or not at all.

        Raises:
            RunExists: it is there.
            StoreError: the folder can't be written.
        """
        from . import migrations  # sqlite-utils takes its time: not before a run opens

        folder = self.folder(info.id)
        scratch = folder / f".new-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Nobody else knows this file, and where locks fail there must be none.
            connection = _connect(scratch, "rwc&nolock=1")
            try:
                connection.execute("PRAGMA journal_mode = MEMORY")
                connection.execute("PRAGMA synchronous = OFF")  # the fsync below makes it last, once
                migrations.migrate(connection)
                connection.execute(
                    "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(info.id, info.uuid, info.created_at),
                        *map(_clean, (info.project, info.name, info.entity, info.group)),
                        *(
                            _clean(info.job_type),
                            _clean(info.notes),
                            json.dumps(info.tags),
                            to_json(info.config or {}),
                            info.total_steps,
                        ),
                    ),
                )
            finally:
                connection.close()
            fsync(scratch)
            _publish(scratch, folder / "run.db")
            fsync(folder)
        except FileExistsError:
            raise RunExists(f"run {info.id!r} is already in {self.path}") from None
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"can't make a run in {self.path}: {error}; set dir= or OFFLINE_TRACKER_DIR") from error
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink()

    def copy(self, run_id: str, to: Runs) -> None:
        """
        Make a copy of a run, as it is now, in another runs folder that does not have it.

        Raises:
            StoreError: the run can't be read, or the folder can't be written.
        """
        with self.read(run_id) as reader:
            put(reader, to.folder(run_id))


def _stats(folder: str | os.PathLike[str], names: re.Pattern[str] = _ANY) -> list[tuple[str, int, int, int]]:
    """Return name, size, time of the last change and inode of a folder's files; [] where there is none."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if names.match(entry.name):
                with contextlib.suppress(OSError):  # it has gone in between
                    stat = entry.stat()
                    found.append((entry.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return found


def put(reader: RunReader, folder: Path) -> None:
    """Write what a reader sees as the run.db of *folder*, whole or not at all."""
    made = folder / f".new-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            reader.save(made)
            fsync(made)
            made.replace(folder / "run.db")
            fsync(folder)
        finally:
            made.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"can't write {folder / 'run.db'}: {error}") from error


def _publish(made: Path, path: Path) -> None:
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this filesystem
        if path.exists():
            raise FileExistsError(path) from None
        made.rename(path)


def _clean(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) else value


def _connect(path: Path, mode: str, timeout_s: float = 10.0) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(
        uri,
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
    )


def _check_schema(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema's version, having read the file once; StoreError if it is none of ours."""
    try:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise NewerSchema(f"{path} was written by a newer offline_tracker (schema {version}); update this one")
        if version and not connection.execute("SELECT id FROM run").fetchall():
            raise StoreError(f"{path} holds no run; move it away, or restore it from a copy")
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
            raise
        version = 0
    if version < 1:
        raise StoreError(f"{path} is not a run of offline_tracker; move it away, or restore it from a copy")
    return version


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Make the errors of a disk and of SQLite into a StoreError that names *path*."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"can't write {path}: {error}") from error


class RunStore:
    """
    The one writer of a run. Not thread-safe; used by the thread that opened it, then by the writer's alone.

    Args:
        path: the run.db.
        copy: a file that this makes, to work on instead: a copy of the run with all that was published. It need not
            outlast this process.

    Raises:
        RunBusy: another process that lives holds the run.
        StoreError: it can't be opened, or is none of ours.
    """

    _locks_meet = True

    def __init__(self, path: Path, copy: Path | None = None) -> None:
        self.path = path
        self._copy = copy
        self._segments = Segments(path.parent)
        self._metrics: dict[str, int] = {}
        if copy is None:
            self._look_before_opening()
            self._open()
        else:
            self._fetch(copy)

    def _look_before_opening(self) -> None:
        """Refuse a run that another process holds: where locks don't meet, opening it rolls back what that is writing."""
        try:
            with contextlib.closing(_connect(self.path, "ro")) as db:
                newest = db.execute(
                    "SELECT host, boot, pid, pid_started, started_at, heartbeat_at FROM attempt"
                    " WHERE ended_at IS NULL AND id = (SELECT max(id) FROM attempt)"
                ).fetchall()
        except sqlite3.DatabaseError as error:
            if "readonly" in str(error):  # a transaction that was broken off, or such a one
                with (
                    tempfile.TemporaryDirectory(prefix="offline_tracker-") as folder,
                    contextlib.closing(RunStore(self.path, Path(folder) / "run.db")) as store,
                ):
                    store._refuse(Holder.current())
            return  # opening it for writing says what is the matter
        for *whom, since, beat_at in newest:
            holder = Holder(*whom)
            if holder != Holder.current() and holder.holds_since(beat_at):
                raise holder.busy(self.path.parent.name, since, beat_at)

    def _fetch(self, copy: Path) -> None:
        """Make the copy (anew) and open it."""
        try:
            for again in (True, False):
                try:
                    stamp = self._copy_to(copy)
                except OSError:
                    if again:
                        continue  # ESTALE: it was replaced while we read it, on another host
                    raise
                self._open()
                self._fold_segments()
                # Segments are removed once a run.db that holds them is there. Those that this one came too late for are
                # then in that one.
                if not again or self._stamp() == stamp:
                    break
                self._db.close()
        except (sqlite3.Error, OSError) as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise StoreError(f"can't read {self.path}: {error}") from error

    def _copy_to(self, copy: Path) -> Stamp | None:
        for path in (copy, _rollback_of(copy)):
            path.unlink(missing_ok=True)
        stamp = self._stamp()
        if stamp is not None:
            shutil.copyfile(self.path, copy)
            return stamp
        try:
            _backup(self.path, copy, 10.0 if self._locks_meet else 1.0)
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error) and self._locks_meet:
                raise
            # The writer was killed inside a commit. SQLite wants to roll that back, which is for the next writer to do;
            # until then it is done to copies.
            shutil.copyfile(self.path, copy)
            if _rollback_of(self.path).exists() and not is_marked(copy):
                shutil.copyfile(_rollback_of(self.path), _rollback_of(copy))
        return None

    def _stamp(self) -> Stamp | None:
        return self._segments.stamp() if self._segments.there() else None

    def _fold_segments(self) -> None:
        """Bring into the copy what the newest attempt published behind it, and its heartbeat."""
        last = self._last_attempt()
        if last is None or last.mode != SEGMENTS:
            return
        number = last.segments
        while (records := self._segments.read(last.number, number + 1)) is not None:
            RunStore.append(self, last.number, records)
            number += 1
        claim = self._segments.claim(last.number)
        self._note_segments(last.number, number, claim.beat_at if claim else 0.0)

    def _note_segments(self, attempt: int, number: int, beat_at: float) -> None:
        """Say how many segments are in this file, and that the attempt lived at that time."""
        sql = "UPDATE attempt SET segments = ?, heartbeat_at = max(heartbeat_at, ?) WHERE id = ?"
        self._db.execute(sql, (number, beat_at, attempt))

    def _mark(self) -> None:
        """Say in the file that what is published of it is only ever replaced whole."""
        self._db.execute(f"PRAGMA application_id = {MARK}")

    def _open(self) -> None:
        from . import migrations

        try:
            self._db = _connect(self._copy or self.path, "rw")
        except sqlite3.Error as error:
            raise StoreError(f"can't open {self.path} for writing: {error}") from error
        try:
            if _check_schema(self._db, self.path) < SCHEMA_VERSION:
                migrations.migrate(self._db)
            if self._copy is not None:
                self._db.execute("PRAGMA journal_mode = MEMORY")
                self._db.execute("PRAGMA synchronous = OFF")
            else:
                self._open_in_place()
            self._metrics = dict(self._db.execute("SELECT name, id FROM metric").fetchall())
            self._variables = _variables(self._db)
        except StoreError:
            self._db.close()
            raise
        except sqlite3.Error as error:
            self._db.close()
            raise StoreError(f"can't open {self.path} for writing: {error}") from error

    def _open_in_place(self) -> None:
        if self._db.execute("PRAGMA application_id").fetchone() == (MARK,):
            if self._segments.there():
                raise StoreError(f"{self.path} is in segments; it is opened by open_store")
            self._db.execute("PRAGMA application_id = 0")  # from here on it is changed in place
        # Never WAL: its shared memory does not reach other hosts, and readers there would see a broken file.
        self._db.execute("PRAGMA journal_mode = TRUNCATE")
        self._db.execute("PRAGMA synchronous = FULL")

    def reopen(self) -> None:
        """Begin anew with the file after an error; if that fails too, the next `append` says so."""
        old = self._db
        try:
            self._open()
            old.close()
        except (StoreError, sqlite3.Error):
            self._db = old

    def close(self) -> None:
        self._db.close()

    def remove(self) -> None:
        """Close and remove a run that has nothing on record; its folder too, if nothing else is in there."""
        self._db.close()
        try:
            self.path.unlink()
            _rollback_of(self.path).unlink(missing_ok=True)
            self.path.parent.rmdir()
        except OSError as error:
            raise StoreError(f"can't remove {self.path}: {error}") from error

    def hold(self) -> None:
        """
        Make ready for a change by hand: fold in what dead attempts left.

        Raises:
            RunBusy: a process that lives holds the run.
        """
        self._refuse(None)
        self.fold_leftovers()

    def claim(self, holder: Holder, **attempt: Any) -> int:
        """
        Begin an attempt and return its number; from now on *holder* is the run's writer.

        The journals of dead attempts are folded in first.

        Args:
            attempt: started_at, journal (folder), spill (folder, or nothing), launch, requeue, reason, config,
                environment.

        Raises:
            RunBusy: another process that lives holds the run.
            StoreError: the run can't be written; it is as it was.
        """
        with storing(self.path):
            return self._claim(holder, attempt)

    def _claim(self, holder: Holder, attempt: Mapping[str, Any]) -> int:
        self.fold_leftovers()
        return self._begin_attempt(holder, attempt)

    def _refuse(self, holder: Holder | None) -> Attempt | None:
        """Return the newest attempt, which is dead or *holder*'s own."""
        last = self._last_attempt()
        if last is not None and last.holder != holder and last.alive():
            raise last.busy(self.path.parent.name)
        return last

    def _begin_attempt(
        self, holder: Holder, attempt: Mapping[str, Any], number: int | None = None, mode: str = ""
    ) -> int:
        self._begin()
        try:
            last = self._refuse(holder)
            if number is None:
                number = 1 if last is None else last.number + 1
            self._db.execute(
                "INSERT INTO attempt (id, host, boot, pid, pid_started, started_at, heartbeat_at, after_seq, journal,"
                " spill, launch, requeue, reason, config, environment, mode)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(number, holder.host, holder.boot, holder.pid, holder.started, attempt["started_at"]),
                    *(attempt["started_at"], self.last_seq(), str(attempt["journal"]), str(attempt.get("spill") or "")),
                    *(attempt["launch"], attempt["requeue"], attempt["reason"]),
                    *(attempt["config"], attempt["environment"], mode),
                ),
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise
        return number

    def _last_attempt(self) -> Attempt | None:
        return next(iter(_attempts(self._db, "ORDER BY id DESC LIMIT 1")), None)

    def fold_leftovers(self, delete: bool = True) -> int:
        """
        Move what dead attempts left in their journals into the run; returns how many records that were.

        Safe to be killed in and to be done twice: an attempt remembers how far its journal was folded.

        Args:
            delete: remove the journals afterwards.
        """
        count = 0
        for attempt in _attempts(self._db, "WHERE ended_at IS NULL ORDER BY id"):
            if attempt.alive():
                continue
            for path in sorted(_journals_of(attempt, self.path.parent), key=_first_num):
                offset = 0
                while True:
                    records, after, _ = journal.read(path, offset)
                    if after == offset:
                        break
                    offset = after
                    count += self.append(attempt.number, records)
        if delete:
            self._remove_leftovers()
        return count

    def _remove_leftovers(self) -> None:
        for attempt in _attempts(self._db, "ORDER BY id"):
            if not attempt.alive():
                for path in _journals_of(attempt, self.path.parent):
                    path.unlink(missing_ok=True)
                self._leave(attempt)

    def _leave(self, attempt: Attempt) -> None:
        """Remove the scratch of a dead attempt that was folded in here, so that no other host thinks it held something."""
        home = self.path.parent.resolve()
        for folder in {attempt.journal, attempt.spill} - {None, home, self.path.parent}:
            assert folder is not None
            if not folder.is_dir():
                continue
            with contextlib.suppress(OSError):  # there is something else in it
                folder.rmdir()
            if folder == attempt.journal:
                self._db.execute("UPDATE attempt SET journal = ? WHERE id = ?", (str(home), attempt.number))

    def append(self, attempt: int, records: Iterable[Record], heartbeat_at: float | None = None) -> int:
        """
        Put journal records into the run in one transaction; returns how many were new. Those that are there already
        are passed over.

        Args:
            heartbeat_at: unix seconds, from the living writer.

        Raises:
            StoreError: nothing of it was stored; the same call may work later.
        """
        try:
            self._begin()
            folded, next_after = self._db.execute(
                "SELECT folded, (SELECT min(after_seq) FROM attempt n WHERE n.id > a.id) FROM attempt a WHERE id = ?",
                (attempt,),
            ).fetchone()
            fresh = sorted(records, key=itemgetter(0))
            new = len(fresh)
            if fresh and fresh[0][0] <= folded:
                # A signal handler that logs may put its record before the one it came into: so a call is not passed over
                # for its number; it can't come twice, for it has its seq.
                fresh = [record for record in fresh if record[0] > folded or record[1] in _WITH_SEQ]
                new = sum(record[0] > folded for record in fresh)
            upto = max(folded, fresh[-1][0]) if fresh else folded
            if next_after is not None:
                if heartbeat_at is not None:
                    raise StoreError(f"{self.path}: another process took this run over; it thought that we are dead")
                fresh = self._before(fresh, next_after, folded)
            calls: list[Any] = []
            points: list[Any] = []
            alike: dict[tuple[str, ...], list[Any]] = {}
            for record in fresh:
                if record[1] == journal.CALL:
                    _, _, seq, step, at, flags, values = record
                    calls += (seq, step, at, flags)
                    for value in values.values():
                        if type(value) is not float or value != value:
                            points += self._rows(seq, values)
                            break
                    else:
                        pairs = alike.get(names := tuple(values))
                        if pairs is None:
                            pairs = self._begin_alike(alike, names)
                        for value in values.values():
                            pairs += (seq, value)
                elif record[1] == journal.VALUES:
                    points += self._rows(*record[2:])
                else:
                    try:
                        self._apply(attempt, record)
                    except (TypeError, ValueError, LookupError, OverflowError) as error:
                        # Nothing of this kind is journalled; if it was, it must not block all that is behind it.
                        logger.warning("%s: a record was passed over: %s: %r", self.path, error, record)
            self._insert("call", "(?, ?, ?, ?)", 4, calls)
            for names, pairs in alike.items():
                points += self._insert_alike(names, pairs)
            self._insert("point", "(?, ?, ?, ?)", 4, points)
            self._db.execute(
                "UPDATE attempt SET folded = ?, heartbeat_at = coalesce(?, heartbeat_at) WHERE id = ?",
                (upto, heartbeat_at, attempt),
            )
            self._db.execute("COMMIT")
            return new
        except BaseException as error:
            self._rollback()
            self._metrics = {}  # ids given out in the transaction that was rolled back
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"can't write {self.path}: {error}") from error
            raise

    def _before(self, late: list[Record], next_after: int, folded: int) -> list[Record]:
        """
        Return those of an attempt's *late* records that still count, for another attempt has begun behind *next_after*.

        It went on from what it knew, with the same numbers for its calls; so what it could not know has no place.
        """
        kept, lost = [], 0
        for record in late:
            num, kind, *rest = record
            if kind in (*_WITH_SEQ, journal.MARK) and rest[0] > next_after:
                lost += kind == journal.CALL and num > folded
            elif kind in (*_WITH_SEQ, journal.MARK, journal.ALERT, journal.GAP, journal.END):
                kept.append(record)
        if lost:
            sql = "INSERT INTO gap (seq, time, calls, reason) VALUES (?, ?, ?, ?)"
            self._db.execute(sql, (next_after, time.time(), lost, "they came to light when another attempt had begun"))
        return kept

    # What follows is all that the writer's thread does with the GIL held, and each statement hands the GIL over a few times:
    # both delay log(). So there are no tuples for the rows, and few statements (see `_ROWS`).

    def _rows(self, seq: int, values: Mapping[str, Scalar]) -> list[Any]:
        """Return the points of a call as they are stored, one behind the other."""
        rows: list[Any] = []
        for name, value in values.items():
            rows += (seq, self._metrics.get(name) or self._metric(name), *encode(value))
        return rows

    def _begin_alike(self, alike: dict[tuple[str, ...], list[Any]], names: tuple[str, ...]) -> list[Any]:
        for name in names:  # now, so that metrics are numbered in the order in which they came
            _ = self._metrics.get(name) or self._metric(name)
        return alike.setdefault(names, [])

    def _insert_alike(self, names: tuple[str, ...], pairs: list[Any]) -> list[Any]:
        """Insert the calls of just these floats, ``seq, value`` each; of too few calls return the points instead."""
        metrics = [self._metrics[name] for name in names]
        size = 2 * len(names)
        if len(pairs) < _ALIKE * size or size > self._variables:
            return list(chain.from_iterable(zip(pairs[::2], cycle(metrics), pairs[1::2], repeat(None))))
        self._insert("point", ", ".join(f"(?, {metric}, ?, NULL)" for metric in metrics), size, pairs)
        return []

    def _insert(self, table: str, row: str, size: int, flat: list[Any]) -> None:
        """Insert *flat*, of which each *row* of SQL takes *size* values."""
        at = 0
        for rows in _ROWS if size else ():
            while rows * size <= min(self._variables, len(flat) - at):
                end = at + rows * size
                self._db.execute(_insertion(table, row, rows), flat[at:end] if end - at < len(flat) else flat)
                at = end

    def _metric(self, name: str) -> int:
        self._db.execute("INSERT OR IGNORE INTO metric (name) VALUES (?)", (name,))
        number: int = self._db.execute("SELECT id FROM metric WHERE name = ?", (name,)).fetchone()[0]
        self._metrics[name] = number
        return number

    def _apply(self, attempt: int, record: Record) -> None:
        _, kind, *rest = record
        rest = [_clean(item) for item in rest]
        sql = self._db.execute
        if kind == journal.MARK:
            sql("INSERT OR REPLACE INTO mark (seq, time, name) VALUES (?, ?, ?)", rest)
        elif kind == journal.REWIND:
            sql("INSERT INTO rewind (seq, step, time, reason) VALUES (?, ?, ?, ?)", rest)
        elif kind == journal.CONFIG:
            config = json.loads(sql("SELECT config FROM run").fetchone()[0])
            config.update({key: json.loads(text) for key, text in rest[0].items()})
            sql("UPDATE run SET config = ?", (json.dumps(config),))
        elif kind == journal.SUMMARY:
            for name, text in rest[0].items():
                name = clean_text(str(name))
                if text is None:
                    sql("DELETE FROM summary WHERE name = ?", (name,))
                else:
                    sql("INSERT OR REPLACE INTO summary VALUES (?, ?)", (name, text))
        elif kind == journal.DEFINE:
            sql("UPDATE metric SET definition = ? WHERE id = ?", (rest[1], self._metric(rest[0])))
        elif kind == journal.ALERT:
            at, seq, title, text, level = rest
            sql(
                "INSERT INTO alert (seq, time, title, text, level) VALUES (?, ?, ?, ?, ?)",
                (seq, at, title, text, level),
            )
        elif kind == journal.META:
            for key, text in rest[0].items():
                value = _clean(json.loads(text))
                sql(f"UPDATE run SET {_META[key]} = ?", (json.dumps(value) if key == "tags" else value,))
        elif kind == journal.GAP:
            sql("INSERT INTO gap (seq, time, calls, reason) VALUES (?, ?, ?, ?)", rest)
        elif kind == journal.SAMPLE:
            self._db.executemany("INSERT INTO sample VALUES (?, ?, ?)", [(rest[0], *item) for item in rest[1].items()])
        elif kind == journal.FACTS:
            self._learn(attempt, {name: json.loads(text) for name, text in rest[0].items()})
        elif kind == journal.END:
            sql("UPDATE attempt SET ended_at = ?, exit_code = ? WHERE id = ?", (*rest, attempt))

    def _learn(self, attempt: int, facts: dict[str, Any]) -> None:
        """Add facts to an attempt's environment; the packages only if they are not those of the attempt before it."""
        sql = self._db.execute
        *earlier, own = (
            json.loads(text)
            for (text,) in sql("SELECT environment FROM attempt WHERE id <= ? ORDER BY id", (attempt,)).fetchall()
        )
        installed = next((known["packages"] for known in reversed(earlier) if "packages" in known), None)
        own.update({name: value for name, value in facts.items() if name != "packages" or value != installed})
        sql("UPDATE attempt SET environment = ? WHERE id = ?", (json.dumps(own), attempt))

    def drop_attempt(self, number: int) -> None:
        """Forget an attempt that put nothing on record: a finished training that was started again."""
        try:
            self._begin()
            self._db.execute("DELETE FROM attempt WHERE id = ? AND folded = 0", (number,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._rollback()
            raise StoreError(f"can't write {self.path}: {error}") from error

    def rewind(self, seq: int, step: int, reason: str) -> None:
        """
        Record after the fact that the calls behind *seq* went on from *step*; calls without a step are counted anew.

        Only for the newest stretch: there must be no rewind behind *seq*.
        """
        self._begin()
        try:
            values = (seq, step, time.time(), reason)
            self._db.execute("INSERT INTO rewind (seq, step, time, reason) VALUES (?, ?, ?, ?)", values)
            after = self._db.execute("SELECT seq, step, flags FROM call WHERE seq > ? ORDER BY seq", (seq,)).fetchall()
            following = step + 1
            for call, old, flags in after:
                new = old if flags & EXPLICIT else following
                if new != old:
                    self._db.execute("UPDATE call SET step = ? WHERE seq = ?", (new, call))
                following = new + 1 if flags & CLOSES else new
            self._db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def last_seq(self) -> int:
        """Return the seq of the newest call, 0 if there is none."""
        seq: int = self._db.execute("SELECT coalesce(max(seq), 0) FROM call").fetchone()[0]
        return seq

    def newest_mark(self) -> int | None:
        """Return the seq of the newest mark."""
        seq: int | None = self._db.execute("SELECT max(seq) FROM mark").fetchone()[0]
        return seq

    def last_step(self) -> int | None:
        """Return the step that a resumed run goes on behind, or None if there is no call yet."""
        sql = "SELECT min(step) FROM rewind WHERE seq >= (SELECT max(seq) FROM call)"
        (rewound,) = self._db.execute(sql).fetchone()
        if rewound is None:
            (rewound,) = self._db.execute("SELECT step FROM call ORDER BY seq DESC LIMIT 1").fetchone() or (None,)
        return rewound  # type: ignore[no-any-return]

    def resume_points(self, spans: Spans, newest: int = 1000) -> list[tuple[int, dict[str, float], dict[str, float]]]:
        """
        Return, for the live marks, what tells whether a resumed run went on from there; the newest mark first.

        Each is the step of the mark's call, the floats of the live call behind it, and those of these floats that occur
        only once among the live calls of their metric.

        Args:
            spans: the live stretches.
            newest: look at so many marks.
        """
        marks = [seq for (seq,) in self._db.execute("SELECT seq FROM mark ORDER BY seq DESC").fetchall()]
        found: list[tuple[int, int, dict[int, float]]] = []
        seen: set[int] = set()
        for seq in marks:
            if len(found) >= newest:
                break
            step = self._live_step(spans, seq)
            following = self._next_live(spans, seq)
            if step is None or following is None or following in seen:
                continue  # dead, nothing behind it, or a newer mark is before the same call
            seen.add(following)
            sql = "SELECT metric, value FROM point WHERE seq = ? AND typeof(value) = 'real'"
            found.append((step, following, dict(self._db.execute(sql, (following,)).fetchall())))
        wanted = {item for _, _, floats in found for item in floats.items()}
        names = {number: name for name, number in self._metrics.items()}
        once = self._occurring_once(spans, wanted)
        return [
            (
                step,
                {names[metric]: value for metric, value in floats.items()},
                {names[metric]: value for metric, value in floats.items() if (metric, value) in once},
            )
            for step, _, floats in found
        ]

    def _live_step(self, spans: Spans, seq: int) -> int | None:
        row = self._db.execute(f"SELECT c.step FROM {_live(spans)} AND c.seq = ?", (seq,)).fetchone()
        return row[0] if row else None

    def _next_live(self, spans: Spans, seq: int) -> int | None:
        following: int | None = self._db.execute(
            f"SELECT min(c.seq) FROM {_live(spans)} AND c.seq > ?", (seq,)
        ).fetchone()[0]
        return following

    def _occurring_once(self, spans: Spans, wanted: set[tuple[int, float]]) -> set[tuple[int, float]]:
        if not wanted:
            return set()
        sql = self._db.execute
        sql("CREATE TEMP TABLE wanted (metric, value, PRIMARY KEY (metric, value)) WITHOUT ROWID")
        try:
            self._db.executemany("INSERT OR IGNORE INTO wanted VALUES (?, ?)", wanted)
            found = sql(
                f"SELECT p.metric, p.value FROM {_live(spans, f'{_POINTS} CROSS JOIN wanted w')}"
                " AND w.metric = p.metric AND w.value = p.value GROUP BY p.metric, p.value HAVING count(*) = 1"
            )
            return set(found.fetchall())
        finally:
            sql("DROP TABLE wanted")

    def rewinds(self) -> list[Rewind]:
        return _rewinds(self._db)

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed: nothing could be opened anew
            if self._db.in_transaction:  # a full disk rolls back by itself
                self._db.execute("ROLLBACK")


def _rollback_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-journal")


@lru_cache(maxsize=_STATEMENTS)
def _insertion(table: str, row: str, rows: int) -> str:
    return f"INSERT OR IGNORE INTO {table} VALUES {', '.join([row] * rows)}"


def _variables(db: sqlite3.Connection) -> int:
    """How many variables a statement may have here."""
    if sys.version_info >= (3, 11):
        limit = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    else:
        limit = 32766 if sqlite3.sqlite_version_info >= (3, 32) else 999
    return min(limit, _VARIABLES)


def _live(spans: Spans, join: str = "") -> str:
    """The calls ``c`` that hold, as the FROM and WHERE of a query; the numbers are ours, so they stand in the text."""
    if not spans:
        return f"call c {join} WHERE 0"
    rows = ", ".join(f"({first}, {last}, {_NO_CAP if cap is None else cap})" for first, last, cap in spans)
    return (
        f"(SELECT column1 AS first, column2 AS last, column3 AS cap FROM (VALUES {rows})) s"
        f" CROSS JOIN call c ON c.seq BETWEEN s.first AND s.last AND c.step <= s.cap {join} WHERE 1"
    )


def _upto(step: int | None) -> int:
    return _NO_CAP if step is None else step


def _rewinds(db: sqlite3.Connection) -> list[Rewind]:
    return [
        Rewind(*row) for row in db.execute("SELECT seq, step, time, reason FROM rewind ORDER BY seq, id").fetchall()
    ]


def _attempts(db: sqlite3.Connection, tail: str = "ORDER BY id") -> list[Attempt]:
    rows = db.execute(
        "SELECT id, host, boot, pid, pid_started, started_at, heartbeat_at, ended_at, exit_code, after_seq, journal,"
        " folded, launch, requeue, reason, config, environment, spill, mode, segments"
        f" FROM attempt {tail}"
    ).fetchall()
    return [_attempt(*row) for row in rows]


def _attempt(number: int, host: str, boot: str, pid: int, pid_started: int, *rest: Any) -> Attempt:
    started_at, heartbeat_at, ended_at, exit_code, after_seq, folder, *more = rest
    folded, launch, requeue, reason, config, environment, spill, mode, segments = more
    return Attempt(
        number,
        Holder(host, boot, pid, pid_started),
        started_at,
        heartbeat_at,
        ended_at,
        exit_code,
        after_seq,
        Path(folder),
        folded,
        launch,
        requeue,
        reason,
        json.loads(config),
        json.loads(environment),
        Path(spill) if spill else None,
        mode,
        segments,
    )


def _journals_of(attempt: Attempt, home: Path) -> list[Path]:
    """
    The journals of an attempt: in the run's folder, wherever that lies by now, in this host's scratch, and where they
    went on when those could not be written.
    """
    folders = {home.resolve(), attempt.journal.resolve()}
    if attempt.spill is not None:
        folders.add(attempt.spill.resolve())
    return [
        path for folder in folders for path in journal.leftovers(folder) if journal.attempt_of(path) == attempt.number
    ]


def _first_num(path: Path) -> int:
    """The number of a journal's first record: those of several folders are folded in in this order."""
    records, _, _ = journal.read(path)
    return records[0][0] if records else 0


def _changed_at(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the next attempt has just folded it in
        return 0


class RunReader:
    """
    One run as it was when this was opened, read only; a context manager.

    Nothing is locked between two calls, and no call of this changes a byte of the run.

    Args:
        folder: the run's folder.

    Raises:
        StoreError: its file can't be read.
        NewerSchema: a newer version wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[int, str] = {}
        path = folder / "run.db"
        segments = Segments(folder)
        try:
            published = segments.there() and segments.stamp() is not None
            if self._needs_copy(path, published):
                self._read_copy(path)
            self._db.execute("BEGIN")  # one moment of the run: a rewind must not be missed whose calls are seen
            self.info = self._info()
            self.attempts = _attempts(self._db)
            self.rewinds = _rewinds(self._db)
            self.marks = [
                Mark(*row) for row in self._db.execute("SELECT seq, time, name FROM mark ORDER BY seq").fetchall()
            ]
            gaps = self._db.execute("SELECT seq, time, calls, reason FROM gap ORDER BY seq, id").fetchall()
            self.gaps = [Gap(*row) for row in gaps]
            self.last_seq: int = self._db.execute("SELECT coalesce(max(seq), 0) FROM call").fetchone()[0]
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"can't read {path}: {error}") from error
        except StoreError:
            self.close()
            raise

    def __enter__(self) -> RunReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()

    def _needs_copy(self, path: Path, published: bool) -> bool:
        """Open the run where it lies; return whether that won't do."""
        try:
            # A file that is only ever replaced whole needs no locks, and a rollback journal beside it is not its own.
            self._db = _connect(path, "ro&immutable=1" if published else "ro")
            if _check_schema(self._db, path) < SCHEMA_VERSION:
                return True
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):  # see `RunStore._copy_to`
                raise
            return True
        if published and not _attempts(self._db, "WHERE ended_at IS NOT NULL AND id = (SELECT max(id) FROM attempt)"):
            return True
        return any(_size_bytes(journal) > 0 for journal in self._leftovers())

    def _leftovers(self) -> list[Path]:
        # Of a run that is being written the journal is folded in by its writer within moments.
        dead = (attempt for attempt in _attempts(self._db, "WHERE ended_at IS NULL ORDER BY id") if not attempt.alive())
        return [path for attempt in dead for path in _journals_of(attempt, self.folder)]

    def _read_copy(self, path: Path) -> None:
        self._db.close()
        with tempfile.TemporaryDirectory(prefix="offline_tracker-") as folder:
            copy = Path(folder) / "run.db"
            for again in (True, False):
                before = _changed_at(path)
                with contextlib.closing(RunStore(path, copy)) as store:
                    try:
                        store.fold_leftovers(delete=False)
                    except FileNotFoundError:
                        if not again:
                            raise
                # The next attempt may have folded in, and removed, journals that we looked for: then run.db has changed.
                if _changed_at(path) == before:
                    break
            self._db = _connect(copy, "ro")
            # From its first statement on SQLite has the file open, and needs no name of it: so none is left, however a
            # sync that reads it for minutes ends.
            self._db.execute("SELECT id FROM run").fetchall()

    def _info(self) -> RunInfo:
        columns = "id, uuid, created_at, project, name, entity, run_group, job_type, notes, tags, config, total_steps"
        row = self._db.execute(f"SELECT {columns} FROM run").fetchone()
        if row is None:
            raise StoreError(f"{self.folder / 'run.db'} holds no run; move it away, or restore it from a copy")
        names = ("id", "uuid", "created_at", "project", "name", "entity", "group", "job_type", "notes")
        plain = dict(zip(names, row, strict=False))
        return RunInfo(**plain, tags=tuple(json.loads(row[9])), config=json.loads(row[10]), total_steps=row[11])

    def save(self, path: Path) -> None:
        """Write the run to a new SQLite file."""
        target = _connect(path, "rwc")
        try:
            self._db.backup(target)
        finally:
            target.close()

    @property
    def state(self) -> str:
        """``running``, ``finished``, ``failed`` (ended with an exit code) or ``crashed`` (gone without a word)."""
        last = self.attempts[-1] if self.attempts else None
        if last is None:
            return "crashed"
        if last.ended_at is not None:
            return "failed" if last.exit_code else "finished"
        return "running" if last.alive() else "crashed"

    @property
    def journals(self) -> list[Path]:
        """The folders outside the run's own where attempts that have not ended write, or wrote, their journals."""
        open_ended = [attempt for attempt in self.attempts if attempt.ended_at is None]
        folders = [folder for attempt in open_ended for folder in (attempt.journal, attempt.spill) if folder]
        return sorted({folder for folder in folders if folder != self.folder})

    def _ask(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"can't read {self.folder / 'run.db'}: {error}") from error

    def calls(self, spans: Spans, above: int | None = None, upto: int | None = None) -> Iterator[Call]:
        """
        Yield the calls of *spans* in order, those with above < step <= upto.

        Reads some thousand at a time and lets go of the file in between.
        """
        names: dict[int, str] = {}
        for found, points in self.chunks(spans, above, upto):
            calls = {seq: Call(seq, step, at, flags, {}) for seq, step, at, flags in found}
            for seq, metric, value, kind in points:
                if (call := calls.get(seq)) is not None:
                    if metric not in names:  # also one that came since the last chunk
                        names = self.names()
                    call.values[names[metric]] = value if kind is None else decode(value, kind)
            yield from calls.values()

    def chunks(
        self, spans: Spans, above: int | None = None, upto: int | None = None
    ) -> Iterator[tuple[list[tuple[int, int, float, int]], list[tuple[int, int, Any, int | None]]]]:
        """
        Yield what `calls` yields as it is stored, some thousand calls at a time: calls (seq, step, time, flags), and
        points (seq, metric's number, value, kind; see `values.decode`), both in order; points of other calls are among them.
        """
        low = -(2**63) if above is None else above
        high = _upto(upto)
        size = min(_CALLS_A_READ, _POINTS_A_READ // max(1, len(self.names())) + 1)
        for first, last, cap in spans:
            top = high if cap is None else min(high, cap)
            where = "seq BETWEEN ? AND ? AND step > ? AND step <= ?"
            bounds = f"SELECT min(seq), max(seq) FROM call WHERE {where}"
            begin, end = self._ask(bounds, (first, last, low, top))[0]
            if begin is None:
                continue
            start = begin
            while start <= end:
                stop = min(end, start + size - 1)
                sql = f"SELECT seq, step, time, flags FROM call WHERE {where} ORDER BY seq"
                calls = self._ask(sql, (start, stop, low, top))
                sql = "SELECT seq, metric, value, kind FROM point WHERE seq BETWEEN ? AND ? ORDER BY seq, metric"
                points = self._ask(sql, (start, stop))
                yield calls, points
                start = stop + 1
                # As many calls as have about so many points: there may be three a call, or thousands.
                size = min(_CALLS_A_READ, 4 * size, size * _POINTS_A_READ // (len(points) or 1) + 1)

    def names(self) -> dict[int, str]:
        """Return the names of all metrics by their numbers, which are in the order in which they first came."""
        return dict(self._ask("SELECT id, name FROM metric ORDER BY id"))

    def kinds(self, spans: Spans) -> dict[str, set[str]]:
        """
        Return which kinds of values each metric of the live calls has, in the order in which they first came: "float",
        "int" (one that a double holds exactly), "long" (another of 64 bits), "big", "bool", "text"; None is none of them.
        """
        kind = (
            f"CASE p.kind WHEN {NAN} THEN 'float' WHEN {BOOL} THEN 'bool' WHEN {BIG_INT} THEN 'big'"
            f" WHEN {TEXT} THEN 'text' ELSE CASE typeof(p.value) WHEN 'real' THEN 'float' WHEN 'integer' THEN"
            f" CASE WHEN p.value BETWEEN -{2**53} AND {2**53} THEN 'int' ELSE 'long' END ELSE '' END END"
        )
        rows = self._ask(f"SELECT DISTINCT p.metric, {kind} FROM {_live(spans, _POINTS)}")
        names = self.names()
        found: dict[str, set[str]] = {}
        for metric, name in sorted(rows):
            found.setdefault(names[metric], set()).update([name] if name else [])
        return found

    def block(self, first: int, last: int) -> Block | None:
        """Return the calls from seq *first* to *last*, None if there is none; several times faster than `calls`."""
        sql = "SELECT step, time FROM call WHERE seq BETWEEN ? AND ? ORDER BY seq"
        ends = [self._ask(f"{sql} {order} LIMIT 1", (first, last)) for order in ("ASC", "DESC")]
        if not ends[0]:
            return None
        columns: dict[int, list[Scalar]] = defaultdict(list)
        sql = "SELECT metric, value, kind FROM point WHERE seq BETWEEN ? AND ?"
        for metric, value, kind in self._ask(sql, (first, last)):
            columns[metric].append(value if kind is None else decode(value, kind))
        if columns.keys() - self._known.keys():
            self._known = self.names()
        values = {self._known[metric]: column for metric, column in columns.items()}
        return Block(ends[0][0], ends[1][0], values)

    def last_within(self, first: int, last: int, step: int) -> int | None:
        """Return the newest call from seq *first* to *last* whose step is at most *step*, None if there is none."""
        sql = "SELECT seq FROM call WHERE seq BETWEEN ? AND ? AND step <= ? ORDER BY seq DESC LIMIT 1"
        row = next(iter(self._ask(sql, (first, last, step))), None)
        return row[0] if row else None

    def metric_names(self, spans: Spans) -> list[str]:
        """Return the metrics that the live calls hold, in the order in which they first came."""
        sql = f"SELECT DISTINCT p.metric FROM {_live(spans, _POINTS)}"
        names = self.names()
        return [names[number] for (number,) in sorted(self._ask(sql))]

    def definitions(self) -> dict[str, dict[str, Any]]:
        """Return what define_metric said, metric or glob to its options, in order."""
        sql = "SELECT name, definition FROM metric WHERE definition IS NOT NULL ORDER BY id"
        return {name: json.loads(text) for name, text in self._ask(sql)}

    def step_of(self, seq: int) -> tuple[int, int] | None:
        """Return step and flags of a call, or None."""
        row: tuple[int, int] | None = next(iter(self._ask("SELECT step, flags FROM call WHERE seq = ?", (seq,))), None)
        return row

    def last_live_seq(self, spans: Spans) -> int:
        """Return the seq of the newest call that holds, 0 if there is none."""
        (seq,) = self._ask(f"SELECT max(c.seq) FROM {_live(spans)}")[0]
        return seq or 0

    def count_rows(self, spans: Spans, upto: int | None = None, above: int | None = None) -> int:
        """Return how many rows the curve has with above < step <= upto (None: all); calls without a value make none."""
        live = f"{_live(spans)} AND c.step > ? AND c.step <= ? AND EXISTS (SELECT 1 FROM point p WHERE p.seq = c.seq)"
        bounds = (-(2**63) if above is None else above, _upto(upto))
        count: int = self._ask(f"SELECT count(DISTINCT c.step) FROM {live}", bounds)[0][0]
        return count

    def last_row_step(self, spans: Spans, upto: int | None = None) -> int | None:
        """Return the step of the newest row up to step *upto*, or None if there is none."""
        # From the end on, for along the calls that hold the step never falls.
        for span in reversed(spans):
            live = f"{_live([span])} AND c.step <= ? AND EXISTS (SELECT 1 FROM point p WHERE p.seq = c.seq)"
            if found := self._ask(f"SELECT c.step FROM {live} ORDER BY c.seq DESC LIMIT 1", (_upto(upto),)):
                step: int = found[0][0]
                return step
        return None

    def last_steps(self, spans: Spans, upto: int | None = None) -> dict[str, int]:
        """Return the newest step of each metric that is a number there, up to step *upto*."""
        numbers = f"(p.kind = {NAN} OR (p.value IS NOT NULL AND p.kind IS NOT {TEXT}))"
        return {name: step for name, (step, *_) in self._newest(spans, upto, numbers).items()}

    def _newest(self, spans: Spans, upto: int | None, which: str = "1") -> dict[str, tuple[int, Any, int | None]]:
        """Return step, value and kind of each metric's newest point, of those for which a condition holds."""
        names = self.names()
        # SQLite takes the bare columns from the row that has the maximum.
        columns = "p.metric, c.step, p.value, p.kind, max(c.seq)"
        found: dict[str, tuple[int, Any, int | None]] = {}
        ends = [
            self._ask(f"SELECT c.seq FROM {_live([span])} AND c.step <= ? ORDER BY c.seq DESC LIMIT 1", (_upto(upto),))
            for span in spans
        ]
        end = max((rows[0][0] for rows in ends if rows), default=0)
        # Most metrics are in the newest calls; only of what is not there all calls are looked at.
        for first in (max(1, end - _CALLS_A_READ), 1):
            left = [number for number, name in names.items() if name not in found]
            if not left:
                break
            late = [(max(first, span[0]), span[1], span[2]) for span in spans if span[1] >= first]
            wanted = f"{which} AND p.metric IN ({', '.join(map(str, left))})" if found else which
            sql = f"SELECT {columns} FROM {_live(late, _POINTS)} AND c.step <= ? AND {wanted} GROUP BY p.metric"
            for metric, *point, _ in self._ask(sql, (_upto(upto),)):
                found[names[metric]] = (point[0], point[1], point[2])
        return found

    def last_times(self, spans: Spans) -> list[float | None]:
        """Return for each attempt the time of its newest call that holds, None if it has none."""
        ends = [attempt.after_seq for attempt in self.attempts[1:]] + [self.last_seq]
        sql = f"SELECT max(c.time) FROM {_live(spans)} AND c.seq > ? AND c.seq <= ?"
        return [
            self._ask(sql, (attempt.after_seq, end))[0][0] for attempt, end in zip(self.attempts, ends, strict=True)
        ]

    def last_values(self, spans: Spans, upto: int | None = None) -> dict[str, tuple[int, Scalar]]:
        """Return step and value of each metric's newest point on the curve, up to step *upto*."""
        return {name: (step, decode(value, kind)) for name, (step, value, kind) in self._newest(spans, upto).items()}

    def summary(self) -> dict[str, Any]:
        """Return what was put into run.summary by hand."""
        return {name: json.loads(text) for name, text in self._ask("SELECT name, value FROM summary")}

    def alerts(self) -> list[Alert]:
        """Return the alerts in order."""
        return [Alert(*row) for row in self._ask("SELECT seq, time, title, text, level FROM alert ORDER BY id")]

    def count_samples(self) -> int:
        """Return how many samples of the hardware there are."""
        count: int = self._ask("SELECT count(DISTINCT time) FROM sample")[0][0]
        return count

    def samples(self, first: int = 0) -> list[Sample]:
        """Return the samples of the hardware from number *first* on, in the order in which they were taken."""
        sql = "SELECT min(rowid) FROM sample GROUP BY time ORDER BY min(rowid) LIMIT 1 OFFSET ?"
        begin = self._ask(sql, (first,))
        found: dict[float, dict[str, float]] = {}
        if begin:
            for time, name, value in self._ask("SELECT time, name, value FROM sample WHERE rowid >= ?", begin[0]):
                found.setdefault(time, {})[name] = value
        return [Sample(time, values) for time, values in found.items()]

    def environment(self) -> dict[str, Any]:
        """Return the newest attempt's machine, with the packages, which are stored only where they have changed."""
        known: dict[str, Any] = {}
        for attempt in self.attempts:
            known = {**({"packages": known["packages"]} if "packages" in known else {}), **attempt.environment}
        return known


def _backup(source: Path, target: Path, timeout_s: float) -> None:
    """Copy a database through SQLite, which keeps its locks where a plain open and close would drop them."""
    reading, writing = _connect(source, "ro", timeout_s), _connect(target, "rwc")
    try:
        reading.execute("BEGIN")
        reading.execute("SELECT 1 FROM sqlite_master").fetchall()  # backup() itself would wait for a lock for ever
        reading.backup(writing)
    finally:
        reading.close()
        writing.close()
