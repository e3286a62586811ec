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
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
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
from ..store import CLOSES, Look, RunReader, Runs
from ..values import SEPARATOR
from .besides import Local
from .compare import Steps, pairs, same
from .ledger import Ledger, Link, Seen, read_links
from .remotes import Besides, Facts, Found, Mark, Pace, Remote, Shipment, Tally, Target, check_name, create, names

logger = logging.getLogger("offline_tracker")

DEFAULT_PROJECT = "uncategorized"
PATIENCE_S = 90.0
"""
How long a remote may fail, keep silent or show no progress before a run is given up for now; longer than the minute after
which proxies cut a request off, for what takes effect after we have given up on it is the only way to a double row.
"""
IN_FLIGHT_S = 600.0
"""How long after it was sent a batch may still be on its way, in an uploader that tries again or at a slow server."""
JOBS = 4
_ROUNDS = 3
_POLL_S = (0.1, 1.0)
_LOOK_S = 5.0
_BUSY_S = 0.01
_OWN = "sync "
"""How the keys of leases begin that are no run's."""
_TICK_S = 2.0
"""A file that was changed so shortly before we looked may change again and show the same time."""

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
        superseded: first and last step that the remote held, or holds, of a branch that a resume has superseded.
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
    superseded: tuple[int, int] | None = None
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
    patience_s: float = PATIENCE_S,
    adopt: bool = False,
    jobs: int = JOBS,
    max_rps: float | None = None,
    max_kbps: float | None = None,
    progress: Progress | None = None,
    done: Callable[[SyncResult], None] | None = None,
) -> list[SyncResult]:
    """
    Replay runs to remotes and return what became of each run at each; a bad run never stops the others.

    Args:
        runs: the runs folder.
        to: ``wandb``, ``swanlab``; empty: $OFFLINE_TRACKER_TO, else where a run is linked to, else the one remote
            that there are credentials for.
        only: ids or unique prefixes; empty: all runs. Of these the remote is asked even if no file of theirs changed.
        project: at the remote, the first time; then the link remembers. Likewise *entity*.
        dry_run: only read, and say what would be sent.
        eager: send also rows that a resume from a checkpoint might still take back.
        on_conflict: ``keep``: report it and send nothing. ``new-run``: replay into a new remote run. ``rewind``: have
            the remote take back rows that a resume has superseded, if it can, else as ``keep``.
        downtime: count the time between two attempts as time that the run has run; the link remembers it, like *project*.
        settle_s: how long a lost answer's effect is waited for; each remote has its own default.
        patience_s: how long a remote may fail, keep silent or show no progress.
        adopt: take over a remote run of the same id that did not come from this run, if all its rows are this run's.
        jobs: how many runs are on their way at once.
        max_rps: requests a second, over all runs; *max_kbps* kilobytes (1000 bytes) of rows a second.
        progress: called from the threads of the runs.
        done: called with each result as it comes, in this thread.

    Raises:
        UsageError: it is not clear to which remote, or there are no credentials for it.
        RunNotFound: one of *only* is not there.
        StoreError: the runs folder or its ledger can't be used.
    """
    home = checked(runs, on_conflict, jobs)
    chosen = [home.find(text) for text in only] or home.ids()
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(home.path))
        engine = Engine(
            home,
            ledger,
            project=project,
            entity=entity,
            dry_run=dry_run,
            eager=eager,
            on_conflict=on_conflict,
            downtime=downtime,
            settle_s=settle_s,
            patience_s=patience_s,
            adopt=adopt,
            jobs=jobs,
            pace=Pace(max_rps, max_kbps),
            progress=progress,
        )
        stack.callback(engine.close)
        wanted = engine.pairs(chosen, to)
        results = {}
        for result in stack.enter_context(closing(engine.results(wanted, ask=bool(only)))):
            results[result.run, result.remote] = result
            if done is not None:
                done(result)
    return [results[pair] for pair in dict.fromkeys(wanted)]


