"""What a trainer holds: the surface of wandb and swanlab, and what is left of it however the process ends."""

from __future__ import annotations

import json
import signal
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import offline_tracker as wandb
from offline_tracker import Eta, NullRun, Run, UsageError, curve
from offline_tracker.store import Runs
from offline_tracker.values import SEPARATOR

from .conftest import Start, curve_of, only_id, read, rows_of, said, stored
from .doubles.server import wait_until

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    import torch

Python = Callable[..., str]


# MiniMind, line by line (trainers.md).

MINIMIND = """
import os, sys, signal, warnings
warnings.filterwarnings("ignore")
import torch
import offline_tracker as wandb
path, until, how = sys.argv[2], int(sys.argv[3]), sys.argv[4]
ckp_data = torch.load(path, weights_only=True) if os.path.exists(path) else None
wandb_id = ckp_data.get("wandb_id") if ckp_data else None
resume = "must" if wandb_id else None
wandb.init(project="MiniMind-Pretrain", name="MiniMind-Epoch-1", id=wandb_id, resume=resume, dir=sys.argv[1])
for step in range(ckp_data["step"] + 1 if ckp_data else 1, until + 1):
    if step % 100 == 0:
        lr = 5e-4 * (0.1 + 0.45 * (1 + __import__("math").cos(3.14159 * step / 4000)))
        if wandb: wandb.log({"loss": 9.0 / step + float(bool(ckp_data)) / 7, "lr": lr, "epoch_Time": (4000 - step) // 100})
    if step % 1000 == 0:
        wandb_id = None
        if wandb:
            if hasattr(wandb, "get_run"):
                run = wandb.get_run()
                wandb_id = getattr(run, "id", None) if run else None
            else:
                wandb_id = getattr(wandb, "id", None)
        torch.save({"step": step, "wandb_id": wandb_id}, path + ".tmp")
        os.replace(path + ".tmp", path)
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_minimind_killed_and_resumed_is_one_run_with_each_step_once(runs: Runs, python: Python, tmp_path: Path) -> None:
    checkpoint = tmp_path / "pretrain.pth"
    python(MINIMIND, checkpoint, 1750, "kill", status=-signal.SIGKILL)
    run_id = only_id(runs)
    saved = torch.load(checkpoint, weights_only=True)
    assert saved == {"step": 1000, "wandb_id": run_id}
    assert type(saved["wandb_id"]) is str
    assert len(curve_of(runs, run_id)) == 17
    python(MINIMIND, checkpoint, 2999, "exit")
    rows = curve_of(runs, run_id)
    assert list(rows) == list(range(29))
    rates = [row["lr"] for row in rows.values()]
    assert rates == sorted(set(rates), reverse=True)  # one smooth line: 1100 to 1700 are not there twice
    assert [row["epoch_Time"] for row in rows.values()] == list(range(39, 10, -1))
    assert [row["loss"] > 9.0 / (100 * (step + 1)) for step, row in rows.items()] == [False] * 10 + [True] * 19
    with runs.read(run_id) as reader:
        assert [attempt.reason for attempt in reader.attempts] == ["new", "the id was given"]
        assert [(rewind.seq, rewind.step) for rewind in reader.rewinds] == [(17, 9)]
        assert (reader.info.project, reader.info.name, reader.state) == (
            "MiniMind-Pretrain",
            "MiniMind-Epoch-1",
            "finished",
        )
        assert [mark.seq for mark in reader.marks] == [10, 27]


def test_a_finished_training_that_is_started_again_leaves_no_trace(runs: Runs) -> None:
    # MiniMind's last checkpoint says that nothing is left to do: init, no log, the end.
    options: dict[str, Any] = {"project": "p", "name": "n", "dir": runs.path, "config": {"lr": 0.1}}
    wandb.init(**options, id="a1").log({"loss": 1.0})
    wandb.finish()
    before = read(runs)
    again = wandb.init(**options, id="a1", resume="must")
    assert again.id == "a1"
    assert wandb.get_run() is again
    after = read(runs)
    assert (after.attempts, after.state) == (before.attempts, "finished")
    assert rows_of(runs.read("a1")) == {0: {"loss": 1.0}}
    assert not list(runs.folder("a1").glob("journal-*"))


def test_nanogpt_resumed_from_an_older_step_rewinds_to_before_it(runs: Runs, python: Python) -> None:
    program = """
