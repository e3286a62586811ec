"""The current run of this process, and the functions that act on it: what a trainer calls on the module."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import NoRun, TrackerError
from .run import NullRun, Run

logger = logging.getLogger("offline_tracker")

_ALIASES = {"experiment_name": "name", "description": "notes", "logdir": "dir", "log_dir": "dir", "workspace": "entity"}
_IGNORED = {"settings", "sync_tensorboard", "save_code", "monitor_gym", "allow_val_change", "force", "anonymous"}
_IGNORED |= {"config_exclude_keys", "config_include_keys", "public", "callbacks", "load", "key", "magic"}

_LOADED_AT = time.time()

_current: NullRun | None = None
_warned: set[str] = set()


def init(
    project: str | None = None,
    name: str | None = None,
    id: str | None = None,
    resume: str | bool | None = None,
    config: Any = None,
    dir: str | os.PathLike[str] | None = None,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] | str | None = None,
    notes: str | None = None,
    total_steps: int | None = None,
    rank: int | None = None,
    resume_from: str | None = None,
    fork_from: str | None = None,
    reinit: Any = None,
    mode: str | None = None,
    console: bool | None = None,
    **others: Any,
) -> Any:
    """
    Begin a run, or go on with one, and return it; its calls are on disk when `log` returns.

    Args:
        id: 1 to 64 of ``A-Z a-z 0-9 _ -``; else $OFFLINE_TRACKER_RUN_ID, $WANDB_RUN_ID, $SWANLAB_RUN_ID, the run that
            this job wrote before a requeue, or a new one.
        resume: None: a new run, or go on with the one that is there. "never": it must not exist. "must": it must exist.
            "allow": either. "auto": the newest unfinished run of this project and name.
        dir: the runs folder; $OFFLINE_TRACKER_DIR, else ``./runs``.
        total_steps: steps of the whole training; rows then get the metric ``eta``, in seconds.
        rank: this process's rank where it can't be found out; only one rank writes, the others get a run that does not.
        resume_from: "ID?_step=N": go on with a run from that step, its later rows are superseded.
        fork_from: "ID?_step=N": begin a new run with a copy of that one's rows up to N.
        reinit: true: finish the current run and begin another; else a second init returns the current one.
        mode: "disabled" writes nothing. All other modes are the same here: offline.
        console: true: keep what is printed through sys.stdout and sys.stderr; None: $OFFLINE_TRACKER_CONSOLE, else don't.
        others: names that wandb and swanlab use for the above; the rest is ignored, with one warning.

    Raises:
        BadName: an id that remotes would refuse.
        RunNotFound: resume="must", and there is no such run.
        RunExists: resume="never", and there is one.
        RunBusy: a living process writes this run.
        StoreError: the runs folder can't be written.
    """
    global _current
    _speak()
    given = {key: value for key, value in locals().items() if key in _ALIASES.values()}
    for key, value in others.items():
        if key in _ALIASES:
            given[_ALIASES[key]] = given[_ALIASES[key]] or value
        elif key not in _IGNORED:
            _warn(f"init: {key}= is not known here and ignored")
    before = _live()
    if before is not None and not before.inherited:
        if reinit in (None, False, "return_previous", "default"):
            return before
        finish()
    # What it takes to open a run is imported where one is opened: importing this package costs a training nothing.
    from . import opening

    _current = opening.open_run(
        given["dir"],
        opening.described(
            project=project,
            name=given["name"],
            entity=given["entity"],
            group=group,
            job_type=job_type,
            notes=given["notes"],
            tags=tags,
            config=_plain_config(config),
            total_steps=total_steps,
        ),
        run_id=id,
        resume=resume,
        resume_from=resume_from,
        fork_from=fork_from,
        rank=rank,
        disabled=mode == "disabled",
        born_at=_LOADED_AT,
        console=console,
    )
    return _current


def _plain_config(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, (str, os.PathLike)):
        _warn(f"init: config={str(config)!r} is a file name, which is not read here")
        return {}
    return dict(config) if isinstance(config, Mapping) else dict(getattr(config, "__dict__", {}))


def log(
    data: Mapping[str, Any], step: int | None = None, commit: bool | None = None, sync: Any = None, **ignored: Any
) -> None:
    """Record one call of the current run; see `Run.log`."""
    run = _live()
    if run is None:
        _warn("log() was called without a run; call init() first")
    else:
        run.log(data, step, commit)


def finish(exit_code: int | None = None, **ignored: Any) -> None:
    """End the current run's attempt; without a run it does nothing."""
    global _current
    run, _current = _current, None
    if run is not None:
        run.finish(exit_code, **ignored)


