"""The background thread that moves calls from the journal into run.db, in groups."""

from __future__ import annotations

import logging
import threading
import time
from operator import itemgetter
from pathlib import Path
from queue import Empty, SimpleQueue

from . import journal
from .errors import StoreError
from .host import HEARTBEAT_S
from .journal import Journal, Record
from .store import RunStore

logger = logging.getLogger("offline_tracker")

INTERVAL_S = 0.2
"""How long calls are gathered while more keep coming; readers are so far behind, training never waits for it."""
CALLS_A_TRANSACTION = 1000
MEMORY_CALLS = 200_000
"""How many calls are kept while they can be written nowhere."""
_BACKOFF_S = (1.0, 60.0)


class Writer:
    """
    Takes records, journals them at once, and folds them into the run behind the caller's back.

    Args:
        store: the claimed run; from here on only this uses it.
        journal: the attempt's empty journal.
        attempt: its number.

    Attributes:
        lock: held around `put`. It can be taken again by the thread that has it, so a signal handler may log; the
            writing thread takes it only to look at three numbers, never around a disk.
    """

    def __init__(self, store: RunStore, journal: Journal, attempt: int, interval_s: float = INTERVAL_S) -> None:
        self.lock = threading.RLock()
        self._store = store
        self._journal = journal
        self.attempt = attempt
        self._interval_s = interval_s
        self._num = 0  # of the last record that was put
        self._folded = 0  # of the last record that is in run.db
        self._offset = 0  # where it ends in the journal
        self._full: list[Path] = []  # journal files that get no more records and are not all folded yet
        self._unwritten: list[Record] = []  # what the journal did not take
        self._warned: set[str] = set()
        self._error: Exception | None = None
        self._idle = False
        self._stopping = False
        # SimpleQueue.put may be interrupted by itself (a signal handler that logs), an Event's set may not.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._passed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="offline_tracker-writer", daemon=True)
        self._thread.start()

    def put(self, kind: int, *fields: object) -> None:
        """Journal one record; on return it outlives the process. Never raises for storage, never waits for run.db."""
        with self.lock:
            self._num = num = self._num + 1
            record = (num, kind, *fields)
            try:
                self._journal.append(record)
            except OSError as error:
                self._keep(record, error)
            if self._idle or num - self._folded == CALLS_A_TRANSACTION:
                self._idle = False
                self._wake.put(None)

    def _keep(self, record: Record, error: OSError) -> None:
        if len(self._unwritten) < MEMORY_CALLS:
            self._unwritten.append(record)
        else:
            self._num -= 1
            self._warn(
                "memory", f"{MEMORY_CALLS} calls wait in memory and nothing can be written: from here on they are lost"
            )
        self._warn(
            "journal",
            f"{self._journal.path} can't be written ({error.strerror}); calls are kept in memory until it can",
        )

    def _warn(self, topic: str, text: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(text)

    def flush(self, timeout_s: float = 60.0) -> None:
        """
        Return once every record put so far is in run.db.

        Raises:
            StoreError: the run could not be written in time; the records are still in the journal.
        """
        target = self._num
        end = time.monotonic() + timeout_s
        with self._passed:
            while self._folded < target:
                if not self._thread.is_alive():
                    raise StoreError(f"the writer of {self._store.path} has ended; its journal is kept")
                self._wake.put(None)
                left = end - time.monotonic()
                if left <= 0 or (not self._passed.wait(min(left, 1.0)) and left <= 1.0):
                    reason = f": {self._error}" if self._error else ""
                    raise StoreError(f"{self._store.path} was not written within {timeout_s:.0f} s{reason}")

    def close(self, timeout_s: float = 60.0) -> bool:
        """Fold the rest, end the thread and remove the journal; False if something stays in the journal for later."""
        self._stopping = True
        self._wake.put(None)
        # In a signal handler that came into `put`, the thread waits for the lock that we hold.
        self._thread.join(0.0 if self.lock._is_owned() else timeout_s)  # type: ignore[attr-defined]
        if self._thread.is_alive():
            logger.warning("%s still can't be written; the calls stay in %s", self._store.path, self._journal.path)
            return False
        done = self._folded == self._num
        self._journal.close()
        self._store.close()
        if done:
            for path in (*self._full, self._journal.path):
                path.unlink(missing_ok=True)
        return done

    @property
    def unused(self) -> bool:
        """Whether nothing was put so far."""
        return self._num == 0

    def abandon(self) -> RunStore:
        """End the thread without a word in the run; for an attempt that turns out to be none. Returns the store."""
        self._stopping = True
        self._wake.put(None)
        self._thread.join()
        self._journal.close()
        self._journal.path.unlink(missing_ok=True)
        return self._store

    def forget(self) -> None:
        """Called in a forked child: the parent's files must not be touched, not even by closing them."""
        import ctypes

        # SQLite's close rolls back what the parent is in the middle of. So the connection must never be collected.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._store._db))

    def _work(self) -> None:
        backoff_s = _BACKOFF_S[0]
        while True:
            stopping = self._stopping
            try:
                more = self._pass()
                self._error = None
                backoff_s = _BACKOFF_S[0]
            except Exception as error:  # whatever it is: without this thread nothing would ever be folded in
                more = False
                self._error = error
                self._warn("store", f"{error}; training goes on, the calls are kept in the journal")
            with self._passed:
                self._passed.notify_all()
            if stopping and (self._error is not None or self._folded == self._num):
                return
            if self._error is not None:
                self._sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_S[1])
                self._store.reopen()  # after EIO and ESTALE the old connection is of no more use
            elif self._folded == self._num:
                self._idle = True
                if self._folded == self._num:  # else a call came in between and saw nobody idle
                    self._sleep(HEARTBEAT_S)
                self._idle = False
            elif not more and not self._stopping:
                self._sleep(self._interval_s)

    def _sleep(self, seconds: float) -> None:
        """Wait for a wake-up, or so long."""
        try:
            self._wake.get(timeout=seconds)
            while True:
                self._wake.get_nowait()
        except Empty:
            pass

    def _pass(self) -> bool:
        """Fold in what there is, a MiB of journal at most; True if a whole transaction's worth is still left."""
        with self.lock:
            end, extra, target = self._journal.size_bytes, self._unwritten[:], self._num
        records: list[Record] = []
        read_up: list[Path] = []
        offset = self._offset
        for path, limit in [*((path, None) for path in self._full), (self._journal.path, end)]:
            progress = True
            # What is only in memory has its place among all the others, so then all of them are read.
            while progress and (extra or not records):
                found, after, _ = journal.read(path, offset, limit)
                progress = after != offset
                records += found
                offset = after
            if progress:
                break
            if limit is None:
                read_up.append(path)
                offset = 0
        records = sorted(records + extra, key=itemgetter(0))
        for start in range(0, len(records) or 1, CALLS_A_TRANSACTION):
            self._store.append(self.attempt, records[start : start + CALLS_A_TRANSACTION], time.time())
        if not progress:
            self._folded = target  # all was read; an interrupt in `put` may have left a number without a record
        elif records:
            self._folded = max(self._folded, records[-1][0])
        with self.lock:
            del self._unwritten[: len(extra)]
        for path in read_up:
            self._full.remove(path)
            path.unlink(missing_ok=True)
        self._offset = offset
        if not self._full and offset >= journal.ROTATE_BYTES:
            self._rotate()
        return target - self._folded >= CALLS_A_TRANSACTION

    def _rotate(self) -> None:
        try:
            with self.lock:
                self._full.append(self._journal.rotate())
        except OSError as error:
            self._warn("rotate", f"no new journal in {self._journal.folder} ({error.strerror}); the old one grows on")