import os, sys, signal
import offline_tracker as wandb
run = wandb.init(project="owt", name="gpt2", dir=sys.argv[1], id="g1", resume="allow")
for iter_num in range(int(sys.argv[2]), int(sys.argv[3]), 10):
    wandb.log({"iter": iter_num, "train/loss": iter_num + int(sys.argv[2]) / 1000}, iter_num)
    wandb.log({"val/loss": 1.0}, step=iter_num)
os.kill(os.getpid(), signal.SIGKILL)
"""
    python(program, 0, 500, status=-signal.SIGKILL)
    python(program, 200, 300, status=-signal.SIGKILL)
    rows = curve_of(runs, "g1")
    assert list(rows) == list(range(0, 300, 10))
    assert {step: row["train/loss"] - step for step, row in rows.items() if step in (190, 200)} == pytest.approx(
        {190: 0.0, 200: 0.2}
    )
    assert all(row["val/loss"] == 1.0 for row in rows.values())


# The semantics of log, as wandb has them.

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def c(*args: Any, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, options


SEMANTICS: dict[str, tuple[Calls, dict[int, dict[str, Any]], int]] = {
    "each call without a step is a row": ([c({"a": 1}), c({"a": 2})], {0: {"a": 1}, 1: {"a": 2}}, 2),
    "commit=False only merges": (
        [c({"a": 1}, commit=False), c({"b": 2}, commit=False), c({"c": 3}), c({"a": 4})],
        {0: {"a": 1, "b": 2, "c": 3}, 1: {"a": 4}},
        2,
    ),
    "commit=False leaves the row open": ([c({"a": 1}), c({"a": 2}, commit=False)], {0: {"a": 1}, 1: {"a": 2}}, 1),
    "commit=True closes a row without a step": ([c({"a": 1}, commit=True), c({"b": 1})], {0: {"a": 1}, 1: {"b": 1}}, 2),
    "a larger step closes the open row": (
        [c({"a": 1}, step=3), c({"a": 2}, step=7), c({"b": 3}, step=7)],
        {3: {"a": 1}, 7: {"a": 2, "b": 3}},
        7,
    ),
    "a larger step closes a row that commit=False left open": (
        [c({"a": 1}, commit=False), c({"b": 2}, step=4)],
        {0: {"a": 1}, 4: {"b": 2}},
        4,
    ),
    "the same step merges": ([c({"a": 1}, step=5), c({"b": 2}, step=5)], {5: {"a": 1, "b": 2}}, 5),
    "the last value of a key wins": ([c({"a": 1, "b": 1}, step=5), c({"a": 2}, step=5)], {5: {"a": 2, "b": 1}}, 5),
    "a smaller step is dropped": ([c({"a": 1}, step=5), c({"a": 2}, step=4), c({"a": 3}, step=0)], {5: {"a": 1}}, 5),
    "a call without a step joins the open row and closes it": (
        [c({"a": 1}, step=10), c({"b": 2}), c({"c": 3})],
        {10: {"a": 1, "b": 2}, 11: {"c": 3}},
        12,
    ),
    "commit=True closes the step it names": (
        [c({"a": 1}, step=20, commit=True), c({"b": 2}, step=20), c({"c": 3})],
        {20: {"a": 1}, 21: {"c": 3}},
        22,
    ),
    "commit=False with a step is the same as without": (
        [c({"a": 1}, step=2, commit=False), c({"b": 1}, step=2), c({"c": 1}, step=3)],
        {2: {"a": 1, "b": 1}, 3: {"c": 1}},
        3,
    ),
    "an empty dict takes a step and makes no row": ([c({"a": 1}), c({}), c({"a": 3})], {0: {"a": 1}, 2: {"a": 3}}, 3),
    "an empty dict closes the open row": ([c({"a": 1}, commit=False), c({}), c({"b": 1})], {0: {"a": 1}, 1: {"b": 1}}, 2),
    "step by position, data by keyword, sync and others ignored": (
        [c({"a": 1}, 4), c(data={"b": 2}, step=4), c(data={"c": 3}, step=5, sync=True, whatever=object())],
        {4: {"a": 1, "b": 2}, 5: {"c": 3}},
        5,
    ),
    "thirty-two calls an iteration are one row (Megatron)": (
        [c({f"m{number}": number}, iteration) for iteration in (1, 2) for number in range(32)],
        {iteration: {f"m{number}": number for number in range(32)} for iteration in (1, 2)},
        2,
    ),
    "nested dicts keep their path": (
        [c({"a": {"b": 1, "c": {"d": 2}}})],
        {0: {f"a{SEPARATOR}b": 1, f"a{SEPARATOR}c{SEPARATOR}d": 2}},
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEMANTICS)
def test_log(name: str, run: Run, runs: Runs) -> None:
    calls, rows, step = SEMANTICS[name]
    for args, options in calls:
        wandb.log(*args, **options)
    assert run.step == step
    assert stored(runs) == rows


def test_a_step_that_falls_is_said_once(run: Run, runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    for step in (5, 4, 3, 2, 6):
        run.log({"a": step}, step=step)
    assert stored(runs) == {5: {"a": 5}, 6: {"a": 6}}
    (text,) = said(caplog)
    assert "step 4" in text and "step 5" in text and "a1" in text


def test_the_time_of_a_row_is_that_of_its_last_call(run: Run, runs: Runs) -> None:
    moments = []
    for _ in range(3):
        moments.append(time.time())
        run.log({"a": 1}, step=0)
    moments.append(time.time())
    wandb.finish()
    with runs.read("a1") as reader:
        (row,) = curve.rows(reader.calls(curve.live_spans([], reader.last_seq)))
    assert moments[2] <= row.time <= moments[3]


def test_the_summary_is_the_last_value_and_what_was_set_by_hand_wins(run: Run, runs: Runs) -> None:
    run.log({"loss": 2.0, "acc": 0.5})
    run.log({"loss": 1.0})
    assert dict(run.summary) == {"loss": 1.0, "acc": 0.5}
    wandb.summary["acc"] = 0.9
    run.summary.update({"best": 7}, note="x")
    run.log({"acc": 0.1})
    assert dict(run.summary) == {"loss": 1.0, "acc": 0.9, "best": 7, "note": "x"}
    assert run.summary.get("nothing", 3) == 3
    del run.summary["note"]
    wandb.finish()
    with runs.read("a1") as reader:
        assert reader.summary() == {"acc": 0.9, "best": 7}
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        assert reader.last_values(spans) == {"loss": (1, 1.0), "acc": (2, 0.1)}


def test_config_is_kept_in_all_the_ways_in_which_trainers_set_it(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    import argparse

    wandb.init(dir=runs.path, id="a1", config=argparse.Namespace(lr=0.1, layers=[1, 2]))
    wandb.config.update({"bs": 4, "odd": {1, 2}, 5: "five"})
    wandb.config.update(argparse.Namespace(warmup=10))
    wandb.config["seed"] = 1
    wandb.config.act = "gelu"
    wandb.config.setdefaults({"seed": 2, "wd": 0.0})
    wandb.config.update({"tensor": torch.tensor(2.5), "nan": float("nan")})
    assert (wandb.config.lr, wandb.config["bs"], wandb.config.get("x", 9), wandb.config.seed) == (0.1, 4, 9, 1)
    assert {"lr", "layers", "bs", "act"} <= set(wandb.config.keys())
    with pytest.raises(AttributeError, match="nothing"):
        _ = wandb.config.nothing
    assert said(caplog) == []
    wandb.config.update({"lr": 0.2, "seed": 3})
    wandb.config.update({"lr": 0.3})
    wandb.config.update({"bs": 8}, allow_val_change=True)
    assert len(said(caplog)) == 2  # one a key, none where it was allowed
    assert "'lr'" in said(caplog)[0] and "0.1" in said(caplog)[0] and "0.2" in said(caplog)[0]
    config = dict(read(runs).info.config or {})
    assert str(config.pop("nan")) == "nan"
    assert config == {
        **{"lr": 0.3, "layers": [1, 2], "bs": 8, "odd": [1, 2], "5": "five", "warmup": 10, "seed": 3, "act": "gelu"},
        **{"wd": 0.0, "tensor": 2.5},
    }


def test_a_resume_with_another_config_warns_and_keeps_the_old_one_in_its_attempt(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    for lr in (0.1, 0.2):
        wandb.init(dir=runs.path, id="a1", config={"lr": lr, "bs": 4}).log({"a": lr})
        wandb.finish()
    assert len(said(caplog)) == 1
    reader = read(runs)
    assert reader.info.config == {"lr": 0.2, "bs": 4}
    assert [attempt.config["lr"] for attempt in reader.attempts] == [0.1, 0.2]


def test_define_metric_alert_name_tags_and_notes_are_stored(run: Run, runs: Runs) -> None:
    wandb.define_metric("train/*", step_metric="train/global_step", step_sync=True)
    run.define_metric("loss", summary="min,last", hidden=None)
    run.define_metric("loss", summary="max")
    run.log({"loss": 1})
    wandb.alert("loss is NaN", text="look", level="WARN")
    run.name, run.notes, run.tags = "renamed", "a note", ["x", "y"]
    assert (run.name, run.notes, run.tags) == ("renamed", "a note", ("x", "y"))
    wandb.finish()
    with runs.read("a1") as reader:
        assert reader.definitions() == {
            "train/*": {"step_metric": "train/global_step", "step_sync": True},
            "loss": {"summary": "max"},
        }
        ((seq, _, title, text, level),) = reader.alerts()
        assert (seq, title, text, level) == (1, "loss is NaN", "look", "WARN")
        assert (reader.info.name, reader.info.notes, reader.info.tags) == ("renamed", "a note", ("x", "y"))


# The surface.


def test_there_is_no_run_before_init_and_behind_finish(runs: Runs) -> None:
    for _ in range(2):
        assert wandb.run is None
        assert wandb.get_run() is None
        assert wandb.has_run() is False
        run = wandb.init(dir=runs.path)
        assert wandb.run is run is wandb.get_run()
        assert wandb.has_run() is True
        wandb.finish()


def test_a_run_that_was_finished_by_itself_is_not_the_current_one_any_more(runs: Runs) -> None:
    first = wandb.init(dir=runs.path, id="a1")
    first.log({"a": 1})
    first.finish()
    assert wandb.run is None
    second = wandb.init(dir=runs.path, id="b2")
    second.log({"a": 2})
    assert second is not first
    with wandb.init(dir=runs.path, id="c3", reinit=True) as third:
        third.log({"a": 3})
    assert wandb.run is None
    assert [curve_of(runs, run_id)[0]["a"] for run_id in ("a1", "b2", "c3")] == [1, 2, 3]


def test_a_run_is_true_and_has_what_trainers_read(run: Run, runs: Runs) -> None:
    assert bool(run) is True
    assert (run.name, run.project, run.entity, run.url, run.group, run.tags, run.notes) == (
        "n",
        "p",
        "",
        None,
        "",
        (),
        "",
    )
    assert (run.offline, run.resumed, run.step, run.job_type) == (True, False, 0, "")
    assert run.path == "p/a1"
    assert run.dir == str(runs.folder("a1") / "files")
    run._label(code="transformers")
    with pytest.raises(AttributeError, match="nothing"):
        _ = wandb.nothing


def test_names_of_wandb_and_swanlab_mean_the_same(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    run = wandb.init(
        project="p",
        experiment_name="n",
        description="about",
        workspace="team",
        logdir=str(runs.path),
        settings=object(),
        save_code=True,
        tags="one",
        unheard_of=1,
    )
    assert (run.name, run.notes, run.entity, run.tags) == ("n", "about", "team", ("one",))
    assert runs.ids() == [run.id]
    assert len(said(caplog)) == 1
    assert "unheard_of" in said(caplog)[0]
    wandb.finish()
    wandb.init(dir=runs.path, unheard_of=2)
    assert len(said(caplog)) == 1


def test_a_second_init_returns_the_run_that_is_there(run: Run, runs: Runs) -> None:
    assert wandb.init(dir=runs.path, id="b2") is run
    assert wandb.init(project="other", reinit="return_previous") is run
    assert runs.ids() == ["a1"]


def test_reinit_finishes_the_run_and_begins_another(run: Run, runs: Runs) -> None:
    run.log({"a": 1})
    other = wandb.init(dir=runs.path, id="b2", reinit=True)
    other.log({"a": 2})
    assert wandb.run is other
    assert stored(runs, "b2") == {0: {"a": 2}}
    assert curve_of(runs, "a1") == {0: {"a": 1}}
    assert read(runs).state == "finished"


def test_finish_twice_is_fine_and_log_behind_it_warns_once(
    run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run.log({"a": 1})
    run.finish()
    run.finish(exit_code=1)
    wandb.finish()
    wandb.finish()
    run.log({"a": 2})
    run.log({"a": 3})
    assert len(said(caplog)) == 1
    assert "finished" in said(caplog)[0]
    wandb.log({"a": 4})
    wandb.log({"a": 5})
    assert len(said(caplog)) == 2
    run.config["x"] = 1
    run.summary["x"] = 1
    run.define_metric("x")
    run.alert("x")
    run.mark_checkpoint()
    run.name = "x"
    assert run.id == "a1"
    assert stored(runs) == {0: {"a": 1}}
    assert read(runs).state == "finished"


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({}, "finished"),
        ({"exit_code": 0}, "finished"),
        ({"exit_code": 3}, "failed"),
        ({"state": "success"}, "finished"),
        ({"state": "crashed", "error": "out of memory"}, "failed"),
        ({"quiet": True}, "finished"),
    ],
)
def test_the_state_is_what_finish_was_told(options: dict[str, Any], state: str, run: Run, runs: Runs) -> None:
    run.log({"a": 1})
    wandb.finish(**options)
    assert read(runs).state == state


def test_a_with_block_that_raises_leaves_a_failed_run(runs: Runs) -> None:
    with pytest.raises(ValueError, match="boom"), wandb.init(dir=runs.path, id="a1") as run:
        run.log({"a": 1})
        raise ValueError("boom")
    assert read(runs).state == "failed"


def test_a_finished_run_can_go_on(run: Run, runs: Runs) -> None:
    run.log({"a": 1})
    wandb.finish()  # Lightning does so before a requeue
    again = wandb.init(dir=runs.path, id="a1", resume="must")
    assert again.resumed is True
    assert again.step == 1
    again.log({"a": 2})
    assert stored(runs) == {0: {"a": 1}, 1: {"a": 2}}
    assert (read(runs).state, len(read(runs).attempts)) == ("finished", 2)


def test_functions_without_a_run_say_so_and_log_does_not_stop_a_training(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        wandb.log({"a": 1})
    wandb.finish()
    assert len(said(caplog)) == 1
    for function in (
        lambda: wandb.define_metric("a"),
        lambda: wandb.alert("a"),
        lambda: wandb.config,
        lambda: wandb.summary,
    ):
        with pytest.raises(UsageError, match=r"init\(\)"):
            function()


def test_watch_is_one_warning(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        wandb.watch(object(), log="all")
        run.watch(object())
        run.unwatch()
    assert len(said(caplog)) == 1
    assert wandb.login(key="x") is True


def test_disabled_writes_nothing_and_looks_the_same(runs: Runs) -> None:
    run = wandb.init(dir=runs.path, mode="disabled", project="p")
    wandb.log({"a": 1})
    run.config.update({"a": 1})
    run.summary["a"] = 1
    run.define_metric("a")
    run.alert("a")
    run.mark_checkpoint()
    assert isinstance(run.id, str) and len(run.id) == 8
    wandb.finish()
    assert wandb.run is None
    assert not runs.path.exists()


def test_a_null_run_has_every_public_name_of_a_run() -> None:
    public = {name for name in dir(Run) if not name.startswith("_")}
    own = {"discard", "forks", "forked", "take_over", "copy_rows", "rewind_to", "sample", "learn", "keep_console"}
    assert public - own <= set(dir(NullRun))


def test_what_a_trainer_sets_on_a_run_can_be_set_on_every_rank(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    run = wandb.init(dir=runs.path, id="a1")
    run.name, run.notes, run.tags = "another", "a note", ["x"]
    run.flush()
    assert (run.name, run.notes, run.tags) == ("another", "a note", ("x",))
    assert not runs.path.exists()


# The id, and the marks that it leaves.


def marks(runs: Runs) -> list[tuple[int, str | None]]:
    return [(mark.seq, mark.name) for mark in read(runs).marks]


def test_reading_the_id_marks_the_call_before_it(run: Run, runs: Runs) -> None:
    assert run.id == "a1"  # before the first log: no mark
    run.log({"a": 1})
    run.log({"a": 2})
    assert type(run.id) is str
    assert run.id == run.id
    run.log({"a": 3})
    assert wandb.get_run().id == "a1"
    assert marks(runs) == [(2, None), (3, None)]


def test_other_names_of_a_run_leave_no_mark(run: Run, runs: Runs) -> None:
    run.log({"a": 1})
    _ = (run.name, run.path, run.dir, run.project, run.step, run.url, repr(run), run.config, run.summary)
    assert marks(runs) == []


def test_a_mark_by_name_is_kept_beside_one_without(run: Run, runs: Runs) -> None:
    run.mark_checkpoint("too early")
    run.log({"a": 1})
    run.mark_checkpoint("best.pt")
    run.log({"a": 2})
    assert run.id
    run.mark_checkpoint("last.pt")
    assert marks(runs) == [(1, "best.pt"), (2, "last.pt")]


def test_the_id_that_is_read_before_the_first_log_of_a_resume_leaves_no_mark(run: Run, runs: Runs) -> None:
    run.log({"a": 1})
    wandb.finish()
    again = wandb.init(dir=runs.path, id="a1")
    assert again.id == "a1"
    assert marks(runs) == []
    again = wandb.init(dir=runs.path, id="a1")
    again.log({"a": 2})
    assert again.id == "a1"
    assert marks(runs) == [(2, None)]


# However the process ends: see test_kill_matrix.py, and here what is beside it.


def test_more_than_one_journal_is_read_after_a_kill(runs: Runs, python: Python) -> None:
    program = """
