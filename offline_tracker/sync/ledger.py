"""
runs/.sync/ledger.db: which remote run belongs to which local run, what was sent, and what was confirmed.

Written only by syncs, never needed by training. It lies apart from run.db, so that copying a fresher run.db over an old
one never loses a link. The remote wins over it; it tells what the remote can't: what was in flight when a sync died.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import NewerSchema, RunBusy, StoreError
from ..host import Holder

VERSION = 3


@dataclass(frozen=True)
class Link:
    """
    A local run at a remote. *server* is the remote's address; times in unix seconds.

    Attributes:
        made_at: when the remote run was seen to exist; None while it is only intended.
        sent_seq: number of the newest call that was sent, *sent_step* its step.
        facts: digest of what else the remote was told (config, name, tags...).
        samples, lines, alerts, findings: how many of the run's the remote holds; *besides_sent_at* when more of them were
            sent, None if they were seen there.
        downtime: whether the time between two attempts counts as time that the run has run.
    """

    uuid: str
    remote: str
    server: str
    run: str
    project: str
    entity: str
    remote_id: str
    url: str | None = None
    made_at: float | None = None
    sent_seq: int = 0
    sent_step: int | None = None
    confirmed_step: int | None = None
    confirmed_rows: int = 0
    confirmed_at: float | None = None
    state: str | None = None
    facts: str | None = None
    samples: int = 0
    lines: int = 0
    alerts: int = 0
    findings: int = 0
    besides_sent_at: float | None = None
    downtime: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        return self.uuid, self.remote, self.server


@dataclass(frozen=True)
class Doubt:
    """
    What was sent and never seen at the remote: up to *last_step*, the last of it at *sent_at* (unix seconds).

    Acknowledged or not: a remote that shows late what it has taken is no witness that it has not.
    """

    first_step: int
    last_step: int
    sent_at: float


@dataclass(frozen=True)
class Seen:
    """
    A run as it was when a remote was read back and held all of it.

    Attributes:
        address: what decided which server the remote is; see `Remote.address`.
        stamp: of the run's files and of the folders *journals*, see `Runs.stamp`.
        holder: who writes the run, and its last heartbeat, if it was running: it may die and change no file.
        result: what the sync said of it.
    """

    run: str
    remote: str
    address: str
    stamp: str
    journals: list[str]
    holder: tuple[Holder, float] | None
    result: dict[str, Any]


_COLUMNS = tuple(Link.__dataclass_fields__)


class Ledger:
    """
    The ledger of one runs folder. Each method is one transaction, on disk when it returns; any thread may call it.

    Raises:
        StoreError: the folder can't be written, or the file is none of ours.
    """

    def __init__(self, runs: Path) -> None:
        self.path = runs / ".sync" / "ledger.db"
        self._lock = threading.RLock()
        self._seen: list[tuple[Any, ...]] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None, check_same_thread=False)
            if self._version() > VERSION:
                raise NewerSchema(f"{self.path} was written by a newer offline_tracker; update this one")
            self._db.execute("PRAGMA journal_mode = TRUNCATE")
            self._db.execute("PRAGMA synchronous = FULL")
            if self._version() < VERSION:
                from . import migrations  # sqlite-utils takes its time

                migrations.migrate(self._db)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"can't use the sync ledger {self.path}: {error}; a sync must be able to write it"
            ) from error

    def _version(self) -> int:
        version: int = self._one("PRAGMA user_version")[0]
        return version

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which no other thread's statements get into."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, ?)", self._seen)
                yield self._db
                self._db.execute("COMMIT")
                self._seen = []
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: Any) -> Any:
        return next(iter(self._all(sql, *values)), None)

    def link(self, uuid: str, remote: str, server: str) -> Link | None:
        """Return a run's link to a remote, or None."""
        sql = f"SELECT {', '.join(_COLUMNS)} FROM link WHERE (uuid, remote, server) = (?, ?, ?)"
        row = self._one(sql, uuid, remote, server)
        return Link(*row) if row else None

    def links(self, uuid: str | None = None) -> list[Link]:
        """Return the links of one run, or all."""
        sql = f"SELECT {', '.join(_COLUMNS)} FROM link WHERE ? IS NULL OR uuid = ? ORDER BY run, remote, server"
        return [Link(*row) for row in self._all(sql, uuid, uuid)]

    def save(self, link: Link, **changes: Any) -> Link:
        """Write a link as it is with *changes*, and return that."""
        with self._writing():
            return self._save(replace(link, **changes))

    def _save(self, link: Link) -> Link:
        marks = ", ".join("?" * len(_COLUMNS))
        values = [getattr(link, name) for name in _COLUMNS]
        self._db.execute(f"INSERT OR REPLACE INTO link ({', '.join(_COLUMNS)}) VALUES ({marks})", values)
        return link

    def forget(self, link: Link) -> None:
        """Forget a link, and all that was sent there."""
        with self._writing() as db:
            for table in ("link", "batch"):
                db.execute(f"DELETE FROM {table} WHERE (uuid, remote, server) = (?, ?, ?)", link.key)
            db.execute("DELETE FROM seen WHERE (run, remote) = (?, ?)", (link.run, link.remote))

    def sent(self, link: Link, first_step: int, last_step: int, rows: int, last_seq: int) -> tuple[int, Link]:
        """Write down that a batch is about to go; returns its number, and the link as it now stands."""
        if last_seq >= link.sent_seq:  # rows that fill a hole are older
            link = replace(link, sent_seq=last_seq, sent_step=last_step)
        columns = "uuid, remote, server, first_step, last_step, rows, sent_at"
        with self._writing() as db:
            number = db.execute(
                f"INSERT INTO batch ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*link.key, first_step, last_step, rows, time.time()),
            ).lastrowid
            self._save(link)
        assert number is not None
        return number, link

    def acked(self, number: int) -> None:
        """Write down that the remote has acknowledged a batch."""
        with self._writing() as db:
            db.execute("UPDATE batch SET acked_at = ? WHERE id = ?", (time.time(), number))

    def doubt(self, link: Link) -> Doubt | None:
        """Return what a sync that died or gave up had sent, or None."""
        sql = "SELECT min(first_step), max(last_step), max(sent_at) FROM batch WHERE confirmed_at IS NULL"
        row = self._one(f"{sql} AND (uuid, remote, server) = (?, ?, ?)", *link.key)
        return Doubt(*row) if row[0] is not None else None

    def doubted(self, link: Link, first_step: int, last_step: int) -> None:
        """Write down that rows which were confirmed once are not at the remote: the next sync is not to trust its mark."""
        sql = "INSERT INTO batch (uuid, remote, server, first_step, last_step, rows, sent_at) VALUES (?, ?, ?, ?, ?, 0, ?)"
        with self._writing() as db:
            db.execute(sql, (*link.key, first_step, last_step, link.confirmed_at or time.time()))
            db.execute("DELETE FROM seen WHERE (run, remote) = (?, ?)", (link.run, link.remote))

    def settled(self, link: Link, **changes: Any) -> Link:
        """Forget all doubt, for the remote was read and what it holds is known; save the link with *changes* if any."""
        sql = "UPDATE batch SET confirmed_at = ? WHERE confirmed_at IS NULL AND (uuid, remote, server) = (?, ?, ?)"
        if not changes and self.doubt(link) is None:
            return link
        with self._writing() as db:
            db.execute(sql, (time.time(), *link.key))
            return self._save(replace(link, **changes)) if changes else link

    def seen(self) -> dict[tuple[str, str], Seen]:
        """Return what `remember` was told, by run id and remote."""
        rows = self._all("SELECT run, remote, address, stamp, journals, holder, result FROM seen")
        return {
            (run, remote): Seen(run, remote, address, stamp, json.loads(journals), _holder(holder), json.loads(result))
            for run, remote, address, stamp, journals, holder, result in rows
        }

    def remember(self, seen: Seen) -> None:
        """Write down, with whatever is written next, that a remote holds all of a run whose files look like this."""
        holder = json.dumps([*astuple(seen.holder[0]), seen.holder[1]]) if seen.holder else None
        values = (seen.run, seen.remote, seen.address, seen.stamp, json.dumps(seen.journals), holder)
        with self._lock:
            self._seen.append((*values, json.dumps(seen.result)))

    def now(self) -> float:
        """Return the time of the last change of this file, by the clock that the runs' files have their times from."""
        return self.path.stat().st_mtime

    @contextmanager
    def lease(
        self, uuid: str, run: str, holder: Holder, children: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """
        Hold the run, so that no other sync sends its rows; yields what a dead holder had started (see `children`).

        Args:
            children: what has been started already.

        Raises:
            RunBusy: another sync holds it and lives.
        """
        left = self._take(uuid, run, holder, children)
        try:
            yield left
        finally:
            sql = "DELETE FROM lease WHERE uuid = ? AND pid = ? AND host = ?"
            with self._writing() as db:
                db.execute(sql, (uuid, holder.pid, holder.host))

    def _take(self, uuid: str, run: str, holder: Holder, children: Mapping[str, Any] | None = None) -> dict[str, Any]:
        sql = "SELECT host, boot, pid, pid_started, since, beat_at, children FROM lease WHERE uuid = ?"
        with self._writing() as db:
            row = db.execute(sql, (uuid,)).fetchone()
            if row is not None:
                other = Holder(*row[:4])
                if other != holder and other.holds_since(row[5]):
                    since = time.strftime("%H:%M:%S", time.localtime(row[4]))
                    raise RunBusy(
                        f"run {run!r} is being synced by pid {other.pid} on {other.host} since {since}; "
                        "wait for it, or end it"
                    )
            now = time.time()
            db.execute(
                "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (uuid, *astuple(holder), now, now, json.dumps(dict(children or {}))),
            )
        return dict(json.loads(row[6])) if row else {}

    def orphans(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the leases that dead processes of this host have left, and what they had started."""
        rows = self._all("SELECT uuid, host, boot, pid, pid_started, children FROM lease WHERE children != '{}'")
        return [(uuid, json.loads(text)) for uuid, *holder, text in rows if Holder(*holder).alive() is False]

    def beat(self, uuid: str) -> None:
        """Show that the lease's holder lives; at least every `HEARTBEAT_S`."""
        with self._writing() as db:
            db.execute("UPDATE lease SET beat_at = ? WHERE uuid = ? AND pid = ?", (time.time(), uuid, os.getpid()))

    def children(self, uuid: str, children: Mapping[str, Any]) -> None:
        """Write down what must be cleaned up if the lease's holder dies: processes and a folder."""
        text = json.dumps(dict(children))
        with self._writing() as db:
            db.execute("UPDATE lease SET children = ? WHERE uuid = ? AND pid = ?", (text, uuid, os.getpid()))


def _holder(text: str | None) -> tuple[Holder, float] | None:
    if text is None:
        return None
    *holder, beat_at = json.loads(text)
    return Holder(*holder), beat_at


def read_links(runs: Path) -> list[Link]:
    """
    Return all links of a runs folder without making or changing a ledger; [] where nothing was ever synced.

    Raises:
        StoreError: there is a ledger, and it can't be read.
    """
    ledger = runs / ".sync" / "ledger.db"
    try:
        return _read_links(ledger) if ledger.exists() else []
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"can't read the sync ledger {ledger}: {error}") from error


def _read_links(ledger: Path) -> list[Link]:
    try:
        return _select_links(ledger, "ro")
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):
            raise
    # A sync was killed inside a commit. The next one rolls that back; until then a reader does so to a copy of its own.
    with tempfile.TemporaryDirectory(prefix="offline_tracker-") as folder:
        for name in (ledger.name, f"{ledger.name}-journal"):
            shutil.copy(ledger.with_name(name), folder)
        return _select_links(Path(folder) / ledger.name, "rw")


def _select_links(ledger: Path, mode: str) -> list[Link]:
    uri = f"{ledger.resolve().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=30.0)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise NewerSchema(f"{ledger} was written by a newer offline_tracker; update this one")
        if version < 1:
            return []  # a sync has just begun to make it
        there = {row[1] for row in db.execute("PRAGMA table_info(link)").fetchall()}
        names = [name for name in _COLUMNS if name in there]  # an older version's has fewer
        rows = db.execute(f"SELECT {', '.join(names)} FROM link ORDER BY run, remote, server").fetchall()
        return [Link(**dict(zip(names, row, strict=True))) for row in rows]
