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
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from ..errors import NewerSchema, RunBusy, StoreError
from ..host import Holder

SCHEMA = Migrations("ledger")
VERSION = 3


@SCHEMA()  # type: ignore[untyped-decorator]
def m001_links_batches_leases(db: Database) -> None:
    db.executescript(
        """
        -- Keyed by the run's uuid: ids are only unique within a folder. url: a self-hosted server is another remote.
        CREATE TABLE link (
            uuid TEXT NOT NULL, remote TEXT NOT NULL, server TEXT NOT NULL,
            run TEXT NOT NULL, project TEXT NOT NULL, entity TEXT NOT NULL, remote_id TEXT NOT NULL, url TEXT,
            made_at REAL,                        -- NULL: intended; the remote run may not exist yet
            sent_seq INTEGER NOT NULL DEFAULT 0, sent_step INTEGER,   -- the newest call that was sent, and its step
            confirmed_step INTEGER, confirmed_rows INTEGER NOT NULL DEFAULT 0, confirmed_at REAL,
            state TEXT, facts TEXT,              -- the state and the digest of config, name... that the remote was told
            PRIMARY KEY (uuid, remote, server)
        );
        CREATE TABLE batch (
            id INTEGER PRIMARY KEY, uuid TEXT NOT NULL, remote TEXT NOT NULL, server TEXT NOT NULL,
            first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, rows INTEGER NOT NULL,
            sent_at REAL NOT NULL, acked_at REAL, confirmed_at REAL
        );
        CREATE INDEX batch_open ON batch (uuid, remote, server) WHERE confirmed_at IS NULL;
        CREATE TABLE lease (
            uuid TEXT PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL, pid INTEGER NOT NULL,
            pid_started INTEGER NOT NULL, since REAL NOT NULL, beat_at REAL NOT NULL,
            children TEXT NOT NULL DEFAULT '{}'  -- JSON: what the holder started and must not outlive it
        );
        """
    )


@SCHEMA()  # type: ignore[untyped-decorator]
def m003_besides(db: Database) -> None:
    db.executescript(
        """
        -- How many samples, console lines and alerts of the run the remote holds.
        ALTER TABLE link ADD COLUMN samples INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE link ADD COLUMN lines INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE link ADD COLUMN alerts INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE link ADD COLUMN besides_sent_at REAL;  -- when more of them were sent; NULL: they were seen there since
        ALTER TABLE link ADD COLUMN downtime INTEGER NOT NULL DEFAULT 0;  -- 1: the run's clock goes on between attempts
        """
    )