import os, signal, sys
import offline_tracker as wandb
from offline_tracker import journal
run = wandb.init(dir=sys.argv[1], id="a1")
for number in range(40):
    wandb.log({"n": number, "text": "x" * 500_000})
os.kill(os.getpid(), signal.SIGKILL)
"""
    python(program, status=-signal.SIGKILL)
    rows = curve_of(runs, "a1")
    assert [row["n"] for row in rows.values()] == list(range(40))
    assert {len(row["text"]) for row in rows.values()} == {500_000}


def test_a_journal_that_grew_is_replaced_and_does_not_fill_the_disk(run: Run, runs: Runs) -> None:
    for number in range(30):
        run.log({"n": number, "text": "x" * 500_000})
    run.flush()
    run.log({"n": 30})
    run.flush()
    wait_until(lambda: sum(path.stat().st_size for path in runs.folder("a1").glob("journal-*")) < 2 << 20)
    run.log({"n": 31})
    assert [row["n"] for row in stored(runs).values()] == list(range(32))


def test_a_call_in_an_exit_handler_that_runs_behind_ours_warns_and_does_not_hang(runs: Runs, python: Python) -> None:
    program = """
import atexit, sys
def late():
    wandb.log({"late": 1})
    print(wandb.run)
atexit.register(late)
import offline_tracker as wandb
wandb.init(dir=sys.argv[1], id="a1").log({"a": 1})
"""
    assert python(program) == "None\n"
    assert curve_of(runs, "a1") == {0: {"a": 1}}


FULL_DISK = """
import os, resource, signal, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
for number in range(10):
    wandb.log({"n": number})
