"""
What a remote must be able to do; one module here a remote, each with that remote's own client and nothing of the store.

The engine reads a remote before it writes, ships only what is above the mark, and reads again before anything counts as
done. A remote therefore never needs to be trusted to say that a transfer succeeded; it needs to be readable.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ...curve import Row
from ...errors import UsageError

GROUP = "offline_tracker.remotes"
"""The entry point group in which a distribution names its remotes: ``NAME = "module:Class"``, `Class()` a `Remote`."""

UUID_KEY = "offline_tracker_uuid"
"""The key in a remote run's config by which we know our own; a run without it belongs to somebody else."""


@dataclass(frozen=True)
class Facts:
    """
    What a remote is told of a run beside its rows. Times in unix seconds.

    Attributes:
        uuid: goes into the remote's config under `UUID_KEY`.
        state: ``running``, ``finished``, ``failed`` or ``crashed``.
        runtime: seconds that the run had run at a call, of (seq, time); *seconds* in all, downtime left out.
        environment: of the training's machine, see `host.environment`; never of this one.
        packages: what was installed there, as ``name==version``.
        definitions: of metrics, name or glob to options.
        summary: what was put there by hand, and the last value of each metric.
    """

    id: str
    uuid: str
    name: str
    project: str
    entity: str
    created_at: float
    state: str
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    runtime: Callable[[int, float], float] = lambda seq, time: 0.0
    seconds: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """Where the run is, or shall be, at a remote."""

    project: str
    entity: str
    remote_id: str


@dataclass(frozen=True)
class Mark:
    """
    How far a run is, at a remote or on the local curve.

    Attributes:
        last_step: of its newest row; None without rows.
        rows: how many rows; None where a remote can't tell.
        last_steps: the newest step of each metric that is a number; None where a remote can't tell.
    """

    last_step: int | None
    rows: int | None = None
    last_steps: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Found:
    """A remote run as it was read: *uuid* is ours if we made it. *state* in the words of `Facts`, None if unknown."""

    mark: Mark
    uuid: str | None
    state: str | None = None
    url: str | None = None


class Sample(NamedTuple):
    """What the training's hardware did at *time* (unix seconds), when the run had run for *seconds*; W&B's names."""

    time: float
    seconds: float
    values: Mapping[str, float]


class Line(NamedTuple):
    """A line of the training's console; *source* is ``out``, ``err``, or ``alert`` for what is none but stands for one."""

    time: float
    source: str
    text: str


class Alert(NamedTuple):
    """What the training called attention to; *level* is INFO, WARN or ERROR."""

    title: str
    text: str
    level: str


@dataclass(frozen=True)
class Tally:
    """How many samples and lines of the console a remote run holds; None where it can't tell."""

    samples: int | None = None
    lines: int | None = None


@dataclass(frozen=True)
class Besides:
    """
    What goes up beside the rows: only what the remote lacks, in the order in which it came.

    Attributes:
        first_sample, first_line: the numbers of the first ones, counted from 0 in the whole run.
    """

    samples: Sequence[Sample] = ()
    lines: Sequence[Line] = ()
    alerts: Sequence[Alert] = ()
    first_sample: int = 0
    first_line: int = 0

    def __bool__(self) -> bool:
        return bool(self.samples or self.lines or self.alerts)

    @property
    def after(self) -> Tally:
        """How many the remote run holds when all of it has arrived."""
        return Tally(self.first_sample + len(self.samples), self.first_line + len(self.lines))


class Curve(Protocol):
    """The local curve, as a remote may look at it."""


