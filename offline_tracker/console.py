"""
What a training printed: ``files/console-ATTEMPT.log`` in the run's folder, written while it is printed.

A line is ``2026-11-24T08:27:57.560Z | text``: the time in UTC, ``|`` for stdout, ``!`` for stderr and ``*`` for an alert.
What follows the last newline are lines that are still being written, a carriage return between them.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger("offline_tracker")

MAX_BYTES = 16 << 20
_LINE_MAX = 8192
_QUEUE_MAX = 1_000_000
_CLOSE_S = 5.0
_MARKS = {"out": "|", "err": "!", "alert": "*"}
_SOURCES = {mark: source for source, mark in _MARKS.items()}
_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z ([|!*]) (.*)", re.DOTALL)


class Printed(NamedTuple):
    """A line: its time in unix seconds, ``out``, ``err`` or ``alert``, and the text."""

    time: float
    source: str
    text: str


def _name(attempt: int) -> str:
    return f"console-{attempt}.log"


def wanted(asked: bool | None) -> bool:
    """Return whether the console is to be kept: as `init` was asked, else as $OFFLINE_TRACKER_CONSOLE says."""
    if asked is not None:
        return asked
    return os.environ.get("OFFLINE_TRACKER_CONSOLE", "").lower() in ("1", "true", "yes", "on")


class ConsoleLog:
    """
    The file of one attempt; made with its first line. Nothing here raises, and nothing is done in a forked child.

    Plain writes at a known offset, also of a line that is not complete: what was printed outlives the process.

    Args:
        folder: the run's folder for files.
        attempt: its number.
        max_bytes: where the log ends, however much is still printed.
        waits: write while it is printed; else in a thread, for a filesystem that may hang: what it has not written when
            the process is killed is lost, and so is what is printed while a million characters wait.
    """

    def __init__(self, folder: Path, attempt: int, max_bytes: int = MAX_BYTES, waits: bool = True) -> None:
        self._path = folder / _name(attempt)
        self._max_bytes = max_bytes
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may print while something is printed
        self._fd: int | None = None
        self._ended = False
        self._size = 0  # of the complete lines
        self._shown = 0  # bytes in the file behind them
        self._partial: dict[str, str] = {}
        self._queue: deque[tuple[str, str]] | None = None if waits else deque()
        self._queued = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, source: str, text: str) -> None:
        """Record what was printed; of a line that is overwritten with carriage returns only what stands there last."""
        if self._ended or os.getpid() != self._pid:
            return
        if self._queue is None:
            self._record(source, text)
        elif self._queued < _QUEUE_MAX:
            self._queued += len(text)
            self._queue.append((source, text))
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_queued, name="console log", daemon=True)
                self._thread.start()
            self._wake.set()

    def _write_queued(self) -> None:
        assert self._queue is not None
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                source, text = self._queue.popleft()
                self._record(source, text)
                self._queued -= len(text)
            if self._closing:
                return

    _closing = False

    def _record(self, source: str, text: str) -> None:
        try:
            with self._lock:
                *lines, rest = (self._partial.get(source, "") + text).split("\n")
                self._partial[source] = _standing(rest) + ("\r" if rest.endswith("\r") else "")
                self._put([self._line(source, line) for line in lines])
        except Exception as error:
            self._ended = True
            logger.warning("%s: the console is not recorded any more: %s", self._path, error)

    def alert(self, level: str, title: str, text: str) -> None:
        """Record an alert as a line."""
        self.write("alert", " ".join(f"[{level}] {title}{': ' if text else ''}{text}".split()) + "\n")

    def close(self) -> None:
        """End the lines that were begun; nothing is recorded any more."""
        if os.getpid() != self._pid:
            return
        if self._thread is not None:
            self._closing = True
            self._wake.set()
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                return  # it hangs, and with it whoever waits
        with self._lock:
            for source in [source for source, rest in self._partial.items() if rest]:
                self._record(source, "\n")
            self._ended = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    @staticmethod
    def _line(source: str, text: str) -> str:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:23]
        return f"{now}Z {_MARKS[source]} {_standing(text)}"

    def _put(self, lines: list[str]) -> None:
        full = b"".join(line.encode(errors="backslashreplace") + b"\n" for line in lines)
        if self._size + len(full) > self._max_bytes:
            full = self._line("err", f"[the log of the console ends here, at {self._max_bytes} bytes]").encode() + b"\n"
            self._partial = {}
            self._ended = True
        begun = [self._line(source, rest) for source, rest in self._partial.items() if rest]
        tail = "\r".join(begun).encode(errors="backslashreplace")
        data = full + tail
        if not data and not self._shown:
            return
        fd = self._file()
        if len(data) < self._shown:
            os.ftruncate(fd, self._size)
        at = self._size
        self._size, self._shown = at + len(full), len(tail)
        while data:
            written = os.pwrite(fd, data, at)
            data, at = data[written:], at + written

    def _file(self) -> int:
        if self._fd is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Without O_APPEND, which asks an NFS server for the size at every write; there is one writer.
            self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            self._size = os.lseek(self._fd, 0, os.SEEK_END)  # an attempt that put nothing on record had this number
            if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
                self._size += os.pwrite(self._fd, b"\n", self._size)
        return self._fd


def _standing(line: str) -> str:
    """What a terminal shows of a line at its end, nearly: what was written after the last carriage return."""
    if "\r" in line:
        line = next((part for part in reversed(line.split("\r")) if part), "")
    return line[:_LINE_MAX]


class Tee:
    """
    Keeps what the program prints through sys.stdout and sys.stderr, which stay the same objects and do what they did.

    What is written past them (by C code, to the file descriptors, in forked children) is not seen.

    Args:
        log: where the lines go.
    """

    def __init__(self, log: ConsoleLog) -> None:
        self._log = log
        self._restore: list[Callable[[], object]] = []
        for source, stream in (("out", sys.stdout), ("err", sys.stderr)):
            if stream is not None:
                self._listen(source, stream)

    def _listen(self, source: str, stream: Any) -> None:
        before = vars(stream).get("write") if hasattr(stream, "__dict__") else None
        original = stream.write

        def write(text: str) -> Any:
            result = original(text)
            if isinstance(text, str):
                self._log.write(source, text)
            return result

        def restore() -> None:
            if vars(stream).get("write") is not write:
                return  # somebody has put something over it; ours hands on and records nothing any more
            if before is None:
                del stream.write
            else:
                stream.write = before

        try:
            stream.write = write
        except AttributeError:
            logger.warning("what is printed to %r can't be recorded", stream)
        else:
            self._restore.append(restore)

    def close(self) -> None:
        """Let the streams be as they were."""
        while self._restore:
            self._restore.pop()()


def read(files: Path, attempts: Iterable[tuple[int, bool]]) -> list[Printed]:
    """
    Return the lines of some attempts, in order; of those that still run without the line that is being written.

    Args:
        files: the run's folder for files. No link is followed, neither there nor in it.
        attempts: number, and whether it still runs.
    """
    try:
        folder = os.open(files, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return [line for number, runs in attempts for line in _parse(_content(folder, _name(number)), runs)]
    finally:
        os.close(folder)


def _content(folder: int, name: str) -> bytes:
    try:
        # Not to wait for ever where somebody has put a pipe.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return b""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return b""
    with open(fd, "rb") as file:
        return file.read(MAX_BYTES + _LINE_MAX)


def _parse(data: bytes, runs: bool) -> Iterator[Printed]:
    *lines, rest = data.decode(errors="replace").split("\n")
    for line in lines if runs else [*lines, *rest.split("\r")]:
        if (found := _LINE.fullmatch(line)) is not None:
            at = datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
            yield Printed(at, _SOURCES[found[2]], found[3])
        elif line:
            yield Printed(0.0, "out", line)  # nothing of ours; but lines are counted
