"""
Replays runs to remotes: plan, ship, confirm, and only then write down that it is done.

One way through serves the first sync, the next one, and the one after a crash: read the remote, settle what was in doubt,
send what it lacks, read it again. Whatever fails in between leaves a remote that the same way mends.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import curve
from ..curve import Row
from ..errors import (
    Diverged,
    NotOurs,
    RemoteDown,
    RemoteError,
    RemoteRefused,
    RemoteRunGone,
    TrackerError,
    UsageError,
)
from ..host import HEARTBEAT_S, Holder
from ..store import CLOSES, RunReader, Runs
from ..values import SEPARATOR
from .besides import Local
from .ledger import Ledger, Link, read_links
from .remotes import NAMES, Besides, Facts, Found, Mark, Remote, Shipment, Tally, Target, create

logger = logging.getLogger("offline_tracker")

DEFAULT_PROJECT = "uncategorized"
CONFIRM_S = 60.0
"""How long a remote may show no progress before what was sent counts as not arrived."""
IN_FLIGHT_S = 600.0
"""How long after it was sent a batch may still be on its way, in an uploader that tries again or at a slow server."""
_ROUNDS = 3
_POLL_S = (0.1, 1.0)

Progress = Callable[[str, str, int, int], None]
"""Told (run, remote, rows confirmed or on their way, rows in all)."""


@dataclass(frozen=True)
class SyncResult:
    """
    What became of one run at one remote.

    Attributes:
        status: ``confirmed``, ``nothing new``, ``would send`` (dry run) or ``failed``.
        sent: rows that were sent now, or would be.
        rows: rows of the curve that the remote is confirmed to hold; *last_step* the newest of them.
        held_back: rows that a rewind may still take back, so they were not sent.
        reason: why it failed.
        notes: what else a user should know, one line each.
    """

    run: str
    remote: str
    status: str
    sent: int = 0
    rows: int = 0
    last_step: int | None = None
    held_back: int = 0
    project: str = ""
    remote_id: str = ""
    url: str | None = None
    reason: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status != "failed"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def sync(
    runs: str | os.PathLike[str],
    *,
    to: Sequence[str] = (),
    only: Sequence[str] = (),
    project: str | None = None,
    entity: str | None = None,
    dry_run: bool = False,
    eager: bool = False,
    on_conflict: str = "keep",
    downtime: bool | None = None,
    settle_s: float | None = None,
    confirm_s: float = CONFIRM_S,
    progress: Progress | None = None,
    done: Callable[[SyncResult], None] | None = None,
) -> list[SyncResult]:
    """
    Replay runs to remotes and return what became of each run at each; a bad run never stops the others.

    Args:
        runs: the runs folder.
        to: ``wandb``, ``swanlab``; empty: $OFFLINE_TRACKER_TO, else where a run is linked to, else the one remote
            that there are credentials for.
        only: ids or unique prefixes; empty: all runs.
        project: at the remote, the first time; then the link remembers. Likewise *entity*.
        dry_run: only read, and say what would be sent.
        eager: send also rows that a resume from a checkpoint might still take back.
        on_conflict: ``keep``: report it and send nothing. ``new-run``: replay into a new remote run.
        downtime: count the time between two attempts as time that the run has run; the link remembers it, like *project*.
        settle_s: how long a lost answer's effect is waited for; each remote has its own default.
        confirm_s: how long a remote may show no progress.
        done: called with each result as it comes.

    Raises:
        UsageError: it is not clear to which remote, or there are no credentials for it.
        RunNotFound: one of *only* is not there.
        StoreError: the runs folder or its ledger can't be used.
    """
    if on_conflict not in ("keep", "new-run"):
        raise UsageError(f"on_conflict={on_conflict!r}: use keep or new-run")
    home = Runs(runs)
    if not home.path.is_dir():
        raise UsageError(f"no folder {str(home.path)!r}; name the runs folder, or set OFFLINE_TRACKER_DIR")
    chosen = [home.find(text) for text in only] or home.ids()
    with Ledger(home.path) as ledger:
        engine = Engine(
            home, ledger, project, entity, dry_run, eager, on_conflict, downtime, settle_s, confirm_s, progress
        )
        results = []
        for run_id, name in engine.pairs(chosen, to):
            result = engine.sync_run(run_id, name)
            results.append(result)
            if done is not None:
                done(result)
    return results


@dataclass
class Engine:
    """The state of one `sync`: which remotes are connected, and the options."""

    runs: Runs
    ledger: Ledger
    project: str | None
    entity: str | None
    dry_run: bool
    eager: bool
    on_conflict: str
    downtime: bool | None
    settle_s: float | None
    confirm_s: float
    progress: Progress | None
    _remotes: dict[str, tuple[Remote, str] | TrackerError] = field(default_factory=dict)

    def pairs(self, chosen: Sequence[str], to: Sequence[str]) -> list[tuple[str, str]]:
        """Return which run goes to which remote; UsageError where that is not clear."""
        named = list(to) or os.environ.get("OFFLINE_TRACKER_TO", "").replace(",", " ").split()
        for name in named:
            if name not in NAMES:
                raise UsageError(f"unknown remote {name!r}; use {' or '.join(NAMES)}")
        pairs = []
        linked: dict[str, list[str]] = {}
        for link in self.ledger.links():
            linked.setdefault(link.run, []).append(link.remote)
        for run_id in chosen:
            for name in named or dict.fromkeys(linked.get(run_id, ())) or [self._only_one()]:
                pairs.append((run_id, name))
        for name in dict.fromkeys(name for _, name in pairs):
            found = self._remote(name)
            if isinstance(found, UsageError):
                raise found
        return pairs

    def _only_one(self) -> str:
        able = []
        for name in NAMES:
            remote = self._remote(name)
            if not isinstance(remote, UsageError):
                able.append(name)
        if len(able) != 1:
            have = "there are credentials for both remotes" if able else "there are no credentials for any remote"
            raise UsageError(f"to which remote? {have}; use --to {' or --to '.join(NAMES)}, or set OFFLINE_TRACKER_TO")
        return able[0]

    def _remote(self, name: str) -> tuple[Remote, str] | TrackerError:
        """Return a connected remote and its default entity, or why there is none; asked for once a sync."""
        if name not in self._remotes:
            try:
                remote = create(name)
                self._remotes[name] = remote, remote.connect()
            except (RemoteError, UsageError) as error:
                self._remotes[name] = error
        return self._remotes[name]

    def sync_run(self, run_id: str, name: str) -> SyncResult:
        """Replay one run to one remote; what goes wrong is in the result."""
        connected = self._remote(name)
        try:
            if isinstance(connected, TrackerError):
                raise connected
            remote, default_entity = connected
            with self.runs.read(run_id) as reader:
                uuid = reader.info.uuid
            with self.ledger.lease(uuid, run_id, Holder.current()) as children:
                if children:  # perhaps of a sync to the other remote
                    create(children["remote"]).clean(children)
                # Read only now: a sync that held the lease until this moment may have sent rows newer than a first look.
                with self.runs.read(run_id) as reader:
                    return _RunSync(self, reader, remote, default_entity).run()
        except TrackerError as error:
            return SyncResult(run_id, name, "failed", reason=str(error))
        except Exception as error:  # a full disk, an answer that no server ever gave: it must not stop the other runs
            logger.debug("run %s -> %s", run_id, name, exc_info=True)
            return SyncResult(run_id, name, "failed", reason=f"{type(error).__name__}: {error}")


class _LocalCurve:
    """The curve of one reader; see `remotes.Curve`."""

    def __init__(self, reader: RunReader) -> None:
        self.reader = reader
        self.spans = curve.live_spans(reader.rewinds, reader.last_seq)
        self._marks: dict[int | None, Mark] = {None: Mark(None, 0, {})}

    def mark(self, upto: int | None) -> Mark:
        # The reader is one moment of the run, so what was counted once, over all its points, stays true.
        if upto not in self._marks:
            reader, spans = self.reader, self.spans
            steps = reader.last_steps(spans, upto)
            self._marks[upto] = Mark(reader.last_row_step(spans, upto), reader.count_rows(spans, upto), steps)
        return self._marks[upto]

    def rows(self, above: int | None, upto: int | None) -> Iterator[Row]:
        return curve.rows(self.reader.calls(self.spans, above, upto))

    def count(self, above: int | None, upto: int | None) -> int:
        return 0 if upto is None else (self.mark(upto).rows or 0) - (self.mark(above).rows or 0)


class _RunSync:
    """One run, one remote, under the lease."""

    def __init__(self, engine: Engine, reader: RunReader, remote: Remote, default_entity: str) -> None:
        self.engine = engine
        self.ledger = engine.ledger
        self.reader = reader
        self.remote = remote
        self.curve = _LocalCurve(reader)
        self.notes: list[str] = []
        self.sent = 0
        info = reader.info
        link = self.ledger.link(info.uuid, remote.name, remote.server)
        if link is None:
            link = Link(
                info.uuid,
                remote.name,
                remote.server,
                info.id,
                engine.project or info.project or DEFAULT_PROJECT,
                engine.entity or info.entity or default_entity,
                info.id,
                downtime=int(engine.downtime or False),
            )
        elif (engine.project or link.project) != link.project or (engine.entity or link.entity) != link.entity:
            self.notes.append(f"is linked to {link.entity}/{link.project} already; --project and --entity count once")
        if engine.downtime is not None and engine.downtime != bool(link.downtime):
            self.notes.append(
                f"counts its {'whole' if link.downtime else 'running'} time already; --downtime counts once"
            )
        self.link = link
        self.limit = self._limit()

    def _limit(self) -> int | None:
        reader, spans = self.reader, self.curve.spans
        newest = reader.last_live_seq(spans)
        at = reader.step_of(newest)
        last = None if at is None else (at[0], bool(at[1] & CLOSES))
        marks = [
            step[0]
            for mark in reader.marks
            if (step := reader.step_of(mark.seq)) is not None and curve.holds(spans, mark.seq, step[0])
        ]
        # A failed run may be resumed from one of its checkpoints; without checkpoints there is nothing to resume from.
        ended = reader.state == "finished" or (reader.state == "failed" and not marks)
        return curve.sendable_step(last, max(marks, default=None), ended, self.engine.eager)

    @property
    def target(self) -> Target:
        return Target(self.link.project, self.link.entity, self.link.remote_id)

    def run(self) -> SyncResult:
        self.remote.check(self.target)
        for attempt in itertools.count(1):
            try:
                return self._round()
            except (_Interrupted, RemoteRunGone, Diverged) as error:
                if not isinstance(error, _Interrupted):
                    if self.engine.on_conflict != "new-run" or self.engine.dry_run or attempt > 1:
                        raise
                    self._new_remote_run(str(error))
                elif attempt == _ROUNDS:
                    raise error.reason from None
        raise AssertionError("unreachable")

    def _new_remote_run(self, why: str) -> None:
        before = self.link.remote_id.removeprefix(f"{self.link.run}-r")
        number = int(before) + 1 if before.isdigit() else 2
        while (new_id := f"{self.link.run}-r{number}") in self.engine.runs:
            number += 1  # that is another run's own id
        self.notes.append(f"{why}; replayed into the new remote run {new_id}")
        self.ledger.settled(self.link)
        downtime = self.link.downtime if self.engine.downtime is None else int(self.engine.downtime)
        blank = Link(*self.link.key, self.link.run, self.link.project, self.link.entity, new_id, downtime=downtime)
        self.link = self.ledger.save(blank)

    def _round(self) -> SyncResult:
        found = self._look()
        rows, total = self._plan(found)
        facts = self._facts()
        digest = _digest(facts)
        local = Local(self.reader, facts.runtime, self.remote.alerts)
        held_back = self.reader.count_rows(self.curve.spans) - self.curve.count(None, self._reach(found))
        if self.engine.dry_run:
            return self._result("would send" if total or found is None else "nothing new", total, held_back, found)
        besides = self._besides(found, local)
        told = (self.link.state, self.link.facts) == (facts.state, digest)
        if found is not None and not total and not besides and told:
            self.ledger.settled(self.link)
            return self._result("confirmed" if self.sent else "nothing new", self.sent, held_back, found)
        self.sent = max(self.sent, total)  # of a second round only what the first one did not get there is missing
        if self.link.facts != digest:
            self.notes += self.remote.cannot_say(self.target, facts)
        # Intended: from here on a remote run of this id may be ours.
        self.link = self.ledger.save(self.link, besides_sent_at=time.time() if besides else None)
        shipment = self.remote.open(self.target, facts, self._started)
        try:
            self._ship(shipment, rows, total)
            taken = self._add(shipment, besides)
            found = self._confirm(shipment, found)
            held = self._confirm_besides(besides, taken)
            self.ledger.settled(self.link)
            confirmed = self.curve.mark(self._reach(found))
            self.link = self.ledger.save(
                self.link,
                made_at=self.link.made_at or time.time(),
                confirmed_step=confirmed.last_step,
                confirmed_rows=confirmed.rows or 0,
                confirmed_at=time.time(),
                url=shipment.url or found.url,
                samples=held.samples,
                lines=held.lines,
                besides_sent_at=None,
            )
            shipment.finish(facts)
            alerts = self.link.alerts + len(besides.alerts)
            self.link = self.ledger.save(self.link, state=facts.state, facts=digest, alerts=alerts)
            self.notes += shipment.notes
        finally:
            shipment.close()
        return self._result("confirmed", self.sent, held_back, found)

    def _besides(self, found: Found | None, local: Local) -> Besides:
        """Return what the remote lacks beside the rows: how much of it is there, it says itself."""
        link = self.link
        if found is None:
            return local.above(Tally(), link.alerts)
        if self.ledger.link(*link.key) is None and (last := found.mark.last_step) is not None:
            # The ledger is lost. Alerts can't be counted at a remote; those up to its last row have been there.
            newest = next(self.curve.rows(last - 1, last), None)
            link = self.link = replace(link, alerts=local.alerts_upto(newest.seq if newest else 0))
            doubt = True
        else:
            doubt = link.besides_sent_at is not None
        wanted = local.tally
        if not wanted.samples and not wanted.lines:
            return local.above(Tally(), link.alerts)
        held = self._held(link)
        settle_s = self.remote.settle_s if self.engine.settle_s is None else self.engine.settle_s
        moved_at, poll_s = time.monotonic(), _POLL_S[0]
        while (doubt and held != wanted) or not _reaches(held, Tally(link.samples, link.lines)):
            if time.monotonic() > moved_at + settle_s:
                break
            poll_s = self._pause(poll_s)
            if (again := self._held(link)) != held:
                held, moved_at = again, time.monotonic()
        return local.above(held, link.alerts)

    def _held(self, link: Link) -> Tally:
        """Read how much the remote holds; of what it can't tell, or does not show at all, what we know."""
        try:
            tally = self.remote.tally(self.target)
        except RemoteRefused:  # a server that does not count these
            tally = Tally()
        return Tally(tally.samples or link.samples, tally.lines or link.lines)

    def _add(self, shipment: Shipment, besides: Besides) -> str:
        """Send what goes up beside the rows; ``acked``, ``sent`` or ``refused``."""
        try:
            return "acked" if not besides or shipment.add(besides) else "sent"
        except RemoteDown as error:
            raise _Interrupted(error) from error
        except RemoteRefused as error:  # no reason to keep back the rows
            self.notes.append(f"not all samples and lines of the console were taken: {error}")
            return "refused"

    def _confirm_besides(self, besides: Besides, taken: str) -> Tally:
        """Wait until the remote shows what was sent beside the rows; it may be slow to, but the rows are there."""
        if taken == "refused" or not (besides.samples or besides.lines):
            return besides.after  # they would be refused for ever
        end = time.monotonic() + min(self.engine.confirm_s, 2 * self.remote.settle_s)
        poll_s = _POLL_S[0]
        while not _reaches(shown := self._held(self.link), besides.after):
            if time.monotonic() > end:
                self.notes.append(f"{self.remote.name} does not show all samples and lines of the console yet")
                return besides.after if taken == "acked" else shown
            poll_s = self._pause(poll_s)
        return besides.after

    def _started(self, children: Mapping[str, Any]) -> None:
        self.ledger.children(self.link.uuid, {"remote": self.remote.name, **children})

    def _look(self) -> Found | None:
        """Read the remote run, make sure that it is ours, and wait out what a sync that died had in flight."""
        remote, link = self.remote, self.link
        found = remote.look(self.target)
        if found is None:
            if link.made_at is not None:
                raise RemoteRunGone(
                    f"{remote.name}: the remote run {link.entity}/{link.project}/{link.remote_id} is gone, it was "
                    "deleted there (--on-conflict new-run sends the run to a new one)"
                )
            return None
        known = self.ledger.link(*link.key) is not None
        if found.uuid != link.uuid and not (known and found.uuid is None and found.mark.last_step is None):
            raise NotOurs(
                f"{remote.name}: {link.entity}/{link.project}/{link.remote_id} is there already and did not come from "
                "this run; give this one another --project, or rename that one's project"
            )
        doubt = self.ledger.doubt(link)
        if doubt is not None:
            # When the sync died nobody knows, and a request may have been on its way then: so the time runs from now.
            goal, since = doubt.last_step, time.time() if time.time() < doubt.sent_at + IN_FLIGHT_S else doubt.sent_at
        elif known:
            return found
        else:  # the ledger is lost, or the other half of this run was synced elsewhere
            goal, since = self.limit if self.limit is not None else -1, time.time()
        settle_s = remote.settle_s if self.engine.settle_s is None else self.engine.settle_s
        wanted = self.curve.mark(goal)
        moved_at, poll_s = since, _POLL_S[0]
        while not remote.agrees(found.mark, wanted) and time.time() < moved_at + settle_s:
            poll_s = self._pause(poll_s)
            again = remote.look(self.target)
            if again is None:
                raise RemoteRunGone(f"{remote.name}: the remote run {link.remote_id} went away while it was read")
            if again.mark != found.mark:
                moved_at = time.time()
            found = again
        return found

    def _pause(self, poll_s: float) -> float:
        time.sleep(poll_s)
        self._beat()
        return min(2 * poll_s, _POLL_S[1])

    _beat_at = 0.0

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at > HEARTBEAT_S / 2:
            self._beat_at = time.monotonic()
            self.ledger.beat(self.link.uuid)

    def _plan(self, found: Found | None) -> tuple[Iterator[Row], int]:
        """Return the rows that the remote lacks, and how many they are; Diverged where they can't be told."""
        if found is None:
            rows = self.curve.rows(None, self.limit) if self.limit is not None else iter(())
            return rows, self.curve.count(None, self.limit)
        last = found.mark.last_step
        if self.link.sent_step is not None and last is not None:
            lost = curve.lost_steps(self.reader.rewinds, self.link.sent_seq, min(self.link.sent_step, last))
            if lost is not None:
                raise Diverged(
                    f"{self.remote.name} holds steps {lost[0]} to {lost[1]} of a branch that a resume has superseded "
                    "since; nothing was sent (--on-conflict new-run replays the curve into a new remote run)"
                )
            newest = self.reader.step_of(self.link.sent_seq)
            if newest is not None and newest[0] != self.link.sent_step:
                raise Diverged(
                    f"{self.remote.name} holds as step {self.link.sent_step} what a rewind has made step {newest[0]} "
                    "since; nothing was sent (--on-conflict new-run replays the curve into a new remote run)"
                )
        if self.remote.agrees(found.mark, self.curve.mark(last)):
            confirmed = self.link.confirmed_step
            if confirmed is not None and self.remote.agrees(found.mark, self.curve.mark(confirmed)):
                # The newest rows may hold nothing that this remote can hold.
                last = confirmed if last is None else max(last, confirmed)
            if self.limit is None or (last is not None and last >= self.limit):
                return iter(()), 0
            return self.curve.rows(last, self.limit), self.curve.count(last, self.limit)
        missing = self.remote.mend(self.target, found, self.curve, self._reach(found))
        if missing is None:
            raise self._diverged(found)
        return iter(missing), len(missing)

    def _reach(self, found: Found | None) -> int | None:
        """Return the step up to which the remote should hold the curve: what may go, or what went already."""
        steps = [step for step in (self.limit, found.mark.last_step if found else None) if step is not None]
        return max(steps, default=None)

    def _diverged(self, found: Found) -> Diverged:
        mark, local = found.mark, self.curve.mark(found.mark.last_step)
        there = f"{mark.rows} rows" if mark.rows is not None else f"metrics ending at {dict(mark.last_steps or {})}"
        here = f"{local.rows} rows" if mark.rows is not None else f"{dict(local.last_steps or {})}"
        return Diverged(
            f"{self.remote.name} holds {there} up to step {mark.last_step} where the curve has {here}; nothing was sent "
            "(--on-conflict new-run replays the curve into a new remote run)"
        )

    def _ship(self, shipment: Shipment, rows: Iterator[Row], total: int) -> None:
        sent = 0
        unable: dict[str, str] = {}
        names: set[str] = set()
        try:
            for batch in _batches(rows, shipment.batch_rows, shipment.batch_points):
                for row in batch:
                    odd = any(type(value) is not float or value - value != 0.0 for value in row.values.values())
                    if odd or not row.values.keys() <= names:
                        names.update(row.values)
                        unable.update(self.remote.cannot_hold(row.values))
                number, self.link = self.ledger.sent(
                    self.link, batch[0].step, batch[-1].step, len(batch), max(row.seq for row in batch)
                )
                if shipment.send(batch):
                    self.ledger.acked(number)
                self._beat()
                sent += len(batch)
                if self.engine.progress is not None:
                    self.engine.progress(self.reader.info.id, self.remote.name, sent, total)
        except RemoteDown as error:
            raise _Interrupted(error) from error
        if unable:
            said = ", ".join(f"{name.replace(SEPARATOR, '.')} ({why})" for name, why in sorted(unable.items())[:5])
            self.notes.append(f"{self.remote.name} can't hold all of: {said}")

    def _confirm(self, shipment: Shipment, before: Found | None) -> Found:
        """Read the remote until it shows the curve; what it does not show in time is looked for point by point."""
        wanted = self.curve.mark(self._reach(before))
        last: Found | None = None
        moved_at, poll_s = time.monotonic(), _POLL_S[0]
        while True:
            found = self.remote.look(self.target)
            if found is not None and self.remote.agrees(found.mark, wanted):
                return found
            if found is not None and (last is None or found.mark != last.mark):
                moved_at, last = time.monotonic(), found
            complaint = shipment.complaint()
            if time.monotonic() - moved_at > (min(self.engine.confirm_s, 10.0) if complaint else self.engine.confirm_s):
                break
            poll_s = self._pause(poll_s)
        missing = self.remote.mend(self.target, found, self.curve, self._reach(before)) if found is not None else None
        if found is not None and missing == []:
            return found
        there = f"{found.mark.rows} rows, step {found.mark.last_step}" if found else "nothing"
        why = complaint or f"the remote shows {there} instead of {wanted.rows} rows, step {wanted.last_step}"
        raise _Interrupted(RemoteDown(f"{self.remote.name} does not show all that was sent: {why}"))

    def _facts(self) -> Facts:
        reader, info = self.reader, self.reader.info
        last = reader.attempts[-1] if reader.attempts else None
        summary = {name: value for name, (_, value) in reader.last_values(self.curve.spans, self.limit).items()}
        summary.update(reader.summary())
        runtime, seconds = curve.runtime(
            [attempt.after_seq for attempt in reader.attempts],
            [attempt.started_at for attempt in reader.attempts],
            reader.last_times(self.curve.spans),
            bool(self.link.downtime),
        )
        environment = reader.environment()
        packages = environment.pop("packages", ())
        return Facts(
            id=info.id,
            uuid=info.uuid,
            name=info.name or info.id,
            project=self.link.project,
            entity=self.link.entity,
            created_at=info.created_at,
            state=reader.state,
            group=info.group,
            job_type=info.job_type,
            notes=info.notes,
            tags=info.tags,
            config=info.config or {},
            exit_code=last.exit_code if last else None,
            runtime=runtime,
            seconds=seconds,
            environment=environment,
            packages=tuple(packages),
            definitions=reader.definitions(),
            summary=summary,
        )

    def _result(self, status: str, sent: int, held_back: int, found: Found | None) -> SyncResult:
        mark = self.curve.mark(self._reach(found)) if found is not None and status != "would send" else Mark(None, 0)
        if held_back:
            why = "after the last checkpoint" if self.reader.marks else "still open"
            self.notes.append(f"{held_back} rows {why} held back (--eager sends them)")
        return SyncResult(
            run=self.reader.info.id,
            remote=self.remote.name,
            status=status,
            sent=sent,
            rows=mark.rows or 0,
            last_step=mark.last_step,
            held_back=held_back,
            project=f"{self.link.entity}/{self.link.project}",
            remote_id=self.link.remote_id,
            url=self.link.url or (found.url if found else None),
            notes=list(self.notes),
        )


