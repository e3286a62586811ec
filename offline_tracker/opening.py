"""What `init` does to open a run: which one it is, whose it is, and where its journal lies."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import console as consoles
from . import curve, filesystem, requeue
from . import rank as ranks  # functions here have a parameter of that name
from .compat import generate_id
from .errors import RunBusy, RunExists, RunNotFound, StoreError, TrackerError, UsageError
from .host import HEARTBEAT_S, Holder, environment, stale_s
from .journal import Journal
from .run import NullRun, Run
from .sampling import Sampler, samples_s
from .segment_store import held, open_store
from .store import RunInfo, Runs, check_id, put
from .values import to_json
from .writer import INTERVAL_S, NETWORK_INTERVAL_S, Writer

logger = logging.getLogger("offline_tracker")

DEFAULT_RUNS = "runs"
_RESUME = (None, "never", "allow", "must", "auto")


def described(
    *, tags: Sequence[str] | str | None, total_steps: int | None, config: dict[str, Any], **said: str | None
) -> RunInfo:
    """Return what `init` was told of a run, and where it was not, what the environment says; it has no id yet."""
    environ = os.environ
    return RunInfo(
        id="",
        uuid=uuid.uuid4().hex,
        created_at=time.time(),
        project=said["project"] or environ.get("WANDB_PROJECT") or environ.get("SWANLAB_PROJECT"),
        name=said["name"] or environ.get("WANDB_NAME"),
        entity=said["entity"] or environ.get("WANDB_ENTITY"),
        group=said["group"] or environ.get("WANDB_RUN_GROUP"),
        job_type=said["job_type"],
        notes=said["notes"] or environ.get("WANDB_NOTES"),
        tags=(tags,) if isinstance(tags, str) else tuple(str(tag) for tag in tags or ()),
        config=config,
        total_steps=None if total_steps is None else int(total_steps),
    )


def open_run(
    folder: str | os.PathLike[str] | None,
    info: RunInfo,
    *,
    run_id: str | None,
    resume: str | bool | None,
    resume_from: str | None,
    fork_from: str | None,
    rank: int | None,
    disabled: bool,
    born_at: float,
    console: bool | None = None,
) -> NullRun:
    """
    Open the run that `init` asks for; see there.

    Args:
        folder: the runs folder, or None for the environment's or the default.
        born_at: when this process began, unix seconds.
        console: whether to keep what is printed; None: as the environment says.
    """
    runs = Runs(folder or os.environ.get("OFFLINE_TRACKER_DIR") or DEFAULT_RUNS)
    if disabled:
        return NullRun(replace(info, id=run_id or generate_id()), runs.path)
    if not ranks.writes(rank):
        return _null_run(info, runs, run_id, born_at)
    on_error = os.environ.get("OFFLINE_TRACKER_ON_ERROR") or "raise"
    if on_error not in ("raise", "warn"):
        raise UsageError(f"OFFLINE_TRACKER_ON_ERROR={on_error!r}: use raise or warn")
    if resume is True:
        resume = "allow" if run_id else "auto"
    resume = resume or None
    if resume not in _RESUME:
        raise UsageError(f'resume={resume!r}: use "never", "allow", "must", "auto" or leave it out')
    begin_at: int | None = None
    if resume_from is not None:
        run_id, begin_at = _moment(resume_from, "resume_from")
        resume = "must"
    fork = None if fork_from is None else _moment(fork_from, "fork_from")
    try:
        away = _away(runs)
        run_id, reason = _identify(info, runs, run_id, resume)
        check_id(run_id)
        if run_id in away:
            _bring_home(away, runs, run_id)
        if run_id in away:
            raise StoreError(f"run {run_id!r} can't be brought from {away.path} to {runs.path}")
        run = _begin_when_free(replace(info, id=run_id), runs, resume, reason, begin_at, fork, rank)
    except StoreError as error:
        if on_error == "raise":
            raise
        run = _begin_away(error, info, runs, run_id, begin_at, rank)
    if consoles.wanted(console):
        run.keep_console()
    return run


def _begin_when_free(info: RunInfo, *how: Any) -> Run:
    """Begin, after a restart on another node as soon as the life before counts as dead: it is what was restarted."""
    end = time.monotonic() + stale_s() + HEARTBEAT_S
    said = False
    while True:
        try:
            return _begin(info, *how)
        except RunBusy as error:
            if not error.elsewhere or not requeue.was_restarted() or time.monotonic() > end:
                raise
            if not said:
                logger.info("waiting, because this job was started again: %s", error)
            said = True
            time.sleep(1.0)


def _begin(
    info: RunInfo,
    runs: Runs,
    resume: str | None,
    reason: str,
    begin_at: int | None,
    fork: tuple[str, int] | None,
    rank_given: int | None,
    closed: Callable[[], object] | None = None,
) -> Run:
    run_id = info.id
    exists = run_id in runs
    interval_s = samples_s()
    if resume == "must" and not exists:
        raise RunNotFound(run_id, runs.path, runs.close_to(run_id), ' (resume="allow" starts it)')
    if resume == "never" and exists:
        raise RunExists(f'run {run_id!r} is already in {runs.path} (resume="allow" goes on with it)')
    if not exists:
        try:
            runs.create(info)
        except RunExists:
            if resume == "never":
                raise
            exists = True  # another process was faster; which of them may write it, the claim decides
    try:
        place = filesystem.inspect(runs.path)
        in_pieces = place.locks == "host"
        folder, spill = _journal_folders(runs, info, place.network or in_pieces)
    except OSError as error:
        raise StoreError(f"can't write the journal of run {run_id!r}: {error}") from error
    store = open_store(runs.folder(run_id), folder if in_pieces else None)
    try:
        attempt = store.claim(
            Holder.current(),
            started_at=info.created_at,
            journal=folder,
            spill=spill,
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
    writer = Writer(store, journal, attempt, spill, NETWORK_INTERVAL_S if place.network else INTERVAL_S)
    hint = (
        f"nothing in its first call shows which checkpoint it went on from, so its rows follow step {last_step}; "
        f"if that is wrong: tracker rewind {run_id} --step N --runs {runs.path}"
    )
    log = consoles.ConsoleLog(runs.folder(run_id) / "files", attempt, waits=not (place.network or in_pieces))
    run = Run(
        known if exists else info,
        runs.path,
        writer,
        started_at=info.created_at,
        last_seq=last_seq,
        last_step=last_step,
        resume_points=points,
        resume_hint=None if at_mark or begin_at is not None else hint,
        rank_given=rank_given,
        closed=closed,
        console=log,
    )
    if exists:
        logger.info("run %s goes on (%s): attempt %d, last step %s", run_id, reason, attempt, last_step)
        run.take_over(info)
        if begin_at is not None:
            run.rewind_to(begin_at)
    elif fork is not None:
        _copy_prefix(run, runs, *fork)
    run.at_end.append(Sampler(interval_s, run.sample, run.learn).close)
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


def _journal_folders(runs: Runs, info: RunInfo, network: bool) -> tuple[Path, Path]:
    """
    Return where the journal lies, and where it goes on if it can't be written there.

    It lies in the run's folder; in node-local scratch where a server could hang, or $OFFLINE_TRACKER_SCRATCH says so.
    """
    name = f"{info.id}-{info.uuid}"  # of another runs folder there may be a run of this id on this node
    home = runs.folder(info.id).resolve()
    if network or os.environ.get("OFFLINE_TRACKER_SCRATCH"):
        home = filesystem.private(filesystem.scratch()) / name
        home.mkdir(mode=0o700, exist_ok=True)
    return home, filesystem.private(Path(tempfile.gettempdir()).absolute()) / name


def _away(runs: Runs) -> Runs:
    """Return the folder on this node for runs that can't be written where they belong."""
    place = hashlib.sha256(os.fsencode(runs.path.absolute())).hexdigest()[:12]
    return Runs(filesystem.private(filesystem.scratch()) / f"runs-{place}")


