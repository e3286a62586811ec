"""An offline-first metrics logger: ``import offline_tracker as wandb``, later ``tracker sync runs/``."""

from typing import Any

from .errors import (
    BadName,
    NewerSchema,
    RunBusy,
    RunExists,
    RunNotFound,
    StoreError,
    TrackerError,
    UsageError,
)
from .eta import Eta
from .run import Config, NullRun, Run, Summary, generate_id
from .session import (
    alert,
    current,
    define_metric,
    finish,
    get_run,
    has_run,
    init,
    log,
    login,
    unwatch,
    watch,
)

__version__ = "0.1.0"
__all__ = [
    "BadName",
    "Config",
    "Eta",
    "NewerSchema",
    "NullRun",
    "Run",
    "RunBusy",
    "RunExists",
    "RunNotFound",
    "StoreError",
    "Summary",
    "TrackerError",
    "UsageError",
    "alert",
    "config",
    "define_metric",
    "finish",
    "generate_id",
    "get_run",
    "has_run",
    "init",
    "log",
    "login",
    "run",
    "summary",
    "unwatch",
    "watch",
]

globals().pop("run")  # the submodule: as in wandb, `run` is the current run or None


def __getattr__(name: str) -> Any:
    if name in ("run", "config", "summary"):
        return current(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