class _Interrupted(Exception):
    """Rows may have arrived or not: read the remote and plan anew."""

    def __init__(self, reason: RemoteDown) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _batches(rows: Iterator[Row], most_rows: int, most_points: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    points = 0
    for row in rows:
        if batch and (len(batch) >= most_rows or points + len(row.values) > most_points):
            yield batch
            batch, points = [], 0
        batch.append(row)
        points += len(row.values)
    if batch:
        yield batch


def _reaches(held: Tally, wanted: Tally) -> bool:
    return (held.samples or 0) >= (wanted.samples or 0) and (held.lines or 0) >= (wanted.lines or 0)


def _digest(facts: Facts) -> str:
    told = [facts.name, facts.group, facts.job_type, facts.notes, facts.tags, facts.config, facts.definitions]
    told += [facts.environment, facts.packages]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def runs_at(path: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """Return the runs folder that *path* means, and the run in it if *path* is a run's own folder."""
    folder = Path(path)
    return (folder.parent, [folder.name]) if (folder / "run.db").is_file() else (folder, [])


def links_of(path: str | os.PathLike[str]) -> dict[str, list[Link]]:
    """
    Return where the runs of a folder are linked to, by run id; {} where nothing was ever synced.

    Only reads: no ledger is made, and none is changed.

    Raises:
        StoreError: there is a ledger, and it can't be read.
    """
    links: dict[str, list[Link]] = {}
    for link in read_links(Path(path)):
        links.setdefault(link.run, []).append(link)
    return links


__all__ = ["SyncResult", "sync"]
