"""Which run init() goes on with, and why: ids, the environment, requeues."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import offline_tracker as wandb
from offline_tracker import RunBusy, RunExists, RunNotFound, UsageError
from offline_tracker.host import STALE_S
from offline_tracker.store import Runs

from .conftest import Start, curve_of, read, said

Python = Callable[..., str]

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
import time
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


def logged(runs: Runs, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], **options: Any) -> str:
    """A whole training in a job of its own; its run's id."""
    with monkeypatch.context() as job:
        for name, value in environ.items():
            job.setenv(name, value)
        run = wandb.init(dir=runs.path, **{"project": "p", "name": "n", **options})
        run.log({"a": 1})
        wandb.finish()
        return run.id  # type: ignore[no-any-return]


def test_a_requeued_task_of_an_array_goes_on_with_its_own_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def task(number: int, job: int, restarts: int) -> str:
        environ = {"SLURM_ARRAY_JOB_ID": "90", "SLURM_ARRAY_TASK_ID": str(number), "SLURM_JOB_ID": str(job)}
        return logged(runs, monkeypatch, {**environ, "SLURM_RESTART_COUNT": str(restarts)} if restarts else environ)

    first, second = task(1, 91, 0), task(2, 92, 0)
    assert first != second
    assert task(1, 101, 1) == first
    assert task(2, 92, 1) == second
    assert task(3, 90, 1) not in (first, second)


def test_a_torchelastic_restart_goes_on_with_its_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(name: str, restarts: int, **slurm: str) -> str:
        environ = {"TORCHELASTIC_RUN_ID": name, "TORCHELASTIC_RESTART_COUNT": str(restarts)}
        return logged(runs, monkeypatch, {**environ, **slurm})

    job = launch("job", 0)
    assert launch("job", 1) == job
    unnamed = launch("none", 1)  # an earlier life of it is not known
    assert unnamed != job
    assert launch("none", 2) == unnamed  # started by the same process
    # In a job of Slurm's that was not requeued, or was and then saw a restart.
    inner = launch("inner", 0, SLURM_JOB_ID="77")
    assert launch("inner", 1, SLURM_JOB_ID="77") == inner
    assert launch("inner", 0, SLURM_JOB_ID="77", SLURM_RESTART_COUNT="1") == inner
    assert launch("other", 0, SLURM_JOB_ID="77") != inner


HOW: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "id": ({}, {"id": "a1"}, "the id was given"),
    "resume=must": ({}, {"id": "a1", "resume": "must"}, "the id was given"),
    "resume_from": ({}, {"resume_from": "a1?_step=0"}, "the id was given"),
    "ours": ({"OFFLINE_TRACKER_RUN_ID": "a1"}, {}, "$OFFLINE_TRACKER_RUN_ID"),
    "wandb's": ({"WANDB_RUN_ID": "a1"}, {}, "$WANDB_RUN_ID"),
    "swanlab's": ({"SWANLAB_RUN_ID": "a1"}, {}, "$SWANLAB_RUN_ID"),
    "auto": ({}, {"resume": "auto"}, "resume=auto: the newest unfinished run of this project and name"),
    "slurm": ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}, {}, "started again: $SLURM_RESTART_COUNT is 2"),
    "torchelastic": (
        {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"},
        {"resume": "allow"},
        "started again: $TORCHELASTIC_RESTART_COUNT is 1",
    ),
}


@pytest.mark.parametrize("how", HOW)
def test_init_says_in_one_line_which_run_it_goes_on_with_and_why(
    how: str, runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environ, options, why = HOW[how]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    begin(runs, "a1", exit_code=1, project="p", name="n")
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO, "offline_tracker")
    caplog.clear()
    wandb.init(dir=runs.path, project="p", name="n", **options)
    (line,) = said(caplog, logging.INFO)
    assert "\n" not in line
    for part in ("run a1 goes on", why, "attempt 2", "last step 0"):
        assert part in line


RACE = """
import json, mmap, os, sys, time
import offline_tracker as wandb
from offline_tracker import migrations

PROCESSES, TURNS = 6, 12
shared = memoryview(mmap.mmap(-1, 8 * PROCESSES)).cast("q")
def meet(turn):
    shared[me] = turn
    while min(shared) < turn:
        time.sleep(0)
for me in range(PROCESSES):
    if os.fork() == 0:
        break
else:
    for _ in range(PROCESSES):
        os.wait()
    os._exit(0)
ends = []
for turn in range(TURNS):
    meet(2 * turn + 1)
    try:
        wandb.init(dir=sys.argv[1], id=f"r{turn}", resume=[None, "allow"][turn % 2]).log({"process": me})
        ends.append("wrote")
    except wandb.TrackerError as error:
        ends.append(type(error).__name__)
    meet(2 * turn + 2)
    wandb.finish()
os.write(1, (json.dumps(ends) + "\\n").encode())
os._exit(0)
"""


def test_of_many_that_begin_one_new_id_at_once_one_writes_and_the_others_hear_who(runs: Runs, python: Python) -> None:
    ends = [json.loads(line) for line in python(RACE).splitlines()]
    assert len(ends) == 6
    for turn in zip(*ends, strict=True):
        assert sorted(turn) == ["RunBusy"] * 5 + ["wrote"]


TORCHRUN = """
import os, signal, sys, time
from pathlib import Path
import offline_tracker as wandb
rank, restarts = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
logged = Path("logged")
run = wandb.init(dir=sys.argv[1], project="p", name="n")
if rank == "0":
    for step in range(run.step, run.step + 10):
        wandb.log({"life": int(restarts)})
    logged.touch()
Path(f"id-{rank}-{restarts}").write_text(run.id)
if rank == "1" and restarts == "0":
    while not logged.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
while rank == "0" and restarts == "0":
    signal.pause()  # until torchrun ends it
"""


def test_a_training_that_torchrun_restarts_is_one_run(runs: Runs, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["--monitor-interval=0.05", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", str(program)]
    done = subprocess.run(
        [*command, str(runs.path)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("goes on (this job was started again: $TORCHELASTIC_RESTART_COUNT is 1)") == 1
    (run_id,) = runs.ids()
    assert {path.name: path.read_text() for path in tmp_path.glob("id-*")} == {
        f"id-{rank}-{life}": run_id for rank in (0, 1) for life in (0, 1)
    }
    assert [row["life"] for row in curve_of(runs, run_id).values()] == [0] * 10 + [1] * 10


def test_a_restart_on_another_node_waits_until_the_life_before_counts_as_dead(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin(runs, "a1")
    with contextlib.closing(sqlite3.connect(runs.folder("a1") / "run.db")) as db, db:
        values = ("node17", "another boot", time.time() - STALE_S + 2)
        db.execute("UPDATE attempt SET ended_at = NULL, host = ?, boot = ?, heartbeat_at = ?", values)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(RunBusy, match="node17"):
        wandb.init(dir=runs.path, id="a1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with caplog.at_level(logging.INFO, "offline_tracker"):
        begin(runs, "a1")
    assert len([text for text in said(caplog, logging.INFO) if text.startswith("waiting")]) == 1
    assert len(read(runs).attempts) == 2
