"""Finding the same run again without an id: after a requeue by Slurm, a restart by torchelastic, or by resume="auto"."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from .errors import StoreError
from .store import RunReader, Runs

ID_VARIABLES = ("OFFLINE_TRACKER_RUN_ID", "WANDB_RUN_ID", "SWANLAB_RUN_ID")


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


def requeue_key(environ: Mapping[str, str] = os.environ) -> str:
    """Return what names this job over its requeues, or "" if nothing does."""
    if environ.get("SLURM_ARRAY_JOB_ID"):
        return f"slurm {environ['SLURM_ARRAY_JOB_ID']}_{environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if environ.get("SLURM_JOB_ID"):
        return f"slurm {environ['SLURM_JOB_ID']}"
    if environ.get("TORCHELASTIC_RUN_ID", "none") != "none":
        return f"torchelastic {environ['TORCHELASTIC_RUN_ID']}"
    return ""


def was_requeued(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the scheduler says that this job was started before."""
    name = "SLURM_RESTART_COUNT" if environ.get("SLURM_JOB_ID") else "TORCHELASTIC_RESTART_COUNT"
    return environ.get(name, "0") not in ("", "0")


def requeued_run(
    runs: Runs, project: str | None, name: str | None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return the id of the run that this job wrote before its requeue; project and name are part of the key."""
    key = requeue_key(environ)
    if not key or not was_requeued(environ):
        return None
    return _newest(runs, project, name, lambda reader: any(attempt.requeue == key for attempt in reader.attempts))


def unfinished_run(runs: Runs, project: str | None, name: str | None) -> str | None:
    """Return the id of the newest run of this project and name that has not finished and that no living process holds."""
    return _newest(runs, project, name, lambda reader: reader.state in ("crashed", "failed"))


def launched_run(runs: Runs, project: str | None, name: str | None, since: float) -> str | None:
    """Return the id of the run that the writing rank of this launch holds, begun after *since* (unix seconds)."""
    key = launch_key()

    def ours(reader: RunReader) -> bool:
        last = reader.attempts[-1] if reader.attempts else None
        # A crashed one is of an earlier launch, which had the same port.
        return last is not None and last.launch == key and last.started_at >= since and reader.state != "crashed"

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
