"""The command line, run as a user runs it: the installed `tracker`, in a process of its own."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from offline_tracker_cli.common import Chosen
from offline_tracker_cli.glance import loss_of, lr_of
from offline_tracker_cli.watch import Stream
from offline_tracker_cli.words import age, clean, duration, number

import offline_tracker
from offline_tracker import journal
from offline_tracker.host import Holder
from offline_tracker.segment_store import open_store
from offline_tracker.store import RunInfo, Runs, RunStore
from offline_tracker.sync.engine import links_of
from offline_tracker.sync.ledger import Ledger, Link

from .conftest import Start
from .doubles.server import wait_until

TRACKER = str(Path(sys.executable).parent / "tracker")

LOGGER = """
import sys
import offline_tracker
offline_tracker.init(id=sys.argv[2], dir=sys.argv[1], project="p", name="writer", total_steps=1000)
print("ready", flush=True)
for line in sys.stdin:
    offline_tracker.log({"loss": float(line), "lr": 0.0005})
    print("logged", flush=True)
"""
"""A training that makes a row of each line on its stdin."""


@pytest.fixture
def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "error", "LC_ALL": "C.UTF-8"}


@pytest.fixture
def tracker(environ: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Run a command to its end, which must be a good one unless *status* says otherwise; stdout, with *status* all."""

    def run(*args: object, status: int = 0) -> str:
        done = subprocess.run(
            [TRACKER, *map(str, args)], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stdout + done.stderr

    return run


@pytest.fixture
def follow(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Start a command that does not end by itself; the process, and the file that it writes to."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*args: object) -> tuple[subprocess.Popen[bytes], Path]:
        path = tmp_path / "followed"
        with path.open("wb") as file:
            # A job in the background ignores Ctrl-C, and so would all that it starts.
            heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
            command = [TRACKER, *map(str, args)]
            process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=file, preexec_fn=heed)
        started.append(process)
        return process, path

    yield begin
    for process in started:
        process.kill()
        process.wait()


def record(runs: Runs, run_id: str, *calls: dict[str, Any], **options: Any) -> None:
    """Make one attempt of a run."""
    offline_tracker.init(id=run_id, dir=runs.path, **options)
    for call in calls:
        offline_tracker.log(call)
    offline_tracker.finish()


def losses(count: int, first: float = 1.0) -> list[dict[str, Any]]:
    return [{"loss": first + index} for index in range(count)]


def exported(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def say(process: subprocess.Popen[str], loss: float) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{loss}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "logged\n"


@pytest.fixture
def writer(start: Start) -> subprocess.Popen[str]:
    """A training of the run ``live`` that has begun."""
    process = start(LOGGER, "live")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


ODD = {
    "loss": math.nan,
    "up": math.inf,
    "down": -math.inf,
    "yes": True,
    "no": False,
    "none": None,
    "text": 'a "quoted", text\nof two lines',
    "sum": 0.1 + 0.2,
    "whole": 3,
    "big": 2**70,
    "nested": {"deep": {"er": -0.0}},
    "损失": 1e-300,
}


def test_csv_gives_every_value_back(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", ODD, {"loss": 0.5, "late": 1})
    first, second = csv.DictReader(tracker("export", "runs").splitlines(keepends=True))
    assert list(first)[:4] == ["run", "step", "time", "loss"]
    assert (first["run"], first["step"], second["step"]) == ("a1", "0", "1")
    assert (first["loss"], first["up"], first["down"]) == ("nan", "inf", "-inf")
    assert (first["yes"], first["no"], first["none"], first["text"]) == ("true", "false", "", ODD["text"])
    assert float(first["sum"]) == 0.1 + 0.2
    assert (first["whole"], int(first["big"])) == ("3", 2**70)
    assert (first["nested.deep.er"], float(first["损失"])) == ("-0.0", 1e-300)
    assert (first["late"], second["late"], second["text"]) == ("", "1", "")
    with runs.read("a1") as reader:
        assert float(first["time"]) == next(reader.calls([(1, 1, None)])).time


def test_jsonl_gives_every_value_back(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", ODD)
    (row,) = exported(tracker("export", "--format", "jsonl"))
    assert list(row) == ["run", "step", "time", "metrics"]
    assert (row["run"], row["step"]) == ("a1", 0)
    nested = {**ODD, "loss": "NaN", "up": "Infinity", "down": "-Infinity", "nested.deep.er": -0.0}
    del nested["nested"]
    assert row["metrics"] == nested
    assert math.copysign(1.0, row["metrics"]["nested.deep.er"]) == -1.0
    assert type(row["metrics"]["whole"]) is int
    assert row["metrics"]["yes"] is True


def test_no_column_hides_another(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", {"step": 7, "a": {"b": 1}, "a.b": 2, "metric.step": 3})
    (row,) = csv.DictReader(tracker("export").splitlines())
    assert (row["step"], row["metric.step"], row["metric.metric.step"]) == ("0", "7", "3")
    assert (row["a.b"], row["a/b"]) == ("2", "1")
    (line,) = exported(tracker("export", "--format", "jsonl"))
    assert line["metrics"] == {"step": 7, "a.b": 2, "a/b": 1, "metric.step": 3}


def test_export_of_several_runs_has_the_columns_of_all(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", {"loss": 1.0})
    record(runs, "b2", {"acc": 2.0})
    rows = list(csv.DictReader(tracker("export", "runs").splitlines()))
    assert [(row["run"], row["loss"], row["acc"]) for row in rows] == [("a1", "1.0", ""), ("b2", "", "2.0")]
    assert [row["run"] for row in exported(tracker("export", "--run", "b", "--format", "jsonl"))] == ["b2"]
    assert [row["run"] for row in exported(tracker("export", "runs/a1", "--format", "jsonl"))] == ["a1"]


def test_calls_of_one_step_are_one_row_and_with_all_one_line_each(runs: Runs, tracker: Callable[..., str]) -> None:
    offline_tracker.init(id="a1", dir=runs.path)
    offline_tracker.log({"loss": 1.0}, step=4)
    offline_tracker.log({"acc": 2.0}, step=4)
    offline_tracker.finish()
    (row,) = exported(tracker("export", "--format", "jsonl"))
    assert row["metrics"] == {"loss": 1.0, "acc": 2.0}
    lines = exported(tracker("export", "--format", "jsonl", "--all"))
    assert [line["metrics"] for line in lines] == [{"loss": 1.0}, {"acc": 2.0}]


def test_a_file_is_replaced_whole_or_not_at_all(runs: Runs, tracker: Callable[..., str], tmp_path: Path) -> None:
    record(runs, "a1", *losses(3))
    (tmp_path / "out.csv").write_text("old")
    tracker("export", "--run", "nope", "-o", "out.csv", status=1)
    assert (tmp_path / "out.csv").read_text() == "old"
    assert tracker("export", "-o", "out.csv") == ""
    assert (tmp_path / "out.csv").read_text() == tracker("export")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "runs"]
    assert "can't write" in tracker("export", "-o", "nowhere/out.csv", status=1)
    tracker("export", "-o", "/dev/null")
    assert not Path("/dev/null").is_file()


def test_a_format_that_is_not_there_is_a_usage_error(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", *losses(1))
    assert tracker("export", "--format", "xml", status=2) == "tracker: no format 'xml'; use csv, jsonl or parquet\n"


def test_rewind_puts_the_resumed_rows_where_they_belong(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", *losses(10))
    record(runs, "a1", *losses(5, first=100.0))
    said = tracker("rewind", "a1", "--step", "5")
    assert said == (
        "run a1: attempt 2 went on behind step 5; 4 rows (steps 6 to 9) are superseded; "
        "the curve has 11 rows to step 10, before 15\n"
    )
    rows = exported(tracker("export", "--format", "jsonl"))
    assert [row["step"] for row in rows] == list(range(11))
    assert [row["metrics"]["loss"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0, 101.0, 102.0, 103.0, 104.0]
    lines = exported(tracker("export", "--format", "jsonl", "--all"))
    assert [(line["step"], line["attempt"], line["live"]) for line in lines] == [
        *((step, 1, step <= 5) for step in range(10)),
        *((step, 2, True) for step in range(6, 11)),
    ]
    with_all = list(csv.DictReader(tracker("export", "--all").splitlines()))
    assert [(row["attempt"], row["live"]) for row in with_all[4:7]] == [("1", "true"), ("1", "true"), ("1", "false")]


def test_rewind_with_end_cuts_the_end_and_the_next_attempt_goes_on_there(
    runs: Runs, tracker: Callable[..., str]
) -> None:
    record(runs, "a1", *losses(10))
    said = tracker("rewind", "runs/a1", "--step", "5")  # one attempt only: there is nothing else it could mean
    assert said.startswith("run a1: the next attempt goes on behind step 5; 4 rows (steps 6 to 9) are superseded")
    record(runs, "a1", *losses(2, first=100.0))
    assert [row["step"] for row in exported(tracker("export", "--format", "jsonl"))] == list(range(8))
    tracker("rewind", "a1", "--step", "6", "--end")
    assert [row["step"] for row in exported(tracker("export", "--format", "jsonl"))] == list(range(7))
    assert "only --end is possible" in tracker("rewind", "a1", "--step", "1", status=1)
    assert "behind step 6 already" in tracker("rewind", "a1", "--step", "6", "--end", status=2)
    assert tracker("rewind", "a1", "--step", "-1", "--end").startswith(
        "run a1: the next attempt goes on from the begin"
    )
    assert tracker("export", "--format", "jsonl") == ""


@pytest.mark.parametrize("step", [-2, 9, 10])
def test_rewind_to_a_step_that_supersedes_nothing_is_a_usage_error(
    runs: Runs, tracker: Callable[..., str], step: int
) -> None:
    record(runs, "a1", *losses(10))
    assert "is 9, so use -1 to 8" in tracker("rewind", "a1", "--step", step, status=2)


def test_rewind_of_a_run_that_is_being_written_is_refused(
    runs: Runs, tracker: Callable[..., str], writer: subprocess.Popen[str]
) -> None:
    say(writer, 1.0)
    say(writer, 2.0)
    said = tracker("rewind", "live", "--step", "0", status=1)
    assert f"run 'live' is being written by pid {writer.pid}" in said
    writer.kill()
    writer.wait()
    tracker("rewind", "live", "--step", "0")  # its journal is folded in first
    assert [row["step"] for row in exported(tracker("export", "--format", "jsonl"))] == [0]


def test_ls_and_show_tell_of_lost_calls(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", {"loss": 2.5})
    assert "gap" not in tracker("ls").lower() + tracker("show", "a1").lower()
    store = RunStore(runs.folder("a1") / "run.db")
    lost = [(200, "the disk was full"), (1000, "the disk was full again")]
    store.append(1, [(100 + calls, journal.GAP, 1, 5.0, calls, why) for calls, why in lost])
    store.close()
    assert "2 gaps, 1200 calls lost" in tracker("ls")
    said = tracker("show", "a1")
    assert "2 gaps, 1200 calls lost" in said
    assert "the disk was full again" in said
    (listed,), shown = json.loads(tracker("ls", "--json")), json.loads(tracker("show", "a1", "--json"))
    assert listed["gaps"] == shown["gaps"]
    assert [(gap["after_call"], gap["calls"], gap["why"]) for gap in shown["gaps"]] == [(1, *item) for item in lost]


def test_ls_picks_sorts_and_shows_where_the_configs_differ(runs: Runs, tracker: Callable[..., str]) -> None:
    for nth, (loss, project) in enumerate([(0.5, "p"), (0.25, "q"), (math.nan, "p"), (0.75, "p")]):
        config = {"lr": 0.1 * nth, "model": {"dim": 8 << nth, "kind": "gpt"}, "batch": 32}
        record(runs, f"r{nth}", {"loss": loss}, project=project, config=config, tags=["odd"] if nth % 2 else None)

    def listed(*options: str) -> list[str]:
        return [item["run"] for item in json.loads(tracker("ls", "--json", *options))]

    assert listed() == ["r3", "r2", "r1", "r0"]  # the newest first
    assert listed("--sort", "loss") == ["r1", "r0", "r3", "r2"]  # NaN last
    assert listed("--project", "p", "--sort", "loss") == ["r0", "r3", "r2"]
    assert listed("--tag", "odd", "--state", "finished") == ["r3", "r1"]
    assert listed("--state", "crashed") == []
    head, *lines = tracker("ls", "--sort", "loss").splitlines()
    assert head.split()[5:9] == ["loss", "config.lr", "model.dim", "age"]  # beside the loss; not kind, not batch
    assert lines[0].split()[5:8] == ["0.25", "0.1", "16"]


def test_ls_opens_an_ended_run_again_only_if_it_has_changed(
    runs: Runs, tracker: Callable[..., str], tmp_path: Path
) -> None:
    record(runs, "a1", {"loss": 0.5})
    path = runs.path / "a1" / "run.db"
    whole = path.read_bytes()
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))
    first = tracker("ls").split()[:11]
    path.write_bytes(b"x" * len(whole))  # in place: the same inode and size
    os.utime(path, (hour_ago, hour_ago))
    assert tracker("ls").split()[:11] == first
    os.utime(path, (hour_ago + 1, hour_ago + 1))
    assert "unreadable" in tracker("ls", status=1)
    for kept in (tmp_path / "cache").rglob("*.json"):
        kept.write_text("[no JSON")
    path.write_bytes(whole)
    assert tracker("ls").split()[:11] == first


def test_a_run_in_segments_is_shown_tailed_and_rewound(
    runs: Runs, tracker: Callable[..., str], follow: Callable[..., tuple[subprocess.Popen[bytes], Path]], tmp_path: Path
) -> None:
    runs.create(RunInfo("a1", uuid.uuid4().hex, time.time()))
    store = open_store(runs.folder("a1"), tmp_path / "live")
    more = {"launch": "", "requeue": "", "reason": "new", "config": "{}", "environment": "{}"}
    attempt = store.claim(Holder.current(), started_at=time.time(), journal=runs.folder("a1").resolve(), **more)
    process, path = follow("tail", "runs")
    for seq in range(1, 6):
        store.append(attempt, [(seq, journal.CALL, seq, seq - 1, time.time(), 1, {"loss": float(seq)})], time.time())
        wait_until(lambda seq=seq: f"loss={seq}" in path.read_text())
    assert "running" in tracker("ls")
    assert f"is being written by pid {os.getpid()}" in tracker("rewind", "a1", "--step", "1", status=1)
    store.append(attempt, [(6, journal.END, time.time(), 0)], time.time())
    store.close()
    assert "2 rows (steps 3 to 4) are superseded" in tracker("rewind", "a1", "--step", "2")
    assert [row["step"] for row in exported(tracker("export", "--format", "jsonl"))] == [0, 1, 2]
    assert sorted(item.name for item in runs.folder("a1").iterdir()) == ["run.db", "segments"]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_ls_shows_runs_and_one_that_is_broken(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", {"loss": 2.5, "lr": 0.001}, {"loss": 1.5, "lr": 0.0005}, name="first", project="p")
    record(runs, "b2", {"train/loss": 0.25}, total_steps=10)
    (runs.path / "bad").mkdir()
    (runs.path / "bad" / "run.db").write_text("no database at all")
    with sqlite3.connect(runs.path / "b2" / "run.db") as copy:
        (runs.path / "new").mkdir()
        with sqlite3.connect(runs.path / "new" / "run.db") as target:
            copy.backup(target)
            target.execute("PRAGMA user_version = 99")
        target.close()
    copy.close()
    said = tracker("ls", status=1)
    assert "\x1b" not in said
    lines = [line.split() for line in said.splitlines()]
    assert lines[0][:2] == ["run", "name"]
    assert ["a1", "first", "p", "finished", "1", "1", "1.5", "0.0005"] in [line[:8] for line in lines]
    assert [line[:5] for line in lines if line[0] == "b2"] == [["b2", "finished", "1", "0/10", "0.25"]]
    assert "bad: runs/bad/run.db is not a run of offline_tracker" in said
    assert "new: runs/new/run.db was written by a newer offline_tracker (schema 99)" in said
    documents = {item["run"]: item for item in json.loads(tracker("ls", "--json", status=1).partition("tracker:")[0])}
    assert (documents["a1"]["loss"], documents["a1"]["lr"], documents["a1"]["step"]) == (1.5, 0.0005, 1)
    assert documents["bad"]["state"] == "unreadable"
    assert not (runs.path / ".sync").exists()


def test_ls_tells_running_crashed_and_failed_apart(
    runs: Runs, tracker: Callable[..., str], writer: subprocess.Popen[str]
) -> None:
    say(writer, 1.0)
    offline_tracker.init(id="sad", dir=runs.path)
    offline_tracker.log({"loss": 1.0})
    offline_tracker.finish(exit_code=3)

    def states() -> dict[str, str]:
        return {item["run"]: item["state"] for item in json.loads(tracker("ls", "--json"))}

    assert states() == {"live": "running", "sad": "failed"}
    (live,) = [item for item in json.loads(tracker("ls", "--json")) if item["run"] == "live"]
    assert live["eta_of"] == "training"
    assert live["eta_s"] >= 0.0
    writer.kill()
    writer.wait()
    assert states() == {"live": "crashed", "sad": "failed"}


def link(runs: Runs, run_id: str, **more: Any) -> None:
    with runs.read(run_id) as reader:
        key = reader.info.uuid
    with Ledger(runs.path) as ledger:
        ledger.save(Link(key, "swanlab", "http://here", run_id, "p", "me", run_id, **more))


def test_ls_and_show_say_where_a_run_is_synced(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", *losses(3))
    record(runs, "b2", *losses(3))
    link(runs, "a1", confirmed_step=2, state="finished", url="http://here/a1")
    link(runs, "b2", confirmed_step=1)
    lines = tracker("ls").splitlines()
    assert sorted(line.rpartition("  ")[2] for line in lines[1:]) == ["swanlab", "swanlab to 1"]
    assert "me/p/a1" in tracker("show", "a1")
    (shown,) = json.loads(tracker("show", "a1", "--json"))["links"]
    assert (shown["remote"], shown["confirmed_step"], shown["url"]) == ("swanlab", 2, "http://here/a1")
    # The run was deleted, and another one has its id now: that one is synced nowhere.
    shutil.rmtree(runs.folder("a1"))
    record(runs, "a1", *losses(3))
    assert json.loads(tracker("show", "a1", "--json"))["links"] == []


def test_links_are_read_behind_a_sync_that_was_killed_inside_a_commit(runs: Runs, tmp_path: Path) -> None:
    assert links_of(runs.path) == {}
    assert not runs.path.exists()
    record(runs, "a1", *losses(1))
    link(runs, "a1", confirmed_step=1)
    path = runs.path / ".sync" / "ledger.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN")
    db.execute("UPDATE link SET confirmed_step = 2")
    db.executemany("INSERT INTO lease VALUES (?, '', '', 1, 1, 1, 1, '')", [(str(i) * 300,) for i in range(300)])
    shutil.copytree(path.parent, tmp_path / "killed" / ".sync")
    db.execute("ROLLBACK")
    db.close()
    killed = tmp_path / "killed" / ".sync"
    before = {file.name: file.read_bytes() for file in killed.iterdir()}
    assert len(before["ledger.db-journal"]) > 0
    (found,) = links_of(tmp_path / "killed")["a1"]
    assert found.confirmed_step == 1
    assert {file.name: file.read_bytes() for file in killed.iterdir()} == before


def test_a_ledger_that_is_none_does_not_hide_the_runs(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", *losses(1))
    (runs.path / ".sync").mkdir()
    (runs.path / ".sync" / "ledger.db").write_text("nothing of the kind")
    assert tracker("ls").splitlines()[1].split()[:2] == ["a1", "finished"]


def test_show_tells_all_of_a_run(runs: Runs, tracker: Callable[..., str]) -> None:
    config = {"lr": 0.1, "model": {"layers": 2}, "odd": math.nan}
    run = offline_tracker.init(id="a1", dir=runs.path, project="p", name="n", config=config, tags=["t"])
    for index in range(4):
        offline_tracker.log({"loss": float(index), "val": {"acc": index}})
    run.mark_checkpoint("best")
    run.summary["best"] = 7
    offline_tracker.finish(exit_code=3)
    record(runs, "a1", {"loss": 9.0})
    tracker("rewind", "a1", "--step", "1")
    document = json.loads(tracker("show", "a1", "--json"))
    assert document["config"] == {"lr": 0.1, "model": {"layers": 2}, "odd": "NaN"}
    assert document["metrics"] == {
        "loss": {"step": 2, "value": 9.0, "sparkline": [0.0, 1.0, 9.0]},
        "val.acc": {"step": 1, "value": 1, "sparkline": [0.0, 1.0]},
    }
    assert document["sparklines_from"] == 1
    assert document["summary"] == {"best": 7}
    assert (document["state"], document["rows"], document["last_step"]) == ("finished", 3, 2)
    assert [(item["number"], item["calls"], item["exit_code"]) for item in document["attempts"]] == [
        (1, 4, 3),
        (2, 1, 0),
    ]
    assert [(item["after_call"], item["step"]) for item in document["rewinds"]] == [(4, 1)]
    assert document["marks"]["count"] == 1
    assert (document["marks"]["newest"]["name"], document["marks"]["newest"]["step"]) == ("best", 3)
    said = tracker("show", "a1")
    for text in ("model.layers", "val.acc", "exit 3", "tracker rewind", "best"):
        assert text in said


def test_show_draws_the_course_of_each_metric(runs: Runs, tracker: Callable[..., str], environ: dict[str, str]) -> None:
    calls = [{"loss": 8.0 - index, "odd": math.nan if index % 4 == 1 else float(index)} for index in range(8)]
    record(runs, "a1", *calls, {"text": "no number"})
    lines = {line.split()[0]: line for line in tracker("show", "a1").split("Last values")[1].splitlines() if line}
    assert lines["loss"].endswith("  █▇▆▅▄▃▂▁")
    assert lines["odd"].endswith("  ▁x▃▄▅x▇█")
    assert lines["text"].split() == ["text", "no", "number", "8"]
    environ["PYTHONIOENCODING"] = "ascii"
    assert "  @#*+=-._" in tracker("show", "a1")


def test_show_tells_from_which_commit_attempts_ran_and_what_they_alerted(
    runs: Runs, tracker: Callable[..., str], tmp_path: Path
) -> None:
    environments: list[dict[str, str]] = [{"git_commit": "c0ffee", "git_remote": "git@host:me/repo"}] * 2
    runs.create(RunInfo("a1", uuid.uuid4().hex, time.time()))
    with closing(RunStore(runs.folder("a1") / "run.db")) as store:
        for environment in (*environments, {"git_commit": "d00d"}, {}):
            more = {"launch": "", "requeue": "", "reason": "new", "config": "{}"}
            more["environment"] = json.dumps(environment)
            attempt = store.claim(Holder.current(), started_at=time.time(), journal=runs.folder("a1").resolve(), **more)
        store.append(attempt, [(1, journal.CALL, 1, 7, 5.0, 1, {"loss": 1.0})])
        alerts = [(2 + nth, journal.ALERT, 5.0, 1, f"title {nth}", "\x1b[2Jtext", "WARN") for nth in range(30)]
        store.append(attempt, alerts)
    document = json.loads(tracker("show", "a1", "--json"))
    assert [item["git_commit"] for item in document["attempts"]] == ["c0ffee", "c0ffee", "d00d", None]
    assert document["attempts"][0]["git_remote"] == "git@host:me/repo"
    assert len(document["alerts"]) == 30
    assert document["alerts"][0] == {
        **{"rule": "alert()", "metric": None, "step": 7, "time": 5.0, "level": "WARN"},
        "text": "title 0: \x1b[2Jtext",
    }
    said = tracker("show", "a1")
    git = said.split("Git\n")[1].split("\n\n")[0].splitlines()
    assert [line.split() for line in git[1:]] == [["1", "to", "2", "c0ffee", "git@host:me/repo"], ["3", "d00d"], ["4"]]
    assert "Alerts, the newest 20 of 30" in said
    assert "title 29: \\x1b[2Jtext" in said and "title 10:" in said and "title 9:" not in said


def test_a_run_is_found_by_id_prefix_or_path(runs: Runs, tracker: Callable[..., str], tmp_path: Path) -> None:
    record(runs, "abcd", *losses(1))
    record(runs, "abxy", *losses(1))
    runs.path.rename(tmp_path / "other")
    for name in ("other/abcd", "other/abcd/run.db", tmp_path / "other" / "abcd"):
        assert json.loads(tracker("show", name, "--json"))["run"] == "abcd"
    assert json.loads(tracker("show", "abc", "--runs", "other", "--json"))["run"] == "abcd"
    said = tracker("show", "ab", "--runs", "other", status=1)
    assert said == "tracker: no run 'ab' in other; did you mean abcd, abxy?\n"
    assert tracker("show", "other/zz", status=1) == "tracker: no run 'zz' in other\n"
    assert "abcd" in tracker("ls", "other/abcd/run.db")


@pytest.mark.parametrize("command", ["ls", "export", "tail"])
def test_a_folder_that_is_not_there_is_a_usage_error(tracker: Callable[..., str], command: str) -> None:
    said = tracker(command, "nowhere", status=2)
    assert said == "tracker: no folder 'nowhere'; name the runs folder, or set OFFLINE_TRACKER_DIR\n"


def test_the_runs_folder_comes_from_the_environment(
    runs: Runs, tracker: Callable[..., str], environ: dict[str, str], tmp_path: Path
) -> None:
    record(runs, "a1", *losses(1))
    runs.path.rename(tmp_path / "elsewhere")
    assert "no folder 'runs'" in tracker("ls", status=2)
    environ["OFFLINE_TRACKER_DIR"] = str(tmp_path / "elsewhere")
    assert "a1" in tracker("ls")


def test_a_run_that_breaks_half_way_is_one_line_and_not_a_traceback(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", *losses(3))
    record(runs, "b2", *[{"loss": float(index), "text": "x" * 200} for index in range(2000)])
    path = runs.path / "b2" / "run.db"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b"\xff" * len(data[len(data) // 2 :])
    path.write_bytes(data)
    for command in ("ls", "export", "tail"):
        said = tracker(command, *(["--once"] if command == "tail" else []), status=1)
        assert "a1" in said
        assert "malformed" in said
    assert tracker("show", "b2", status=1).startswith("tracker: can't read runs/b2/run.db: ")


def test_the_version_and_the_help(tracker: Callable[..., str]) -> None:
    assert tracker("--version") == f"tracker {offline_tracker.__version__}\n"
    said = tracker("--help")
    for command in ("tail", "ls", "show", "export", "rewind", "sync"):
        assert f"\n  {command} " in said
        assert f"Usage: tracker {command}" in tracker(command, "--help")


def test_the_help_loads_nothing_slow() -> None:
    program = "import sys; import offline_tracker_cli.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sqlite_utils", "rich.live", "rich.table", "wandb", "swanlab", "torch"} & set(loaded)


def test_a_reader_that_has_enough_ends_the_export_quietly(runs: Runs, environ: dict[str, str], tmp_path: Path) -> None:
    record(runs, "a1", *[{"text": "x" * 1000}] * 1000)
    process = subprocess.Popen(
        [TRACKER, "export", "runs"], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 1
    process.stderr.close()


def test_tail_once_draws_a_frame(runs: Runs, tracker: Callable[..., str]) -> None:
    record(runs, "a1", *[{"loss": 8.0 - index, "lr": 0.125, "val": {"acc": index}} for index in range(8)], name="n")
    said = tracker("tail", "--once")
    assert "\x1b" not in said
    assert "a1 · n" in said
    assert "finished, last write " in said
    assert "step 7\nloss 1   lr 0.125" in said
    assert "best 1 at 7" in said
    assert "      8┤" in said
    assert "val.acc" in said
    assert "val.acc" not in tracker("tail", "--once", "--metric", "l*")
    assert [row["metrics"] for row in exported(tracker("tail", "--once", "--json", "--metric", "*.acc"))] == [
        {"val.acc": index} for index in range(8)
    ]
    assert tracker("tail", "--once", "--json") == tracker("export", "--format", "jsonl")


def test_what_a_run_says_cannot_steer_the_terminal(runs: Runs, tracker: Callable[..., str]) -> None:
    evil = "\x1b[2J[red]\x9b1m\r\u202e"
    record(runs, "a1", {f"{evil}loss": 1.0, "text": evil}, name=evil, project=f"{evil}p", config={evil: evil})
    for command in (["ls"], ["show", "a1"], ["tail", "--once"]):
        said = tracker(*command)
        assert not set(evil) - set("[2J1mred]") & set(said)
        assert "\\x1b[2J[red]" in said


def test_tail_in_a_pipe_is_a_line_a_row(
    runs: Runs, writer: subprocess.Popen[str], follow: Callable[..., tuple[subprocess.Popen[bytes], Path]]
) -> None:
    say(writer, 4.5)
    process, path = follow("tail", "runs")
    wait_until(lambda: "loss=4.5" in path.read_text())
    say(writer, 0.25)
    wait_until(lambda: "loss=0.25" in path.read_text())
    record(runs, "late", {"loss": 7.0, "text": "two words"})
    wait_until(lambda: "late" in path.read_text())
    lines = path.read_text().splitlines()
    assert [line.split()[1:4] for line in lines] == [
        ["live", "0", "loss=4.5"],
        ["live", "1", "loss=0.25"],
        ["late", "0", "loss=7"],
    ]
    assert lines[0].split()[4] == "lr=0.0005"
    assert lines[2].endswith('text="two words"')
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_tail_as_json_gives_the_same_rows_as_the_export(
    tracker: Callable[..., str],
    writer: subprocess.Popen[str],
    follow: Callable[..., tuple[subprocess.Popen[bytes], Path]],
) -> None:
    say(writer, 1.0)
    process, path = follow("tail", "--json")
    for loss in (2.0, 3.0, 4.0):
        say(writer, loss)
    wait_until(lambda: len(path.read_text().splitlines()) == 4)
    assert path.read_text() == tracker("export", "--format", "jsonl")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_what_is_found_in_rows_is_a_line_of_its_own(
    runs: Runs,
    tracker: Callable[..., str],
    writer: subprocess.Popen[str],
    follow: Callable[..., tuple[subprocess.Popen[bytes], Path]],
) -> None:
    say(writer, 1.0)
    process, path = follow("tail", "--rule", "loss > 2", "--metric", "lr")
    for loss in (2.0, 3.0, math.nan, 1.0):
        say(writer, loss)
    wait_until(lambda: len(path.read_text().splitlines()) == 7)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    said = [line.split(" ", 4) for line in path.read_text().splitlines() if line.startswith("ALERT ")]
    assert [line[3:] for line in said] == [["2", "WARN loss > 2: loss is 3"], ["3", "ERROR not finite: loss is nan"]]
    told = [json.loads(line) for line in tracker("tail", "--json", "--once", "--metric", "x").splitlines()]
    assert [(line["alert"]["rule"], line["alert"]["step"], line["alert"]["level"]) for line in told] == [
        ("not finite", 3, "ERROR")
    ]
    assert tracker("tail", "--rule", "loss", status=2).startswith("tracker: rule 'loss': use \"METRIC > NUMBER\"")


def test_what_the_training_said_is_a_line_too_and_cannot_steer_the_terminal(
    runs: Runs, tracker: Callable[..., str], follow: Callable[..., tuple[subprocess.Popen[bytes], Path]]
) -> None:
    run = offline_tracker.init(id="a1", dir=runs.path)
    run.log({"loss": 1.0})
    run.alert("\x1b[2Jlook", "h\nere\x9b1m", "WARN")
    offline_tracker.finish()
    process, path = follow("tail", "runs")
    wait_until(lambda: len(path.read_text().splitlines()) == 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    (line,) = (line.split(" ", 3) for line in path.read_text().splitlines() if line.startswith("ALERT "))
    assert line[2:] == ["a1", "0 WARN \\x1b[2Jlook: h\\nere\\x9b1m"]
    alert = json.loads(tracker("tail", "--once", "--json").splitlines()[1])["alert"]
    assert (alert["rule"], alert["step"], alert["text"]) == ("alert()", 0, "\x1b[2Jlook: h\nere\x9b1m")


def test_rows_behind_a_rewind_are_given_once(runs: Runs) -> None:
    record(runs, "a1", *losses(10))
    stream = Stream(Chosen(runs, "a1"))
    assert [row.step for row in stream.rows()] == list(range(10))
    offline_tracker.init(dir=runs.path, resume_from="a1?_step=5")
    for call in losses(2, first=100.0):
        offline_tracker.log(call)
    offline_tracker.finish()
    assert [(row.step, dict(row.values)) for row in stream.rows()] == [(6, {"loss": 100.0}), (7, {"loss": 101.0})]
    assert list(stream.rows()) == []


def test_a_row_that_gets_more_values_is_given_again_whole(runs: Runs) -> None:
    run = offline_tracker.init(id="a1", dir=runs.path)
    stream = Stream(Chosen(runs, "a1"))
    run.log({"loss": 1.0}, step=3)
    run.flush()
    assert [dict(row.values) for row in stream.rows(end=True)] == [{"loss": 1.0}]
    run.log({"acc": 2.0}, step=3)
    run.log({"loss": 3.0}, step=4)
    run.flush()
    assert [(row.step, dict(row.values)) for row in stream.rows()] == [(3, {"loss": 1.0, "acc": 2.0})]
    offline_tracker.finish()
    assert [(row.step, dict(row.values)) for row in stream.rows()] == [(4, {"loss": 3.0})]


class Pane:
    """A terminal, in a tmux server of its own."""

    def __init__(self, environ: dict[str, str], cwd: Path, columns: int = 100, lines: int = 30) -> None:
        self._sockets = tempfile.TemporaryDirectory()  # tmp_path is too long for a socket's
        self._socket = f"offline-tracker-{uuid.uuid4().hex}"
        self._environ = {**environ, "TMUX_TMPDIR": self._sockets.name}
        shell = "bash --norc --noprofile"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines), "-c", str(cwd), shell)

    def _tmux(self, *args: str) -> str:
        command = ["tmux", "-u", "-L", self._socket, *args]
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, check=True).stdout

    def keys(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def text(self, *options: str) -> str:
        return self._tmux("capture-pane", "-p", *options)

    def flags(self, *names: str) -> list[str]:
        """Return what tmux knows of the terminal."""
        return self._tmux("display-message", "-p", " ".join(f"#{{{name}}}" for name in names)).split()

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def wait(self, *texts: str) -> str:
        """Wait until all *texts* are on the screen at once, and return what is."""

        def seen() -> str | None:
            screen = self.text()
            return screen if all(text in screen for text in texts) else None

        try:
            return str(wait_until(seen, what=f"{texts} on the screen"))
        except AssertionError as error:
            error.add_note(self.text())
            raise

    def close(self) -> None:
        self._tmux("kill-server")
        self._sockets.cleanup()


@pytest.fixture
def pane(environ: dict[str, str], tmp_path: Path) -> Iterator[Pane]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    pane = Pane({key: value for key, value in environ.items() if key != "TMUX"}, tmp_path)
    yield pane
    pane.close()


def test_ls_in_a_narrow_terminal_keeps_to_its_width(pane: Pane, runs: Runs) -> None:
    record(runs, "a1b2c3d4", {"loss": 1.0, "lr": 5e-4}, name="Pretrain-Epoch-2-BatchSize-32-LearningRate-0.0005")
    pane.keys("PS1='$ '; clear", "Enter")
    pane.keys(f"stty columns 60; {TRACKER} ls; echo ended=$?", "Enter")
    screen = pane.wait("ended=0")
    (row,) = [line for line in screen.splitlines() if line.startswith("a1b2c3d4")]
    assert row.split()[:6] == ["a1b2c3d4", "finished", "1", "0", "1", "0.0005"]
    assert "…" not in screen


def test_words() -> None:
    assert [duration(seconds) for seconds in (0.2, 76, 3723, 97440, -1, math.nan)] == [
        *("0s", "1m16s", "1h02m03s", "1d03h04m", "0s", "?"),
    ]
    assert [age(seconds) for seconds in (-3, 59.9, 60, 7200, 800_000)] == ["0s", "59s", "1m", "2h", "9d"]
    assert [number(value) for value in (0.1 + 0.2, True, None, 12, 2**70)] == ["0.3", "true", "", "12", "1.1806e+21"]
    assert clean("训练 a\tb\x00") == "训练 a\\tb\\x00"


def test_which_metric_is_the_loss_and_which_the_learning_rate() -> None:
    assert loss_of(["val/loss", "train/loss", "loss_scale"]) == "train/loss"
    assert loss_of(["aux_loss", "loss"]) == "loss"
    assert loss_of(["accuracy"]) is None
    assert lr_of(["alright", "train/learning_rate"]) == "train/learning_rate"
    assert lr_of(["lr-AdamW", "lr"]) == "lr"
    assert lr_of(["flr"]) is None