@dataclass(frozen=True)
class Link:
    """
    A local run at a remote. *server* is the remote's address; times in unix seconds.

    Attributes:
        made_at: when the remote run was seen to exist; None while it is only intended.
        sent_seq: number of the newest call that was sent, *sent_step* its step.
        facts: digest of what else the remote was told (config, name, tags...).
        samples, lines, alerts: how many of the run's the remote holds; *besides_sent_at* when more of them were sent,
            None if they were seen there.
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


_COLUMNS = tuple(Link.__dataclass_fields__)


class Ledger:
    """
    The ledger of one runs folder. Each method is one transaction, on disk when it returns; one thread at a time.

    Raises:
        StoreError: the folder can't be written, or the file is none of ours.
    """

    def __init__(self, runs: Path) -> None:
        self.path = runs / ".sync" / "ledger.db"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None, check_same_thread=False)
            if self._version() > VERSION:
                raise NewerSchema(f"{self.path} was written by a newer offline_tracker; update this one")
            self._db.execute("PRAGMA journal_mode = TRUNCATE")
            self._db.execute("PRAGMA synchronous = FULL")
            if self._version() < VERSION:
                self._migrate()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"can't use the sync ledger {self.path}: {error}; a sync must be able to write it"
            ) from error

    def _version(self) -> int:
        version: int = self._one("PRAGMA user_version")[0]
        return version

    def _migrate(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        if self._version() < VERSION:  # else another sync, begun in the same moment, was first
            SCHEMA.apply(Database(self._db))
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _one(self, sql: str, *values: Any) -> Any:
        return self._db.execute(sql, values).fetchone()

    def link(self, uuid: str, remote: str, server: str) -> Link | None:
        """Return a run's link to a remote, or None."""
        sql = f"SELECT {', '.join(_COLUMNS)} FROM link WHERE (uuid, remote, server) = (?, ?, ?)"
        row = self._one(sql, uuid, remote, server)
        return Link(*row) if row else None

    def links(self, uuid: str | None = None) -> list[Link]:
        """Return the links of one run, or all."""
        sql = f"SELECT {', '.join(_COLUMNS)} FROM link WHERE ? IS NULL OR uuid = ? ORDER BY run, remote, server"
        return [Link(*row) for row in self._db.execute(sql, (uuid, uuid)).fetchall()]

    def save(self, link: Link, **changes: Any) -> Link:
        """Write a link as it is with *changes*, and return that."""
        link = replace(link, **changes)
        marks = ", ".join("?" * len(_COLUMNS))
        values = [getattr(link, name) for name in _COLUMNS]
        self._db.execute(f"INSERT OR REPLACE INTO link ({', '.join(_COLUMNS)}) VALUES ({marks})", values)
        return link

    def sent(self, link: Link, first_step: int, last_step: int, rows: int, last_seq: int) -> tuple[int, Link]:
        """Write down that a batch is about to go; returns its number, and the link as it now stands."""
        if last_seq >= link.sent_seq:  # rows that fill a hole are older
            link = replace(link, sent_seq=last_seq, sent_step=last_step)
        self._db.execute("BEGIN IMMEDIATE")
        number = self._db.execute(
            "INSERT INTO batch (uuid, remote, server, first_step, last_step, rows, sent_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*link.key, first_step, last_step, rows, time.time()),
        ).lastrowid
        self.save(link)
        self._db.execute("COMMIT")
        assert number is not None
        return number, link

    def acked(self, number: int) -> None:
        """Write down that the remote has acknowledged a batch."""
        self._db.execute("UPDATE batch SET acked_at = ? WHERE id = ?", (time.time(), number))

    def doubt(self, link: Link) -> Doubt | None:
        """Return what a sync that died or gave up had sent, or None."""
        sql = "SELECT min(first_step), max(last_step), max(sent_at) FROM batch WHERE confirmed_at IS NULL"
        row = self._one(f"{sql} AND (uuid, remote, server) = (?, ?, ?)", *link.key)
        return Doubt(*row) if row[0] is not None else None

    def settled(self, link: Link) -> None:
        """Forget all doubt: the remote was read, and what it holds is known."""
        sql = "UPDATE batch SET confirmed_at = ? WHERE confirmed_at IS NULL AND (uuid, remote, server) = (?, ?, ?)"
        self._db.execute(sql, (time.time(), *link.key))

    @contextmanager
    def lease(self, uuid: str, run: str, holder: Holder) -> Iterator[dict[str, Any]]:
        """
        Hold the run, so that no other sync sends its rows; yields what a dead holder had started (see `children`).

        Raises:
            RunBusy: another sync holds it and lives.
        """
        children = self._take(uuid, run, holder)
        try:
            yield children
        finally:
            self._db.execute(
                "DELETE FROM lease WHERE uuid = ? AND pid = ? AND host = ?", (uuid, holder.pid, holder.host)
            )

    def _take(self, uuid: str, run: str, holder: Holder) -> dict[str, Any]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            sql = "SELECT host, boot, pid, pid_started, since, beat_at, children FROM lease WHERE uuid = ?"
            row = self._one(sql, uuid)
            if row is not None:
                other = Holder(*row[:4])
                if other != holder and other.holds_since(row[5]):
                    since = time.strftime("%H:%M:%S", time.localtime(row[4]))
                    raise RunBusy(
                        f"run {run!r} is being synced by pid {other.pid} on {other.host} since {since}; "
                        "wait for it, or end it"
                    )
            now = time.time()
            self._db.execute(
                "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?, ?, '{}')",
                (uuid, holder.host, holder.boot, holder.pid, holder.started, now, now),
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return dict(json.loads(row[6])) if row else {}

    def beat(self, uuid: str) -> None:
        """Show that the lease's holder lives; at least every `HEARTBEAT_S`."""
        self._db.execute("UPDATE lease SET beat_at = ? WHERE uuid = ? AND pid = ?", (time.time(), uuid, os.getpid()))

    def children(self, uuid: str, children: Mapping[str, Any]) -> None:
        """Write down what must be cleaned up if the lease's holder dies: processes and a folder."""
        text = json.dumps(dict(children))
        self._db.execute("UPDATE lease SET children = ? WHERE uuid = ? AND pid = ?", (text, uuid, os.getpid()))


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
