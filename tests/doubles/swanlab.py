"""
A stand-in for the SwanLab service, as the requests of its client 0.10.3 show it and stricter where that leaves doubt.

What it does not know is media: a request for it is answered 404 like any other unknown path.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import re
import secrets
import string
import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from http.cookies import SimpleCookie
from typing import Any, NamedTuple

from .server import Double, Reply, Request

BATCH_POINTS = 10_000
SERIES_COLUMNS = 3_000
EXPORT_COLUMNS = 16
STEP_MAX = 1 << 48
STATES = {"FINISHED", "CRASHED", "ABORTED"}
COLUMN_TYPES = {"FLOAT", "SYSTEM", "IMAGE", "AUDIO", "VIDEO", "TEXT", "ECHARTS", "OBJECT3D", "MOLECULE", "HTML"}

WORKSPACE = re.compile(r"[0-9a-zA-Z\-_]{1,25}")
PROJECT = re.compile(r"[0-9a-zA-Z_\-+.]{1,100}")
RUN_ID = re.compile(r'[^<>:"/\\|?*#%\x00-\x1f\x7f]{1,512}')
KEY = re.compile(r"(?![./])[^\x00-\x1f\x7f]{1,512}(?<![./])")
COLOR = re.compile(r"#[0-9a-fA-F]{6}")
RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


class Point(NamedTuple):
    """A point as it was stored: NaN is a float, *create_time* the string that was sent."""

    key: str
    step: int
    value: float
    create_time: str


class Line(NamedTuple):
    """A line of the console log."""

    level: str
    epoch: int
    message: str
    create_time: str


@dataclass
class Project:
    """A project and the columns declared in it, by key."""

    user: str
    name: str
    visibility: str
    cuid: str
    series: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Run:
    """
    An experiment; *run_id* is the client's name for it, *cuid* the service's own.

    Attributes:
        job, group: None if the client sent none.
        opened: how often it was created or resumed.
        finished: how often a final state was set.
        heartbeats: how many arrived.
        points: what arrived while it was RUNNING, in that order; nothing is ever merged or overwritten.
        hidden: points that arrived while it was not RUNNING, which the service may never show.
    """

    project: Project
    run_id: str
    cuid: str
    name: str
    description: str | None
    group: str | None
    job: str | None
    labels: list[str]
    created_at: str
    state: str = "RUNNING"
    opened: int = 1
    finished: int = 0
    finished_at: str | None = None
    heartbeats: int = 0
    points: list[Point] = field(default_factory=list)
    arrived_at: list[float] = field(default_factory=list)
    hidden: list[Point] = field(default_factory=list)
    logs: list[Line] = field(default_factory=list)
    profile: dict[str, Any] = field(default_factory=dict)

    _known: tuple[int, int, dict[str, Point]] = (0, 0, {})
    _newest: Point | None = None

    def latest(self, first: int, last: int) -> dict[str, Point]:
        """`_latest` of a stretch of the points; of a long run only what came since the last time is looked at."""
        begin, end, known = self._known
        if begin != first or end > last or (end and self.points[end - 1] is not self._newest):
            end, known = first, {}
        known = _latest(self.points[end:last], known)
        self._known, self._newest = (first, last, known), self.points[last - 1] if last else None
        return known

    @property
    def tags(self) -> list[str]:
        return self.labels

    @property
    def config(self) -> dict[str, Any]:
        """The config as plain values, without the service's ``sort`` and ``desc``."""
        return {key: entry["value"] for key, entry in self.profile.get("config", {}).items()}

    @property
    def metadata(self) -> dict[str, Any] | None:
        return self.profile.get("metadata")

    @property
    def requirements(self) -> str | None:
        return self.profile.get("requirements")

    @property
    def conda(self) -> str | None:
        return self.profile.get("conda")

    @property
    def series(self) -> dict[str, dict[str, Any]]:
        """The columns declared in the project: the request that declares them names no experiment."""
        return self.project.series