run.flush()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))      # from here on no file can grow, as on a full disk
for number in range(10, 2000):
    wandb.log({"n": number})
wandb.config.update({"x": 1})
print(run.step, flush=True)
if sys.argv[2] == "room":
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    wandb.log({"n": 2000})
    run.flush()
    wandb.finish()
"""


def test_a_full_disk_stops_no_training_and_all_is_stored_once_there_is_room(runs: Runs, start: Start) -> None:
    process = start(FULL_DISK, "room")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "2000\n"), errors
    assert 1 <= len(errors.splitlines()) <= 2  # the journal and the store, each once
    assert curve_of(runs, "a1") == {step: {"n": step} for step in range(2001)}
    with runs.read("a1") as reader:
        assert (reader.state, reader.info.config) == ("finished", {"x": 1})


def test_a_disk_that_stays_full_ends_with_a_warning_and_what_was_written_before(runs: Runs, start: Start) -> None:
    process = start(FULL_DISK, "stays full")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    rows = curve_of(runs, "a1")
    assert len(rows) > 15  # ten in run.db, and in the journal what it had room for
    assert rows == {step: {"n": step} for step in range(len(rows))}


def test_calls_for_which_there_is_no_memory_either_are_thinned_and_their_number_is_kept(
    runs: Runs, start: Start
) -> None:
    process = start("from offline_tracker import writer\nwriter.MEMORY_CALLS = 100\n" + FULL_DISK, "room")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "2000\n"), errors
    assert errors.count("some are given up") == 1
    rows = curve_of(runs, "a1")
    assert all(row == {"n": step} for step, row in rows.items())
    with runs.read("a1") as reader:
        assert sum(gap.calls for gap in reader.gaps) == 2001 - len(rows)
    assert len(rows) < 300
    assert rows.keys() >= {*range(10), 2000}
    assert max(b - a for a, b in pairwise(rows)) < 50  # what is kept spans the whole time


# Signals.

HANDLER = """
import itertools, signal, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
numbers, handled = itertools.count(), 0
def handler(signum, frame):
    global handled
    handled = max(handled, (number := next(numbers)) + 1)  # one may come into another
    wandb.log({"handler": number, "who": "h"})
