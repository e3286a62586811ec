"""Where a folder lies: which filesystem, whether another host's locks reach it, and where this node's own scratch is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from .errors import StoreError, UsageError

Locks = Literal["shared", "host"]

LOCAL = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlay",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x3153464A: "jfs",
    0x00004D44: "vfat",
    0x2011BAB0: "exfat",
}
"""``statfs.f_type`` of what lies on this host: linux/magic.h. All others count as network."""

NETWORK = {
    0x6969: "nfs",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0x00C36400: "ceph",
    0xFF534D42: "cifs",
    0xFE534D42: "smb3",
    0xAAD7AAEA: "panfs",
    0x01161970: "gfs2",
    0x20030528: "pvfs2",
    0x01021997: "9p",
    0x65735546: "fuse",
}
"""The same of what does not; only the names where there is no mountinfo, the rest is decided by type and options."""

_LOCAL_FUSE = {"fuseblk", "fuse.fuse-overlayfs"}  # a disk (ntfs-3g), and the root of a rootless container
_SHARED = {"nfs", "nfs4", "lustre", "gpfs", "wekafs", "ceph", "cifs", "smb3", "panfs", "gfs2"}
_SHARED |= {"fuse.juicefs", "fuse.glusterfs", "fuse.ceph-fuse"}
"""Types that carry fcntl locks to their server, unless an option says otherwise."""
_HOST = {"9p", "virtiofs", "afs", "vboxsf", "pvfs2"}
"""Types whose servers keep no byte-range locks for others: QEMU's 9p and virtiofsd, AFS, OrangeFS."""
_HOST_FUSE = {"sshfs", "s3fs", "rclone", "gcsfuse", "goofys", "geesefs", "mountpoint-s3", "blobfuse", "blobfuse2"}
"""FUSE programs that leave locks to the kernel of their host. Some name themselves only as the mount's source."""

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_LOCK_AT = 0x40000000  # where SQLite locks: some servers know only small offsets
_SETTING = "OFFLINE_TRACKER_LOCKS"
_SAID: dict[str, Locks | None] = {"": None, "shared": "shared", "host": "host"}


class Mount(NamedTuple):
    """A line of mountinfo: *options* are the mount's own and then its superblock's, each once."""

    point: str
    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Filesystem:
    """
    What a folder lies on.

    Attributes:
        type: as mountinfo names it, such as "nfs4", "lustre" or "fuse.sshfs"; "unknown" where nothing does.
        mount: where it is mounted; "/" where that is not known.
        options: as in `Mount`.
        network: it hangs when a server does. What is not known counts as network.
        locks: "shared" if a fcntl lock taken here holds on all hosts, "host" if it holds only on this one.
        reason: why *locks* is what it is, in plain words.
        remedy: how it is mounted so that locks are shared, or "".
    """

    type: str
    mount: Path
    options: tuple[str, ...]
    network: bool
    locks: Locks
    reason: str
    remedy: str = ""


