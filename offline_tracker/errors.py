"""
Every error that this package raises.

::

    TrackerError
    ├── UsageError           what the caller asked for makes no sense; the command line exits with 2
    │   ├── BadName          an id or a project that a remote would refuse
    │   ├── NoRun            there is no current run
    │   └── NoCredentials    nothing says who we are at a remote
    ├── RunNotFound          no run with this id in the runs folder
    ├── RunExists            resume="never", and the run is there
    ├── RunBusy              another process holds the run, or its sync
    ├── StoreError           a run's files can't be read or written
    │   └── NewerSchema      a newer version of this package wrote them
    └── RemoteError          a remote did not take, or does not show, what the curve holds
        ├── RemoteDown       it can't be reached or fails; later may help
        ├── RemoteRefused    it said no; asking again does not help
        ├── RemoteRunGone    the remote run was deleted, and its id with it
        ├── NotOurs          a run of somebody else has the id
        └── Diverged         the remote holds rows that the curve does not
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class TrackerError(Exception):
    """Base of all errors here; its text is one line for a user: what, which value, what to do."""


class UsageError(TrackerError, ValueError):
    """The call or the command line makes no sense as it is."""


class BadName(UsageError):
    """An id or a name with characters, or of a length, that a remote refuses."""


class NoRun(UsageError, AttributeError):
    """There is no current run; so its config is an attribute of this package that is not there."""


class NoCredentials(UsageError):
    """There is no API key for a remote."""


class RunNotFound(TrackerError, LookupError):
    """No run with this id in the runs folder."""

    def __init__(self, run_id: str, runs: Path, close: Sequence[str] = (), hint: str = "") -> None:
        near = f"; did you mean {', '.join(close)}?" if close else ""
        super().__init__(f"no run {run_id!r} in {runs}{near}{hint}")
        self.run_id = run_id


class RunExists(TrackerError):
    """resume="never" was asked for a run that is there."""


class RunBusy(TrackerError):
    """
    Another process writes the run, or syncs it.

    Attributes:
        elsewhere: it is on another host, so that only its heartbeat tells whether it lives.
    """

    elsewhere = False


class StoreError(TrackerError):
    """A run's files can't be read or written; what they hold is untouched."""


class NewerSchema(StoreError):
    """The run was written by a newer version of this package."""


class RemoteError(TrackerError):
    """A remote did not take, or does not show, what the curve holds; nothing is marked as done."""


class RemoteDown(RemoteError):
    """
    The remote can't be reached, or answers 429 or 5xx for longer than we wait.

    Attributes:
        refused: the request surely had no effect; else only reading the remote can tell.
        retry_after_s: what the remote asked for, in seconds.
    """

    refused = False
    retry_after_s = 0.0


class RemoteRefused(RemoteError):
    """The remote said no: a wrong key, no permission, a name it does not take."""


class RemoteRunGone(RemoteError):
    """The remote run was deleted; W&B never gives its id out again."""


class NotOurs(RemoteError):
    """The remote has a run of this id that did not come from this local run."""


class Diverged(RemoteError):
    """
    The remote holds rows that the local curve does not, or not as many; nothing was sent.

    Attributes:
        superseded: the first and last step that it holds of a branch which a resume has superseded, if that is why.
    """

    superseded: tuple[int, int] | None = None


# As wandb calls them, for code that catches them.
Error = TrackerError
CommError = RemoteError
