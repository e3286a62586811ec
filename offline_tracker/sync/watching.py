"""Follows a runs folder while trainings write to it: what may go goes within seconds, what does not change costs a stat."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from queue import Empty, SimpleQueue

from .engine import JOBS, PATIENCE_S, Engine, SyncResult, checked
from .ledger import Ledger
from .remotes import Pace

LOOK_S = 1.0
"""How often the files of all runs are looked at."""
_REST_S = 2.0
"""So long a run is left alone after it was sent: a service that is told of each row by itself would refuse us in the end."""
_RETRY_S = (5.0, 60.0)
_OLD_S = 600.0
"""A run that has not changed for so long is looked at every third time."""


def watch(
    runs: str | os.PathLike[str],
    *,
    to: Sequence[str] = (),
    only: Sequence[str] = (),
    project: str | None = None,
    entity: str | None = None,
    eager: bool = False,
    on_conflict: str = "keep",
    downtime: bool | None = None,
    settle_s: float | None = None,
    patience_s: float = PATIENCE_S,
    adopt: bool = False,
    jobs: int = JOBS,
    max_rps: float | None = None,
    max_kbps: float | None = None,
) -> Generator[SyncResult]:
    """
    Replay runs to remotes as they are written, new ones too, for as long as the generator is iterated over.

    It yields what a user should hear of: rows that were confirmed, and a failure once per run and reason; one that went
    away without rows yields its ``nothing new``. A run that failed is tried again after 5 s, then less and less often;
    a remote that is down ends nothing. Closing the generator, or Ctrl-C, ends it as `sync` ends.

    Args: as for `sync`.

    Raises:
        UsageError: as `sync`, before anything was sent.
        RunNotFound: one of *only* is not there.
        StoreError: the runs folder or its ledger can't be used.
    """
    home = checked(runs, on_conflict, jobs)
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(home.path))
        engine = Engine(
            home,
            ledger,
            project=project,
            entity=entity,
            dry_run=False,
            eager=eager,
            on_conflict=on_conflict,
            downtime=downtime,
            settle_s=settle_s,
            patience_s=patience_s,
            adopt=adopt,
            jobs=jobs,
            pace=Pace(max_rps, max_kbps),
        )
        stack.callback(engine.close)
        watcher = _Watcher(engine, to, only)
        pool = stack.enter_context(engine.pool())
        while True:
            for run_id, names in watcher.due().items():
                pool.submit(watcher.sync, run_id, names)
            end = time.monotonic() + LOOK_S
            while (left := end - time.monotonic()) > 0:
                try:
                    results = watcher.done.get(timeout=left)
                except Empty:
                    break
                yield from watcher.news(results)


class _Watcher:
    def __init__(self, engine: Engine, to: Sequence[str], only: Sequence[str]) -> None:
        self.done: SimpleQueue[tuple[str, list[SyncResult]]] = SimpleQueue()
        self._engine, self._to, self._only = engine, to, only
        self._ids = self._chosen()
        self._pairs = engine.pairs(self._ids, to)
        # Also where there is no run yet it is to be clear where they will go.
        engine.connect(name for _, name in self._pairs or engine.pairs([""], to))
        engine.nothing_new(self._pairs)
        self._on_the_way: set[str] = set()
        self._rests_until: dict[tuple[str, str], float] = {}
        self._failed: dict[tuple[str, str], tuple[str, float]] = {}
        self._changed_at: dict[tuple[str, str], float] = {}
        self._ticks = 0

    def _chosen(self) -> list[str]:
        runs = self._engine.runs
        return [runs.find(text) for text in self._only] or runs.ids()

    def due(self) -> dict[str, list[str]]:
        """Return which runs to sync now, to which remotes; they count as on their way until `news` is told of them."""
        self._ticks += 1
        if (ids := self._chosen()) != self._ids:
            self._ids, self._pairs = ids, self._engine.pairs(ids, self._to)
        now = time.monotonic()
        jobs: dict[str, list[str]] = {}
        for pair in self._pairs:
            if pair[0] not in self._on_the_way and self._is_due(pair, now):
                jobs.setdefault(pair[0], []).append(pair[1])
        for name in {name for names in jobs.values() for name in names}:
            self._engine.forget(name)  # one that was down may be up again
        self._on_the_way.update(jobs)
        return jobs

    def _is_due(self, pair: tuple[str, str], now: float) -> bool:
        if now < self._rests_until.get(pair, 0.0):
            return False
        if pair in self._failed or (seen := self._engine.looked.get(pair)) is None:
            return True
        if now - self._changed_at.setdefault(pair, now) > _OLD_S and self._ticks % 3:
            return False
        return not self._engine.unchanged(seen)

    def sync(self, run_id: str, names: Sequence[str]) -> None:
        self.done.put((run_id, self._engine.sync_to(run_id, names)))

    def news(self, told: tuple[str, list[SyncResult]]) -> list[SyncResult]:
        """Take in what became of a run; returns what is worth saying of it."""
        run_id, results = told
        self._on_the_way.discard(run_id)
        now = time.monotonic()
        out = []
        for result in results:
            pair = (result.run, result.remote)
            self._changed_at[pair] = now
            before = self._failed.pop(pair, None)
            if result.ok:
                self._rests_until[pair] = now + _REST_S
                if result.status == "confirmed" or before is not None:
                    out.append(result)
                continue
            wait_s = min(2 * before[1], _RETRY_S[1]) if before else _RETRY_S[0]
            self._failed[pair] = (result.reason or "", wait_s)
            self._rests_until[pair] = now + wait_s
            if before is None or before[0] != result.reason:
                out.append(result)
        return out


__all__ = ["watch"]
