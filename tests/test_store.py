"""The runs folder and a run's file: what a crash leaves is whole, readable untouched, and folded in once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

import offline_tracker
from offline_tracker import curve, journal, migrations
from offline_tracker.errors import BadName, NewerSchema, RunBusy, RunExists, RunNotFound, StoreError, UsageError
from offline_tracker.host import STALE_S, Holder
from offline_tracker.journal import CLOSES, EXPLICIT, Journal
from offline_tracker.store import RunInfo, Runs, RunStore

from .conftest import Start, curve_of, rows_of
from .doubles.server import wait_until
from .faultfs import FaultFS

DEAD = Holder(socket.gethostname(), Holder.current().boot, os.getpid(), 1)
"""A process of this machine that is gone: its pid was given out again, to us."""


def info(run_id: str = "a1", **more: Any) -> RunInfo:
    return RunInfo(run_id, uuid.uuid4().hex, 1_700_000_000.25, **more)


def claim(store: RunStore, holder: Holder, started_at: float = 1.0, **more: Any) -> int:
    texts = {**dict.fromkeys(("launch", "requeue", "reason"), ""), "config": "{}", "environment": "{}"}
    return store.claim(holder, **{"started_at": started_at, "journal": store.path.parent, **texts, **more})


@contextlib.contextmanager
def opened(runs: Runs, run_id: str = "a1") -> Iterator[RunStore]:
    if run_id not in runs:
        runs.create(info(run_id))
    store = RunStore(runs.folder(run_id) / "run.db")
    try:
        yield store
    finally:
        store.close()


def sql(path: Path, text: str, *values: Any) -> list[Any]:
    """Ask a file with sqlite3 alone, opened for reading."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(text, values).fetchall()


