"""trainers.md's table: every name is taken as the projects there call it, and none of them stops a training."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import offline_tracker as wandb
from offline_tracker import Run, errors
from offline_tracker.store import Runs

from .conftest import Start, curve_of, only_id, read, said, stored


@pytest.fixture(autouse=True)
def in_the_runs_folder(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """These projects name no folder."""
    monkeypatch.setenv("OFFLINE_TRACKER_DIR", str(runs.path))


def test_transformers(runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "huggingface")
    for _ in range(2):
        wandb.termwarn("`run_name` is the same as `output_dir`", repeat=False)
    assert said(caplog) == ["`run_name` is the same as `output_dir`"]
    assert wandb.run is None
    wandb.init(project="huggingface", name="trial", group="run")
    wandb.config.update({"lr": 5e-5, "id2label": {0: "A"}}, allow_val_change=True)
    wandb.define_metric("train/global_step")
    wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
    wandb.run._label(code="transformers_trainer")
    wandb.config["model/num_parameters"] = 7
    model = wandb.Artifact(
        name=f"model-{wandb.run.name}", type="model", metadata={"num": wandb.config.get("model/num_parameters")}
    )
    with model.new_file("model_architecture.txt", mode="wb") as file:
        file.write(b"Llama")
    wandb.run.log_artifact(model, aliases=["base_model"])
    assert wandb.run.get_url() is None
    wandb.run.summary["train_runtime"] = 1.5
    wandb.log({"train/loss": 2.0, "train/global_step": 10})
    model.add_dir("checkpoint-10")
    wandb.run.log_artifact(model, aliases=["epoch_1", "checkpoint-10"])
    assert {key: value for key, value in dict(wandb.summary).items() if not key.startswith("_")} == {
        **{"train/loss": 2.0, "train/global_step": 10, "train_runtime": 1.5}
    }
    assert len(said(caplog)) == 2 and "artifacts" in said(caplog)[1]
    wandb.finish()
    assert curve_of(runs, only_id(runs)) == {0: {"train/loss": 2.0, "train/global_step": 10}}
    assert (read(runs, only_id(runs)).info.config or {})["model/num_parameters"] == 7


def test_lightning(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    wandb.require("service")
    run = wandb.init(
        name=None, project="lightning_logs", dir=str(runs.path), id="v1", resume="allow", anonymous=None, settings=None
    )
    assert isinstance(run, wandb.Run)
    assert getattr(run, "define_metric", None)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    run._label(code="lightning_logger")
    run.config.update({"lr": 0.1, "optimizer": "adam"}, allow_val_change=True)
    table = wandb.Table(columns=["text"], data=[["a"]], dataframe=None)
    assert said(caplog) == []
    run.log({"loss": 1.0, "trainer/global_step": 0})
    for step in (1, 2):
        run.log({"samples": table, "trainer/global_step": step})
        run.log({"pictures": [wandb.Image(object(), caption="x")], "trainer/global_step": step})
        run.log({"sounds": wandb.Audio("a.wav", sample_rate=8), "trainer/global_step": step})
        run.log({"films": wandb.Video("a.mp4", fps=4, format="mp4"), "trainer/global_step": step})
    assert [text.split()[2] for text in said(caplog)] == ["'samples'", "'pictures'", "'sounds'", "'films'"]
    assert "tables and other media are not stored yet" in said(caplog)[0]
    run.watch(object(), log="gradients", log_freq=100, log_graph=True)
    artifact = wandb.Artifact(name=f"model-{run.id}", type="model", metadata={"score": 0.5})
    artifact.add_file("last.ckpt", name="model.ckpt")
    run.log_artifact(artifact, aliases=["latest", "best"])
    assert run.use_artifact(artifact, type="model") is artifact
    with pytest.raises(wandb.UsageError, match="'data:v0'"):
        wandb.run.use_artifact("data:v0").download(root=None)
    rows = stored(runs, "v1")
    assert rows[0] == {"loss": 1.0, "trainer/global_step": 0}
    assert [row["trainer/global_step"] for row in rows.values()] == [0, *[1] * 4, *[2] * 4]


def test_accelerate(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    run = wandb.init(project="accelerate", name="n", config=None)
    wandb.config.update({"epochs": 3}, allow_val_change=True)
    run.log({"loss": 0.5}, step=3)
    run.log({"images": [wandb.Image(object())], "kept": 1}, step=4)
    run.log({"table": wandb.Table(columns=["a"], data=[[1]], dataframe=None), "kept": 2}, step=5)
    run.finish()
    assert curve_of(runs, only_id(runs)) == {3: {"loss": 0.5}, 4: {"kept": 1}, 5: {"kept": 2}}
    assert len(said(caplog)) == 2


def test_verl(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    settings = wandb.Settings(https_proxy="http://127.0.0.1:1", init_timeout=300, anything=object())
    wandb.init(project="verl", name="grpo", entity=None, config={"trainer": {"lr": 1e-6}}, settings=settings)
    table = wandb.Table(columns=["step", "input"])
    for step in (1, 2):
        table = wandb.Table(columns=table.columns, data=table.data)
        table.add_data(step, "prompt")
        wandb.log(data={"actor/loss": 1.0 / step}, step=step)
        wandb.log({"val/generations": table}, step=step)
    assert (table.columns, table.data) == (["step", "input"], [[1, "prompt"], [2, "prompt"]])
    wandb.finish(exit_code=0)
    wandb.finish(exit_code=0)  # again in __del__
    assert curve_of(runs, only_id(runs)) == {1: {"actor/loss": 1.0}, 2: {"actor/loss": 0.5}}
    assert len(said(caplog)) == 1 and "val/generations" in said(caplog)[0]
    # The way to swanlab.
    swanlab = wandb
    swanlab.login("key")
    swanlab.init(project="verl", experiment_name="n", config={"FRAMEWORK": "verl"}, logdir=str(runs.path), mode="cloud")
    swanlab.log({"text": swanlab.Text("x", caption="c"), "loss": 1.0}, step=1)
    swanlab.finish()
    assert len(said(caplog)) == 2


def test_verls_finish_when_the_interpreter_takes_its_objects_down(runs: Runs, start: Start) -> None:
    program = """
