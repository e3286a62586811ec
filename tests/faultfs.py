"""
A passthrough FUSE filesystem with faults that a test orders, and a small tmpfs.

    with FaultFS(backing, mountpoint) as fs:
        fs.fail("write", errno.ENOSPC, glob="*/run.db*")
        fs.hang("*")
        fs.wait_blocked()
        fs.lift()

The kernel's protocol (/usr/include/linux/fuse.h) is spoken here: there need be no libfuse and no fusermount, only root and
/dev/fuse. Nothing is cached, so two mounts of one folder see each other's writes; the kernel keeps their locks apart, so
they are two hosts whose locks don't meet. A process that is held dies of SIGKILL and of nothing less, as on hard NFS.

The server is a process of its own, ``python tests/faultfs.py fuse MOUNTPOINT BACKING LOCKS``, ordered by lines of JSON. It
unmounts when its input ends, so also when the test is killed; whatever is still held is then released with ENOTCONN.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

CHANGES = ("create", "open_write", "write", "setattr", "mknod", "mkdir", "unlink", "rmdir", "rename", "link", "symlink")
"""The operations that a read-only filesystem refuses."""

_libc = ctypes.CDLL(None, use_errno=True)


# What tests use.


class CannotMount(Exception):
    """Here no filesystem can be mounted, and why: the test is to be skipped."""


class Mount:
    """A mount that a process of its own holds; it ends with the block, and with this process."""

    def __init__(self, kind: str, mountpoint: Path, *args: object) -> None:
        self.path = mountpoint
        self._command = [sys.executable, "-I", "-S", __file__, kind, str(mountpoint), *map(str, args)]
        self._lock = threading.Lock()

    def __enter__(self) -> Any:
        self.path.mkdir(parents=True, exist_ok=True)
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        if problem := self._answer():
            self.__exit__()
            raise CannotMount(problem)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()
        _unmount(self.path)  # if the server was killed

    def _order(self, do: str, *args: Any) -> Any:
        assert self._server.stdin
        with self._lock:
            self._server.stdin.write(json.dumps([do, *args]) + "\n")
            self._server.stdin.flush()
            return self._answer()

    def _answer(self) -> Any:
        assert self._server.stdout
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of {self.path} has ended")
        return json.loads(line)


class FaultFS(Mount):
    """
    *backing* once more at *mountpoint*, with faults. Every method may be called from any thread.

    A fault meets the operations whose name is *op* (a glob, or several) on the paths that match *glob*: absolute within the
    mount, and ``*`` reaches over slashes. Operations are lookup, getattr, setattr (truncate, chmod, utime), open,
    open_write (open for writing), create, read, write, fsync, opendir, readdir, fsyncdir, mkdir, rmdir, unlink, rename,
    link, symlink, readlink, mknod, statfs, access and flush (a close; only by its full
    name, for who waits there can't be killed); an interrupt is a signal that came to who is held, and is only counted.
    Faults are looked at in their order; each method returns the number by which `lift` takes one back.

    Args:
        locks: False: fcntl and flock fail with ENOLCK, as on NFS without a lock daemon.
    """

    def __init__(self, backing: Path, mountpoint: Path, locks: bool = True) -> None:
        super().__init__("fuse", mountpoint, backing, int(locks))
        self.backing = backing

    def __enter__(self) -> FaultFS:
        self.backing.mkdir(parents=True, exist_ok=True)
        super().__enter__()
        return self

    def fail(self, op: str | tuple[str, ...], error: int, glob: str = "*", times: int | None = None) -> int:
        """Fail with an errno, *times* times or until lifted."""
        return self._add(op, glob, times, error=error)

    def delay(self, op: str | tuple[str, ...], seconds: float, glob: str = "*", times: int | None = None) -> int:
        """Do it only after so long."""
        return self._add(op, glob, times, seconds=seconds)

    def hang(self, op: str | tuple[str, ...] = "*", glob: str = "*", times: int | None = None) -> int:
        """Do it only when lifted."""
        return self._add(op, glob, times, seconds=float("inf"))

    def full_after(self, size_bytes: int, glob: str = "*", error: int = errno.ENOSPC) -> int:
        """Take so many bytes more, the last write cut short, then fail each write."""
        return self._add("write", glob, None, error=error, room=size_bytes)

    def _add(self, op: str | tuple[str, ...], glob: str, times: int | None, **what: Any) -> int:
        number: int = self._order("add", (op,) if isinstance(op, str) else op, glob, times, what)
        return number

    def lift(self, number: int | None = None) -> None:
        """Take one fault back, or all; what it holds goes on."""
        self._order("lift", number)

    def count(self, op: str = "*", glob: str = "*") -> int:
        """Return how many operations came so far, those that failed or are held too."""
        number: int = self._order("count", op, glob)
        return number

    def blocked(self, op: str = "*", glob: str = "*") -> int:
        """Return how many operations are held at this moment."""
        number: int = self._order("blocked", op, glob)
        return number

    def wait_blocked(self, count: int = 1, op: str = "*", glob: str = "*", timeout_s: float = 30.0) -> None:
        """Return once so many operations are held."""
        end = time.monotonic() + timeout_s
        while (now := self.blocked(op, glob)) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{now} of {count} {op} on {glob} are held after {timeout_s} s")
            time.sleep(0.01)


@contextlib.contextmanager
def tmpfs(mountpoint: Path, size_bytes: int = 1 << 20, read_only: bool = False) -> Iterator[Path]:
    """A tmpfs that holds so much, in whole pages."""
    with Mount("tmpfs", mountpoint, size_bytes, int(read_only)):
        yield mountpoint


# The server: mounting.

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1


def _raise(path: object = None) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def _mount(kind: str, mountpoint: str, flags: int, options: str) -> None:
    args = (b"faultfs", os.fsencode(mountpoint), kind.encode())
    if _libc.mount(*args, ctypes.c_ulong(flags | _MS_NOSUID | _MS_NODEV), options.encode()):
        _raise(mountpoint)


def _unmount(mountpoint: object) -> None:
    # Lazy: a process that still has a file there would else keep it mounted. It may not be mounted (any more).
    _libc.umount2(os.fsencode(str(mountpoint)), _MNT_DETACH)


def main(kind: str, mountpoint: str, *args: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the test ends this, not the terminal
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # for the input does not end while a fork of the test still lives
    faults = Faults()
    try:
        if kind == "tmpfs":
            _mount("tmpfs", mountpoint, _MS_RDONLY if int(args[1]) else 0, f"size={args[0]}")
        else:
            Server(args[0], mountpoint, faults, bool(int(args[1])))
    except OSError as error:
        print(json.dumps(f"no {kind} can be mounted here: {error}"), flush=True)
        return
    try:
        print("null", flush=True)
        for line in sys.stdin:
            do, *rest = json.loads(line)
            print(json.dumps(getattr(faults, do)(*rest)), flush=True)
    except Exception:
        traceback.print_exc()
    finally:
        _unmount(mountpoint)
        os._exit(0)  # and with the device closes: what is held is released


# The server: faults.


_SPARED = ("flush", "interrupt")


@dataclass(eq=False)
class Fault:
    ops: tuple[str, ...]
    glob: str
    times: int | None
    error: int = 0
    seconds: float = 0.0
    room: int | None = None

    def meets(self, op: str, paths: tuple[str, ...]) -> bool:
        # A flush can't be taken back, not even by SIGKILL, so only who names it gets it.
        named = op in self.ops or (op not in _SPARED and any(fnmatchcase(op, name) for name in self.ops))
        return self.times != 0 and named and any(fnmatchcase(path, self.glob) for path in paths)


class Faults:
    """What was ordered, what came, what is held."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._faults: dict[int, Fault] = {}
        self._added = 0
        self._seen: Counter[tuple[str, str]] = Counter()
        self._held: list[tuple[str, str]] = []
        self.on_hold = lambda: None

    def add(self, ops: list[str], glob: str, times: int | None, what: dict[str, Any]) -> int:
        with self._changed:
            self._added += 1
            self._faults[self._added] = Fault(tuple(ops), glob, times, **what)
            return self._added

    def lift(self, number: int | None) -> None:
        with self._changed:
            for each in [number] if number else list(self._faults):
                self._faults.pop(each, None)
            self._changed.notify_all()

    def count(self, op: str, glob: str) -> int:
        with self._changed:
            return sum(n for (o, path), n in self._seen.items() if fnmatchcase(o, op) and fnmatchcase(path, glob))

    def blocked(self, op: str, glob: str) -> int:
        with self._changed:
            return sum(fnmatchcase(o, op) and fnmatchcase(path, glob) for o, path in self._held)

    def meet(self, op: str, paths: tuple[str, ...], pid: int, size: int) -> int:
        """Let an operation pass, late or for fewer bytes than *size*, or raise what it is to fail with."""
        with self._changed:
            self._seen[op, paths[0]] += 1
            at = 0
            while at := min((n for n, fault in self._faults.items() if n > at and fault.meets(op, paths)), default=0):
                fault = self._faults[at]
                if fault.times is not None:
                    fault.times -= 1
                if fault.room is not None:
                    size = min(size, fault.room)
                    fault.room -= size
                if fault.seconds:
                    self._hold(at, (op, paths[0]), time.monotonic() + fault.seconds, pid)
                elif fault.error and not (fault.room is not None and size):
                    raise OSError(fault.error, os.strerror(fault.error))
            return size

    def _hold(self, number: int, what: tuple[str, str], until: float, pid: int) -> None:
        self.on_hold()
        self._held.append(what)
        try:
            while number in self._faults and (left := until - time.monotonic()) > 0:
                # The kernel waits for us whatever signal comes: only here can a killed process be let go.
                if _dying(pid):
                    raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
                self._changed.wait(min(left, 0.02))
        finally:
            self._held.remove(what)


def _dying(pid: int) -> bool:
    """Whether a thread has SIGKILL pending, which is also what the rest of a process gets that dies of anything else."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return pid != 0
    pending = [int(line.split()[1], 16) for line in text.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask & 1 << (signal.SIGKILL - 1) for mask in pending)


# The server: the filesystem.

_MAX_WRITE = 1 << 17
_READERS = 4
_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=6Q10I")
_OPEN = struct.Struct("=QII")
_DIRENT = struct.Struct("=QQII")
_POSIX_LOCKS, _BIG_WRITES, _FLOCK_LOCKS, _PARALLEL_DIROPS = 1 << 1, 1 << 5, 1 << 10, 1 << 18
_DIRECT_IO, _PARALLEL_DIRECT_WRITES = 1 << 0, 1 << 6
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE, _SET_ATIME, _SET_MTIME = (1 << bit for bit in range(6))
_ATIME_NOW, _MTIME_NOW = 1 << 7, 1 << 8
_FORGET, _INIT, _BATCH_FORGET = 2, 26, 42

# Opcode, name, what the request holds, and how many names follow. All others get ENOSYS, and the kernel does without them.
_OPERATIONS = """
1 lookup = 1, 3 getattr =IIQ 0, 4 setattr =II6Q8I 0, 5 readlink = 0, 6 symlink = 2, 8 mknod =4I 1, 9 mkdir =2I 1,
10 unlink = 1, 11 rmdir = 1, 12 rename =Q 2, 13 link =Q 1, 14 open =2I 0, 15 read =QQIIQII 0, 16 write =QQIIQII 0,
17 statfs = 0, 18 release =QIIQ 0, 20 fsync =QII 0, 25 flush =QIIQ 0, 27 opendir =2I 0, 28 readdir =QQIIQII 0,
29 releasedir =QIIQ 0, 30 fsyncdir =QII 0, 31 lock = 0, 32 lock = 0, 33 lock = 0, 34 access =II 0, 35 create =4I 1,
36 interrupt =Q 0, 45 rename =QII 2
"""
_BY_OPCODE = {
    int(opcode): (name, struct.Struct(fields), int(names))
    for opcode, name, fields, names in (line.split() for line in _OPERATIONS.split(","))
}


@dataclass
class Node:
    """A file that the kernel knows: *fd* is O_PATH, so it stays the same file whatever becomes of its names."""

    number: int
    fd: int
    path: str
    known: int = 0
    key: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        status = os.stat(self.fd)
        self.key = (status.st_dev, status.st_ino)

    @property
    def real(self) -> str:
        return f"/proc/self/fd/{self.fd}"

    def child(self, name: bytes) -> str:
        return f"{self.path.rstrip('/')}/{os.fsdecode(name)}"


class Server:
    def __init__(self, backing: str, mountpoint: str, faults: Faults, locks: bool) -> None:
        os.umask(0)  # the kernel has applied the caller's
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._faults = faults
        self._faults.on_hold = self._spare
        self._locks = locks
        root = Node(1, os.open(backing, os.O_PATH | os.O_DIRECTORY), "/")
        self._guard = threading.Lock()
        self._nodes = {1: root}
        self._by_key = {root.key: root}
        self._last = 1
        self._listings: dict[int, list[bytes]] = {}
        self._readers = 0
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other,subtype=faultfs"
        _mount("fuse", mountpoint, 0, options)
        for _ in range(_READERS):
            self._spare()

    def _spare(self) -> None:
        """Begin one more reader: for the start, and for each that a fault holds."""
        with self._guard:
            self._readers += 1
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        buffer = bytearray(_MAX_WRITE + 4096)
        while True:
            try:
                size = os.readv(self._device, [buffer])
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):  # the request was taken back
                    continue
                raise
            self._answer(bytes(buffer[:size]))
            with self._guard:
                if self._readers > _READERS:
                    self._readers -= 1
                    return

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, number, _, _, pid, _, _ = _IN.unpack_from(request)
        body = request[_IN.size :]
        if opcode == _FORGET:
            return self._forget(number, struct.unpack_from("=Q", body)[0])
        if opcode == _BATCH_FORGET:
            for each in range(struct.unpack_from("=I", body)[0]):
                self._forget(*struct.unpack_from("=QQ", body, 8 + 16 * each))
            return None
        error, data = 0, b""
        try:
            data = self._init(body) if opcode == _INIT else self._do(opcode, number, pid, body)
        except OSError as failed:
            error = failed.errno or errno.EIO
        except Exception:
            error = errno.EIO
            traceback.print_exc()
        with contextlib.suppress(OSError):  # who asked is gone
            os.write(self._device, _OUT.pack(_OUT.size + len(data), -error, unique) + data)
        return None

    def _init(self, body: bytes) -> bytes:
        _, _, readahead, offered = struct.unpack_from("=4I", body)
        flags = _BIG_WRITES | _PARALLEL_DIROPS | (0 if self._locks else _POSIX_LOCKS | _FLOCK_LOCKS)
        return struct.pack("=4I2H2I2HI28x", 7, 31, readahead, flags & offered, 64, 48, _MAX_WRITE, 1, 0, 0, 0)

    def _do(self, opcode: int, number: int, pid: int, body: bytes) -> bytes:
        if opcode not in _BY_OPCODE:
            raise OSError(errno.ENOSYS, "")
        op, fields, count = _BY_OPCODE[opcode]
        node = self._nodes.get(number, self._nodes[1])  # an interrupt has none
        args = fields.unpack_from(body)
        rest = body[fields.size :]
        names = rest.split(b"\0")[:count]
        if op in ("release", "releasedir"):
            return getattr(self, "_" + op)(node, *args)  # type: ignore[no-any-return]
        paths = [node.child(names[0]) if names else node.path]
        if op == "rename":
            paths.append(self._nodes[args[0]].child(names[1]))
        name = "open_write" if op == "open" and args[0] & os.O_ACCMODE else op
        size = self._faults.meet(name, tuple(paths), pid, args[2] if op == "write" else 0)
        if op == "write":
            return struct.pack("=II", os.pwrite(args[0], rest[:size], args[1]), 0)
        return getattr(self, "_" + op)(node, *args, *names)  # type: ignore[no-any-return]

    # Nodes.

    def _entry(self, parent: Node, name: bytes) -> bytes:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent.fd)
        fresh = Node(0, fd, parent.child(name))
        with self._guard:
            node = self._by_key.get(fresh.key)
            if node is None:
                self._last += 1
                fresh.number = self._last
                node = self._nodes[self._last] = self._by_key[fresh.key] = fresh
            else:
                os.close(fd)
                node.path = fresh.path  # the name by which it was last seen
            node.known += 1
        return struct.pack("=Q32x", node.number) + _attributes(node)

    def _forget(self, number: int, times: int) -> None:
        with self._guard:
            node = self._nodes[number]
            node.known -= times
            if node.known <= 0 and number != 1:
                del self._nodes[number], self._by_key[node.key]
                os.close(node.fd)

    # Operations: what the request holds comes as arguments, what is answered is returned.

    def _lookup(self, node: Node, name: bytes) -> bytes:
        return self._entry(node, name)

    def _getattr(self, node: Node, *_: int) -> bytes:
        return bytes(16) + _attributes(node)

    def _setattr(self, node: Node, valid: int, _: int, *args: int) -> bytes:
        _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = args
        if valid & _SET_MODE:
            Path(node.real).chmod(stat.S_IMODE(mode))
        if valid & (_SET_UID | _SET_GID):
            os.chown(node.real, uid if valid & _SET_UID else -1, gid if valid & _SET_GID else -1)
        if valid & _SET_SIZE:
            os.truncate(node.real, size)
        if valid & (_SET_ATIME | _SET_MTIME):
            now, old = time.time_ns(), os.stat(node.fd)
            times = (
                (old.st_atime_ns, _SET_ATIME, _ATIME_NOW, atime * 10**9 + atime_ns),
                (old.st_mtime_ns, _SET_MTIME, _MTIME_NOW, mtime * 10**9 + mtime_ns),
            )
            new = [now if valid & is_now else given if valid & is_set else was for was, is_set, is_now, given in times]
            os.utime(node.real, ns=(new[0], new[1]))
        return self._getattr(node)

    def _readlink(self, node: Node) -> bytes:
        return os.readlink(b"", dir_fd=node.fd)

    def _symlink(self, node: Node, name: bytes, target: bytes) -> bytes:
        os.symlink(target, name, dir_fd=node.fd)
        return self._entry(node, name)

    def _mknod(self, node: Node, mode: int, device: int, _: int, __: int, name: bytes) -> bytes:
        os.mknod(name, mode, device, dir_fd=node.fd)
        return self._entry(node, name)

    def _mkdir(self, node: Node, mode: int, _: int, name: bytes) -> bytes:
        os.mkdir(name, mode, dir_fd=node.fd)
        return self._entry(node, name)

    def _unlink(self, node: Node, name: bytes) -> bytes:
        os.unlink(name, dir_fd=node.fd)
        return b""

    def _rmdir(self, node: Node, name: bytes) -> bytes:
        os.rmdir(name, dir_fd=node.fd)
        return b""

    def _rename(self, node: Node, number: int, *args: Any) -> bytes:
        *flags, name, new_name = args
        target = self._nodes[number]
        if _libc.renameat2(node.fd, name, target.fd, new_name, flags[0] if flags else 0):
            _raise()
        old, new = node.child(name), target.child(new_name)
        with self._guard:
            for each in self._nodes.values():
                if each.path == old or each.path.startswith(old + "/"):
                    each.path = new + each.path[len(old) :]
        return b""

    def _link(self, node: Node, number: int, name: bytes) -> bytes:
        os.link(self._nodes[number].real, name, dst_dir_fd=node.fd, follow_symlinks=True)
        return self._entry(node, name)

    def _open(self, node: Node, flags: int, _: int) -> bytes:
        # Not O_APPEND: with it, pwrite() would go to the end instead of where the kernel says.
        fd = os.open(node.real, flags & ~(os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_DIRECT))
        return _OPEN.pack(fd, _DIRECT_IO | _PARALLEL_DIRECT_WRITES, 0)

    def _create(self, node: Node, flags: int, mode: int, _: int, __: int, name: bytes) -> bytes:
        fd = os.open(name, (flags & ~(os.O_APPEND | os.O_DIRECT)) | os.O_CREAT | os.O_NOFOLLOW, mode, dir_fd=node.fd)
        return self._entry(node, name) + _OPEN.pack(fd, _DIRECT_IO | _PARALLEL_DIRECT_WRITES, 0)

    def _read(self, node: Node, fd: int, offset: int, size: int, *_: int) -> bytes:
        return os.pread(fd, size, offset)

    def _statfs(self, node: Node) -> bytes:
        fs = os.statvfs(node.fd)
        blocks = (fs.f_blocks, fs.f_bfree, fs.f_bavail, fs.f_files, fs.f_ffree)
        return struct.pack("=5Q4I24x", *blocks, fs.f_bsize, fs.f_namemax, fs.f_frsize, 0)

    def _release(self, node: Node, fd: int, *_: int) -> bytes:
        os.close(fd)
        return b""

    def _fsync(self, node: Node, *_: int) -> bytes:
        return b""  # a power cut is not among the faults, and this machine's disk is not what is tested

    _fsyncdir = _flush = _access = _interrupt = _fsync

    def _lock(self, node: Node) -> NoReturn:
        raise OSError(errno.ENOLCK, "")

    def _opendir(self, node: Node, *_: int) -> bytes:
        fd = os.open(node.real, os.O_RDONLY | os.O_DIRECTORY)
        return _OPEN.pack(fd, 0, 0)

    def _readdir(self, node: Node, fd: int, offset: int, size: int, *_: int) -> bytes:
        if offset == 0:
            self._listings[fd] = list(_entries(node))
        found = b""
        for entry in self._listings[fd][offset:]:
            if len(found) + len(entry) > size:
                break
            found += entry
        return found

    def _releasedir(self, node: Node, fd: int, *_: int) -> bytes:
        self._listings.pop(fd, None)
        os.close(fd)
        return b""


def _attributes(node: Node) -> bytes:
    s = os.stat(node.fd)
    times = [divmod(ns, 10**9) for ns in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)]
    seconds, parts = zip(*times, strict=True)
    owner = (s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_rdev, s.st_blksize, 0)
    return _ATTR.pack(s.st_ino, s.st_size, s.st_blocks, *seconds, *parts, *owner)


def _entries(node: Node) -> Iterator[bytes]:
    """A folder's entries as the kernel wants them; each says where the next begins."""
    found = [(b".", node.key[1], stat.S_IFDIR), (b"..", node.key[1], stat.S_IFDIR)]
    with os.scandir(os.fsencode(node.real)) as entries:
        for each in entries:
            kind = stat.S_IFLNK if each.is_symlink() else stat.S_IFDIR if each.is_dir() else stat.S_IFREG
            found.append((each.name, each.inode(), kind))
    for number, (name, inode, kind) in enumerate(found, 1):
        size = _DIRENT.size + len(name)
        yield _DIRENT.pack(inode, number, len(name), kind >> 12) + name + bytes(-size % 8)


if __name__ == "__main__":
    main(*sys.argv[1:])
