"""
SwanLab, through swanlab's own client and request functions.

swanlab's own uploader drops a batch at any 4xx, sends one twice when an answer is lost, and stamps each point with the
time of the replay. So the batches are ours, and so is the word on what became of them: a request function that returns has
seen a 2xx. What these functions are called is checked at start, because they are not a public interface.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import itertools
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import IO, Any, TypeVar

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
from . import UUID_KEY, Besides, Facts, Found, Mark, Pace, Part, Tally, Target, nanoseconds, whereabouts

T = TypeVar("T")

_TESTED = "swanlab>=0.10.3,<0.11"
_PROJECT = re.compile(r"[0-9a-zA-Z_\-+.]{1,100}")
_KEY_MAX, _NAME_MAX, _NOTES_MAX, _TAGS_MAX = 512, 512, 1024, 30
_COLUMNS_A_REQUEST = 3000
_LINES_A_REQUEST, _TEXT_A_REQUEST = 1000, 1 << 20
_KEYS_AN_EXPORT = 16
_CONNECT_S = 10.0
_HEARTBEAT_S = 300.0  # the service counts a run as interrupted after about 30 minutes
_VARIABLES = ("SWANLAB_API_HOST", "SWANLAB_CONFIG_DIR", "SWANLAB_SECRETS_DIR", "SWANLAB_SAVE_DIR")
_SETTINGS = (
    *("swanlab.yaml", "swanlab.yml", ".env", "/etc/swanlab"),
    *(f"{folder}/.swanlab/{name}" for folder in (".", "~") for name in ("config.yaml", "config.yml", ".netrc")),
)
_RESERVED = "__swanlab__."
# What its own client says of the hardware, and what of ours is the same: percentages, MB, watts, degrees Celsius.
_SYSTEM = {
    "cpu_percent": "cpu.pct",
    "proc.cpu.threads": "cpu.thds",
    "memory_percent": "mem.pct",
    "proc.memory.rssMB": "mem.proc",
    "proc.memory.percent": "mem.proc.pct",
    "proc.memory.availableMB": "mem.proc.avail",
}
_GPU = {
    "gpu": "pct",
    "memory": "mem.time",
    "memoryAllocated": "mem.pct",
    "memoryAllocatedBytes": "mem.value",
    "temp": "temp",
    "powerWatts": "power",
}
_STATES = {"RUNNING": "running", "FINISHED": "finished", "CRASHED": "crashed", "ABORTED": "failed"}


class SwanlabRemote:
    """SwanLab; see `remotes.Remote`."""

    name = "swanlab"
    fills = True
    hides_nan = True
    alerts = False
    settle_s = 10.0  # the service counts a run's last steps behind the scenes; 5 to 10 s were seen

    def __init__(self) -> None:
        self.server = self._web = ""
        self.patience_s = 90.0
        self.pace = Pace()
        self._lib: Any = None
        self._key = ""
        self._experiments: dict[Target, dict[str, Any]] = {}

    def address(self) -> str:
        return whereabouts(_VARIABLES, _SETTINGS)

    def connect(self) -> str:
        self._lib = lib = _library()
        settings = lib.create_settings()
        self.server = str(settings.api_host).rstrip("/")
        self._web = str(settings.web_host).rstrip("/")
        self._key = settings.api_key or ""
        if not self._key:
            raise NoCredentials(f"swanlab: no API key for {self.server}; set SWANLAB_API_KEY or run `swanlab login`")
        lib.console.c.quiet = True  # it prints every failed request; ours are reported with the run they belong to
        self._again(self._try_key, "log in")
        if lib.client.exists():
            lib.client.reset()
        self._again(lambda: lib.client.new(self._key, self.server, timeout=self.patience_s), "log in")
        for adapter in lib.client._get_client()._session.adapters.values():
            adapter.timeout = self._timeouts_s
        return str(lib.client.username())

    def _try_key(self) -> None:
        # Client() raises the same error for a wrong key and for a dead server, so ask once by hand.
        session = self._lib.session.create(default_retry=0)
        url = f"{self.server}/api/login/api_key"
        session.post(url=url, headers={"authorization": self._key}, timeout=self._timeouts_s, log_error=False)

    @property
    def _timeouts_s(self) -> tuple[float, float]:
        return min(_CONNECT_S, self.patience_s), self.patience_s

    def check(self, target: Target) -> None:
        if not _PROJECT.fullmatch(target.project):
            raise BadName(
                f"swanlab: project {target.project!r} is refused there: use 1 to 100 of 0-9 A-Z a-z _ - + . (--project)"
            )
        if len(target.entity) > 25:
            raise BadName(f"swanlab: workspace {target.entity!r} is longer than 25 characters (--entity)")

    def look(self, target: Target) -> Found | None:
        project = self._get(f"/project/{target.entity}/{target.project}")
        if project is None:
            return None
        path = f"/project/{target.entity}/{target.project}/runs"
        run = self._get(f"{path}/{target.remote_id}")
        if run is None:
            return None
        if "profile" not in run:  # older servers leave it out of an answer that was asked for by name
            run = {**run, **(self._get(f"{path}/{run['cuid']}") or {})}
        self._experiments[target] = {**run, "project": project}
        summary = self._summary(target)
        steps = {item["key"]: int(item["step"]) for item in summary.get("scalar") or [] if not _reserved(item["key"])}
        ours = ((run.get("profile") or {}).get("config") or {}).get(UUID_KEY)
        return Found(
            Mark(max(steps.values(), default=None), None, steps),
            ours.get("value") if isinstance(ours, Mapping) else ours,
            _STATES.get(run.get("state", "")),
            self._url(target, run["cuid"]),
        )

    def _summary(self, target: Target) -> dict[str, Any]:
        """The last step of each key, and the number of the last line of the console."""
        run = self._experiments[target]
        created_at = self._lib.parse_time(run["createdAt"])
        read = partial(self._lib.experiment.get_experiment_summary, run["project"]["cuid"], run["cuid"], created_at)
        return self._again(read, "read the summary")

    def tally(self, target: Target) -> Tally:
        summary = self._summary(target)
        samples = [int(item["step"]) for item in summary.get("scalar") or [] if _reserved(item["key"])]
        lines = [int(item["step"]) for item in summary.get("log") or []]
        return Tally(max(samples, default=-1) + 1, max(lines, default=0))

    def _url(self, target: Target, experiment: str) -> str:
        return f"{self._web}/@{target.entity}/{target.project}/runs/{experiment}/chart"

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            return self._again(lambda: self._lib.client.get(path, retries=0, log_error=False).data, f"read {path}")  # type: ignore[no-any-return]
        except _NotThere:
            return None

    def agrees(self, found: Mark, local: Mark) -> bool:
        return dict(found.last_steps or {}) == _by_key(local.last_steps or {})

    def shown(self, values: Mapping[str, Any]) -> Mapping[str, float | str]:
        return {key: math.nan if data == "nan" else data for key, data in _points(values).items()}

    def points(self, target: Target, found: Found) -> Iterator[Part]:
        keys = list(found.mark.last_steps or {})
        for start in range(0, len(keys), _KEYS_AN_EXPORT):
            part = keys[start : start + _KEYS_AN_EXPORT]
            yield Part(frozenset(part), self._export(target, part))
        yield Part(None, iter(()))

    def _export(self, target: Target, keys: Sequence[str]) -> Iterator[tuple[int, dict[str, float | str]]]:
        """Have the service write all points of some keys to a CSV, fetch that and read it."""
        lib, run = self._lib, self._experiments[target]
        begun = lib.parse_time(run["createdAt"])
        body = lib.build_export_payload(
            run["project"]["cuid"], run["cuid"], begun, list(keys), experiment_name=run["name"]
        )

        def ask(path: str, body: Any) -> Any:
            return self._again(lambda: lib.client.post(path, body, retries=0, log_error=False).data, "export points")

        stored = ask("/house/metrics/scalar/export", body)["cosKey"]
        url = ask("/files/presigned/get", {"paths": [stored]})["urls"][0]
        with tempfile.TemporaryFile() as file:  # whole before a row of it is used: then it may be fetched again
            self._again(lambda: self._fetch(url, file), "export points")
            file.seek(0)
            rows = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""))
            next(rows, None)  # the names, which only say again what was asked for
            for row in filter(None, rows):
                # A step, then of each key value and time; where a key has no point at the step, nothing.
                cells = zip(keys, row[1::2], strict=False)
                yield int(row[0]), {key: float(cell) for key, cell in cells if cell}

    def _fetch(self, url: str, file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()
        session = self._lib.session.create(default_retry=0)
        with session, session.get(url, stream=True, timeout=self._timeouts_s, log_error=False) as answer:
            for chunk in answer.iter_content(1 << 16):
                file.write(chunk)

    def rewind(self, target: Target, step: int, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> None:
        raise RemoteRefused("swanlab can't take points back")

    def open(self, target: Target, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> SwanlabShipment:
        lib = self._lib
        project = self._again(
            lambda: lib.project.get_or_create_project(
                username=target.entity or None, name=target.project, public=False
            ),
            f"open the project {target.project!r}",
        )
        user = project["group"]["username"]
        described = _described(facts)
        try:
            experiment, _ = self._again(
                lambda: lib.experiment.create_or_resume_experiment(
                    user,
                    project["name"],
                    name=described["name"],
                    resume="allow",
                    run_id=target.remote_id,
                    color=lib.generate_color(0),
                    description=described["notes"],
                    job_type=described["job_type"],
                    group=described["group"],
                    tags=described["tags"],
                    created_at=lib.Timestamp(),
                ),
                f"open the experiment {target.remote_id!r}",
            )
        except RemoteRefused as error:
            if _status(error) == 409:
                text = f"swanlab: the experiment {target.remote_id!r} was deleted there, or is in another project"
                raise RemoteRunGone(f"{text} (--on-conflict new-run sends the run to a new one)") from error
            raise
        shipment = SwanlabShipment(self, user, project, experiment, self._url(target, experiment["cuid"]))
        shipment.tell(facts)
        return shipment

    def clean(self, children: Mapping[str, Any]) -> None:
        pass  # requests are made by this process alone: they died with it

    def close(self) -> None:
        pass  # the client is one for the whole process

    def cannot_hold(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        out = {}
        taken: dict[str, str] = {}
        for name, value in values.items():
            key, data = key_of(name), _data(value)
            if key is None:
                out[name] = "a name that SwanLab refuses: left out"
            elif data is None:
                out[name] = "no number: left out"
            elif data == "nan" and value == value:
                out[name] = "infinity: becomes NaN" if isinstance(value, float) else "too large: becomes NaN"
            if key is not None and data is not None and (other := taken.setdefault(key, name)) != name:
                out[other] = f"the same name there as {name.replace(SEPARATOR, '.')}: left out"
        return out

    def cannot_say(self, target: Target, facts: Facts) -> list[str]:
        notes = []
        if len(facts.notes or "") > _NOTES_MAX:
            notes.append(f"swanlab takes notes of {_NOTES_MAX} characters; the rest of them is left out")
        if len(facts.tags) > _TAGS_MAX:
            notes.append(f"swanlab takes {_TAGS_MAX} tags; the last {len(facts.tags) - _TAGS_MAX} are left out")
        long = [what for what in ("name", "group", "job_type") if len(getattr(facts, what) or "") > _NAME_MAX]
        long += ["a tag"] * any(len(tag) > _NAME_MAX for tag in facts.tags)
        if long:
            notes.append(f"swanlab takes {_NAME_MAX} characters; {', '.join(long)} is cut")
        if facts.definitions:
            notes.append("swanlab does not take what define_metric says")
        if (there := self._experiments.get(target)) is not None:
            shown = {**there, "labels": [label["name"] for label in there.get("labels") or ()]}
            names = {"name": "name", "notes": "description", "group": "cluster", "job_type": "job", "tags": "labels"}
            told = _described(facts)
            stale = [what for what, name in names.items() if name in there and told[what] != (shown[name] or None)]
            if stale:
                notes.append(f"swanlab keeps what it was told first; since then changed: {', '.join(stale)}")
        return notes

    def _again(self, ask: Callable[[], T], what: str, only_if_refused: bool = False) -> T:
        """
        Ask until it is answered; log in again once if the session has ended.

        Args:
            only_if_refused: for what must not arrive twice: not again where the last time may have had an effect.
        """
        end = time.monotonic() + self.patience_s
        wait_s = 0.5
        relogged = False
        for tries in itertools.count(1):
            try:
                return self._once(ask, what)
            except _SessionEnded as error:
                if relogged:
                    raise RemoteRefused(str(error)) from error.__cause__
                relogged = True
                self.log_in_again()
            except RemoteDown as error:
                pause = max(wait_s, error.retry_after_s)
                # One answer that never came may have taken all of the patience: a second try it is worth.
                over = pause > self.patience_s or (tries > 1 and time.monotonic() + pause > end)
                if over or (only_if_refused and not error.refused):
                    raise
                self.pace.sleep(pause)
                wait_s = min(2 * wait_s, 8.0)
        raise AssertionError("unreachable")

    def _once(self, ask: Callable[[], T], what: str) -> T:
        """Ask once, with no retry hidden in the client, and say in our words what went wrong."""
        lib = self._lib
        self.pace.request()
        lib.request_retries_ctx.set(0)  # belongs to the thread, so it is set each time
        try:
            return ask()
        except lib.ApiError as error:
            status = error.response.status_code
            text = f"swanlab: can't {what}: {status} {error.message}"
            if status == 401 and "log in" not in what:
                raise _SessionEnded(text) from error
            if status == 401:
                raise RemoteRefused(
                    f"swanlab refuses the API key for {self.server} (401); check SWANLAB_API_KEY"
                ) from error
            if status == 404:
                raise _NotThere(text) from error
            if status == 429 or status >= 500:
                down = RemoteDown(text)
                down.retry_after_s = _seconds(error.response.headers.get("Retry-After"))
                down.refused = status == 429  # not applied: it may be sent again without a look
                raise down from error
            raise RemoteRefused(text) from error
        except lib.AuthenticationError as error:
            raise RemoteDown(f"swanlab: can't {what} at {self.server}: {error}") from error
        except lib.RequestException as error:
            raise RemoteDown(
                f"swanlab: can't {what}: {self.server} can't be reached ({type(error).__name__})"
            ) from error

    def log_in_again(self) -> None:
        self._again(self._renew, "log in")

    def _renew(self) -> None:
        self._try_key()  # the client does not say why it could not
        if self._lib.client._get_client()._refresh_auth(timeout=self.patience_s, warning=False) is None:
            raise self._lib.AuthenticationError("the session was not renewed")


class _NotThere(RemoteRefused):
    """404."""


class _SessionEnded(RemoteRefused):
    """401 in the middle: the cookie has run out, or the key was taken back."""


class SwanlabShipment:
    """
    An experiment that is RUNNING; see `remotes.Shipment`.

    While one batch is on its way the next is made ready, never more: what became of it is said by the next call.
    """

    batch_rows = 10_000
    batch_points = 10_000

    def __init__(
        self, remote: SwanlabRemote, user: str, project: dict[str, Any], experiment: dict[str, Any], url: str
    ) -> None:
        self.url: str | None = url
        self.notes: list[str] = []
        self._remote = remote
        self._lib = remote._lib
        self._at = (user, project["name"], experiment["cuid"])
        self._ids = (project["cuid"], experiment["cuid"])
        self._declared: set[str] = set()
        self._beat_at = -math.inf
        self._pool = ThreadPoolExecutor(1, "swanlab")
        self._on_the_way: Future[None] | None = None

    def tell(self, facts: Facts) -> None:
        """Send config and machine; our uuid first of all, it is how the next sync knows the experiment."""
        upload, again = self._lib.upload, self._remote._again
        items = {UUID_KEY: facts.uuid, **facts.config}
        config = {str(key): {"value": value, "sort": n, "desc": ""} for n, (key, value) in enumerate(items.items())}
        again(lambda: upload.upload_config(*self._at, content=_finite(config)), "send the config")
        if facts.environment:
            again(lambda: upload.upload_metadata(*self._at, content=_metadata(facts.environment)), "send the metadata")
        if facts.packages:
            text = "".join(f"{package}\n" for package in facts.packages)
            again(lambda: upload.upload_requirements(*self._at, content=text), "send the packages")
        self._beat()

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at > _HEARTBEAT_S:
            self._beat_at = time.monotonic()
            send = self._lib.experiment.send_experiment_heartbeat
            self._remote._again(lambda: send(experiment_id=self._ids[1]), "send a heartbeat")

    def send(self, rows: Sequence[Row]) -> bool:
        metrics: list[dict[str, Any]] = []
        keys: dict[str, None] = {}
        for row in rows:
            at, step, points = _rfc3339(row.time), row.step, _points(row.values)
            metrics += [{"key": key, "index": step, "data": data, "create_time": at} for key, data in points.items()]
            if not points.keys() <= keys.keys():
                keys |= dict.fromkeys(points)
        self._declare(keys)
        self._beat()
        self.flush()
        if metrics:
            self._on_the_way = self._pool.submit(self._send, metrics)
        return False

    def add(self, besides: Besides) -> bool:
        self.flush()
        metrics: list[dict[str, Any]] = []
        for number, sample in enumerate(besides.samples, besides.first_sample):
            at = _rfc3339(sample.time)
            for name, value in sample.values.items():
                if (key := _system_key(name)) is not None:
                    data = float(int(value) >> 20) if name.endswith("Bytes") else value
                    metrics.append({"key": key, "index": number, "data": data, "create_time": at})
        self._declare(dict.fromkeys(metric["key"] for metric in metrics))
        for start in range(0, len(metrics), self.batch_points):
            self._send(metrics[start : start + self.batch_points])
        if besides.samples and not besides.first_sample:
            self.notes.append("swanlab has no place for a process's own share of the processors, and for the load")
        lines = [
            {
                "level": "ERROR" if line.source == "alert" and not line.text.startswith("[INFO]") else "INFO",
                "epoch": number,
                "message": line.text,
                "create_time": _rfc3339(line.time),
            }
            for number, line in enumerate(besides.lines, besides.first_line + 1)
        ]
        for part in _parts(lines):
            self._beat()
            send = partial(self._lib.upload.upload_log, *self._ids, metrics=part)
            self._remote._again(send, "send lines of the console", only_if_refused=True)
        return True

    def _declare(self, keys: Mapping[str, None]) -> None:
        new = [key for key in keys if key not in self._declared]
        for start in range(0, len(new), _COLUMNS_A_REQUEST):
            series = [_column(key) for key in new[start : start + _COLUMNS_A_REQUEST]]
            body = {"series": series}
            send = partial(self._lib.upload.upload_columns, *self._at[:2], columns=body)
            self._remote._again(send, "declare metrics")
        self._declared.update(new)

    def _send(self, metrics: list[dict[str, Any]]) -> None:
        """Send one batch: again after a plain refusal, in halves where it is too large, never after a lost answer."""
        send = partial(self._lib.upload.upload_scalar, *self._ids, metrics=metrics)
        try:
            self._remote._again(send, "send points", only_if_refused=True)
        except RemoteRefused as error:
            half = len(metrics) // 2
            if _status(error) != 413 or half == 0:
                raise
            self._send(metrics[:half])
            try:
                self._send(metrics[half:])
            except RemoteDown as down:
                down.refused = False  # of the whole batch a part has arrived
                raise

    def flush(self) -> None:
        batch, self._on_the_way = self._on_the_way, None
        if batch is not None:
            batch.result()

    def busy(self) -> bool:
        return False

    def complaint(self) -> str | None:
        return None

    def trying_again(self) -> str | None:
        return None

    def finish(self, facts: Facts) -> None:
        if facts.state == "running":
            return
        states = self._lib.RunState
        state = states.RUN_STATE_FINISHED if facts.state == "finished" else states.RUN_STATE_CRASHED
        stop = self._lib.experiment.stop_experiment
        stamp = self._lib.Timestamp()
        self._remote._again(lambda: stop(*self._at, state=state, finished_at=stamp), "set the final state")

    def close(self) -> None:
        self._pool.shutdown()


def _rfc3339(seconds: float) -> str:
    whole, rest = divmod(nanoseconds(seconds), 10**9)
    return f"{_second(whole)}.{rest:09d}Z"


@lru_cache
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=10_000)
def key_of(name: str) -> str | None:
    """Return what SwanLab calls a metric of ours, or None if it takes no such name: nested names get slashes."""
    key = "/".join(name.split(SEPARATOR)).strip(" \t\n\r./")[:_KEY_MAX].rstrip(" ./")
    if not key or _reserved(key) or any(ord(char) < 32 or ord(char) == 127 for char in key):
        return None
    return key


def _points(values: Mapping[str, Any]) -> dict[str, float | str]:
    """Return what SwanLab can hold of a row, by its keys: of two metrics whose names are one there, the later one."""
    points: dict[str, float | str] = {}
    for name, value in values.items():
        data = value if type(value) is float and value - value == 0.0 else _data(value)  # most are finite floats
        if data is not None and (key := key_of(name)) is not None:
            points[key] = data
    return points


def _reserved(key: str) -> bool:
    return key.startswith(_RESERVED)


def _column(key: str) -> dict[str, str]:
    if _reserved(key):
        return {"key": key, "type": "SYSTEM"}
    return {"key": key, "type": "FLOAT", **({"sectionName": key.split("/")[0]} if "/" in key else {})}


def _system_key(name: str) -> str | None:
    """Return what SwanLab's own client calls what we measure, or None if it does not measure that."""
    if name in _SYSTEM:
        return _RESERVED + _SYSTEM[name]
    kind, _, rest = name.partition(".")
    index, _, what = rest.partition(".")
    if kind == "gpu" and what in _GPU:
        return f"{_RESERVED}gpu.{index}.{_GPU[what]}"
    return None


