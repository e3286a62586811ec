"""
A remote that is no more than a JSON file, as a third party may write one: nothing of ours but the interface.

Strict where a real service is lenient: a row that is not newer than all others is refused, and so is an open run that was
never closed. Registered as ``toy`` by `install`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_tracker.curve import Row
from offline_tracker.errors import BadName, NoCredentials, RemoteDown, RemoteRefused, RemoteRunGone
from offline_tracker.sync.remotes import UUID_KEY, Besides, Facts, Found, Mark, Pace, Part, Tally, Target, whereabouts

WHERE = "TOY_SERVICE"
"""The variable that names the service's file; it takes the place of an address and a key."""


def install(site: Path) -> None:
    """Make a folder for sys.path that registers the toy, as pip does when it installs a distribution."""
    info = site / "toy_remote-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-remote\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[offline_tracker.remotes]\ntoy = tests.toy_remote:ToyRemote\n")


_TURN = threading.Lock()  # of the threads of one sync


class ToyService:
    """The file: ``{"runs": {path: {"config", "state", "name", "rows": [[step, time, values]], "samples": [],
    "lines": [], "alerts": []}}, "deleted": [path]}``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"runs": {}, "deleted": []}
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found

    def write(self, all_of_it: Mapping[str, Any]) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(all_of_it))
        new.replace(self.path)

    def change(self, path: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Apply *change* to one run."""
        with _TURN:
            everything = self.read()
            change(everything["runs"][path])
            self.write(everything)

    def delete(self, path: str) -> None:
        everything = self.read()
        del everything["runs"][path]
        self.write({**everything, "deleted": [*everything["deleted"], path]})


class ToyRemote:
    """See `remotes.Remote`."""

    name = "toy"
    settle_s = 0.0
    fills = False
    hides_nan = False
    alerts = True

    def __init__(self) -> None:
        self.server = ""
        self.patience_s = 10.0
        self.pace = Pace()

    def address(self) -> str:
        return whereabouts((WHERE,), ())

    def connect(self) -> str:
        where = os.environ.get(WHERE)
        if not where:
            raise NoCredentials(f"toy: no service; set {WHERE}")
        self.server = where
        self.service = ToyService(Path(where))
        if not self.service.path.parent.is_dir():
            raise RemoteDown(f"toy: {where} can't be reached")
        return "me"

    def check(self, target: Target) -> None:
        if "/" in target.project or "/" in target.entity:
            raise BadName(f"toy: {target.entity}/{target.project} is refused there: no slashes")

    def look(self, target: Target) -> Found | None:
        self.pace.request()
        run = self.service.read()["runs"].get(path_of(target))
        if run is None:
            return None
        steps: dict[str, int] = {}
        for step, _, values in run["rows"]:
            steps.update(dict.fromkeys(values, step))
        last = run["rows"][-1][0] if run["rows"] else None
        return Found(
            Mark(last, len(run["rows"]), steps), run["config"].get(UUID_KEY), run["state"], f"toy:{path_of(target)}"
        )

    def tally(self, target: Target) -> Tally:
        run = self.service.read()["runs"][path_of(target)]
        return Tally(len(run["samples"]), len(run["lines"]))

    def agrees(self, found: Mark, local: Mark) -> bool:
        return (found.last_step, found.rows) == (local.last_step, local.rows)

    def shown(self, values: Mapping[str, Any]) -> Mapping[str, float | str]:
        return {name: _held(value) for name, value in values.items() if value is not None}

    def points(self, target: Target, found: Found) -> Iterator[Part]:
        rows = self.service.read()["runs"][path_of(target)]["rows"]
        yield Part(None, ((step, values) for step, _, values in sorted(rows, key=lambda row: row[0])))

    def rewind(self, target: Target, step: int, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> None:
        def cut(run: dict[str, Any]) -> None:
            if step not in [row[0] for row in run["rows"]]:
                raise RemoteRefused(f"toy: there is no step {step} to rewind to")
            run["rows"] = [row for row in run["rows"] if row[0] <= step]

        self.service.change(path_of(target), cut)

    def open(self, target: Target, facts: Facts, started: Callable[[Mapping[str, Any]], None]) -> ToyShipment:
        path = path_of(target)
        with _TURN:
            everything = self.service.read()
            if path in everything["deleted"]:
                raise RemoteRunGone(f"toy: {path} was deleted")
            run = everything["runs"].setdefault(path, {"rows": [], "samples": [], "lines": [], "alerts": []})
            config = {UUID_KEY: facts.uuid, **facts.config}
            run.update({"config": config, "name": facts.name, "state": "running"})
            self.service.write(everything)
        return ToyShipment(self, path)

    def clean(self, children: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass

    def cannot_hold(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        nothing = {name: "nothing: left out" for name, value in values.items() if value is None}
        return nothing | {name: "too large: becomes text" for name, value in values.items() if _huge(value)}

    def cannot_say(self, target: Target, facts: Facts) -> list[str]:
        return ["toy keeps no notes"] if facts.notes else []


class ToyShipment:
    """See `remotes.Shipment`."""

    batch_rows = 7
    batch_points = 100

    def __init__(self, remote: ToyRemote, path: str) -> None:
        self.url: str | None = f"toy:{path}"
        self.notes: list[str] = []
        self._remote, self._path = remote, path
        self._open = True

    def _change(self, change: Callable[[dict[str, Any]], Any]) -> None:
        if not self._open:
            raise RemoteRefused("toy: the run is closed")
        self._remote.service.change(self._path, change)

    def send(self, rows: Sequence[Row]) -> bool:
        new = [[row.step, row.time, dict(self._remote.shown(row.values))] for row in rows]
        if not 0 < len(new) <= self.batch_rows or sum(len(row[2]) for row in new) > self.batch_points:
            raise RemoteRefused(f"toy: a batch of {len(new)} rows")

        def append(run: dict[str, Any]) -> None:
            steps = [row[0] for row in run["rows"][-1:] + new]
            if steps != sorted(set(steps)):
                raise RemoteRefused(f"toy: steps {steps} do not grow")
            run["rows"] += new

        self._change(append)
        return True

    def add(self, besides: Besides) -> bool:
        def append(run: dict[str, Any]) -> None:
            if (len(run["samples"]), len(run["lines"])) != (besides.first_sample, besides.first_line):
                raise RemoteRefused("toy: samples or lines that are there already, or leave a hole")
            for name in ("samples", "lines", "alerts"):
                run[name] += getattr(besides, name)

        self._change(append)
        return True

    def flush(self) -> None:
        pass

    def busy(self) -> bool:
        return False

    def complaint(self) -> str | None:
        return None

    def trying_again(self) -> str | None:
        return None

    def finish(self, facts: Facts) -> None:
        self._change(lambda run: run.update(state=facts.state))

    def close(self) -> None:
        self._open = False


def path_of(target: Target) -> str:
    return f"{target.entity}/{target.project}/{target.remote_id}"


def _held(value: Any) -> float | str:
    return float(value) if isinstance(value, (int, float)) and not _huge(value) else str(value)


def _huge(value: Any) -> bool:
    return type(value) is int and abs(value) > sys.float_info.max
