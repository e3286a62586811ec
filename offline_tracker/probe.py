"""
What can be found out about a folder only by trying it: here, and together with another host.

All of it is done in ``RUNS/.doctor``, which is gone afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .errors import TrackerError
from .filesystem import probe_lock
from .host import Holder

AREA = ".doctor"
_STALE_S = 3600.0
_WAIT_S, _POLL_S = 0.05, 0.01
_SILENCE_S = 15.0  # the other one is gone when its beat did not move for so long
_KEPT_OUT = (errno.EAGAIN, errno.EACCES)


class Outcome(NamedTuple):
    """What trying *name* showed: an error in plain words, or None, and how long it took."""

    name: str
    error: str | None
    seconds: float


def probe(runs: Path) -> list[Outcome]:
    """Try a lock, a fsync and a rename in a folder inside *runs*; where none can be made, that is the only outcome."""
    try:
        with _area(runs) as home:
            folder = home / uuid.uuid4().hex
            folder.mkdir()
            try:
                trials = (("lock", _lock), ("fsync", _fsync), ("rename", _rename))
                return [_try(name, trial, folder) for name, trial in trials]
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        return [Outcome("write", error.strerror or str(error), 0.0)]


def _try(name: str, trial: Callable[[Path], str | None], folder: Path) -> Outcome:
    begun = time.perf_counter()
    try:
        error = trial(folder)
    except OSError as failed:
        error = failed.strerror or str(failed)
    return Outcome(name, error, time.perf_counter() - begun)


def _lock(folder: Path) -> str | None:
    code = probe_lock(folder)
    return os.strerror(code) if code else None


def _fsync(folder: Path) -> str | None:
    with open(folder / "synced", "wb") as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
    return None


def _rename(folder: Path) -> str | None:
    for name in ("old", "new"):
        (folder / name).write_text(name)
    (folder / "new").replace(folder / "old")
    if (folder / "old").read_text() != "new" or (folder / "new").exists():
        return "the old file is still seen behind it"
    return None


@contextlib.contextmanager
def _area(runs: Path) -> Iterator[Path]:
    """``RUNS/.doctor``, without what was left there by those that were killed an hour ago or more."""
    home = runs / AREA
    mark = home / f"{uuid.uuid4().hex}.here"  # while it is there nobody can remove the folder
    for last in (False, False, True):
        home.mkdir(exist_ok=True)
        try:
            mark.touch()
            break
        except FileNotFoundError:  # somebody has just removed it
            if last:
                raise
    try:
        now = mark.stat().st_mtime  # the server's clock: this host's may be another
        for path in list(home.iterdir()):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > _STALE_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield home
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()
            home.rmdir()  # fails where somebody else is in it


class PeerGone(TrackerError):
    """The other process ended in the middle of the meeting."""


@dataclass(frozen=True)
class Meeting:
    """
    What two processes found out about one folder; both have the same.

    Attributes:
        hosts: where the two ran.
        one_host: both ran under one kernel, so nothing is proven about two.
        met: each one's lock kept the other out, and no longer than it was held.
        errors: how locks failed that nobody held, in plain words.
        seen_s: until a file that one renamed was seen by the other and its answer by the first; the longer of the two.
    """

    hosts: tuple[str, str]
    one_host: bool
    met: bool
    errors: tuple[str, ...]
    seen_s: float


def meet(runs: Path, timeout_s: float = 60.0) -> Meeting | None:
    """
    Meet another process that calls this on the same folder, and try whether fcntl locks keep the two apart.

    Returns:
        None if nobody came within *timeout_s*.

    Raises:
        PeerGone: the other one ended, or was silent for too long.
        OSError: the folder can't be written.
    """
    with _area(runs) as home:
        peer = _Peer(home)
        try:
            other = peer.find(timeout_s)
            found = None if other is None else _compare(peer, other)
        except BaseException:
            peer.leave()
            raise
        peer.leave(other)
        return found


class _Peer:
    """
    One of the two. They talk by files alone, and each one's files begin with its token.

    Each look around renames a file of one's own first: it makes an NFS client forget what it remembers of the folder,
    and it shows the others that one lives.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.token = uuid.uuid4().hex
        self.alive_at: dict[str, float] = {}  # token to when its beat was last seen to move
        self._beats: dict[str, str] = {}
        self._beat = 0
        self._said: Path | None = None
        self.path("beat.0").touch()

    def path(self, name: str, token: str | None = None) -> Path:
        return self.home / f"{token or self.token}.{name}"

    def look(self, pause_s: float) -> set[str]:
        """Return the names that are there."""
        time.sleep(pause_s)
        self.path(f"beat.{self._beat}").rename(self.path(f"beat.{self._beat + 1}"))
        self._beat += 1
        names = set(os.listdir(self.home))
        for name in names:
            token, kind, *number = [*name.split("."), ""]
            if kind == "beat" and self._beats.get(token) != number[0]:
                if token in self._beats:  # else it may be of one that was killed
                    self.alive_at[token] = time.monotonic()
                self._beats[token] = number[0]
        return names

    def find(self, timeout_s: float) -> str | None:
        """Return another one's token, None if nobody came. One renames the other's offer, which only one can."""
        end = time.monotonic() + timeout_s
        self.path("offer").touch()
        while (now := time.monotonic()) < end + _SILENCE_S:
            names = self.look(_WAIT_S)
            taken = [name for name in names if name.startswith(f"{self.token}.taken.")]
            if taken:
                return taken[0].rpartition(".")[2]
            if now >= end and self._withdraw():
                return None
            for other in sorted(token for token in self.alive_at if f"{token}.offer" in names):
                # Of two that come at once, only the one with the larger token takes the other's.
                if other < self.token and self._withdraw():
                    with contextlib.suppress(FileNotFoundError):  # a third one was faster
                        self.path("offer", other).rename(self.path(f"taken.{self.token}", other))
                        return other
                    self.path("offer").touch()
        raise PeerGone("the other process is gone; start both again")

    def _withdraw(self) -> bool:
        """Take one's offer back; False if somebody has taken it."""
        try:
            self.path("offer").unlink()
            return True
        except FileNotFoundError:
            return False

    def say(self, step: int, **facts: Any) -> None:
        """Let the other one hear *facts*."""
        self._said = self.path(f"said.{step}")
        self.path("draft").write_text(json.dumps(facts))
        self.path("draft").rename(self._said)

    def hear(self, other: str, step: int) -> dict[str, Any]:
        """
        Wait for what the other one says.

        Raises:
            PeerGone: it is silent for too long.
        """
        path = self.path(f"said.{step}", other)
        self.alive_at[other] = time.monotonic()
        while path.name not in self.look(_POLL_S):
            if time.monotonic() - self.alive_at[other] > _SILENCE_S:
                raise PeerGone("the other process is gone; start both again")
        facts: dict[str, Any] = json.loads(path.read_text())
        return facts

    def leave(self, other: str | None = None) -> None:
        """Remove one's files; *other* has still to hear what was said last, and removes that itself."""
        for path in list(self.home.glob(f"{self.token}.*")):
            if other is None or path != self._said:
                path.unlink(missing_ok=True)
        if other is not None:
            for path in list(self.home.glob(f"{other}.said.*")):
                path.unlink(missing_ok=True)


