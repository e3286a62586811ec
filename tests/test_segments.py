"""A run in segments: whole at any moment for every reader, taken by one, and nothing lost, whatever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from offline_tracker import journal, segment_store
from offline_tracker.errors import RunBusy, StoreError
from offline_tracker.host import STALE_S, Holder
from offline_tracker.journal import Journal, Record
from offline_tracker.segment_store import SegmentStore, held, open_store
from offline_tracker.segments import Segments
from offline_tracker.store import CLOSES, RunInfo, Runs, RunStore

from .conftest import Start, curve_of, rows_of
from .doubles.server import wait_until
from .faultfs import FaultFS
from .test_store import DEAD, KILL_IN_COMMIT, claim, dump, fingerprint, info, sql

FAR = Holder("node17", "another boot", 4711, 99)
"""A process on another host, of which only the heartbeat tells whether it lives."""
OTHER = Holder("node18", "yet another boot", 4712, 99)

Opened = Callable[..., SegmentStore]


@pytest.fixture
def opened(runs: Runs, tmp_path: Path) -> Iterator[Opened]:
    """Open the run a1 in segments; what is still open is closed at the end."""
    with contextlib.ExitStack() as stack:

        def begin(runs: Runs = runs, live: str = "live") -> SegmentStore:
            if "a1" not in runs:
                runs.create(info())
            store = open_store(runs.folder("a1"), tmp_path / live)
            assert isinstance(store, SegmentStore)
            return stack.enter_context(contextlib.closing(store))

        yield begin


def calls(first: int, last: int) -> list[Record]:
    """The calls of these numbers, which are those of their records too."""
    return [(seq, journal.CALL, seq, seq - 1, 1.0, CLOSES, {"n": seq}) for seq in range(first, last + 1)]


def rows(count: int) -> dict[int, dict[str, Any]]:
    return {seq - 1: {"n": seq} for seq in range(1, count + 1)}


def end(num: int) -> Record:
    return (num, journal.END, 5.0, 0)


def pieces(runs: Runs) -> list[str]:
    """The segments that lie in the run's folder, and what else does but claims."""
    return sorted(path.name for path in (runs.folder("a1") / "segments").iterdir() if "claim" not in path.name)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What lies where.


def test_each_append_is_a_file_that_readers_see_at_once_and_run_db_stays_as_it_was(runs: Runs, opened: Opened) -> None:
    store = opened()
    attempt = claim(store, Holder.current())
    published = (runs.folder("a1") / "run.db").read_bytes()
    for number in range(1, 6):
        store.append(attempt, calls(10 * number - 9, 10 * number), time.time())
        before = fingerprint(runs.path)
        with runs.read("a1") as reader:
            assert (reader.state, rows_of(reader)) == ("running", rows(10 * number))
        assert fingerprint(runs.path) == before
    assert (runs.folder("a1") / "run.db").read_bytes() == published
    assert pieces(runs) == [f"1-{number}" for number in range(1, 6)]
    assert store.path == runs.folder("a1") / "run.db"


