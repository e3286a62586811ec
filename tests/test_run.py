"""What a trainer holds: the surface of wandb and swanlab, and what is left of it however the process ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import offline_tracker as wandb
from offline_tracker import Eta, NullRun, Run, RunExists, RunNotFound, UsageError, curve
from offline_tracker.store import RunReader, Runs
from offline_tracker.values import SEPARATOR

from .conftest import Start, curve_of, rows_of
from .doubles.server import wait_until

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    import torch

Python = Callable[..., str]


@pytest.fixture
def run(runs: Runs) -> Iterator[Run]:
    yield wandb.init(dir=runs.path, id="a1", project="p", name="n")


def stored(runs: Runs, run_id: str = "a1") -> dict[int, dict[str, Any]]:
    wandb.finish()
    return curve_of(runs, run_id)


def read(runs: Runs, run_id: str = "a1") -> RunReader:
    wandb.finish()
    reader = runs.read(run_id)
    reader.close()  # what it read at once is kept
    return reader


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def only_id(runs: Runs) -> str:
    (run_id,) = runs.ids()
    return run_id


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
    own = {"discard", "forked", "take_over", "copy_rows", "rewind_to"}
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


# Which run it is.


def begin(runs: Runs, run_id: str, exit_code: int = 0, **options: Any) -> None:
    wandb.init(dir=runs.path, id=run_id, **options).log({"a": 1})
    wandb.finish(exit_code=exit_code)


def test_a_generated_id_has_eight_characters_and_is_new_each_time(runs: Runs) -> None:
    ids = []
    for _ in range(3):
        ids.append(wandb.init(dir=runs.path).id)
        wandb.log({"a": 1})
        wandb.finish()
    assert sorted(ids) == runs.ids()
    assert all(len(run_id) == 8 and run_id.isalnum() and run_id == run_id.lower() for run_id in ids)


def test_an_id_that_exists_goes_on_and_this_is_said(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "offline_tracker")
    begin(runs, "a1")
    assert said(caplog, logging.INFO) == []
    begin(runs, "a1")
    assert any("a1 goes on" in text and "attempt 2" in text for text in said(caplog, logging.INFO))
    assert len(curve_of(runs, "a1")) == 2


def test_never_refuses_a_run_that_is_there(runs: Runs) -> None:
    begin(runs, "a1", resume="never")
    with pytest.raises(RunExists, match="'a1'"):
        begin(runs, "a1", resume="never")
    assert wandb.run is None
    assert len(read(runs).attempts) == 1


def test_allow_goes_on_or_begins(runs: Runs) -> None:
    begin(runs, "a1", resume="allow")
    begin(runs, "a1", resume="allow")
    begin(runs, "b2", resume=True)
    assert (len(curve_of(runs, "a1")), len(curve_of(runs, "b2"))) == (2, 1)


def test_must_names_the_runs_that_are_close(runs: Runs) -> None:
    for run_id in ("pretrain-1", "pretrain-2", "sft"):
        begin(runs, run_id)
    with pytest.raises(RunNotFound) as caught:
        begin(runs, "pretrain-3", resume="must")
    text = str(caught.value)
    assert all(part in text for part in ("'pretrain-3'", "pretrain-1", "pretrain-2", str(runs.path)))
    assert "sft" not in text and "\n" not in text
    assert "pretrain-3" not in runs
    with pytest.raises(UsageError, match="needs an id"):
        wandb.init(dir=runs.path, resume="must")


def test_an_unknown_resume_is_refused_before_anything_is_made(runs: Runs) -> None:
    with pytest.raises(UsageError, match="'sometimes'"):
        begin(runs, "a1", resume="sometimes")
    for moment in ("a1", "a1?step=3", "?_step=3", "a1?_step=x"):
        with pytest.raises(UsageError, match="_step=N"):
            wandb.init(dir=runs.path, resume_from=moment)
    assert runs.ids() == []


def test_auto_takes_the_newest_unfinished_run_of_project_and_name(runs: Runs, start: Start) -> None:
    begin(runs, "old", exit_code=1, project="p", name="n")
    begin(runs, "new", exit_code=1, project="p", name="n")
    begin(runs, "done", project="p", name="n")
    begin(runs, "other-name", exit_code=1, project="p", name="m")
    begin(runs, "other-project", exit_code=1, project="q", name="n")
    program = """