def get_run() -> Any:
    """Return the current run, or None."""
    return _live()


def has_run() -> bool:
    """Return whether there is a current run."""
    return _live() is not None


def define_metric(name: str, **options: Any) -> None:
    """Store how a metric of the current run is meant; see `Run.define_metric`."""
    _need("define_metric").define_metric(name, **options)


def alert(title: str, text: str = "", level: Any = "INFO", **ignored: Any) -> None:
    """Store an alert of the current run."""
    _need("alert").alert(title, text, level)


def watch(*args: Any, **kwargs: Any) -> None:
    """Do nothing: gradients are not recorded."""
    _need("watch").watch()


unwatch = watch


def save(*args: Any, **kwargs: Any) -> list[str]:
    """Say that files are not stored yet; returns []."""
    run = _live()
    return [] if run is None else run.save()


def log_artifact(artifact: Any, *args: Any, **kwargs: Any) -> Any:
    """Return *artifact*; it is not stored yet."""
    return _need("log_artifact").log_artifact(artifact)


def use_artifact(artifact: Any, *args: Any, **kwargs: Any) -> Any:
    """Return *artifact*, or one of that name."""
    return _need("use_artifact").use_artifact(artifact)


def require(*args: Any, **kwargs: Any) -> None:
    """Do nothing: there are no experimental features to ask for."""


def login(*args: Any, **kwargs: Any) -> bool:
    """Return True; there is nobody to log in to until the runs are synced."""
    return True


def _need(what: str) -> NullRun:
    run = _live()
    if run is None:
        raise NoRun(f"{what} needs a run; call init() first")
    return run


def _live() -> NullRun | None:
    """Return the current run; one that was ended by its own finish() is none any more."""
    global _current
    if _current is not None and _current.finished:
        _current = None
    return _current


def current(attribute: str) -> Any:
    """Return what the module attributes ``run``, ``config`` and ``summary`` are at this moment."""
    return _live() if attribute == "run" else getattr(_need(attribute), attribute)


def _speak() -> None:
    """Let our one-line notices be seen, unless the program has set up logging itself."""
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("offline_tracker: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)


def termlog(text: str = "", newline: bool = True, repeat: bool = True, prefix: bool = True) -> None:
    """Say *text* where our own notices go; with ``repeat=False`` only once."""
    _say(logging.INFO, text, repeat)


def termwarn(text: str, newline: bool = True, repeat: bool = True, prefix: bool = True) -> None:
    """Warn of *text* where our own warnings go; with ``repeat=False`` only once."""
    _say(logging.WARNING, text, repeat)


def termerror(text: str, newline: bool = True, repeat: bool = True, prefix: bool = True) -> None:
    """Tell of an error where our own go; with ``repeat=False`` only once."""
    _say(logging.ERROR, text, repeat)


def _say(level: int, text: str, repeat: bool = False) -> None:
    if repeat or text not in _warned:
        _warned.add(text)
        _speak()
        logger.log(level, "%s", text)


def _warn(text: str) -> None:
    _say(logging.WARNING, text)


def _at_exit() -> None:
    # sys.last_value is what the interpreter sets when an uncaught exception ends it.
    try:
        finish(exit_code=1 if getattr(sys, "last_value", None) is not None else 0)
    except TrackerError as error:
        logger.warning("%s", error)


def _before_fork() -> None:
    if isinstance(_current, Run) and not _current.inherited:
        _current.forks()


def _after_fork(child: bool) -> None:
    if isinstance(_current, Run) and (child or not _current.inherited):
        _current.forked(child)


atexit.register(_at_exit)
os.register_at_fork(
    before=_before_fork, after_in_parent=lambda: _after_fork(False), after_in_child=lambda: _after_fork(True)
)
