"""What travels beside rows, with the real clients: packages, samples, console lines, alerts, and later changes."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pytest

import offline_tracker
from offline_tracker import Run, console, curve, journal
from offline_tracker.alerts import Finding
from offline_tracker.curve import Span
from offline_tracker.errors import UsageError
from offline_tracker.findings import store
from offline_tracker.host import packages
from offline_tracker.sampling import SAMPLES_S, _Cpu, process
from offline_tracker.values import SEPARATOR
from tests.doubles.server import Double, wait_until
from tests.syncing import _SYNC, REMOTES, ROOT, House, add, begin, losses, made


def check_clean(house: House) -> None:
    for double in (house.wandb, house.swanlab):
        assert double.violations == []
        assert double.unknown == []


# Packages.


def test_packages_are_found_by_the_names_of_their_metadata(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (
        *(first / "torch-2.4.0+cu121.dist-info", first / "Flask_SQLAlchemy-3.1.dist-info", first / "no_metadata"),
        *(second / "torch-1.0.dist-info", second / "old-1.2-py3.11.egg-info", second / "in_place.egg-info"),
        second / "without_version.egg-info",
    ):
        folder.mkdir(parents=True)
    (second / "in_place.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: in-place\nVersion: 0.5.dev1\n")
    (tmp_path / "archive.zip").write_bytes(b"PK")
    found = packages([str(first), str(tmp_path / "archive.zip"), str(tmp_path / "gone"), str(second)])
    assert found == ["Flask_SQLAlchemy==3.1", "in_place==0.5.dev1", "old==1.2", "torch==2.4.0+cu121"]


def test_an_attempt_stores_its_packages_only_if_they_have_changed(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(house.runs, steps=range(2))
    made(house.runs, steps=range(2, 4))
    (tmp_path / "site" / "brand_new-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    made(house.runs, steps=range(4, 6))
    with house.runs.read("a1") as reader:
        stored = [attempt.environment.get("packages") for attempt in reader.attempts]
        assert reader.environment()["packages"] == stored[2]
    assert stored[0] and any(line.startswith("sqlite_utils==") for line in stored[0])
    assert stored[1] is None
    assert set(stored[2] or ()) == {*stored[0], "brand_new==1.0"}


def test_a_training_that_was_finished_and_started_again_leaves_no_packages(house: House) -> None:
    made(house.runs, steps=range(2))
    begin(house.runs, steps=(), resume="must")
    offline_tracker.finish()
    with house.runs.read("a1") as reader:
        assert len(reader.attempts) == 1


def test_packages_travel_and_follow(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(house.runs, steps=range(2))
    house.sync(REMOTES)
    first = "".join(f"{line}\n" for line in packages())
    assert house.wandb.runs["a1"].files["requirements.txt"].decode() == first == house.swanlab.runs["a1"].requirements
    (tmp_path / "site" / "brand_new-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    made(house.runs, steps=range(2, 4))
    house.sync(REMOTES)
    assert b"brand_new==1.0\n" in house.wandb.runs["a1"].files["requirements.txt"]
    assert "brand_new==1.0\n" in (house.swanlab.runs["a1"].requirements or "")
    check_clean(house)


# Alerts.


def test_an_alert_is_delivered_once(house: House) -> None:
    run = begin(house.runs, steps=range(3))
    run.alert("Careful", "the loss is flat", level="WARN")
    run.alert("Only a title")
    run.flush()
    house.sync("wandb")
    delivered = [("Careful", "the loss is flat", "WARN"), ("Only a title", "", "INFO")]
    assert house.wandb.runs["a1"].alerts == delivered
    assert house.sync("wandb").result["status"] == "nothing new"
    run.alert("Worse", "it is NaN", level="ERROR")
    run.flush()
    assert house.sync("wandb").result["sent"] == 0  # for an alert alone
    assert house.wandb.runs["a1"].alerts == [*delivered, ("Worse", "it is NaN", "ERROR")]
    shutil.rmtree(house.runs.path / ".sync")  # the ledger is lost: nobody is called a second time
    add(run, range(3, 5))
    house.sync("wandb")
    assert house.wandb.runs["a1"].alerts == [*delivered, ("Worse", "it is NaN", "ERROR")]
    check_clean(house)


def test_what_rules_found_is_delivered_once_where_there_are_alerts(house: House) -> None:
    begin(house.runs, steps=range(3))
    offline_tracker.finish()
    assert [result["notes"] for result in house.sync(REMOTES).results] == [[], []]
    assert {result["status"] for result in house.sync(REMOTES).results} == {"nothing new"}
    everything = [Span(1, 1000, None)]
    spike = Finding("spike", f"train{SEPARATOR}loss", 1, 1e9, 2, "jumps", "WARN")
    store(house.runs.folder("a1"), [spike, spike._replace(step=7, seq=99)], everything)  # the second one is of no curve
    assert house.sync("wandb", only=[]).result["status"] == "confirmed"  # not named: the file shows that there is more
    store(house.runs.folder("a1"), [Finding("mine > 0", "mine", 2, 1e9, 3, "is 1", "ERROR")], everything)
    house.sync("wandb", only=[])
    delivered = [("train.loss spike", "step 1: jumps", "WARN"), ("mine mine > 0", "step 2: is 1", "ERROR")]
    assert house.wandb.runs["a1"].alerts == delivered
    assert house.sync("wandb").result["status"] == "nothing new"
    shutil.rmtree(house.runs.path / ".sync")
    house.sync("wandb")
    assert house.wandb.runs["a1"].alerts == delivered
    begin(house.runs, "a2", steps=range(3))
    store(house.runs.folder("a2"), [spike], everything)
    [note] = house.sync("swanlab", only=["a2"]).result["notes"]
    assert note == "swanlab has no alerts: 1 that rules found stay here"
    check_clean(house)


def test_an_alert_that_is_refused_is_said_and_keeps_nothing_back(house: House) -> None:
    run = begin(house.runs, steps=range(3))
    run.alert("Careful")
    run.flush()
    house.wandb.fault("NotifyScriptableRunAlert", status=403, times=9)
    [note] = house.sync("wandb").result["notes"]
    assert note.startswith("wandb did not take an alert: ") and "403" in note
    house.wandb.clear_faults()
    assert house.sync("wandb").result["status"] == "nothing new"
    assert house.wandb.steps("a1") == [0, 1, 2] and house.wandb.runs["a1"].alerts == []


# Samples of the hardware.


def sampled(run: Run, house: House, count: int) -> None:
    """Wait until so many samples are stored."""

    def enough() -> bool:
        run.flush()
        with house.runs.read("a1") as reader:
            return reader.count_samples() >= count

    wait_until(enough, what=f"{count} samples")


def test_samples_begin_with_the_first_row_and_end_with_the_run(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_TRACKER_SAMPLES_S", "0.05")
    run = begin(house.runs, steps=())
    assert any(thread.name == "offline_tracker-sampler" for thread in threading.enumerate())
    run.log({"loss": 1.0})
    sampled(run, house, 2)
    offline_tracker.finish()
    wait_until(lambda: not any(t.name == "offline_tracker-sampler" for t in threading.enumerate()))
    with house.runs.read("a1") as reader:
        samples = reader.samples()
        assert reader.samples(1) == samples[1:] and reader.count_samples() == len(samples)
        [attempt] = reader.attempts
    assert all(attempt.started_at < sample.time <= (attempt.ended_at or 0) for sample in samples)
    values = samples[-1].values
    assert 0.0 < values["proc.memory.percent"] < values["memory_percent"] < 100.0
    assert 1.0 < values["proc.memory.rssMB"] < 10_000.0 and values["proc.cpu.threads"] >= 2.0
    assert 0.0 <= values["cpu"] <= 110.0 and 0.0 <= values["cpu_percent"] <= 100.0


def test_no_samples_are_taken_where_none_are_wanted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_TRACKER_SAMPLES_S", "0")
    begin(house.runs, steps=range(2))
    assert not any(thread.name == "offline_tracker-sampler" for thread in threading.enumerate())
    monkeypatch.setenv("OFFLINE_TRACKER_SAMPLES_S", "often")
    with pytest.raises(UsageError, match="OFFLINE_TRACKER_SAMPLES_S='often': use a number"):
        begin(house.runs, "b2")
    assert house.runs.ids() == ["a1"]


def test_a_sample_costs_next_to_nothing() -> None:
    cpu = _Cpu()
    begun = time.thread_time()
    for _ in range(100):
        assert {**cpu.read(), **process()}
    assert (time.thread_time() - begun) / 100 < 0.001 * SAMPLES_S  # of one core


def test_each_sample_arrives_once_with_the_clock_of_the_run(house: House) -> None:
    run = begin(house.runs, steps=range(2))
    now = time.time()
    first = [({"cpu": 1.0 + number, "proc.memory.rssMB": 100.0}, now + number) for number in range(3)]
    take(run, first)
    house.sync(REMOTES)
    offline_tracker.finish()
    run = begin(house.runs, steps=range(2, 4), resume="must")
    later = [({"cpu": 9.0, "gpu.0.memoryAllocatedBytes": float(3 << 20)}, time.time() + number) for number in range(2)]
    take(run, later)
    run.flush()
    house.sync(REMOTES)
    shutil.rmtree(house.runs.path / ".sync")
    assert [result["sent"] for result in house.sync(REMOTES).results] == [0, 0]

    events = house.wandb.runs["a1"].events
    assert [event["system.cpu"] for event in events] == [1.0, 2.0, 3.0, 9.0, 9.0]
    assert [event["_timestamp"] for event in events] == [at for _, at in first + later]
    with house.runs.read("a1") as reader:
        starts = [attempt.started_at for attempt in reader.attempts]
        *_, ran_s = reader.last_times(curve.live_spans(reader.rewinds, reader.last_seq))[:1]
    assert ran_s is not None
    seconds = [at - starts[0] for _, at in first] + [ran_s - starts[0] + at - starts[1] for _, at in later]
    assert [event["_runtime"] for event in events] == pytest.approx(seconds, abs=0.002)

    there = {(point.key, point.step, point.value) for point in house.swanlab.runs["a1"].points if "__" in point.key}
    assert there == {
        *(("__swanlab__.mem.proc", number, 100.0) for number in range(3)),
        *(("__swanlab__.gpu.0.mem.value", number, 3.0) for number in (3, 4)),
    }
    assert len([point for point in house.swanlab.runs["a1"].points if "__" in point.key]) == 5
    assert house.swanlab.runs["a1"].series["__swanlab__.mem.proc"] == {"key": "__swanlab__.mem.proc", "type": "SYSTEM"}
    check_clean(house)


def take(run: Run, samples: Iterable[tuple[dict[str, float], float]]) -> None:
    """Record samples at times of our own."""
    for values, at in samples:
        run._writer.put(journal.SAMPLE, at, values)
    run.flush()


# Lines of the console.


def test_each_line_arrives_once(house: House) -> None:
    def printed(*texts: str, **init: object) -> None:
        run = begin(house.runs, steps=range(2 * len(lines), 2 * len(lines) + 2), console=True, resume="allow", **init)
        for text in texts:
            print(text)
        lines.extend(texts)
        if len(lines) == 3:
            run.alert("Careful", "now", level="WARN")
        run.flush()

    lines: list[str] = []
    printed("one", "", "  three\tand 漢字")
    print("begun, ", end="")  # not complete: not sent
    house.sync(REMOTES)
    assert len(house.wandb.runs["a1"].output) == 3
    print("ended")
    lines.append("begun, ended")
    house.sync(REMOTES)
    offline_tracker.finish()
    printed(*(f"line {number}" for number in range(1010)))
    offline_tracker.finish()
    house.sync(REMOTES)
    shutil.rmtree(house.runs.path / ".sync")
    house.sync(REMOTES)
    assert house.sync(REMOTES).results[0]["status"] == "nothing new"

    assert [line.split(" ", 1)[1] for line in house.wandb.runs["a1"].output] == lines
    assert house.wandb.runs["a1"].alerts == [("Careful", "now", "WARN")]
    there = house.swanlab.runs["a1"].logs
    assert [line.epoch for line in there] == list(range(1, len(lines) + 2))
    assert [line.message for line in there] == [*lines[:3], "[WARN] Careful: now", *lines[3:]]
    assert {line.level for line in there} == {"INFO", "ERROR"} and there[3].level == "ERROR"
    with house.runs.read("a1") as reader:
        [first, *_] = console.read(reader.folder / "files", [(1, False)])
    assert datetime.fromisoformat(there[0].create_time[:26] + "+00:00").timestamp() == pytest.approx(
        first.time, abs=2e-6
    )
    check_clean(house)


def test_lines_whose_answer_was_lost_arrive_once(house: House) -> None:
    begin(house.runs, steps=range(2), console=True)
    print("one\ntwo")
    house.swanlab.fault("POST /house/metrics", skip=1, drop="after")  # the rows are the first
    house.swanlab.lag_s = 1.0
    house.sync("swanlab", settle_s=2.0)
    assert [line.message for line in house.swanlab.runs["a1"].logs] == ["one", "two"]
    house.check("swanlab", "a1", losses(range(2)))


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize(
    ("remote", "match", "skip"), [("wandb", "file_stream", 0), ("swanlab", "POST /house/metrics", 2)]
)
def test_what_a_killed_sync_had_in_flight_arrives_once(
    house: House, remote: str, match: str, skip: int, applied: bool
) -> None:
    run = begin(house.runs, steps=range(3), console=True)
    print("one\ntwo")
    take(run, [({"memory_percent": float(number)}, time.time() + number) for number in range(2)])
    offline_tracker.finish()
    assert house.sync_killed_at(remote, match, skip, applied)
    house.sync(remote)
    house.check(remote, "a1", losses(range(3)))
    if remote == "wandb":
        there = house.wandb.runs["a1"]
        assert [line.split(" ", 1)[1] for line in there.output] == ["one", "two"]
        assert [event["system.memory_percent"] for event in there.events] == [0.0, 1.0]
    else:
        assert [line.message for line in house.swanlab.runs["a1"].logs] == ["one", "two"]
        assert house.swanlab.points("a1", "__swanlab__.mem.pct") == [(0, 0.0), (1, 1.0)]


def test_lines_that_a_remote_refuses_keep_no_rows_back(house: House) -> None:
    begin(house.runs, steps=range(2), console=True)
    print("one")
    house.swanlab.fault("POST /house/metrics", skip=1, status=400, times=9)
    [note] = house.sync("swanlab").result["notes"]
    assert note.startswith("not all samples and lines of the console were taken: swanlab: can't send lines")
    house.check("swanlab", "a1", losses(range(2)))


# How long a run has run.


@pytest.mark.parametrize("downtime", [False, True])
def test_the_time_between_attempts_counts_only_if_it_is_asked_for(house: House, downtime: bool) -> None:
    made(house.runs, steps=range(2))
    with sqlite3.connect(house.runs.folder("a1") / "run.db") as db:  # an hour ago
        db.execute("UPDATE attempt SET started_at = started_at - 3600, ended_at = ended_at - 3600")
        db.execute("UPDATE call SET time = time - 3600")
        db.execute("UPDATE run SET created_at = created_at - 3600")
    db.close()
    house.sync("wandb", downtime=downtime or None)
    made(house.runs, steps=range(2, 4))
    result = house.sync("wandb").result  # the link remembers
    assert result["notes"] == []
    run = house.wandb.runs["a1"]
    times = [row.time for row in house.local("a1")]
    with house.runs.read("a1") as reader:
        starts = [attempt.started_at for attempt in reader.attempts]
    ran_s = times[-1] - starts[0] if downtime else times[1] - starts[0] + times[-1] - starts[1]
    assert run.history[-1]["_runtime"] == pytest.approx(ran_s, abs=1e-6) and (ran_s > 3600) is downtime
    assert run.summary["_wandb"] == {"runtime": int(ran_s)}
    if downtime:
        [note] = house.sync("wandb", downtime=False).result["notes"]
        assert note == "counts its whole time already; --downtime counts once"


# Later changes, and whose they are.


def test_what_a_later_attempt_changes_follows_or_is_said(house: House) -> None:
    made(house.runs, steps=range(2), name="first", tags=["x"], config={"lr": 0.1})
    assert [result["notes"] for result in house.sync(REMOTES).results] == [[], []]
    later = {"name": "second", "tags": ["y", "z"], "notes": "a note", "group": "g", "config": {"lr": 0.2, "new": 1}}
    made(house.runs, steps=range(2, 4), job_type="train", **later)
    wandb, swanlab = house.sync(REMOTES).results
    run = house.wandb.runs["a1"]
    assert (run.display_name, run.tags, run.notes, run.group, run.job_type) == (
        "second",
        ["y", "z"],
        "a note",
        "g",
        "train",
    )
    assert {"lr": 0.2, "new": 1}.items() <= run.config.items() and wandb["notes"] == []
    assert {"lr": 0.2, "new": 1}.items() <= house.swanlab.runs["a1"].config.items()
    told = "swanlab keeps what it was told first; since then changed: name, notes, group, job_type, tags"
    assert swanlab["notes"] == [told]
    made(house.runs, steps=range(4, 6))
    assert [result["notes"] for result in house.sync(REMOTES).results] == [[], []]  # said once
    check_clean(house)


def test_what_a_remote_cannot_hold_is_said_once(house: House) -> None:
    tags = [*(f"tag {number}" for number in range(31)), "t" * 65]
    run = begin(house.runs, steps=range(2), tags=tags, notes="n" * 1025, name="n" * 513)
    run.define_metric("loss", summary="min")
    run.flush()
    wandb, swanlab = house.sync(REMOTES).results
    assert wandb["notes"] == [f"wandb takes tags of 1 to 64 characters, so {'t' * 65!r} is left out"]
    assert house.wandb.runs["a1"].tags == tags[:31]
    assert swanlab["notes"] == [
        "swanlab takes notes of 1024 characters; the rest of them is left out",
        "swanlab takes 30 tags; the last 2 are left out",
        "swanlab takes 512 characters; name is cut",
        "swanlab does not take what define_metric says",
    ]
    add(run, range(2, 4))
    assert [result["notes"] for result in house.sync(REMOTES).results] == [[], []]
    check_clean(house)


TRAIN_ELSEWHERE = """
import os, platform, socket, sys
socket.gethostname = platform.node = lambda: "train-node-7"
os.environ["SLURM_JOB_ID"] = "4711"
import offline_tracker
run = offline_tracker.init(project="p", id="a1", dir=sys.argv[1], console=True, resume="allow")
for step in range(int(sys.argv[2]), int(sys.argv[2]) + 3):
    run.log({"loss": step}, step=step)
