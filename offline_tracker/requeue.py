"""Finding the same run again without an id: after a requeue by Slurm, a restart by torchelastic, or by resume="auto"."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

from .errors import StoreError
from .host import Holder
from .store import RunReader, Runs

ID_VARIABLES = ("OFFLINE_TRACKER_RUN_ID", "WANDB_RUN_ID", "SWANLAB_RUN_ID")
_BETWEEN = " | "


def id_from_environment(environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Return the run id that the environment names, and the variable, or None."""
    for name in ID_VARIABLES:
        if environ.get(name):
            return environ[name], name
    return None


def launch_key(environ: Mapping[str, str] = os.environ) -> str:
    """Return a text that the ranks of one launch have in common; by it a rank that does not write finds the run's id."""
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID")
    return "|".join(environ.get(name, "") for name in (*names, "SLURM_RESTART_COUNT"))


def requeue_keys(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what names this job over its restarts, each with the variable that counts them; Slurm's comes first."""
    keys = {}
    job = environ.get("SLURM_JOB_ID")
    if array := environ.get("SLURM_ARRAY_JOB_ID"):  # a task's own job id need not stay the same
        job = f"{array}_{environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if job:
        keys[f"slurm {job}"] = "SLURM_RESTART_COUNT"
    if name := environ.get("TORCHELASTIC_RUN_ID"):
        if name == "none":  # every torchrun without --rdzv-id is called so, but it is one process that starts us again
            agent = Holder.of(os.getppid())
            name = f"{agent.host} {agent.boot} {agent.pid} {agent.started}"
        keys[f"torchelastic {name}"] = "TORCHELASTIC_RESTART_COUNT"
    return keys


def requeue_key(environ: Mapping[str, str] = os.environ) -> str:
    """Return the text by which a later life of this job will know a run as its own, or "" if nothing names the job."""
    return _BETWEEN.join(requeue_keys(environ))


def was_restarted(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the scheduler says that this job was started before."""
    return any(environ.get(variable, "0") not in ("", "0") for variable in requeue_keys(environ).values())


def requeued_run(
    runs: Runs, project: str | None, name: str | None, environ: Mapping[str, str] = os.environ
) -> tuple[str, str] | None:
    """
    Return the id of the run that this job wrote before it was started again, and the variable that says so.

    Project and name are part of the key: one job can hold several trainings.
    """
    for key, variable in requeue_keys(environ).items():
        if environ.get(variable, "0") not in ("", "0") and (
            found := _newest(runs, project, name, partial(_was_written_by, key))
        ):
            return found, variable
    return None


def _was_written_by(key: str, reader: RunReader) -> bool:
    return any(key in attempt.requeue.split(_BETWEEN) for attempt in reader.attempts)


def unfinished_run(runs: Runs, project: str | None, name: str | None) -> str | None:
    """Return the id of the newest run of this project and name that has not finished and that no living process holds."""
    return _newest(runs, project, name, lambda reader: reader.state in ("crashed", "failed"))


def launched_run(runs: Runs, project: str | None, name: str | None, since: float, born_at: float) -> str | None:
    """
    Return the id of the run that the writing rank of this launch holds, or None while it has none.

    Args:
        since: it began after this (unix seconds).
        born_at: when the process that asks was born; what had ended by then is of an earlier launch from the same port.
    """
    key = launch_key()

    def ours(reader: RunReader) -> bool:
        last = reader.attempts[-1] if reader.attempts else None
        if last is None or last.launch != key or last.started_at < since:
            return False
        return last.ended_at >= born_at if last.ended_at is not None else last.alive()

    return _newest(runs, project, name, ours)


def _newest(runs: Runs, project: str | None, name: str | None, wanted: Callable[[RunReader], bool]) -> str | None:
    best: tuple[float, str] | None = None
    for run_id in runs.ids():
        try:
            with runs.read(run_id) as reader:
                if (reader.info.project, reader.info.name) != (project, name) or not wanted(reader):
                    continue
                begun = reader.attempts[-1].started_at if reader.attempts else reader.info.created_at
        except StoreError:
            continue  # a broken neighbour must not stop a training
        if best is None or (begun, run_id) > best:
            best = (begun, run_id)
    return best[1] if best else None
