"""
The schema of run.db: numbered migrations, only ever appended to.

``PRAGMA user_version`` holds how many were applied, so that a reader knows at once whether it understands a file.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

RUN = Migrations("run")


@RUN()  # type: ignore[untyped-decorator]
def m001_runs_calls_points(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE run (
            id TEXT PRIMARY KEY, uuid TEXT NOT NULL, created_at REAL NOT NULL,
            project TEXT, name TEXT, entity TEXT, run_group TEXT, job_type TEXT, notes TEXT,
            tags TEXT NOT NULL DEFAULT '[]',     -- JSON
            config TEXT NOT NULL DEFAULT '{}',   -- JSON
            total_steps INTEGER
        );
        CREATE TABLE attempt (
            id INTEGER PRIMARY KEY,              -- 1, 2, ...
            host TEXT NOT NULL, boot TEXT NOT NULL, pid INTEGER NOT NULL, pid_started INTEGER NOT NULL,
            started_at REAL NOT NULL, heartbeat_at REAL NOT NULL, ended_at REAL, exit_code INTEGER,
            after_seq INTEGER NOT NULL,          -- the run's last call before this attempt
            journal TEXT NOT NULL,               -- the folder of its journal
            folded INTEGER NOT NULL DEFAULT 0,   -- num of the last journal record that is in this file
            launch TEXT NOT NULL, requeue TEXT NOT NULL, reason TEXT NOT NULL,
            config TEXT NOT NULL,                -- JSON, as this attempt gave it
            environment TEXT NOT NULL            -- JSON
        );
        CREATE TABLE metric (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, definition TEXT);
        CREATE TABLE call (
            seq INTEGER PRIMARY KEY, step INTEGER NOT NULL, time REAL NOT NULL,
            flags INTEGER NOT NULL DEFAULT 1     -- 1: closes its row; 2: the step was given, not counted
        );
        CREATE TABLE point (
            seq INTEGER NOT NULL, metric INTEGER NOT NULL,
            value,                               -- no type: SQLite must not convert it
            kind INTEGER,                        -- NULL plain, 1 NaN, 2 bool, 3 int over 63 bits as text, 4 text
            PRIMARY KEY (seq, metric)
        ) WITHOUT ROWID;
        -- Calls up to seq whose step is above step do not hold any more.
        CREATE TABLE rewind (
            id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, step INTEGER NOT NULL, time REAL NOT NULL, reason TEXT NOT NULL
        );
        -- A checkpoint was saved after call seq.
        CREATE TABLE mark (seq INTEGER PRIMARY KEY, time REAL NOT NULL, name TEXT);
        CREATE TABLE summary (name TEXT PRIMARY KEY, value TEXT NOT NULL);
        CREATE TABLE alert (
            id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, time REAL NOT NULL,
            title TEXT NOT NULL, text TEXT NOT NULL, level TEXT NOT NULL
        );
        CREATE TABLE sample (time REAL NOT NULL, name TEXT NOT NULL, value REAL);
        """
    )


@RUN()  # type: ignore[untyped-decorator]
def m002_spills_modes_gaps(db: Database) -> None:
    db.executescript(
        """
        ALTER TABLE attempt ADD COLUMN spill TEXT NOT NULL DEFAULT '';  -- the folder where its journal may go on
        ALTER TABLE attempt ADD COLUMN mode TEXT NOT NULL DEFAULT '';   -- segments, or '': this file is the live one
        ALTER TABLE attempt ADD COLUMN segments INTEGER NOT NULL DEFAULT 0;  -- how many of them are in this file
        -- So many calls behind call seq were lost.
        CREATE TABLE gap (
            id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, time REAL NOT NULL, calls INTEGER NOT NULL, reason TEXT NOT NULL
        );
        """
    )


VERSION = 2


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a run.db (also an empty one) up to `VERSION`, wholly or not at all; others may do so at the same time."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        RUN.apply(Database(connection))
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
