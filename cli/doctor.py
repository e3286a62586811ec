"""``tracker doctor``: whether a runs folder and its runs are well, and what to do if they are not."""

from __future__ import annotations

import json as json_format
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from offline_tracker import filesystem
from offline_tracker import probe as probes
from offline_tracker.doctor import Health, examine, repair
from offline_tracker.errors import StoreError, TrackerError, UsageError
from offline_tracker.filesystem import Filesystem
from offline_tracker.probe import Meeting, Outcome
from offline_tracker.store import SCHEMA_VERSION, Attempt

from .common import Chosen, JsonOption, RunOptions, RunsArgument, chosen, runs_folder
from .glance import gaps_text
from .words import clean, moment, put, to_json, warn

_SCRATCH = "$OFFLINE_TRACKER_SCRATCH, $SLURM_TMPDIR, $TMPDIR or /tmp of the node that trains"


class _Folder(NamedTuple):
    """A runs folder: what it lies on, what was tried there, and where scratch is on this host."""

    path: Path
    lies_on: Filesystem
    tried: list[Outcome]
    scratch: Path
    scratch_on: Filesystem


class _Checked(NamedTuple):
    """A run: what was found, or why it can't be read, and what was done."""

    run: str
    health: Health | None
    error: str | None
    done: list[str]

    @property
    def well(self) -> bool:
        return self.health is not None and self.health.well and self.error is None


