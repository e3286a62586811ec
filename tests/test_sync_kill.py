"""kill -9 of a sync, at any moment, and again: then the next one brings every row to the remote exactly once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

import offline_tracker
from offline_tracker.store import Runs
from tests.doubles.server import Request, wait_until
from tests.syncing import REMOTES, House, add, all_at_once, begin, losses, made

PART, WHOLE = 8, 16
"""Rows of the run "part" while it trains, and once it has finished."""
ALL = bool(os.environ.get("TEST_ALL"))


def at_each_request(house: House, remote: str, sync: str, part: int) -> None:
    """
    Kill a sync before, and one after each of its requests takes effect, and let the next one make it good.

    Args:
        part: every so manyth moment, of `PARTS`.
        sync: ``first``; ``incremental``: of a run that was synced and went on; ``resumed``: after one that was killed.
    """
    double = house.double(remote)
    if sync == "incremental":
        house.again(remote, only=["part"], fork=True)
    elif sync == "resumed":
        assert house.killed_at(remote, WRITES[remote], 0, applied=True, only=["part"])
    if sync != "first":
        shutil.rmtree(house.runs.folder("part"))
        house.runs.folder("whole").rename(house.runs.folder("part"))
    curve = [row.step for row in house.local("part")]
    ledger, kept, state = house.runs.path / ".sync", house.home / "ledger", double.state()
    if ledger.exists():
        shutil.copytree(ledger, kept)

    def as_before() -> None:
        double.restore(state)
        shutil.rmtree(ledger, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, ledger)

    def mended() -> None:
        result = house.again(remote, only=["part"], fork=True).result
        assert (result["rows"], result["last_step"]) == (len(curve), curve[-1])

    begun = len(double.log)
    mended()
    undisturbed = double.log[begun:]
    killed = 0
    moments = [moment for moment in boundaries(undisturbed, remote) if ALL or tried(moment, remote, sync)]
    for _, match, skip, applied in moments[part :: PARTS[remote]]:
        as_before()
        killed += house.killed_at(remote, match, skip, applied, only=["part"])
        mended()
        house.check(remote, "part", losses(curve))
        assert len(double.runs) == 1
        if sync != "first":
            assert double.runs["part"].state == {"wandb": "finished", "swanlab": "FINISHED"}[remote]
        house.check_nothing_left()
    # W&B's uploader varies its requests: some moments may not come.
    assert killed > len(moments) // PARTS[remote] * 2 // 3, f"only {killed} of {len(moments)}"


PARTS = {"wandb": 2, "swanlab": 1}
WRITES = {"wandb": "history", "swanlab": "metrics scalar"}
Moment = tuple[int, str, int, bool]


def boundaries(undisturbed: list[str], remote: str) -> list[Moment]:
    """Return the moments around each request: its number, its label, how many of that label go by before, and which."""
    seen: Counter[str] = Counter()
    found: list[Moment] = []
    for number, label in enumerate(undisturbed):
        # A mark is read again until it shows all, and files go up in any order.
        match = label.rpartition("/")[0] if "/storage/" in label else label
        often = 2 if match.endswith("graphql Run") else 1 if "/storage/" in label else len(undisturbed)
        if seen[match] < often:
            found += [(number, match, seen[match], applied) for applied in (False, True)]
        seen[match] += 1
    return found


def tried(moment: Moment, remote: str, sync: str) -> bool:
    """
    Return whether a moment is tried without $TEST_ALL.

    All of them at SwanLab. At W&B, where a sync takes seconds, around every second request of a first sync, around the
    others of an incremental one, and around every fourth of a resumed one; in turn before and after it.
    """
    number, _, _, applied = moment
    if remote == "swanlab":
        return True
    every, offset = {"first": (2, 0), "incremental": (2, 1), "resumed": (4, 2)}[sync]
    return number % every == offset and applied is (number // every % 2 == 0)


def killed_while_rows_arrive(house: House, remote: str, seed: int) -> None:
    draw = random.Random(f"{remote} {seed}")
    process = house.start(remote, only=["long"])
    goal = draw.randrange(1, LONG)

    def arrived() -> bool:
        there = house.double(remote).runs.get("long")
        return there is not None and len(there.history if remote == "wandb" else there.points) >= goal

    wait_until(lambda: arrived() or process.poll() is not None, 60)
    process.send_signal(signal.SIGKILL)
    house.end(process)
    result = house.sync(remote, settle_s=1.5, only=["long"]).result
    assert (result["rows"], result["last_step"]) == (LONG, LONG - 1)
    house.check(remote, "long", losses(range(LONG)))
    house.check_nothing_left()


LONG = 45_000
SYNCS = ("first", "incremental", "resumed")


@pytest.fixture(scope="module")
def under_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    home = tmp_path_factory.mktemp("stories")
    runs, stories = make_stages(home), all_stories()
    with all_at_once(home, runs.path, stories, threads=8) as told:
        yield told


def make_stages(home: Path) -> Runs:
    runs = Runs(home / "runs")
    run = begin(runs, "long", steps=())
    for step in range(LONG):
        run.log({"loss": 1 / (step + 1)})
    offline_tracker.finish()
    run = begin(runs, "part", steps=range(PART))
    shutil.copytree(runs.folder("part"), home / "part")  # as it is while the training goes on
    add(run, range(PART, WHOLE))
    offline_tracker.finish()
    runs.folder("part").rename(runs.folder("whole"))
    (home / "part").rename(runs.folder("part"))
    return runs


def all_stories() -> dict[str, Callable[[House], None]]:
    stories: dict[str, Callable[[House], None]] = {}
    for remote in REMOTES:
        for sync in SYNCS:
            for part in range(PARTS[remote]):
                story = partial(at_each_request, remote=remote, sync=sync, part=part)
                stories[f"at_each_request {remote} {sync} {part}"] = story
        for seed in range(2):
            stories[f"killed_while_rows_arrive {remote} {seed}"] = partial(
                killed_while_rows_arrive, remote=remote, seed=seed
            )
    return stories


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("remote", REMOTES)
def test_a_sync_killed_at_any_request_is_made_good_by_the_next(
    under_way: dict[str, Future[None]], remote: str, sync: str
) -> None:
    for part in range(PARTS[remote]):
        under_way[f"at_each_request {remote} {sync} {part}"].result()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("remote", REMOTES)
def test_a_sync_killed_while_rows_arrive_is_made_good_by_the_next(
    under_way: dict[str, Future[None]], remote: str, seed: int
) -> None:
    under_way[f"killed_while_rows_arrive {remote} {seed}"].result()


def test_points_that_the_summary_does_not_show_yet_are_not_sent_twice(house: House) -> None:
    """Each batch was acknowledged, so only the settling of a summary that lags can tell that they are there."""
    house.swanlab.lag_s = 3.0
    made(house.runs, steps=range(60))
    assert house.sync_killed_at("swanlab", "summaries", 0, applied=False)
    result = house.sync("swanlab", settle_s=4).result
    assert (result["rows"], result["last_step"]) == (60, 59)
    house.check("swanlab", "a1", losses(range(60)))


def test_a_batch_that_is_applied_long_after_the_sync_died_is_not_sent_twice(house: House) -> None:
    made(house.runs, steps=range(60))
    pids: list[int] = []
    ready = threading.Event()
    died: list[float] = []

    def kill(_: Request) -> None:
        assert ready.wait(10)
        threading.Event().wait(3.0)  # the service is slow already, so that the batch is old when the sync dies
        os.kill(pids[0], signal.SIGKILL)
        died.append(time.monotonic())

    house.swanlab.fault("POST /house/metrics", hook=kill, delay_s=2.5)
    process = house.start("swanlab")
    pids.append(process.pid)
    ready.set()
    assert house.end(process).status == -signal.SIGKILL
    assert house.swanlab.points("a1", "loss") == []
    house.sync("swanlab", settle_s=3)
    wait_until(lambda: time.monotonic() > died[0] + 3.0)  # by then it is applied, whatever the second sync did
    house.check("swanlab", "a1", losses(range(60)))


def test_what_a_sync_to_wandb_left_is_cleaned_by_one_to_swanlab(house: House) -> None:
    made(house.runs, steps=range(60))
    assert house.sync_killed_at("wandb", "file_stream", 0, applied=True)
    assert list(house.tmp.glob("offline_tracker-*"))
    house.sync("swanlab")
    house.check_nothing_left()
    house.sync("wandb")
    for remote in REMOTES:
        house.check(remote, "a1", losses(range(60)))


def test_the_uploader_of_a_killed_sync_ends_with_it(house: House) -> None:
    made(house.runs, steps=range(60))
    assert house.sync_killed_at("wandb", "file_stream", 0, applied=True)
    wait_until(lambda: not house.living(), 15, "the end of the uploader")
