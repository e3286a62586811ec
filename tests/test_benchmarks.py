"""The benchmark, with numbers so small that only its bookkeeping is looked at, not its figures."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_benchmark_measures_us_and_a_peer_and_loses_nothing(tmp_path: Path) -> None:
    absent = [name for name in ("trackio", "tensorboard") if importlib.util.find_spec(name) is None]
    command = [sys.executable, str(ROOT / "benchmarks/log_cost.py"), "--markdown", "--json", "found.json"]
    command += ["--calls", "300", "--rounds", "1", "--paced", "0.1", "--steps", "1"]
    command += [f"--only={name}" for name in ("wandb", *absent)]
    env = {**os.environ, "TMPDIR": str(tmp_path), "OFFLINE_TRACKER_RANK": "1"}  # a worker must not see the latter
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "found.json").read_text())
    assert list(report["results"]) == ["(nothing)", "offline_tracker", "wandb"]
    ours, wandb = report["summary"]["offline_tracker"], report["summary"]["wandb"]
    for found in (ours, wandb):
        assert (found["full.calls"], found["full.lost"]) == (300, 0)
        assert (found["paced.calls"], found["paced.lost"]) == (10, 0)
        assert found["kill.calls"] == 3000
        assert found["full.median_us"] <= found["full.p99_us"] <= found["full.max_ms"] * 1e3
        assert found["full.bytes_a_call"] > 24  # three floats
    assert ours["kill.lost"] == 0
    said = done.stdout.splitlines()
    assert all(len(line) <= 120 for line in said)
    assert [line for line in said if "not installed" in line] == [
        f"{name} is not installed: pip install -e '.[bench]'" for name in absent
    ]
    for name in ("(nothing)", "offline_tracker", "wandb"):
        assert len([line for line in said if line.split()[:1] == [name]]) == 2
    [row] = [line for line in said if line.startswith("|wandb")]
    assert row.count("x|") == 6  # what a ratio says something about
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_syncs_are_compared_and_what_arrived_is_counted(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "sync_speed.py"), "--markdown", "--json", "found.json"]
    command += ["--only=one", "--only=idle", "--rounds=1", "--rows=50", "--idle=2"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["failed"] == []
    assert {case: list(parts) for case, parts in found["summary"].items()} == {
        "wandb": ["offline_tracker", "wandb sync"],
        "swanlab": ["offline_tracker", "swanlab sync --id"],
        "idle": ["offline_tracker"],
    }
    for parts in found["summary"].values():
        for figures in parts.values():
            assert figures["seconds"] > 0 and figures["all_mib"] >= figures["alone_mib"] > 10
    rows = [line for line in done.stdout.splitlines() if line.startswith("|50 rows") or line.startswith("|2 runs")]
    assert len(rows) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