class Refused(Exception):
    """A request that is answered with *status* and not applied."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SwanlabServer(Double):
    """
    SwanLab on loopback.

    Attributes:
        runs: the experiments that were not deleted, by run id.
        violations: what a correct client would not have sent, a sentence each.
        unknown: the labels of requests to paths that are not served.
        lag_s: summaries show the points that are at least so old.

    Args:
        max_body: bytes; a larger body is a violation and answered 413.
        folds: the export has one row a step, so that of two points of a key at one step only the last is in it. The
            client's own docstring says that the service groups by step; the issue tracker, that both points show.
    """

    holds = ("runs", "_projects", "_deleted")

    def __init__(
        self,
        *,
        username: str = "tester",
        teams: Iterable[str] = (),
        lag_s: float = 0.0,
        max_body: int = 8 << 20,
        folds: bool = False,
        port: int = 0,
    ) -> None:
        super().__init__()
        self._port = port
        self.username = username
        self.api_key = secrets.token_urlsafe(16)
        self.lag_s = lag_s
        self.max_body = max_body
        self.folds = folds
        self.runs: dict[str, Run] = {}
        self.violations: list[str] = []
        self.unknown: list[str] = []
        self._workspaces = {username, *teams}
        self._projects: dict[tuple[str, str], Project] = {}
        self._deleted: set[str] = set()
        self._sessions: set[str] = set()
        self._files: dict[str, bytes] = {}
        self._signed: dict[str, str] = {}

    # What tests order and read

    def env(self) -> dict[str, str]:
        """Environment variables that point a real client here, and keep it off other hosts and the hardware."""
        return {
            "SWANLAB_API_HOST": self.url,
            "SWANLAB_WEB_HOST": self.url,
            "SWANLAB_API_KEY": self.api_key,
            "SWANLAB_INTERACTIVE": "false",
            "SWANLAB_PROBE_MONITOR": "false",
            "NO_PROXY": "127.0.0.1",
        }

    def expire_sessions(self) -> None:
        """Answer 401 to every cookie given out so far."""
        with self.lock:
            self._sessions.clear()

    def delete(self, run_id: str) -> None:
        """Delete a run as its owner does in the browser; its id cannot be used again."""
        with self.lock:
            del self.runs[run_id]
            self._deleted.add(run_id)

    def lose_last(self, run_id: str, n: int) -> None:
        """Forget the last *n* points that were acknowledged."""
        with self.lock:
            run = self.runs[run_id]
            keep = max(len(run.points) - n, 0)
            del run.points[keep:], run.arrived_at[keep:]

    def lose(self, run_id: str, key: str, steps: Iterable[int]) -> None:
        """Forget points of one key at some steps, wherever they are."""
        with self.lock:
            run, lost = self.runs[run_id], set(steps)
            kept = [n for n, point in enumerate(run.points) if point.key != key or point.step not in lost]
            run.points[:] = [run.points[n] for n in kept]
            run.arrived_at[:] = [run.arrived_at[n] for n in kept]

    def points(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """The (step, value) of one key, in the order in which they arrived."""
        with self.lock:
            return [(point.step, point.value) for point in self.runs[run_id].points if point.key == key]

    def times(self, run_id: str, key: str) -> list[float]:
        """The times of one key's points in unix seconds, in the order in which they arrived."""
        with self.lock:
            return [_unix_ns(point.create_time) / 10**9 for point in self.runs[run_id].points if point.key == key]

    # Requests

    def label(self, request: Request) -> str:
        """
        Name a request without ``/api``, and with the run id where the path has the service's own.

        Points and console lines have one address, so what comes is in the name: ``"POST /house/metrics scalar"``.
        """
        path = request.path.removeprefix("/api")
        if path == "/house/metrics":
            found = re.search(rb'"type": *"(\w+)"', request.body)
            path = f"{path} {found[1].decode() if found else '?'}"
        with self.lock:
            for run in self.runs.values():
                path = path.replace(run.cuid, run.run_id)
        return f"{request.method} {path}"

    def handle(self, request: Request) -> Reply:
        try:
            return self._route(request)
        except Refused as refusal:
            refused = refusal
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            refused = self._violation(400, f"{self.label(request)}: {error!r} in {request.body[:200]!r}")
        return Reply(refused.status, {"code": str(refused.status), "message": str(refused)})

    def _route(self, request: Request) -> Reply:
        if len(request.body) > self.max_body:
            raise self._violation(413, f"{self.label(request)}: {len(request.body)} bytes, over {self.max_body}")
        route = (request.method, *request.path.removeprefix("/api").strip("/").split("/"))
        if route[:2] == ("GET", "files"):
            return self._download(route[-1])
        if route == ("POST", "login", "api_key"):
            return self._log_in(request)
        self._check_session(request)
        body = _json(request)
        match route:
            case ("GET", "project", user, name):
                return Reply(200, self._project_answer(self._project(user, name)))
            case ("POST", "projects", user):
                return self._create_project(user, body)
            case ("POST", "projects", user, name, "series"):
                return self._declare(self._project(user, name), body)
            case ("POST", "project", user, name, "experiment"):
                return self._open(self._project(user, name), body)
            case ("GET", "project", user, name, "runs"):
                listed = [_run_answer(run) for run in self._runs_of(self._project(user, name))]
                return Reply(200, {"list": listed, "size": 100, "pages": 1, "total": len(listed)})
            case ("POST", "project", user, name, "runs", "shows"):
                return Reply(200, [_run_answer(run) for run in self._runs_of(self._project(user, name))])
            case ("GET", "project", user, name, "runs", run_id):
                return Reply(200, _run_answer(self._run(self._project(user, name), run_id)))
            case ("DELETE", "project", user, name, "runs", run_id):
                self.delete(self._run(self._project(user, name), run_id).run_id)
                return Reply(200, {})
            case ("PUT", "project", user, name, "runs", run_id, "profile"):
                return self._put_profile(self._run(self._project(user, name), run_id), body)
            case ("PUT", "project", user, name, "runs", run_id, "state"):
                return self._finish(self._run(self._project(user, name), run_id), body)
            case ("POST", "house", "experiments", cuid, "heartbeat"):
                return self._beat(self._run_of_cuid(cuid), body)
            case ("POST", "house", "metrics"):
                return self._append(body)
            case ("GET", "house", "metrics", "summaries", project_id, cuid):
                return self._last_steps(project_id, cuid, request)
            case ("POST", "house", "metrics", "summaries"):
                return self._summaries(body)
            case ("POST", "house", "metrics", "scalar"):
                return self._sampled(body)
            case ("POST", "house", "metrics", "scalar", "value"):
                return self._statistics(body)
            case ("POST", "house", "metrics", "scalar", "keys"):
                keys = {point.key for ref in body["experiments"] for point in self._visible(ref)}
                return Reply(200, {"keys": sorted(keys), "hasMore": False, "nextCursor": ""})
            case ("POST", "house", "metrics", "scalar", "export"):
                return self._export(body)
            case ("GET", "house", "metrics", "log"):
                return self._log_page({name: values[0] for name, values in request.query.items()})
            case ("POST", "house", "metrics", "log", "export"):
                return self._export_log(body)
            case ("POST", "files", "presigned", "get"):
                return Reply(200, {"urls": [self._sign(path) for path in body["paths"]]})
        self.unknown.append(self.label(request))
        raise Refused(404, "Not Found")

    def _violation(self, status: int, what: str) -> Refused:
        self.violations.append(what)
        return Refused(status, what)

    # Sessions

    def _log_in(self, request: Request) -> Reply:
        if request.headers.get("authorization") != self.api_key:
            raise Refused(401, "Unauthorized")
        sid = secrets.token_hex(16)
        self._sessions.add(sid)
        # the client logs in again before every request when less than a week is left
        expires = datetime.fromtimestamp(time.time() + 30 * 86400, timezone.utc)
        user = {"username": self.username, "name": self.username}
        return Reply(200, {"sid": sid, "expiredAt": f"{expires:%Y-%m-%dT%H:%M:%S.%fZ}", "userInfo": user})

    def _check_session(self, request: Request) -> None:
        sid = SimpleCookie(request.headers.get("cookie", "")).get("sid")
        if sid is None or sid.value not in self._sessions:
            raise Refused(401, "Unauthorized")

    # Projects and runs

    def _project(self, user: str, name: str) -> Project:
        try:
            return self._projects[user, name]
        except KeyError:
            raise Refused(404, "Not Found") from None

    def _runs_of(self, project: Project) -> list[Run]:
        return [run for run in self.runs.values() if run.project is project]

    def _run(self, project: Project, run_id: str) -> Run:
        """A path takes the run id and the service's own id alike."""
        for run in self._runs_of(project):
            if run_id in (run.run_id, run.cuid):
                return run
        raise Refused(404, "Not Found")

    def _run_of_cuid(self, cuid: Any, project_id: str | None = None) -> Run:
        for run in self.runs.values():
            if run.cuid == cuid and project_id in (None, run.project.cuid):
                return run
        raise Refused(404, "Not Found")

    def _create_project(self, user: str, body: Mapping[str, Any]) -> Reply:
        if user not in self._workspaces:
            raise Refused(403, "Forbidden")
        name, visibility = body.get("name"), body.get("visibility")
        if not isinstance(name, str) or not PROJECT.fullmatch(name) or visibility not in ("PUBLIC", "PRIVATE"):
            raise self._violation(400, f"project {name!r}, visibility {visibility!r}")
        status = 200 if (user, name) in self._projects else 201
        project = self._projects.setdefault((user, name), Project(user, name, visibility, _cuid()))
        return Reply(status, self._project_answer(project))

    def _project_answer(self, project: Project) -> dict[str, Any]:
        count = {"experiments": len(self._runs_of(project)), "contributors": 1, "collaborators": 0, "clones": 0}
        return {
            "cuid": project.cuid,
            "name": project.name,
            "version": 1,
            "path": f"/{project.user}/{project.name}",
            "visibility": project.visibility,
            "group": {"username": project.user},
            "_count": count,
        }

    def _declare(self, project: Project, body: Mapping[str, Any]) -> Reply:
        columns = body.get("series")
        if not isinstance(columns, list) or not 0 < len(columns) <= SERIES_COLUMNS:
            raise self._violation(400, f"series of {len(columns or ())} columns")
        for column in columns:
            if not _is_key(column.get("key")) or column.get("type") not in COLUMN_TYPES:
                raise self._violation(400, f"column {column}")
            if extra := column.keys() - {"key", "type", "sectionName", "xAxis", "hidden"}:
                raise self._violation(400, f"column {column['key']!r} has {sorted(extra)}")
        for column in columns:
            project.series.setdefault(column["key"], column)
        return Reply(201, {})

    def _open(self, project: Project, body: Mapping[str, Any]) -> Reply:
        self._check_experiment(body)
        run_id = body.get("cuid") or _cuid()
        if run_id in self._deleted:
            raise Refused(409, f"experiment {run_id} was deleted")
        run = self.runs.get(run_id)
        if run is not None and run.project is not project:
            raise Refused(409, f"experiment {run_id} is in another project")
        if run is not None:
            # what the first writer said of the run stays: name, group, labels
            run.state = "RUNNING"
            run.opened += 1
            return Reply(200, _opened_answer(run))
        run = self.runs[run_id] = Run(
            project,
            run_id,
            # free ids are the service's slug and get a cuid beside them; ids in the old form are the cuid
            cuid=run_id if re.fullmatch("[a-z0-9]{21}", run_id) else _cuid(),
            name=body["name"],
            description=body.get("description"),
            group=body.get("cluster"),
            job=body.get("job"),
            labels=[label["name"] for label in body.get("labels", [])],
            created_at=body["createdAt"],
        )
        return Reply(201, _opened_answer(run))

    def _check_experiment(self, body: Mapping[str, Any]) -> None:
        lengths = {"name": 512, "description": 1024, "job": 512, "cluster": 512}
        too_long = [name for name, limit in lengths.items() if not _is_text(body.get(name, "-"), limit)]
        labels, colors = body.get("labels", []), body.get("colors", [])
        checks = {
            "field": body.keys() <= {*lengths, "createdAt", "colors", "labels", "cuid"},
            "name": "name" in body and not too_long,
            "createdAt": _is_time(body.get("createdAt")),
            "colors": len(colors) == 2 and all(COLOR.fullmatch(color) for color in colors),
            "labels": len(labels) <= 30 and all(_is_text(label.get("name"), 512) for label in labels),
            "cuid": "cuid" not in body or bool(RUN_ID.fullmatch(body["cuid"])),
        }
        if wrong := [name for name, right in checks.items() if not right]:
            raise self._violation(400, f"experiment: wrong {', '.join(wrong + too_long)} in {dict(body)}")

    def _put_profile(self, run: Run, body: Mapping[str, Any]) -> Reply:
        types = {"metadata": dict, "requirements": str, "conda": str, "config": dict}
        if not body or any(not isinstance(value, types.get(name, ())) for name, value in body.items()):
            raise self._violation(400, f"profile {dict(body)}")
        for key, entry in body.get("config", {}).items():
            if not isinstance(entry, dict) or entry.keys() != {"value", "sort", "desc"}:
                raise self._violation(400, f"config {key!r}: {entry!r}")
        run.profile.update(body)
        return Reply(200, {})

    def _finish(self, run: Run, body: Mapping[str, Any]) -> Reply:
        if body.get("state") not in STATES or not _is_time(body.get("finishedAt")) or body.get("from") != "sdk":
            raise self._violation(400, f"state {dict(body)}")
        run.state = body["state"]
        run.finished_at = body["finishedAt"]
        run.finished += 1
        return Reply(200, {})

    def _beat(self, run: Run, body: Mapping[str, Any]) -> Reply:
        if not isinstance(body.get("flagId"), str):
            raise self._violation(400, f"heartbeat {dict(body)}")
        run.heartbeats += 1
        return Reply(200, {})

    # Points and log lines

    def _append(self, body: Mapping[str, Any]) -> Reply:
        run = self._run_of_cuid(body.get("experimentId"), str(body.get("projectId")))
        metrics = body.get("metrics")
        if body.get("type") not in ("scalar", "log") or not isinstance(metrics, list) or not metrics:
            raise self._violation(400, f"metrics of type {body.get('type')!r}: {str(metrics)[:80]}")
        if len(metrics) > BATCH_POINTS:
            self.violations.append(f"a batch of {len(metrics)} points, over {BATCH_POINTS}")
        if body["type"] == "log":
            run.logs += [self._line(entry) for entry in metrics]
            return Reply(200, {})
        points = [self._point(entry) for entry in metrics]
        for key in {point.key for point in points} - run.series.keys():
            self.violations.append(f"points of {key!r} before its column was declared")
        if run.state != "RUNNING":
            self.violations.append(f"{len(points)} points while {run.run_id} is {run.state}")
            run.hidden += points
            return Reply(200, {})
        run.points += points
        run.arrived_at += [time.time()] * len(points)
        return Reply(200, {})

    def _point(self, entry: Mapping[str, Any]) -> Point:
        get: Any = entry.get
        key, step, data, created = get("key"), get("index"), get("data"), get("create_time")
        if not _is_key(key) or entry.keys() > {"key", "index", "data", "create_time"}:
            raise self._violation(400, f"point {dict(entry)}")
        if type(step) is not int or not 0 <= step <= STEP_MAX:
            raise self._violation(400, f"step {step!r} of {key!r}")
        if data != "nan" and (type(data) not in (float, int) or not math.isfinite(data)):
            raise self._violation(400, f"value {data!r} of {key!r} at {step}")
        if not _is_time(created):
            raise self._violation(400, f"time {created!r} of {key!r} at {step}")
        return Point(key, step, float(data), created)

    def _line(self, entry: Mapping[str, Any]) -> Line:
        fields: list[Any] = [entry.get(name) for name in ("level", "epoch", "message", "create_time")]
        level, epoch, message, created = fields
        if level not in ("INFO", "ERROR") or type(epoch) is not int or epoch < 0:
            raise self._violation(400, f"log line {dict(entry)}")
        if not isinstance(message, str) or not _is_time(created):
            raise self._violation(400, f"log line {dict(entry)}")
        return Line(level, epoch, message, created)

    # Reading back

    def _visible(self, ref: Mapping[str, Any], project_id: str | None = None, late: bool = False) -> list[Point]:
        """
        The points of the run that a query names, by the time at which they were stored.

        ``createdAt`` bounds that time from below, so a client that sends a later one does not see the first points.
        """
        run, first, last = self._stretch(ref, project_id, late)
        return run.points[first:last]

    def _stretch(self, ref: Mapping[str, Any], project_id: str | None, late: bool) -> tuple[Run, int, int]:
        """Whose points `_visible` gives, and from where to where they are; they lie in the order in which they came."""
        run = self._run_of_cuid(ref.get("experimentId"), project_id or ref.get("projectId"))
        since, until = ref.get("createdAt"), time.time()
        if late:
            until = min(until - self.lag_s, until if self.shown_until is None else self.shown_until)
        if type(since) is not int:
            raise self._violation(400, f"a query without createdAt: {dict(ref)}")
        return run, bisect_left(run.arrived_at, since), bisect_right(run.arrived_at, until)

    def _last_steps(self, project_id: str, cuid: str, request: Request) -> Reply:
        since = request.query.get("createdAt", [""])[0]
        if not since.isdecimal() or "all" not in request.query:
            raise self._violation(400, f"{self.label(request)} without createdAt or all")
        run, first, last = self._stretch({"experimentId": cuid, "createdAt": int(since)}, project_id, late=True)
        logs = self._run_of_cuid(cuid).logs
        return Reply(
            200,
            {
                "log": [{"key": "LOG", "step": max(line.epoch for line in logs)}] if logs else [],
                "media": [],
                "scalar": [{"key": key, "step": last.step} for key, last in run.latest(first, last).items()],
            },
        )

    def _summaries(self, body: Mapping[str, Any]) -> Reply:
        answer: dict[str, Any] = {}
        for ref in body["experiments"]:
            points = [point for point in self._visible(ref, late=True) if point.key in body.get("keys", [point.key])]
            entries = {
                key: {"step": last.step, "value": _number(last.value), **_extremes(points, key)}
                for key, last in _latest(points).items()
            }
            answer[ref["experimentId"]] = entries or None
        return Reply(200, answer)

    def _columns(self, body: Mapping[str, Any]) -> list[tuple[str, list[Point]]]:
        columns = body["columns"]
        if not 0 < len(columns) <= EXPORT_COLUMNS:
            raise self._violation(400, f"a query of {len(columns)} columns, over {EXPORT_COLUMNS}")
        by_run: dict[str, dict[str, list[Point]]] = {}
        for ref in columns:
            if ref["experimentId"] not in by_run:
                by_key = by_run[ref["experimentId"]] = defaultdict(list)
                for point in self._visible(ref, body["projectId"]):
                    by_key[point.key].append(point)
        return [(ref["key"], by_run[ref["experimentId"]].get(ref["key"], [])) for ref in columns]

    def _sampled(self, body: Mapping[str, Any]) -> Reply:
        answer = []
        for key, points in self._columns(body):
            finite = [point for point in points if math.isfinite(point.value)]
            stride = max(-(-len(finite) // body["num"]), 1)
            shown = [
                {"index": point.step, "data": point.value, "timestamp": _unix_ns(point.create_time) // 10**6}
                for point in finite[::stride]
            ]
            answer.append({"key": key, "metrics": shown})
        return Reply(200, answer)

    def _statistics(self, body: Mapping[str, Any]) -> Reply:
        answer = []
        for key, points in self._columns(body):
            entry: dict[str, Any] = {"key": key}
            for last in _latest(points).values():
                by_step = body["xType"] == "step"
                index = last.step if by_step else _unix_ns(last.create_time) // 10**6
                entry["latest"] = {"index": index, "data": _number(last.value)}
            answer.append(entry)
        return Reply(200, answer)

    def _export(self, body: Mapping[str, Any]) -> Reply:
        """Store the CSV of the columns: (value, milliseconds) pairs by step, as many rows a step as it has points."""
        header = ["step"]
        rows: dict[int, list[list[Any]]] = defaultdict(list)
        columns = self._columns(body)
        for ref in body["columns"]:
            if not ref.get("experimentName"):
                raise self._violation(400, f"an export without experimentName: {ref}")
            header += [f"{ref['experimentName']}-{ref['key']}_{suffix}" for suffix in ("step", "timestamp")]
        for i, (_, points) in enumerate(columns):
            seen: dict[int, int] = defaultdict(int)
            for point in points:
                at_step, row = rows[point.step], 0 if self.folds else seen[point.step]
                seen[point.step] += 1
                if row == len(at_step):
                    at_step.append([point.step] + [""] * (2 * len(columns)))
                at_step[row][1 + 2 * i : 3 + 2 * i] = [repr(point.value), _unix_ns(point.create_time) // 10**6]
        text = io.StringIO()
        csv.writer(text).writerows([header, *(row for step in sorted(rows) for row in rows[step])])
        return self._store_file("csv", text.getvalue())

    def _log_page(self, query: Mapping[str, str]) -> Reply:
        ref = {"experimentId": query.get("experimentId"), "createdAt": int(query.get("createdAt", "0"))}
        self._visible(ref, query.get("projectId"))
        lines = self._run_of_cuid(ref["experimentId"]).logs
        if query.get("level") == "ERROR":
            lines = [line for line in lines if line.level == "ERROR"]
        size = int(query["size"])
        page = lines[int(query["epoch"]) * size :][:size]
        shown = [
            {"epoch": line.epoch, "level": line.level, "message": line.message, "timestamp": line.create_time}
            for line in page
        ]
        return Reply(200, {"logs": shown, "count": len(lines)})

    def _export_log(self, body: Mapping[str, Any]) -> Reply:
        self._visible(body)
        lines = self._run_of_cuid(body["experimentId"]).logs[body["start"] :][: body["rows"]]
        return self._store_file("log", "".join(f"{line.message}\n" for line in lines))

    def _store_file(self, suffix: str, text: str) -> Reply:
        path = f"exports/{_cuid()}.{suffix}"
        self._files[path] = text.encode()
        return Reply(200, {"cosKey": path})

    def _sign(self, path: str) -> str:
        if path not in self._files:
            raise Refused(404, "Not Found")
        token = secrets.token_hex(16)
        self._signed[token] = path
        return f"{self.url}/files/{token}"

    def _download(self, token: str) -> Reply:
        """The object store: the link itself is the permission, there is no cookie."""
        if token not in self._signed:
            raise Refused(403, "Forbidden")
        return Reply(200, self._files[self._signed[token]], {"Content-Type": "text/csv"})


def _cuid() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(21))


def _json(request: Request) -> dict[str, Any]:
    try:
        body = request.json() if request.body else {}
    except ValueError:
        raise Refused(400, "not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "not an object")
    return body


def _opened_answer(run: Run) -> dict[str, Any]:
    return {"cuid": run.cuid, "slug": run.run_id, "name": run.name, "createdAt": run.created_at}


def _run_answer(run: Run) -> dict[str, Any]:
    return {
        **_opened_answer(run),
        "type": "CHAPTER",
        "description": run.description or "",
        "labels": [{"name": label} for label in run.labels],
        "profile": json.loads(json.dumps(run.profile)),
        "show": True,
        "state": run.state,
        "cluster": run.group or "",
        "job": run.job or "",
        "user": {"username": run.project.user, "name": run.project.user},
        "finishedAt": run.finished_at,
    }


def _latest(points: Iterable[Point], before: Mapping[str, Point] | None = None) -> dict[str, Point]:
    """Of each key the point with the highest step, and of two at that step the later one."""
    latest: dict[str, Point] = dict(before or {})
    for point in points:
        if point.key not in latest or point.step >= latest[point.key].step:
            latest[point.key] = point
    return latest


def _extremes(points: Iterable[Point], key: str) -> dict[str, float]:
    values = [point.value for point in points if point.key == key and math.isfinite(point.value)]
    return {"min": min(values), "max": max(values), "avg": math.fsum(values) / len(values)} if values else {}


def _number(value: float) -> float | str:
    return "NaN" if math.isnan(value) else value


def _is_text(value: Any, limit: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= limit


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and _matches_key(value)


@lru_cache(maxsize=100_000)
def _matches_key(text: str) -> bool:
    return KEY.fullmatch(text) is not None


def _is_time(value: Any) -> bool:
    try:
        _unix_ns(value)
    except (TypeError, ValueError):
        return False
    return True


@lru_cache(maxsize=100_000)  # the points of a row have one time: the syncs that are timed against this wait for it
def _unix_ns(text: str) -> int:
    """Nanoseconds of an RFC 3339 time; ValueError if it is none."""
    found = RFC3339.fullmatch(text)
    if found is None:
        raise ValueError(f"not RFC 3339: {text!r}")
    seconds, fraction, offset = found.groups()
    whole = datetime.fromisoformat(seconds + offset.replace("Z", "+00:00")).timestamp()
    return int(whole) * 10**9 + int((fraction or "").ljust(9, "0"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.swanlab", description=SwanlabServer.__doc__)
    parser.add_argument("--port", type=int, default=0)
    with SwanlabServer(port=parser.parse_args().port) as server, contextlib.suppress(KeyboardInterrupt):
        for name, value in server.env().items():
            print(f"export {name}={value}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