signal.signal(signal.SIGALRM, handler)
main = 0
while handled < 3000:
    signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + main % 50))
    wandb.log({"main": main, "who": "m"})
    main += 1
while signal.getitimer(signal.ITIMER_REAL)[0]:
    pass
wandb.finish()
print(main, handled)
"""


def test_a_signal_handler_that_logs_while_log_runs_loses_nothing(runs: Runs, python: Python) -> None:
    main, handled = map(int, python(HANDLER).split())
    assert handled >= 3000
    rows = curve_of(runs, "a1")
    assert [row["main"] for row in rows.values() if row["who"] == "m"] == list(range(main))
    assert sorted(row["handler"] for row in rows.values() if row["who"] == "h") == list(range(handled))
    assert list(rows) == list(range(main + handled))
    assert all(len(row) == 2 for row in rows.values())  # no two calls fell into one row
    with runs.read("a1") as reader:
        assert reader.last_seq == main + handled


def test_an_interrupt_anywhere_in_log_loses_no_other_call_and_does_not_block_the_end(
    runs: Runs, python: Python
) -> None:
    program = """
import signal, sys, time
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
def handler(signum, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
returned, interrupted, number = [], 0, 0
while interrupted < 300:
    number += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + number % 40 * 1e-6)
        while True:
            wandb.log({"n": number})
            done = number
            number += 1
            returned.append(done)
    except KeyboardInterrupt:
        interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
