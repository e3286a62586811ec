"""``tracker doctor``: what it finds of real runs of real dead processes, what it repairs, and what two hosts find out."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from offline_tracker_cli.app import main
from sqlite_utils import Database

import offline_tracker
from offline_tracker import journal, migrations, probe
from offline_tracker.doctor import examine, repair
from offline_tracker.store import SCHEMA_VERSION, Runs

from .conftest import Start, curve_of
from .doubles.server import wait_until
from .faultfs import FaultFS

TRACKER = str(Path(sys.executable).parent / "tracker")

LOG = """
import os, signal, sys
import offline_tracker
run = offline_tracker.init(dir=sys.argv[1], id="a1")
for number in range(int(sys.argv[2])):
    run.log({"n": number})
os.kill(os.getpid(), signal.SIGKILL)
"""
"""Dies while most of what it logged is in the journal only."""

HOLD = """
import sys
import offline_tracker
run = offline_tracker.init(dir=sys.argv[1], id="a1")
run.log({"n": 0})
print("ready", flush=True)
sys.stdin.readline()
run.log({"n": 1})
"""

Say = Callable[..., str]


@pytest.fixture
def doctor(runs: Runs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """Run the command on the runs folder to its end, with an exit status; what it prints, errors too."""

    def run(*options: object, status: int = 0, at: Path | None = None, **environ: str) -> str:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["tracker", "doctor", str(at or runs.path), *map(str, options)])
            for name, value in environ.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        out, errors = capfd.readouterr()
        assert (ended.value.code or 0) == status, out + errors
        return out if "--json" in options else out + errors

    return run


def die(runs: Runs, start: Start, calls: int, **env: str) -> None:
    process = start(LOG, calls, env=env)
    assert process.wait(60) == -signal.SIGKILL


def files(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All of a folder, to the byte."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sql(path: Path, *statement: Any) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        return db.execute(*statement).fetchall()


def expected(calls: int) -> dict[int, dict[str, Any]]:
    return {step: {"n": step} for step in range(calls)}


# What it finds.


def test_a_folder_and_a_run_that_are_well_say_so_and_stay_as_they_are(runs: Runs, doctor: Say, python: Say) -> None:
    python(HOLD)
    before = files(runs.path)
    said = doctor()
    assert re.search(r"filesystem +\w+, mounted at /", said)
    for what in ("lock", "fsync", "rename"):
        assert re.search(rf"^  {what} +works, [\d.]+ ms$", said, re.MULTILINE)
    assert "journal     in the run's folder" in said
    assert "a1: well; finished\n" in said
    assert said.endswith("1 run, all well\n")
    assert files(runs.path) == before
    assert sorted(path.name for path in runs.path.iterdir()) == ["a1"]
    assert doctor("--repair").endswith("1 run, all well\n")
    assert files(runs.path) == before


def test_what_a_killed_process_left_is_counted_and_brought_in_once(runs: Runs, start: Start, doctor: Say) -> None:
    die(runs, start, 3_000)
    folded = len(sql_copy(runs, "SELECT seq FROM call"))
    left = 3_000 - folded
    assert left > 0
    before = files(runs.path)
    said = doctor(status=1)
    assert "a1: not well; crashed\n" in said
    assert f"{left} records not in run.db" in said
    assert said.endswith(f"1 run, 1 not well; tracker doctor {runs.path} --repair\n")
    assert files(runs.path) == before
    said = doctor("--repair")
    assert f"a1: moved {left} records from its journals into run.db\n" in said
    assert f"a1: removed {runs.folder('a1')}/journal-1-" in said
    assert "a1: well; crashed\n" in said
    assert curve_of(runs, "a1") == expected(3_000)
    assert sql(runs.folder("a1") / "run.db", "SELECT count(*), max(seq) FROM call") == [(3_000, 3_000)]
    assert journal.leftovers(runs.folder("a1")) == []
    before = files(runs.path)
    assert "moved" not in doctor("--repair")
    assert files(runs.path) == before


def sql_copy(runs: Runs, statement: str) -> list[Any]:
    """Ask a copy of a run.db, which may have to be rolled back."""
    copy = runs.path.parent / "copy.db"
    for end in ("", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            copy.with_name(copy.name + end).write_bytes((runs.folder("a1") / f"run.db{end}").read_bytes())
    return sql(copy, statement)


KILL_IN_COMMIT = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1] + "/a1/run.db", isolation_level=None)
db.execute("PRAGMA journal_mode = TRUNCATE")
db.execute("PRAGMA cache_size = 4")      # so that changed pages reach the file before the commit
db.execute("BEGIN IMMEDIATE")
for seq in range(1000, 3000):
    db.execute("INSERT INTO call VALUES (?, ?, 0, 1)", (seq, seq))
    db.execute("INSERT INTO point VALUES (?, 1, 'half of a transaction', NULL)", (seq,))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_transaction_that_was_cut_off_is_told_and_rolled_back(runs: Runs, doctor: Say, python: Say) -> None:
    python(HOLD)
    python(KILL_IN_COMMIT, status=-signal.SIGKILL)
    before = files(runs.path)
    assert "its writer died inside a transaction, which is to be rolled back\n" in doctor(status=1)
    assert files(runs.path) == before
    assert "a1: rolled back the transaction in which its writer died\n" in doctor("--repair")
    assert "a1: well; finished\n" in doctor()
    assert curve_of(runs, "a1") == expected(2)
    assert sql(runs.folder("a1") / "run.db", "PRAGMA integrity_check") == [("ok",)]


def test_torn_records_are_told_and_cost_themselves_alone(runs: Runs, start: Start, doctor: Say) -> None:
    die(runs, start, 100)
    [path] = journal.leftovers(runs.folder("a1"))
    records, end, _ = journal.read(path)
    ends = [0]
    while ends[-1] < end:
        ends.append(next(x for x in range(ends[-1] + 1, end + 1) if journal.read(path, ends[-1], x)[0]))
    data = bytearray(path.read_bytes())
    del data[-3:]  # the last record is cut short
    data[ends[-5] - 1] ^= 1  # and one in front of it is not what was written
    path.write_bytes(data)
    torn = (ends[-5] - ends[-6]) + (len(data) - ends[-2])
    folded = {seq for (seq,) in sql_copy(runs, "SELECT seq FROM call")}
    lost = {records[-5][2], records[-1][2]} - folded
    assert f"  {torn} bytes of torn records" in doctor(status=1)
    assert f"a1: removed {path}, in it {torn} bytes of torn records\n" in doctor("--repair")
    assert curve_of(runs, "a1") == {step: {"n": step} for step in range(100) if step + 1 not in lost}


def test_a_run_that_a_living_process_holds_is_left_alone(runs: Runs, start: Start, doctor: Say) -> None:
    process = start(HOLD)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    wait_until(lambda: sql(runs.folder("a1") / "run.db", "SELECT count(*) FROM call") == [(1,)])
    before = files(runs.path)
    said = doctor("--repair")
    assert re.search(rf"a1: well; running, written by pid {process.pid} on \S+ since \d{{4}}-", said)
    assert files(runs.path) == before
    out, errors = process.communicate("go on\n", timeout=60)
    assert (process.returncode, out, errors.count("Traceback")) == (0, "", 0)
    assert curve_of(runs, "a1") == expected(2)


def _out_of_order(page: bytearray) -> None:
    page[8:12] = page[10:12] + page[8:10]  # the places of its first two rows


def _nonsense(page: bytearray) -> None:
    page[:] = b"\xff" * len(page)


@pytest.mark.parametrize("harm", [_out_of_order, _nonsense])
def test_a_damaged_file_is_told_and_never_written_to(
    harm: Callable[[bytearray], None], runs: Runs, start: Start, doctor: Say
) -> None:
    die(runs, start, 2_000)
    doctor("--repair")
    die(runs, start, 1)  # leaves a journal
    path = runs.folder("a1") / "run.db"
    [(size,)] = sql_copy(runs, "PRAGMA page_size")
    data = bytearray(path.read_bytes())
    leaf = 13
    at = next(
        x for x in range(0, len(data), size) if data[x] == leaf and int.from_bytes(data[x + 3 : x + 5], "big") > 50
    )
    page = data[at : at + size]
    harm(page)
    data[at : at + size] = page
    path.write_bytes(data)
    before = files(runs.path)
    for options in ((), ("--repair",)):
        told = doctor(*options, status=1)
        assert "a1: not well; crashed\n  damaged: " in told
        assert told.endswith("1 run, 1 not well\n")
        assert files(runs.path) == before


def test_a_file_that_is_no_run_costs_itself_alone(runs: Runs, doctor: Say, python: Say) -> None:
    python(HOLD)
    (runs.path / "none").mkdir()
    (runs.path / "none" / "run.db").write_text("not a database at all, but long enough to have a header" * 4)
    said = doctor("--repair", status=1)
    assert "a1: well; finished\n" in said
    assert "none: unreadable\n" in said
    assert said.endswith("2 runs, 1 not well\n")
    assert "1 run, all well\n" in doctor("--run", "a1")


def test_it_is_all_in_one_json_document(runs: Runs, start: Start, doctor: Say) -> None:
    die(runs, start, 500)
    found = json.loads(doctor("--json", status=1))
    assert (found["well"], found["runs"]) == (False, str(runs.path))
    assert set(found["probes"]) == {"lock", "fsync", "rename"}
    assert found["filesystem"]["network"] is False
    [run] = found["checked"]
    assert (run["run"], run["state"], run["well"], run["holder"]["alive"]) == ("a1", "crashed", False, False)
    assert run["records_pending"] > 0
    assert [Path(item["path"]).name[:10] for item in run["journals"]] == ["journal-1-"] * len(run["journals"])
    found = json.loads(doctor("--json", "--repair"))
    assert found["well"] and found["checked"][0]["done"][-1].startswith("removed ")
    assert json.loads(doctor("--json"))["checked"][0]["done"] == []


def test_texts_of_a_run_cannot_steer_the_terminal(runs: Runs, start: Start, doctor: Say, python: Say) -> None:
    python(HOLD)
    away(runs, host="\x1b[2Jevil", place="/gone/\x1b]0;title\x07-x")
    assert "\x1b" not in doctor(status=1)
    assert "\x1b" not in doctor("--json", status=1)


@pytest.mark.skipif(SCHEMA_VERSION < 2, reason="there is no older schema")
def test_an_old_schema_is_told_and_brought_up_to_date(runs: Runs, doctor: Say) -> None:
    path = runs.folder("a1") / "run.db"
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        migrations.RUN.apply(Database(db), stop_before="m002_spills_modes_gaps")
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO run (id, uuid, created_at) VALUES ('a1', 'u', 1.0)")
    before = files(runs.path)
    assert f"  schema 1, this version writes {SCHEMA_VERSION}\n" in doctor(status=1)
    assert files(runs.path) == before
    assert f"a1: brought its schema from version 1 to {SCHEMA_VERSION}\n" in doctor("--repair")
    assert sql(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert "schema 1" not in doctor()


# Scratch.


def test_what_lies_in_scratch_is_found_and_its_folder_cleared_away(
    runs: Runs, start: Start, doctor: Say, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    die(runs, start, 500, OFFLINE_TRACKER_SCRATCH=str(scratch))
    [path] = scratch.rglob("journal-*")
    said = doctor(status=1)
    assert str(path) in said
    said = doctor("--repair")
    assert f"a1: removed {path}\n" in said
    assert not path.parent.exists()
    assert curve_of(runs, "a1") == expected(500)
    assert "a1: well; crashed\n" in doctor()


def test_an_empty_scratch_folder_is_told_but_nothing_is_wrong_with_it(
    runs: Runs, python: Say, doctor: Say, tmp_path: Path
) -> None:
    python(HOLD, OFFLINE_TRACKER_SCRATCH=str(tmp_path / "scratch"))
    [(place,)] = sql(runs.folder("a1") / "run.db", "SELECT journal FROM attempt")
    Path(place).mkdir(parents=True, exist_ok=True)
    assert f"  empty folder {place}\n" in doctor()
    assert f"a1: removed the empty folder {place}\n" in doctor("--repair")
    assert "empty folder" not in doctor()


def test_where_journals_go_is_said_with_the_variable_that_sets_it(runs: Runs, doctor: Say, tmp_path: Path) -> None:
    runs.path.mkdir()
    scratch = tmp_path / "scratch"
    assert f"on this host {scratch}\n" in doctor(OFFLINE_TRACKER_SCRATCH=str(scratch))
    assert "lives in $OFFLINE_TRACKER_SCRATCH" in doctor(OFFLINE_TRACKER_LOCKS="host")
    assert "host: OFFLINE_TRACKER_LOCKS=host\n" in doctor(OFFLINE_TRACKER_LOCKS="host")


def away(runs: Runs, host: str = "node17", place: str = "/local/job/offline_tracker/a1-0123") -> None:
    """Make the newest attempt one that died on another host, with its journal in scratch there."""
    sql(
        runs.folder("a1") / "run.db",
        "UPDATE attempt SET host = ?, boot = 'another', journal = ?, heartbeat_at = heartbeat_at - 3600,"
        " ended_at = NULL WHERE id = (SELECT max(id) FROM attempt)",
        (host, place),
    )


def test_what_may_be_in_scratch_on_another_host_is_told_with_the_command(runs: Runs, doctor: Say, python: Say) -> None:
    python(HOLD)
    away(runs)
    said = doctor("--repair", status=1)
    assert (
        "the last second of attempt 1 may still be on node17 in /local/job/offline_tracker/a1-0123; run there:"
        f" tracker doctor {runs.path} --run a1 --repair\n" in said
    )
    python(HOLD)  # it has gone on: what is there is behind a checkpoint, but told all the same
    said = doctor()
    assert "the last second of attempt 1 may still be on node17" in said
    assert "a1: well; finished\n" in said


# Repair: killed, twice, twice at once.


def test_a_repair_that_is_killed_and_done_again_brings_everything_in_once(
    runs: Runs, start: Start, doctor: Say
) -> None:
    calls = 30_000
    die(runs, start, calls)
    path = runs.folder("a1") / "run.db"
    kills, seen = 0, path.stat().st_mtime_ns
    while kills < 4:
        command = [TRACKER, "doctor", str(runs.path), "--repair"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda old=seen, process=process: path.stat().st_mtime_ns != old or process.poll() is not None)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills, seen = kills + 1, path.stat().st_mtime_ns
    assert kills
    doctor("--repair")
    assert curve_of(runs, "a1") == expected(calls)
    assert sql(path, "SELECT count(*), max(seq) FROM call") == [(calls, calls)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert journal.leftovers(path.parent) == []
    assert "a1: well; crashed\n" in doctor()


def test_two_repairs_at_once_both_end_well(runs: Runs, start: Start, doctor: Say) -> None:
    die(runs, start, 20_000)
    command = [TRACKER, "doctor", str(runs.path), "--repair"]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    moved = [int(number) for text in said for number in re.findall(r"moved (\d+) record", text)]
    assert 0 < sum(moved) <= 20_000
    assert curve_of(runs, "a1") == expected(20_000)
    assert sql(runs.folder("a1") / "run.db", "SELECT count(*), max(seq) FROM call") == [(20_000, 20_000)]


def test_a_repair_that_finds_another_one_done_does_nothing(runs: Runs, start: Start) -> None:
    die(runs, start, 500)
    folder = runs.folder("a1")
    first, second = examine(folder), examine(folder)
    assert first.repairable and list(repair(folder, first))
    assert not any(line.startswith("moved") for line in repair(folder, second))
    assert curve_of(runs, "a1") == expected(500)


# The folder.


def test_a_folder_that_can_t_be_written_is_not_well(doctor: Say) -> None:
    said = doctor(status=1, at=Path("/proc"))
    assert re.search(r"write +No such file or directory", said)
    assert "nothing can be written here" in said
    assert "no runs here\n" in said


def test_each_probe_that_fails_is_told_with_its_reason(
    faultfs: Callable[..., FaultFS], doctor: Say, tmp_path: Path
) -> None:
    fs = faultfs()
    fs.fail("fsync", errno.EIO)
    said = doctor(status=1, at=fs.path)
    assert re.search(r"fsync +Input/output error", said)
    assert "fsync does not work here (Input/output error): a training needs another folder" in said
    assert re.search(r"lock +works", said)
    fs.lift()
    fs.delay("fsync", 0.2)
    found = json.loads(doctor("--json", at=fs.path))
    assert found["probes"]["fsync"]["seconds"] >= 0.2
    assert found["filesystem"]["network"] and "network" in doctor(at=fs.path)
    assert list((tmp_path / "backing").iterdir()) == []


def test_a_filesystem_without_locks_is_used_without_them(faultfs: Callable[..., FaultFS], doctor: Say) -> None:
    fs = faultfs(locks=False)
    said = doctor(status=1, at=fs.path)
    assert re.search(r"locks +host: a lock on a file there fails: No locks available", said)
    assert re.search(r"lock +No locks available", said)
    assert re.search(r"mode +locks do not reach other hosts", said)


def test_what_a_killed_doctor_left_is_cleared_away_after_an_hour(runs: Runs, doctor: Say) -> None:
    area = runs.path / ".doctor"
    (area / "old").mkdir(parents=True)
    (area / "young").mkdir()
    os.utime(area / "old", (time.time() - 7200, time.time() - 7200))
    doctor()
    assert [path.name for path in area.iterdir()] == ["young"]


@pytest.mark.parametrize(
    ("options", "environ", "text"),
    [
        (("--peer", "--repair"), {}, "--peer looks at the folder alone; leave out --repair and --run"),
        (("--peer", "--run", "a1"), {}, "--peer looks at the folder alone"),
        ((), {"OFFLINE_TRACKER_LOCKS": "maybe"}, "OFFLINE_TRACKER_LOCKS='maybe': use shared or host"),
    ],
)
def test_what_makes_no_sense_is_usage(
    options: tuple[str, ...], environ: dict[str, str], text: str, runs: Runs, doctor: Say
) -> None:
    runs.path.mkdir()
    assert text in doctor(*options, status=2, **environ)


def test_a_folder_that_is_not_there_is_usage(doctor: Say, tmp_path: Path) -> None:
    assert "no folder" in doctor(status=2, at=tmp_path / "none")


# Two hosts.


MEET = """
import pathlib, sys
from offline_tracker import probe
print(probe.meet(pathlib.Path(sys.argv[1])))
"""

Peers = Callable[..., list[tuple[int, str]]]


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    """Start ``tracker doctor --peer`` on each of some folders at once; exit status and what was said of each."""
    started = []

    def run(*folders: Path, timeout_s: float = 30.0) -> list[tuple[int, str]]:
        for folder in folders:
            command = [TRACKER, "doctor", str(folder), "--peer", "--timeout", str(timeout_s)]
            started.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
        said = [process.communicate(timeout=60)[0] for process in started]
        return [(process.returncode, text) for process, text in zip(started, said, strict=True)]

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_two_processes_on_one_folder_find_that_locks_meet(runs: Runs, peers: Peers) -> None:
    runs.path.mkdir()
    (one, said), (two, too) = peers(runs.path, runs.path)
    assert (one, two) == (0, 0)
    assert said == too
    assert re.match(r"locks meet: two processes on \S+ keep each other out; a renamed file is seen and answered", said)
    assert "both ran on one host, so this proves nothing about two\n" in said
    assert list(runs.path.iterdir()) == []


def test_two_mounts_whose_locks_are_their_own_find_that_locks_do_not_meet(
    faultfs: Callable[..., FaultFS], peers: Peers, tmp_path: Path
) -> None:
    (one, said), (two, too) = peers(faultfs("here").path, faultfs("there").path)
    assert (one, two) == (1, 1)
    assert said == too
    assert re.match(r"locks do not meet: two processes on \S+ can lock the same file at the same time", said)
    assert "set OFFLINE_TRACKER_LOCKS=host wherever these runs are written or read\n" in said
    assert list((tmp_path / "backing").iterdir()) == []


def test_two_mounts_without_locks_say_how_they_fail(faultfs: Callable[..., FaultFS], peers: Peers) -> None:
    (one, said), (two, too) = peers(faultfs("here", locks=False).path, faultfs("there", locks=False).path)
    assert (one, two) == (1, 1)
    assert said == too
    assert said.startswith("locks do not meet: No locks available")
    assert "that is known here, and this folder is used without them\n" in said


def test_locks_that_meet_where_it_was_not_known_name_the_variable(
    runs: Runs, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.path.mkdir()
    monkeypatch.setenv("OFFLINE_TRACKER_LOCKS", "host")
    for status, said in peers(runs.path, runs.path):
        assert status == 0
        assert "OFFLINE_TRACKER_LOCKS=shared says so to the tracker" in said


def test_nobody_came_names_the_command_for_the_other_host(runs: Runs, doctor: Say) -> None:
    runs.path.mkdir()
    said = doctor("--peer", "--timeout", "0.3", status=1)
    assert (
        f"nobody came within 0 s; run on the other host, while this waits here: tracker doctor {runs.path} --peer"
        in said
    )
    assert list(runs.path.iterdir()) == []
    assert json.loads(doctor("--peer", "--timeout", "0.3", "--json", status=1))["met"] is None


def test_of_several_that_come_at_once_each_meets_one_other(runs: Runs, start: Start) -> None:
    runs.path.mkdir()
    started = [start(MEET) for _ in range(5)]
    wait_until(lambda: sum(process.poll() is not None for process in started) == 4)
    ended = [process for process in started if process.poll() is not None]
    assert [process.returncode for process in ended] == [0] * 4
    said = sorted(process.communicate()[0] for process in ended)
    assert said[0] == said[1] and said[2] == said[3]
    assert "met=True" in said[0] and "met=True" in said[2]


def test_the_files_of_one_that_was_killed_are_nobody(runs: Runs, start: Start) -> None:
    runs.path.mkdir()
    process = start(MEET)
    wait_until(lambda: any((runs.path / ".doctor").glob("*.offer")))
    process.kill()
    process.wait()
    assert list((runs.path / ".doctor").glob("*.offer"))
    assert probe.meet(runs.path, 0.5) is None
    found: list[probe.Meeting | None] = []
    threads = [threading.Thread(target=lambda: found.append(probe.meet(runs.path, 30.0))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Two threads of one process share its locks: what they find out is that they do not keep each other out.
    assert [meeting is not None and meeting.met for meeting in found] == [False, False]
    assert found[0] == found[1]


LEAVE = """
import os, pathlib, sys
from offline_tracker import probe
home = pathlib.Path(sys.argv[1]) / ".doctor"
home.mkdir()
if probe._Peer(home).find(30.0):
    os._exit(0)
"""


def test_one_that_ends_in_the_middle_is_noticed(runs: Runs, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SILENCE_S", 0.5)
    runs.path.mkdir()
    start(LEAVE)
    wait_until(lambda: any((runs.path / ".doctor").glob("*.offer")))
    with pytest.raises(probe.PeerGone, match="the other process is gone; start both again"):
        probe.meet(runs.path, 30.0)


def test_gaps_are_told(runs: Runs, doctor: Say) -> None:
    run = offline_tracker.init(dir=runs.path, id="a1")
    run.log({"n": 0})
    offline_tracker.finish()
    statement = "INSERT INTO gap (seq, time, calls, reason) VALUES (1, 1.5e9, 1200, 'disk full')"
    sql(runs.folder("a1") / "run.db", statement)
    said = doctor()
    assert re.search(r"  1200 calls lost behind call 1, 2017-\S+ \S+: disk full\n", said)
    assert "a1: well; finished\n" in said
