"""
SQL over runs, with DuckDB (an extra), which can read what is put before it and nothing else.

The tables are filled into a database of its own in a temporary folder, which then is opened read only, without access to
files, networks, extensions or variables of this process, and with its settings locked; of statements one SELECT is run.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import parquet
from .columns import extra, snapshot
from .errors import StoreError, TrackerError, UsageError
from .store import RunReader
from .values import to_json

_CLOSED = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_persistent_secrets": "false",
}
_FETCHED = 1_000

CURVES = {"run": "VARCHAR", "metric": "VARCHAR", "step": "BIGINT", "time": "DOUBLE", "value": "DOUBLE"}
CURVES |= {"text": "VARCHAR", "attempt": "BIGINT"}
RUNS = dict.fromkeys(("run", "uuid", "project", "name", "entity", "run_group", "job_type", "notes"), "VARCHAR")
RUNS |= {"tags": "VARCHAR[]", "state": "VARCHAR", "created_at": "DOUBLE", "total_steps": "BIGINT", "attempts": "BIGINT"}
RUNS |= {"config": "VARCHAR", "summary": "VARCHAR"}
ATTEMPTS = {"run": "VARCHAR", "attempt": "BIGINT", "host": "VARCHAR", "pid": "BIGINT", "started_at": "DOUBLE"}
ATTEMPTS |= {
    "heartbeat_at": "DOUBLE",
    "ended_at": "DOUBLE",
    "exit_code": "BIGINT",
    "alive": "BOOLEAN",
    "why": "VARCHAR",
}
ATTEMPTS |= {"config": "VARCHAR", "environment": "VARCHAR"}
TABLES: Mapping[str, Mapping[str, str]] = {"curves": CURVES, "runs": RUNS, "attempts": ATTEMPTS}
"""
What there is. `curves` has a row for each value on the curve, as `parquet.LONG` says; times are unix seconds; config,
summary and environment are JSON (``config->>'lr'``).
"""

Open = Callable[[], "contextlib.AbstractContextManager[RunReader]"]


class Answer:
    """What a SELECT gives: the names of its *columns*, each another, and its rows."""

    def __init__(self, columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
        self.columns = columns
        self.rows = rows


@contextlib.contextmanager
def query(sql: str, runs: Sequence[Open], lose: Callable[[StoreError, int], None]) -> Iterator[Answer]:
    """
    Run one SELECT over *runs*; of them only what it names is read. The rows are to be taken within the context.

    Args:
        runs: each opens a run.
        lose: is told of a run that can't be read, by its number in *runs*; it is left out of that table.

    Raises:
        UsageError: it is not one SELECT, DuckDB does not understand it, or DuckDB is not installed.
    """
    parquet.arrow()
    duckdb = extra("duckdb", "'offline-tracker[query]'")
    with tempfile.TemporaryDirectory(prefix="offline_tracker-") as folder, contextlib.ExitStack() as stack:
        path = str(Path(folder) / "runs.duckdb")
        config = {**_CLOSED, "temp_directory": str(Path(folder) / "spill")}
        try:
            with duckdb.connect(path, config=config) as db:
                for name, types in TABLES.items():
                    db.execute(f"CREATE TABLE {name} ({', '.join(map(' '.join, types.items()))})")
                _check(duckdb, db, sql)
                # A name in a comment costs a read for nothing; one within query('...') is none that DuckDB would tell.
                _fill(db, {name for name in TABLES if name in sql.lower()}, runs, lose)
            db = stack.enter_context(duckdb.connect(path, read_only=True, config=config))
            db.execute("SET python_enable_replacements = false")
            db.execute("SET lock_configuration = true")
            db.execute(sql)
            columns = _distinct([column[0] for column in db.description])
            yield Answer(columns, _rows(duckdb, db))
        except duckdb.Error as error:
            raise _said(duckdb, error) from None


def _said(duckdb: Any, error: Exception) -> TrackerError:
    ours = isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException)
    return TrackerError(f"DuckDB: {error}") if ours else UsageError(str(error))


def _check(duckdb: Any, db: Any, sql: str) -> None:
    statements = db.extract_statements(sql)
    if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
        raise UsageError("only one SELECT is run; tables: " + ", ".join(TABLES))


def _fill(db: Any, wanted: set[str], runs: Sequence[Open], lose: Callable[[StoreError, int], None]) -> None:
    for number, opening in enumerate(runs):
        db.execute("BEGIN")
        try:
            with opening() as reader:
                if "runs" in wanted:
                    _insert(db, "runs", [_run(reader)])
                if "attempts" in wanted:
                    _insert(db, "attempts", _attempts(reader))
                if "curves" in wanted:
                    for table in parquet.long(reader, snapshot(reader), False):
                        db.register("part", table)
                        named = ", ".join("run_id" if name == "run" else name for name in CURVES)
                        db.execute(f"INSERT INTO curves SELECT {named} FROM part")
                        db.unregister("part")
            db.execute("COMMIT")
        except StoreError as error:
            db.execute("ROLLBACK")
            lose(error, number)


def _insert(db: Any, table: str, rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def _run(reader: RunReader) -> list[Any]:
    info = reader.info
    return [
        *(info.id, info.uuid, info.project, info.name, info.entity, info.group, info.job_type, info.notes),
        *(list(map(str, info.tags)), reader.state, info.created_at, info.total_steps, len(reader.attempts)),
        *(to_json(info.config or {}), to_json(reader.summary())),
    ]


def _attempts(reader: RunReader) -> list[list[Any]]:
    return [
        [
            *(reader.info.id, attempt.number, attempt.holder.host, attempt.holder.pid, attempt.started_at),
            *(attempt.heartbeat_at, attempt.ended_at, attempt.exit_code, attempt.alive(), attempt.reason),
            *(to_json(attempt.config), to_json(attempt.environment)),
        ]
        for attempt in reader.attempts
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, those that came before with a number behind them."""
    found: list[str] = []
    for name in names:
        new, count = name, 0
        while new in found:
            count += 1
            new = f"{name}_{count}"
        found.append(new)
    return found


def _rows(duckdb: Any, db: Any) -> Iterator[tuple[Any, ...]]:
    try:
        while rows := db.fetchmany(_FETCHED):
            yield from rows
    except duckdb.Error as error:  # what the first rows did not show, such as a text that is no number
        raise _said(duckdb, error) from None
