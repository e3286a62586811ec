"""kill -9 of a sync, at any moment, and again: then the next one brings every row to the remote exactly once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

import offline_tracker
from offline_tracker.store import Runs
from tests.doubles.server import Request, wait_until
from tests.doubles.swanlab import SwanlabServer
from tests.doubles.wandb import WandbServer
from tests.syncing import REMOTES, House, add, all_at_once, begin, losses, made


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with WandbServer() as wandb, SwanlabServer() as swanlab:
        house = House(tmp_path, wandb, swanlab)
        yield house
        offline_tracker.finish()
        house.close()


REQUESTS = {"wandb": 12, "swanlab": 12}
"""How many requests a sync that sends something makes at least."""
WRITES = {
    "wandb": ("file_stream", "UpsertBucket"),
    "swanlab": ("POST /house/metrics", "/experiment", "/profile", "/series"),
}


def killed_at_any_request(house: House, remote: str, seed: int) -> None:
    draw = random.Random(f"{remote} {seed}")
    moments = []

    def kill_one() -> bool:
        if draw.random() < 0.5:
            match, skip = "", draw.randrange(REQUESTS[remote])
        else:
            match, skip = draw.choice(WRITES[remote]), draw.randrange(2)
        moments.append((match, skip, draw.random() < 0.6))
        return house.sync_killed_at(remote, *moments[-1], only=["part"])

    killed = [kill_one(), kill_one()]
    shutil.rmtree(house.runs.folder("part"))  # it went on meanwhile
    house.runs.folder("whole").rename(house.runs.folder("part"))
    killed.append(kill_one())
    result = house.sync(remote, only=["part"]).result
    assert (result["rows"], result["last_step"], result["held_back"]) == (90, 89, 0), moments
    house.check(remote, "part", losses(range(90)))
    assert any(killed)
    state = {"wandb": "finished", "swanlab": "FINISHED"}[remote]
    assert house.double(remote).runs["part"].state == state
    assert len(house.double(remote).runs) == 1
    house.check_nothing_left()


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
SEEDS = {killed_at_any_request: 4, killed_while_rows_arrive: 2}


@pytest.fixture(scope="module")
def under_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    home = tmp_path_factory.mktemp("stories")
    runs = Runs(home / "runs")
    run = begin(runs, "long", steps=())
    for step in range(LONG):
        run.log({"loss": 1 / (step + 1)})
    offline_tracker.finish()
    run = begin(runs, "part", steps=range(60))
    shutil.copytree(runs.folder("part"), home / "part")  # as it is while the training goes on
    add(run, range(60, 90))
    offline_tracker.finish()
    runs.folder("part").rename(runs.folder("whole"))
    (home / "part").rename(runs.folder("part"))
    stories: dict[str, Callable[[House], None]] = {
        f"{story.__name__} {remote} {seed}": partial(story, remote=remote, seed=seed)
        for story, seeds in SEEDS.items()
        for remote in REMOTES
        for seed in range(seeds)
    }
    with all_at_once(home, runs.path, stories) as told:
        yield told


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("remote", REMOTES)
def test_a_sync_killed_at_any_request_is_made_good_by_the_next(
    under_way: dict[str, Future[None]], remote: str, seed: int
) -> None:
    under_way[f"killed_at_any_request {remote} {seed}"].result()


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