def checked(runs: str | os.PathLike[str], on_conflict: str, jobs: int) -> Runs:
    """Return the runs folder, if it is one and the options make sense; else UsageError, before anything is written."""
    if on_conflict not in ("keep", "new-run", "rewind"):
        raise UsageError(f"on_conflict={on_conflict!r}: use keep, new-run or rewind")
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: use 1 or more")
    home = Runs(runs)
    if not home.path.is_dir():
        raise UsageError(f"no folder {str(home.path)!r}; name the runs folder, or set OFFLINE_TRACKER_DIR")
    return home


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
    patience_s: float
    adopt: bool
    jobs: int
    pace: Pace
    progress: Progress | None = None
    looked: dict[tuple[str, str], Seen] = field(default_factory=dict)
    _made: dict[str, Remote] = field(default_factory=dict)
    _remotes: dict[str, tuple[Remote, str] | TrackerError] = field(default_factory=dict)
    _turns: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connecting: threading.Lock = field(default_factory=threading.Lock)
    _children: ExitStack = field(default_factory=ExitStack)
    _told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _leased_with: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)

    def pairs(self, chosen: Sequence[str], to: Sequence[str]) -> list[tuple[str, str]]:
        """Return which run goes to which remote; UsageError where that is not clear."""
        named = list(to) or os.environ.get("OFFLINE_TRACKER_TO", "").replace(",", " ").split()
        for name in named:
            check_name(name)
        linked: dict[str, list[str]] = {}
        for link in self.ledger.links():
            linked.setdefault(link.run, []).append(link.remote)
        return [
            (run_id, name)
            for run_id in chosen
            for name in named or dict.fromkeys(linked.get(run_id, ())) or [self._only_one()]
        ]

    def _only_one(self) -> str:
        able = [name for name in names() if not isinstance(self._remote(name), UsageError)]
        if len(able) != 1:
            have = (
                f"there are credentials for {' and '.join(able)}" if able else "there are no credentials for any remote"
            )
            use = " or --to ".join(able or names())
            raise UsageError(f"to which remote? {have}; use --to {use}, or set OFFLINE_TRACKER_TO")
        return able[0]

    def results(self, pairs: Sequence[tuple[str, str]], ask: bool) -> Generator[SyncResult]:
        """
        Yield what becomes of each pair, as it comes; first of those that need no more than a look at the files.

        Args:
            ask: look at the remotes of these as well.

        Raises:
            UsageError: there are no credentials for a remote that is needed, or no client; nothing was sent.
        """
        told = {} if ask else self.nothing_new(pairs)
        yield from told.values()
        jobs: dict[str, list[str]] = {}
        for run_id, name in dict.fromkeys(pairs):
            if (run_id, name) not in told:
                jobs.setdefault(run_id, []).append(name)
        self.connect(itertools.chain(*jobs.values()))
        with self.pool() as pool:
            for future in as_completed([pool.submit(self.sync_to, run_id, names) for run_id, names in jobs.items()]):
                yield from future.result()

    def connect(self, names: Iterable[str]) -> None:
        """Connect remotes, those that aren't yet, and remove what dead syncs have left; UsageError as `results`."""
        for name in dict.fromkeys(names):
            found = self._remote(name)
            if isinstance(found, UsageError):
                raise found
        self._clean_orphans()

    @contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads for the runs; what ends this early (Ctrl-C, or whoever listens has enough) ends them too."""
        pool = ThreadPoolExecutor(self.jobs, "sync")
        try:
            yield pool
        except BaseException:
            self.pace.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def sync_to(self, run_id: str, names: Sequence[str]) -> list[SyncResult]:
        """Replay one run to some remotes, one after the other, for its lease is one; see `sync_run`."""
        return [self.sync_run(run_id, name) for name in names]

    def nothing_new(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], SyncResult]:
        """Return the results of those that were confirmed as they still are; no run is opened and no remote asked."""
        seen = self.ledger.seen()
        addresses = {name: self._make(name).address() for name in {name for _, name in pairs}}
        places = {
            (link.run, link.remote, f"{link.entity}/{link.project}", link.remote_id) for link in self.ledger.links()
        }
        told = {}
        for pair in pairs:
            if (before := seen.get(pair)) is None or before.address != addresses[pair[1]]:
                continue
            result = SyncResult(**before.result)
            if (result.run, result.remote, result.project, result.remote_id) not in places:
                continue
            entity, _, project = result.project.partition("/")
            if (self.project or project, self.entity or entity) != (project, entity):
                continue
            if not (result.held_back and self.eager) and self.unchanged(before):
                self.looked[pair] = before
                told[pair] = result
        return told

    def unchanged(self, seen: Seen) -> bool:
        """Return whether a run is as it was seen: it may have died though no file has changed."""
        if seen.holder is not None and not seen.holder[0].holds_since(seen.holder[1]):
            return False
        return self.runs.stamp(seen.run, seen.journals).text == seen.stamp

    def _make(self, name: str) -> Remote:
        if name not in self._made:
            self._made[name] = create(name)
            self._made[name].pace = self.pace
            self._made[name].patience_s = self.patience_s
        return self._made[name]

    def _remote(self, name: str) -> tuple[Remote, str] | TrackerError:
        """Return a connected remote and its default entity, or why there is none; asked for once a sync."""
        with self._connecting:
            if name not in self._remotes:
                remote = self._make(name)
                try:
                    self._remotes[name] = remote, remote.connect()
                except (RemoteError, UsageError) as error:
                    self._remotes[name] = error
            return self._remotes[name]

    def forget(self, name: str) -> None:
        """Connect a remote anew when it is needed next, if it could not be connected."""
        if isinstance(self._remotes.get(name), RemoteError):
            self._remotes.pop(name)

    def _clean_orphans(self) -> None:
        for uuid, children in self.ledger.orphans():
            self._make(children["remote"]).clean(children)
            if uuid.startswith(_OWN):
                with self.ledger.lease(uuid, uuid, Holder.current()):
                    pass

    def started(self, uuid: str, remote: str, children: Mapping[str, Any]) -> None:
        """Write down what must be cleaned up if we die: with the run, and for the time between two runs with the sync."""
        told = {"remote": remote, **children}
        if self._leased_with.get(uuid) != told:
            self.ledger.children(uuid, told)
        with self._lock:
            if self._told.get(remote) != told:
                key = f"{_OWN}{secrets.token_hex(8)}"
                self._children.enter_context(self.ledger.lease(key, key, Holder.current(), told))
                self._told[remote] = told

    def close(self) -> None:
        """End what the remotes have started."""
        for remote in self._made.values():
            remote.close()
        self._children.close()

    def sync_run(self, run_id: str, name: str) -> SyncResult:
        """Replay one run to one remote; what goes wrong is in the result."""
        connected = self._remote(name)
        try:
            if isinstance(connected, TrackerError):
                raise connected
            remote, default_entity = connected
            with self.runs.read(run_id) as reader:
                uuid = reader.info.uuid
            with self._lock:
                turn = self._turns.setdefault(uuid, threading.Lock())  # two folders may hold copies of one run
            with ExitStack() as stack:
                stack.enter_context(turn)
                # What has been started for another run will be this one's, too: so it is written down with the lease.
                self._leased_with[uuid] = started = self._told.get(name)
                children = stack.enter_context(self.ledger.lease(uuid, run_id, Holder.current(), started))
                if children:  # perhaps of a sync to the other remote
                    self._make(children["remote"]).clean(children)
                # Read only now: a sync that held the lease until this moment may have sent rows newer than a first look.
                before = self.runs.stamp(run_id, reader.journals)
                with self.runs.read(run_id) as reader:
                    result = _RunSync(self, reader, remote, default_entity).run()
                    result = replace(result, run=run_id)  # a copy of a run's folder may have another name
                    if result.ok and not self.dry_run:
                        self._remember(reader, remote, before, result)
                    return result
        except TrackerError as error:
            superseded = getattr(error, "superseded", None)
            return SyncResult(run_id, name, "failed", reason=str(error), superseded=superseded)
        except Exception as error:  # a full disk, an answer that no server ever gave: it must not stop the other runs
            logger.debug("run %s -> %s", run_id, name, exc_info=True)
            return SyncResult(run_id, name, "failed", reason=f"{type(error).__name__}: {error}")

    def _remember(self, reader: RunReader, remote: Remote, before: Look, result: SyncResult) -> None:
        last = reader.attempts[-1] if reader.state == "running" else None
        notes = result.notes[-1:] if result.held_back else []
        seen = Seen(
            run=result.run,
            remote=remote.name,
            address=remote.address(),
            stamp=before.text,
            journals=[str(folder) for folder in reader.journals],
            holder=(last.holder, last.heartbeat_at) if last else None,
            result={**asdict(result), "status": "nothing new", "sent": 0, "notes": notes},
        )
        settled = self.ledger.now() - before.changed_at > _TICK_S
        self.looked[result.run, remote.name] = seen if settled else replace(seen, stamp="")
        if settled and self.unchanged(seen):
            self.ledger.remember(seen)


class _LocalCurve:
    """The curve of one reader."""

    def __init__(self, reader: RunReader) -> None:
        self.reader = reader
        self.spans = curve.live_spans(reader.rewinds, reader.last_seq)
        self._marks: dict[int | None, Mark] = {None: Mark(None, 0, {})}

    def mark(self, upto: int | None) -> Mark:
        # The reader is one moment of the run, so what was counted once, over all its points, stays true.
        if upto not in self._marks:
            reader, spans = self.reader, self.spans
            below = max(
                (step for step in self._marks if step is not None and upto is not None and step < upto), default=None
            )
            rows = (self._marks[below].rows or 0) + reader.count_rows(spans, upto, below)
            self._marks[upto] = Mark(reader.last_row_step(spans, upto), rows, reader.last_steps(spans, upto))
        return self._marks[upto]

    def rows(self, above: int | None, upto: int | None) -> Iterator[Row]:
        return curve.rows(self.reader.calls(self.spans, above, upto))

    def count(self, above: int | None, upto: int | None) -> int:
        return 0 if upto is None else self.reader.count_rows(self.spans, upto, above)


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
        self.superseded: tuple[int, int] | None = None
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
        self._beat_at = time.monotonic()  # when the lease was taken, or just after
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
            except _Interrupted as error:
                if attempt == _ROUNDS:
                    raise error.reason from None
            except (RemoteRunGone, Diverged) as error:
                self.superseded = getattr(error, "superseded", None)
                if self.engine.dry_run or attempt > 1:
                    raise
                if self.engine.on_conflict == "new-run":
                    self._new_remote_run(str(error))
                elif self.engine.on_conflict == "rewind" and isinstance(error, Diverged) and error.superseded:
                    self._rewind(error, error.superseded)
                else:
                    raise
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

    def _rewind(self, conflict: Diverged, superseded: tuple[int, int]) -> None:
        """Have the remote take back the rows of a superseded branch; *conflict* stands where it does not."""
        first, last = superseded
        wanted = self.curve.mark(first - 1)
        try:
            if wanted.last_step is None:
                raise RemoteRefused("there is no older row to rewind to")
            self.remote.rewind(self.target, wanted.last_step, self._facts(), self._started)
        except RemoteRefused as refusal:
            refused = Diverged(f"{conflict}; not rewound: {refusal}")
            refused.superseded = superseded
            raise refused from refusal
        end, poll_s = time.monotonic() + self.engine.patience_s, _POLL_S[0]
        while (found := self.remote.look(self.target)) is None or not self.remote.agrees(found.mark, wanted):
            if time.monotonic() > end:
                raise RemoteDown(f"{self.remote.name} does not show the rewind to step {wanted.last_step}; sync again")
            poll_s = self._pause(poll_s)
        self.ledger.settled(self.link)
        self.notes.append(f"{self.remote.name} was rewound: steps {first} to {last} there were superseded")

    def _round(self) -> SyncResult:
        found = self._look()
        rows, total = self._plan(found)
        facts = self._facts()
        digest = _digest(facts)
        held_back = self.reader.count_rows(self.curve.spans, None, self._reach(found))
        if self.engine.dry_run:
            return self._result("would send" if total or found is None else "nothing new", total, held_back, found)
        local = Local(self.reader, facts.runtime, self.remote.alerts)
        besides = self._besides(found, local)
        told = (self.link.state, self.link.facts) == (facts.state, digest)
        if found is not None and found.state == "running" and facts.state in ("finished", "failed"):
            told = False  # the request that opened it was late, and came after its end
        if found is not None and not total and not besides and told and not self._adopted:
            self.ledger.settled(self.link)
            return self._result("confirmed" if self.sent else "nothing new", self.sent, held_back, found)
        self.sent = max(self.sent, total)  # of a second round only what the first one did not get there is missing
        if not self.remote.alerts and (more := len(local.findings) - self.link.findings) > 0:
            self.notes.append(f"{self.remote.name} has no alerts: {more} that rules found stay here")
        if self.link.facts != digest:
            self.notes += self.remote.cannot_say(self.target, facts)
        # Intended: from here on a remote run of this id may be ours.
        self.link = self.ledger.save(self.link, besides_sent_at=time.time() if besides else None)
        shipment = self.remote.open(self.target, facts, self._started)
        try:
            self._ship(shipment, rows, total)
            found = self._confirm(shipment, found)
            confirmed = self.curve.mark(self._reach(found))
            self.link = replace(
                self.link,
                made_at=self.link.made_at or time.time(),
                confirmed_step=confirmed.last_step,
                confirmed_rows=confirmed.rows or 0,
                confirmed_at=time.time(),
                url=shipment.url or found.url,
            )
            try:
                taken = self._add(shipment, besides)
                shipment.finish(facts)
                held = self._confirm_besides(besides, taken)
            except BaseException:
                self.ledger.settled(self.link, confirmed_at=self.link.confirmed_at)
                raise
            self.link = self.ledger.settled(
                self.link,
                state=facts.state,
                facts=digest,
                samples=held.samples,
                lines=held.lines,
                alerts=len(local.alerts),
                findings=len(local.findings),
                besides_sent_at=None,
            )
            self.notes += shipment.notes
        finally:
            shipment.close()
        return self._result("confirmed", self.sent, held_back, found)

    def _besides(self, found: Found | None, local: Local) -> Besides:
        """Return what the remote lacks beside the rows: how much of it is there, it says itself."""
        link = self.link
        if found is None:
            return local.above(Tally(), link.alerts, link.findings)
        if self.ledger.link(*link.key) is None and (last := found.mark.last_step) is not None:
            # The ledger is lost. Alerts can't be counted at a remote; those up to its last row have been there.
            newest = next(self.curve.rows(last - 1, last), None)
            alerts, told = local.alerts_upto(newest.seq if newest else 0)
            link = self.link = replace(link, alerts=alerts, findings=told)
            doubt = True
        else:
            doubt = link.besides_sent_at is not None
        wanted = local.tally
        if not wanted.samples and not wanted.lines:
            return local.above(Tally(), link.alerts, link.findings)
        held = self._held(link)
        settle_s = self.remote.settle_s if self.engine.settle_s is None else self.engine.settle_s
        moved_at, poll_s = time.monotonic(), _POLL_S[0]
        while (doubt and held != wanted) or not _reaches(held, Tally(link.samples, link.lines)):
            if time.monotonic() > moved_at + settle_s:
                break
            poll_s = self._pause(poll_s)
            if (again := self._held(link)) != held:
                held, moved_at = again, time.monotonic()
        return local.above(held, link.alerts, link.findings)

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
        end = time.monotonic() + min(self.engine.patience_s, 2 * self.remote.settle_s)
        poll_s = _POLL_S[0]
        while not _reaches(shown := self._held(self.link), besides.after):
            if time.monotonic() > end:
                self.notes.append(f"{self.remote.name} does not show all samples and lines of the console yet")
                return besides.after if taken == "acked" else shown
            poll_s = self._pause(poll_s)
        return besides.after

    def _started(self, children: Mapping[str, Any]) -> None:
        self.engine.started(self.link.uuid, self.remote.name, children)

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
        begun = known and link.made_at is None and found.uuid is None and found.mark.last_step is None
        if found.uuid != link.uuid and not begun:
            self._adopt(found)
        doubt = self.ledger.doubt(link)
        if doubt is not None:
            self._in_doubt = True
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

    _adopted = False

    def _adopt(self, found: Found) -> None:
        """Make sure that a remote run which did not come from this run may be taken for it all the same."""
        where = f"{self.link.entity}/{self.link.project}/{self.link.remote_id}"
        if not self.engine.adopt:
            raise NotOurs(
                f"{self.remote.name}: {where} is there already and did not come from this run; give this one another "
                "--project, rename that one's project, or, if its rows are this run's, take it with --adopt"
            )
        missing, _ = self._read_back(found, found.mark.last_step, exact=True)
        if missing:
            raise self._diverged(found, f"lacks steps {Steps(row.step for row in missing)}")
        if not self._adopted:
            self.notes.append(f"{where} did not come from this run; its rows agree, so it is taken over")
        self._adopted = True

    _in_doubt = False

    def _holds_once(self, found: Found, upto: int | None) -> bool:
        """
        Return whether what was in doubt, or went below the newest row, is there, each row once.

        A mark without a count does not tell: rows that were sent again, because they did not show in time, may have come
        after all.
        """
        unsure = self._fills or (self._in_doubt and found.mark.rows is None)
        return not (unsure and self._read_back(found, upto)[0])

    def _pause(self, poll_s: float) -> float:
        self.engine.pace.sleep(poll_s)
        self._beat()
        return min(2 * poll_s, _POLL_S[1])

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
                diverged = Diverged(
                    f"{self.remote.name} holds steps {lost[0]} to {lost[1]} of a branch that a resume has superseded "
                    "since; nothing was sent (--on-conflict new-run replays the curve into a new remote run)"
                )
                diverged.superseded = lost
                raise diverged
            newest = self.reader.step_of(self.link.sent_seq)
            if newest is not None and newest[0] != self.link.sent_step:
                raise Diverged(
                    f"{self.remote.name} holds as step {self.link.sent_step} what a rewind has made step {newest[0]} "
                    "since; nothing was sent (--on-conflict new-run replays the curve into a new remote run)"
                )
        agrees = self.remote.agrees(found.mark, self.curve.mark(last))
        # A mark without a count does not show whether all arrived of what was sent and not seen since.
        unsure = found.mark.rows is None and self.ledger.doubt(self.link) is not None
        missing: list[Row] = []
        if unsure or not agrees:
            missing, last = self._read_back(found, last)
        confirmed = self.link.confirmed_step
        if agrees and confirmed is not None and self.remote.agrees(found.mark, self.curve.mark(confirmed)):
            # The newest rows may hold nothing that this remote can hold.
            last = confirmed if last is None else max(last, confirmed)
        if self.limit is None or (last is not None and last >= self.limit):
            return iter(missing), len(missing)
        new = self.curve.rows(last, self.limit)
        return itertools.chain(missing, new), len(missing) + self.curve.count(last, self.limit)

    def _read_back(self, found: Found, upto: int | None, exact: bool = False) -> tuple[list[Row], int | None]:
        """
        Read a remote run back, point by point, and return what it lacks of the rows up to *upto*, and that step.

        If it shows newer rows, which its mark does not tell of yet, then up to the newest of these.

        Args:
            exact: look at the values, too.

        Raises:
            Diverged: it holds what the curve does not, or lacks rows that it takes no more.
        """
        if upto is None:
            return [], None
        remote, missing = self.remote, {}  # type: Remote, dict[int, Row]
        last, ends = found.mark.last_step, found.mark.last_steps or {}
        twice, more, other, holes = set(), set(), set(), set()  # type: set[int], set[int], set[int], set[int]
        rows = partial(self.curve.rows, None, upto)
        newest = upto
        for step, row, there, again in pairs(rows, remote.points(self.target, found), remote.shown):
            newest = max(newest, step)
            here = row.values if row is not None else {}
            if again:
                twice.add(step)
            elif not there.keys() <= here.keys():
                more.add(step)
            elif exact and not all(same(value, here[name]) for name, value in there.items()):
                other.add(step)
            lacking = {
                name: value
                for name, value in here.items()
                if name not in there and not (remote.hides_nan and value != value and step <= ends.get(name, -1))
            }
            if row is not None and lacking:
                if not remote.fills and last is not None and step <= last:
                    holes.add(step)
                known = missing[step].values if step in missing else {}
                missing[step] = row._replace(values={**known, **lacking})
        if upto < newest <= (self._reach(found) or upto):
            return self._read_back(found, newest, exact)
        wrong = {
            "more than once": twice,
            "that the curve does not have": more,
            "with other values than the curve": other,
        }
        said = [f"shows steps {Steps(steps)} {what}" for what, steps in wrong.items() if steps]
        if holes:
            said.append(f"lacks steps {Steps(holes)}, and takes rows only above its newest")
        if said:
            raise self._diverged(found, " and ".join(said))
        self._fills = last is not None and any(step <= last for step in missing)
        return [missing[step] for step in sorted(missing)], upto

    _fills = False
    """Whether rows go below the newest one that is there, which a mark without a count does not show."""

    def _reach(self, found: Found | None) -> int | None:
        """Return the step up to which the remote should hold the curve: what may go, or what went already."""
        steps = [step for step in (self.limit, found.mark.last_step if found else None) if step is not None]
        return max(steps, default=None)

    def _diverged(self, found: Found, said: str) -> Diverged:
        mark, local = found.mark, self.curve.mark(found.mark.last_step)
        counted = ""
        if mark.rows is not None and mark.rows != local.rows:
            counted = f" (it counts {mark.rows} rows up to step {mark.last_step}, the curve has {local.rows})"
        sent = "" if self.sent else "; nothing was sent"
        return Diverged(
            f"{self.remote.name} {said}{counted}{sent} (--on-conflict new-run replays the curve into a new remote run)"
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
                self.engine.pace.sleep(0)
                if self.engine.progress is not None:
                    self.engine.progress(self.reader.info.id, self.remote.name, sent, total)
            shipment.flush()
        except RemoteDown as error:
            raise _Interrupted(error) from error
        if unable:
            said = ", ".join(f"{name.replace(SEPARATOR, '.')} ({why})" for name, why in sorted(unable.items())[:5])
            self.notes.append(f"{self.remote.name} can't hold all of: {said}")

    def _confirm(self, shipment: Shipment, before: Found | None) -> Found:
        """Read the remote until it shows the curve; what it does not show in time is looked for point by point."""
        reach = self._reach(before)
        wanted = self.curve.mark(reach)
        last: Found | None = None
        moved_at, poll_s = time.monotonic(), _POLL_S[0]
        while True:
            self._wait(shipment)
            found = self.remote.look(self.target)
            if found is not None and self.remote.agrees(found.mark, wanted) and self._holds_once(found, reach):
                return found
            if found is not None and (last is None or found.mark != last.mark):
                moved_at, last = time.monotonic(), found
            complaint = shipment.complaint()
            if time.monotonic() - moved_at > (
                min(self.engine.patience_s, 10.0) if complaint else self.engine.patience_s
            ):
                break
            poll_s = self._pause(poll_s)
        with suppress(RemoteDown):  # what can't be read is not confirmed
            if found is not None and not self._read_back(found, reach)[0]:
                return found
        there = f"{found.mark.rows} rows, step {found.mark.last_step}" if found else "nothing"
        why = complaint or f"the remote shows {there} instead of {wanted.rows} rows, step {wanted.last_step}"
        if not complaint and (trying := shipment.trying_again()):
            why = f"{why}; {trying}"
        raise _Interrupted(RemoteDown(f"{self.remote.name} does not show all that was sent: {why}"))

    def _wait(self, shipment: Shipment) -> None:
        """Wait for the remote's client to be done, though no longer than until it is time to see how far it is."""
        end = time.monotonic() + _LOOK_S
        while shipment.busy() and time.monotonic() < end:
            self._pause(_BUSY_S)

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
            superseded=self.superseded,
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
