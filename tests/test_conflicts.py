"""Rows at a remote that a resume has superseded since: rewound where the remote can, else reported with their steps."""

from __future__ import annotations

import pytest

import offline_tracker
from tests.syncing import House, add, begin, loss, losses

CURVE = [*losses(range(10)), *((step, loss(step) + 1) for step in range(10, 30))]


def superseded_at(house: House, remote: str, ended: bool = True) -> None:
    """Send rows 0 to 19 eagerly, go on from step 9, and log rows 10 to 29 otherwise."""
    run = begin(house.runs, steps=range(10), config={"lr": 0.1})
    run.mark_checkpoint("ten")
    add(run, range(10, 20))
    house.sync(remote, eager=True)
    offline_tracker.finish(exit_code=1)
    if ended:
        house.sync(remote, eager=True)
    again = offline_tracker.init(id="a1", dir=house.runs.path, reinit=True)
    for step in range(10, 30):
        again.log({"loss": loss(step) + 1}, step=step)
    offline_tracker.finish()


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "running"])
def test_wandb_takes_superseded_rows_back_and_the_live_ones_follow(house: House, ended: bool) -> None:
    house.wandb.rewinds = True
    superseded_at(house, "wandb", ended)
    assert house.wandb.runs["a1"].state == ("failed" if ended else "running")
    result = house.sync("wandb", on_conflict="rewind").result
    assert (result["status"], result["sent"], result["rows"], result["remote_id"]) == ("confirmed", 20, 30, "a1")
    assert result["superseded"] == [10, 19]
    assert result["notes"] == ["wandb was rewound: steps 10 to 19 there were superseded"]
    house.check("wandb", "a1", CURVE)
    run = house.wandb.runs["a1"]
    assert (run.state, run.config["lr"], run.display_name) == ("finished", 0.1, "a1")
    assert sum("RewindRun" in label for label in house.wandb.log) == 1
    again = house.sync("wandb", on_conflict="rewind").result
    assert (again["status"], again["superseded"]) == ("nothing new", None)
    house.check_nothing_left()


def test_a_sync_that_is_killed_after_the_rewind_goes_on(house: House) -> None:
    house.wandb.rewinds = True
    superseded_at(house, "wandb")
    assert house.sync_killed_at("wandb", "RewindRun", 0, applied=True, on_conflict="rewind")
    assert house.sync("wandb").result["sent"] == 20
    house.check("wandb", "a1", CURVE)
    house.check_nothing_left()


@pytest.mark.parametrize(
    ("remote", "why"), [("wandb", "Cannot query field"), ("swanlab", "swanlab can't take points back")]
)
def test_a_remote_that_does_not_rewind_leaves_the_conflict_reported(house: House, remote: str, why: str) -> None:
    superseded_at(house, remote)
    outcome = house.sync(remote, on_conflict="rewind", status=1)
    assert "holds steps 10 to 19" in outcome.reason and "not rewound" in outcome.reason
    assert why in outcome.reason, outcome.reason
    assert outcome.result["superseded"] == [10, 19]
    house.check(remote, "a1", losses(range(20)))
    assert house.sync(remote, status=1).result["superseded"] == [10, 19]
    assert house.sync(remote, on_conflict="new-run").result["superseded"] == [10, 19]
    house.check(remote, "a1-r2", CURVE)