class Pace:
    """
    How fast remotes may be talked to, over all runs and threads, and when to stop talking.

    Args:
        rps: requests a second; *kbps* kilobytes (1000 bytes) a second. None: as fast as it goes.
    """

    def __init__(self, rps: float | None = None, kbps: float | None = None) -> None:
        self.rps, self.kbps = rps, kbps
        self._lock = threading.Lock()
        self._free_at = {"requests": 0.0, "bytes": 0.0}
        self._stopping = threading.Event()

    def request(self) -> None:
        """Wait for the turn of one request."""
        if self.rps is not None:
            self._turn("requests", 1 / self.rps)

    def spend(self, size_bytes: int) -> None:
        """Wait for the turn of some bytes."""
        if self.kbps is not None:
            self._turn("bytes", size_bytes / 1000 / self.kbps)

    def _turn(self, what: str, seconds: float) -> None:
        with self._lock:
            begin = max(time.monotonic(), self._free_at[what])
            self._free_at[what] = begin + seconds
        self.sleep(begin - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Wait; KeyboardInterrupt once the sync is to stop, for that is why it is to stop."""
        if self._stopping.wait(max(0.0, seconds)):
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Let every wait of every thread end."""
        self._stopping.set()


class Part(NamedTuple):
    """
    Some of the points that a remote shows.

    Attributes:
        names: the metrics of which these are all points there; None: all metrics that no part before this one names.
        rows: step and values, by the step; a step that is there twice comes twice. Numbers are floats, the rest text.
    """

    names: frozenset[str] | None
    rows: Iterator[tuple[int, Mapping[str, float | str]]]


class Shipment(Protocol):
    """
    An open remote run, from `Remote.open` until `close`. Rows go up in the order of their steps.

    Attributes:
        batch_rows: the most rows that `send` takes at once.
        batch_points: the most points (numbers) that it takes at once.
        url: where a person sees the run.
        notes: what a user should know of how it went, beside failures.
    """

    batch_rows: int
    batch_points: int
    url: str | None
    notes: list[str]

    def send(self, rows: Sequence[Row]) -> bool:
        """
        Send some rows; True if the remote acknowledged them, False if only reading it can tell.

        Raises:
            RemoteDown: unless ``.refused``, the rows may have arrived; send nothing again without reading first.
            RemoteRefused: they did not arrive, and never will as they are.
        """

    def add(self, besides: Besides) -> bool:
        """
        Send what goes up beside the rows; True if the remote acknowledged it, False if only reading it can tell.

        Called at most once, when the rows are there, so that nothing of it goes again with rows that did not arrive. It may
        wait for `finish`.

        Raises:
            RemoteDown: a part of it may have arrived.
            RemoteRefused: it will never be taken as it is; a part of it may have arrived.
        """

    def flush(self) -> None:
        """
        Let go what was sent, for there is no more: called once, after the last `send`, also if there was none.

        Raises:
            RemoteDown, RemoteRefused: as `send`.
        """

    def busy(self) -> bool:
        """Return whether the client is still at it, so that it is too early to ask the remote whether all is there."""

    def complaint(self) -> str | None:
        """
        Return what the remote's own client has to say about failures so far, or None.

        Raises:
            RemoteRunGone: the id was deleted, which `open` could not see.
            RemoteError: it is final; waiting on will not help.
        """

    def trying_again(self) -> str | None:
        """Return what the remote's own client has not given up yet, but failed in, or None."""

    def finish(self, facts: Facts) -> None:
        """
        Set the remote's final state; called only after all rows were confirmed. A run that still runs stays running.

        Raises:
            RemoteError: it was not set, or is not seen to be.
        """

    def close(self) -> None:
        """Stop what `open` started; the remote run keeps its state. Never raises, also when it is closed already."""


class Remote(Protocol):
    """
    One service that runs are replayed to, with one account. After `connect` any thread may use it, one a run.

    Attributes:
        name: as in ``--to``.
        server: the service's address, after `connect`.
        alerts: whether it has alerts; else they stand among the lines of the console.
        settle_s: how long after a lost answer its effect may still not be visible.
        fills: whether it takes rows below the newest one that is there, so that a hole can be filled.
        hides_nan: whether reading back may leave out points that are NaN.
        patience_s: how long it may take to answer, and how long what fails is tried again; to be set before `connect`.
        pace: asked before each request; set before `connect`.
    """

    name: str
    server: str
    settle_s: float
    fills: bool
    hides_nan: bool
    patience_s: float
    pace: Pace

    def address(self) -> str:
        """
        Return what decides which server this is (variables, the settings files' times), before `connect` and at once.

        No key is in it. While it stays the same, a run that was confirmed here and did not change is not looked at.
        """

    alerts: bool

    def connect(self) -> str:
        """
        Log in; returns the entity (user or team) that runs go to by default.

        Raises:
            UsageError: the client is not installed, or is a version that was not tested.
            NoCredentials: there is no key.
            RemoteRefused: the key is wrong.
            RemoteDown: the service can't be reached.
        """

    def check(self, target: Target) -> None:
        """
        Raises:
            BadName: the service would refuse the id, the project or the entity.
        """

    def look(self, target: Target) -> Found | None:
        """
        Read a remote run as it is now, without changing anything; None if there is none, or no more.

        Raises:
            RemoteDown, RemoteRefused.
        """

    def tally(self, target: Target) -> Tally:
        """
        Read how much a remote run that is there holds beside its rows.

        Raises:
            RemoteDown, RemoteRefused.
        """

    def agrees(self, found: Mark, local: Mark) -> bool:
        """Return whether a remote's mark is that of the local curve up to the same step, as far as the remote can tell."""

    def shown(self, values: Mapping[str, Any]) -> Mapping[str, float | str]:
        """Return what `points` should show of a row's values, by the remote's names; without what it can't hold."""

    def points(self, target: Target, found: Found) -> Iterator[Part]:
        """
        Read all points back, in parts, each to be used up before the next; the memory taken does not grow with the run.

        Args:
            found: what `look` has just returned.

        Raises:
            RemoteDown, RemoteRefused: also while the parts are read.
        """

    def rewind(self, target: Target, step: int, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> None:
        """
        Take back all rows above *step*, the step of a row that is there; `look` may show it later.

        Raises:
            RemoteRefused: the remote can't, or will not; all rows are still there.
            RemoteDown: it may have happened.
        """

    def open(self, target: Target, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> Shipment:
        """
        Create the remote run, or go on with it, be it finished or not; it shows as running, at once or a little later.

        What it is (`Facts`) is told before any row goes, our uuid included: a run with rows is known by `look` as ours.

        Args:
            started: told of what must be cleaned up if this process dies; see `clean`.

        Raises:
            RemoteRunGone: the id was deleted there; `Shipment.complaint` raises it if only an own process finds that out.
            RemoteError: it could not be opened.
        """

    def clean(self, children: Mapping[str, Any]) -> None:
        """End and remove what a sync that died had told to *started*; on return nothing of it still sends."""

    def close(self) -> None:
        """End what `connect` and `open` have started; the remote is not used any more. Never raises."""

    def cannot_hold(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Return which of some values (metric to value) the remote can't hold as they are, and what becomes of them."""

    def cannot_say(self, target: Target, facts: Facts) -> list[str]:
        """Return what of some facts the remote can't hold as it is, one line each; asked after `look`, before `open`."""


def nanoseconds(seconds: float) -> int:
    """Return unix seconds as nanoseconds; the product alone would be off by up to 128, for it has no room in a float."""
    whole = int(seconds)
    return whole * 10**9 + round((seconds - whole) * 1e9)


def names() -> list[str]:
    """Return the remotes that are installed: the names in the entry point group `GROUP`, in order of the alphabet."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def check_name(name: str) -> EntryPoint:
    """
    Return where a remote of that name is to be had.

    Raises:
        UsageError: there is none.
    """
    for entry in entry_points(group=GROUP, name=name):
        return entry
    known = names()
    hint = f"use {' or '.join(known)}" if known else "none is registered; install offline-tracker with pip"
    raise UsageError(f"unknown remote {name!r}; {hint}")


def whereabouts(variables: Sequence[str], files: Sequence[str]) -> str:
    """Return what some variables of the environment and the times of some settings files say: for `Remote.address`."""
    words = [f"{name}={os.environ.get(name, '')}" for name in variables]
    for file in files:
        try:
            stat = Path(os.path.expandvars(file)).expanduser().stat()
        except (OSError, RuntimeError):
            continue
        words.append(f"{file} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def create(name: str) -> Remote:
    """
    Return a remote by its name, not connected yet.

    Raises:
        UsageError: there is none of that name, or it can't be loaded.
    """
    entry = check_name(name)
    try:
        remote: Remote = entry.load()()
    except Exception as error:  # somebody else's code: whatever it raises, it is that remote which does not work
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"the remote {name!r} ({entry.value}) can't be loaded: {said}") from error
    return remote
