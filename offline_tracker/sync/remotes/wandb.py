"""
W&B, through its own uploader: we write a transaction log of the rows that W&B lacks, ``wandb beta sync --live`` sends it.

What the uploader and its exit status say of success is worth nothing (it sends 0 of 200 rows and reports "Finished"), so a
run counts as sent when the server's own row count and last step say so. This is also the only way that keeps
``_runtime`` and the training machine's metadata.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...curve import Row
from ...errors import (
    BadName,
    NoCredentials,
    RemoteDown,
    RemoteError,
    RemoteRefused,
    RemoteRunGone,
    UsageError,
)
from . import UUID_KEY, Alert, Besides, Curve, Facts, Found, Mark, Tally, Target
from .wandb_log import LINE_MAX_BYTES, TransactionLog

_TESTED = "wandb>=0.31,<0.32"
_BAD_PROJECT = re.compile(r"[/\\#?%:]")
_BAD_ID = re.compile(r"[:;,#?/']")
_RESERVED = frozenset(("_step", "_timestamp", "_runtime", "_wandb"))
_HTTP_ERROR = re.compile(r'"msg":"api: HTTP error".*"status":(?P<status>\d+)')
_ALERT_ERROR = re.compile(r"sendAlert: failed[^:]*: (.*?)\",")
_TIMEOUT_S = 10
_END_S = 30.0
_TAG_MAX = 64
_SAME_S = 0.001

# The client's own bound is 7 days. Whole seconds: it cuts 0.5 down to nothing and then takes its default of 15.
_BOUNDS = {
    "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    "WANDB_X_GRAPHQL_RETRY_MAX": "3",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "4",
    "WANDB_X_GRAPHQL_TIMEOUT_SECONDS": "10",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "8",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "8",
    "WANDB_X_FILE_STREAM_TIMEOUT_SECONDS": "60",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "3",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "4",
}
# What a trainer's shell may have set, and must not reach another run's upload; and the wandb-core of this process, which
# would do the uploader's work, die of its errors, and go on with it when the uploader is ended.
_FOREIGN = (
    "SERVICE",
    "RUN_ID",
    "RESUME",
    "MODE",
    "DISABLED",
    "PROJECT",
    "ENTITY",
    "NAME",
    "NOTES",
    "TAGS",
    "RUN_GROUP",
    "JOB_TYPE",
)

# What wandb-core itself reads when it goes on with a run; the public API has no counts of lines and events.
_COUNTS = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
    model(name: $project, entityName: $entity) {
        bucket(name: $name, missingOk: true) { logLineCount eventsLineCount }
    }
}
"""

# The uploader ends when its standard input does: that is when we die, however we do. Its own child, wandb-core, has a
# session of its own, which no signal to a process group reaches, but it watches this process.
_WRAPPER = """
import os, runpy, sys, threading
def watch():
    os.read(0, 1)
    os._exit(3)
threading.Thread(target=watch, daemon=True).start()
sys.argv[0] = "wandb"
runpy.run_module("wandb", run_name="__main__", alter_sys=True)
"""