begun = time.monotonic()
wandb.finish()
print(time.monotonic() - begun)
print(*returned)
"""
    seconds, returned = python(program).splitlines()
    assert float(seconds) < 10
    kept = {row["n"] for row in curve_of(runs, "a1").values()}
    assert {int(number) for number in returned.split()} <= kept


def test_a_signal_handler_that_finishes_while_log_runs_does_not_wait_for_itself(runs: Runs, python: Python) -> None:
    program = """
import os, signal, sys, time
import offline_tracker as wandb
for turn in range(25):
    wandb.init(dir=sys.argv[1], id=f"r{turn}")
    stopped = False
    def handler(signum, frame):
        global stopped
        begun = time.monotonic()
        wandb.finish()
        print(turn, number, time.monotonic() - begun, flush=True)
        stopped = True
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002 + turn * 3e-6)
    number = 0
    while not stopped:
        wandb.log({"n": number})
        number += not stopped
"""
    for line in python(program).splitlines():
        turn, number, seconds = line.split()
        assert float(seconds) < 5
        with runs.read(f"r{turn}") as reader:
            found = [row["n"] for row in rows_of(reader).values()]
            assert reader.attempts[-1].ended_at is not None
        assert found[: int(number)] == list(range(int(number)))


# Time left.


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


def etas(runs: Runs) -> list[float | None]:
    return [row.get("eta") for row in stored(runs).values()]


def test_minimind_after_a_resume_shows_the_time_that_is_left() -> None:
    eta = Eta(10_000, start_step=8_000, start_time=0.0)
    assert eta.update(8_500, now=300.0) == pytest.approx(900.0)  # the old formula says 0
    assert eta.update(9_000, now=600.0) == pytest.approx(600.0)
    assert eta.update(10_000, now=1200.0) == 0.0
    assert eta.update(10_001, now=1201.0) == 0.0


def test_a_slow_start_is_not_counted_after_the_first_answer() -> None:
    eta = Eta(100, start_time=0.0)
    assert eta.update(1, now=60.0) == pytest.approx(60.0 * 99)
    assert eta.update(11, now=70.0) == pytest.approx(89.0)


def test_without_a_known_start_the_first_update_only_begins_the_measurement() -> None:
    eta = Eta(100, start_step=None, start_time=0.0)
    assert eta.update(50, now=1000.0) is None
    assert eta.update(50, now=1001.0) is None
    assert eta.update(60, now=1020.0) == pytest.approx(80.0)


def test_rows_carry_the_time_left_and_the_downtime_of_a_resume_never_counts(runs: Runs, clock: Clock) -> None:
    def train(first: int, last: int, seconds: float) -> None:
        run = wandb.init(dir=runs.path, id="a1", total_steps=100)
        for step in range(first, last):
            clock.now += seconds
            run.log({"lr": 1 / (step + 3)})
            if step == 9:
                run.mark_checkpoint()

    train(0, 20, 2.0)
    assert etas(runs) == pytest.approx([2.0 * (99 - step) for step in range(20)])
    clock.now += 3600.0
    train(10, 15, 4.0)  # on another machine, from the checkpoint behind row 9
    assert etas(runs) == pytest.approx(
        [2.0 * (99 - step) for step in range(10)] + [4.0 * (99 - step) for step in range(10, 15)]
    )


def test_the_time_left_with_steps_given_counts_them(runs: Runs, clock: Clock) -> None:
    for first in (0, 500):
        run = wandb.init(dir=runs.path, id="a1", total_steps=1000)
        for step in range(first, first + 500, 100):
            run.log({"loss": 1.0}, step=step)
            run.log({"more": 1.0}, step=step)
            clock.now += 50.0
        wandb.finish()
        clock.now += 9999.0
    found = etas(runs)
    expected = [None if step % 500 == 0 else 0.5 * (1000 - step) for step in range(0, 1000, 100)]
    assert [value is None for value in found] == [value is None for value in expected]
    assert [value for value in found if value] == pytest.approx([value for value in expected if value])


def test_a_trainers_own_eta_is_not_overwritten(runs: Runs) -> None:
    run = wandb.init(dir=runs.path, id="a1", total_steps=10)
    run.log({"eta": "soon"})
    assert etas(runs) == ["soon"]


# What importing costs.


def test_importing_loads_none_of_the_heavy_modules(python: Python) -> None:
    program = """
