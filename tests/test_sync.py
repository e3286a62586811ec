"""From the runs folder to both remotes and on, with the real clients: every row once, as it was, or a reason why not."""

from __future__ import annotations

import math
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker.store import RunStore
from offline_tracker.sync.ledger import Ledger
from offline_tracker.sync.remotes import UUID_KEY
from tests.syncing import REMOTES, House, add, begin, hashes, loss, losses, made, same


@pytest.fixture(params=REMOTES)
def remote(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# The whole way.


def test_a_resumed_run_is_one_line_at_both_remotes(house: House) -> None:
    house.train(0, 25, 10, "flush")  # the checkpoint after step 19 is the last
    first = house.sync(REMOTES)
    for remote, result in zip(REMOTES, first.results, strict=True):
        assert (result["status"], result["sent"], result["held_back"]) == ("confirmed", 20, 5)
        assert (result["rows"], result["last_step"]) == (20, 19)
        assert result["notes"] == ["5 rows after the last checkpoint held back (--eager sends them)"]
        house.check(remote, "a1", losses(range(20)))
    assert house.wandb.runs["a1"].state == "running"
    assert house.swanlab.runs["a1"].state == "CRASHED"

    asked = [len(house.wandb.log), len(house.swanlab.log)]
    again = house.sync(REMOTES)
    assert [result["status"] for result in again.results] == ["nothing new"] * 2
    new = [*house.wandb.log[asked[0] :], *house.swanlab.log[asked[1] :]]
    assert [label for label in new if "login" not in label and "/graphql" not in label and "GET" not in label] == []
    assert [label for label in new if "Upsert" in label] == []

    house.train(20, 40, 10, "finish")
    last = house.sync(REMOTES)
    assert [(result["status"], result["sent"], result["held_back"]) for result in last.results] == [
        ("confirmed", 20, 0),
        ("confirmed", 20, 0),
    ]
    curve = [*losses(range(20)), *((step, loss(step) + 1) for step in range(20, 40))]
    for remote in REMOTES:
        house.check(remote, "a1", curve)
        house.check(remote, "a1", house.points("a1", "learning_rate"), "learning_rate")

    rows = house.local("a1")
    assert [row.step for row in rows] == list(range(40))
    with house.runs.read("a1") as reader:
        uuid = reader.info.uuid
        begun = [attempt.started_at for attempt in reader.attempts]
    run = house.wandb.runs["a1"]
    assert [line["_timestamp"] for line in run.history] == [row.time for row in rows]
    # The clock of the run stands still from the last row that holds to the start of the next attempt.
    seconds = [row.time - begun[0] for row in rows[:20]]
    seconds += [seconds[-1] + row.time - begun[1] for row in rows[20:]]
    assert [line["_runtime"] for line in run.history] == pytest.approx(seconds, abs=1e-6)
    assert seconds[20] - seconds[19] < rows[20].time - rows[19].time
    for key in ("loss", "learning_rate"):
        assert house.swanlab.times("a1", key) == [row.time for row in rows]

    assert run.config == {UUID_KEY: uuid, "lr": 0.1, "model": {"dim": 8}}
    assert (run.display_name, run.tags, run.notes, run.group, run.job_type) == (
        *("a name", ["x", "y"], "a note", "g", "train"),
    )
    assert (run.state, run.exitcode, run.summary["loss"]) == ("finished", 0, curve[-1][1])
    other = house.swanlab.runs["a1"]
    assert other.config == run.config
    assert (other.name, other.tags, other.description, other.group, other.job) == (
        *("a name", ["x", "y"], "a note", "g", "train"),
    )
    assert (other.state, other.finished, other.hidden) == ("FINISHED", 2, [])
    arguments = [str(house.runs.path), "20", "40", "10", "finish"]  # of the training, not of the sync
    assert run.metadata["args"] == arguments and run.metadata["host"] == socket.gethostname()
    assert other.metadata is not None
    assert other.metadata["args"] == arguments and other.metadata["cwd"] == str(house.home)
    assert (house.wandb.created, len(house.swanlab.runs)) == (1, 1)
    house.check_nothing_left()


def test_what_a_killed_training_left_in_its_journal_is_sent_and_left_as_it_is(house: House) -> None:
    house.train(0, 3000, 10_000, "kill")
    before = hashes(house.runs.folder("a1"))
    assert any(name.startswith("journal-") and not digest.startswith("e3b0c442") for name, digest in before.items())
    outcome = house.sync(REMOTES)
    assert [result["sent"] for result in outcome.results] == [3000, 3000]
    for remote in REMOTES:
        house.check(remote, "a1", losses(range(3000)))
    assert hashes(house.runs.folder("a1")) == before
    house.check_nothing_left()


def test_a_living_run_keeps_its_open_row_and_stays_running(house: House) -> None:
    run = begin(house.runs, steps=range(5))
    run.log({"loss": 9.0}, commit=False)  # more of row 5 may come
    run.flush()
    for result in house.sync(REMOTES).results:
        assert (result["sent"], result["held_back"]) == (5, 1)
        assert result["notes"] == ["1 rows still open held back (--eager sends them)"]
    run.log({"loss": loss(5), "extra": 1.0})
    run.flush()
    for remote, result in zip(REMOTES, house.sync(REMOTES).results, strict=True):
        assert (result["sent"], result["held_back"]) == (1, 0)
        house.check(remote, "a1", losses(range(6)))
        house.check(remote, "a1", [(5, 1.0)], "extra")
    assert (house.wandb.runs["a1"].state, house.swanlab.runs["a1"].state) == ("running", "RUNNING")


def test_without_a_choice_a_run_goes_where_it_went_before(house: House) -> None:
    made(house.runs)
    both = house.sync(status=2)
    assert "credentials for swanlab and wandb" in both.said and "--to swanlab or --to wandb" in both.said
    assert house.sync("swanlab").result["remote"] == "swanlab"
    assert house.sync().result["status"] == "nothing new"
    made(house.runs, "b2")
    del house.env["WANDB_API_KEY"]
    assert [(item["run"], item["remote"]) for item in house.sync().results] == [("a1", "swanlab"), ("b2", "swanlab")]
    assert house.wandb.runs == {}


def test_a_dry_run_sends_and_makes_nothing(house: House) -> None:
    made(house.runs)
    for result in house.sync(REMOTES, dry_run=True).results:
        assert (result["status"], result["sent"]) == ("would send", 20)
    assert house.wandb.by_path == {} and house.swanlab.runs == {}
    assert not any("POST /projects" in label or "Upsert" in label for label in house.wandb.log + house.swanlab.log)
    assert links(house) == []
    # Linked, and with rows to come.
    house.sync("swanlab")
    add(offline_tracker.init(id="a1", dir=house.runs.path, reinit=True), range(20, 23))
    result = house.sync("swanlab", dry_run=True).result
    assert (result["status"], result["sent"], result["held_back"]) == ("would send", 3, 0)
    house.check("swanlab", "a1", losses(range(20)))


# What a remote can hold.


def test_values_arrive_as_each_remote_can_hold_them(house: House) -> None:
    values: dict[str, Any] = {
        "nan": math.nan,
        "inf": math.inf,
        "minus": -math.inf,
        "yes": True,
        "word": "a text",
        "none": None,
        "big": 2**53 + 1,
        "huge": 10**400,
        "deep": {"a.b": {"c": 0.5}},
        "train/loss": 0.25,
        "zero": -0.0,
    }
    run = begin(house.runs, steps=())
    run.log(values)
    run.log({"loss": 1.0})
    offline_tracker.finish()
    outcome = house.sync(REMOTES)
    wandb, swanlab = outcome.results
    [line] = house.wandb.runs["a1"].history[:1]
    flat = {**values, "huge": math.inf}
    del flat["deep"]
    for key, value in flat.items():
        assert same(line[key], value) or (key == "zero" and line[key] == 0), (key, line[key])
    assert line["deep"] == {"a.b": {"c": 0.5}}
    assert wandb["notes"] == ["wandb can't hold all of: huge (too large: becomes infinity)"]
    there = {point.key: point.value for point in house.swanlab.runs["a1"].points if point.step == 0}
    assert {key: there.pop(key) for key in ("yes", "big", "deep/a.b/c", "train/loss", "zero")} == {
        **{"yes": 1.0, "big": float(2**53 + 1), "deep/a.b/c": 0.5, "train/loss": 0.25, "zero": 0.0},
    }
    assert there.keys() == {"nan", "inf", "minus", "huge"} and all(map(math.isnan, there.values()))
    [note] = swanlab["notes"]
    for name in ("word (no number: left out)", "none (no number", "inf (infinity: becomes NaN)", "minus (", "huge ("):
        assert name in note, note
    assert "nan (" not in note and "yes" not in note
    for remote in REMOTES:
        assert house.double(remote).violations == []
    assert house.sync("swanlab").result["status"] == "nothing new"


def test_a_name_that_a_remote_refuses_is_said_and_costs_only_its_own_values(house: House) -> None:
    run = begin(house.runs, steps=())
    for step in range(3):
        run.log({"loss": loss(step), "__swanlab__.x": 0.5, "_runtime": 1e9, " / ": 0.25})
    offline_tracker.finish()
    wandb, swanlab = house.sync(REMOTES).results
    for remote in REMOTES:
        house.check(remote, "a1", losses(range(3)))
    assert wandb["notes"] == [
        "wandb can't hold all of: _runtime (a name that W&B keeps for itself: left out)",
    ]
    assert {point.key for point in house.swanlab.runs["a1"].points} == {"loss", "_runtime"}
    [note] = swanlab["notes"]
    assert "__swanlab__.x (a name that SwanLab refuses: left out)" in note and " /  (a name" in note
    assert max(line["_runtime"] for line in house.wandb.runs["a1"].history) < 60
    assert house.sync("swanlab").result["status"] == "nothing new"


def test_sparse_late_and_dead_metrics(house: House) -> None:
    run = begin(house.runs, steps=())
    for step in range(40):
        row = {"loss": loss(step)}
        if step % 10 == 0:
            row["eval"] = float(step)
        run.log(row, step=step)
    run.log({"dead": 1.0}, step=40)
    offline_tracker.finish()
    # it goes on from step 35: what was 35 to 40 does not hold any more
    again = offline_tracker.init(id="a1", dir=house.runs.path, reinit=True)
    for step in range(35, 60):
        again.log({"loss": loss(step), **({"late": 1.5} if step == 55 else {})}, step=step)
    offline_tracker.finish()
    house.sync(REMOTES)
    for remote in REMOTES:
        house.check(remote, "a1", losses(range(60)))
        house.check(remote, "a1", [(0, 0.0), (10, 10.0), (20, 20.0), (30, 30.0)], "eval")
        house.check(remote, "a1", [(55, 1.5)], "late")
        house.check(remote, "a1", [], "dead")
    assert "dead" not in house.swanlab.runs["a1"].series
    assert "dead" not in house.wandb.runs["a1"].summary


def test_rows_that_swanlab_cannot_hold_at_all_are_not_new_for_ever(house: House) -> None:
    run = begin(house.runs, steps=range(3))
    run.log({"sample": "a text"}, step=3)
    offline_tracker.finish()
    house.sync("swanlab")
    assert house.sync("swanlab").result["status"] == "nothing new"
    again = offline_tracker.init(id="a1", dir=house.runs.path, reinit=True)
    add(again, range(4, 6))
    offline_tracker.finish()
    assert house.sync("swanlab").result["sent"] == 2
    house.check("swanlab", "a1", losses([0, 1, 2, 4, 5]))


def test_two_names_that_are_one_at_swanlab_do_not_arrive_twice(house: House) -> None:
    run = begin(house.runs, steps=())
    for step in range(6):
        run.log({"a/b": 1.0, "a": {"b": float(step)}, "loss": loss(step)}, step=step)
    offline_tracker.finish()
    house.sync("swanlab")
    house.swanlab.lose_last("a1", 3)  # so that the next sync has to look at the points
    house.sync("swanlab")
    house.check("swanlab", "a1", losses(range(6)))
    house.check("swanlab", "a1", [(step, float(step)) for step in range(6)], "a/b")


def test_a_run_without_rows_is_made_and_told(house: House) -> None:
    made(house.runs, "empty", steps=(), config={"lr": 0.5})
    for result in house.sync(REMOTES).results:
        assert (result["status"], result["rows"], result["last_step"]) == ("confirmed", 0, None)
    assert house.wandb.runs["empty"].config["lr"] == house.swanlab.runs["empty"].config["lr"] == 0.5
    assert (house.wandb.runs["empty"].state, house.swanlab.runs["empty"].state) == ("finished", "FINISHED")
    assert [result["status"] for result in house.sync(REMOTES).results] == ["nothing new"] * 2


def test_forty_thousand_rows_go_in_batches(house: House) -> None:
    run = begin(house.runs, steps=())
    for step in range(40_000):
        run.log({"loss": loss(step)})
    offline_tracker.finish()
    house.sync(REMOTES)
    for remote in REMOTES:
        house.check(remote, "a1", losses(range(40_000)))
    with Ledger(house.runs.path) as ledger:
        sql = "SELECT remote, first_step, last_step, rows, confirmed_at IS NULL FROM batch ORDER BY id"
        batches = ledger._db.execute(sql).fetchall()
    assert batches == [
        *(("wandb", start, start + 19_999, 20_000, 0) for start in (0, 20_000)),
        *(("swanlab", start, start + 9_999, 10_000, 0) for start in (0, 10_000, 20_000, 30_000)),
    ]


# Conflicts.


def test_a_remote_run_that_is_not_ours_is_left_alone(house: House, remote: str) -> None:
    made(house.runs)
    house.sync(remote)
    there = hashes_of(house, remote)
    shutil.rmtree(house.runs.path)
    made(house.runs, steps=range(40))  # another run of the same id
    outcome = house.sync(remote, status=1)
    assert "did not come from this run" in outcome.reason
    assert hashes_of(house, remote) == there


def hashes_of(house: House, remote: str) -> str:
    run = house.double(remote).runs["a1"]
    return repr((getattr(run, "history", None), getattr(run, "points", None), run.config, run.state))


def test_rows_that_a_rewind_took_back_are_named_and_nothing_is_sent(house: House, remote: str) -> None:
    run = begin(house.runs, steps=range(10))
    run.mark_checkpoint("ten")
    add(run, range(10, 20))
    eager = house.sync(remote, eager=True).result
    assert (eager["sent"], eager["held_back"]) == (20, 0)
    offline_tracker.finish(exit_code=1)
    again = offline_tracker.init(id="a1", dir=house.runs.path, reinit=True)
    for step in range(10, 30):
        again.log({"loss": loss(step) + 1}, step=step)
    offline_tracker.finish()
    outcome = house.sync(remote, status=1)
    assert "steps 10 to 19" in outcome.reason and "nothing was sent" in outcome.reason
    house.check(remote, "a1", losses(range(20)))
    result = house.sync(remote, on_conflict="new-run").result
    assert (result["remote_id"], result["sent"]) == ("a1-r2", 30)
    assert "steps 10 to 19" in result["notes"][0]
    house.check(remote, "a1-r2", [*losses(range(10)), *((step, loss(step) + 1) for step in range(10, 30))])
    house.check(remote, "a1", losses(range(20)))


def test_a_rewind_recorded_after_the_rows_were_sent_is_seen(house: House) -> None:
    for _ in range(2):  # the second attempt went on from step 5, and nothing said so
        run = offline_tracker.init(project="p", id="a1", dir=house.runs.path, reinit=True)
        for step in range(10):
            run.log({"loss": loss(step)})
        offline_tracker.finish()
    house.sync("swanlab")
    store = RunStore(house.runs.folder("a1") / "run.db")
    store.rewind(10, 4, "by hand")
    store.close()
    run = offline_tracker.init(id="a1", dir=house.runs.path, reinit=True)
    for step in range(20):
        run.log({"loss": loss(step)})
    offline_tracker.finish()
    assert [row.step for row in house.local("a1")] == list(range(35))
    outcome = house.sync("swanlab", status=1)
    assert "holds as step 19 what a rewind has made step 14" in outcome.reason
    assert len(house.swanlab.points("a1", "loss")) == 20


def test_a_new_run_never_gets_the_id_of_another_local_run(house: House) -> None:
    made(house.runs, "try-r2")
    made(house.runs, "try-r3")
    house.sync("swanlab", only=["try-r2"])
    house.swanlab.delete("try-r2")
    result = house.sync("swanlab", only=["try-r2"], on_conflict="new-run").result
    assert result["remote_id"] == "try-r2-r2"
    house.sync("swanlab", only=["try-r3"])
    for run_id in ("try-r3", "try-r2-r2"):
        house.check("swanlab", run_id, losses(range(20)))
    house.swanlab.delete("try-r2-r2")
    assert house.sync("swanlab", on_conflict="new-run").results[0]["remote_id"] == "try-r2-r3"
    # A run that is called as the next id of another one would be.
    made(house.runs, "try-r3-r2")
    house.swanlab.delete("try-r3")
    assert house.sync("swanlab", on_conflict="new-run", only=["try-r3"]).result["remote_id"] == "try-r3-r3"


# Several syncs, and ledgers that are not what they were.


def test_syncs_that_begin_in_the_same_moment_share_a_new_ledger(house: House) -> None:
    made(house.runs, steps=range(50))
    outcomes = [house.end(process) for process in [house.start("swanlab") for _ in range(3)]]
    assert 0 in [outcome.status for outcome in outcomes]
    for outcome in outcomes:
        assert outcome.status == 0 or "is being synced by" in outcome.reason, outcome.said
    house.check("swanlab", "a1", losses(range(50)))


def test_a_lost_ledger_costs_nothing(house: House, remote: str) -> None:
    run = begin(house.runs)
    house.sync(remote)
    add(run, range(20, 30))
    offline_tracker.finish()
    shutil.rmtree(house.runs.path / ".sync")
    result = house.sync(remote).result
    assert (result["status"], result["sent"], result["remote_id"]) == ("confirmed", 10, "a1")
    house.check(remote, "a1", losses(range(30)))
    assert len(house.double(remote).runs) == 1


def test_a_copy_of_the_folder_goes_on_where_the_other_was(house: House, tmp_path: Path) -> None:
    run = begin(house.runs)
    house.sync("swanlab")
    add(run, range(20, 30))
    copy = tmp_path / "copy"
    shutil.copytree(house.runs.path, copy, ignore=shutil.ignore_patterns(".sync"))
    # It still says running: its holder lives here. The row that may be open is closed by commit=True.
    result = house.sync("swanlab", runs=str(copy)).result
    assert (result["status"], result["sent"], result["remote_id"]) == ("confirmed", 10, "a1")
    add(run, range(30, 35))
    offline_tracker.finish()
    assert house.sync("swanlab").result["sent"] == 5
    house.check("swanlab", "a1", losses(range(35)))
    assert len(house.swanlab.runs) == 1


# Bad input.


def test_what_makes_no_sense_is_said_before_anything_is_sent(house: House, tmp_path: Path) -> None:
    made(house.runs)
    keys = {name: house.env.pop(name) for name in ("WANDB_API_KEY", "SWANLAB_API_KEY")}
    assert "set WANDB_API_KEY" in house.sync("wandb", status=2).said
    assert "set SWANLAB_API_KEY" in house.sync("swanlab", status=2).said
    assert "no credentials for any remote" in house.sync(status=2).said
    house.env |= keys
    assert "unknown remote 'mlflow'; use swanlab or wandb" in house.sync("mlflow", status=2).said
    assert "no folder" in house.sync("wandb", status=2, runs=str(tmp_path / "none")).said
    assert "no run 'b2' in" in house.sync("wandb", status=1, only=["b2"]).said
    assert house.wandb.by_path == {} and house.swanlab.runs == {}


def test_a_broken_run_does_not_stop_the_others(house: House) -> None:
    for run_id in ("a1", "b2", "c3", "d4"):
        made(house.runs, run_id, steps=range(3000))
    (house.runs.folder("b2") / "run.db").write_bytes(b"no database")
    whole = (house.runs.folder("c3") / "run.db").read_bytes()
    page = len(whole) // 2 // 4096 * 4096  # its head is all right, a page in the middle is not
    (house.runs.folder("c3") / "run.db").write_bytes(whole[:page] + b"\xff" * 8192 + whole[page + 8192 :])
    outcome = house.sync("swanlab", status=1)
    assert {result["run"]: result["status"] for result in outcome.results} == {
        **{"a1": "confirmed", "b2": "failed", "c3": "failed", "d4": "confirmed"},
    }
    for result in outcome.results[1:3]:
        assert result["reason"] and result["run"] in result["reason"], result
    for run_id in ("a1", "d4"):
        house.check("swanlab", run_id, losses(range(3000)))
    assert [link.run for link in links(house)] in (["a1", "d4"], ["a1", "c3", "d4"])


def links(house: House) -> list[Any]:
    with Ledger(house.runs.path) as ledger:
        return ledger.links()


def test_a_project_that_a_remote_refuses_costs_only_its_own_run(house: House, remote: str) -> None:
    made(house.runs, project="bad/name")
    made(house.runs, "b2")
    outcome = house.sync(remote, status=1)
    assert [result["status"] for result in outcome.results] == ["failed", "confirmed"]
    assert "'bad/name' is refused" in outcome.results[0]["reason"] and "--project" in outcome.results[0]["reason"]
    with Ledger(house.runs.path) as ledger:
        assert [link.run for link in ledger.links()] == ["b2"]
        assert ledger._db.execute("SELECT count(*) FROM batch").fetchone() == (1,)
    assert [run.id if remote == "wandb" else run.run_id for run in house.double(remote).runs.values()] == ["b2"]


def test_the_uploader_has_a_wandb_core_of_its_own(house: House) -> None:
    made(house.runs, steps=range(50))
    argv: set[str] = set()
    house.wandb.fault("file_stream", hook=lambda _: argv.update(house.living()))
    house.sync("wandb")
    assert any("wandb_uploader" in words for words in argv)
    # What ends the one must not end, or outlive in, the other.
    assert sum("wandb-core" in words for words in argv) == 2
