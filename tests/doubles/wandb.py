"""A stand-in for W&B that serves the real wandb client and `wandb.Api`; stricter than W&B wherever W&B is lenient."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.doubles.server import Double, Reply, Request

API_KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class WandbRun:
    """
    A run as the server has it.

    Attributes:
        config: plain values; what wandb itself keeps under ``_wandb`` is in `internal`.
        history: one dict a line; NaN and infinities are floats.
        output: console lines with the time in front, as the client sends them.
        files: uploaded files, by name.
        alerts: title, text and severity of what was notified.
        upserts: UpsertBucket requests that were applied, the first one included.
        marks: ``(unix time, lines, last line as JSON)`` after each change of the history.
    """

    entity: str
    project: str
    id: str
    storage_id: str
    display_name: str
    state: str = "running"
    exitcode: int | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    group: str | None = None
    job_type: str | None = None
    host: str | None = None
    program: str | None = None
    commit: str | None = None
    repo: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    internal: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    upserts: int = 0
    marks: list[tuple[float, int, str | None]] = field(default_factory=list)
    created_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}/{self.id}"

    @property
    def metadata(self) -> dict[str, Any]:
        """What is in the uploaded wandb-metadata.json; empty before it came."""
        loaded: dict[str, Any] = json.loads(self.files.get("wandb-metadata.json", b"{}"))
        return loaded

    @property
    def config_json(self) -> str:
        """The config as W&B stores it: ``{"lr": {"value": 0.1, "desc": null}, "_wandb": ...}``."""
        stored = {key: {"value": value, "desc": None} for key, value in self.config.items()}
        if self.internal:
            stored["_wandb"] = {"value": self.internal, "desc": None}
        return json.dumps(stored)


class GraphQLError(Exception):
    """An answer with ``errors`` and this HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WandbServer(Double):
    """
    W&B on loopback: GraphQL, file_stream, file storage and the reads of `wandb.Api`.

    Args:
        api_key: the only one that is let in.
        entity: the viewer's entity, the default for runs without one.
        teams: further entities that exist; any other is 404.
        lag_s: RunResumeStatus and the public API show line count and last step of so many seconds ago.
        rewinds: whether it can rewind runs, as W&B's newer servers can for those who were let in.

    Attributes:
        by_path: runs by ``"entity/project/id"``.
        created: runs that were inserted so far, deleted ones included.
        violations: what a client did that the real service may not forgive; tests assert that it is empty.
        unknown: GraphQL operations that came and are not served; tests assert that it is empty.
    """

    holds = ("by_path", "_projects", "_deleted", "created")

    def __init__(
        self,
        *,
        api_key: str = API_KEY,
        entity: str = "house",
        teams: Iterable[str] = ("lab",),
        lag_s: float = 0.0,
        rewinds: bool = False,
        port: int = 0,
    ) -> None:
        super().__init__(port=port)
        self.api_key = api_key
        self.entity = entity
        self.teams = tuple(teams)
        self.lag_s = lag_s
        self.rewinds = rewinds
        self.by_path: dict[str, WandbRun] = {}
        self.created = 0
        self.violations: list[str] = []
        self.unknown: list[str] = []
        self._projects: set[tuple[str, str]] = set()
        self._deleted: set[str] = set()

    # What tests read and do.

    @property
    def runs(self) -> Mapping[str, WandbRun]:
        """Runs by id; AssertionError when two projects have the same id (use `by_path`)."""
        with self.lock:
            runs = {run.id: run for run in self.by_path.values()}
            assert len(runs) == len(self.by_path), f"an id is in two projects: {sorted(self.by_path)}"
            return runs

    def steps(self, run_id: str) -> list[int]:
        with self.lock:
            return [row["_step"] for row in self.runs[run_id].history]

    def points(self, run_id: str, metric: str) -> list[tuple[int, Any]]:
        """Return ``(step, value)`` of every history line that holds *metric*, in the order of the lines."""
        with self.lock:
            return [(row["_step"], row[metric]) for row in self.runs[run_id].history if metric in row]

    def delete(self, run_id: str) -> None:
        """Delete a run as somebody would in the browser: its id is burnt (409) for ever."""
        with self.lock:
            path = self.runs[run_id].path
            del self.by_path[path]
            self._deleted.add(path)

    def lose_last(self, run_id: str, n: int) -> None:
        """Forget the last *n* history lines, as a server that lost its last batch."""
        with self.lock:
            run = self.runs[run_id]
            del run.history[len(run.history) - n :]
            self._note_mark(run)

    def lose(self, run_id: str, steps: Iterable[int]) -> None:
        """Forget the history lines of some steps, wherever they are."""
        with self.lock:
            run, lost = self.runs[run_id], set(steps)
            run.history[:] = [row for row in run.history if row["_step"] not in lost]
            self._note_mark(run)

    def note_mark(self, run_id: str) -> None:
        """Let readers see what a test has done to a run's history."""
        with self.lock:
            self._note_mark(self.runs[run_id])

    def env(self) -> dict[str, str]:
        """Return the environment variables that point a real client here and keep it from anything else."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.api_key,
            "WANDB_ERROR_REPORTING": "false",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    # HTTP.

    def label(self, request: Request) -> str:
        """Name a request; of a file_stream also what it brings: ``".../file_stream history summary complete"``."""
        if request.path == "/graphql":
            return f"POST /graphql {_operation(request)}"
        if request.path.endswith("/file_stream"):
            return f"{super().label(request)}{_brings(request)}"
        return super().label(request)

    def handle(self, request: Request) -> Reply:
        if request.path.startswith("/storage/"):
            return self._storage(request)  # as behind signed URLs: no key asked, none expected
        expected = "Basic " + base64.b64encode(f"api:{self.api_key}".encode()).decode()
        if request.headers.get("authorization") != expected:
            return Reply(401, {"errors": [{"message": "user is not logged in"}]})
        if request.method == "POST" and request.path == "/graphql":
            return self._graphql(request)
        stream = re.fullmatch(r"/files/([^/]+/[^/]+/[^/]+)/file_stream", request.path)
        if request.method == "POST" and stream:
            return self._file_stream(stream[1], request.json())
        self.unknown.append(self.label(request))
        return Reply(404, {"error": "not served"})

    def _graphql(self, request: Request) -> Reply:
        operation = _operation(request)
        serve: Callable[[dict[str, Any]], dict[str, Any]] | None = getattr(self, f"_gql_{operation}", None)
        if serve is None:
            self.unknown.append(operation)
            return Reply(400, {"errors": [{"message": f"the double does not serve {operation!r}"}]})
        try:
            return Reply(200, {"data": serve(request.json().get("variables") or {})})
        except GraphQLError as error:
            return Reply(error.status, {"errors": [{"message": str(error), "path": [operation]}], "data": None})

    def _storage(self, request: Request) -> Reply:
        *path, name = request.path.removeprefix("/storage/").split("/", 3)
        run = self.by_path.get("/".join(path))
        if run is None:
            return Reply(404, {"error": "no such run"})
        if request.method == "PUT":
            run.files[name] = request.body
            return Reply(200, b"")
        if request.method == "GET" and name in run.files:
            return Reply(200, run.files[name], {"Content-Type": "application/octet-stream"})
        return Reply(404, {"error": "no such file"})

    def _file_stream(self, path: str, body: dict[str, Any]) -> Reply:
        if path in self._deleted:
            return Reply(409, {"error": f"run {path} was deleted"})
        run = self.by_path.get(path)
        if run is None:
            return Reply(404, {"error": f"run {path} not found"})
        for name, chunk in (body.get("files") or {}).items():
            offset, content = chunk["offset"], chunk["content"]
            if name == "wandb-history.jsonl":
                if not all(_is_row(line) for line in content):
                    self.violations.append(f"{path}: a history line is no JSON object with an integer _step: {content}")
                    return Reply(400, {"error": "bad history line"})
                self._place(run, name, run.history, offset, [json.loads(line) for line in content])
                self._check_order(run, offset)
                self._note_mark(run)
            elif name == "wandb-events.jsonl":
                self._place(run, name, run.events, offset, [json.loads(line) for line in content])
            elif name == "output.log":
                # a progress bar rewrites its line, so other content at a known offset is right here
                self._place(run, name, run.output, offset, content, may_change=True)
            elif name == "wandb-summary.json":
                run.summary = json.loads(content[-1])
            else:
                self.violations.append(f"{run.path}: unknown file {name!r} in file_stream")
        if body.get("complete"):
            run.exitcode = body.get("exitcode")
            run.state = "finished" if run.exitcode == 0 else "failed"
        else:
            run.state, run.exitcode = "running", None
        return Reply(200, {"exitcode": None, "limits": {}})

    def _place(
        self, run: WandbRun, name: str, lines: list[Any], offset: int, content: list[Any], *, may_change: bool = False
    ) -> None:
        """Put *content* at *offset* of *lines*; a retry finds the same lines there, anything else is a violation."""
        if offset > len(lines):
            self.violations.append(f"{run.path}: {name} at offset {offset}, but there are {len(lines)} lines")
            offset = len(lines)
        there = lines[offset : offset + len(content)]
        if not may_change and json.dumps(there, sort_keys=True) != json.dumps(content[: len(there)], sort_keys=True):
            self.violations.append(f"{run.path}: {name} at offset {offset} overwrites {len(there)} lines with others")
        lines[offset : offset + len(content)] = content

    def _check_order(self, run: WandbRun, offset: int) -> None:
        for before, row in zip(run.history[max(offset - 1, 0) :], run.history[max(offset, 1) :], strict=False):
            if row["_step"] <= before["_step"]:
                self.violations.append(f"{run.path}: step {row['_step']} after step {before['_step']}")

    # Marks: what a reader sees, `lag_s` late.

    def _note_mark(self, run: WandbRun) -> None:
        tail = json.dumps(run.history[-1]) if run.history else None
        run.marks.append((time.time(), len(run.history), tail))

    def _mark(self, run: WandbRun) -> tuple[int, str | None]:
        """Return line count and last line as a reader sees them now."""
        seen = time.time() - self.lag_s
        if self.shown_until is not None:
            seen = min(seen, self.shown_until)
        for at, count, tail in reversed(run.marks):
            if at <= seen:
                return count, tail
        return 0, None

    def _seen(self, run: WandbRun) -> list[dict[str, Any]]:
        return run.history[: self._mark(run)[0]]

    # GraphQL, one method an operation.

    def _gql_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "viewer": {
                "id": "VXNlcjox",
                "entity": self.entity,
                "username": self.entity,
                "email": f"{self.entity}@example.org",
                "flags": "{}",
                "teams": {"edges": [{"node": {"name": team}} for team in (self.entity, *self.teams)]},
            }
        }

    def _gql_OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _gql_ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _gql_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        entity, project = variables["entity"] or self.entity, variables["project"] or "uncategorized"
        if (entity, project) not in self._projects:
            return {"model": None}
        run = self.by_path.get(f"{entity}/{project}/{variables['name']}")
        model = {"id": f"P:{project}", "name": project, "entity": {"id": f"E:{entity}", "name": entity}, "bucket": None}
        if run is None:
            return {"model": model}
        count, tail = self._mark(run)
        bucket = {
            "id": run.storage_id,
            "name": run.id,
            "displayName": run.display_name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": len(run.output),
            "historyLineCount": count,
            "eventsLineCount": len(run.events),
            "historyTail": json.dumps([tail] if tail else []),
            "eventsTail": json.dumps([json.dumps(row) for row in run.events[-1:]]),
            "config": run.config_json,
            "tags": run.tags,
            "notes": run.notes,
            "wandbConfig": json.dumps({key: run.internal[key] for key in ("t",) if key in run.internal}),
        }
        return {"model": {**model, "bucket": bucket}}

    def _gql_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in variables.items() if value is not None}
        run, inserted = self._find_or_insert(given)
        run.upserts += 1
        for attribute, variable in (
            ("display_name", "displayName"),
            ("notes", "notes"),
            ("group", "groupName"),
            ("job_type", "jobType"),
            ("host", "host"),
            ("program", "program"),
            ("commit", "commit"),
            ("repo", "repo"),
            ("tags", "tags"),
        ):
            setattr(run, attribute, given.get(variable, getattr(run, attribute)))
        if "config" in given:  # the whole of it, not merged: W&B promises no more
            stored = json.loads(given["config"])
            run.internal = stored.pop("_wandb", {}).get("value", {})
            run.config = {key: item["value"] for key, item in stored.items()}
        if "summaryMetrics" in given:
            run.summary = json.loads(given["summaryMetrics"])
        run.state, run.exitcode = given.get("state", "running"), None
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: WandbRun) -> dict[str, Any]:
        return {
            "id": run.storage_id,
            "name": run.id,
            "displayName": run.display_name,
            "description": None,
            "config": run.config_json,
            "sweepName": None,
            "project": {
                "id": f"P:{run.project}",
                "name": run.project,
                "entity": {"id": f"E:{run.entity}", "name": run.entity},
            },
            "historyLineCount": len(run.history),
        }

    def _find_or_insert(self, given: dict[str, Any]) -> tuple[WandbRun, bool]:
        if "name" not in given:
            raise GraphQLError(400, "the double finds runs by name only")
        entity, project, run_id = given.get("entity", self.entity), given.get("project", "uncategorized"), given["name"]
        if entity not in (self.entity, *self.teams):
            raise GraphQLError(404, f"entity {entity} not found during upsertBucket")
        if not 1 <= len(project) <= 128 or re.search(r"[/\\#?%:]", project):
            raise GraphQLError(400, f"invalid project name {project!r}")
        if not 1 <= len(run_id) <= 128 or re.search(r"[:;,#?/']", run_id) or run_id != run_id.strip():
            raise GraphQLError(400, f"invalid run id {run_id!r}")
        for tag in given.get("tags", ()):
            if not 1 <= len(tag) <= 64:
                raise GraphQLError(400, f"tag {tag!r} must have 1 to 64 characters")
        path = f"{entity}/{project}/{run_id}"
        if path in self._deleted:
            raise GraphQLError(409, f"run {path} was previously created and deleted; try a new run name")
        self._projects.add((entity, project))
        if path in self.by_path:
            return self.by_path[path], False
        self.created += 1
        run = WandbRun(entity, project, run_id, f"R:{self.created}", given.get("displayName", run_id))
        self.by_path[path] = run
        return run, True

    def _gql_RewindRun(self, variables: dict[str, Any]) -> dict[str, Any]:
        """
        Drop what is above a step. What the service's own reports show (wandb/wandb#10438): only a run that has ended.

        Stricter than is known: the step must be that of a row, and the run counts as running at once, so that the same
        request a second time is refused. As documented, console and hardware samples begin anew.
        """
        if not self.rewinds:
            raise GraphQLError(400, 'Cannot query field "rewindRun" on type "Mutation".')
        path = f"{variables['entity']}/{variables['project']}/{variables['runName']}"
        run = self.by_path.get(path)
        if run is None:
            raise GraphQLError(404, f"run {path} not found")
        if variables["metricName"] != "_step":
            raise GraphQLError(400, "rewind only supports _step")
        if run.state not in ("finished", "failed", "crashed", "killed"):
            raise GraphQLError(400, "cannot rewind a run that is not in a terminal state")
        if variables["metricValue"] not in [row["_step"] for row in run.history]:
            raise GraphQLError(400, f"run {path} has no step {variables['metricValue']}")
        run.history[:] = [row for row in run.history if row["_step"] <= variables["metricValue"]]
        run.events.clear()
        run.output.clear()
        run.summary = {key: value for row in run.history for key, value in row.items()}
        run.state, run.exitcode = "running", None
        self._note_mark(run)
        return {"rewindRun": {"rewoundRun": self._bucket(run)}}

    def _gql_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self._run(variables)
        if run is None:
            raise GraphQLError(404, "run not found")
        urls = [(name, f"{self.url}/storage/{run.path}/{quote(name)}") for name in variables["files"]]
        files = [{"name": name, "uploadUrl": url} for name, url in urls]
        return {"createRunFiles": {"runID": run.storage_id, "uploadHeaders": [], "files": files}}

    def _gql_NotifyScriptableRunAlert(self, variables: dict[str, Any]) -> dict[str, Any]:
        path = f"{variables['entityName']}/{variables['projectName']}/{variables['runName']}"
        run = self.by_path.get(path)
        if run is None:
            raise GraphQLError(404, f"run {path} not found")
        title, text, severity = variables["title"], variables["text"], variables["severity"]
        if severity not in ("INFO", "WARN", "ERROR") or not title:
            raise GraphQLError(400, f"alert {title!r} of severity {severity!r}")
        run.alerts.append((title, text, severity))
        return {"notifyScriptableRunAlert": {"success": True}}

    def _gql_RunState(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self._project(variables, lambda run: {"id": run.storage_id, "state": run.state})

    # What wandb.Api asks.

    def _gql_GetDefaultEntity(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "VXNlcjox", "entity": self.entity}}

    def _gql_Run(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self._project(variables, self._node)

    def _gql_RunHistoryKeys(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self._project(variables, lambda run: {"historyKeys": self._history_keys(run)})

    def _gql_RunParquetHistory(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self._project(variables, lambda run: {"parquetHistory": {"parquetUrls": [], "liveData": []}})

    def _gql_HistoryPage(self, variables: dict[str, Any]) -> dict[str, Any]:
        low, high, size = variables["minStep"], variables["maxStep"], variables["pageSize"]
        if not 0 < size < 2**31:
            raise GraphQLError(400, f"pageSize {size} is no Int of GraphQL")

        def page(run: WandbRun) -> dict[str, Any]:
            rows = [row for row in self._seen(run) if low <= row["_step"] < high]
            rows.sort(key=lambda row: row["_step"])
            return {"history": [json.dumps(_strings_for_nan(row)) for row in rows[:size]]}

        return self._project(variables, page)

    def _gql_RunFullHistory(self, variables: dict[str, Any]) -> dict[str, Any]:
        size = variables["samples"]
        return self._project(
            variables,
            lambda run: {
                "history": [json.dumps(_strings_for_nan(row)) for row in self._seen(run)[:size]],
                "events": [json.dumps(row) for row in run.events[:size]],
            },
        )

    def _gql_SampledHistoryPage(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self._project(variables, lambda run: {"sampledHistory": [_sampled(self._seen(run), variables["spec"])]})

    def _gql_RunSampledHistory(self, variables: dict[str, Any]) -> dict[str, Any]:
        specs = variables["specs"]
        return self._project(
            variables, lambda run: {"sampledHistory": [_sampled(self._seen(run), spec) for spec in specs]}
        )

    def _gql_RunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        def files(run: WandbRun) -> dict[str, Any]:
            names = [name for name in run.files if name in (variables["fileNames"] or run.files)]
            edges = [{"node": self._file_node(run, name), "cursor": name} for name in names]
            page = {"endCursor": names[-1] if names else None, "hasNextPage": False}
            return {"fileCount": len(run.files), "files": {"edges": edges, "pageInfo": page}}

        return self._project(variables, files)

    def _file_node(self, run: WandbRun, name: str) -> dict[str, Any]:
        url = f"{self.url}/storage/{run.path}/{quote(name)}"
        described = {"id": name, "name": name, "mimetype": "", "updatedAt": run.created_at, "md5": ""}
        return {**described, "url": url, "directUrl": url, "sizeBytes": len(run.files[name])}

    def _run(self, variables: dict[str, Any]) -> WandbRun | None:
        name = variables.get("name") or variables.get("run") or variables.get("runName")
        return self.by_path.get(f"{variables['entity']}/{variables['project']}/{name}")

    def _project(self, variables: dict[str, Any], read: Callable[[WandbRun], dict[str, Any]]) -> dict[str, Any]:
        """Answer ``project { run { ... } }``: null for a project or a run that is not there."""
        entity, project = variables["entity"], variables["project"]
        if (entity, project) not in self._projects:
            return {"project": None}
        run = self._run(variables)
        return {"project": {"internalId": "1", "run": None if run is None else read(run)}}

    def _node(self, run: WandbRun) -> dict[str, Any]:
        return {
            "id": run.storage_id,
            "projectId": "1",
            "name": run.id,
            "displayName": run.display_name,
            "tags": run.tags,
            "sweepName": None,
            "state": run.state,
            "config": run.config_json,
            "group": run.group,
            "jobType": run.job_type,
            "commit": run.commit,
            "readOnly": False,
            "createdAt": run.created_at,
            "heartbeatAt": run.created_at,
            "description": None,
            "notes": run.notes,
            "systemMetrics": json.dumps(run.events[-1] if run.events else {}),
            "summaryMetrics": json.dumps(_strings_for_nan(run.summary)),
            "historyLineCount": self._mark(run)[0],
            "user": {"name": self.entity, "username": self.entity},
            "historyKeys": self._history_keys(run),
        }

    def _history_keys(self, run: WandbRun) -> dict[str, Any] | None:
        _, tail = self._mark(run)
        if tail is None:
            return None
        keys: dict[str, int] = {}
        for row in self._seen(run):
            for key in row:
                keys[key] = keys.get(key, 0) + 1
        counts = {key: {"typeCounts": [{"type": "number", "count": n}]} for key, n in keys.items()}
        return {"lastStep": json.loads(tail)["_step"], "keys": counts, "sets": []}


def _operation(request: Request) -> str:
    """Name the GraphQL operation from the query text, as `wandb.Api` sends an empty operationName."""
    try:
        named = re.search(r"\b(?:query|mutation)\s+(\w+)", request.json()["query"])
    except (ValueError, KeyError, TypeError):
        named = None
    return named[1] if named else "?"


def _brings(request: Request) -> str:
    """Name the files of a file_stream, without their suffix, and "complete" if it ends the run."""
    try:
        body = request.json()
        names = [name.partition(".")[0].removeprefix("wandb-") for name in body.get("files") or ()]
        return "".join(f" {word}" for word in (*sorted(names), *(["complete"] if body.get("complete") else ())))
    except (ValueError, AttributeError, TypeError):
        return " ?"


def _is_row(line: str) -> bool:
    try:
        row = json.loads(line)  # takes NaN and Infinity, as W&B does
    except ValueError:
        return False
    return isinstance(row, dict) and type(row.get("_step")) is int


def _sampled(history: list[dict[str, Any]], spec_json: str) -> list[dict[str, Any]]:
    """Return the rows that have all keys of a sampledHistory spec; its ``maxStep`` counts in."""
    spec = json.loads(spec_json)
    low, high = spec.get("minStep", 0), spec.get("maxStep", float("inf"))
    keys = set(spec["keys"])
    rows = [row for row in history if low <= row["_step"] <= high and keys <= row.keys()]
    return [_strings_for_nan({key: row[key] for key in keys}) for row in rows[: spec["samples"]]]


def _strings_for_nan(value: Any) -> Any:
    """Write NaN and the infinities as strings, as W&B hands them out (https://github.com/wandb/sweeps/pull/32)."""
    if isinstance(value, dict):
        return {key: _strings_for_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strings_for_nan(item) for item in value]
    if isinstance(value, float) and value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def main() -> None:
    """Run the double in the foreground until Ctrl-C and print how to point a client at it."""
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.wandb", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    with WandbServer(port=parser.parse_args().port) as server:
        for key, value in server.env().items():
            print(f"export {key}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