def test_after_a_clean_finish_run_db_is_the_whole_and_needs_no_copy(
    runs: Runs, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    attempt = claim(store, Holder.current())
    store.append(attempt, [*calls(1, 10), end(11)], time.time())
    store.close()
    assert names(runs.folder("a1")) == ["run.db", "segments"]
    assert names(runs.folder("a1") / "segments") == ["claim-1"]
    assert names(tmp_path / "live") == []
    assert sql(runs.folder("a1") / "run.db", "PRAGMA integrity_check") == [("ok",)]
    assert sql(runs.folder("a1") / "run.db", "SELECT count(*) FROM call") == [(10,)]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there is no room for a copy"))
    with runs.read("a1") as reader:
        assert (reader.state, rows_of(reader)) == ("finished", rows(10))


def test_a_run_in_segments_becomes_what_one_in_place_would(runs: Runs, opened: Opened, tmp_path: Path) -> None:
    records = [
        *calls(1, 3),
        (4, journal.MARK, 3, 1.0, "a checkpoint"),
        (5, journal.SUMMARY, {"best": "0.5"}),
        (6, journal.CONFIG, {"lr": "0.1"}),
        (7, journal.REWIND, 3, 1, 1.0, "why"),
        (8, journal.CALL, 4, 2, 1.0, CLOSES, {"text": "x", "nan": float("nan"), "big": 2**70, "yes": True}),
        (9, journal.VALUES, 2, {"late": 1.5}),
        (10, journal.ALERT, 1.0, 4, "title", "text", "WARN"),
        (11, journal.GAP, 4, 1.0, 7, "why"),
        end(12),
    ]
    dumps = []
    for live in (None, tmp_path / "live"):
        here = Runs(tmp_path / f"runs in {'place' if live is None else 'segments'}")
        here.create(RunInfo("a1", "u", 1.0))
        store = open_store(here.folder("a1"), live)
        attempt = claim(store, DEAD)
        for record in records:
            store.append(attempt, [record])
        store.close()
        lines = dump(here.folder("a1") / "run.db")
        dumps.append([line for line in lines if 'INSERT INTO "attempt"' not in line])
    assert dumps[0] == dumps[1]


def test_when_segments_are_many_the_whole_is_published_and_they_go(
    runs: Runs, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_store, "_MANY", 5)
    store = opened()
    attempt = claim(store, Holder.current())
    most = 0
    for number in range(1, 30):
        store.append(attempt, calls(number, number), time.time())
        assert curve_of(runs, "a1") == rows(number)
        most = max(most, len(pieces(runs)))
    assert most == 5
    assert sql(runs.folder("a1") / "run.db", "SELECT max(seq), segments FROM call, attempt") == [(24, 24)]


def test_a_large_database_is_not_published_anew_for_a_few_small_segments(
    runs: Runs, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_store, "_FEW", 5)
    store = opened()
    attempt = claim(store, Holder.current())
    for first in range(1, 20_000, 1000):
        store.append(attempt, calls(first, first + 999))
    published = set()
    for seq in range(20_001, 20_051):
        store.append(attempt, calls(seq, seq))
        published.add(store._segments.stamp())
    assert len(published) <= 2
    assert curve_of(runs, "a1") == rows(20_050)


# Who writes.


def test_a_living_holder_elsewhere_is_known_by_its_claim(
    runs: Runs, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    attempt = claim(store, FAR, started_at=time.time() - 3600)
    beat = runs.folder("a1") / "segments" / "claim-1"
    for at in (time.time() - 1000, time.time() - STALE_S + 10):
        store._beat_at = 0.0  # as if the last beat was long ago
        store.append(attempt, [], at)
        assert beat.stat().st_mtime == pytest.approx(at, abs=1e-3)
    with runs.read("a1") as reader:
        assert reader.state == "running"
    with pytest.raises(RunBusy, match=r"'a1'.* pid 4711 on node17 .*sign of life 3\d s ago"):
        claim(opened(), Holder.current())
    with pytest.raises(RunBusy, match="node17"):
        open_store(runs.folder("a1"))
    with pytest.raises(RunBusy, match="node17"), held(runs.folder("a1")):
        pass
    assert names(beat.parent) == ["claim-1"]
    os.utime(beat, (1.0, time.time() - STALE_S - 1))
    with runs.read("a1") as reader:
        assert reader.state == "crashed"
    assert claim(opened(), Holder.current()) == 2


def test_a_writer_that_was_taken_over_publishes_nothing_more(runs: Runs, opened: Opened) -> None:
    first = opened()
    claim(first, FAR)
    first.append(1, calls(1, 10), time.time() - STALE_S)
    second = opened(live="node18")
    assert claim(second, OTHER) == 2
    before = fingerprint(runs.path)
    for records in (calls(11, 12), [end(13)]):
        with pytest.raises(StoreError, match="took this run over"):
            first.append(1, records, time.time())
    first.close()
    assert {name: seen[0] for name, seen in fingerprint(runs.path).items()} == {
        name: seen[0] for name, seen in before.items()
    }
    second.append(2, [(1, journal.CALL, 11, 10, 1.0, CLOSES, {"n": 11})], time.time())
    assert curve_of(runs, "a1") == rows(11)


CLAIM = """
import os, sys
from pathlib import Path
from offline_tracker.errors import RunBusy
from offline_tracker.host import Holder
from offline_tracker.segment_store import open_store
from offline_tracker.store import Runs
from tests.test_store import claim
folder = Runs(sys.argv[1]).folder("a1")
for turn in range(8):
    said, waiting, ending = os.pipe(), os.pipe(), os.pipe()
    children = []
    for child in range(4):
        if (pid := os.fork()) == 0:
            store = open_store(folder, Path(sys.argv[2]))
            os.close(waiting[1])
            os.close(ending[1])
            os.read(waiting[0], 1)  # until all are here
            try:
                os.write(said[1], b"%d" % claim(store, Holder.current()))
            except RunBusy:
                os.write(said[1], b".")
            os.read(ending[0], 1)  # the winner lives until all have tried
            os._exit(0)
        children.append(pid)
    os.close(waiting[1])
    print("".join(sorted(os.read(said[0], 1).decode() for _ in children)), flush=True)
    os.close(ending[1])
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
"""


def test_of_several_processes_that_claim_at_once_one_gets_the_run(
    runs: Runs, opened: Opened, start: Start, tmp_path: Path
) -> None:
    runs.create(info())
    process = start(CLAIM, tmp_path / "live")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert out.split() == [f"...{number}" for number in range(1, 9)]
    store = opened()
    claim(store, Holder.current())
    assert [path.name for path in (tmp_path / "live").iterdir()] == [store._own.name]  # the dead ones' are gone


def test_who_opened_a_run_before_another_attempt_came_and_went_knows_it_when_it_claims(
    runs: Runs, opened: Opened
) -> None:
    early = opened()
    store = opened(live="elsewhere")
    claim(store, DEAD)
    store.append(1, calls(1, 10))
    assert claim(early, Holder.current()) == 2
    assert early.last_seq() == 10
    assert curve_of(runs, "a1") == rows(10)


def test_a_claim_that_could_not_be_published_is_none(runs: Runs, opened: Opened) -> None:
    store = opened()
    claim(store, DEAD)
    before = fingerprint(runs.path)
    in_the_way = runs.folder("a1") / "segments" / "2-0"
    in_the_way.mkdir()
    with pytest.raises(StoreError, match="can't write"):
        claim(opened(), Holder.current())
    assert fingerprint(runs.path) == before
    in_the_way.rmdir()
    assert claim(opened(), FAR) == 2


def test_claims_that_became_no_attempt_stand_in_nobodys_way(runs: Runs, opened: Opened) -> None:
    claim(opened(), DEAD)
    left = runs.folder("a1") / "segments" / "claim-2"
    Segments(runs.folder("a1")).take(2, FAR, time.time())  # it lives, and its attempt is about to begin
    with pytest.raises(RunBusy, match="node17"):
        claim(opened(), Holder.current())
    left.write_text("")  # and of this one nobody knows yet who it is
    with pytest.raises(RunBusy, match="try again"):
        claim(opened(), Holder.current())
    os.utime(left, (1.0, time.time() - STALE_S - 1))
    assert claim(opened(), Holder.current()) == 3
    with runs.read("a1") as reader:
        assert [attempt.number for attempt in reader.attempts] == [1, 3]


# What a crash leaves.

WRITE = """
import os, random, signal, sys
from pathlib import Path
from offline_tracker import journal, segment_store
from offline_tracker.host import Holder
from offline_tracker.journal import Journal
from offline_tracker.segment_store import open_store
from offline_tracker.store import CLOSES, Runs
from offline_tracker.writer import Writer
from tests.test_store import claim
runs, scratch, turns = Runs(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
segment_store._MANY = 5  # so that it is often killed while it publishes the whole

def write(word):
    store = open_store(runs.folder("a1"), scratch)
    attempt = claim(store, Holder.current(), journal=scratch)
    seq = store.last_seq()
    writer = Writer(store, Journal(scratch, attempt), attempt, 0.001)
    while True:
        for _ in range(50):
            seq += 1
            writer.put(journal.CALL, seq, seq - 1, 1.0, CLOSES, {"n": seq})
        writer.put(journal.ALERT, 1.0, seq, "50 more", "", "")
        os.write(word, b".")

seen = 0
for turn in range(turns):
    heard, word = os.pipe()
    if (pid := os.fork()) == 0:
        write(word)
    os.close(word)
    returned = 0
    for _ in range(random.Random(turn).randrange(1, 40)):
        returned += len(os.read(heard, 1))
    os.kill(pid, signal.SIGKILL)
    while more := len(os.read(heard, 1000)):
        returned += more
    os.waitpid(pid, 0)
    os.close(heard)
    with runs.read("a1") as reader:
        values = [call.values["n"] for call in reader.calls([(1, reader.last_seq, None)])]
        assert values == list(range(1, reader.last_seq + 1)), values
        assert reader.last_seq >= seen + 50 * returned, (reader.last_seq, seen, returned)
        alerts = [alert[0] for alert in reader.alerts()]
        assert len(set(alerts)) == len(alerts) >= reader.last_seq // 50 - turn - 1
        seen = reader.last_seq
    print(seen, flush=True)
"""


def test_a_writer_killed_at_any_moment_and_started_again_leaves_every_call_once(
    runs: Runs, opened: Opened, start: Start, tmp_path: Path
) -> None:
    runs.create(info())
    process = start(WRITE, tmp_path / "scratch", 10)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    seen = [int(word) for word in out.split()]
    assert len(seen) == 10
    before = fingerprint(runs.path)
    assert curve_of(runs, "a1") == rows(seen[-1])
    assert fingerprint(runs.path) == before
    store = opened(live="scratch")
    attempt = claim(store, Holder.current())
    assert journal.leftovers(tmp_path / "scratch") == []
    store.append(attempt, [end(1)], time.time())
    store.close()
    assert pieces(runs) == []
    assert curve_of(runs, "a1") == rows(seen[-1])
    assert names(tmp_path / "scratch") == []


def test_what_could_not_be_published_is_not_called_stored_and_comes_with_the_next(runs: Runs, opened: Opened) -> None:
    store = opened()
    attempt = claim(store, Holder.current())
    store.append(attempt, calls(1, 10), time.time())
    in_the_way = runs.folder("a1") / "segments" / "1-0"  # the name of what is being written
    in_the_way.mkdir()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"can't write .*segments"):
            store.append(attempt, calls(11, 20), time.time())
        store.reopen()
    assert curve_of(runs, "a1") == rows(10)
    in_the_way.rmdir()
    store.append(attempt, calls(21, 22), time.time())
    assert curve_of(runs, "a1") == rows(22)
    assert pieces(runs) == ["1-1", "1-2"]


def test_where_the_whole_has_no_room_segments_go_on_until_it_has(
    tmpfs: Callable[..., Path], opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(segment_store, "_MANY", 5)
    monkeypatch.setattr(segment_store, "_FEW", 3)
    disk = tmpfs(size_bytes=400 << 10)
    runs = Runs(disk / "runs")
    store = opened(runs)
    attempt = claim(store, Holder.current())
    (disk / "ballast").write_bytes(b"x" * (250 << 10))
    for number in range(1, 13):
        store.append(attempt, calls(10 * number - 9, 10 * number), time.time())
        assert curve_of(runs, "a1") == rows(10 * number)
    assert len(pieces(runs)) == 12
    assert [record.getMessage() for record in caplog.records if "No space" not in record.getMessage()] == []
    (disk / "ballast").unlink()
    for number in range(13, 17):
        store.append(attempt, calls(10 * number - 9, 10 * number), time.time())
    assert len(pieces(runs)) < 4
    assert curve_of(runs, "a1") == rows(160)


def test_a_live_database_that_broke_is_made_anew(runs: Runs, opened: Opened) -> None:
    store = opened()
    attempt = claim(store, Holder.current())
    store.append(attempt, calls(1, 10), time.time())
    store._file.write_bytes(b"no database" * 10_000)
    store._db.close()
    with pytest.raises(StoreError):
        store.append(attempt, calls(11, 20), time.time())
    store.reopen()
    store.append(attempt, calls(11, 20), time.time())
    store.append(attempt, [end(21)], time.time())
    store.close()
    assert curve_of(runs, "a1") == rows(20)


def test_a_damaged_segment_costs_what_was_in_it(runs: Runs, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    store = opened()
    claim(store, DEAD)
    for number in (1, 2, 3):
        store.append(1, calls(number, number))
    path = runs.folder("a1") / "segments" / "1-2"
    path.write_bytes(path.read_bytes()[:-1])
    assert curve_of(runs, "a1") == {0: {"n": 1}, 2: {"n": 3}}
    assert "1-2 is damaged" in caplog.text


APPEND = """
import os, sys
from pathlib import Path
from offline_tracker import segment_store
from offline_tracker.host import Holder
from offline_tracker.segment_store import open_store
from offline_tracker.store import Runs
from tests.test_segments import calls
from tests.test_store import claim
segment_store._MANY = 0  # each append publishes the whole too
while sys.stdin.readline():
    if (pid := os.fork()) == 0:
        store = open_store(Runs(sys.argv[2]).folder("a1"), Path(sys.argv[3]))
        attempt, seq = claim(store, Holder.current()), store.last_seq()
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        store.append(attempt, [(num, *rest) for num, (_, *rest) in enumerate(calls(seq + 1, seq + 10), 1)], 1.0)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


def test_a_writer_killed_at_each_step_of_publishing_leaves_whole_transactions(
    faultfs: Callable[..., FaultFS], start: Start, opened: Opened, tmp_path: Path
) -> None:
    fs = faultfs()
    behind, through = Runs(fs.backing / "runs"), Runs(fs.path / "runs")
    behind.create(info())
    process = start(APPEND, through.path, tmp_path / "live")
    assert process.stdin is not None and process.stdout is not None

    def say(word: str) -> str:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        return process.stdout.readline() if word == "fork" else ""

    seen = 0
    steps = [("create", "*-0", False), ("write", "*-0", False), ("fsync", "*-0", False), ("rename", "*-1", False)]
    steps += [("rename", "*/run.db", True), ("fsyncdir", "*", True), ("unlink", "*/segments/*", True)]
    for op, glob, published in steps:
        pid = int(say("fork"))
        fs.hang(op, glob)
        say("append")
        fs.wait_blocked()
        os.kill(pid, signal.SIGKILL)
        assert process.stdout.readline() == "dead\n"
        fs.lift()
        wait_until(lambda: fs.blocked() == 0)
        found = curve_of(behind, "a1")
        assert found == rows(len(found))
        assert len(found) == seen + (10 if published else 0), op
        seen = len(found)
    store = opened(behind)
    claim(store, Holder.current())
    assert pieces(behind) == []
    assert curve_of(behind, "a1") == rows(seen)


# From one mode to the other.


def killed_in_place(runs: Runs, python: Callable[..., str], count: int) -> None:
    """An attempt in place that logged so much, and was killed inside a commit."""
    with contextlib.closing(open_store(runs.folder("a1"))) as store:
        claim(store, DEAD)
        store.append(store._last_attempt().number, calls(1, count))  # type: ignore[union-attr]
    python(KILL_IN_COMMIT, status=-signal.SIGKILL)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        sql(runs.folder("a1") / "run.db", "SELECT count(*) FROM call")


def test_a_run_goes_from_in_place_to_segments_and_back(
    runs: Runs, opened: Opened, python: Callable[..., str], tmp_path: Path
) -> None:
    runs.create(info())
    folder = runs.folder("a1")
    killed_in_place(runs, python, 200)
    left = Journal(folder, 1)
    left.append(calls(201, 201)[0])
    left.close()
    assert curve_of(runs, "a1") == rows(201)
    hot = (folder / "run.db-journal").read_bytes()

    store = opened()
    assert claim(store, DEAD) == 2
    assert names(folder) == ["run.db", "segments"]
    store.append(2, [(num, *rest) for num, (_, *rest) in enumerate(calls(202, 210), 1)])
    store._db.close()  # it died
    (folder / "run.db-journal").write_bytes(hot)  # and before it had removed this
    before = fingerprint(folder)
    assert curve_of(runs, "a1") == rows(210)
    assert fingerprint(folder) == before

    with contextlib.closing(open_store(folder)) as in_place:
        assert type(in_place) is RunStore
        assert claim(in_place, Holder.current()) == 3
        assert set(names(folder)) - {"run.db-journal"} == {"run.db"}
        in_place.append(3, [(1, *calls(211, 211)[0][1:]), end(2)], time.time())
    assert curve_of(runs, "a1") == rows(211)
    assert sql(folder / "run.db", "PRAGMA integrity_check") == [("ok",)]
    assert sql(folder / "run.db", "PRAGMA application_id") == [(0,)]
    with runs.read("a1") as reader:
        assert [attempt.mode for attempt in reader.attempts] == ["", "segments", ""]


def test_a_run_in_segments_is_not_opened_in_place(runs: Runs, opened: Opened) -> None:
    claim(opened(), DEAD)
    with pytest.raises(StoreError, match="open_store"):
        RunStore(runs.folder("a1") / "run.db")


def test_a_run_in_place_that_somebody_holds_is_not_taken_into_segments(runs: Runs, opened: Opened) -> None:
    runs.create(info())
    with contextlib.closing(open_store(runs.folder("a1"))) as store:
        claim(store, FAR, started_at=time.time())
        with pytest.raises(RunBusy, match="node17"):
            claim(opened(), Holder.current())
        assert "segments" not in names(runs.folder("a1"))
        store.append(1, calls(1, 5), time.time())
        assert curve_of(runs, "a1") == rows(5)


def test_a_change_by_hand_leaves_a_run_in_segments_there(runs: Runs, opened: Opened) -> None:
    store = opened()
    claim(store, DEAD)
    store.append(1, calls(1, 10))
    left = Journal(runs.folder("a1"), 1)
    left.append(calls(11, 11)[0])
    left.close()
    with held(runs.folder("a1")) as holding:
        with pytest.raises(RunBusy):
            claim(opened(), FAR)
        holding.rewind(11, 4, "by hand")
    assert names(runs.folder("a1") / "segments") == ["claim-1"]
    assert names(runs.folder("a1")) == ["run.db", "segments"]
    assert curve_of(runs, "a1") == rows(5)
    store = opened()
    assert claim(store, Holder.current()) == 2
    with pytest.raises(RunBusy, match="'a1'"), held(runs.folder("a1")):
        pass


def test_an_attempt_that_is_dropped_and_a_run_that_is_removed_leave_nothing(
    runs: Runs, opened: Opened, tmp_path: Path
) -> None:
    store = opened()
    claim(store, DEAD)
    store.append(1, [*calls(1, 3), end(4)])
    store.close()
    store = opened()
    store.drop_attempt(claim(store, Holder.current()))
    store.close()
    with runs.read("a1") as reader:
        assert (reader.state, len(reader.attempts), rows_of(reader)) == ("finished", 1, rows(3))
    store = opened()
    assert claim(store, Holder.current()) == 2
    store.remove()
    assert not runs.folder("a1").exists()
    assert names(tmp_path / "live") == []


# Two hosts whose locks don't meet.

READ = """
import sys
from offline_tracker.store import Runs
runs, batch, last, ended = Runs(sys.argv[2]), int(sys.argv[3]), -1, False
while not ended:
    with runs.read("a1") as reader:
        ended = reader.state == "finished"
        assert ended or reader.state == "running", reader.state
        assert reader.last_seq % batch == 0 and reader.last_seq >= last, (reader.last_seq, last)
        assert len(reader.marks) == len(reader.alerts()) == reader.last_seq // batch, reader.last_seq
        calls = list(reader.calls([(1, reader.last_seq, None)]))
        assert [call.values for call in calls] == [{"n": seq} for seq in range(1, reader.last_seq + 1)]
        if reader.last_seq != last:
            print(reader.last_seq, flush=True)
        last = reader.last_seq
"""


@pytest.mark.parametrize("hosts", ["one", "two"])
def test_readers_see_whole_transactions_and_ever_more_of_them(
    hosts: str,
    opened: Opened,
    request: pytest.FixtureRequest,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(segment_store, "_MANY", 5)
    (tmp_path / "backing").mkdir()
    if hosts == "two":
        faultfs = request.getfixturevalue("faultfs")
        here, there = Runs(faultfs("A").path / "runs"), Runs(faultfs("B").path / "runs")
    else:
        here = there = Runs(tmp_path / "backing" / "runs")
    store = opened(here)
    attempt = claim(store, Holder.current())
    if hosts == "two":
        with pytest.raises(RunBusy, match=f"pid {os.getpid()} "):
            claim(opened(there, "live B"), FAR)
        with pytest.raises(RunBusy, match=f"pid {os.getpid()} "):
            claim(opened(there, "live B"), DEAD)
    batch = 40
    process = start(READ, there.path, batch)
    assert process.stdout is not None
    seen: list[str] = []
    following = threading.Thread(target=lambda: seen.extend(process.stdout or ()))
    following.start()
    num = 0
    for number in range(60):
        records: list[Record] = []
        for seq in range(number * batch + 1, (number + 1) * batch + 1):
            num += 1
            records.append((num, *calls(seq, seq)[0][1:]))
        records.append((num + 1, journal.MARK, number * batch + 1, 1.0, None))
        records.append((num + 2, journal.ALERT, 1.0, 0, "title", "", ""))
        num += 2
        store.append(attempt, records, time.time())
        if number % 5 == 0:
            now = f"{(number + 1) * batch}\n"
            wait_until(lambda now=now: seen[-1:] == [now] or process.poll() is not None)
    store.append(attempt, [end(num + 1)], time.time())
    store.close()
    process.wait(60)
    following.join()
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read()
    assert seen[-1] == "2400\n"
    assert len(seen) > 12


def test_a_reader_from_under_whom_segments_are_removed_looks_again(
    faultfs: Callable[..., FaultFS], opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_store, "_MANY", 5)
    a, b = faultfs("A"), faultfs("B")
    store = opened(Runs(a.path / "runs"))
    attempt = claim(store, Holder.current())
    for number in range(1, 6):
        store.append(attempt, calls(number, number), time.time())
    b.hang("lookup", "*/segments/1-3")  # it has the run.db in which there is none, and two segments
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(curve_of, Runs(b.path / "runs"), "a1")
        b.wait_blocked()
        for number in range(6, 9):
            store.append(attempt, calls(number, number), time.time())
        assert pieces(Runs(a.path / "runs")) == ["1-7", "1-8"]
        b.lift()
        assert reading.result(30) == rows(8)


def test_in_place_the_same_goes_wrong(faultfs: Callable[..., FaultFS]) -> None:
    """Why there are segments: where locks don't meet, opening a run rolls back what its writer is in the middle of."""
    a, b = faultfs("A"), faultfs("B")
    here, there = Runs(a.path / "runs"), Runs(b.path / "runs")
    here.create(info())
    with contextlib.closing(RunStore(here.folder("a1") / "run.db")) as store:
        attempt = claim(store, Holder.current())
        store.append(attempt, calls(1, 2000))
        store._db.execute("PRAGMA cache_size = 4")  # so that changed pages reach the file before the commit
        store._begin()
        store._db.execute("UPDATE call SET step = step + 1")
        with contextlib.closing(sqlite3.connect(there.folder("a1") / "run.db")) as other:
            other.execute("SELECT count(*) FROM call").fetchone()  # a hot journal, whose writer's lock it can't see
        store._db.execute("COMMIT")
    with contextlib.closing(sqlite3.connect(here.folder("a1") / "run.db")) as raw:
        steps = [step for (step,) in raw.execute("SELECT step FROM call ORDER BY seq")]
    assert steps not in (list(range(2000)), list(range(1, 2001)))  # neither before nor after: half of it


def test_what_opens_a_run_in_place_looks_first_whether_it_is_held(faultfs: Callable[..., FaultFS]) -> None:
    a, b = faultfs("A"), faultfs("B")
    here, there = Runs(a.path / "runs"), Runs(b.path / "runs")
    here.create(info())
    with contextlib.closing(RunStore(here.folder("a1") / "run.db")) as store:
        attempt = claim(store, FAR, started_at=time.time())
        store.append(attempt, calls(1, 2000))
        for changing in (False, True):
            if changing:
                store._db.execute("PRAGMA cache_size = 4")
                store._begin()
                store._db.execute("UPDATE call SET step = step + 1")
            for opening in (RunStore, lambda path: open_store(path.parent)):
                with pytest.raises(RunBusy, match="pid 4711 on node17"):
                    opening(there.folder("a1") / "run.db")
        store._db.execute("COMMIT")
    assert sql(here.folder("a1") / "run.db", "SELECT min(step), max(step) FROM call") == [(1, 2000)]


def test_where_there_are_no_locks_at_all_a_run_in_segments_does_without(
    faultfs: Callable[..., FaultFS], opened: Opened
) -> None:
    fs = faultfs(locks=False)
    runs = Runs(fs.path / "runs")
    for number in (1, 2):
        store = opened(runs)
        assert claim(store, Holder.current()) == number
        for seq in (2 * number - 1, 2 * number):
            store.append(number, [(seq, *calls(seq, seq)[0][1:])], time.time())
            assert curve_of(runs, "a1") == rows(seq)
        store.append(number, [end(9)], time.time())
        store.close()
        assert curve_of(runs, "a1") == rows(2 * number)
