"""
The write-through log of what training did; nothing that was written is lost with the process.

A journal is a series of files ``journal-ATTEMPT-N``. A record is `HEADER` (magic, length and crc32 of the payload) and
the payload: a tuple in marshal's format 2, which every Python 3 reads and which is the fastest exact one that the
standard library has. A record that a crash or a full disk cut short is skipped: the magic and the checksum find the next.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

CALL, MARK, REWIND, CONFIG, SUMMARY, DEFINE, ALERT, META, END, VALUES, GAP, SAMPLE, FACTS = range(13)
"""
What a record says. All begin with ``(num, kind)``, num counting up from 1 in an attempt:

======== ===========================================================================
CALL     seq, step, time, flags, {name: value}
MARK     seq of the call before it, time, name or None
REWIND   seq of the last call it looks back on, step, time, reason
CONFIG   {key: JSON}
SUMMARY  {key: JSON, or None where it was deleted}
DEFINE   metric or glob, JSON
ALERT    time, seq, title, text, level
META     {name, notes, tags...: JSON}
END      time, exit code
VALUES   seq of an earlier call, {name: value} of what came later than its record (from a GPU)
GAP      seq of the call before it, time, number of calls that are lost, why
SAMPLE   time, {name: value} of what the hardware did
FACTS    {name: JSON} of the machine, which took time to find out; for the attempt's environment
======== ===========================================================================
"""

CLOSES = 1
EXPLICIT = 2
"""Flags of a call: it closes its row; its step was given by the caller."""

Record = tuple[Any, ...]

MAGIC = b"\xf5J"
HEADER = struct.Struct("<2sII")
FORMAT = 2
ROTATE_BYTES = 8 << 20
_READ_BYTES = 1 << 20
_NAME = re.compile(r"journal-(\d+)-(\d+)")


class Journal:
    """
    The writing end. Not thread-safe: the caller holds one lock around `append` and `rotate`.

    Args:
        folder: where the files go; on a filesystem that does not hang.
        attempt: number of the attempt.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder = folder
        self.attempt = attempt
        self.number = 0
        self._fd = self._open()

    def _open(self) -> int:
        # Without O_APPEND, which asks an NFS server for the size at every write; there is one writer.
        return os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)

    @property
    def path(self) -> Path:
        return self.folder / f"journal-{self.attempt}-{self.number}"

    @property
    def size_bytes(self) -> int:
        """Bytes in the current file, asked of the kernel: an interrupt behind a write would leave a count too small."""
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def append(self, record: Record) -> None:
        """
        Write one record; on return it outlives this process.

        Raises:
            OSError: it is not in the journal; those before and after it are.
            ValueError: it holds something that is no plain value.
        """
        payload = marshal.dumps(record, FORMAT)
        data = HEADER.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload
        # A disk that is nearly full cuts a write short: leave the torn record, readers skip it, and try the whole again.
        if os.write(self._fd, data) < len(data) and os.write(self._fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def rotate(self, folder: Path | None = None) -> Path:
        """
        Go on in a new file, in another folder if one is given; the old one gets no more records. Returns its path.

        Raises:
            OSError: there can be no new file; the old one is still in use.
        """
        old, old_folder, old_fd = self.path, self.folder, self._fd
        self.folder = folder or self.folder
        self.number += 1
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = self._open()
        except OSError:
            self.folder, self.number = old_folder, self.number - 1
            raise
        with contextlib.suppress(OSError):  # of a disk that fails
            os.close(old_fd)
        return old

    def close(self) -> None:
        os.close(self._fd)
        self._fd = -1  # a write to it fails with EBADF instead of reaching a file that got the number since


def leftovers(folder: Path) -> list[Path]:
    """Return the journal files in *folder*, in the order in which they were written."""
    found = []
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    for name in names:
        if match := _NAME.fullmatch(name):
            found.append((int(match[1]), int(match[2]), folder / name))
    return [path for _, _, path in sorted(found)]


def attempt_of(path: Path) -> int:
    """Return the number of the attempt that wrote a journal file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not a journal")
    return int(match[1])


def read(path: Path, offset: int = 0, end: int | None = None) -> tuple[list[Record], int, int]:
    """
    Read the records from *offset* on, about one MiB of them.

    Args:
        end: do not look beyond this byte: what is there may be half written.

    Returns:
        The records, the offset to go on from, and how many bytes of torn records were skipped. The same offset again
        means that there is no whole record behind it.
    """
    size = _READ_BYTES
    with open(path, "rb") as file:
        while True:
            file.seek(offset)
            data = file.read(size if end is None else max(0, min(size, end - offset)))
            records, used, torn = parse(data)
            if records or len(data) < size:
                return records, offset + used, torn
            size *= 4  # one record that is longer than what was read


def parse(data: bytes) -> tuple[list[Record], int, int]:
    """Return the whole records in *data*, the bytes they take up, and how many of those were torn."""
    records: list[Record] = []
    at = used = torn = 0
    total = len(data)
    # The writer reads all that it has written while training waits for the interpreter: no look-up in vain.
    unpack, crc32, loads, append, head = HEADER.unpack_from, zlib.crc32, marshal.loads, records.append, HEADER.size
    while (start := at + head) <= total:
        magic, length, checksum = unpack(data, at)
        end = start + length
        # A power cut may leave zeros behind a magic, and those would agree: the checksum of nothing is 0.
        if magic == MAGIC and start < end <= total:
            payload = data[start:end]
            if crc32(payload) == checksum:
                append(loads(payload))
                if at != used:
                    torn += at - used
                at = used = end
                continue
        # A torn record, or the end of the file. Only a whole record further on proves that it is the former.
        at = data.find(MAGIC, at + 1)
        if at < 0:
            break
    return records, used, torn