import sys
import offline_tracker as wandb
class Tracking:
    def __init__(self):
        self.run = wandb.init(dir=sys.argv[1], id="a1")
        self.logger = {"wandb": wandb}
    def __del__(self):
        self.run.log({"late": 1})
        self.logger["wandb"].finish(exit_code=0)
        print("taken down")
tracking = Tracking()
tracking.logger["wandb"].log(data={"loss": 1.0}, step=3)
tracking.itself = tracking
"""
    process = start(program)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "taken down\n"), errors
    assert errors.count("\n") == errors.count("it has finished") == 1, errors
    assert curve_of(runs, "a1") == {3: {"loss": 1.0}}
    assert read(runs).state == "finished"


def test_openrlhf(runs: Runs) -> None:
    if not wandb.api.api_key:
        pytest.fail("it would log in")
    assert wandb.login(key="secret") is True
    args = argparse.Namespace(lr=1e-6)
    wandb.init(entity=None, project="openrlhf", group="g", name="n", config=args.__dict__, reinit=True)
    wandb.define_metric("train/global_step")
    wandb.define_metric("train/*", step_metric="train/global_step", step_sync=True)
    wandb.log({"train/loss": 1.0, "train/global_step": 4})
    wandb.finish()
    assert curve_of(runs, only_id(runs)) == {0: {"train/loss": 1.0, "train/global_step": 4}}


def test_ultralytics_megatron_and_deepspeed(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    run = wandb.run or wandb.init(project="yolo", name="n", config={"epochs": 1})
    run.log({"plots": wandb.plot_table("wandb/area-under-curve/v0", wandb.Table(columns=["x"]), {}, {})}, step=1)
    run.log({"lines": wandb.plot.line(wandb.Table(), "x", "y"), "mAP": 0.5}, step=1)
    run.log({"train/lr": 0.1}, step=1)
    best = wandb.Artifact(type="model", name=f"run_{run.id}_model")
    best.add_file("best.pt")
    run.log_artifact(best, aliases=["best"])
    wandb.log({"lm loss": 3.0}, 2)
    wandb.log({"events": 1}, step=2, commit=True, sync=True)
    run.finish()
    assert curve_of(runs, only_id(runs)) == {1: {"mAP": 0.5, "train/lr": 0.1}, 2: {"lm loss": 3.0, "events": 1}}
    assert len(said(caplog)) == 3


def test_files_histograms_and_alerts(run: Run, runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert wandb.save("config.yaml", base_path="out", policy="now") == []
        assert run.save("model.pt") == []
    wandb.log(
        {"grads": wandb.Histogram([1, 2], num_bins=4), "loss": 1.0, "more": {"h": wandb.Histogram(np_histogram=())}}
    )
    run.log_code(".")
    run.mark_preempting()
    assert run.project_name() == "p"
    wandb.alert(title="t", text="x", level=wandb.AlertLevel.WARN, wait_duration=0)
    assert ["save()" in said(caplog)[0], "grads" in said(caplog)[1], "more.h" in said(caplog)[2]] == [True] * 3
    assert len(said(caplog)) == 3
    assert stored(runs) == {0: {"loss": 1.0}}
    with runs.read("a1") as reader:
        assert [alert[2:] for alert in reader.alerts()] == [("t", "x", "WARN")]


def test_files_without_a_run_stop_nothing() -> None:
    assert wandb.save("model.pt") == []
    artifact = wandb.Artifact("a", "model")
    with pytest.raises(wandb.Error, match=r"init\(\)"):
        wandb.log_artifact(artifact)


def test_ids_are_made_as_ours_are() -> None:
    ids = {wandb.util.generate_id() for _ in range(200)} | {wandb.generate_id()}
    assert len(ids) == 201
    assert {len(run_id) for run_id in ids} == {8}
    assert len(set("".join(ids))) == 36
    assert len(wandb.util.generate_id(16)) == 16


@pytest.mark.parametrize(
    ("say", "level"), [("termlog", logging.INFO), ("termwarn", logging.WARNING), ("termerror", logging.ERROR)]
)
def test_what_a_trainer_says_goes_where_our_notices_go(say: str, level: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "offline_tracker")
    function: Callable[..., None] = getattr(wandb, say)
    for _ in range(2):
        function("100 % done", repeat=True, newline=False, prefix=False)
        function("once", repeat=False)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (level, text) for text in ("100 % done", "once", "100 % done")
    ]


def test_errors_have_the_names_under_which_they_are_caught() -> None:
    assert wandb.errors is errors
    for name in ("Error", "CommError", "UsageError"):
        assert issubclass(getattr(wandb.errors, name), wandb.Error)
        assert getattr(wandb, name) is getattr(wandb.errors, name)
    with pytest.raises((wandb.errors.CommError, wandb.errors.UsageError)):
        wandb.init(id="no such/id")
    with pytest.raises(wandb.errors.Error):
        wandb.init(resume="must")


def test_what_asks_whether_there_is_a_config_gets_an_answer() -> None:
    for name in ("config", "summary"):
        assert hasattr(wandb, name) is False  # as a debugger does, and whoever copies the module's names
        assert getattr(wandb, name, None) is None


def test_it_can_stand_in_for_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert importlib.util.find_spec("wandb") is wandb.__spec__
    assert wandb.__spec__ is not None and wandb.__spec__.origin == wandb.__file__
    assert [int(part) >= 0 for part in wandb.__version__.split(".")] == [True] * 3


@pytest.mark.parametrize("kind", [wandb.Media, *wandb.Media.__subclasses__()], ids=lambda kind: kind.__name__)
def test_media_take_whatever_they_are_given_and_cost_one_warning_a_key(
    kind: type, run: Run, runs: Runs, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert getattr(wandb, kind.__name__) is kind
    given: list[Any] = [kind(), kind(None, None, "a", caption="b"), kind(range(3), [[1]], boxes={}, file_type="jpg")]
    for value in given:
        run.log({"first": 1, "media": value, "last": 2.0})
        assert type(pickle.loads(pickle.dumps(value))) is kind
    assert len(said(caplog)) == 1 and "media" in said(caplog)[0]
    assert stored(runs) == {step: {"first": 1, "last": 2.0} for step in range(3)}
    assert os.listdir(tmp_path) == ["runs"]