import sys
import offline_tracker as wandb
wandb.init(dir=sys.argv[1], id="held", project="p", name="n").log({"a": 1})
print("ready", flush=True)
sys.stdin.read()
"""
    process = start(program)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    run = wandb.init(dir=runs.path, project="p", name="n", resume="auto")
    assert (run.id, run.resumed) == ("new", True)
    process.kill()
    process.wait()
    run.finish()
    assert wandb.init(dir=runs.path, project="p", name="n", resume="auto").id == "held"
    wandb.finish()
    assert wandb.init(dir=runs.path, project="nobody", resume="auto").resumed is False


def test_the_environment_names_the_run_ours_first(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_TRACKER_DIR", str(runs.path))
    for name in ("SWANLAB_RUN_ID", "WANDB_RUN_ID", "OFFLINE_TRACKER_RUN_ID"):
        monkeypatch.setenv(name, name.lower())
        assert wandb.init().id == name.lower()
        wandb.finish()
    assert wandb.init(id="given").id == "given"
    assert len(runs.ids()) == 4


def test_a_requeued_slurm_job_goes_on_with_its_run_of_the_same_name(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(restarts: int, job_id: str = "77", **options: Any) -> str:
        monkeypatch.setenv("SLURM_JOB_ID", job_id)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        run = wandb.init(dir=runs.path, **options)
        run.log({"a": 1})
        wandb.finish()
        return run.id  # type: ignore[no-any-return]

    pretrain, sft = job(0, project="p", name="pretrain"), job(0, project="p", name="sft")
    assert len({pretrain, sft, job(0, project="p", name="sft", job_id="78")}) == 3
    assert job(1, project="p", name="pretrain") == pretrain
    assert job(2, project="p", name="sft") == sft
    assert job(1, project="p", name="rl") not in (pretrain, sft)
    assert job(1, project="p", name="sft", resume="never") != sft
    assert job(0, project="p", name="sft") != sft  # another job that got the number again


def test_a_torchelastic_restart_goes_on_with_its_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for name, restarts in (("job", 0), ("job", 1), ("none", 1)):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        ids.append(wandb.init(dir=runs.path, project="p").id)
        wandb.log({"a": 1})
        wandb.finish()
    assert ids[0] == ids[1] != ids[2]


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


def test_calls_for_which_there_is_no_memory_either_are_not_lost_in_silence(start: Start) -> None:
    process = start("from offline_tracker import writer\nwriter.MEMORY_CALLS = 100\n" + FULL_DISK, "room")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "2000\n"), errors
    assert errors.count("from here on they are lost") == 1


# Signals, threads, forks.

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


def test_eight_threads_log_at_once(run: Run, runs: Runs) -> None:
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        for number in range(400):
            run.log({"thread": thread, "number": number})

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    rows = stored(runs)
    assert list(rows) == list(range(3200))
    for thread_number in range(8):
        numbers = [row["number"] for row in rows.values() if row["thread"] == thread_number]
        assert numbers == list(range(400))  # each thread's own order is kept
    with runs.read("a1") as reader:
        every = list(reader.calls([(1, reader.last_seq, None)]))
        assert [call.seq for call in every] == list(range(1, 3201))
        assert [call.time for call in every] == sorted(call.time for call in every)


def test_threads_that_log_while_the_run_finishes_lose_nothing_silently(runs: Runs) -> None:
    for turn in range(5):
        run = wandb.init(dir=runs.path, id=f"r{turn}")
        returned: list[int] = []
        stop = threading.Event()

        def work(run: Run = run, returned: list[int] = returned, stop: threading.Event = stop) -> None:
            number = 0
            while not stop.is_set():
                run.log({"n": number})
                if not run.finished:
                    returned.append(number)
                number += 1

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda returned=returned: len(returned) > 50)  # type: ignore[misc]
        wandb.finish()
        stop.set()
        thread.join()
        kept = {row["n"] for row in curve_of(runs, f"r{turn}").values()}
        assert set(returned) <= kept


FORK = """
import os, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
for number in range(100):
    wandb.log({"n": number})
pid = os.fork()
if pid == 0:
    for _ in range(10):
        wandb.log({"child": 1})
        run.log({"child": 1})
    run.config["child"] = run.summary["child"] = 1
    run.mark_checkpoint("child")
    wandb.define_metric("child")
    if sys.argv[2] == "finish": wandb.finish()
    if sys.argv[2] == "_exit": os._exit(0)
    if sys.argv[2] == "raise": raise SystemExit(5)
    sys.exit(0)
os.waitpid(pid, 0)
for number in range(100, 200):
    wandb.log({"n": number})
run.flush()
wandb.finish()
"""


@pytest.mark.parametrize("end", ["exit", "_exit", "finish", "raise"])
def test_a_forked_child_writes_nothing_and_the_parent_goes_on(end: str, runs: Runs, start: Start) -> None:
    process = start(FORK, end)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors.count("forked child") == 1, errors
    with runs.read("a1") as reader:
        assert rows_of(reader) == {step: {"n": step} for step in range(200)}
        assert (reader.state, len(reader.attempts), reader.info.config, reader.marks) == ("finished", 1, {}, [])
        assert "child" not in reader.summary() and "child" not in reader.definitions()


def test_a_fork_in_the_middle_of_a_commit_breaks_nothing(runs: Runs, start: Start) -> None:
    program = """
import gc, os, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
pids = []
for number in range(6000):
    wandb.log({"n": number})
    if number % 300 == 0:
        pid = os.fork()
        if pid == 0:
            del run
            wandb.session._current = None
            gc.collect()       # a connection that were collected here would roll back the parent's transaction
            sys.exit(0)
        pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""
    process = start(program)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert curve_of(runs, "a1") == {step: {"n": step} for step in range(6000)}