def inspect(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Filesystem:
    """
    Say what *path* lies on, or will lie on: where it is not there yet, its nearest parent counts.

    On a network filesystem a lock is tried there, for a moment, with a file of ours. $OFFLINE_TRACKER_LOCKS (shared or
    host) overrides what is found out about locks.

    Raises:
        UsageError: $OFFLINE_TRACKER_LOCKS is neither.
    """
    said = environ.get(_SETTING, "")
    if said not in _SAID:
        raise UsageError(f"{_SETTING}={said!r}: use shared or host")
    place = existing(path)
    found = _look(place)
    if (forced := _SAID[said]) is not None:
        return replace(found, locks=forced, reason=f"{_SETTING}={forced}", remedy="")
    if found.network and found.locks == "shared" and (code := probe_lock(place)) in _UNSUPPORTED:
        return replace(found, locks="host", reason=f"a lock on a file there fails: {os.strerror(code)}")
    return found


def _look(place: Path) -> Filesystem:
    kind = statfs_type(place)  # first: it mounts what autofs has not mounted yet
    mount = mount_of(place, mounts())
    if mount is not None and mount.type == "beegfs":
        mount = mount._replace(options=(*mount.options, *_beegfs_options(mount.options)))
    return judge(kind, mount)


def existing(path: str | os.PathLike[str]) -> Path:
    """Return *path* without symbolic links, or the nearest of its parents that is there."""
    real = Path(os.path.realpath(path))
    # Path.exists() raises PermissionError.
    return next((place for place in (real, *real.parents) if os.path.exists(place)), Path("/"))  # noqa: PTH110


def statfs_type(path: Path) -> int | None:
    """Return ``statfs.f_type``, which os.statvfs leaves out; None where it can't be had, as anywhere but on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    # The first field of struct statfs is f_type, a long (but on s390x, where nothing is known then); 120 bytes in all.
    answer = (ctypes.c_long * 64)()
    try:
        if ctypes.CDLL(None).statfs(os.fsencode(path), answer) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return answer[0] & 0xFFFFFFFF


def mounts() -> list[Mount]:
    """Return the mounts that this process sees; [] where there is no /proc."""
    try:
        return parse_mountinfo(os.fsdecode(Path("/proc/self/mountinfo").read_bytes()))
    except OSError:
        return []


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts in the text of ``/proc/self/mountinfo``, oldest first; proc_pid_mountinfo(5)."""
    found = []
    for line in text.splitlines():
        # In front of the dash there are optional fields, behind it the source may be empty.
        left, dash, right = line.partition(" - ")
        own, kind = left.split(" "), right.split(" ")
        if dash and len(own) >= 6 and len(kind) >= 3:
            options = dict.fromkeys(f"{own[5]},{kind[2]}".split(","))
            found.append(
                Mount(_unescape(own[4]), _unescape(kind[0]), _unescape(kind[1]), tuple(map(_unescape, options)))
            )
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mount_of(path: Path, mounts: Iterable[Mount]) -> Mount | None:
    """Return the mount that *path* (absolute, without symbolic links) lies in: the innermost, of those the newest."""
    around = {str(path), *map(str, path.parents)}
    best: Mount | None = None
    for mount in mounts:
        if mount.point in around and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def judge(kind: int | None, mount: Mount | None) -> Filesystem:
    """
    Say what a mount is, by what the kernel says of it alone.

    Args:
        kind: `statfs_type`.
        mount: `mount_of`.
    """
    name = mount.type if mount is not None else {**LOCAL, **NETWORK}.get(kind or 0, "unknown")
    point, options = (Path(mount.point), mount.options) if mount is not None else (Path("/"), ())
    known = name in _SHARED | _HOST or name.startswith("fuse") or name == "beegfs"
    network = (known if kind is None else kind not in LOCAL) and name not in _LOCAL_FUSE
    locks, reason, remedy = (
        _locks(name, mount.source if mount is not None else "", options)
        if network
        else ("shared", f"{name} is on this host, where all locks meet", "")
    )
    return Filesystem(name, point, options, network, locks, reason, remedy)


def _locks(name: str, source: str, options: Sequence[str]) -> tuple[Locks, str, str]:
    """Return whether locks are shared, the reason, and the remedy if they are not."""
    given = set(options)

    def host(option: str, remedy: str) -> tuple[Locks, str, str]:
        return "host", f"{name} is mounted with {option}, so locks stay on this host", remedy

    if name in ("nfs", "nfs4"):
        # nfs(5): of local_lock=flock nothing is to be feared, SQLite takes fcntl locks.
        if local := sorted(given & {"nolock", "local_lock=all", "local_lock=posix"}):
            return host(" and ".join(local), "mount it without nolock and local_lock")
    elif name == "lustre":
        if "localflock" in given:
            return host("localflock", "mount it with -o flock")
        if "flock" not in given:
            return (
                "host",
                "lustre is mounted without flock, so locks fail or stay on this host",
                "mount it with -o flock",
            )
    elif name in ("cifs", "smb3"):
        if "nobrl" in given:
            return host("nobrl", "mount it without nobrl")
    elif name == "gfs2":
        if local := sorted(given & {"localflocks", "lockproto=lock_nolock"}):
            return host(" and ".join(local), "mount it with lockproto=lock_dlm")
    elif name == "beegfs":
        # The client's own default is false; doc.beegfs.io, beegfs-client.conf.
        setting = f"{_BEEGFS}=true"
        if setting in given:
            return "shared", f"beegfs has {setting}, so locks hold on all hosts", ""
        return "host", f"beegfs keeps locks on this host unless {setting}", f"set {setting} in beegfs-client.conf"
    program = source if name == "fuse" else name.removeprefix("fuse.")
    if name in _HOST or (name.startswith("fuse") and program in _HOST_FUSE):
        return "host", f"{program} keeps locks on this host", ""
    if name in _SHARED:
        return "shared", f"{name} carries locks to its server, so they hold on all hosts", ""
    return "shared", f"whether locks on {program} hold on other hosts is not known; tracker doctor --peer finds out", ""


_BEEGFS = "tuneUseGlobalFileLocks"


def _beegfs_options(options: Iterable[str]) -> list[str]:
    """Return what a BeeGFS client's configuration says of locks; it is as good as a mount option, but not shown as one."""
    path = next((option[8:] for option in options if option.startswith("cfgFile=")), "/etc/beegfs/beegfs-client.conf")
    try:
        return beegfs_locks(Path(path).read_text(errors="replace"))
    except OSError:
        return []


def beegfs_locks(config: str) -> list[str]:
    """Return the setting in the text of a beegfs-client.conf, as ``name=value``; [] if it is not there."""
    values = re.findall(rf"^\s*{_BEEGFS}\s*=\s*(\w+)", config, re.MULTILINE)
    return [f"{_BEEGFS}={'true' if values[-1].lower() in ('true', '1') else 'false'}"] if values else []


def probe_lock(folder: Path) -> int:
    """
    Take and drop a fcntl lock, as SQLite does, on a file of ours in *folder*; no file is left behind.

    Returns:
        0 if that worked, else the errno: of the lock, or of making the file.
    """
    path = folder / f".offline_tracker-{uuid.uuid4().hex}"
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCK_AT)
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, _LOCK_AT)
        return 0
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def scratch(environ: Mapping[str, str] = os.environ) -> Path:
    """
    Return the folder for what must not hang with a server: $OFFLINE_TRACKER_SCRATCH, which is made if need be.

    Else the first of $SLURM_TMPDIR, $TMPDIR, /tmp and /var/tmp that is there, can be written and is on no network
    filesystem; if there is none, tempfile's folder.

    Raises:
        StoreError: $OFFLINE_TRACKER_SCRATCH can't be made or written.
    """
    if given := environ.get("OFFLINE_TRACKER_SCRATCH"):
        folder = Path(given).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"OFFLINE_TRACKER_SCRATCH={given} can't be made: {error.strerror}") from error
        if not _writable(folder):
            raise StoreError(f"OFFLINE_TRACKER_SCRATCH={given} can't be written")
        return folder
    for text in (environ.get("SLURM_TMPDIR"), environ.get("TMPDIR"), "/tmp", "/var/tmp"):
        if text and _writable(folder := Path(text).absolute()) and not _look(existing(folder)).network:
            return folder
    return Path(tempfile.gettempdir()).absolute()


def private(scratch: Path) -> Path:
    """
    Return this user's own folder in *scratch*, which others may write to; made on the first call.

    Raises:
        OSError: it can't be made.
    """
    folder = scratch / f"offline_tracker-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="offline_tracker-", dir=scratch))  # somebody else took the name
    return folder


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
