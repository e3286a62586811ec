"""The current run of this process, and the functions that act on it: what a trainer calls on the module."""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import curve, requeue
from . import rank as ranks  # init() has a parameter of that name
from .compat import generate_id
from .errors import NoRun, RunExists, RunNotFound, StoreError, TrackerError, UsageError
from .host import Holder, environment
from .journal import Journal
from .run import NullRun, Run
from .store import RunInfo, Runs, RunStore, check_id
from .values import to_json
from .writer import Writer

logger = logging.getLogger("offline_tracker")

DEFAULT_RUNS = "runs"
_ALIASES = {"experiment_name": "name", "description": "notes", "logdir": "dir", "log_dir": "dir", "workspace": "entity"}
_IGNORED = {"settings", "sync_tensorboard", "save_code", "monitor_gym", "allow_val_change", "force", "anonymous"}
_IGNORED |= {"config_exclude_keys", "config_include_keys", "public", "callbacks", "load", "key", "magic"}
_RESUME = (None, "never", "allow", "must", "auto")

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
    environ = os.environ
    info = RunInfo(
        id="",
        uuid=uuid.uuid4().hex,
        created_at=time.time(),
        project=project or environ.get("WANDB_PROJECT") or environ.get("SWANLAB_PROJECT"),
        name=given["name"] or environ.get("WANDB_NAME"),
        entity=given["entity"] or environ.get("WANDB_ENTITY"),
        group=group or environ.get("WANDB_RUN_GROUP"),
        job_type=job_type,
        notes=given["notes"] or environ.get("WANDB_NOTES"),
        tags=(tags,) if isinstance(tags, str) else tuple(str(tag) for tag in tags or ()),
        config=_plain_config(config),
        total_steps=None if total_steps is None else int(total_steps),
    )
    runs = Runs(given["dir"] or environ.get("OFFLINE_TRACKER_DIR") or DEFAULT_RUNS)
    if mode == "disabled":
        _current = NullRun(replace(info, id=id or generate_id()), runs.path)
    elif not ranks.writes(rank):
        _current = _null_run(info, runs, id)
    else:
        _current = _begin(info, runs, id, resume, resume_from, fork_from, rank)
    return _current


def _begin(
    info: RunInfo,
    runs: Runs,
    run_id: str | None,
    resume: str | bool | None,
    resume_from: str | None,
    fork_from: str | None,
    rank_given: int | None,
) -> Run:
    if resume is True:
        resume = "allow" if run_id else "auto"
    resume = resume or None
    if resume not in _RESUME:
        raise UsageError(f'resume={resume!r}: use "never", "allow", "must", "auto" or leave it out')
    begin_at: int | None = None
    if resume_from is not None:
        run_id, begin_at = _moment(resume_from, "resume_from")
        resume = "must"
    run_id, reason = _identify(info, runs, run_id, resume)
    check_id(run_id)
    exists = run_id in runs
    if resume == "must" and not exists:
        raise RunNotFound(run_id, runs.path, runs.close_to(run_id), ' (resume="allow" starts it)')
    if resume == "never" and exists:
        raise RunExists(f'run {run_id!r} is already in {runs.path} (resume="allow" goes on with it)')
    started_at = info.created_at
    info = replace(info, id=run_id)
    if not exists:
        try:
            runs.create(info)
        except RunExists:  # just now, by another process: one of the two gets it
            if resume == "never":
                raise
            exists = True
    store = RunStore(runs.folder(run_id) / "run.db")
    try:
        folder = _journal_folder(runs, info)
        attempt = store.claim(
            Holder.current(),
            started_at=started_at,
            journal=folder.resolve(),
            launch=requeue.launch_key(),
            requeue=requeue.requeue_key(),
            reason=reason,
            config=to_json(info.config),
            environment=to_json(environment()),
        )
        last_seq, last_step = store.last_seq(), store.last_step()
        spans = curve.live_spans(store.rewinds(), last_seq)
        points = store.resume_points(spans) if last_seq and begin_at is None else []
        at_mark = last_seq > 0 and store.newest_mark() == last_seq
        if exists:
            with runs.read(run_id) as reader:
                known = reader.info
        journal = Journal(folder, attempt)
    except OSError as error:
        store.close()
        raise StoreError(f"can't write the journal of run {run_id!r}: {error}") from error
    except BaseException:
        store.close()
        raise
    writer = Writer(store, journal, attempt)
    hint = (
        f"nothing in its first call shows which checkpoint it went on from, so its rows follow step {last_step}; "
        f"if that is wrong: tracker rewind {run_id} --step N --runs {runs.path}"
    )
    run = Run(
        known if exists else info,
        runs.path,
        writer,
        started_at=started_at,
        last_seq=last_seq,
        last_step=last_step,
        resume_points=points,
        resume_hint=None if at_mark or begin_at is not None else hint,
        rank_given=rank_given,
    )
    if exists:
        logger.info("run %s goes on (%s): attempt %d, last step %s", run_id, reason, attempt, last_step)
        run.take_over(info)
        if begin_at is not None:
            run.rewind_to(begin_at)
    elif fork_from is not None:
        _copy_prefix(run, runs, *_moment(fork_from, "fork_from"))
    return run