print("printed there")
run.alert("Careful", "there")
run.sample({"cpu": 3.0, "memory_percent": 4.0})
offline_tracker.finish()
"""


def test_nothing_of_the_machine_that_syncs_travels(house: House, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-u", "true"], capture_output=True).returncode:
        pytest.skip("needs a hostname of its own, which takes a privilege")
    seen: list[str] = []

    def watch(double: Double) -> None:
        handle = double.handle
        double.handle = lambda request: (seen.append(f"{request}"), handle(request))[1]  # type: ignore[method-assign]

    watch(house.wandb)
    watch(house.swanlab)
    there = tmp_path / "there"
    there.mkdir()
    for first in (0, 3):
        command = [sys.executable, "-c", TRAIN_ELSEWHERE, str(house.runs.path), str(first)]
        subprocess.run(command, check=True, cwd=there, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
        # The training's machine knows these as well here; they are made to be those of another one.
        with sqlite3.connect(house.runs.folder("a1") / "run.db") as db:
            for number, text in db.execute("SELECT id, environment FROM attempt").fetchall():
                environment = {**json.loads(text), "executable": "/opt/python", "cwd": "/data", "args": ["--lr", "1"]}
                environment |= {"program": "/data/train.py", "packages": ["torch==9.9"], "os": "Plan 9"}
                db.execute("UPDATE attempt SET environment = ? WHERE id = ?", (json.dumps(environment), number))
        db.close()
        options = {"runs": str(house.runs.path), "to": list(REMOTES), "settle_s": 0.5}
        sync = ["unshare", "-u", "sh", "-c", 'hostname sync-host-93 && exec "$@"', "-", sys.executable, "-c", _SYNC]
        env = {**house.env, "PYTHONPATH": str(ROOT), "USER": "sync-user-93", "LOGNAME": "sync-user-93"}
        out = subprocess.run([*sync, json.dumps(options)], cwd=house.home, env=env, capture_output=True, timeout=120)
        assert out.returncode == 0, out.stderr
    text = "\n".join(seen)
    for word in ("train-node-7", "/data/train.py", "torch==9.9", "4711", "printed there", "Careful"):
        assert word in text, word
    user = getpass.getuser()
    for word in ("sync-host-93", "sync-user-93", str(tmp_path), str(ROOT), sys.executable, platform.release()):
        assert word not in text, (word, text[max(0, text.find(word) - 200) : text.find(word) + 100])
    assert f'"{user}"' not in text
    run = house.wandb.runs["a1"]
    assert (run.host, run.program, run.metadata["host"]) == ("train-node-7", "/data/train.py", "train-node-7")
    assert (house.swanlab.runs["a1"].metadata or {})["hostname"] == "train-node-7"
    check_clean(house)
