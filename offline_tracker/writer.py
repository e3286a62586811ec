"""The background thread that moves calls from the journal into run.db, in groups."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from . import journal
from .device import Pending
from .errors import StoreError
from .host import HEARTBEAT_S
from .journal import Journal, Record
from .store import RunStore
from .values import Scalar

logger = logging.getLogger("offline_tracker")

INTERVAL_S = 0.2
NETWORK_INTERVAL_S = 1.0
"""How long calls are gathered while more keep coming; readers are so far behind, training never waits for it."""
CALLS_A_TRANSACTION = 1000
MEMORY_CALLS = 200_000
"""How many calls are kept in memory while they can be written nowhere; then they are thinned out."""
LATE_S = 10.0
"""How long the end of a run waits for values from a GPU."""
_LATE_POLL_S = 0.005
_BACKOFF_S = (1.0, 60.0)
_HOME_AGAIN_S = 5.0
_FORK_WAITS_S = 1.0


class _Late(NamedTuple):
    """A call that is in the journal without some of its values."""

    num: int
    path: Path  # where its record is, and from which byte on
    offset: int
    seq: int
    names: tuple[str, ...]  # of all its values, in order
    pending: Sequence[Pending]


class Writer:
    """
    Takes records, journals them at once, and folds them into the run behind the caller's back.

    Args:
        store: the claimed run; from here on only this uses it.
        journal: the attempt's empty journal.
        attempt: its number.
        spill: the folder where the journal goes on while its own can't be written.
        interval_s: how long calls are gathered.

    Attributes:
        lock: held around `put`. It can be taken again by the thread that has it, so a signal handler may log; the
            writing thread takes it only to look at some numbers, never around a slow disk.
        arrived: told of values that came from a device, in the writing thread.
    """

    arrived: Callable[[dict[str, Scalar]], None]

    def __init__(
        self, store: RunStore, journal: Journal, attempt: int, spill: Path | None = None, interval_s: float = INTERVAL_S
    ) -> None:
        self.lock = threading.RLock()
        self._store = store
        self._journal = journal
        self._home = journal.folder
        self._spill = spill
        self.attempt = attempt
        self._interval_s = interval_s
        self._num = 0  # of the last record that was put
        self._folded = 0  # of the last record that is in run.db
        self._offset = 0  # where it ends in the journal
        self._full: list[Path] = []  # journal files that get no more records and are not all folded yet
        self._unwritten: list[Record] = []  # what no journal took
        self._stride = 1  # only one call in so many is kept in memory
        self._lost: tuple[int, int] | None = None  # behind which call, and how many, that no gap tells of yet
        self._late: deque[_Late] = deque()
        self._arrived: dict[int, tuple[tuple[str, ...], dict[str, Scalar]]] = {}  # by seq, of calls to be folded
        self._warned: set[str] = set()
        self._error: Exception | None = None
        self._idle = False
        self._stopping = False
        self._home_again_at = 0.0  # monotonic
        self._beat_at = time.monotonic()  # when run.db last heard of us
        # SimpleQueue.put may be interrupted by itself (a signal handler that logs), an Event's set may not.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._storing = threading.Lock()  # held while SQLite is at work
        self._paused = False
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

    def put_late(self, call: tuple[int, int, float, int, dict[str, Scalar]], pending: Sequence[Pending]) -> None:
        """
        Journal a call of which some values are still on their way from a device; they follow when they are here.

        Args:
            call: as in a CALL record; the values that are on their way have the place of theirs held by None.
        """
        seq, step, at, flags, values = call
        late = {name for values_of_one in pending for name in values_of_one.names}
        here = {name: value for name, value in values.items() if name not in late}
        with self.lock:
            place = self._journal.path, self._journal.size_bytes
            self._late.append(_Late(self._num + 1, *place, seq, tuple(values), pending))
            self.put(journal.CALL, seq, step, at, flags, here)

    def _keep(self, record: Record, error: OSError) -> None:
        """Keep a record that the journal did not take: in a journal elsewhere, else in memory."""
        if self._spill is not None and self._journal.folder != self._spill:
            try:
                self._full.append(self._journal.rotate(self._spill))
                self._journal.append(record)
                self._home_again_at = time.monotonic() + _HOME_AGAIN_S
                text = f"{self._home} can't be written ({error.strerror}); the journal goes on in {self._spill}"
                return self._warn("storage", text)
            except OSError as worse:
                error = worse
        where = f"{self._journal.folder} can't be written ({error.strerror})"
        self._warn("memory", f"{where}; calls are kept in memory until it can")
        if record[1] == journal.CALL and record[0] % self._stride:
            return self._lose(record)
        self._unwritten.append(record)
        if len(self._unwritten) > MEMORY_CALLS:
            self._thin()

    def _thin(self) -> None:
        """Give up every second call of those in memory, and of those to come, so that the kept ones span the whole time."""
        self._stride *= 2
        text = f"{MEMORY_CALLS} calls wait in memory and nothing can be written: from here on some are given up"
        self._warn("lost", text)
        kept = []
        for record in self._unwritten:
            if record[1] == journal.CALL and record[0] % self._stride:
                self._lose(record)
            else:
                kept.append(record)
        self._unwritten = kept

    def _lose(self, record: Record) -> None:
        first, count = self._lost or (record[2] - 1, 0)
        self._lost = (first, count + 1)

    def _gap(self) -> list[Record]:
        """Return the record that tells of the calls that were lost since it was last asked, if there are any."""
        if self._lost is None:
            return []
        (seq, calls), self._lost = self._lost, None
        self._num += 1
        return [(self._num, journal.GAP, seq, time.time(), calls, "nothing could be written")]

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
        if not done and self._unwritten:
            self._rescue()
        self._journal.close()
        self._store.close()
        if done:
            for path in (*self._full, self._journal.path):
                self._remove(path)
        return done

    def _rescue(self) -> None:
        """Try once more to journal what is only in memory: it goes with the process."""
        lost = 0
        for record in self._unwritten + self._gap():
            try:
                self._journal.append(record)
            except OSError:
                lost += record[1] == journal.CALL
        if lost:
            logger.warning("%d calls could be written nowhere and are lost with this process", lost)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # what stays is found folded in by the next attempt
            path.unlink(missing_ok=True)
            if path.parent != self._store.path.parent:
                path.parent.rmdir()  # of scratch, where nobody else would; not if there is more in it

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
        self._remove(self._journal.path)
        return self._store

    def pause(self) -> None:
        """Called before a fork: a child that inherits SQLite in the middle of something hangs when it uses it itself."""
        self._paused = self._storing.acquire(timeout=_FORK_WAITS_S)  # not for ever: the disk may hang

    def go_on(self) -> None:
        """Called after a fork, in the parent and in the child."""
        if self._paused:
            self._paused = False
            self._storing.release()

    def forget(self) -> None:
        """Called in a forked child: the parent's files must not be touched, not even by closing them."""
        import ctypes

        # SQLite's close rolls back what the parent is in the middle of. So the connection must never be collected.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._store._db))

    def _work(self) -> None:
        backoff_s = _BACKOFF_S[0]
        late_until: float | None = None
        seen = -1
        while True:
            stopping = self._stopping
            if stopping and late_until is None:
                late_until = time.monotonic() + LATE_S
            try:
                self._receive(late_until)
                more = self._pass()
                self._error = None
                backoff_s = _BACKOFF_S[0]
            except Exception as error:  # whatever it is: without this thread nothing would ever be folded in
                more = False
                self._error = error
                self._warn("storage", f"{error}; training goes on, the calls are kept in {self._journal.folder}")
            with self._passed:
                self._passed.notify_all()
            if stopping and (self._error is not None or self._folded == self._num):
                return
            if self._error is not None:
                self._sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_S[1])
                self._store.reopen()  # after EIO and ESTALE the old connection is of no more use
            elif stopping:
                self._sleep(_LATE_POLL_S if self._late else 0.0)
            elif self._folded == self._num == seen:  # for a whole interval nothing came
                self._idle = True
                if self._folded == self._num:  # else a call came in between and saw nobody idle
                    self._sleep(HEARTBEAT_S)
                self._idle = False
            elif not more:
                seen = self._num
                self._sleep(self._interval_s)

    def _sleep(self, seconds: float) -> None:
        """Wait for a wake-up, or so long."""
        try:
            self._wake.get(timeout=seconds)
            while True:
                self._wake.get_nowait()
        except Empty:
            pass

    def _receive(self, until: float | None) -> None:
        """Journal the values that have come from a device; after *until* (monotonic) the others are given up."""
        while self._late:
            first = self._late[0]
            values: dict[str, Scalar] = {}
            for pending in first.pending:
                try:
                    found = pending.read()
                    if found is None and until is not None and time.monotonic() > until:
                        raise TimeoutError(f"not there after {LATE_S:.0f} s")
                except Exception as error:
                    names = ", ".join(pending.names)
                    self._warn("late", f"{names}: a value on a device could not be read ({error}); it is not logged")
                    found = {}
                if found is None:
                    return
                values.update(found)
            self._arrived[first.seq] = first.names, values
            self.arrived(values)
            self.put(journal.VALUES, first.seq, values)  # for who reads the journal if this process does not get to it
            self._late.popleft()

    def _whole(self, record: Record) -> Record:
        """Return a call's record with the values that came after it was journalled, in their places."""
        if record[1] == journal.CALL and (arrived := self._arrived.get(record[2])) is not None:
            names, late = arrived
            values = {**record[6], **late}
            return (*record[:6], {name: values[name] for name in names if name in values})
        return record

    def _pass(self) -> bool:
        """Fold in what there is, a MiB of journal at most; True if a whole transaction's worth is still left."""
        with self.lock:
            extra, self._unwritten = self._unwritten + self._gap(), []
            target = self._num
            files = [(path, None) for path in self._full] + [(self._journal.path, self._journal.size_bytes)]
            if self._late:  # calls are folded in whole, and in order: only what is before it
                first = self._late[0]
                target = first.num - 1
                before = [path for path, _ in files].index(first.path)
                files[before:] = [(first.path, first.offset)]
        return self._fold(files, extra, target)

    def _fold(self, files: Sequence[tuple[Path, int | None]], extra: list[Record], target: int) -> bool:
        """Fold in what *files* hold and those of *extra* that are not behind it; the others go back into memory."""
        records: list[Record] = []
        read_up: list[Path] = []
        offset = self._offset
        later = extra
        try:
            for path, limit in files:
                progress = True
                while progress and not records:
                    found, after, _ = journal.read(path, offset, limit)
                    progress = after != offset
                    records += found
                    offset = after
                if progress:
                    break
                if limit is None:
                    read_up.append(path)
                    offset = 0
            upto = records[-1][0] if progress else target
            now = [record for record in extra if record[0] <= upto]
            if now:
                records = sorted(records + now, key=itemgetter(0))
            if self._arrived:
                records = [self._whole(record) for record in records]
            beats = time.monotonic() - self._beat_at > HEARTBEAT_S / 2
            for start in range(0, len(records) or beats, CALLS_A_TRANSACTION):
                with self._storing:
                    self._store.append(self.attempt, records[start : start + CALLS_A_TRANSACTION], time.time())
                self._beat_at = time.monotonic()
            later = [record for record in extra if record[0] > upto]
        finally:
            with self.lock:
                self._unwritten = later + self._unwritten
        # From here on it is done, whatever becomes of the files.
        self._folded = target if not progress else max(self._folded, upto)
        self._offset = offset
        with self.lock:
            if not self._unwritten:
                self._stride = 1
            for path in read_up:
                self._full.remove(path)
        for record in records if self._arrived else ():
            self._arrived.pop(record[2], None)
        for path in read_up:
            with contextlib.suppress(OSError):  # the next attempt finds nothing new in it
                path.unlink()
        self._move_on(offset)
        return target - self._folded >= CALLS_A_TRANSACTION

    def _move_on(self, read_bytes: int) -> None:
        """Begin a new journal file where the old one has grown, or lies where it should not."""
        away = self._journal.folder != self._home and time.monotonic() > self._home_again_at
        if self._late or self._full or not (away or read_bytes >= journal.ROTATE_BYTES):
            return
        try:
            with self.lock:
                self._full.append(self._journal.rotate(self._home))
        except OSError as error:
            self._home_again_at = time.monotonic() + _HOME_AGAIN_S
            self._warn("rotate", f"no new journal in {self._home} ({error.strerror}); the old one grows on")