def test_a_forked_child_may_begin_a_run_of_its_own(runs: Runs, start: Start) -> None:
    program = """
import os, sys
import offline_tracker as wandb
parent = wandb.init(dir=sys.argv[1], id="a1")
parent.log({"parent": 1})
pid = os.fork()
if pid == 0:
    run = wandb.init(dir=sys.argv[1], id="b2")
    assert run is not parent
    run.log({"child": 1})
    sys.exit(0)
os.waitpid(pid, 0)
parent.log({"parent": 2})
"""
    process = start(program)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert curve_of(runs, "a1") == {0: {"parent": 1}, 1: {"parent": 2}}
    assert curve_of(runs, "b2") == {0: {"child": 1}}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_multiprocessing_child_that_logs_disturbs_nothing(method: str, runs: Runs, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(
        "import multiprocessing, sys\nimport offline_tracker as wandb\n"
        "def work():\n    for _ in range(5):\n        wandb.log({'child': 1})\n    wandb.finish()\n"
        "if __name__ == '__main__':\n"
        "    wandb.init(dir=sys.argv[1], id='a1')\n    wandb.log({'n': 0})\n"
        f"    process = multiprocessing.get_context('{method}').Process(target=work)\n"
        "    process.start()\n    process.join()\n    wandb.log({'n': 1})\n    sys.exit(process.exitcode)\n"
    )
    command = [sys.executable, program, runs.path]  # a child of a program given by -c can't be spawned
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    errors = done.stderr
    assert done.returncode == 0, errors
    assert errors.count("offline_tracker:") == 1, errors
    assert curve_of(runs, "a1") == {0: {"n": 0}, 1: {"n": 1}}


# Ranks.

RANK = """
import os, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], project="p", name="n")
for number in range(3):
    wandb.log({"rank": int(os.environ["RANK"])})
run.config.update({"rank": 1})
run.summary["a"] = 1
print(run.id, flush=True)
sys.stdin.read()
"""


def test_the_other_ranks_have_the_same_id_and_write_nothing(runs: Runs, start: Start) -> None:
    launch = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "WORLD_SIZE": "2"}
    one = start(RANK, env={**launch, "RANK": "1"})  # begins first: it has to wait for the one that writes
    zero = start(RANK, env={**launch, "RANK": "0"})
    ids = []
    for process in (zero, one):
        assert process.stdout is not None
        ids.append(process.stdout.readline().strip())
    _, errors = one.communicate("", timeout=60)
    zero.communicate("", timeout=60)
    assert ids == [only_id(runs)] * 2
    assert errors.count("does not write") == 1
    rows = curve_of(runs, ids[0])
    assert [row["rank"] for row in rows.values()] == [0, 0, 0]
    assert len(read(runs, ids[0]).attempts) == 1
    assert {path.name for path in runs.path.iterdir()} == {ids[0]}


@pytest.mark.parametrize(
    ("environ", "writes"),
    [
        ({}, True),
        ({"RANK": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, True),
        ({"RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, False),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "1"}, True),
        ({"OMPI_COMM_WORLD_RANK": "2"}, False),
        ({"PMI_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0"}, True),
        ({"FLUX_TASK_RANK": "1"}, False),
        ({"RANK": "1", "OFFLINE_TRACKER_RANK": "0"}, True),
        ({"RANK": "3", "WORLD_SIZE": "4", "OFFLINE_TRACKER_WRITER_RANK": "-1"}, True),
        ({"RANK": "0", "WORLD_SIZE": "4", "OFFLINE_TRACKER_WRITER_RANK": "-1"}, False),
        ({"RANK": "2", "OFFLINE_TRACKER_WRITER_RANK": "2"}, True),
    ],
    ids=str,
)
def test_one_rank_writes(
    environ: dict[str, str], writes: bool, runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    run = wandb.init(dir=runs.path, id="a1")
    run.log({"a": 1})
    run.log({"a": 2})
    assert run.id == "a1"
    wandb.finish()
    assert runs.ids() == (["a1"] if writes else [])
    assert len(said(caplog)) == (0 if writes else 1)


def test_a_rank_that_is_given_beats_the_environment(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert not isinstance(wandb.init(dir=runs.path, id="a1", rank=1), Run)


def test_ranks_that_are_known_only_after_init_are_looked_at_again(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = wandb.init(dir=runs.path, id="a1")
    monkeypatch.setenv("RANK", "1")  # as after init_process_group
    run.log({"a": 1})
    run.log({"a": 2})
    assert len(said(caplog)) == 1
    assert run.id == "a1"
    assert wandb.run is run
    assert runs.ids() == []
    wandb.finish()
    assert runs.ids() == []


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


def test_init_installs_no_signal_handler_and_takes_no_output(runs: Runs) -> None:
    numbers = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    before = {number: signal.getsignal(number) for number in numbers}
    streams = (sys.stdout, sys.stderr, sys.excepthook)
    wandb.init(dir=runs.path).log({"a": 1})
    assert {number: signal.getsignal(number) for number in numbers} == before
    assert (sys.stdout, sys.stderr, sys.excepthook) == streams


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
