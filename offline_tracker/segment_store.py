"""Writing a run where the locks of its filesystem don't reach other hosts; see `offline_tracker.segments`."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .errors import RunBusy, StoreError
from .host import HEARTBEAT_S, Holder
from .journal import Record
from .segments import Segments
from .store import SEGMENTS, RunStore, storing

logger = logging.getLogger("offline_tracker")

_FEW = 256
_MANY = 2048
_SHARE = 8
"""
The whole database is published when there are more than `_FEW` segments that together have an eighth of its size, or more
than `_MANY`: then a reader never has much to put together, and what is written stays within nine times of what is logged.
"""


class SegmentStore(RunStore):
    """
    The one writer of a run in segments: its live database lies on this node, and each `append` is published.

    Args:
        folder: the run's folder.
        live: a folder on a disk of this node, for this run alone; the database gets a folder of its own in there, which
            `close` removes.
    """

    _locks_meet = False

    def __init__(self, folder: Path, live: Path) -> None:
        self._attempt: int | None = None  # the number of the claim that we hold
        self._claimed = False  # and whether it became an attempt
        self._number = 0  # of the newest segment
        self._in_run = 0  # and of the newest that is in the published run.db
        self._size_bytes = 0  # of those behind that
        self._pending: dict[int, Record] = {}  # in the live database, but not published
        self._try_whole_at = 0  # not before there are so many segments: it failed
        self._beat_at = 0.0
        self._broken = False
        try:
            live.mkdir(parents=True, exist_ok=True)
            self._live = live
            self._own = Path(tempfile.mkdtemp(prefix="live-", dir=live))
            self._file = self._own / "run.db"
            (self._own / "holder").write_text(json.dumps(asdict(Holder.current())))
        except OSError as error:
            raise StoreError(f"can't write {live}: {error}; set OFFLINE_TRACKER_SCRATCH") from error
        try:
            super().__init__(folder / "run.db", self._file)
        except BaseException:
            shutil.rmtree(self._own, ignore_errors=True)
            raise

    def _open(self) -> None:
        super()._open()
        self._mark()

    def reopen(self) -> None:
        # What could not be published is safe in a database that is whole. One that is not is made anew.
        if self._broken:
            with contextlib.suppress(StoreError):  # the next `append` says it
                self._db.close()
                self._fetch(self._file)
                self._broken = False

    def _take(self, holder: Holder, since: float) -> int:
        """Hold the run: from here on nobody else publishes. Returns the number of the claim."""
        run_id = self.path.parent.name
        self._refuse(holder)
        number = 0
        while True:
            last = self._last_attempt()
            number = max(number, 0 if last is None else last.number) + 1
            try:
                self._segments.take(number, holder, since)
            except FileExistsError:
                claim = self._segments.claim(number)
                if claim is not None and claim.held_by_another(holder):
                    if claim.holder is None:
                        raise RunBusy(f"run {run_id!r} is just being opened by another process; try again") from None
                    raise claim.holder.busy(run_id, claim.since, claim.beat_at) from None
                continue  # it died before its attempt began
            try:
                # Whoever had the run until now may have published since we looked.
                self._db.close()
                self._fetch(self._file)
                last = self._refuse(holder)
            except BaseException:
                self._segments.release(number)
                raise
            if last is None or last.number < number:
                self._attempt, self._beat_at = number, since
                return number
            self._segments.release(number)

    def _claim(self, holder: Holder, attempt: Mapping[str, Any]) -> int:
        number = self._take(holder, attempt["started_at"])
        try:
            self.fold_leftovers(delete=False)
            self._begin_attempt(holder, attempt, number, SEGMENTS)
            self._claimed = True
            self._publish_whole()
        except BaseException:
            self._let_go()
            raise
        self._clean_up()
        return number

    def _let_go(self) -> None:
        if self._attempt is not None:
            with contextlib.suppress(OSError):  # then it stays as long as this process lives
                self._segments.release(self._attempt)
        self._attempt, self._claimed = None, False

    def _clean_up(self) -> None:
        """Remove what is in the published run.db, and what dead processes left; what can't be removed does no harm."""
        try:
            self._segments.remove((self._attempt or 0, self._in_run + 1))
            # Of an attempt that wrote run.db in place, and died in a commit: that was rolled back in our copy.
            self.path.with_name("run.db-journal").unlink(missing_ok=True)
            self._remove_leftovers()
            for folder in self._live.glob("live-*"):
                with contextlib.suppress(ValueError, TypeError, FileNotFoundError):  # it is being made, or removed
                    if Holder(**json.loads((folder / "holder").read_text())).alive() is False:
                        shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            logger.warning("%s: %s", self.path.parent, error)

    def hold(self) -> None:
        with storing(self.path):
            self._refuse(None)
            self._take(Holder.current(), time.time())
            self.fold_leftovers(delete=False)

    def publish(self) -> None:
        """Make run.db the whole of what is here."""
        with storing(self.path):
            self._publish_whole()
        self._clean_up()

    def put_together(self) -> None:
        """Let go of a run that was just published, as one that is written in place from here on."""
        with storing(self._segments.path):
            self._segments.remove_all()

    def append(self, attempt: int, records: Iterable[Record], heartbeat_at: float | None = None) -> int:
        records = list(records)
        try:
            new = super().append(attempt, records, heartbeat_at)
        except StoreError:
            self._broken = True
            raise
        if self._claimed and attempt == self._attempt:
            # Until they are published the caller is told that they are not stored, and it comes again with them.
            self._pending.update((record[0], record) for record in records)
            with storing(self._segments.path):
                self._publish(attempt, time.time() if heartbeat_at is None else heartbeat_at)
        return new

    def _publish(self, attempt: int, now: float) -> None:
        if now - self._beat_at >= HEARTBEAT_S / 2:  # first: a full disk takes no segment, but lets us show that we live
            self._segments.beat(attempt, now)
            self._beat_at = now
        self._check_held(attempt)
        if self._pending:
            self._size_bytes += self._segments.publish(attempt, self._number + 1, list(self._pending.values()))
            self._number += 1
            self._pending = {}
        count = self._number - self._in_run
        many = count > _MANY or (count > _FEW and self._size_bytes * _SHARE > self._file.stat().st_size)
        if many and self._number >= self._try_whole_at:
            try:
                self._publish_whole()
                self._segments.remove((attempt, self._number + 1))
            except OSError as error:  # all that it would hold is published
                self._try_whole_at = self._number + _FEW
                logger.warning("%s can't be written (%s), so its segments become many", self.path, error.strerror)

    def _check_held(self, attempt: int) -> None:
        if self._segments.claim(attempt + 1) is not None:
            raise StoreError(f"{self.path}: another process took this run over; it thought that we are dead")

    def _publish_whole(self) -> None:
        if self._attempt is None:
            raise StoreError(f"{self.path}: nobody holds it")
        self._check_held(self._attempt)
        if self._claimed:
            self._note_segments(self._attempt, self._number, self._beat_at)
        self._segments.publish_whole(self._attempt, self._file)
        self._in_run, self._size_bytes = self._number, 0

    def drop_attempt(self, number: int) -> None:
        super().drop_attempt(number)
        self.publish()
        self._let_go()

    def close(self) -> None:
        try:
            if self._claimed and not self._pending and self._in_run < self._number:
                with storing(self.path):
                    last = self._last_attempt()
                if last is not None and last.number == self._attempt and last.ended_at is not None:
                    self.publish()
        except StoreError as error:
            logger.warning("%s; the run is whole, but stays in segments", error)
        finally:
            if not self._claimed:
                self._let_go()
            self._db.close()
            shutil.rmtree(self._own, ignore_errors=True)

    def remove(self) -> None:
        self.close()
        self.put_together()
        super().remove()


