"""
The schema of ledger.db: numbered migrations, only ever appended to; ``PRAGMA user_version`` holds how many were applied.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

LEDGER = Migrations("ledger")


@LEDGER()  # type: ignore[untyped-decorator]
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


@LEDGER()  # type: ignore[untyped-decorator]
def m002_seen(db: Database) -> None:
    db.executescript(
        """
        -- A run's files as they were when a remote was last read back and held all of it, and what was said then.
        CREATE TABLE seen (
            run TEXT NOT NULL, remote TEXT NOT NULL, address TEXT NOT NULL,
            stamp TEXT NOT NULL, journals TEXT NOT NULL,   -- JSON: folders outside the run's own that the stamp covers
            holder TEXT,                                   -- JSON: of a running run: host, boot, pid, start, heartbeat
            result TEXT NOT NULL,                          -- JSON
            PRIMARY KEY (run, remote)
        );
        """
    )


@LEDGER()  # type: ignore[untyped-decorator]
def m003_besides(db: Database) -> None:
    db.executescript(
        """
        -- How many samples, console lines and alerts of the run the remote holds, and findings of rules it was told.
        ALTER TABLE link ADD COLUMN samples INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE link ADD COLUMN lines INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE link ADD COLUMN alerts INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE link ADD COLUMN findings INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE link ADD COLUMN besides_sent_at REAL;  -- when more of them were sent; NULL: they were seen there since
        ALTER TABLE link ADD COLUMN downtime INTEGER NOT NULL DEFAULT 0;  -- 1: the run's clock goes on between attempts
        """
    )


VERSION = 3


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a ledger (also an empty one) up to `VERSION`, wholly or not at all; others may do so at the same time."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        LEDGER.apply(Database(connection))
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