class WandbRemote:
    """W&B, or a self-hosted server of it; see `remotes.Remote`."""

    name = "wandb"
    alerts = True
    settle_s = 5.0  # a request that was on its way when an uploader died was seen to be applied 3 s later

    def __init__(self) -> None:
        self.server = ""
        self._key = ""
        self._api: Any = None
        self._wandb: Any = None
        self._runs: dict[Target, Any] = {}

    def connect(self) -> str:
        if importlib.util.find_spec("wandb") is None:
            raise UsageError("wandb is not installed; pip install 'offline-tracker[wandb]'")
        for name, value in _BOUNDS.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("WANDB_DIR", tempfile.gettempdir())  # reading a run makes a folder for its files
        try:
            import wandb
            from wandb.proto import wandb_internal_pb2
            from wandb.sdk import wandb_setup
            from wandb.sdk.lib import wbauth

            self.server = str(wandb_setup.singleton().settings.base_url).rstrip("/")
            read_key = wbauth.read_netrc_auth
        except (ImportError, AttributeError) as error:
            raise UsageError(f"this version of wandb was not tested: {error}; pip install '{_TESTED}'") from error
        self._wandb, self._pb = wandb, wandb_internal_pb2
        self._key = os.environ.get("WANDB_API_KEY") or read_key(host=self.server) or ""
        if not self._key:
            raise NoCredentials(f"wandb: no API key for {self.server}; set WANDB_API_KEY or run `wandb login`")
        with self._said(f"log in at {self.server}"):
            self._api = wandb.Api(overrides={"base_url": self.server}, api_key=self._key, timeout=_TIMEOUT_S)
            return str(self._api.default_entity)

    @contextlib.contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Say in our words what went wrong; the client has one class for a wrong key and for a server that is down."""
        from requests import RequestException
        from wandb.errors import CommError
        from wandb.errors import UsageError as WandbUsageError
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError

        try:
            yield
        except (CommError, WandbApiFailedError, WandbUsageError, RequestException, TimeoutError, ValueError) as error:
            raise _error(f"can't {what}", str(error), self._key) from error

    def check(self, target: Target) -> None:
        if not 0 < len(target.project) <= 128 or _BAD_PROJECT.search(target.project):
            raise BadName(
                f"wandb: project {target.project!r} is refused there: 1 to 128 characters, none of /\\#?%: (--project)"
            )
        if _BAD_ID.search(target.remote_id):
            raise BadName(f"wandb: run id {target.remote_id!r} is refused there: none of :;,#?/'")
        if not target.entity or "/" in target.entity:
            raise BadName(f"wandb: {target.entity!r} is no entity (--entity)")

    def look(self, target: Target) -> Found | None:
        with self._said(f"read {target.project}/{target.remote_id}"):
            try:
                if target in self._runs:
                    self._runs[target].load(force=True)
                else:
                    self._runs[target] = self._api.run(f"{target.entity}/{target.project}/{target.remote_id}")
            except (self._wandb.errors.CommError, ValueError) as error:
                if "could not find run" not in str(error).lower():
                    raise
                self._runs.pop(target, None)
                return None
        run = self._runs[target]
        last = (run.historyKeys or {}).get("lastStep", -1)
        rows = int(run.historyLineCount or 0)
        config = run.config if isinstance(run.config, Mapping) else {}
        return Found(
            Mark(last if rows and last >= 0 else None, rows), config.get(UUID_KEY), run.state, self._url(target)
        )

    def _url(self, target: Target) -> str:
        app = self.server.replace("//api.", "//", 1)
        return f"{app}/{target.entity}/{target.project}/runs/{target.remote_id}"

    def tally(self, target: Target) -> Tally:
        where = {"project": target.project, "entity": target.entity, "name": target.remote_id}
        with self._said(f"read {target.project}/{target.remote_id}"):
            try:
                run = self._api._service_api.execute_graphql(_COUNTS, where)["model"]["bucket"]
                return Tally(run["eventsLineCount"], run["logLineCount"])
            except (AttributeError, LookupError, TypeError):  # it is no public interface
                return Tally()

    def agrees(self, found: Mark, local: Mark) -> bool:
        return (found.last_step, found.rows) == (local.last_step, local.rows)

    def mend(self, target: Target, found: Found, curve: Curve, upto: int | None) -> list[Row] | None:
        return None  # rows can only be appended: a hole in the middle stays

    def open(self, target: Target, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> WandbShipment:
        return WandbShipment(self, target, facts, started)

    def clean(self, children: Mapping[str, Any]) -> None:
        _end_uploader(children["folder"])
        shutil.rmtree(children["folder"], ignore_errors=True)

    def cannot_hold(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        out = {}
        for name, value in values.items():
            if name in _RESERVED:
                out[name] = "a name that W&B keeps for itself: left out"
            elif type(value) is int and abs(value) > sys.float_info.max:
                out[name] = "too large: becomes infinity"
        return out

    def cannot_say(self, target: Target, facts: Facts) -> list[str]:
        bad = [tag for tag in facts.tags if not 0 < len(tag) <= _TAG_MAX]
        return (
            [f"wandb takes tags of 1 to {_TAG_MAX} characters, so {', '.join(map(repr, bad))} is left out"]
            if bad
            else []
        )


class WandbShipment:
    """
    A transaction log in a private folder, and the uploader that follows it; see `remotes.Shipment`.
    """

    batch_rows = 20_000
    batch_points = 1_000_000

    def __init__(
        self, remote: WandbRemote, target: Target, facts: Facts, started: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self.url: str | None = remote._url(target)
        self.notes: list[str] = []
        self._alerts: Sequence[Alert] = ()
        self._remote, self._target, self._facts = remote, target, facts
        self._folder = Path(tempfile.gettempdir()).resolve() / f"offline_tracker-{secrets.token_hex(8)}"
        started({"folder": str(self._folder)})  # before there is any, so that one that is left is known
        self._folder.mkdir(mode=0o700)
        run = self._folder / f"offline-run-{time.strftime('%Y%m%d_%H%M%S')}-{target.remote_id}"
        (run / "files").mkdir(parents=True)  # without it the metadata and the config are not sent, silently
        path = run / f"run-{target.remote_id}.wandb"
        self._said = open(self._folder / "output", "w+b")  # noqa: SIM115  closed in close()
        self._log = TransactionLog(path, remote._pb, remote._wandb.__version__)
        self._log.run(target.remote_id, facts)
        self._log.environment(facts)
        if facts.packages:
            (run / "files" / "requirements.txt").write_text("".join(f"{package}\n" for package in facts.packages))
            self._log.file("requirements.txt")
        for name, options in facts.definitions.items():
            self._log.metric(name, options)
        self._log.flush()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WRAPPER, "beta", "sync", "--live", str(path)],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            env=_environment(self._folder, str(facts.environment.get("program") or "unknown")),
        )

    def send(self, rows: Sequence[Row]) -> bool:
        for row in rows:
            if not _RESERVED.isdisjoint(row.values):
                row = row._replace(values={name: value for name, value in row.values.items() if name not in _RESERVED})
            if self._log.history(row, self._facts.runtime(row.seq, row.time)) > LINE_MAX_BYTES:
                raise RemoteRefused(f"wandb: the row of step {row.step} is larger than the 10 MB that W&B takes")
        self._log.flush()
        return False

    def add(self, besides: Besides) -> bool:
        began_at = self._facts.created_at
        for sample in besides.samples:
            # W&B counts the seconds of a sample from the start of the run, which has stood still between two attempts.
            if abs(sample.time - sample.seconds - began_at) > _SAME_S:
                began_at = sample.time - sample.seconds
                self._log.run(self._target.remote_id, self._facts, began_at)
            self._log.sample(sample)
        self._log.lines(besides.lines)
        self._log.flush()
        self._alerts = besides.alerts  # for the end: when the rows are there, and are not sent again
        if besides.lines and not besides.first_line:
            self.notes.append("wandb gives lines of the console the time at which they were synced")
        return False

    def complaint(self) -> str | None:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        errors = [re.sub(r"^wandb: *(ERROR *)?", "", line) for line in lines if "error" in line.lower()]
        if errors:
            text = " ".join(errors[-3:])  # a message may have several lines
            error = _error("the uploader says", text + self._cause(), self._remote._key)
            if not isinstance(error, RemoteDown):
                raise error
            return str(error)
        if self._process.poll() is not None:
            return f"wandb: the uploader ended early (status {self._process.returncode}){self._cause()}"
        return None

    def _cause(self) -> str:
        """The last request that failed for good, from wandb-core's log: what it shows to users often leaves that out."""
        found = list(self._logged(_HTTP_ERROR))
        return f" (HTTP {found[-1]['status']})" if found else ""

    def _logged(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for path in self._folder.glob("wandb/logs/debug-sync.*.log"):
            yield from filter(None, map(pattern.search, path.read_text(errors="replace").splitlines()))

    def finish(self, facts: Facts) -> None:
        for alert in self._alerts:
            self._log.alert(alert)
        self._log.summary(facts.summary, facts.seconds)
        ended = facts.state in ("finished", "failed")
        code = (0 if facts.state == "finished" else facts.exit_code or 1) if ended else None
        self._log.exit(code, facts.seconds)
        self._log.flush()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise RemoteDown(self.complaint() or f"wandb: the uploader did not end within {_END_S:.0f} s") from None
        self.notes += [f"wandb did not take an alert: {found[1]}" for found in self._logged(_ALERT_ERROR)]
        if not ended:
            return
        end = time.monotonic() + _END_S
        while True:
            found = self._remote.look(self._target)
            if found is not None and found.state == facts.state:
                return
            if time.monotonic() > end:
                state = found.state if found else "gone"
                raise RemoteDown(
                    f"wandb: the remote run is {state}, not {facts.state}: {self.complaint() or 'no reason given'}"
                )
            time.sleep(0.2)

    def close(self) -> None:
        self._log.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        _end_uploader(str(self._folder))
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._said.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _environment(folder: Path, program: str) -> dict[str, str]:
    """The uploader's environment: the key as it was given to us, nothing of another run, and nothing shown to a person."""
    foreign = {f"WANDB_{name}" for name in _FOREIGN}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    ours = {
        "WANDB_DIR": str(folder),
        "WANDB_PROGRAM": program,  # without one of its own, the run's would become the wandb command itself
        "WANDB_RESUME": "allow",  # else samples and lines of the console would begin again at number 0 there
        "WANDB_CONSOLE": "off",  # the lines that we send go on all the same, without a file that holds only the last ones
        "NO_COLOR": "1",
        "WANDB_SILENT": "false",
    }
    return {**_BOUNDS, **kept, **ours}


def _end_uploader(folder: str) -> None:
    """End an uploader and its wandb-core, and return when both are gone: the processes that work in its private folder."""
    end = time.monotonic() + _END_S
    while time.monotonic() < end:
        found = [number for number in _pids() if _works_in(number, folder)]
        if not found:
            return
        for number in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)


def _pids() -> list[int]:
    proc = Path("/proc")
    return [int(path.name) for path in proc.iterdir() if path.name.isdigit()] if proc.is_dir() else []


def _works_in(number: int, folder: str) -> bool:
    try:
        return str(Path(f"/proc/{number}/cwd").readlink()) == folder
    except OSError:  # it has ended, or is somebody else's
        return False


def _error(what: str, text: str, key: str) -> RemoteError:
    """Sort out what the client said; the key is taken out of it, for it may be shown to anybody."""
    text = " ".join(text.replace(key, "***").split()) if key else " ".join(text.split())
    said = f"wandb: {what}: {text}"
    if "HTTP 409" in text or "error 409" in text:
        return RemoteRunGone(f"{said}: the id was deleted there and is never given out again (--on-conflict new-run)")
    if re.search(r"not logged in|(error|HTTP) 401", text):
        return RemoteRefused(f"{said}: check WANDB_API_KEY")
    if re.search(r"(error|HTTP) (400|403|404|413|422)\b", text):
        return RemoteRefused(said)
    return RemoteDown(said)