def _compare(peer: _Peer, other: str) -> Meeting:
    """Both do the same at the same time: lock one's own file, try the other's, let go of one's own, try again."""
    here = Holder.current()
    ours = os.open(peer.path("lock"), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        held = _take(ours)
        peer.say(1)
        peer.hear(other, 1)
        # Once only: a close drops all locks of this process on the file.
        theirs = os.open(peer.path("lock", other), os.O_RDWR | os.O_CLOEXEC)
        try:
            tried = _take(theirs)
            _drop(theirs)
            peer.say(2)
            begun = time.monotonic()
            peer.hear(other, 2)
            _drop(ours)
            peer.say(3)
            peer.hear(other, 3)
            seen_s = time.monotonic() - begun
            again = _take(theirs)
        finally:
            os.close(theirs)
    finally:
        os.close(ours)
    facts = {"host": here.host, "boot": here.boot, "held": held, "tried": tried, "again": again, "seen_s": seen_s}
    peer.say(4, **facts)
    both = {peer.token: facts, other: peer.hear(other, 4)}
    one, two = (both[token] for token in sorted(both))
    codes = {side[key] for side in (one, two) for key in ("held", "again")} - {0}
    codes |= {side["tried"] for side in (one, two)} - {0, *_KEPT_OUT}
    return Meeting(
        (one["host"], two["host"]),
        one["boot"] == two["boot"],
        not codes and one["tried"] != 0 and two["tried"] != 0,
        tuple(sorted(map(os.strerror, codes))),
        max(one["seen_s"], two["seen_s"]),
    )


def _take(fd: int) -> int:
    """Try to lock a file as others see it; returns 0 or the errno."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        return 0
    except OSError as error:
        return error.errno or errno.EIO


def _drop(fd: int) -> None:
    with contextlib.suppress(OSError):  # where a lock can't be taken, this fails too
        fcntl.lockf(fd, fcntl.LOCK_UN, 1)