def _begin_away(
    error: StoreError, info: RunInfo, runs: Runs, run_id: str | None, begin_at: int | None, rank_given: int | None
) -> Run:
    """Begin a run on this node because of *error*; when it ends, or goes on later, it is brought to where it belongs."""
    away = _away(runs)
    run_id = check_id(str(run_id) if run_id else _identify(info, away, None, None)[0])
    logger.warning(
        "%s; training goes on, and run %s is kept in %s until it can be brought there", error, run_id, away.path
    )
    try:
        if run_id in runs and run_id not in away:
            runs.copy(run_id, away)  # so that it goes on where it was
    except (TrackerError, OSError) as broken:
        logger.warning("what run %s holds so far can't be read (%s), so it begins anew", run_id, broken)
    reason = "its runs folder can't be written"
    return _begin(
        replace(info, id=run_id),
        away,
        None,
        reason,
        begin_at if run_id in away else None,
        None,
        rank_given,
        lambda: _bring_home(away, runs, run_id),
    )


def _bring_home(away: Runs, runs: Runs, run_id: str) -> None:
    """Put a run that was kept on this node into its runs folder, if that can be written by now."""
    try:
        _move(away, runs, run_id)
    except (TrackerError, OSError) as error:
        logger.warning("run %s is still in %s: %s", run_id, away.path, error)
    else:
        logger.info("run %s was brought from %s to %s", run_id, away.path, runs.path)


def _move(away: Runs, runs: Runs, run_id: str) -> None:
    """Move a run that has gone on in *away* to the folder it was copied from; killed, it is in one of the two, whole."""
    for folder in (away, runs) if run_id in runs else (away,):
        with held(folder.folder(run_id)):
            pass  # nobody writes it, and what dead attempts left is in it
    with away.read(run_id) as ours:
        if run_id in runs:
            with runs.read(run_id) as theirs:
                lives = [(attempt.holder, attempt.started_at) for attempt in theirs.attempts]
                same = lives == [(attempt.holder, attempt.started_at) for attempt in ours.attempts][: len(lives)]
                if not same or ours.info.uuid != theirs.info.uuid or theirs.last_seq > ours.last_seq:
                    raise StoreError(f"run {run_id!r} in {runs.path} is another one, or has gone on there as well")
        put(ours, runs.folder(run_id))
        if (files := away.folder(run_id) / "files").is_dir():
            shutil.copytree(files, runs.folder(run_id) / "files", symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(away.folder(run_id))


def _null_run(info: RunInfo, runs: Runs, run_id: str | None, born_at: float) -> NullRun:
    named = requeue.id_from_environment()
    known = run_id or (named[0] if named else None)
    since = time.time() - 600.0

    def find(deadline_s: float = 10.0) -> str:
        # The writing rank made the id up; it may not have come to its init() yet.
        end = time.monotonic() + deadline_s
        while (found := requeue.launched_run(runs, info.project, info.name, since, born_at)) is None:
            if time.monotonic() > end:
                logger.warning("the rank that writes has made no run in %s; the id here is a new one", runs.path)
                return generate_id()
            time.sleep(0.05)
        return found

    why = f"rank {ranks.rank()[0]} does not write; what it logs is not recorded"
    return NullRun(replace(info, id=known or ""), runs.path, why, None if known else find)