def open_store(folder: Path, live: Path | None = None) -> RunStore:
    """
    Open a run for writing.

    Args:
        folder: the run's folder.
        live: where the locks of that folder don't reach other hosts, a folder on a disk of this node, for this run alone;
            None where they do: a run that was in segments is then put together first.

    Raises:
        RunBusy: it is in segments, and another process that lives holds it.
        StoreError: it can't be opened, or is none of ours.
    """
    if live is not None:
        return SegmentStore(folder, live)
    if Segments(folder).there():
        with tempfile.TemporaryDirectory(prefix="offline_tracker-") as aside:
            store = SegmentStore(folder, Path(aside))
            try:
                store.hold()
                store.publish()
                store.put_together()
            finally:
                store.close()
    return RunStore(folder / "run.db")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[RunStore]:
    """
    Hold a run that nobody writes, for a change by hand, with all folded in that dead attempts left; as it is kept.

    Raises:
        RunBusy: a process that lives holds the run.
        StoreError: it can't be read or written; it is as it was.
    """
    if not Segments(folder).there():
        with contextlib.closing(RunStore(folder / "run.db")) as store:
            store.hold()
            yield store
        return
    with (
        tempfile.TemporaryDirectory(prefix="offline_tracker-") as aside,
        contextlib.closing(SegmentStore(folder, Path(aside))) as pieces,
    ):
        pieces.hold()
        yield pieces
        pieces.publish()
