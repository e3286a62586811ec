"""An offline-first metrics logger: ``import offline_tracker as wandb``, later ``tracker sync runs/``."""

from typing import Any

from . import errors
from .compat import (
    AlertLevel,
    Artifact,
    Audio,
    Histogram,
    Html,
    Image,
    Media,
    Molecule,
    Object3D,
    Plotly,
    Settings,
    Table,
    Text,
    Video,
    api,
    generate_id,
    plot,
    plot_table,
    util,
)
from .errors import (
    BadName,
    CommError,
    Error,
    NewerSchema,
    NoRun,
    RunBusy,
    RunExists,
    RunNotFound,
    StoreError,
    TrackerError,
    UsageError,
)
from .eta import Eta
from .opened import open_runs
from .run import Config, NullRun, Run, Summary
from .session import (
    alert,
    current,
    define_metric,
    finish,
    get_run,
    has_run,
    init,
    log,
    log_artifact,
    login,
    require,
    save,
    termerror,
    termlog,
    termwarn,
    unwatch,
    use_artifact,
    watch,
)

__version__ = "0.1.0"
__all__ = [
    "AlertLevel",
    "Artifact",
    "Audio",
    "BadName",
    "CommError",
    "Config",
    "Error",
    "Eta",
    "Histogram",
    "Html",
    "Image",
    "Media",
    "Molecule",
    "NewerSchema",
    "NoRun",
    "NullRun",
    "Object3D",
    "Plotly",
    "Run",
    "RunBusy",
    "RunExists",
    "RunNotFound",
    "Settings",
    "StoreError",
    "Summary",
    "Table",
    "Text",
    "TrackerError",
    "UsageError",
    "Video",
    "alert",
    "api",
    "config",
    "define_metric",
    "errors",
    "finish",
    "generate_id",
    "get_run",
    "has_run",
    "init",
    "log",
    "log_artifact",
    "login",
    "open_runs",
    "plot",
    "plot_table",
    "require",
    "run",
    "save",
    "summary",
    "termerror",
    "termlog",
    "termwarn",
    "unwatch",
    "use_artifact",
    "util",
    "watch",
]

globals().pop("run")  # the submodule: as in wandb, `run` is the current run or None


def __getattr__(name: str) -> Any:
    if name in ("run", "config", "summary"):
        return current(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