def _identify(info: RunInfo, runs: Runs, run_id: str | None, resume: str | None) -> tuple[str, str]:
    """Return the run's id, and in some words why it is this one."""
    if run_id:
        return str(run_id), "the id was given"
    if (named := requeue.id_from_environment()) is not None:
        return named[0], f"${named[1]}"
    if resume == "auto" and (found := requeue.unfinished_run(runs, info.project, info.name)):
        return found, "resume=auto: the newest unfinished run of this project and name"
    if resume != "never" and (again := requeue.requeued_run(runs, info.project, info.name)):
        return again[0], f"this job was started again: ${again[1]} is {os.environ[again[1]]}"
    if resume == "must":
        raise UsageError('resume="must" needs an id: id=, or OFFLINE_TRACKER_RUN_ID')
    return generate_id(), "new"


def _moment(text: str, what: str) -> tuple[str, int]:
    match = re.fullmatch(r"([^?]+)\?_step=(\d+)", text)
    if match is None:
        raise UsageError(f'{what}={text!r}: use "ID?_step=N"')
    return match[1], int(match[2])


def _copy_prefix(run: Run, runs: Runs, source: str, step: int) -> None:
    with runs.read(source) as reader:
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        run.copy_rows(curve.rows(reader.calls(spans, upto=step)))
    logger.info("run %s begins with the rows of %s up to step %d", run._info.id, source, step)


def _journal_folder(runs: Runs, info: RunInfo) -> Path:
    scratch = os.environ.get("OFFLINE_TRACKER_SCRATCH")
    if not scratch:
        return runs.folder(info.id)
    # Nobody else's: another runs folder on this node may have a run of this id.
    folder = Path(scratch) / "offline_tracker" / f"{info.id}-{info.uuid}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _null_run(info: RunInfo, runs: Runs, run_id: str | None) -> NullRun:
    named = requeue.id_from_environment()
    known = run_id or (named[0] if named else None)
    since = time.time() - 600.0

    def find(deadline_s: float = 10.0) -> str:
        # The writing rank made the id up; it may not have come to its init() yet.
        end = time.monotonic() + deadline_s
        while (found := requeue.launched_run(runs, info.project, info.name, since, _LOADED_AT)) is None:
            if time.monotonic() > end:
                logger.warning("the rank that writes has made no run in %s; the id here is a new one", runs.path)
                return generate_id()
            time.sleep(0.05)
        return found

    why = f"rank {ranks.rank()[0]} does not write; what it logs is not recorded"
    return NullRun(replace(info, id=known or ""), runs.path, why, None if known else find)


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


def _in_child() -> None:
    if isinstance(_current, Run):
        _current.forked()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_in_child)
