"""
What a remote can do to a sync, and what becomes of it: the table of README, each cell tried with the real clients.

Whatever happens, a sync ends in one of two ways: with status 0, and every row is at the remote exactly once; or with
status 1, the run and the reason, and a later sync brings the rest.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker.store import Runs
from tests.syncing import REMOTES, House, add, all_at_once, begin, losses

REQUESTS: dict[str, dict[str, str]] = {
    "wandb": {
        "login": "Viewer",
        "look": "graphql Run",
        "open": "UpsertBucket",
        "rows": "history",
        "files": "CreateRunFiles",
        "upload": "PUT /storage",
        "end": "complete",
    },
    "swanlab": {
        "login": "/login",
        "project": "POST /projects/tester",
        "look": "GET /project/tester/p",
        "open": "/experiment",
        "config": "/profile",
        "heartbeat": "heartbeat",
        "series": "/series",
        "rows": "POST /house/metrics",
        "summary": "summaries",
        "end": "/state",
    },
}
"""The kinds of requests of a sync, in their order, and the labels by which the stand-ins know them."""

FAULTS: dict[str, dict[str, Any]] = {
    "429, Retry-After": {"status": 429, "headers": {"Retry-After": "1"}},
    "429": {"status": 429},
    "500": {"status": 500},
    "502": {"status": 502},
    "503": {"status": 503},
    "504": {"status": 504},
    "504, applied": {"status": 504, "applied": True},
    "dropped": {"drop": "before"},
    "dropped, applied": {"drop": "after"},
    "401": {"status": 401},
    "403": {"status": 403},
    "404": {"status": 404},
    "409": {"status": 409},
    "413": {"status": 413},
}
PASSING = list(FAULTS)[:9]
"""What any request may meet once and the sync gets over; the others are refusals."""

GOT_OVER: dict[str, dict[str, set[str]]] = {
    "wandb": {
        "401": {"files", "upload"},
        "403": {"files", "upload"},
        "404": {"files", "upload"},
        "409": {"open", "files", "upload"},
        "413": {"files", "upload"},
    },
    "swanlab": {
        # The session is renewed once; 404 is what a project or a run that is not there looks like; 413 is sent in halves.
        "401": set(REQUESTS["swanlab"]) - {"login"},
        "403": set(),
        "404": {"look"},
        "409": set(),
        "413": {"rows"},
    },
}
"""Of each refusal the requests at which a single one does not end the sync."""

STAGES = 10
THREADS = 8
"""Stories at the same time: nearly all that they do is wait."""
ROWS = 6
"""Rows that the run of the stories grows by at each stage; with the last one it is finished."""


# The stories; each has a house of its own, and all go on at the same time.


def grow(house: House, stage: int) -> list[tuple[int, float]]:
    """Let the run be at a stage, 1 to `STAGES`, and return its curve."""
    folder = house.runs.folder("a1")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(house.runs.path.parents[1] / "stages" / str(stage), folder)
    return losses(range(ROWS * stage))


def held(house: House, remote: str) -> list[tuple[int, Any]]:
    """What a remote holds by now: a part of the curve without a hole, every row once."""
    points: list[tuple[int, Any]] = house.double(remote).points("a1", "loss") if house.double(remote).runs else []
    assert points == losses(range(len(points)))
    return points


def mends(house: House, remote: str) -> None:
    """Sync once more, with no fault on the way: all is well."""
    house.double(remote).clear_faults()
    curve = grow(house, STAGES)
    result = house.again(remote).result
    assert (result["rows"], result["last_step"], result["held_back"]) == (len(curve), curve[-1][0], 0)
    house.check(remote, "a1", curve)
    run = house.double(remote).runs["a1"]
    assert run.config["lr"] == 0.1 and run.state == {"wandb": "finished", "swanlab": "FINISHED"}[remote]
    assert house.again(remote).result["status"] == "nothing new"
    house.check_nothing_left()


def passing(house: House, remote: str, fault: str) -> None:
    """The fault once at each kind of request of one sync."""
    double = house.double(remote)
    for match in REQUESTS[remote].values():
        double.fault(match, **FAULTS[fault])
    curve = grow(house, STAGES)
    result = house.again(remote, patience_s=20).result
    assert double.pending == []
    assert (result["status"], result["sent"], result["rows"]) == ("confirmed", len(curve), len(curve))
    house.check(remote, "a1", curve)
    mends(house, remote)


def refusing(house: House, remote: str, fault: str) -> None:
    """The refusal at one kind of request after the other, each in a sync of its own; the run grows meanwhile."""
    double = house.double(remote)
    for stage, (kind, match) in enumerate(REQUESTS[remote].items(), STAGES + 1 - len(REQUESTS[remote])):
        ordered = double.fault(match, **FAULTS[fault])
        curve = grow(house, stage)
        got_over = kind in GOT_OVER[remote][fault]
        outcome = house.again(remote, patience_s=20, status=0 if got_over else 1)
        assert ordered.times == 0, kind
        if got_over:
            assert outcome.result["rows"] == len(curve)
            assert held(house, remote) == curve
        else:
            assert outcome.result["run"] == "a1" if outcome.results else True
            assert re.search(rf"\b{fault}\b", outcome.reason) or "deleted" in outcome.reason, (kind, outcome.reason)
            held(house, remote)
        if (kind, fault) == ("project", "404"):  # the client takes it for an older server, and tries that one's address
            assert house.swanlab.unknown == ["POST /project"]
            house.swanlab.unknown.clear()
    mends(house, remote)


FOR_GOOD = {"wandb": ("rows",), "swanlab": ("login", "look", "open", "rows", "end")}


def lasting(house: House, remote: str, fault: str) -> None:
    """The fault at every request of a kind: the sync gives up and says so."""
    double = house.double(remote)
    for stage, kind in enumerate(FOR_GOOD[remote], STAGES + 1 - len(FOR_GOOD[remote])):
        double.clear_faults()
        double.fault(REQUESTS[remote][kind], times=10**6, **FAULTS[fault])
        curve = grow(house, stage)
        # Rows that arrive without an answer are seen to be there; W&B's uploader may be stuck with the first of them.
        arrives = kind == "rows" and fault.endswith("applied")
        may_end = (0, 1) if arrives and remote == "wandb" else (0,) if arrives else (1,)
        outcome = house.again(remote, patience_s={"wandb": 6, "swanlab": 2}[remote], status=may_end)
        if outcome.status == 0:
            assert held(house, remote) == curve
            continue
        assert outcome.result["run"] == "a1"
        assert outcome.reason.startswith(remote), (kind, outcome.reason)
        if isinstance(FAULTS[fault].get("status"), int) and not FAULTS[fault].get("applied"):
            assert re.search(rf"\b{FAULTS[fault]['status']}\b|gone|deleted", outcome.reason), (kind, outcome.reason)
        held(house, remote)
    mends(house, remote)


# The table.

Stories = dict[str, "Future[None]"]


def make_stages(home: Path) -> Runs:
    """Make the run of the stories as it is at each stage."""
    runs = Runs(home / "runs")
    run = begin(runs, steps=(), config={"lr": 0.1})
    for stage in range(1, STAGES + 1):
        add(run, range(ROWS * (stage - 1), ROWS * stage))
        if stage == STAGES:
            offline_tracker.finish()
        shutil.copytree(runs.folder("a1"), home / "stages" / str(stage))
    return runs


def all_stories() -> dict[str, Callable[[House], None]]:
    stories: dict[str, Callable[[House], None]] = {}
    for remote in REMOTES:
        for fault in FAULTS:
            story = passing if fault in PASSING else refusing
            stories[f"{story.__name__} {remote} {fault}"] = partial(story, remote=remote, fault=fault)
            stories[f"lasting {remote} {fault}"] = partial(lasting, remote=remote, fault=fault)
    return stories


@pytest.fixture(scope="module")
def under_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stories]:
    home = tmp_path_factory.mktemp("stories")
    runs, stories = make_stages(home), all_stories()
    with all_at_once(home, runs.path, stories, threads=THREADS) as told:
        yield told


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("remote", REMOTES)
def test_a_fault_that_passes_is_got_over_at_any_request(under_way: Stories, remote: str, fault: str) -> None:
    under_way[f"passing {remote} {fault}"].result()


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in PASSING])
@pytest.mark.parametrize("remote", REMOTES)
def test_a_refusal_is_said_at_any_request_and_the_next_sync_mends(under_way: Stories, remote: str, fault: str) -> None:
    under_way[f"refusing {remote} {fault}"].result()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("remote", REMOTES)
def test_a_fault_that_stays_is_said_and_a_later_sync_mends(under_way: Stories, remote: str, fault: str) -> None:
    under_way[f"lasting {remote} {fault}"].result()
