"""The filesystem with faults: faithful where none is ordered, and each fault happens where it is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sqlite3
import stat
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .conftest import Start
from .faultfs import CHANGES, FaultFS

Mount = Callable[..., FaultFS]


def in_thread(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call something that a fault will hold."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *args)
    pool.shutdown(wait=False)
    return future


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def failure(function: Callable[..., Any], *args: Any) -> str | None:
    """The errno's name with which a call fails."""
    try:
        function(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


# Faithful.


def tree(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        shown = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (oct(status.st_mode), status.st_nlink, shown)
    return found


def script(root: Path) -> list[Any]:
    """All that a tracker may do to files, and what it is told."""
    said: list[Any] = []
    (root / "a" / "b").mkdir(parents=True)
    file = root / "a" / "file"
    file.write_bytes(bytes(range(256)) * 2000)  # four requests
    with open(file, "r+b") as opened:
        opened.seek(100_000)
        opened.write(b"middle")
        opened.truncate(400_000)
        opened.seek(0, os.SEEK_END)
        opened.write(b"end")
        said.append(os.fstat(opened.fileno()).st_size if not opened.flush() else None)
    with open(file, "ab") as opened:
        said.append(opened.tell())
        opened.write(b"appended")
    os.truncate(root / "a" / "file", 350_000)
    with open(root / "emptied", "wb") as opened:
        opened.write(b"x" * 10)
    with open(root / "emptied", "wb"):
        pass
    file.chmod(0o640)
    (root / "timed").write_bytes(b"t")
    os.utime(root / "timed", ns=(1_600_000_000_123_456_789, 1_700_000_000_987_654_321))
    said.append([(root / "timed").stat().st_mtime_ns, (root / "timed").stat().st_atime_ns])
    os.link(file, root / "a" / "hard")
    os.symlink("a/file", root / "soft")
    said.append((root / "soft").stat().st_ino == file.stat().st_ino == (root / "a" / "hard").stat().st_ino)
    fd = os.open(root / "gone", os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o600)
    os.write(fd, b"still here")
    os.unlink(root / "gone")
    said.append((os.pread(fd, 99, 0), os.fstat(fd).st_nlink, os.fstat(fd).st_size))
    os.close(fd)
    (root / "old").write_bytes(b"old")
    (root / "new").write_bytes(b"new")
    with open(root / "new", "rb") as replaced:
        os.rename(root / "old", root / "new")
        said.append(replaced.read())
    with open(root / "a" / "b" / "inside", "wb", buffering=0) as inside:
        os.rename(root / "a" / "b", root / "moved")
        inside.write(b"after the move")
    os.mkdir(root / "empty")
    os.rmdir(root / "empty")
    for attempt in (
        lambda: os.open(root / "nowhere", os.O_RDONLY),
        lambda: os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        lambda: os.mkdir(root / "a"),
        lambda: os.rmdir(root / "a"),
        lambda: os.unlink(root / "a"),
        lambda: os.link(file, root / "new"),
        lambda: os.rename(root / "nowhere", root / "new"),
        lambda: os.listdir(root / "new"),
        lambda: os.open(root / "new" / "x", os.O_RDONLY),
        lambda: os.readlink(root / "new"),
        lambda: (root / ("n" * 256)).touch(),
    ):
        said.append(failure(attempt))
    return said


def test_all_that_is_done_to_files_ends_as_on_a_plain_filesystem(faultfs: Mount, tmp_path: Path) -> None:
    fs = faultfs()
    (plain := tmp_path / "plain").mkdir()
    assert script(fs.path) == script(plain)
    assert tree(fs.path) == tree(plain) == tree(fs.backing)


def test_a_long_folder_is_listed_whole_and_again(faultfs: Mount) -> None:
    fs = faultfs()
    names = {f"{'n' * 40}-{number}" for number in range(1500)}  # some hundred KiB of entries
    for name in names:
        (fs.backing / name).touch()
    fd = os.open(fs.path, os.O_RDONLY)
    try:
        assert set(os.listdir(fd)) == names
        (fs.backing / "late").touch()
        assert set(os.listdir(fd)) == names | {"late"}  # the same open folder, from its beginning
    finally:
        os.close(fd)


def test_it_is_a_fuse_mount_for_who_looks(faultfs: Mount) -> None:
    fs = faultfs()
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [line for line in lines if f" {fs.path} " in line and " - fuse.faultfs " in line]


HOLD = """
import fcntl, sys
file = open(sys.argv[2], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_mounts_of_one_folder_are_two_hosts_whose_locks_do_not_meet(faultfs: Mount, start: Start) -> None:
    here, there = faultfs("here"), faultfs("there")
    (here.path / "file").write_bytes(b"x")
    holder = start(HOLD, here.path / "file")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with open(here.path / "file", "r+b") as file:
        assert failure(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB) == "EAGAIN"
    with open(there.path / "file", "r+b") as file:
        assert failure(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB) is None


def test_without_a_lock_daemon_no_lock_can_be_had(faultfs: Mount) -> None:
    fs = faultfs(locks=False)
    with open(fs.path / "file", "w+b") as file:
        assert failure(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB) == "ENOLCK"
        assert failure(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB) == "ENOLCK"


def test_sqlite_writes_on_one_mount_and_an_open_reader_on_another_sees_each_commit(faultfs: Mount) -> None:
    here, there = faultfs("here"), faultfs("there")
    writer = sqlite3.connect(here.path / "run.db", isolation_level=None)
    reader = sqlite3.connect(f"file:{there.path}/run.db?mode=ro", uri=True)
    try:
        assert writer.execute("PRAGMA journal_mode = TRUNCATE").fetchone() == ("truncate",)
        writer.execute("CREATE TABLE t (n INTEGER, text TEXT)")
        for number in range(20):
            writer.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * 3000))
            assert reader.execute("SELECT max(n), count(*) FROM t").fetchall() == [(number, number + 1)]
        writer.execute("BEGIN")
        writer.execute("UPDATE t SET n = -1")
        writer.execute("ROLLBACK")
        assert reader.execute("SELECT min(n) FROM t").fetchall() == [(0,)]
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert here.count("fsync", "/run.db") >= 20
    finally:
        writer.close()
        reader.close()


# Faults.


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "ESTALE", "EROFS", "EACCES"])
def test_a_write_fails_with_what_was_ordered_on_the_paths_that_match_until_lifted(name: str, faultfs: Mount) -> None:
    fs = faultfs()
    (fs.path / "a1").mkdir()
    with (
        open(fs.path / "a1" / "run.db", "wb", buffering=0) as met,
        open(fs.path / "a1" / "other", "wb", buffering=0) as spared,
    ):
        fs.fail("write", getattr(errno, name), glob="*/run.db*")
        assert [failure(met.write, b"1"), failure(spared.write, b"1"), failure(met.write, b"2")] == [name, None, name]
        fs.lift()
        met.write(b"3")
    assert (fs.backing / "a1" / "run.db").read_bytes() == b"3"
    assert (fs.count("write", "*/run.db"), fs.count("write"), fs.count("create")) == (3, 4, 2)


def test_a_fault_comes_so_many_times_and_each_is_lifted_by_its_number(faultfs: Mount) -> None:
    fs = faultfs()
    with open(fs.path / "file", "wb", buffering=0) as file:
        fs.fail("write", errno.EIO, times=2)
        behind = fs.fail("write", errno.ESTALE, times=1)
        fs.fail(("fsync", "mkdir"), errno.EDQUOT)
        assert [failure(file.write, b"x") for _ in range(4)] == ["EIO", "EIO", "ESTALE", None]
        assert failure(os.fsync, file) == failure(os.mkdir, fs.path / "x") == "EDQUOT"
        fs.lift(behind)
        assert failure(os.fsync, file) == "EDQUOT"


def test_a_fault_follows_a_file_to_its_new_name(faultfs: Mount) -> None:
    fs = faultfs()
    (fs.path / "d").mkdir()
    with open(fs.path / "d" / "new-1", "wb", buffering=0) as file:
        fs.fail("write", errno.EIO, glob="/e/run.db")
        file.write(b"x")
        os.rename(fs.path / "d" / "new-1", fs.path / "d" / "run.db")
        file.write(b"x")
        os.rename(fs.path / "d", fs.path / "e")
        assert failure(file.write, b"x") == "EIO"


def test_what_is_read_only_can_be_read_and_not_changed(faultfs: Mount) -> None:
    fs = faultfs()
    (fs.backing / "file").write_bytes(b"x")
    fs.fail(CHANGES, errno.EROFS)
    file = fs.path / "file"
    assert (file.read_bytes(), os.listdir(fs.path)) == (b"x", ["file"])
    changes: list[Callable[[], Any]] = [
        *(lambda: file.write_bytes(b"y"), lambda: (fs.path / "new").touch(), lambda: os.truncate(file, 0)),
        *(lambda: file.chmod(0o600), lambda: os.utime(file), lambda: file.unlink(), lambda: os.mkfifo(fs.path / "f")),
        *(lambda: file.rename(fs.path / "new"), lambda: os.link(file, fs.path / "l"), lambda: os.mkdir(fs.path / "d")),
        lambda: os.symlink("x", fs.path / "s"),
    ]
    assert [failure(change) for change in changes] == ["EROFS"] * len(changes)
    assert tree(fs.backing) == {"file": (oct(stat.S_IFREG | 0o644), 1, b"x")}


def test_a_disk_that_fills_cuts_a_write_short_and_then_fails(faultfs: Mount) -> None:
    fs = faultfs()
    with open(fs.path / "file", "wb", buffering=0) as file:
        fs.full_after(25)
        assert [file.write(b"0123456789") for _ in range(3)] == [10, 10, 5]
        assert failure(file.write, b"x") == "ENOSPC"
        fs.lift()
        file.write(b"!")
    assert (fs.backing / "file").read_bytes() == b"0123456789012345678901234!"


def test_a_delay_takes_its_time_and_holds_nobody_else(faultfs: Mount) -> None:
    fs = faultfs()
    with open(fs.path / "file", "wb", buffering=0) as file:
        fs.delay("fsync", 0.3)
        begun = time.monotonic()
        syncing = in_thread(os.fsync, file.fileno())
        fs.wait_blocked(op="fsync")
        (fs.path / "other").write_bytes(b"x")  # a write to the same file waits, that is the kernel's lock
        assert not syncing.done()
        syncing.result(30)
        assert time.monotonic() - begun >= 0.3


def test_what_hangs_goes_on_when_lifted_however_many_there_are(faultfs: Mount) -> None:
    fs = faultfs()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(fs.path / f"file-{number}", "wb", buffering=0)) for number in range(40)]
        fs.hang("write")
        writes = [in_thread(file.write, b"x") for file in files]
        fs.wait_blocked(40, "write")
        assert (fs.path / "file-0").stat().st_size == 0  # others are served
        assert not any(write.done() for write in writes)
        fs.lift()
        assert [write.result(30) for write in writes] == [1] * 40
        assert fs.blocked() == 0
        assert (fs.path / "file-0").stat().st_size == 1


WRITE = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: None)
file = open(sys.argv[2], "wb", buffering=0)
print("open", flush=True)
sys.stdin.readline()
file.write(b"x")
"""


def test_a_process_that_hangs_dies_of_sigkill_and_of_nothing_less(faultfs: Mount, start: Start) -> None:
    fs = faultfs()
    process = start(WRITE, fs.path / "file")
    assert process.stdin and process.stdout
    assert process.stdout.readline() == "open\n"
    fs.hang()
    process.stdin.write("\n")
    process.stdin.flush()
    fs.wait_blocked(op="write")
    process.terminate()
    wait_until(lambda: fs.count("interrupt") == 1)
    assert (fs.blocked(), process.poll()) == (1, None)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    wait_until(lambda: fs.blocked() == 0)
    fs.lift()
    assert (fs.path / "file").read_bytes() == b""


def mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def test_unmounting_releases_what_hangs(tmp_path: Path, faultfs: Mount) -> None:
    faultfs("probe")  # skips where none can be had
    with FaultFS(tmp_path / "backing", tmp_path / "faulty") as fs:
        fd = os.open(fs.path / "file", os.O_CREAT | os.O_WRONLY)
        fs.hang()
        writing = in_thread(os.write, fd, b"x")
        fs.wait_blocked()
    with pytest.raises(OSError, match=r"."):
        writing.result(30)
    assert failure(os.close, fd) == "ENOTCONN"
    assert not mounted(fs.path)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.faultfs import FaultFS, tmpfs
with FaultFS(Path(sys.argv[2]) / "backing", Path(sys.argv[2]) / "faulty") as fs, tmpfs(Path(sys.argv[2]) / "small"):
    fs.hang()
    if os.fork() == 0:  # lives on, with all that the test had open
        os.execlp("sleep", "sleep", "60") if sys.argv[3] == "exec" else signal.pause()
    print(os.path.ismount(Path(sys.argv[2]) / "small"), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("child", ["exec", "fork"])
def test_a_test_that_is_killed_leaves_nothing_mounted(child: str, faultfs: Mount, start: Start, tmp_path: Path) -> None:
    faultfs("probe")
    process = start("import os; os.setpgrp()\n" + KILLED, tmp_path, child)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert process.wait(30) == -signal.SIGKILL
        wait_until(lambda: not mounted(tmp_path / "faulty") and not mounted(tmp_path / "small"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)


# A small disk.


def test_a_small_tmpfs_is_full_and_has_room_again(tmpfs: Callable[..., Path]) -> None:
    disk = tmpfs(size_bytes=64 << 10)
    with open(disk / "file", "wb", buffering=0) as file:
        assert file.write(b"x" * (100 << 10)) == 64 << 10
        assert failure(file.write, b"x") == "ENOSPC"
        file.truncate(0)
        assert file.write(b"x") == 1


def test_a_read_only_tmpfs_takes_nothing(tmpfs: Callable[..., Path]) -> None:
    assert failure(os.mkdir, tmpfs(read_only=True) / "runs") == "EROFS"
