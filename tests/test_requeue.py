"""Which run init() goes on with, and why: ids, the environment, requeues."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import offline_tracker as wandb
from offline_tracker import RunExists, RunNotFound, UsageError
from offline_tracker.store import Runs

from .conftest import Start, curve_of, read, said

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