def _parts(lines: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the lines in requests that no server finds too large."""
    part: list[dict[str, Any]] = []
    size = 0
    for line in lines:
        if part and (len(part) == _LINES_A_REQUEST or size > _TEXT_A_REQUEST):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line["message"])
    if part:
        yield part


def _described(facts: Facts) -> dict[str, Any]:
    """Return what describes a run, as SwanLab takes it; None for what there is not."""
    return {
        "name": facts.name[:_NAME_MAX],
        "notes": (facts.notes or "")[:_NOTES_MAX] or None,
        "group": (facts.group or "")[:_NAME_MAX] or None,
        "job_type": (facts.job_type or "")[:_NAME_MAX] or None,
        "tags": [tag[:_NAME_MAX] for tag in facts.tags[:_TAGS_MAX] if tag] or None,
    }


def _by_key(steps: Mapping[str, int]) -> dict[str, int]:
    out: dict[str, int] = {}
    for name, step in steps.items():
        key = key_of(name)
        if key is not None:
            out[key] = max(step, out.get(key, step))
    return out


def _data(value: Any) -> float | str | None:
    """Return a value as the wire has it: a finite number or "nan"; None for what is no number."""
    if not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return "nan"
    return number if math.isfinite(number) else "nan"


def _finite(value: Any) -> Any:
    """Return a config as strict JSON can hold it: NaN and infinities become text."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _metadata(environment: Mapping[str, Any]) -> dict[str, Any]:
    names = {"host": "hostname", "program": "command", "git_commit": "git_info"}
    return {names.get(name, name): value for name, value in environment.items()}


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.replace(".", "", 1).isdigit() else 0.0


def _status(error: RemoteError) -> int | None:
    """Return the HTTP status behind an error of ours, None if there was no answer."""
    return getattr(getattr(error.__cause__, "response", None), "status_code", None)


_INTERNAL = "swanlab.sdk.internal"
_NEEDED = {
    "ApiError": "swanlab.exceptions:ApiError",
    "AuthenticationError": "swanlab.exceptions:AuthenticationError",
    "RequestException": "requests:RequestException",
    "RunState": "swanlab.proto.swanlab.run.v1.run_pb2:RunState",
    "Timestamp": "google.protobuf.timestamp_pb2:Timestamp",
    "build_export_payload": "swanlab.api.helper:build_export_payload",
    "client": f"{_INTERNAL}.core_python:client",
    "console": f"{_INTERNAL}.pkg:console",
    "create_settings": f"{_INTERNAL}.settings:create_settings",
    "experiment": f"{_INTERNAL}.core_python.api:experiment",
    "generate_color": "swanlab.utils.experiment:generate_color",
    "parse_time": "swanlab.utils.time:parse_resp_timestamp_s",
    "project": f"{_INTERNAL}.core_python.api:project",
    "request_retries_ctx": f"{_INTERNAL}.pkg.client.session:request_retries_ctx",
    "session": f"{_INTERNAL}.pkg.client:session",
    "upload": f"{_INTERNAL}.core_python.api:upload",
}


def _library() -> Any:
    """
    Return the parts of swanlab that are used here.

    Raises:
        UsageError: it is not installed, or not a version that has them.
    """
    if importlib.util.find_spec("swanlab") is None:
        raise UsageError("swanlab is not installed; pip install 'offline-tracker[swanlab]'")
    parts = {}
    for name, where in _NEEDED.items():
        module, _, attribute = where.partition(":")
        try:
            parts[name] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"this version of swanlab was not tested: {error}; pip install '{_TESTED}'") from error
    return SimpleNamespace(**parts)
