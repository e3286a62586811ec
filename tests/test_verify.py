"""Remote runs, read back in full: what is not as it was is named, and a later sync mends what can be mended."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from tests.syncing import REMOTES, ROOT, House, add, begin, losses, made

TRACKER = Path(sys.executable).parent / "tracker"


@pytest.fixture(params=REMOTES)
def remote(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def verify(house: House, *args: object, status: int = 0) -> str:
    """Run `tracker verify`; what it said."""
    command = [TRACKER, "verify", house.runs.path, *args]
    env = {**house.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(map(str, command), env=env, cwd=house.home, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


def read(house: House, remote: str, status: int = 0) -> dict[str, Any]:
    """What `tracker verify --json` says of the only run."""
    [run] = json.loads(verify(house, "--to", remote, "--json", status=status))["runs"]
    assert run["ok"] == (status == 0)
    found: dict[str, Any] = run
    return found


def differences(run: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    return {
        name: {kind: steps["first_steps"] for kind, steps in metric["differences"].items()}
        for name, metric in run["metrics"].items()
        if not metric["ok"]
    }


def rich(house: House) -> None:
    """Make a run with all that may be logged, in rows that lack this or that, over a resume."""
    run = begin(house.runs, steps=())
    for step in range(0, 60, 2):
        row: dict[str, Any] = {"loss": math.nan if step in (4, 10) else 1 / (step + 1), "deep": {"a": step}}
        if step % 10 == 0:
            row |= {"eval": float(step), "flag": step > 20, "word": f"at {step}", "big": 2**60 + step, "none": None}
        if step == 20:
            row |= {"infinite": -math.inf}
        run.log(row, step=step)
    offline_tracker.finish(exit_code=1)
    again = offline_tracker.init(id="a1", dir=house.runs.path, reinit=True)
    for step in range(50, 80, 2):  # what was 50 to 58 does not hold any more
        again.log({"loss": 2.0 + step, **{f"metric {n}": n / step for n in range(20)}}, step=step)
    offline_tracker.finish()


def test_all_is_there_at_both_remotes_and_can_be_proven(house: House, tmp_path: Path) -> None:
    rich(house)
    house.sync(REMOTES)
    said = verify(house, "--proof", tmp_path / "proof.json")
    assert said.count("all is there, once (40 rows up to step 78)") == 2
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["ok"] and proof["versions"].keys() >= {"python", "offline-tracker", "wandb", "swanlab"}
    runs = {run["remote"]: run for run in proof["runs"]}
    assert runs["wandb"]["url"].endswith("/house/p/runs/a1") and runs["wandb"]["project"] == "house/p"
    for remote, deep in (("wandb", "deep.a"), ("swanlab", "deep/a")):
        run = runs[remote]
        assert run["digest"]["local"] == run["digest"]["remote"]
        loss = run["metrics"]["loss"]["local"]
        values = [value for _, value in house.points("a1", "loss")]
        finite = [value for value in values if value == value]
        assert (loss["points"], loss["nan"], loss["first_step"], loss["last_step"]) == (40, 2, 0, 78)
        assert (loss["min"], loss["max"], loss["last"]) == (min(finite), 80.0, 80.0)
        assert loss["sum"] == pytest.approx(sum(finite), rel=1e-12)
        assert run["metrics"][deep]["remote"]["points"] == 25
        assert run["metrics"]["metric 19"]["remote"]["last"] == 19 / 78
    assert runs["wandb"]["metrics"]["word"]["remote"]["last"] == "at 40"
    assert runs["wandb"]["metrics"]["infinite"]["remote"]["min"] == "-Infinity"
    assert "word" not in runs["swanlab"]["metrics"] and runs["swanlab"]["metrics"]["infinite"]["remote"]["nan"] == 1
    notes = runs["swanlab"]["notes"]
    assert "swanlab can't hold word in 5 rows: no number: left out" in notes
    assert "swanlab can't hold infinite in 1 rows: infinity: becomes NaN" in notes
    # The digest, computed as the proof says that it is.
    points = "".join(f"{step} {value!r}\n" for step, value in house.points("a1", "metric 3"))
    assert runs["swanlab"]["metrics"]["metric 3"]["remote"]["digest"] == hashlib.sha256(points.encode()).hexdigest()


def test_a_long_run_is_read_in_pages(house: House) -> None:
    run = begin(house.runs, steps=())
    for step in range(0, 120_000, 5):
        run.log({"loss": 1 / (step + 1)}, step=step)
    offline_tracker.finish()
    house.sync("wandb")
    assert read(house, "wandb")["metrics"]["loss"]["remote"]["points"] == 24_000
    assert sum("HistoryPage" in label for label in house.wandb.log) == 3


def test_what_differs_is_named_by_its_steps(house: House, remote: str) -> None:
    made(house.runs, steps=range(40))
    house.sync(remote)
    run = house.double(remote).runs["a1"]
    if remote == "wandb":
        run.history[7]["loss"] = 9.0
        run.history[9]["other"] = 1.0
        run.history += [dict(row) for row in run.history[20:22]]
        del run.history[12:15]
        house.wandb.note_mark("a1")
    else:
        run.points[7] = run.points[7]._replace(value=9.0)
        run.points += run.points[20:22]
        run.points.append(run.points[9]._replace(key="other", value=1.0))
        run.arrived_at += [run.arrived_at[-1]] * 3
        del run.points[12:15], run.arrived_at[12:15]
    found = read(house, remote, status=1)
    assert differences(found) == {
        "loss": {"missing": [12, 13, 14], "twice": [20, 21], "different": [7]},
        "other": {"extra": [9]},
    }
    assert found["digest"]["local"] != found["digest"]["remote"]
    said = verify(house, "--to", remote, status=1)
    assert "a1 -> " in said and "DIFFERS in 2 of 2 metrics" in said
    assert "loss: 3 missing: steps 12, 13, 14" in said and "loss: 2 twice: steps 20, 21" in said


def test_what_is_held_back_or_can_not_be_seen_is_no_difference(house: House) -> None:
    run = begin(house.runs, steps=range(10))
    run.mark_checkpoint("ten")
    run.log({"loss": math.nan}, step=10)
    add(run, range(11, 15))
    run.mark_checkpoint("fifteen")
    add(run, range(15, 20))
    house.sync(REMOTES)
    points = house.swanlab.runs["a1"].points
    house.swanlab.runs["a1"].points[:] = [*points[:10], *points[11:]]  # as if an export left out NaN
    del house.swanlab.runs["a1"].arrived_at[10]
    for remote in REMOTES:
        found = read(house, remote)
        assert (found["rows"], found["upto_step"], found["rows_behind"]) == (15, 14, 5)
        assert found["metrics"]["loss"]["unseen_nan"] == (remote == "swanlab")
        assert found["digest"]["local"] == found["digest"]["remote"]
    offline_tracker.finish()
    assert differences(read(house, "swanlab", status=1)) == {"loss": {"missing": [15, 16, 17, 18, 19]}}


def test_what_can_not_be_read_is_said_and_the_others_are_verified(house: House) -> None:
    made(house.runs)
    made(house.runs, "b2")
    made(house.runs, "c3")
    house.sync("swanlab", only=["a1", "b2"])
    house.swanlab.delete("a1")
    said = verify(house, "--to", "swanlab", "--json", status=1)
    runs = {run["run"]: run for run in json.loads(said)["runs"]}
    assert runs["b2"]["ok"] and not runs["a1"]["ok"] and not runs["c3"]["ok"]
    assert "is not there" in runs["a1"]["reason"] and "not synced to swanlab yet" in runs["c3"]["reason"]
    assert "it was not synced anywhere yet" in verify(house, "--run", "c3", status=1)
    assert "unknown remote 'mlflow'" in verify(house, "--to", "mlflow", status=2)
    del house.env["SWANLAB_API_KEY"]
    assert "set SWANLAB_API_KEY" in verify(house, status=2)


def test_a_hole_in_the_middle_is_found_by_verify_and_filled_by_the_next_sync(house: House) -> None:
    run = begin(house.runs, steps=())
    for step in range(60):
        run.log({"loss": 1 / (step + 1), "lr": step / 7}, step=step, commit=True)
    house.sync("swanlab")
    house.swanlab.lose("a1", "loss", range(20, 30))
    house.swanlab.lose("a1", "lr", [25, 26])
    assert house.sync("swanlab").result["status"] == "nothing new"  # the last steps are all right
    found = read(house, "swanlab", status=1)
    assert differences(found) == {"loss": {"missing": list(range(20, 30))}, "lr": {"missing": [25, 26]}}
    add(run, range(60, 65))
    offline_tracker.finish()
    result = house.sync("swanlab").result
    assert (result["status"], result["sent"], result["rows"]) == ("confirmed", 15, 65)
    assert sorted(house.swanlab.points("a1", "loss")) == losses(range(65))
    assert sorted(house.swanlab.points("a1", "lr")) == house.points("a1", "lr")
    read(house, "swanlab")
    assert house.swanlab.violations == []


def test_a_batch_that_was_never_confirmed_is_looked_for_point_by_point(house: House) -> None:
    made(house.runs, steps=range(60))
    house.swanlab.fault("POST /house/metrics", drop="after")
    killed = house.sync_killed_at("swanlab", "summaries", skip=1, applied=True)
    assert killed
    house.swanlab.lose("a1", "loss", range(30, 40))
    house.sync("swanlab")
    assert sorted(house.swanlab.points("a1", "loss")) == losses(range(60))


def test_a_hole_that_can_not_be_filled_is_named(house: House) -> None:
    made(house.runs, steps=range(60))
    house.sync("wandb")
    house.wandb.lose("a1", [*range(20, 30), 44])
    outcome = house.sync("wandb", status=1)
    assert "lacks steps 20, 21, 22, 23, 24 and 6 more" in outcome.reason
    assert "counts 49 rows up to step 59, the curve has 60" in outcome.reason
    assert "--on-conflict new-run" in outcome.reason
    assert house.wandb.steps("a1") == [*range(20), *range(30, 44), *range(45, 60)]
    assert differences(read(house, "wandb", status=1)) == {"loss": {"missing": [*range(20, 30), 44]}}
