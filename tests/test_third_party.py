"""A remote of a third party: found by its entry point, and used like our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from offline_tracker.store import Runs
from tests.syncing import ROOT, losses, made
from tests.toy_remote import WHERE, ToyService, install

TRACKER = Path(sys.executable).parent / "tracker"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    install(tmp_path / "site")
    search = os.pathsep.join((str(tmp_path / "site"), str(ROOT)))
    return {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": search, WHERE: str(tmp_path / "service.json")}


def tracker(env: dict[str, str], *args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([TRACKER, *map(str, args)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_run_goes_to_a_remote_that_another_distribution_brings(
    runs: Runs, env: dict[str, str], tmp_path: Path
) -> None:
    made(runs, steps=range(30), config={"lr": 0.1})
    # Nobody has credentials for the others, so it need not be named.
    said = tracker(env, "sync", runs.path).stdout
    assert said.startswith("a1 -> toy me/p: 30 rows sent, 30 rows up to step 29 confirmed")
    run = ToyService(tmp_path / "service.json").read()["runs"]["me/p/a1"]
    assert [(step, values["loss"]) for step, _, values in run["rows"]] == losses(range(30))
    assert (run["state"], run["config"]["lr"]) == ("finished", 0.1)
    [result] = json.loads(tracker(env, "sync", runs.path, "--to", "toy", "--json").stdout)["results"]
    assert (result["status"], result["remote"]) == ("nothing new", "toy")
    assert "toy" in tracker(env, "ls", runs.path).stdout


def test_an_unknown_or_broken_remote_is_one_line(runs: Runs, env: dict[str, str], tmp_path: Path) -> None:
    made(runs)
    said = tracker(env, "sync", runs.path, "--to", "toi", status=2).stderr
    assert said == "tracker: unknown remote 'toi'; use swanlab or toy or wandb\n"
    points = tmp_path / "site" / "toy_remote-1.0.dist-info" / "entry_points.txt"
    points.write_text("[offline_tracker.remotes]\ntoy = tests.toy_remote:Gone\nother = none_of_that_name:Remote\n")
    for name, why in (("toy", "has no attribute 'Gone'"), ("other", "No module named 'none_of_that_name'")):
        said = tracker(env, "sync", runs.path, "--to", name, status=2).stderr
        assert said.startswith(f"tracker: the remote '{name}' (") and why in said and said.count("\n") == 1, said
