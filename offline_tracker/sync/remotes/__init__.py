"""
What a remote must be able to do; one module here a remote, each with that remote's own client and nothing of the store.

The engine reads a remote before it writes, ships only what is above the mark, and reads again before anything counts as
done. A remote therefore never needs to be trusted to say that a transfer succeeded; it needs to be readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ...curve import Row
from ...errors import UsageError

UUID_KEY = "offline_tracker_uuid"
"""The key in a remote run's config by which we know our own; a run without it belongs to somebody else."""

NAMES = ("wandb", "swanlab")


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

    def mark(self, upto: int | None) -> Mark:
        """Return how far the curve is up to step *upto* (None: no row at all)."""

    def rows(self, above: int | None, upto: int | None) -> Iterator[Row]:
        """Yield the rows with above < step <= upto."""


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

        Alerts may wait for `finish`, so that they are not sent again with rows that did not arrive.

        Raises:
            RemoteDown: a part of it may have arrived.
            RemoteRefused: it will never be taken as it is; a part of it may have arrived.
        """

    def complaint(self) -> str | None:
        """
        Return what the remote's own client has to say about failures so far, or None.

        Raises:
            RemoteError: it is final; waiting on will not help.
        """

    def finish(self, facts: Facts) -> None:
        """
        Set the remote's final state; called only after all rows were confirmed. A run that still runs stays running.

        Raises:
            RemoteError: it was not set, or is not seen to be.
        """

    def close(self) -> None:
        """Stop what `open` started; the remote run keeps its state. Never raises."""


class Remote(Protocol):
    """
    One service that runs are replayed to, with one account.

    Attributes:
        name: as in ``--to``.
        server: the service's address, after `connect`.
        alerts: whether it has alerts; else they stand among the lines of the console.
        settle_s: how long after a lost answer its effect may still not be visible.
    """

    name: str
    server: str
    settle_s: float
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
        Read a remote run without changing anything; None if there is none.

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

    def mend(self, target: Target, found: Found, curve: Curve, upto: int | None) -> list[Row] | None:
        """
        Look closer at a remote run whose mark does not agree: return the rows, up to *upto*, that it lacks.

        [] if it holds them all after all; None if this remote can't be looked at, or not be mended.
        """

    def open(self, target: Target, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> Shipment:
        """
        Create the remote run, or go on with it; from here on it shows as running.

        Args:
            started: told of what must be cleaned up if this process dies; see `clean`.

        Raises:
            RemoteRunGone: the id was deleted there.
            RemoteError: it could not be opened.
        """

    def clean(self, children: Mapping[str, Any]) -> None:
        """End and remove what a sync that died had told to *started*; on return nothing of it still sends."""

    def cannot_hold(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Return which of some values (metric to value) the remote can't hold as they are, and what becomes of them."""

    def cannot_say(self, target: Target, facts: Facts) -> list[str]:
        """Return what of some facts the remote can't hold as it is, one line each; asked after `look`, before `open`."""


def nanoseconds(seconds: float) -> int:
    """Return unix seconds as nanoseconds; the product alone would be off by up to 128, for it has no room in a float."""
    whole = int(seconds)
    return whole * 10**9 + round((seconds - whole) * 1e9)


def create(name: str) -> Remote:
    """
    Return a remote by its name, not connected yet.

    Raises:
        UsageError: there is none of that name.
    """
    if name == "wandb":
        from .wandb import WandbRemote

        return WandbRemote()
    if name == "swanlab":
        from .swanlab import SwanlabRemote

        return SwanlabRemote()
    raise UsageError(f"unknown remote {name!r}; use {' or '.join(NAMES)}")
