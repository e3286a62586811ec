"""
W&B, through its own uploader: we write a transaction log of the rows that W&B lacks, what ``wandb beta sync`` does sends it.

What the uploader and its exit status say of success is worth nothing (it sends 0 of 200 rows and reports "Finished"), so a
run counts as sent when the server's own row count and last step say so. This is also the only way that keeps
``_runtime`` and the training machine's metadata.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from ...values import SEPARATOR
from . import UUID_KEY, Besides, Facts, Found, Mark, Pace, Part, Tally, Target, whereabouts
from .wandb_log import LINE_MAX_BYTES, TransactionLog

_TESTED = "wandb>=0.31,<0.32"
_BAD_PROJECT = re.compile(r"[/\\#?%:]")
_BAD_ID = re.compile(r"[:;,#?/']")
_RESERVED = frozenset(("_step", "_timestamp", "_runtime", "_wandb"))
_HTTP_ERROR = re.compile(r'"msg":"api: (?P<again>retrying )?HTTP error".*"status":(?P<status>\d+)')
_ALERT_ERROR = re.compile(r"sendAlert: failed[^:]*: (.*?)\",")
_PAGE_ROWS = 10_000
_PAGES_MAX = 10_000
_WHOLE_ROWS = 500_000
_GRAPHQL_INT_MAX = 2**31 - 1
# The client's own word for an empty answer, and the service's with a 404; of an entity it would be a mistake of ours.
_NOT_THERE = re.compile(r"could not find (run|project)|\b(run|project)\b.* not found", re.IGNORECASE)
_TIMEOUT_S = 10
_END_S = 30.0
_CANCEL_S = 5.0
_PACED_BYTES = 16_384
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

# Its own modules lie beside one called wandb: no folder of ours may be where it looks for that.
_UPLOADER = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


class WandbRemote:
    """W&B, or a self-hosted server of it; see `remotes.Remote`."""

    name = "wandb"
    fills = False  # rows can only be appended
    hides_nan = False
    alerts = True
    settle_s = 5.0  # a request that was on its way when an uploader died was seen to be applied 3 s later

    def __init__(self) -> None:
        self.server = ""
        self.patience_s = 90.0
        self.pace = Pace()
        self._key = ""
        self._api: Any = None
        self._wandb: Any = None
        self._runs: dict[Target, Any] = {}
        self._lock = threading.Lock()
        self._uploader: Uploader | None = None

    def address(self) -> str:
        return whereabouts(("WANDB_BASE_URL",), ("$WANDB_CONFIG_DIR/settings", "~/.config/wandb/settings"))

    def connect(self) -> str:
        if importlib.util.find_spec("wandb") is None:
            raise UsageError("wandb is not installed; pip install 'offline-tracker[wandb]'")
        for name, value in _BOUNDS.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("WANDB_DIR", os.devnull)  # else reading a run makes a folder for its files
        try:
            import wandb
            from wandb.proto import wandb_internal_pb2
            from wandb.sdk import wandb_setup
            from wandb.sdk.lib import wbauth
            from wandb.sdk.lib.service.service_connection import ServiceConnection as Service

            _ = Service.init_sync, Service.sync, Service.sync_status  # the uploader's, and not a public interface
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
        self.pace.request()
        with self._said(f"read {target.project}/{target.remote_id}"):
            try:
                if target in self._runs:
                    self._runs[target].load(force=True)
                else:
                    self._runs[target] = self._api.run(f"{target.entity}/{target.project}/{target.remote_id}")
            except (self._wandb.errors.CommError, ValueError) as error:
                if not _NOT_THERE.search(str(error)):
                    raise
                self._runs.pop(target, None)
                self._api.flush()  # else it finds the run again, in a cache of its own
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

    def shown(self, values: Mapping[str, Any]) -> Mapping[str, float | str]:
        return _flat({name.replace(SEPARATOR, "."): value for name, value in values.items()})

    def points(self, target: Target, found: Found) -> Iterator[Part]:
        yield Part(None, self._rows(target, found.mark))

    def _rows(self, target: Target, mark: Mark) -> Iterator[tuple[int, Mapping[str, float | str]]]:
        """Read the history in pages; a page is a range of steps, and shows no more rows than it has steps."""
        if mark.last_step is None or not mark.rows:
            return
        run, read = self._runs[target], array("q")
        width = min(max(_PAGE_ROWS, _PAGE_ROWS * (mark.last_step + 1) // mark.rows), _GRAPHQL_INT_MAX)
        with self._said(f"read back {target.project}/{target.remote_id}"):
            if mark.last_step // width < _PAGES_MAX:
                # The cache is of the run's finished files as they once were; a run that went on has others.
                for row in run.scan_history(page_size=width, use_cache=False):
                    read.append(row["_step"])
                    yield row["_step"], _flat(row)
            if len(read) >= mark.rows:
                return
            if mark.rows > _WHOLE_ROWS:
                raise ValueError(f"it counts {mark.rows} rows and shows {len(read)}")
            # A page that is full does not show which of its steps are there twice.
            known = Counter(read)
            for row in sorted(run.history(samples=mark.rows, pandas=False), key=lambda row: row["_step"]):
                known[row["_step"]] -= 1
                if known[row["_step"]] < 0:
                    yield row["_step"], _flat(row)

    def rewind(self, target: Target, step: int, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> None:
        found = self.look(target)
        if found is not None and found.state == "running":  # W&B rewinds only what has ended, as the old branch has
            self._whole(self._open(target, facts, started), replace(facts, state="failed", exit_code=1))
        self._whole(self._open(target, facts, started, rewind_to=step), replace(facts, state="running"))

    def _whole(self, shipment: WandbShipment, facts: Facts) -> None:
        """Send what a shipment without rows is: what the run is, and its state."""
        try:
            shipment.flush()
            end = time.monotonic() + _END_S
            while shipment.busy():
                if time.monotonic() > end:
                    raise RemoteDown(shipment.complaint() or f"wandb: the uploader did not end within {_END_S:.0f} s")
                self.pace.sleep(0.02)
            shipment.finish(facts)
            if complaint := shipment.complaint():
                raise RemoteDown(complaint)
        finally:
            shipment.close()

    def open(self, target: Target, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> WandbShipment:
        return self._open(target, facts, started)

    def _open(
        self,
        target: Target,
        facts: Facts,
        started: Callable[[Mapping[str, Any]], None],
        rewind_to: int | None = None,
    ) -> WandbShipment:
        with self._lock:
            if self._uploader is not None and not self._uploader.lives():
                self._uploader.close()
                self._uploader = None
            name = f"offline_tracker-{secrets.token_hex(8)}"
            folder = self._uploader.folder if self._uploader else Path(tempfile.gettempdir()).resolve() / name
            started({"folder": str(folder)})  # before there is any, so that one that is left is known
            if self._uploader is None:
                self._uploader = Uploader(folder)
            return WandbShipment(self, self._uploader, target, facts, rewind_to)

    def clean(self, children: Mapping[str, Any]) -> None:
        _end_uploader(children["folder"])
        shutil.rmtree(children["folder"], ignore_errors=True)

    def close(self) -> None:
        with self._lock:
            if self._uploader is not None:
                self._uploader.close()
                self._uploader = None

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


class Upload:
    """One file on its way; *said* is what the uploader had to say, *stuck* why it tries again at the moment."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.said: list[str] = []
        self.stuck: str | None = None
        self.done = threading.Event()


