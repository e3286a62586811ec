"""Which process of a job writes. Never a collective, never an import of torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from .errors import UsageError

_MPI = ("OMPI_COMM_WORLD", "PMIX", "PMI", "MV2_COMM_WORLD")


def rank(given: int | None = None, environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """
    Return this process's rank and the number of ranks (1 where it is not known).

    The order is: *given* or $OFFLINE_TRACKER_RANK, torch.distributed if it is imported and initialised, RANK (and no
    other in a worker of Ray's), MPI's variables, Slurm's, LOCAL_RANK with NODE_RANK, jsrun's, Flux's. RANK comes before
    Slurm because ``srun --ntasks-per-node=1 torchrun`` gives all children of a node the same SLURM_PROCID.

    Raises:
        UsageError: $OFFLINE_TRACKER_RANK is no number; the others may be anybody's, and are passed over then.
    """

    def number(name: str) -> int | None:
        return _whole(environ.get(name, "").strip())

    size = number("WORLD_SIZE") or 1
    for mine in (given, _ours("OFFLINE_TRACKER_RANK", environ)):
        if mine is not None:
            return mine, size
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    if (mine := number("RANK")) is not None:
        return mine, size
    if "RAY_RAYLET_PID" in environ:
        # A worker of Ray's. What Slurm or MPI say here they have said to the daemon that started it: on any node but the
        # first the one process that logs (verl's TaskRunner) would not write.
        return 0, size
    for prefix in _MPI:
        if (mine := number(f"{prefix}_RANK")) is not None:
            return mine, number(f"{prefix}_SIZE") or size
    tasks = number("SLURM_STEP_NUM_TASKS") or number("SLURM_NTASKS") or 1
    if tasks > 1 and (mine := number("SLURM_PROCID")) is not None:
        return mine, tasks
    local = number("LOCAL_RANK")
    if local is not None:
        node = number("NODE_RANK") or number("GROUP_RANK") or 0
        return (0 if local == node == 0 else local + node * (number("LOCAL_WORLD_SIZE") or local + 1)), size
    for name in ("JSM_NAMESPACE_RANK", "FLUX_TASK_RANK"):
        if (mine := number(name)) is not None:
            return mine, size
    return 0, size


def writes(given: int | None = None, environ: Mapping[str, str] = os.environ) -> bool:
    """
    Return whether this process is the one that writes: rank 0, or the one that $OFFLINE_TRACKER_WRITER_RANK names.

    -1 there means the last rank, which is the one that logs in Megatron-LM.

    Raises:
        UsageError: that is no number.
    """
    mine, size = rank(given, environ)
    writer = _ours("OFFLINE_TRACKER_WRITER_RANK", environ) or 0
    return mine == (writer if writer >= 0 else size + writer)


def _ours(name: str, environ: Mapping[str, str]) -> int | None:
    text = environ.get(name, "").strip()
    if text and _whole(text) is None:
        raise UsageError(f"${name} is {text!r}: use a whole number")
    return _whole(text)


def _whole(text: str) -> int | None:
    # Looked at before: an int() that fails swallows the KeyboardInterrupt which comes while it makes up its message.
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() else None
