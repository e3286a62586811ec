"""This process and its machine: who holds a run, whether that holder still lives, and the facts shown beside a run."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import RunBusy, UsageError

HEARTBEAT_S = 10.0
STALE_S = 45.0
"""
A holder on another host counts as dead when its heartbeat did not move for so long: four beats and a slow commit.
$OFFLINE_TRACKER_STALE_S says otherwise, see `stale_s`.
"""
_MIN_STALE_S = 20.0
_METADATA = re.compile(r"(?P<name>[^-]+?)(-(?P<version>[^-]+)(-py[\d.]+)?)?\.(dist|egg)-info")
_SLURM = ["SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_NNODES", "SLURM_RESTART_COUNT"]
_SLURM += ["SLURM_JOB_END_TIME"]  # unix seconds


@dataclass(frozen=True)
class Holder:
    """
    A process, named so that another one can tell whether it is still the same.

    Attributes:
        boot: boot id of the kernel and inode of the pid namespace; pids mean something only where both are equal.
        started: start time of the process in clock ticks after boot (field 22 of /proc/PID/stat), so that a pid
            which was given out again is not taken for the old process; 0 where there is no /proc.
    """

    host: str
    boot: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> Holder:
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Holder:
        """Return who *pid* is on this machine."""
        return cls(socket.gethostname(), _boot(), pid, _started(pid))

    def alive(self) -> bool | None:
        """Whether the process lives, or None where this machine can't know."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # somebody else's process: it lives
        return _started(self.pid) == self.started

    def holds_since(self, beat_at: float) -> bool:
        """Whether it still holds what it took: known on its own host, elsewhere judged by its heartbeat, unix seconds."""
        known = self.alive()
        return not stale(beat_at) if known is None else known

    def busy(self, run_id: str, since: float, beat_at: float) -> RunBusy:
        """Return the error that says who holds a run, and how old its heartbeat is where nothing else tells."""
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
        text = f"run {run_id!r} is being written by pid {self.pid} on {self.host} since {began}"
        if self.alive() is None:
            text += (
                f" (last sign of life {max(0.0, time.time() - beat_at):.0f} s ago; it counts as dead after"
                f" {stale_s():.0f} s without one, $OFFLINE_TRACKER_STALE_S)"
            )
        error = RunBusy(f"{text}; end that process, or use another id")
        error.elsewhere = self.alive() is None
        return error


def stale(beat_at: float) -> bool:
    """Whether a heartbeat, unix seconds, is so old that a holder on another host counts as dead."""
    return time.time() - beat_at >= stale_s()


def stale_s(environ: Mapping[str, str] = os.environ) -> float:
    """
    Return the seconds without a heartbeat after which a holder on another host counts as dead.

    Raises:
        UsageError: $OFFLINE_TRACKER_STALE_S is not a number of 20 or more: a beat may be late once.
    """
    text = environ.get("OFFLINE_TRACKER_STALE_S")
    if not text:
        return STALE_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _MIN_STALE_S <= seconds < float("inf"):
        raise UsageError(f"OFFLINE_TRACKER_STALE_S={text!r}: use a number of seconds, {_MIN_STALE_S:.0f} or more")
    return seconds


def _boot() -> str:
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot_id}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return platform.node()


def _started(pid: int) -> int:
    """Clock ticks, or 0 without /proc; -1 when the process is gone or only a zombie, which can't write any more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return -1 if Path("/proc/self/stat").exists() else 0
    except OSError:
        return -1
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    return -1 if state in "ZX" else int(fields[18])


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, object]:
    """
    Return what a remote shows of the training's machine: nothing secret, and nothing that takes time to find out.

    Of the environment only names of the scheduler are kept (SLURM_JOB_ID and the like).
    """
    kernel = os.uname()
    facts: dict[str, object] = {
        "host": socket.gethostname(),
        # As platform.platform() has it, which starts a process for that.
        "os": f"{kernel.sysname}-{kernel.release}-{kernel.machine}-with-{''.join(platform.libc_ver())}",
        "python": platform.python_version(),
        "executable": sys.executable,
        "program": os.path.abspath(sys.argv[0]) if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "",
        "args": sys.argv[1:],
        "cwd": os.getcwd(),
        "cpu_count": os.cpu_count(),
        "world_size": environ.get("WORLD_SIZE") or environ.get("SLURM_NTASKS") or "1",
    }
    facts.update(_git(Path.cwd()))
    facts.update({name.lower(): environ[name] for name in _SLURM if name in environ})
    return facts


def packages(path: Sequence[str] | None = None) -> list[str]:
    """
    Return what is installed where this process imports from, as ``name==version``, sorted by name.

    By the names of the metadata folders alone (``NAME-VERSION.dist-info``): to parse what is in them, as importlib.metadata
    does, takes 50 times as long.

    Args:
        path: the folders, of which an earlier one wins; sys.path.
    """
    found: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:  # an archive, or gone
            continue
        for name in names:
            if (match := _METADATA.fullmatch(name)) is None:
                continue
            version = match["version"] or _version(Path(folder, name))
            if version:
                found.setdefault(re.sub(r"[-_.]+", "-", match["name"]).lower(), f"{match['name']}=={version}")
    return [found[name] for name in sorted(found)]


def _version(metadata: Path) -> str | None:
    """The version of what was installed in place by older tools, whose folder does not say it."""
    try:
        lines = (metadata / "PKG-INFO").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line[9:].strip() for line in lines if line.startswith("Version: ")), None)


def _git(folder: Path) -> dict[str, object]:
    """Commit and remote of the checkout around *folder*, read from its files: git itself may hang on a slow disk."""
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if (git / "HEAD").is_file():
            break
    else:
        return {}
    try:
        head = (git / "HEAD").read_text().strip()
        if head.startswith("ref: "):
            ref = git / head[5:]
            packed = git / "packed-refs"
            lines = packed.read_text().splitlines() if not ref.is_file() and packed.is_file() else []
            head = (
                ref.read_text().strip() if ref.is_file() else next((x[:40] for x in lines if x.endswith(head[5:])), "")
            )
        config = (git / "config").read_text().splitlines() if (git / "config").is_file() else []
        remote = next((line.split("=", 1)[1].strip() for line in config if line.strip().startswith("url =")), "")
    except (OSError, UnicodeDecodeError):
        return {}
    return {"git_commit": head, "git_remote": _without_password(remote)} if head else {}


def _without_password(url: str) -> str:
    scheme, sep, rest = url.partition("://")
    return f"{scheme}{sep}{rest.rpartition('@')[2]}" if sep else url