class Uploader:
    """
    wandb's uploader in a process of its own, see `wandb_uploader`; one serves all runs of a sync, from any thread.

    Args:
        folder: private, for all that it reads and writes; made here, gone after `close`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self._uploads: dict[int, Upload] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._said = open(folder / "output", "w+b")  # noqa: SIM115  closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _UPLOADER, str(Path(__file__).with_name("wandb_uploader.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            cwd=folder,
            env=_environment(folder),
        )
        self._listener = threading.Thread(target=self._listen, name="wandb uploader", daemon=True)
        self._listener.start()

    def lives(self) -> bool:
        return self._process.poll() is None

    def upload(self, path: Path, program: str, live: bool, interval_s: int, goes_on: bool) -> Upload:
        """
        Begin to upload a file.

        Args:
            live: up to its Exit record, wherever it ends by now.
            goes_on: samples and lines of the console are numbered behind those that are there; a request more.
        """
        with self._lock:
            upload = Upload(next(self._numbers))
            self._uploads[upload.number] = upload
        how = {"live": live, "program": program, "interval_s": interval_s, "goes_on": goes_on}
        self._order({"upload": upload.number, "path": str(path), **how})
        return upload

    def cancel(self, upload: Upload) -> None:
        """Have one upload stopped; on return nothing of it is sent any more."""
        self._order({"cancel": upload.number})
        if not upload.done.wait(_CANCEL_S):
            self.close()

    def _order(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(OSError, ValueError):  # it has ended: `_listen` tells all that wait
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError):  # the last line of one that was killed
                told = json.loads(line)
                upload = self._uploads[told["upload"]]
                upload.said += told["said"]
                upload.stuck = told["stuck"]
                if told.get("done"):
                    upload.done.set()
        status = self._process.wait()
        with self._lock:
            self._said.seek(0)
            tail = self._said.read().decode(errors="replace").strip().splitlines()[-3:]
            for upload in self._uploads.values():
                if not upload.done.is_set():
                    upload.said.append(f"error: the uploader ended early (status {status}) {' '.join(tail)}")
                    upload.done.set()

    def close(self) -> None:
        """End it and remove its folder."""
        self._process.kill()
        self._process.wait()
        _end_uploader(str(self.folder))
        if self._listener is not threading.current_thread():
            self._listener.join(_CANCEL_S)
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            if pipe is not None and not self._listener.is_alive():
                with contextlib.suppress(OSError):  # an order that it did not read
                    pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class WandbShipment:
    """
    A transaction log in the uploader's folder; see `remotes.Shipment`.

    Of a log that is written in one go the upload begins when it is whole: then nothing waits. A longer one is followed
    while it grows. It ends without an end of the run, which stays running; that has a log of its own.
    """

    batch_rows = 20_000
    batch_points = 1_000_000

    def __init__(
        self, remote: WandbRemote, uploader: Uploader, target: Target, facts: Facts, rewind_to: int | None = None
    ) -> None:
        self.url: str | None = remote._url(target)
        self._remote, self._uploader, self._target, self._facts = remote, uploader, target, facts
        self.notes: list[str] = []
        self._besides = Besides()
        self._folders: list[Path] = []
        self._upload: Upload | None = None
        self._path, self._log = self._begin(with_machine=True, rewind_to=rewind_to)
        self._sent = 0

    def _begin(self, with_machine: bool = False, rewind_to: int | None = None) -> tuple[Path, TransactionLog]:
        remote_id = self._target.remote_id
        folder = self._uploader.folder / secrets.token_hex(4)
        self._folders.append(folder)
        run = folder / f"offline-run-{time.strftime('%Y%m%d_%H%M%S')}-{remote_id}"
        run.mkdir(parents=True)
        if with_machine:
            (run / "files").mkdir()  # without it the metadata and the config are not sent, silently
        path = run / f"run-{remote_id}.wandb"
        log = TransactionLog(path, self._remote._pb, self._remote._wandb.__version__)
        log.run(remote_id, self._facts, rewind_to)
        if with_machine:
            log.environment(self._facts)
            if self._facts.packages:
                (run / "files" / "requirements.txt").write_text("".join(f"{name}\n" for name in self._facts.packages))
                log.file("requirements.txt")
        for name, options in self._facts.definitions.items():
            log.metric(name, options)
        return path, log

    def _go(self, path: Path, live: bool, goes_on: bool = False) -> Upload:
        pace = self._remote.pace
        # One request a run and interval; whole seconds, see _BOUNDS.
        interval_s = max(1, math.ceil(1 / pace.rps)) if pace.rps else 1
        program = str(self._facts.environment.get("program") or "unknown")
        return self._uploader.upload(path, program, live, interval_s, goes_on)

    def send(self, rows: Sequence[Row]) -> bool:
        pace = self._remote.pace
        if self._upload is not None and self._upload.done.is_set():
            raise RemoteDown(self.complaint() or "wandb: the uploader ended early")
        if self._upload is None and (self._sent or pace.kbps is not None):
            self._log.flush()
            self._upload = self._go(self._path, live=True)
        size_bytes = 0
        for row in rows:
            if not _RESERVED.isdisjoint(row.values):
                row = row._replace(values={name: value for name, value in row.values.items() if name not in _RESERVED})
            length = self._log.history(row, self._facts.runtime(row.seq, row.time))
            if length > LINE_MAX_BYTES:
                raise RemoteRefused(f"wandb: the row of step {row.step} is larger than the 10 MB that W&B takes")
            size_bytes += length
            if size_bytes > _PACED_BYTES:
                pace.spend(size_bytes)
                self._log.flush()
                size_bytes = 0
        pace.spend(size_bytes)
        self._log.flush()
        self._sent += len(rows)
        return False

    def flush(self) -> None:
        self._log.summary(self._facts.summary, self._facts.seconds)
        self._log.exit(None, self._facts.seconds)
        self._log.close()
        if self._upload is None:
            self._upload = self._go(self._path, live=False)

    def add(self, besides: Besides) -> bool:
        self._besides = besides  # for the end: when the rows are there, and are not sent again
        return False

    def busy(self) -> bool:
        return self._upload is not None and not self._upload.done.is_set()

    def complaint(self) -> str | None:
        upload = self._upload
        if upload is None:
            return None
        errors = [line.removeprefix("ERROR ") for line in upload.said if "error" in line.lower()]
        if errors:
            text = " ".join(errors[-3:]).replace("<no message>", "it could not begin")
            error = _error("the uploader says", text + self._cause(), self._remote._key)
            if not isinstance(error, RemoteDown):
                raise error
            return str(error)
        return f"wandb: the uploader is {upload.stuck}" if upload.stuck else None

    def trying_again(self) -> str | None:
        cause = self._cause()
        return f"the uploader tries again{cause}" if cause else None

    def _cause(self) -> str:
        """The last request that failed, from wandb-core's log: what it shows to users often leaves that out."""
        final = passing = ""
        for found in self._logged(_HTTP_ERROR):
            if found["again"]:
                passing = f" (HTTP {found['status']})"
            else:
                final = f" (HTTP {found['status']})"
        return final or passing

    def _logged(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for path in (log for folder in self._folders for log in folder.glob("*/wandb/logs/debug-sync.*.log")):
            yield from filter(None, map(pattern.search, path.read_text(errors="replace").splitlines()))

    def finish(self, facts: Facts) -> None:
        ended = facts.state in ("finished", "failed")
        if not ended and not self._besides:
            return
        self._wait(_END_S)  # its last request says that the run goes on, and must not come after the one that ends it
        path, self._log = self._begin()
        self._write_besides()
        code = (0 if facts.state == "finished" else facts.exit_code or 1) if ended else None
        self._log.exit(code, facts.seconds)
        self._log.close()
        counted = bool(self._besides.samples or self._besides.lines)
        self._upload = self._go(path, live=False, goes_on=counted)
        self._wait(max(_END_S, self._remote.patience_s if counted else 0.0))
        self.notes += [f"wandb did not take an alert: {found[1]}" for found in self._logged(_ALERT_ERROR)]
        if not ended:
            if complaint := self.complaint():
                raise RemoteDown(complaint)
            return
        end = time.monotonic() + _END_S
        while True:
            found = self._remote.look(self._target)
            if found is not None and found.state == facts.state:
                return
            complaint = self.complaint()
            if time.monotonic() > end:
                state = found.state if found else "gone"
                raise RemoteDown(
                    f"wandb: the remote run is {state}, not {facts.state}: {complaint or 'no reason given'}"
                )
            self._remote.pace.sleep(0.2)

    def _wait(self, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while self.busy():
            if time.monotonic() > end:
                raise RemoteDown(self.complaint() or f"wandb: the uploader did not end within {limit_s:.0f} s")
            self._remote.pace.sleep(0.01)

    def _write_besides(self) -> None:
        besides, began_at = self._besides, self._facts.created_at
        for sample in besides.samples:
            # W&B counts the seconds of a sample from the start of the run, which has stood still between two attempts.
            if abs(sample.time - sample.seconds - began_at) > _SAME_S:
                began_at = sample.time - sample.seconds
                self._log.run(self._target.remote_id, self._facts, started_at=began_at)
            self._log.sample(sample)
        self._log.lines(besides.lines)
        for alert in besides.alerts:
            self._log.alert(alert)
        self._remote.pace.spend(sum(len(line.text) for line in besides.lines))
        if besides.lines and not besides.first_line:
            self.notes.append("wandb gives lines of the console the time at which they were synced")

    def close(self) -> None:
        self._log.close()
        if self._upload is not None and not self._upload.done.is_set():
            self._uploader.cancel(self._upload)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def _flat(values: Mapping[str, Any], reserved: frozenset[str] = _RESERVED) -> dict[str, float | str]:
    """Return values as a comparison needs them: nested names with dots, numbers as floats, nothing that is W&B's own."""
    out: dict[str, float | str] = {}
    for name, value in values.items():
        if value is None or name in reserved:
            continue
        if isinstance(value, Mapping):
            inner = {f"{name}.{key}": item for key, item in _flat(value, frozenset()).items()}
        elif isinstance(value, (int, float)):
            inner = {name: _number(value)}
        else:  # NaN and the infinities are text in its answers
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            inner = {name: float(text) if text in ("NaN", "Infinity", "-Infinity") else text}
        for key, item in inner.items():
            # "a.b" and a "b" in an "a" can't be told apart, so the choice must not depend on which comes first.
            out[key] = max(item, out[key], key=repr) if key in out else item
    return out


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _environment(folder: Path) -> dict[str, str]:
    """The uploader's environment: the key as it was given to us, nothing of another run, and nothing shown to a person."""
    foreign = {f"WANDB_{name}" for name in _FOREIGN}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return {
        **_BOUNDS,
        **kept,
        "WANDB_DIR": str(folder),
        "NO_COLOR": "1",
        "WANDB_SILENT": "false",
        "TMPDIR": str(folder),
    }


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