def doctor(
    runs: RunsArgument = None,
    run: RunOptions = None,
    mend: Annotated[bool, typer.Option("--repair", help="Bring in and clear away what dead processes left.")] = False,
    peer: Annotated[bool, typer.Option("--peer", help="Prove with a second host whether locks meet.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="With --peer: wait so long for it.")] = 60.0,
    json: JsonOption = False,
) -> None:
    """Say whether runs and their folder are well.

    Which filesystem, how it is used and why, what is wrong with each run and what to do. Nothing is changed without
    --repair, and a run that a living process writes not even then. With --peer on two hosts at the same time: whether
    the locks of one hold on the other. Exit status: 0 all is well, 1 something is not.
    """
    if peer:
        if mend or run:
            raise UsageError("--peer looks at the folder alone; leave out --repair and --run")
        _meet(runs_folder(runs)[0], timeout, json)
        return
    picked = chosen(runs, run)
    home = picked[0].runs.path if picked else runs_folder(runs)[0]
    folder = _look(home)
    if not json:
        _print_folder(folder)
    checked = []
    for one in picked:
        found = _check(one, mend, say=not json)
        checked.append(found)
        if not json:
            _print_run(found, folder.path)
    well = all(found.well for found in checked) and not any(outcome.error for outcome in folder.tried)
    if json:
        print(to_json(_document(folder, checked, well), indent=2))
    else:
        _print_end(checked, folder.path, well, mend)
    if not well:
        raise typer.Exit(1)


def _look(path: Path) -> _Folder:
    scratch = filesystem.scratch()
    return _Folder(path, filesystem.inspect(path), probes.probe(path), scratch, filesystem.inspect(scratch))


def _check(run: Chosen, mend: bool, say: bool) -> _Checked:
    done: list[str] = []
    try:
        found = examine(run.folder)
        if mend:
            for action in repair(run.folder, found):
                done.append(action)
                if say:
                    print(f"  {run.id}: {clean(action)}", flush=True)
            found = examine(run.folder)
        return _Checked(run.id, found, None, done)
    except (TrackerError, OSError, sqlite3.Error, json_format.JSONDecodeError) as error:
        text = str(error) if isinstance(error, TrackerError) else f"can't read {run.folder / 'run.db'}: {error}"
        return _Checked(run.id, None, text, done)


# The folder.


def _mode(folder: _Folder) -> tuple[str, str]:
    """Return how run.db is written there, and where its journal lies."""
    on = folder.lies_on
    if on.locks == "host":
        return f"locks do not reach other hosts: each run.db lives in {_SCRATCH}, and is published here", _journal(
            folder
        )
    if on.network:
        return "run.db is written here, once a second, under locks that all hosts see", _journal(folder)
    return "run.db is written here, at once", _journal(folder)


def _journal(folder: _Folder) -> str:
    if folder.lies_on.network or folder.lies_on.locks == "host" or os.environ.get("OFFLINE_TRACKER_SCRATCH"):
        return f"in {_SCRATCH}; on this host {folder.scratch}"
    return "in the run's folder"


def _advice(folder: _Folder) -> list[str]:
    """Return what to change, a line each."""
    on = folder.lies_on
    found = []
    for outcome in folder.tried:
        if outcome.error and outcome.name == "write":
            found.append(f"nothing can be written here ({outcome.error}): a training on this host needs another folder")
        elif outcome.error:
            found.append(f"{outcome.name} does not work here ({outcome.error}): a training needs another folder")
    if on.locks == "host" and on.remedy:
        found.append(f"{on.remedy}, if that can be had; it works as it is, too")
    if on.network and folder.scratch_on.network:
        found.append(
            f"{folder.scratch} is on {folder.scratch_on.type}, which may hang: set OFFLINE_TRACKER_SCRATCH to a folder on a"
            " disk of the node"
        )
    return found


def _print_folder(folder: _Folder) -> None:
    on = folder.lies_on
    mode, journal = _mode(folder)
    print(clean(folder.path.absolute()))
    kind = "network" if on.network else "local"
    facts = [("filesystem", f"{on.type}, mounted at {on.mount} ({kind})"), ("locks", f"{on.locks}: {on.reason}")]
    for outcome in folder.tried:
        facts.append((outcome.name, outcome.error or f"works, {outcome.seconds * 1000:.1f} ms"))
    facts += [("mode", mode), ("journal", journal)]
    facts += [("to change", text) for text in _advice(folder)]
    put(_pairs(facts))
    print()


def _pairs(rows: Iterable[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(f"  {clean(name)}"), Text(clean(value)))
    return table


# The runs.


def _plural(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _held(last: Attempt) -> str:
    return f"written by pid {last.holder.pid} on {last.holder.host} since {moment(last.started_at)}"


def _findings(found: Health, home: Path) -> list[str]:
    """Return what there is to say of a run beyond its state, a line each."""
    lines = [f"damaged: {line}" for line in found.damage]
    if found.damage:
        lines.append(
            "a damaged file is not repaired here: take a copy, or `sqlite3 run.db .recover`; its journals are kept"
        )
    if found.schema < SCHEMA_VERSION:
        lines.append(f"schema {found.schema}, this version writes {SCHEMA_VERSION}")
    if found.cut_off:
        lines.append("its writer died inside a transaction, which is to be rolled back")
    if found.journals and not found.alive:
        size = sum(file.size_bytes for file in found.journals)
        what = f"{_plural(found.pending, 'record')} not in run.db" if found.pending else "all of it in run.db"
        lines.append(f"{_plural(len(found.journals), 'journal')} of dead processes, {size} bytes, {what}")
        lines += [str(file.path) for file in found.journals if file.path.parent.name != found.run]
    if found.torn_bytes:
        lines.append(f"{found.torn_bytes} bytes of torn records: a call that had not returned, or a full disk")
    for attempt in found.elsewhere:
        lines.append(
            f"the last second of attempt {attempt.number} may still be on {attempt.holder.host} in {attempt.journal}; run"
            f" there: {_command(home, '--run', found.run, '--repair')}"
        )
    if found.gaps:
        lines.append(gaps_text([gap.calls for gap in found.gaps]))
        lines += [
            f"{_plural(gap.calls, 'call')} lost behind call {gap.seq}, {moment(gap.time)}: {gap.reason}"
            for gap in found.gaps
        ]
    lines += [f"empty folder {place}" for place in found.empty]
    return lines


def _command(home: Path, *options: str) -> str:
    return shlex.join(["tracker", "doctor", str(home.absolute()), *options])


def _print_run(found: _Checked, home: Path) -> None:
    health = found.health
    if health is None:
        print(f"{clean(found.run)}: unreadable")
        print(f"  {clean(found.error)}")
        return
    state = health.state
    if health.alive and health.last is not None:
        state = f"{state}, {_held(health.last)}"
        if health.pending:
            state += f"; {_plural(health.pending, 'record')} on the way into run.db"
    findings = _findings(health, home)
    print(clean(f"{found.run}: {'well' if health.well else 'not well'}; {state}"))
    for line in findings:
        print(f"  {clean(line)}")


def _print_end(checked: Sequence[_Checked], home: Path, well: bool, mend: bool) -> None:
    ill = [found for found in checked if not found.well]
    if checked:
        print()
    if not checked:
        print("no runs here")
    elif not ill:
        print(f"{_plural(len(checked), 'run')}, all well")
    else:
        text = f"{_plural(len(checked), 'run')}, {len(ill)} not well"
        if not mend and any(found.health is not None and found.health.repairable for found in ill):
            text += f"; {_command(home, '--repair')}"
        print(clean(text))


def _document(folder: _Folder, checked: Sequence[_Checked], well: bool) -> dict[str, Any]:
    on = folder.lies_on
    mode, journal = _mode(folder)
    return {
        "runs": str(folder.path.absolute()),
        "well": well,
        "filesystem": _filesystem_json(on),
        "probes": {item.name: {"error": item.error, "seconds": item.seconds} for item in folder.tried},
        "mode": mode,
        "journal": journal,
        "scratch": {"path": str(folder.scratch), "filesystem": _filesystem_json(folder.scratch_on)},
        "to_change": _advice(folder),
        "checked": [_run_json(found) for found in checked],
    }


def _filesystem_json(on: Filesystem) -> dict[str, Any]:
    return {**vars(on), "mount": str(on.mount)}


def _run_json(found: _Checked) -> dict[str, Any]:
    document: dict[str, Any] = {"run": found.run, "well": found.well, "error": found.error, "done": found.done}
    health = found.health
    if health is None:
        return {**document, "state": "unreadable"}
    last = health.last
    return {
        **document,
        "state": health.state,
        "schema": health.schema,
        "holder": None if last is None else {**_holder_json(last), "alive": health.alive},
        "damage": health.damage,
        "cut_off": health.cut_off,
        "records_pending": health.pending,
        "torn_bytes": health.torn_bytes,
        "journals": [{**file._asdict(), "path": str(file.path)} for file in health.journals],
        "elsewhere": [
            {"attempt": attempt.number, "host": attempt.holder.host, "path": str(attempt.journal)}
            for attempt in health.elsewhere
        ],
        "empty_folders": [str(place) for place in health.empty],
        "gaps": [
            {"after_call": gap.seq, "time": gap.time, "calls": gap.calls, "why": gap.reason} for gap in health.gaps
        ],
    }


def _holder_json(attempt: Attempt) -> Mapping[str, Any]:
    holder = attempt.holder
    return {"attempt": attempt.number, "host": holder.host, "pid": holder.pid, "since": attempt.started_at}


# Two hosts.


def _meet(home: Path, timeout_s: float, json: bool) -> None:
    on = filesystem.inspect(home)
    command = _command(home, "--peer")
    print(f"tracker: run this on the other host within {timeout_s:.0f} s: {command}", file=sys.stderr, flush=True)
    try:
        found = probes.meet(home, timeout_s)
    except OSError as error:
        raise StoreError(f"can't write in {home}: {error.strerror}") from error
    if found is None:
        if json:
            print(to_json({"runs": str(home.absolute()), "met": None}, indent=2))
        warn(f"nobody came within {timeout_s:.0f} s; run on the other host, while this waits here: {command}")
        raise typer.Exit(1)
    verdict, advice = _verdict(found, on)
    if json:
        print(to_json({"runs": str(home.absolute()), **vars(found), "verdict": verdict, "to_change": advice}, indent=2))
    else:
        print(clean(verdict))
        for line in advice:
            print(f"  {clean(line)}")
    if not found.met:
        raise typer.Exit(1)


def _verdict(found: Meeting, on: Filesystem) -> tuple[str, list[str]]:
    """Return the verdict, the same on both sides, and what to do about it on this one."""
    hosts = f"two processes on {found.hosts[0]}" if found.one_host else " and ".join(found.hosts)
    if found.errors:
        text = f"locks do not meet: {', '.join(found.errors)} ({hosts})"
    elif not found.met:
        text = f"locks do not meet: {hosts} can lock the same file at the same time"
    else:
        text = f"locks meet: {hosts} keep each other out"
    text += f"; a renamed file is seen and answered within {found.seen_s * 1000:.0f} ms"
    advice = []
    if found.one_host:
        advice.append("both ran on one host, so this proves nothing about two")
    if not found.met and on.locks == "shared":
        advice.append("set OFFLINE_TRACKER_LOCKS=host wherever these runs are written or read" + _or(on.remedy))
    elif not found.met:
        advice.append("that is known here, and this folder is used without them" + _or(on.remedy))
    elif on.locks == "host":
        advice.append(f"OFFLINE_TRACKER_LOCKS=shared says so to the tracker, which assumes the contrary: {on.reason}")
    return text, advice


def _or(remedy: str) -> str:
    return f", or {remedy}" if remedy else ""