import sys, json
import offline_tracker as wandb
assert wandb.run is None and wandb.Run and wandb.__version__
heavy = {"torch", "wandb", "swanlab", "typer", "rich", "sqlite_utils", "numpy", "click", "requests", "subprocess"}
print(json.dumps(sorted(heavy & set(sys.modules))))
run = wandb.init(dir=sys.argv[1])
run.log({"a": 1})
wandb.finish()
print(json.dumps(sorted((heavy - {"sqlite_utils", "click", "subprocess"}) & set(sys.modules))))
"""
    first, second = python(program).splitlines()
    assert json.loads(first) == []
    assert json.loads(second) == []


def test_notices_are_seen_on_stderr_unless_the_program_has_set_up_logging(python: Python, start: Start) -> None:
    program = """
import logging, sys
if sys.argv[2:]:
    logging.basicConfig(level="ERROR")
import offline_tracker as wandb
wandb.log({})
"""
    for arguments, expected in (((), 1), (("own",), 0)):
        process = start(program, *arguments)
        _, errors = process.communicate(timeout=60)
        assert errors.count("without a run") == expected
    assert python("import offline_tracker; offline_tracker.log({})") == ""


def test_every_name_in_all_is_there(run: Run) -> None:
    for name in wandb.__all__:
        assert getattr(wandb, name) is not None