def change(path: Path, text: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(text)


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file in *folder*: its content and when it was changed."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [line for line in connection.iterdump() if "sqlite_migrations" not in line]


# A run is made whole or not at all.


def test_a_created_run_holds_what_it_was_given(runs: Runs) -> None:
    given = info(project="p", name="n", entity="e", group="g", tags=("x", "y"), config={"lr": 0.1}, total_steps=7)
    runs.create(given)
    assert runs.ids() == ["a1"]
    with runs.read("a1") as reader:
        assert reader.info == given
        assert (reader.state, reader.attempts, reader.marks, reader.rewinds, reader.last_seq) == (
            "crashed",
            [],
            [],
            [],
            0,
        )
    assert sorted(path.name for path in runs.folder("a1").iterdir()) == ["run.db"]


def test_a_second_run_of_an_id_is_refused_and_the_first_is_untouched(runs: Runs) -> None:
    runs.create(info(project="first"))
    before = fingerprint(runs.path)
    with pytest.raises(RunExists, match="'a1'"):
        runs.create(info(project="second"))
    assert fingerprint(runs.path) == before


def test_of_many_that_create_one_id_at_once_one_succeeds(runs: Runs) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def create() -> None:
        barrier.wait()
        try:
            runs.create(info())
            outcomes.append("made")
        except RunExists:
            outcomes.append("exists")

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["exists", "exists", "exists", "made"]
    assert sorted(path.name for path in runs.folder("a1").iterdir()) == ["run.db"]


CREATE = """
import itertools, os, sys, uuid
from offline_tracker.store import RunInfo, Runs
runs = Runs(sys.argv[1])
for number in itertools.count(int(sys.argv[2])):
    os.write(1, b".")
    runs.create(RunInfo(f"r{number}", uuid.uuid4().hex, 1.0, project=f"p{number}"))
"""


def test_a_process_killed_while_it_creates_leaves_whole_runs_only(runs: Runs, start: Start) -> None:
    for turn in range(3):
        process = start(CREATE, turn * 1000)
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        for _ in range(random.Random(turn).randrange(1, 4)):
            os.read(process.stdout.fileno(), 1)
        process.kill()
        process.wait()
    assert len(runs.ids()) >= 3
    for run_id in runs.ids():
        with runs.read(run_id) as reader:
            assert (reader.info.id, reader.info.project) == (run_id, run_id.replace("r", "p"))
    for name in {folder.name for folder in runs.path.iterdir()} - set(runs.ids()):
        runs.create(info(name))  # a half-made one stands in nobody's way


def test_a_full_disk_makes_no_run_and_one_line_says_so(runs: Runs) -> None:
    runs.path.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(StoreError, match="can't make a run") as caught:
            runs.create(info())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "\n" not in str(caught.value)
    assert runs.ids() == []
    runs.create(info())
    assert runs.ids() == ["a1"]


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    with pytest.raises(StoreError, match="OFFLINE_TRACKER_DIR"):
        Runs(tmp_path / "runs").create(info())
    with pytest.raises(StoreError, match="OFFLINE_TRACKER_DIR"):
        offline_tracker.init(dir=tmp_path / "runs")
    assert offline_tracker.run is None


@pytest.mark.parametrize("run_id", ["", "a b", "a/b", "..", "a" * 65, "ü", "a\n", "a.b"])
def test_ids_that_a_remote_would_refuse_are_refused_here(run_id: str, runs: Runs) -> None:
    if run_id:
        with pytest.raises(BadName, match="A-Z"):
            offline_tracker.init(dir=runs.path, id=run_id)
    assert not runs.path.exists()
    with pytest.raises(RunNotFound):
        runs.find(run_id)


def test_find_takes_an_id_a_unique_beginning_and_names_what_is_close(runs: Runs) -> None:
    for run_id in ("alpha1", "alpha2", "beta", "alpha"):
        runs.create(info(run_id))
    (runs.path / ".sync").mkdir()
    (runs.path / "empty").mkdir()
    assert runs.ids() == ["alpha", "alpha1", "alpha2", "beta"]
    assert (runs.find("b"), runs.find("alpha"), runs.find("alpha1")) == ("beta", "alpha", "alpha1")
    for text in ("al", "betta", "", "alpha3"):
        with pytest.raises(RunNotFound) as caught:
            runs.find(text)
        assert text == "" or "did you mean" in str(caught.value)


# The file is what design.md says.

TABLES = {
    "run": "id uuid created_at project name entity run_group job_type notes tags config total_steps",
    "attempt": "id host boot pid pid_started started_at heartbeat_at ended_at exit_code after_seq journal folded launch"
    " requeue reason config environment spill mode segments",
    "metric": "id name definition",
    "call": "seq step time flags",
    "point": "seq metric value kind",
    "rewind": "id seq step time reason",
    "mark": "seq time name",
    "summary": "name value",
    "alert": "id seq time title text level",
    "sample": "time name value",
    "gap": "id seq time calls reason",
}


def test_tables_and_columns_are_those_of_the_contract(runs: Runs) -> None:
    runs.create(info())
    path = runs.folder("a1") / "run.db"
    tables = {name for (name,) in sql(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%'"
                                            " ESCAPE '\\' AND name NOT LIKE 'sqlite%'")}  # fmt: skip
    assert tables == TABLES.keys()
    for table, columns in TABLES.items():
        assert [row[1] for row in sql(path, f"PRAGMA table_info({table})")] == columns.split()
    value = next(row for row in sql(path, "PRAGMA table_info(point)") if row[1] == "value")
    assert value[2] == ""  # no declared type: SQLite would convert
    made = dict(sql(path, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    assert made["point"].upper().endswith("WITHOUT ROWID")
    assert not [text for text in made.values() if "STRICT" in text or "GENERATED" in text.upper()]
    assert {row[1]: row[5] for row in sql(path, "PRAGMA table_info(point)")}["metric"] == 2
    assert {row[1]: row[5] for row in sql(path, "PRAGMA table_info(call)")}["seq"] == 1
    assert sql(path, "PRAGMA user_version") == [(2,)]


def test_the_file_is_never_in_wal_mode(runs: Runs) -> None:
    run = offline_tracker.init(dir=runs.path, id="a1")
    run.log({"a": 1})
    run.flush()
    names = {path.name for path in runs.folder("a1").iterdir()}
    assert not {name for name in names if "wal" in name or "shm" in name}
    offline_tracker.finish()
    header = (runs.folder("a1") / "run.db").read_bytes()[:100]
    assert header[18:20] == b"\x01\x01"  # 2 would be WAL
    with opened(runs) as store:
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_after_a_clean_finish_only_the_database_is_left(runs: Runs) -> None:
    run = offline_tracker.init(dir=runs.path, id="a1")
    for number in range(5):
        run.log({"a": number})
    offline_tracker.finish()
    left = {path.name: path.stat().st_size for path in runs.folder("a1").iterdir() if path.name != "run.db"}
    assert left in ({}, {"run.db-journal": 0})


def make_version_1(runs: Runs) -> None:
    """A run as the first version of this package left it."""
    folder = runs.folder("a1")
    folder.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(folder / "run.db", isolation_level=None)) as db:
        migrations.RUN.apply(Database(db), stop_before="m002_spills_modes_gaps")
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO run (id, uuid, created_at) VALUES ('a1', 'u', 1.0)")
        db.execute(
            "INSERT INTO attempt VALUES (1, ?, ?, ?, ?, 1.0, 1.0, NULL, NULL, 0, ?, 1, '', '', '', '{}', '{}')",
            (DEAD.host, DEAD.boot, DEAD.pid, DEAD.started, str(folder)),
        )
        db.execute("INSERT INTO metric (name) VALUES ('n')")
        db.execute("INSERT INTO call VALUES (1, 0, 1.0, 1)")
        db.execute("INSERT INTO point VALUES (1, 1, 0.5, NULL)")
    ours = Journal(folder, 1)
    ours.append((2, journal.CALL, 2, 1, 2.0, CLOSES, {"n": 1.5}))
    ours.close()


def test_a_run_of_an_older_version_is_read_untouched_and_moved_on_by_its_next_writer(runs: Runs) -> None:
    make_version_1(runs)
    before = fingerprint(runs.path)
    with runs.read("a1") as reader:
        assert rows_of(reader) == {0: {"n": 0.5}, 1: {"n": 1.5}}
        assert (reader.gaps, reader.attempts[0].spill, reader.attempts[0].mode) == ([], None, "")
    assert fingerprint(runs.path) == before
    offline_tracker.init(dir=runs.path, id="a1", resume="must").log({"n": 2.5})
    offline_tracker.finish()
    assert sql(runs.folder("a1") / "run.db", "PRAGMA user_version") == [(2,)]
    assert curve_of(runs, "a1") == {0: {"n": 0.5}, 1: {"n": 1.5}, 2: {"n": 2.5}}


def test_of_several_that_move_a_run_on_at_once_none_fails(runs: Runs) -> None:
    make_version_1(runs)
    path = runs.folder("a1") / "run.db"
    whole = path.read_bytes()
    barrier = threading.Barrier(4)
    failed: list[Exception] = []

    def move_on() -> None:
        barrier.wait()
        try:
            RunStore(path).close()
        except Exception as error:
            failed.append(error)

    for _ in range(5):
        path.write_bytes(whole)
        threads = [threading.Thread(target=move_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
    assert sql(path, "PRAGMA user_version") == [(2,)]


# Who writes.

HOLD = """
import os, sys
import offline_tracker
run = offline_tracker.init(dir=sys.argv[1], id="a1")
run.log({"a": 1})
run.flush()
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_a_run_that_is_held_says_by_whom_and_since_when(runs: Runs, start: Start) -> None:
    process = start(HOLD)
    assert process.stdout is not None
    pid = process.stdout.readline().strip()
    with pytest.raises(RunBusy) as caught:
        offline_tracker.init(dir=runs.path, id="a1", resume="allow")
    for part in ("'a1'", pid, socket.gethostname(), time.strftime("since %Y-")):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert offline_tracker.run is None
    with runs.read("a1") as reader:
        assert (reader.state, len(reader.attempts), rows_of(reader)) == ("running", 1, {0: {"a": 1}})


def test_a_holder_that_was_killed_is_followed_at_once_though_nobody_has_buried_it(runs: Runs, start: Start) -> None:
    process = start(HOLD)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: its pid still answers to kill(pid, 0)
    with runs.read("a1") as reader:
        assert reader.state == "crashed"
    run = offline_tracker.init(dir=runs.path, id="a1", resume="must")
    run.log({"a": 2})
    offline_tracker.finish()
    assert curve_of(runs, "a1") == {0: {"a": 1}, 1: {"a": 2}}


def test_a_pid_that_was_given_out_again_is_not_the_holder(runs: Runs) -> None:
    with opened(runs) as store:
        assert claim(store, DEAD) == 1
        assert claim(store, Holder.current()) == 2


def test_a_holder_on_another_host_counts_as_alive_as_long_as_its_heart_beats(runs: Runs) -> None:
    far = Holder("node17", "another boot", 4711, 99)
    with opened(runs) as store:
        claim(store, far, started_at=time.time() - 3600)
        store.append(1, [], time.time() - STALE_S + 10)
        with pytest.raises(RunBusy, match=r"pid 4711 on node17 .*sign of life 3\d s ago.* dead after 45 s"):
            claim(store, Holder.current())
        store.append(1, [], time.time() - STALE_S - 1)
        assert claim(store, Holder.current()) == 2


def test_after_how_long_a_holder_on_another_host_counts_as_dead_is_an_option(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(runs) as store:
        claim(store, Holder("node17", "another boot", 4711, 99))
        store.append(1, [], time.time() - 2 * STALE_S)
        monkeypatch.setenv("OFFLINE_TRACKER_STALE_S", str(3 * STALE_S))
        with pytest.raises(RunBusy, match="dead after 135 s"):
            claim(store, Holder.current())
        for bad in ("soon", "19", "nan", "inf", "-60"):
            monkeypatch.setenv("OFFLINE_TRACKER_STALE_S", bad)
            with pytest.raises(UsageError, match=f"OFFLINE_TRACKER_STALE_S='{bad}'.* 20 or more") as caught:
                claim(store, Holder.current())
            assert "\n" not in str(caught.value)
        monkeypatch.setenv("OFFLINE_TRACKER_STALE_S", "20")
        assert claim(store, Holder.current()) == 2


def test_a_writer_that_was_taken_over_is_told_so_and_what_it_had_left_is_a_gap(runs: Runs, tmp_path: Path) -> None:
    far = Holder("node17", "another boot", 4711, 99)

    def call(num: int, seq: int, **values: float) -> journal.Record:
        return (num, journal.CALL, seq, seq - 1, 1.0, CLOSES, values)

    with opened(runs) as store:
        scratch = tmp_path / "scratch of node17"
        claim(store, far, journal=scratch)
        store.append(1, [call(1, 1, a=1.0), (2, journal.MARK, 1, 1.0, None)], 1.0)
        assert claim(store, Holder.current()) == 2
        store.append(2, [call(1, 2, b=2.0)], 2.0)
        left: list[journal.Record] = [
            call(3, 2, a=99.0),
            (4, journal.VALUES, 2, {"c": 99.0}),
            (5, journal.VALUES, 1, {"c": 1.5}),
            (6, journal.MARK, 2, 1.0, "of what is lost"),
            (7, journal.REWIND, 1, -1, 1.0, "none that counts"),
            (8, journal.SUMMARY, {"best": "99"}),
            (9, journal.ALERT, 1.0, 2, "an alert", "", ""),
            call(10, 3, a=99.0),
        ]
        with pytest.raises(StoreError, match="took this run over"):
            store.append(1, left, time.time())
        scratch.mkdir()
        late = Journal(scratch, 1)  # node17 is there again
        for record in left:
            late.append(record)
        late.close()
        for _ in range(2):
            with runs.read("a1") as reader:
                assert rows_of(reader) == {0: {"a": 1.0, "c": 1.5}, 1: {"b": 2.0}}
                assert [(gap.seq, gap.calls) for gap in reader.gaps] == [(1, 2)]
                assert [mark.seq for mark in reader.marks] == [1]
                assert (len(reader.rewinds), len(reader.alerts()), reader.summary()) == (0, 1, {})
            store.fold_leftovers()
            assert not late.path.exists()
            assert store.append(1, left) == 0


@pytest.mark.parametrize("when", ["before it lists them", "before it opens them"])
def test_a_reader_from_under_whom_journals_are_folded_in_looks_again(
    when: str, faultfs: Callable[..., FaultFS]
) -> None:
    here, there = faultfs("A"), faultfs("B")
    runs = Runs(here.path / "runs")
    with opened(runs) as store:
        attempt = claim(store, DEAD)
        ours = Journal(store.path.parent, attempt)
        ours.append((1, journal.CALL, 1, 0, 1.0, CLOSES, {"n": 1}))
        ours.close()
        with ThreadPoolExecutor() as pool:
            if when == "before it lists them":
                looking = there.hang("opendir")
                reading = pool.submit(curve_of, Runs(there.path / "runs"), "a1")
                there.wait_blocked(op="opendir")
                copying = there.hang("read", "*/run.db")
                there.lift(looking)
                there.wait_blocked(op="read")
                there.hang("opendir")
                there.lift(copying)
                there.wait_blocked(op="opendir")
            else:
                there.hang("open", "*/journal-1-0")
                reading = pool.submit(curve_of, Runs(there.path / "runs"), "a1")
                there.wait_blocked()
            claim(store, Holder.current())
            assert not ours.path.exists()
            there.lift()
            assert reading.result(30) == {0: {"n": 1}}


def test_the_journal_of_a_living_writer_is_nobody_elses_to_fold_in(runs: Runs) -> None:
    with opened(runs) as store:
        attempt = claim(store, Holder.current())
        ours = Journal(store.path.parent, attempt)
        ours.append((1, journal.CALL, 1, 0, 1.0, CLOSES, {"a": 1}))
        ours.close()
        with opened(runs) as other:
            assert other.fold_leftovers() == 0
            with pytest.raises(RunBusy):
                claim(other, Holder("node17", "another boot", 4711, 99))
        assert store.last_seq() == 0
        assert ours.path.exists()


def test_of_two_processes_that_claim_at_once_one_gets_the_run(runs: Runs, start: Start) -> None:
    runs.create(info())
    program = (
        "import sys\nimport offline_tracker\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "try:\n    offline_tracker.init(dir=sys.argv[1], id='a1').log({'a': 1})\n    print('mine', flush=True)\n"
        "except offline_tracker.RunBusy:\n    print('busy', flush=True)\nsys.stdin.readline()\n"
    )
    both = [start(program) for _ in range(2)]
    for process in both:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(process.stdout.readline() for process in both if process.stdout) == ["busy\n", "mine\n"]


# What a killed process leaves.

LOG = """
import os, sys
import offline_tracker
run = offline_tracker.init(dir=sys.argv[1], id="a1")
for number in range(run.step, run.step + 10**7):
    run.log({"n": number, "lr": 1 / (number + 1)})
    os.write(1, b".")
"""


def killed_at_full_speed(start: Start, calls: int) -> int:
    """Let a process log, kill it after *calls* calls or more; how many of them had returned."""
    process = start(LOG)
    assert process.stdout is not None
    returned = 0
    while chunk := os.read(process.stdout.fileno(), 1 << 16):
        returned += len(chunk)
        if returned >= calls:
            process.kill()
    process.wait()
    return returned


def test_what_a_killed_process_leaves_is_read_untouched_and_folded_in_once(runs: Runs, start: Start) -> None:
    folder = runs.folder("a1")
    total = 0
    for calls in (1, 500, 5_000, 20_000):
        total += killed_at_full_speed(start, calls)
        before = fingerprint(folder)
        rows = curve_of(runs, "a1")
        assert fingerprint(folder) == before
        assert total <= len(rows) <= total + 1  # it may have died between log() and its word of it
        total = len(rows)
        assert rows == {step: {"n": step, "lr": 1 / (step + 1)} for step in range(total)}
    with opened(runs) as store:
        claim(store, Holder.current())
        assert journal.leftovers(folder) == []
    assert curve_of(runs, "a1") == rows
    assert sql(folder / "run.db", "PRAGMA integrity_check") == [("ok",)]
    assert sql(folder / "run.db", "SELECT count(*), max(seq) FROM call") == [(total, total)]


def leave(runs: Runs, count: int) -> None:
    """A dead attempt, whose journals hold *count* calls and as many alerts, none of them in run.db."""
    with opened(runs) as store:
        attempt = claim(store, DEAD)
        ours = Journal(store.path.parent, attempt)
        for number in range(1, count + 1):
            values = {"n": number, "x": number / 3}
            ours.append((2 * number - 1, journal.CALL, number, number - 1, float(number), CLOSES, values))
            ours.append((2 * number, journal.ALERT, float(number), number, f"alert {number}", "", "INFO"))
            if number == count // 2:
                ours.rotate()
        ours.close()


FOLD = """
import sys
from offline_tracker.store import Runs, RunStore
RunStore(Runs(sys.argv[1]).folder("a1") / "run.db").fold_leftovers()
"""


def test_a_process_killed_while_it_folds_in_leaves_each_record_to_be_folded_once(runs: Runs, start: Start) -> None:
    leave(runs, 40_000)
    path = runs.folder("a1") / "run.db"

    def folded() -> int:
        with contextlib.suppress(sqlite3.OperationalError):  # a hot rollback journal: it was killed in a commit
            return int(sql(path, "SELECT folded FROM attempt")[0][0])
        return 0

    kills, seen = 0, 0
    while seen < 80_000 and kills < 4:
        process = start(FOLD)
        wait_until(lambda before=seen, process=process: folded() > before or process.poll() is not None)
        kills += process.poll() is None
        process.kill()
        process.wait()
        seen = folded() or seen
    assert kills >= 2
    before = fingerprint(path.parent)
    assert len(curve_of(runs, "a1")) == 40_000  # a reader sees all of it, at any moment
    assert fingerprint(path.parent) == before
    with opened(runs) as store:
        claim(store, Holder.current())
    assert sql(path, "SELECT count(*), max(seq) FROM call") == [(40_000, 40_000)]
    assert sql(path, "SELECT count(*), count(DISTINCT title) FROM alert") == [(40_000, 40_000)]
    assert sql(path, "SELECT count(*) FROM point") == [(80_000,)]
    assert journal.leftovers(path.parent) == []


record = st.one_of(
    st.tuples(st.just(journal.CALL), st.integers(0, 9), st.sampled_from(["a", "b"]), st.floats(0, 1)),
    st.tuples(st.just(journal.ALERT)),
    st.tuples(st.just(journal.REWIND), st.integers(0, 9)),
    st.tuples(st.just(journal.MARK)),
    st.tuples(st.just(journal.SUMMARY), st.sampled_from(["x", "y"]), st.sampled_from(["1", "2", None])),
    st.tuples(st.just(journal.CONFIG), st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"])),
)


def numbered(batch: list[Any]) -> list[journal.Record]:
    records: list[journal.Record] = []
    seq = 0
    for num, (kind, *rest) in enumerate(batch, 1):
        if kind == journal.CALL:
            seq += 1
            records.append((num, kind, seq, rest[0], float(num), CLOSES, {rest[1]: rest[2]}))
        elif kind == journal.ALERT:
            records.append((num, kind, float(num), seq, "title", "text", "INFO"))
        elif kind == journal.REWIND:
            records.append((num, kind, seq, rest[0], float(num), "why"))
        elif kind == journal.MARK:
            records.append((num, kind, seq, float(num), None))
        else:
            records.append((num, kind, {rest[0]: rest[1]}))
    return records


@settings(deadline=None, max_examples=40)
@given(st.lists(record, max_size=30), st.data())
def test_records_given_in_pieces_again_and_out_of_order_are_stored_once(batch: list[Any], data: st.DataObject) -> None:
    records = numbered(batch)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder)
        dumps = []
        for run_id in ("once", "pieces"):
            runs.create(RunInfo(run_id, "u", 1.0))
            with opened(runs, run_id) as store:
                claim(store, DEAD)
                if run_id == "once":
                    assert store.append(1, records) == len(records)
                else:
                    done = 0
                    while done < len(records):  # each piece may begin with what is there already
                        begin = data.draw(st.integers(0, done))
                        end = data.draw(st.integers(done + 1, len(records)))
                        piece = data.draw(st.permutations(records[begin:end]))
                        assert store.append(1, piece, data.draw(st.sampled_from([None, 1.0]))) == end - done
                        done = end
                    assert store.append(1, records) == 0
                dumps.append([line.replace(run_id, "") for line in dump(store.path)])
        assert dumps[0] == dumps[1]


def test_a_call_whose_record_came_behind_a_later_number_is_not_passed_over(runs: Runs) -> None:
    # A signal handler that logs inside log() puts its record first; the seam between two reads may lie there.
    first, second = numbered([(journal.CALL, 0, "a", 1.0), (journal.CALL, 1, "a", 2.0)])
    with opened(runs) as store:
        claim(store, DEAD)
        store.append(1, [second])
        store.append(1, [first])
    assert curve_of(runs, "a1") == {0: {"a": 1.0}, 1: {"a": 2.0}}


def test_a_record_that_cannot_be_stored_costs_itself_alone(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    good = numbered([(journal.CALL, 0, "a", 1.0), (journal.CALL, 1, "a", 2.0)])
    bad: list[journal.Record] = [
        (5, journal.META, {"no such": '"x"'}),
        (6, journal.CONFIG, {"x": "no JSON"}),
        (7, journal.CONFIG, {(1, 2): "1"}),
        (8, journal.ALERT, 1.0),
    ]
    with opened(runs) as store:
        claim(store, DEAD)
        store.append(1, [good[0], *bad, (9, *good[1][1:])])
    assert len(curve_of(runs, "a1")) == 2
    assert len(caplog.records) == len(bad)


@pytest.mark.parametrize("text", ["\ud800 name", "ok\udfff"])
def test_a_text_with_a_lone_surrogate_blocks_nothing(text: str, runs: Runs) -> None:
    run = offline_tracker.init(dir=runs.path, id="a1", name=text, notes=text, tags=[text], config={text: text})
    run.log({"a": 1})
    run.define_metric(text, summary=text)
    run.alert(text, text)
    run.summary[text] = text
    run.config[text + "2"] = text
    run.mark_checkpoint(text)
    run.name = run.notes = text
    run.tags = [text]
    run.log({"a": 2})
    run.flush(10)
    offline_tracker.finish()
    with runs.read("a1") as reader:
        assert len(rows_of(reader)) == 2
        assert reader.alerts()[0].title == text.encode(errors="backslashreplace").decode()
    offline_tracker.init(dir=runs.path, id="a1", resume="must")


def test_values_that_came_late_are_their_calls_and_lost_calls_are_a_gap(runs: Runs) -> None:
    records: list[journal.Record] = [
        (1, journal.CALL, 1, 0, 1.0, CLOSES, {"a": 1.0}),
        (2, journal.CALL, 2, 1, 2.0, CLOSES, {"a": 2.0}),
        (3, journal.VALUES, 1, {"grad": 0.5, "nan": float("nan")}),
        (4, journal.GAP, 2, 3.0, 1200, "the disk was full"),
        (5, journal.CALL, 1203, 1202, 4.0, CLOSES, {"a": 3.0}),
    ]
    with opened(runs) as store:
        claim(store, DEAD)
        store.append(1, [records[0]])
        store.append(1, [records[3], records[1]])  # values, as calls, are not passed over for their number
        store.append(1, records)
        store.append(1, records[::-1])
    with runs.read("a1") as reader:
        assert reader.gaps == [(2, 3.0, 1200, "the disk was full")]
        rows = rows_of(reader)
    assert math.isnan(rows[0].pop("nan"))
    assert rows == {0: {"a": 1.0, "grad": 0.5}, 1: {"a": 2.0}, 1202: {"a": 3.0}}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from(["abc", "cab", "ab", "z", ""]), st.sampled_from([0.5, 3, None])),
        max_size=12,
    ),
    st.booleans(),
)
def test_calls_come_back_as_they_were_however_they_are_grouped(groups: list[Any], narrow: bool) -> None:
    """Statements are made for many calls alike; whatever comes in between is nobody else's."""
    records: list[journal.Record] = []
    for count, names, last in groups:
        for _ in range(count):
            seq = len(records) + 1
            values = {name: seq + index / 8 for index, name in enumerate(names)} | {"last": last}
            records.append((seq, journal.CALL, seq, seq, seq / 4, CLOSES, values if last != 0.5 else dict(values)))
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder)
        with opened(runs) as store:
            if narrow:
                store._variables = 6  # of an SQLite that takes very few
            claim(store, DEAD)
            store.append(1, records)
        with runs.read("a1") as reader:
            found = [tuple(call) for call in reader.calls([(1, len(records), None)])]
            assert reader.metric_names([(1, len(records), None)]) == list(
                dict.fromkeys(name for record in records for name in record[6])
            )
    assert found == [record[2:] for record in records]


KILL_IN_COMMIT = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1] + "/a1/run.db", isolation_level=None)
db.execute("PRAGMA journal_mode = TRUNCATE")
db.execute("PRAGMA cache_size = 4")      # so that changed pages reach the file before the commit
db.execute("BEGIN IMMEDIATE")
db.execute("DELETE FROM point")
db.execute("UPDATE call SET step = step + 1000")
for seq in range(1000, 3000):
    db.execute("INSERT INTO call VALUES (?, ?, 0, 1)", (seq, seq))
    db.execute("INSERT INTO point VALUES (?, 1, 'half of a transaction', NULL)", (seq,))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_writer_was_killed_inside_a_commit_is_readable_and_goes_on(
    runs: Runs, python: Callable[..., str]
) -> None:
    run = offline_tracker.init(dir=runs.path, id="a1")
    for number in range(200):
        run.log({"n": number})
    offline_tracker.finish()
    expected = curve_of(runs, "a1")
    python(KILL_IN_COMMIT, status=-signal.SIGKILL)
    path = runs.folder("a1") / "run.db"
    with pytest.raises(sqlite3.OperationalError, match="readonly"):  # SQLite alone would have to write
        sql(path, "SELECT count(*) FROM call")
    before = fingerprint(runs.path)
    for _ in range(2):
        assert curve_of(runs, "a1") == expected
    assert fingerprint(runs.path) == before
    run = offline_tracker.init(dir=runs.path, id="a1")
    run.log({"n": 200})
    offline_tracker.finish()
    assert curve_of(runs, "a1") == {**expected, 200: {"n": 200}}
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_reader_of_leftovers_leaves_no_copy_behind_even_if_it_is_killed(
    runs: Runs, tmp_path: Path, monkeypatch: Any
) -> None:
    leave(runs, 10)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    with runs.read("a1") as reader:
        assert list((tmp_path / "temp").iterdir()) == []
        assert len(rows_of(reader)) == 10
    change(runs.folder("a1") / "run.db", "DELETE FROM run")
    with pytest.raises(StoreError, match="holds no run"):
        runs.read("a1")
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_run_folder_that_was_moved_with_its_journals_is_read_there(runs: Runs, tmp_path: Path) -> None:
    leave(runs, 10)
    shutil.copytree(runs.path, tmp_path / "elsewhere")
    shutil.rmtree(runs.path)
    assert len(curve_of(Runs(tmp_path / "elsewhere"), "a1")) == 10


def test_a_read_only_folder_can_be_read(runs: Runs, python: Callable[..., str]) -> None:
    leave(runs, 10)
    for path in (*runs.path.rglob("*"), runs.path):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(curve_of(runs, "a1")) == 10
    finally:
        for path in (runs.path, *runs.path.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_journal_that_went_on_elsewhere_is_read_and_folded_in_from_there(runs: Runs, tmp_path: Path) -> None:
    def call(num: int) -> journal.Record:
        return (num, journal.CALL, num, num - 1, 1.0, CLOSES, {"n": num})

    def alert(num: int) -> journal.Record:
        return (num, journal.ALERT, 1.0, 0, f"alert {num}", "", "")

    folders = {name: tmp_path / name for name in ("scratch", "spill")}
    for folder in folders.values():
        folder.mkdir()
    runs.create(info())
    with opened(runs) as store:
        attempt = claim(store, DEAD, journal=folders["scratch"], spill=folders["spill"])
        ours = Journal(folders["scratch"], attempt)
        ours.append(call(1))
        ours.append(alert(2))
        ours.rotate()
        ours.append(call(6))
        ours.append(alert(7))
        there = Journal(folders["spill"], attempt)
        there.rotate()  # journal-1-1 is in both places, and what is in them is not the same
        for record in (call(3), alert(4), call(5)):
            there.append(record)
        ours.close()
        there.close()
        with runs.read("a1") as reader:
            assert reader.attempts[0].spill == folders["spill"]
            assert rows_of(reader) == {0: {"n": 1}, 2: {"n": 3}, 4: {"n": 5}, 5: {"n": 6}}
            assert [alert.title for alert in reader.alerts()] == ["alert 2", "alert 4", "alert 7"]
        claim(store, Holder.current(), spill="")
    with runs.read("a1") as reader:
        assert reader.attempts[1].spill is None
        assert reader.last_seq == 6
    assert not folders["scratch"].exists() and not folders["spill"].exists()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFLINE_TRACKER_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def test_a_journal_in_scratch_is_read_and_folded_in_from_there(runs: Runs, start: Start, scratch: Path) -> None:
    total = killed_at_full_speed(start, 3_000)
    assert not list(runs.path.rglob("journal-*"))
    assert list(scratch.rglob("journal-*"))
    before = fingerprint(runs.path), fingerprint(scratch)
    rows = curve_of(runs, "a1")
    assert total <= len(rows) <= total + 1
    assert (fingerprint(runs.path), fingerprint(scratch)) == before
    run = offline_tracker.init(dir=runs.path, id="a1")
    run.log({"more": 1})
    offline_tracker.finish()
    assert curve_of(runs, "a1") == {**rows, len(rows): {"more": 1}}
    assert not list(scratch.rglob("journal-*"))


def test_runs_of_one_id_in_two_folders_share_no_scratch(tmp_path: Path, scratch: Path) -> None:
    folders = [tmp_path / name / "runs" for name in ("pretrain", "sft")]
    for number, folder in enumerate(folders):
        offline_tracker.init(dir=folder, id="a1", reinit=True).log({"folder": number})
        assert len(list(scratch.rglob("journal-1-0"))) == 1
    offline_tracker.finish()
    assert [curve_of(Runs(folder), "a1") for folder in folders] == [{0: {"folder": 0}}, {0: {"folder": 1}}]


# Files that are none.


def _other_database(path: Path) -> None:
    path.unlink(missing_ok=True)
    change(path, "CREATE TABLE something (id); INSERT INTO something VALUES (1);")


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"this is no database " * 500),
    "zeros": lambda path: path.write_bytes(bytes(20_000)),
    "header alone": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "first page alone": lambda path: path.write_bytes(path.read_bytes()[:4096]),
    "another database": _other_database,
    "no run table": lambda path: change(path, "DROP TABLE run"),
    "no run row": lambda path: change(path, "DELETE FROM run"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "newer": lambda path: change(path, "PRAGMA user_version = 99"),
    "newer and other": lambda path: change(path, "PRAGMA user_version = 99; ALTER TABLE run RENAME TO runs"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_no_run_is_one_clear_error_everywhere(how: str, runs: Runs) -> None:
    offline_tracker.init(dir=runs.path, id="a1").log({"a": 1})
    offline_tracker.finish()
    path = runs.folder("a1") / "run.db"
    BROKEN[how](path)
    before = fingerprint(runs.path)

    def read() -> None:
        with runs.read("a1") as reader:
            rows_of(reader)

    for opening in (read, lambda: offline_tracker.init(dir=runs.path, id="a1", resume="must")):
        with pytest.raises(NewerSchema if "newer" in how else StoreError) as caught:
            opening()
        text = str(caught.value)
        assert str(path) in text
        assert "\n" not in text
        if "newer" in how:
            assert "update" in text and "99" in text
        assert offline_tracker.run is None
    assert {name: print_[0] for name, print_ in fingerprint(runs.path).items() if "journal" not in name} == {
        name: print_[0] for name, print_ in before.items() if "journal" not in name
    }


def test_a_broken_neighbour_does_not_stop_the_search_for_a_run(runs: Runs) -> None:
    offline_tracker.init(dir=runs.path, id="good", project="p").log({"a": 1})
    offline_tracker.finish(exit_code=1)
    for how in BROKEN:
        name = how.replace(" ", "-")
        runs.create(info(name))
        BROKEN[how](runs.folder(name) / "run.db")
    assert offline_tracker.init(dir=runs.path, project="p", resume="auto").id == "good"


def test_a_damaged_page_is_an_error_of_ours_whenever_it_is_met(runs: Runs) -> None:
    run = offline_tracker.init(dir=runs.path, id="a1")
    for number in range(3000):
        run.log({"n": number, "text": "these pages will be damaged"})
    offline_tracker.finish()
    path = runs.folder("a1") / "run.db"
    data = bytearray(path.read_bytes())
    pages = [at for at in range(0, len(data), 4096) if b"these pages" in data[at : at + 4096]]
    for at in pages[3:-3]:
        data[at : at + 4096] = os.urandom(4096)
    path.write_bytes(data)
    with runs.read("a1") as reader:  # all that it reads at once is whole
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        for ask in (
            lambda: list(reader.calls(spans)),
            lambda: reader.last_values(spans),
            lambda: reader.last_steps(spans),
            lambda: reader.count_rows(spans),
            lambda: reader.metric_names(spans),
        ):
            with pytest.raises(StoreError, match=r"can't read .*run\.db") as caught:
                ask()
            assert "\n" not in str(caught.value)


# Readers beside the writer.

READ = """
import sys
from offline_tracker.store import Runs
from offline_tracker import curve
runs, batch, last, ended = Runs(sys.argv[1]), int(sys.argv[2]), -1, False
while not ended:
    with runs.read("a1") as reader:
        ended = bool(reader.alerts())
        assert reader.last_seq % batch == 0, reader.last_seq
        assert len(reader.rewinds) == len(reader.marks) == reader.last_seq // batch, (reader.last_seq, reader.rewinds)
        assert reader.last_seq >= last
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        calls = list(reader.calls(spans[-3:]))
        assert len(calls) == min(3, reader.last_seq // batch), len(calls)  # each rewind leaves one call of its batch
        assert all(call.values == {"n": call.seq} for call in calls)
        if reader.last_seq != last:
            print(reader.last_seq, flush=True)
        last = reader.last_seq
"""


def test_readers_in_another_process_see_whole_transactions_and_never_stop_the_writer(runs: Runs, start: Start) -> None:
    batch = 40
    with opened(runs) as store:
        attempt = claim(store, Holder.current())
        process = start(READ, batch)
        assert process.stdout is not None
        seen: list[str] = []
        following = threading.Thread(target=lambda: seen.extend(process.stdout or ()))
        following.start()
        num = seq = 0
        for number in range(200):
            records: list[journal.Record] = []
            for inner in range(batch):
                num, seq = num + 1, seq + 1
                records.append((num, journal.CALL, seq, number + inner, 1.0, EXPLICIT, {"n": seq}))
            records.append((num + 1, journal.MARK, seq, 1.0, None))
            records.append((num + 2, journal.REWIND, seq, number, 1.0, "back to the first of them"))
            num += 2
            store.append(attempt, records, time.time())  # an error here is a reader that broke the writer
            if number % 12 == 0:  # a writer without a pause would starve it, which no training does
                reads = len(seen)
                wait_until(lambda reads=reads: len(seen) > reads or process.poll() is not None)
        store.append(attempt, [(num + 1, journal.ALERT, 1.0, seq, "the end", "", "")])
        process.wait(60)
        following.join()
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    assert len(seen) > 15


def test_a_reader_may_stay_open_while_the_run_goes_on(runs: Runs) -> None:
    run = offline_tracker.init(dir=runs.path, id="a1")
    run.log({"n": 0})
    run.flush()
    with runs.read("a1") as reader:
        calls = reader.calls(curve.live_spans(reader.rewinds, reader.last_seq))
        next(calls)
        for number in range(1, 2000):
            run.log({"n": number})
        run.flush(5.0)  # shorter than SQLite's own patience: a reader that held a lock would show here
        assert reader.last_seq == 1  # what was there when it was opened
        assert rows_of(reader) == {0: {"n": 0}}


# What the store answers is what the curve says.


def test_the_newest_point_of_a_rare_metric_is_found_far_back(runs: Runs) -> None:
    calls = [(seq, 2 * seq, {"loss": 1 / seq} | ({"rare": 0.5} if seq == 3 else {})) for seq in range(1, 6001)]
    records = [(seq, journal.CALL, seq, step, float(seq), CLOSES, values) for seq, step, values in calls]
    with opened(runs) as store:
        store.append(claim(store, DEAD), records)
        store.append(claim(store, DEAD), [(1, journal.CALL, 6001, 12_002, 1.0, CLOSES, {"dead": 1.0, "text": "a"})])
        store.rewind(6001, 12_000, "by hand")
    with runs.read("a1") as reader:
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        assert reader.last_values(spans) == {"loss": (12_000, 1 / 6000), "rare": (6, 0.5)}
        assert reader.last_steps(spans, 5) == {"loss": 4}
        assert (reader.last_row_step(spans), reader.last_row_step(spans, 7)) == (12_000, 6)
        assert [reader.count_rows(spans, 20, above) for above in (None, 6, 20)] == [10, 7, 0]


@st.composite
def history(draw: st.DrawFn) -> list[journal.Record]:
    """Calls of one attempt with rewinds in between, as the journal has them."""
    records: list[journal.Record] = []
    seq, step = 0, 0
    value = st.one_of(st.floats(allow_nan=True), st.integers(-9, 2**70), st.booleans(), st.none(), st.text(max_size=2))
    for num in range(1, draw(st.integers(1, 25)) + 1):
        if seq and draw(st.integers(0, 5)) == 0:
            back = draw(st.integers(-1, step))
            records.append((num, journal.REWIND, seq, back, 1.0, ""))
            step = back + 1
        else:
            seq, step = seq + 1, step + draw(st.integers(0, 2))
            values = draw(st.dictionaries(st.sampled_from(["a", "b", "c"]), value, max_size=3))
            records.append((num, journal.CALL, seq, step, float(num), CLOSES, values))
    return records


@settings(deadline=None, max_examples=60)
@given(history(), st.one_of(st.none(), st.integers(0, 20)), st.integers(1, 25))
def test_every_answer_about_the_curve_agrees_with_the_curve(
    records: list[journal.Record], upto: int | None, each: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder)
        with opened(runs) as store:
            parts = [records[at : at + each] for at in range(0, len(records), each)]
            for part in parts:
                store.append(claim(store, DEAD), [(num, *rest) for num, (_, *rest) in enumerate(part, 1)])
        with runs.read("a1") as reader:
            spans = curve.live_spans(reader.rewinds, reader.last_seq)
            calls = list(reader.calls(spans))
            below = [call for call in calls if upto is None or call.step <= upto]
            assert repr(list(reader.calls(spans, upto=upto))) == repr(below)
            rows = list(curve.rows(below))
            assert reader.count_rows(spans, upto) == len(rows)
            assert reader.last_row_step(spans, upto) == (rows[-1].step if rows else None)
            assert reader.last_live_seq(spans) == (calls[-1].seq if calls else 0)
            made = [{record[2] for record in part if record[1] == journal.CALL} for part in parts]
            assert reader.last_times(spans) == [
                max((call.time for call in calls if call.seq in seqs), default=None) for seqs in made
            ]
            newest = {name: (call.step, value) for call in below for name, value in call.values.items()}
            assert repr(sorted(reader.last_values(spans, upto).items())) == repr(sorted(newest.items()))
            numbers = {
                name: call.step
                for call in below
                for name, value in call.values.items()
                if isinstance(value, (int, float))
            }
            assert reader.last_steps(spans, upto) == numbers
            assert sorted(reader.metric_names(spans)) == sorted({name for call in calls for name in call.values})
            middle = len(rows) // 2
            above = rows[middle].step if rows else None
            assert repr(list(reader.calls(spans, above, upto))) == repr(
                [call for call in below if above is None or call.step > above]
            )


def test_calls_are_read_in_pieces_without_a_seam(runs: Runs) -> None:
    with opened(runs) as store:
        claim(store, DEAD)
        many = [(num, journal.CALL, num, num // 2, 1.0, CLOSES, {"n": num}) for num in range(1, 12_001)]
        store.append(1, many)
    with runs.read("a1") as reader:
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        assert [call.values["n"] for call in reader.calls(spans)] == list(range(1, 12_001))
        assert [call.seq for call in reader.calls(spans, above=2499, upto=2501)] == [5000, 5001, 5002, 5003]


def test_a_copy_taken_while_the_run_is_written_is_a_run(runs: Runs, tmp_path: Path) -> None:
    """What rsync does: the database first, its journals after; then the same again with more of both."""
    run = offline_tracker.init(dir=runs.path, id="a1")
    for number in range(500):
        run.log({"n": number})
    run.flush()
    copy = Runs(tmp_path / "copy")
    shutil.copytree(runs.path, copy.path)
    rows = curve_of(copy, "a1")
    assert rows == {step: {"n": step} for step in range(500)}


def test_environment_and_config_of_each_attempt_are_kept(runs: Runs) -> None:
    for lr in (0.1, 0.2):
        offline_tracker.init(dir=runs.path, id="a1", config={"lr": lr}).log({"a": 1})
        offline_tracker.finish()
    with runs.read("a1") as reader:
        assert [attempt.config for attempt in reader.attempts] == [{"lr": 0.1}, {"lr": 0.2}]
        assert reader.info.config == {"lr": 0.2}
        facts = reader.attempts[0].environment
    assert facts["host"] == socket.gethostname()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(json.dumps(facts)) == facts


def test_no_secret_of_the_environment_is_kept(runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWANLAB_API_KEY", "hush-hush")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("0123abcd\n")
    (tmp_path / ".git" / "config").write_text('[remote "origin"]\n\turl = https://user:hush-hush@example.org/x.git\n')
    monkeypatch.chdir(tmp_path)
    offline_tracker.init(dir=runs.path, id="a1").log({"a": 1})
    offline_tracker.finish()
    assert b"hush-hush" not in (runs.folder("a1") / "run.db").read_bytes()
    with runs.read("a1") as reader:
        facts = reader.attempts[0].environment
    assert (facts["slurm_job_id"], facts["git_commit"]) == ("77", "0123abcd")
    assert facts["git_remote"] == "https://example.org/x.git"


def test_sqlite_itself_can_open_a_finished_run(runs: Runs) -> None:
    """The series query of design.md, by the command-line shell's library alone."""
    run = offline_tracker.init(dir=runs.path, id="a1")
    for number in range(10):
        run.log({"loss": number / 4, "lr": 1.0})
    offline_tracker.finish()
    path = runs.folder("a1") / "run.db"
    text = "SELECT step, value FROM call CROSS JOIN point ON point.seq = call.seq AND point.metric = ?"
    metric = sql(path, "SELECT id FROM metric WHERE name = 'loss'")[0][0]
    assert sql(path, text, metric) == [(step, step / 4) for step in range(10)]
