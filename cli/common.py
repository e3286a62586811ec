"""Which runs a command line means."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, NamedTuple

import typer

from offline_tracker.errors import RunNotFound, StoreError, TrackerError, UsageError
from offline_tracker.store import RunReader, Runs

from .words import warn

if TYPE_CHECKING:
    from offline_tracker.sync.ledger import Link

_DEFAULT = "else $OFFLINE_TRACKER_DIR, else ./runs."
RunsArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUNS", help=f"The runs folder, or a run's own folder; {_DEFAULT}", show_default=False),
]
RunsOption = Annotated[
    Path | None, typer.Option("--runs", metavar="DIR", help=f"The runs folder; {_DEFAULT}", show_default=False)
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, or its folder.", show_default=False)
]
RunOptions = Annotated[
    list[str] | None,
    typer.Option("--run", metavar="RUN", help="Only this run (id, prefix or folder); repeatable.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Chosen(NamedTuple):
    """A run and the folder that it lies in."""

    runs: Runs
    id: str

    @property
    def folder(self) -> Path:
        return self.runs.folder(self.id)


def runs_folder(path: Path | None) -> tuple[Path, list[str]]:
    """
    Return the runs folder that *path* (RUNS) means, and the run that it means in there, if it does.

    Raises:
        UsageError: there is no such folder.
    """
    from offline_tracker.sync.engine import runs_at

    path = path or Path(os.environ.get("OFFLINE_TRACKER_DIR") or "runs")
    own = _own_folder(path)
    if own is None and not path.is_dir():
        raise UsageError(f"no folder {str(path)!r}; name the runs folder, or set OFFLINE_TRACKER_DIR")
    return runs_at(own or path)


def _own_folder(path: Path) -> Path | None:
    """The run's folder that *path* is, or whose run.db it is; with a name, which ``.`` and ``..`` have not."""
    folder = path.parent if path.name == "run.db" and path.is_file() else path
    if not (folder / "run.db").is_file():
        return None
    return folder.resolve() if folder.name in ("", "..") else folder


def named(text: str, path: Path | None = None) -> Chosen:
    """
    Return the run that *text* (RUN) means: a path, or an id or unique prefix in the runs folder *path*.

    Raises:
        RunNotFound: there is none, or there are several.
        UsageError: there is no such runs folder.
    """
    own = _own_folder(Path(text))
    if own is None and os.sep in text:
        raise RunNotFound(Path(text).name, Path(text).parent)
    if own is not None and (os.sep in text or text in (".", "..", "run.db")):
        return Chosen(Runs(own.parent), own.name)
    try:
        folder, _ = runs_folder(path)
        runs = Runs(folder)
        return Chosen(runs, runs.find(text))
    except (RunNotFound, UsageError):
        if own is None:
            raise
        return Chosen(Runs(own.parent), own.name)


def chosen(path: Path | None, names: Sequence[str] | None = None) -> list[Chosen]:
    """Return the runs that RUNS and ``--run`` mean, each once; all of the folder where no run is named."""
    if names:
        return list({run.folder.resolve(): run for run in (named(name, path) for name in names)}.values())
    folder, ids = runs_folder(path)
    runs = Runs(folder)
    return [Chosen(runs, run_id) for run_id in ids or runs.ids()]


@contextmanager
def reading(run: Chosen) -> Iterator[RunReader]:
    """
    Open a run.

    Raises:
        StoreError: its file can't be read, or turned out to be damaged on the way.
    """
    try:
        with run.runs.read(run.id) as reader:
            yield reader
    except TrackerError:
        raise
    except (sqlite3.Error, json.JSONDecodeError) as error:
        raise StoreError(f"can't read {run.folder / 'run.db'}: {error}") from error


def links_in(runs: Path) -> dict[str, list[Link]]:
    """Return where the runs of a folder were synced, by run id; a ledger that can't be read costs only a warning."""
    from offline_tracker.sync.engine import links_of

    try:
        return links_of(runs)
    except StoreError as error:
        warn(error)
        return {}


@contextmanager
def output(out: Path | None) -> Iterator[BinaryIO]:
    """
    Open the file to write, which appears whole or not at all; None and ``-`` are stdout.

    Raises:
        TrackerError: it can't be written.
    """
    if out is None or str(out) == "-":
        yield sys.stdout.buffer
        return
    try:
        if out.exists() and not out.is_file():  # a pipe, or /dev/null: nothing to put in its place, or to resolve
            with out.open("wb") as file:
                yield file
            return
        target = out.resolve()
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                yield file
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise TrackerError(f"can't write {out}: {error.strerror or error}") from error
