"""
Reads remote runs back in full and compares them, metric by metric, with the curves that should be there.

A sync asks as little as will do (the newest step, a count of rows); this asks for everything, and can write down the answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from .. import curve
from ..curve import Row
from ..errors import NotOurs, RemoteError, RemoteRunGone, TrackerError, UsageError
from ..host import Holder
from ..store import RunReader, Runs
from ..values import SEPARATOR
from .compare import Steps, pairs, same
from .ledger import Ledger, Link
from .remotes import Found, Remote, Target, check_name, create

logger = logging.getLogger("offline_tracker")

CANONICAL = (
    "sha256 over one line a metric, by name: the name as JSON, a space, the hex sha256 of its points; that is over one line "
    "a point, in the order of the steps: the step, a space, and a number as Python's repr of a float (-0.0 as 0.0), or "
    "a text as JSON"
)
"""What the digests are of; a metric has the name that it has at the remote."""


class Series:
    """
    What is known of the points of one metric on one side; *add* them in the order of their steps.

    Attributes:
        sum: of the finite numbers; *min* and *max* leave out NaN; *last* is the value of the last point.
    """

    __slots__ = ("_sha", "first_step", "last", "last_step", "max", "min", "nan", "points", "sum")

    def __init__(self) -> None:
        self.points = self.nan = 0
        self.first_step: int | None = None
        self.last_step: int | None = None
        self.sum = 0.0
        self.min: float | None = None
        self.max: float | None = None
        self.last: float | str | None = None
        self._sha = hashlib.sha256()

    def add(self, step: int, value: float | str, unseen: bool = False) -> None:
        """Add a point; *unseen*: the remote may hide it, so it is no part of the digest."""
        self.points += 1
        if self.first_step is None:
            self.first_step = step
        self.last_step, self.last = step, value
        if isinstance(value, str):
            text = json.dumps(value)
        else:
            text = repr(value + 0.0)
            if value != value:
                self.nan += 1
            else:
                self.min = value if self.min is None or value < self.min else self.min
                self.max = value if self.max is None or value > self.max else self.max
                if math.isfinite(value):
                    self.sum += value
        if not unseen:
            self._sha.update(f"{step} {text}\n".encode())

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()

    def as_dict(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in self.__slots__ if name != "_sha"}
        return {**{name: _json(value) for name, value in told.items()}, "digest": self.digest}


@dataclass
class Metric:
    """
    One metric at home and there.

    Attributes:
        missing: steps that the remote lacks; *extra*: that only it has; *twice*: that it shows again.
        different: steps where both have a value, and not the same.
        unseen: points that are NaN and that the remote does not show, as it may.
    """

    local: Series = field(default_factory=Series)
    remote: Series = field(default_factory=Series)
    missing: Steps = field(default_factory=Steps)
    extra: Steps = field(default_factory=Steps)
    twice: Steps = field(default_factory=Steps)
    different: Steps = field(default_factory=Steps)
    unseen: int = 0

    @property
    def differences(self) -> dict[str, Steps]:
        """The kinds of differences that there are, with their steps."""
        kinds = {name: getattr(self, name) for name in ("missing", "extra", "twice", "different")}
        return {name: steps for name, steps in kinds.items() if steps.count}

    def as_dict(self) -> dict[str, Any]:
        differences = {
            name: {"count": steps.count, "first_steps": steps.first} for name, steps in self.differences.items()
        }
        return {
            "ok": not differences,
            "local": self.local.as_dict(),
            "remote": self.remote.as_dict(),
            "differences": differences,
            "unseen_nan": self.unseen,
        }


@dataclass
class Verification:
    """
    What was found of one run at one remote.

    Attributes:
        reason: why nothing could be compared.
        upto: the newest step that should be there; *rows* how many rows of the curve that are.
        behind: rows of the curve that come after it: held back, or not sent yet.
        metrics: by the names that they have at the remote.
        notes: what else a user should know, one line each.
        at: when it was read, in unix seconds.
    """

    run: str
    remote: str
    reason: str | None = None
    project: str = ""
    remote_id: str = ""
    url: str | None = None
    upto: int | None = None
    rows: int = 0
    behind: int = 0
    metrics: dict[str, Metric] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    at: float = 0.0

    @property
    def ok(self) -> bool:
        return self.reason is None and not any(metric.differences for metric in self.metrics.values())

    @property
    def digests(self) -> tuple[str, str]:
        """Of the local curve, and of what was read back; see `CANONICAL`."""
        sides = ("local", "remote")
        local, remote = ({name: getattr(metric, side) for name, metric in self.metrics.items()} for side in sides)
        return _digest(local), _digest(remote)

    def as_dict(self) -> dict[str, Any]:
        local, remote = self.digests
        return {
            "run": self.run,
            "remote": self.remote,
            "ok": self.ok,
            "reason": self.reason,
            "project": self.project,
            "remote_id": self.remote_id,
            "url": self.url,
            "read_at": self.at,
            "upto_step": self.upto,
            "rows": self.rows,
            "rows_behind": self.behind,
            "digest": {"local": local, "remote": remote},
            "metrics": {name: self.metrics[name].as_dict() for name in sorted(self.metrics)},
            "notes": self.notes,
        }


def proof(found: Sequence[Verification]) -> dict[str, Any]:
    """Return what was found as a document that can be checked later: with digests, what they are of, and versions."""
    versions = {"python": platform.python_version()}
    for name in ("offline-tracker", *dict.fromkeys(one.remote for one in found)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a remote need not be called like its client
    return {
        "ok": all(one.ok for one in found),
        "made_at": time.time(),
        "versions": versions,
        "digest_of": CANONICAL,
        "runs": [one.as_dict() for one in found],
    }


def verify(
    runs: str | os.PathLike[str],
    *,
    to: Sequence[str] = (),
    only: Sequence[str] = (),
    done: Callable[[Verification], None] | None = None,
) -> list[Verification]:
    """
    Read remote runs back in full and compare them with the local curves; a run that can't be read stops no other.

    What should be there is all of a run that has finished, else what was sent of it. What a remote can't hold is left out
    of the comparison and told. That rows are missing is written down, so that the next sync looks for them.

    Args:
        runs: the runs folder.
        to: remotes; empty: where each run is linked to.
        only: ids or unique prefixes; empty: all runs.
        done: called with each result as it comes.

    Raises:
        UsageError: there is no such folder or remote, or there are no credentials for it.
        RunNotFound: one of *only* is not there.
        StoreError: the folder's ledger can't be used.
    """
    home = Runs(runs)
    if not home.path.is_dir():
        raise UsageError(f"no folder {str(home.path)!r}; name the runs folder, or set OFFLINE_TRACKER_DIR")
    for name in to:
        check_name(name)
    chosen = [home.find(text) for text in only] or home.ids()
    found = []
    with Ledger(home.path) as ledger:
        linked: dict[str, list[str]] = {}
        for link in ledger.links():
            linked.setdefault(link.run, []).append(link.remote)
        remotes: dict[str, Remote | RemoteError] = {}
        for run_id in chosen:
            for name in to or dict.fromkeys(linked.get(run_id, ())) or ("",):
                one = Verification(run_id, name, at=time.time())
                try:
                    if not name:
                        raise RemoteError("it was not synced anywhere yet")
                    _verify(one, home, ledger, _connected(remotes, name))
                except UsageError:
                    raise
                except TrackerError as error:
                    one.reason = str(error)
                except Exception as error:  # an answer that no server ever gave: it must not stop the other runs
                    logger.debug("run %s -> %s", run_id, name, exc_info=True)
                    one.reason = f"{type(error).__name__}: {error}"
                found.append(one)
                if done is not None:
                    done(one)
    return found


def _connected(remotes: dict[str, Remote | RemoteError], name: str) -> Remote:
    if name not in remotes:
        remote = create(name)
        try:
            remote.connect()
            remotes[name] = remote
        except RemoteError as error:
            remotes[name] = error
    known = remotes[name]
    if isinstance(known, RemoteError):
        raise known
    return known


def _verify(one: Verification, home: Runs, ledger: Ledger, remote: Remote) -> None:
    with home.read(one.run) as reader:
        uuid = reader.info.uuid
    with ledger.lease(uuid, one.run, Holder.current()) as children:  # what a sync changes meanwhile can't be compared
        if children:
            create(children["remote"]).clean(children)
        link = ledger.link(uuid, remote.name, remote.server)
        if link is None:
            raise RemoteError(f"it was not synced to {remote.name} yet (tracker sync --to {remote.name})")
        one.project, one.remote_id, one.url = f"{link.entity}/{link.project}", link.remote_id, link.url
        target = Target(link.project, link.entity, link.remote_id)
        there = f"{remote.name}: {one.project}/{one.remote_id}"
        found = remote.look(target)
        if found is None:
            raise RemoteRunGone(f"{there} is not there")
        if found.uuid != uuid:
            raise NotOurs(f"{there} did not come from this run")
        one.url = found.url or one.url
        with home.read(one.run) as reader:
            _compare(one, reader, remote, target, found, link)
        missing = [step for metric in one.metrics.values() for step in metric.missing.first[:1]]
        if missing and one.upto is not None:
            ledger.doubted(link, min(missing), one.upto)
            one.notes.append("the next sync looks for what is missing")


def _compare(one: Verification, reader: RunReader, remote: Remote, target: Target, found: Found, link: Link) -> None:
    spans = curve.live_spans(reader.rewinds, reader.last_seq)
    ended = reader.state == "finished" or (reader.state == "failed" and not reader.marks)
    newest = reader.last_row_step(spans) if ended else None
    steps = [step for step in (link.confirmed_step, found.mark.last_step, newest) if step is not None]
    one.upto = max(steps, default=None)
    one.rows = reader.count_rows(spans, one.upto) if steps else 0
    one.behind = reader.count_rows(spans) - one.rows
    if one.behind:
        one.notes.append(f"{one.behind} rows above step {one.upto} are held back or not sent yet")

    def rows() -> Iterator[Row]:
        return curve.rows(reader.calls(spans, None, one.upto)) if steps else iter(())

    one.notes += _unable(remote, rows())
    ends = found.mark.last_steps or {}
    metrics: defaultdict[str, Metric] = defaultdict(Metric)
    for step, row, there, again in pairs(rows, remote.points(target, found), remote.shown):
        here = row.values if row is not None else {}
        for name, value in here.items():
            metric = metrics[name]
            # Above the newest step of its metric even a point that may be hidden is surely not there.
            unseen = remote.hides_nan and value != value and name not in there and step <= ends.get(name, -1)
            metric.local.add(step, value, unseen)
            if unseen:
                metric.unseen += 1
            elif name not in there:
                metric.missing.add(step)
            elif not same(value, there[name]):
                metric.different.add(step)
        for name, value in there.items():
            metric = metrics[name]
            metric.remote.add(step, value)
            if again:
                metric.twice.add(step)
            elif name not in here:
                metric.extra.add(step)
    one.metrics = dict(metrics)
    unseen = sum(metric.unseen for metric in metrics.values())
    if unseen:
        one.notes.append(f"{unseen} points that are NaN can't be seen: {remote.name} leaves them out when read back")


def _unable(remote: Remote, rows: Iterator[Row]) -> list[str]:
    """Say what the remote can't hold, and how much of it."""
    count: dict[tuple[str, str], int] = {}
    names: set[str] = set()
    for row in rows:
        odd = any(type(value) is not float or value - value != 0.0 for value in row.values.values())
        if odd or not row.values.keys() <= names:
            names.update(row.values)
            for name, why in remote.cannot_hold(row.values).items():
                count[name, why] = count.get((name, why), 0) + 1
    return [
        f"{remote.name} can't hold {name.replace(SEPARATOR, '.')} in {number} rows: {why}"
        for (name, why), number in sorted(count.items())
    ]


def _digest(series: Mapping[str, Series]) -> str:
    sha = hashlib.sha256()
    for name in sorted(series):
        if series[name].points:
            sha.update(f"{json.dumps(name)} {series[name].digest}\n".encode())
    return sha.hexdigest()


def _json(value: Any) -> Any:
    """Return a value as strict JSON can hold it; NaN and the infinities as in `tracker export`."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value
