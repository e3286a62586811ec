"""
What a remote can do to a sync, and what becomes of it: the table of README, each cell tried with the real clients.

Whatever happens, a sync ends in one of two ways: with status 0, and every row is at the remote exactly once; or with
status 1, the run and the reason, and a later sync brings the rest.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker.store import Runs
from offline_tracker.sync.ledger import Ledger
from tests.doubles.server import Request, wait_until
from tests.syncing import REMOTES, ROOT, House, add, all_at_once, begin, losses

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
        "rows": "POST /house/metrics scalar",
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
    # What passes as a rule is tried again until the patience is at its end: only once with so much of it that a busy
    # machine gets as far as the request.
    named = fault not in PASSING or (remote, fault) == ("wandb", "503")
    for stage, kind in enumerate(FOR_GOOD[remote], STAGES + 1 - len(FOR_GOOD[remote])):
        double.clear_faults()
        double.fault(REQUESTS[remote][kind], times=10**6, **FAULTS[fault])
        curve = grow(house, stage)
        # Rows that arrive without an answer are seen to be there; W&B's uploader may be stuck with the first of them.
        arrives = kind == "rows" and fault.endswith("applied")
        may_end = (0, 1) if arrives and remote == "wandb" else (0,) if arrives else (1,)
        outcome = house.again(remote, patience_s=20 if named else 2 if remote == "swanlab" else 6, status=may_end)
        if outcome.status == 0:
            assert held(house, remote) == curve
            continue
        assert outcome.result["run"] == "a1"
        assert outcome.reason.startswith(remote), (kind, outcome.reason)
        if named:
            assert re.search(rf"\b{FAULTS[fault]['status']}\b|gone|deleted", outcome.reason), (kind, outcome.reason)
        held(house, remote)
    mends(house, remote)


# What is no answer of one request.


def down(house: House, remote: str) -> None:
    """Is down."""
    grow(house, 1)
    house.double(remote).down()
    outcome = house.again(remote, patience_s=2, status=1)
    assert house.double(remote).url in outcome.reason
    # Nothing is written down of it.
    with Ledger(house.runs.path) as ledger:
        assert ledger.links() == []
    house.double(remote).up()
    mends(house, remote)


def gone_down(house: House, remote: str) -> None:
    """Goes down in the middle."""
    double = house.double(remote)
    fell = threading.Event()
    double.fault(REQUESTS[remote]["rows"], drop="after", hook=lambda _: fell.set())
    grow(house, 4)
    process = house.start(remote, patience_s=20)
    assert fell.wait(60)
    double.down()
    outcome = house.end(process)
    assert outcome.status == 1 and outcome.result["run"] == "a1", outcome.said
    held(house, remote)
    double.up()
    mends(house, remote)


def back_up(house: House, remote: str) -> None:
    """Goes down in the middle and is back a little later."""
    double = house.double(remote)
    fell: list[float] = []
    double.fault(REQUESTS[remote]["rows"], drop="after", hook=lambda _: fell.append(time.monotonic()))
    curve = grow(house, 4)
    process = house.start(remote)
    wait_until(lambda: fell, 60)
    double.down()
    wait_until(lambda: time.monotonic() - fell[0] > 1.0)
    double.up()
    outcome = house.end(process)
    assert outcome.status == 0, outcome.said
    assert outcome.result["sent"] == len(curve)
    house.check(remote, "a1", curve)


def forgotten(house: House, remote: str) -> None:
    """Loses rows that were confirmed."""
    curve = grow(house, STAGES)
    house.again(remote)
    house.double(remote).lose_last("a1", 10)
    result = house.again(remote).result
    assert (result["status"], result["sent"]) == ("confirmed", 10)
    house.check(remote, "a1", curve)


def forgotten_at_once(house: House, remote: str) -> None:
    """Acknowledges rows and loses them before they are read back."""
    double = house.double(remote)

    curve = grow(house, 4)
    reads = {"wandb": "graphql Run", "swanlab": "summaries"}[remote]

    def lose(_: Request) -> None:
        if double.points("a1", "loss") == curve:
            double.lose_last("a1", 5)
            double.shown_until = None
        else:
            double.fault(reads, hook=lose)

    double.shown_until = 0.0  # so that they are not read back before that
    double.fault(REQUESTS[remote]["rows"], hook=lambda _: double.fault(reads, hook=lose))
    result = house.again(remote, patience_s={"wandb": 12, "swanlab": 3}[remote]).result
    assert (double.pending, double.shown_until) == ([], None)
    assert (result["sent"], result["rows"]) == (len(curve), len(curve))
    house.check(remote, "a1", curve)


def late_mark(house: House, remote: str) -> None:
    """Loses an answer, and shows late what has arrived."""
    double = house.double(remote)
    grow(house, 1)
    house.again(remote)
    reads = {"wandb": "graphql Run", "swanlab": "summaries"}[remote]

    def hide(_: Request) -> None:
        double.shown_until = time.time()
        double.fault(reads, skip=3, hook=show)

    def show(_: Request) -> None:
        double.shown_until = None

    double.fault(REQUESTS[remote]["rows"], drop="after", hook=hide)
    curve = grow(house, 4)
    result = house.again(remote, settle_s=20).result
    assert double.pending == []
    assert result["rows"] == len(curve)
    house.check(remote, "a1", curve)
    mends(house, remote)


def held_up(house: House, remote: str) -> None:
    """Answers not at all for longer than we wait, and then applies the request."""
    double = house.double(remote)
    house.env |= {f"WANDB_X_{what}_TIMEOUT_SECONDS": "2" for what in ("FILE_STREAM", "GRAPHQL")}
    for kind in ("open", "rows"):
        again = threading.Event()

        def release(_: Request, again: threading.Event = again) -> None:
            again.set()

        def hold(_: Request, again: threading.Event = again, kind: str = kind) -> None:
            # Points are never sent again without a look whether they are there.
            next_one = "summaries" if (remote, kind) == ("swanlab", "rows") else REQUESTS[remote][kind]
            double.fault(next_one, hook=release)
            assert again.wait(30)

        double.fault(REQUESTS[remote][kind], hook=hold)
    curve = grow(house, STAGES)
    result = house.again(remote, patience_s={"wandb": 20, "swanlab": 3}[remote], settle_s=5).result
    assert double.pending == []
    assert result["rows"] == len(curve)
    house.check(remote, "a1", curve)
    mends(house, remote)


def too_late(house: House, remote: str) -> None:
    """Applies points after they were sent again."""
    double = house.double(remote)
    again = threading.Event()
    double.fault(REQUESTS[remote]["rows"], hook=lambda _: again.wait(60))
    double.fault(REQUESTS[remote]["rows"], hook=lambda _: again.set())
    curve = grow(house, 4)
    outcome = house.again(remote, patience_s=2, settle_s=0.5, status=1)
    assert "more than once" in outcome.reason
    outcome = house.again(remote, settle_s=0.5, status=1)
    assert "more than once" in outcome.reason
    assert house.again(remote, on_conflict="new-run").result["remote_id"] == "a1-r2"
    house.check(remote, "a1-r2", curve)


def a_minute(house: House, remote: str) -> None:
    """Takes a minute to answer."""
    for name in [name for name in house.env if name.startswith("WANDB_X_")]:
        del house.env[name]
    house.double(remote).fault(REQUESTS[remote]["rows"], delay_s=60.0)
    house.double(remote).fault(REQUESTS[remote]["open"], delay_s=60.0)
    curve = grow(house, STAGES)
    result = house.again(remote, settle_s=None, within_s=400).result
    assert result["rows"] == len(curve)
    house.check(remote, "a1", curve)


def ten_seconds_late(house: House, remote: str) -> None:
    """Loses an answer, and shows ten seconds late what has arrived."""
    house.double(remote).lag_s = 10.0
    for stage in (4, STAGES):
        house.double(remote).fault(REQUESTS[remote]["rows"], drop="after")
        curve = grow(house, stage)
        result = house.again(remote, settle_s=None, within_s=400).result
        assert result["rows"] == len(curve)
        house.check(remote, "a1", curve)


def both_at_once(house: House, remote: str) -> None:
    """Is sent the same run by two syncs at the same time."""
    arrived, go = threading.Event(), threading.Event()

    def hold(_: Request) -> None:
        arrived.set()
        assert go.wait(60)

    house.double(remote).fault(REQUESTS[remote]["rows"], hook=hold)
    curve = grow(house, STAGES)
    one = house.start(remote)
    assert arrived.wait(60)
    two = house.end(house.start(remote))
    go.set()
    outcome = house.end(one)
    assert outcome.status == 0, outcome.said
    assert two.status == 1 and f"is being synced by pid {one.pid}" in two.reason, two.said
    house.check(remote, "a1", curve)
    assert house.again(remote).result["status"] == "nothing new"


def deleted(house: House, remote: str) -> None:
    """Has deleted the run."""
    curve = grow(house, STAGES)
    house.again(remote)
    house.double(remote).delete("a1")
    outcome = house.again(remote, status=1)
    assert "gone" in outcome.reason and "--on-conflict new-run" in outcome.reason
    assert "a1" not in house.double(remote).runs
    result = house.again(remote, on_conflict="new-run").result
    assert (result["remote_id"], result["sent"]) == ("a1-r2", len(curve))
    house.check(remote, "a1-r2", curve)
    assert house.again(remote).result["status"] == "nothing new"


def burnt(house: House, remote: str) -> None:
    """Has deleted the run, and the ledger is lost."""
    curve = grow(house, STAGES)
    house.again(remote)
    house.double(remote).delete("a1")
    shutil.rmtree(house.runs.path / ".sync")
    outcome = house.again(remote, status=1)
    assert "deleted" in outcome.reason and "new-run" in outcome.reason
    result = house.again(remote, on_conflict="new-run").result
    assert (result["remote_id"], result["sent"]) == ("a1-r2", len(curve))
    house.check(remote, "a1-r2", curve)


def no_such_project(house: House, remote: str) -> None:
    """Answers 404 for a project that is not there."""
    said = {"errors": [{"message": "project not found", "path": ["project"]}], "data": {"project": None}}
    house.double(remote).fault("graphql Run", status=404, body=said)
    curve = grow(house, 1)
    assert house.again(remote).result["sent"] == len(curve)
    # With a project that does not let us in it is something else.
    house.double(remote).fault("graphql Run", status=403, body={"errors": [{"message": "permission denied"}]})
    assert "permission denied" in house.again(remote, status=1).reason
    house.double(remote).fault("graphql Run", status=404, body=said)
    assert "is gone" in house.again(remote, status=1).reason
    mends(house, remote)


def session_ends(house: House, remote: str) -> None:
    """Ends the session in the middle, and does not renew it at once."""
    house.swanlab.fault("POST /house/metrics", hook=lambda _: house.swanlab.expire_sessions())
    house.swanlab.fault("/login", skip=2, status=503)
    curve = grow(house, 4)
    assert house.again(remote).result["sent"] == len(curve)
    house.check(remote, "a1", curve)


def small_bodies(house: House, remote: str) -> None:
    """Takes only a few points at once."""
    house.swanlab.max_body = 3_000
    curve = grow(house, STAGES)
    assert house.again(remote).result["sent"] == len(curve)
    assert house.swanlab.violations and all("bytes, over 3000" in said for said in house.swanlab.violations)
    house.swanlab.violations.clear()
    house.check(remote, "a1", curve)


def wrong_key(house: House, remote: str) -> None:
    """Does not know the key."""
    name = f"{remote.upper()}_API_KEY"
    house.env[name] = "f" * 40
    curve = grow(house, 1)
    outcome = house.sync(remote, status=1)
    assert name in outcome.reason and "f" * 40 not in outcome.said
    house.env |= house.double(remote).env()
    assert house.sync(remote).result["sent"] == len(curve)


RECOVERS, STOPS = "recovers", "exit 1"

EVENTS: dict[Callable[[House, str], None], dict[str, str]] = {
    down: dict.fromkeys(REMOTES, STOPS),
    gone_down: dict.fromkeys(REMOTES, STOPS),
    back_up: dict.fromkeys(REMOTES, RECOVERS),
    forgotten: dict.fromkeys(REMOTES, "recovers at the next sync"),
    forgotten_at_once: dict.fromkeys(REMOTES, RECOVERS),
    late_mark: dict.fromkeys(REMOTES, RECOVERS),
    held_up: dict.fromkeys(REMOTES, RECOVERS),
    too_late: {"swanlab": "exit 1, or a new run on demand"},
    deleted: dict.fromkeys(REMOTES, "exit 1, or a new run on demand"),
    burnt: dict.fromkeys(REMOTES, "exit 1, or a new run on demand"),
    no_such_project: {"wandb": RECOVERS},
    session_ends: {"swanlab": RECOVERS},
    small_bodies: {"swanlab": RECOVERS},
    wrong_key: dict.fromkeys(REMOTES, STOPS),
    both_at_once: dict.fromkeys(REMOTES, "the second stops"),
}
SLOW: dict[Callable[[House, str], None], dict[str, str]] = {
    a_minute: dict.fromkeys(REMOTES, RECOVERS),
    ten_seconds_late: dict.fromkeys(REMOTES, RECOVERS),
}


def mixed(house: House, remote: str, seed: int) -> None:
    """Faults of all kinds, several in each sync; whatever the syncs say of it must be true."""
    double = house.double(remote)
    draw = random.Random(f"{remote} {seed}")
    story = []
    for stage in sorted(draw.sample(range(1, STAGES), 3)):
        for _ in range(draw.randrange(1, 5)):
            kind, fault = draw.choice(list(REQUESTS[remote])), draw.choice(list(FAULTS))
            times, skip = draw.choice((1, 1, 2, 5)), draw.choice((0, 0, 1, 3))
            story.append((stage, kind, fault, times, skip))
            double.fault(REQUESTS[remote][kind], times=times, skip=skip, **FAULTS[fault])
        if draw.random() < 0.3 and "a1" in double.runs:
            double.lose_last("a1", draw.randrange(1, 8))
            story.append((stage, "lost", "", 0, 0))
        curve = grow(house, stage)
        outcome = house.again(remote, patience_s=5, status=(0, 1))
        double.clear_faults()
        there = held(house, remote)
        assert there == curve if outcome.status == 0 else outcome.reason, story
    house.swanlab.unknown.clear()  # see `refusing`
    mends(house, remote)


SEEDS = range(int(os.environ.get("TEST_SEEDS", "3")))


def table() -> str:
    """Return the table as README shows it."""

    def once(remote: str, fault: str) -> str:
        got_over = GOT_OVER[remote].get(fault, set(REQUESTS[remote]))
        for few, word, other in ((set(REQUESTS[remote]) - got_over, RECOVERS, STOPS), (got_over, STOPS, RECOVERS)):
            if len(few) <= len(REQUESTS[remote]) / 2:
                at = ", ".join(kind for kind in REQUESTS[remote] if kind in few)
                return f"{word}; {other} at: {at}" if few else word
        raise AssertionError("one of them is the smaller one")

    alike: dict[tuple[str, ...], list[str]] = {}
    for fault in FAULTS:
        alike.setdefault(tuple(once(remote, fault) for remote in REMOTES), []).append(fault)
    lines = ["| the service | W&B | SwanLab |", "|---|---|---|"]
    lines += [f"| {'; '.join(names)} | {' | '.join(outcomes)} |" for outcomes, names in alike.items()]
    lines += ["| any of these for ever | exit 1 | exit 1 |"]
    for event, outcomes in {**EVENTS, **SLOW}.items():
        assert event.__doc__ is not None
        said = [outcomes.get(remote, "") for remote in REMOTES]
        doc = event.__doc__.rstrip(".")
        lines.append(f"| {doc[0].lower()}{doc[1:]} | {said[0]} | {said[1]} |")
    return "\n".join(lines)


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
        for seed in SEEDS:
            stories[f"mixed {remote} {seed}"] = partial(mixed, remote=remote, seed=seed)
    for event, outcomes in EVENTS.items():
        stories |= {f"{event.__name__} {remote}": partial(event, remote=remote) for remote in outcomes}
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


@pytest.mark.parametrize("event", [f"{event.__name__} {remote}" for event in EVENTS for remote in EVENTS[event]])
def test_what_a_service_can_do_besides(under_way: Stories, event: str) -> None:
    under_way[event].result()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("remote", REMOTES)
def test_faults_in_any_mixture_leave_every_row_once(under_way: Stories, remote: str, seed: int) -> None:
    under_way[f"mixed {remote} {seed}"].result()


@pytest.mark.slow
def test_a_service_that_is_slow_beyond_all_reason(tmp_path: Path) -> None:
    runs = make_stages(tmp_path)
    stories = {f"{event.__name__} {remote}": partial(event, remote=remote) for event in SLOW for remote in SLOW[event]}
    with all_at_once(tmp_path, runs.path, stories) as told:
        for story in told.values():
            story.result()


def test_readme_shows_the_table() -> None:
    assert table() in (ROOT / "README.md").read_text()
