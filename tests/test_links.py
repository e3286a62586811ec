"""Links by hand, and remote runs that did not come from the run of their id."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker.store import Runs
from offline_tracker.sync.remotes import UUID_KEY
from tests.syncing import REMOTES, ROOT, House, add, begin, losses, made

TRACKER = Path(sys.executable).parent / "tracker"


@pytest.fixture(params=REMOTES)
def remote(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def links(house: House, *args: object, status: int = 0) -> str:
    """Run `tracker links`; what it said."""
    where = () if args and args[0] in ("forget", "set") else (house.runs.path,)
    env = {**house.env, "PYTHONPATH": str(ROOT), "OFFLINE_TRACKER_DIR": str(house.runs.path)}
    command = [TRACKER, "links", *where, *args]
    done = subprocess.run(map(str, command), env=env, cwd=house.home, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


def listed(house: House, *args: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(links(house, *args, "--json"))
    return found


def uuid_of(runs: Runs, run_id: str) -> str:
    with runs.read(run_id) as reader:
        return reader.info.uuid


def test_links_are_listed_forgotten_and_found_again(house: House) -> None:
    made(house.runs, steps=range(30))
    made(house.runs, "b2")
    assert "was synced yet" in links(house)
    house.sync(REMOTES)
    assert "house/p/a1" in links(house) and "29" in links(house)
    [link] = listed(house, "--to", "wandb")[:1]
    assert (link["run"], link["entity"], link["project"], link["remote_id"]) == ("a1", "house", "p", "a1")
    assert (link["confirmed_step"], link["confirmed_rows"], link["state"]) == (29, 30, "finished")
    assert link["confirmed_at"] > 0 and link["url"].endswith("/house/p/runs/a1")
    assert links(house, "forget", "a1", "--to", "swanlab") == "a1: forgot swanlab: tester/p/a1\n"
    assert [(link["run"], link["remote"]) for link in listed(house)] == [
        *(("a1", "wandb"), ("b2", "swanlab"), ("b2", "wandb")),
    ]
    assert "that is linked to swanlab" in links(house, "forget", "a1", "--to", "swanlab", status=1)
    links(house, "forget", "b2")
    assert [link["run"] for link in listed(house)] == ["a1"]
    assert house.sync("swanlab", only=["a1"]).result["sent"] == 0  # found by its uuid
    house.check("swanlab", "a1", losses(range(30)))


def test_a_link_that_was_set_is_used_if_the_run_there_is_ours(house: House) -> None:
    made(house.runs)
    house.sync("swanlab")
    house.swanlab.delete("a1")
    house.sync("swanlab", on_conflict="new-run")
    shutil.rmtree(house.runs.path / ".sync")  # and with it that a1 is a1-r2 there
    assert "no run tester/p/a1" in links(house, "set", "a1", "--to", "swanlab", "tester/p/a1", status=1)
    assert "is no remote run" in links(house, "set", "a1", "--to", "swanlab", "p/a1", status=2)
    assert "use --to" in links(house, "set", "a1", "tester/p/a1-r2", status=2)
    said = links(house, "set", "a1", "--to", "swanlab", "tester/p/a1-r2")
    assert said == "a1: linked to swanlab: tester/p/a1-r2\n"
    add(offline_tracker.init(id="a1", dir=house.runs.path, reinit=True), range(20, 25))
    offline_tracker.finish()
    result = house.sync().result
    assert (result["remote"], result["remote_id"], result["sent"]) == ("swanlab", "a1-r2", 5)
    house.check("swanlab", "a1-r2", losses(range(25)))


def test_a_remote_run_that_is_not_ours_is_taken_over_only_when_told_so(
    house: House, remote: str, tmp_path: Path
) -> None:
    made(house.runs, steps=range(20))
    house.sync(remote)
    shutil.copytree(house.runs.path, tmp_path / "old")
    shutil.rmtree(house.runs.path)
    made(house.runs, steps=range(30))  # the same training, recorded anew
    outcome = house.sync(remote, status=1)
    assert "did not come from this run" in outcome.reason and "--adopt" in outcome.reason
    result = house.sync(remote, adopt=True).result
    assert (result["status"], result["sent"]) == ("confirmed", 10)
    assert "its rows agree, so it is taken over" in result["notes"][0]
    house.check(remote, "a1", losses(range(30)))
    assert house.double(remote).runs["a1"].config[UUID_KEY] == uuid_of(house.runs, "a1")
    assert house.sync(remote, adopt=True).result["status"] == "nothing new"
    # Now it is no longer the other's.
    outcome = house.sync(remote, runs=str(tmp_path / "old"), status=1)
    assert "did not come from this run" in outcome.reason


def test_a_remote_run_with_other_rows_is_not_taken_over(house: House, remote: str) -> None:
    run = begin(house.runs, steps=range(10))
    run.log({"loss": 77.0}, step=10)
    offline_tracker.finish()
    house.sync(remote)
    before = house.double(remote).points("a1", "loss")
    for steps, why in (
        (range(30), "shows steps 10 with other values"),
        (range(5), "shows steps 5, 6, 7, 8, 9 and 1 more that the curve does not have"),
        ([0, 1, 2, *range(3, 10), 11], "shows steps 10 that the curve does not have"),
    ):
        shutil.rmtree(house.runs.path)
        made(house.runs, steps=steps)
        outcome = house.sync(remote, adopt=True, status=1)
        assert why in outcome.reason, outcome.reason
    assert house.double(remote).points("a1", "loss") == before
    shutil.rmtree(house.runs.path)
    run = begin(house.runs, steps=())
    for step in range(12):
        run.log({"loss": 77.0 if step == 10 else 1 / (step + 1), "lr": 0.5}, step=step)
    offline_tracker.finish()
    outcome = house.sync(remote, adopt=True, status=1)  # of what there is there, a part is missing
    assert "lacks steps 0, 1, 2, 3, 4 and 6 more" in outcome.reason


def test_a_link_to_a_run_of_somebody_else_needs_adopt(house: House) -> None:
    made(house.runs, "other")
    house.sync("wandb", only=["other"])
    made(house.runs, "mine")
    said = links(house, "set", "mine", "--to", "wandb", "house/p/other")
    assert "did not come from this run: the next sync needs --adopt" in said
    assert "--adopt" in house.sync("wandb", only=["mine"], status=1).reason
    assert house.sync("wandb", only=["mine"], adopt=True).result["remote_id"] == "other"
    assert house.wandb.runs["other"].config[UUID_KEY] == uuid_of(house.runs, "mine")
    assert sorted(house.wandb.runs) == ["other"]


def test_a_run_whose_uuid_was_taken_out_there_gets_it_back_with_adopt(house: House) -> None:
    made(house.runs)
    house.sync("swanlab")
    house.swanlab.runs["a1"].profile["config"].clear()
    assert "--adopt" in house.sync("swanlab", status=1).reason
    assert house.sync("swanlab", adopt=True).result["sent"] == 0
    assert house.swanlab.runs["a1"].config[UUID_KEY] == uuid_of(house.runs, "a1")
    assert house.sync("swanlab").result["status"] == "nothing new"
