"""What is found in a curve that somebody should look at."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker.alerts import Finding, judge, parse
from offline_tracker.curve import Row
from offline_tracker.errors import UsageError
from offline_tracker.store import Runs

TRACKER = Path(sys.executable).with_name("tracker")


def curve_of(values: Iterable[float], metric: str = "loss", pace_s: float = 1.0) -> list[Row]:
    return [Row(step, 1e9 + pace_s * step, {metric: value}, step + 1) for step, value in enumerate(values)]


def found(rows: Iterable[Row], *rules: str, **options: Any) -> list[tuple[str, int]]:
    return [(finding.rule, finding.step) for finding in judge(rows, [parse(rule) for rule in rules], **options)]


def falling(count: int, seed: int = 0) -> list[float]:
    """A loss as trainings have it: it falls, ever slower, with noise."""
    noise = random.Random(seed)
    return [2 + 8 / (1 + step / 50) + noise.gauss(0, 0.05) for step in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_a_good_training_is_left_alone(seed: int) -> None:
    rate = [0.1 * (1 - step / 3000) for step in range(3000)]
    rows = [row._replace(values={**row.values, "lr": rate[row.step]}) for row in curve_of(falling(3000, seed))]
    assert found(rows) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_once_an_episode(value: float) -> None:
    losses = falling(100)
    losses[20:30] = [value] * 10
    losses[50] = value
    assert found(curve_of(losses, "anything")) == [("not finite", 20), ("not finite", 50)]


def test_a_spike_is_told_where_it_is_and_only_in_a_loss() -> None:
    losses = falling(300)
    losses[200] += 5
    assert found(curve_of(losses)) == [("spike", 200)]
    assert found(curve_of(losses, "train/ppl")) == [("spike", 200)]
    assert found(curve_of(losses, "tokens_per_s")) == []


def test_a_loss_that_rises_and_stays_up_has_diverged() -> None:
    losses = falling(500) + [2.5 + min(6.0, 0.02 * step) for step in range(600)]
    assert [rule for rule, _ in found(curve_of(losses))] == ["divergence"]
    ((_, step),) = found(curve_of(losses))
    assert 600 < step < 800


def test_a_loss_that_gets_no_better_is_on_a_plateau() -> None:
    losses = falling(1000) + [2.4 + 0.01 * math.sin(step) for step in range(1500)]
    assert [rule for rule, _ in found(curve_of(losses))] == ["plateau"]


def test_a_learning_rate_of_zero_is_told_when_it_stays() -> None:
    rates = [0.0] * 5 + [0.1] * 100 + [0.0] * 30
    assert found(curve_of(rates, "optim/lr")) == [("zero", 124)]
    assert found(curve_of(rates, "slr")) == []


def test_a_long_time_without_a_row_is_a_stall_but_not_between_attempts() -> None:
    rows = curve_of([1.0] * 100)
    rows[60:] = [row._replace(time=row.time + 1000) for row in rows[60:]]
    assert found(rows) == [("stall", 60)]
    assert found(rows, starts=[1e9 - 5, 1e9 + 900]) == []
    slow = curve_of([1.0] * 100, pace_s=900.0)
    assert found(slow) == []


def test_rules_of_ones_own() -> None:
    rows = curve_of([1, 4, 1, 4, 4, 4, 4, 1, 4, 4, 4])
    assert found(rows, "loss > 3") == [("loss > 3", 1), ("loss > 3", 3), ("loss > 3", 8)]
    assert found(rows, "loss  >=  4 for 3 rows") == [("loss >= 4 for 3 rows", 5), ("loss >= 4 for 3 rows", 10)]
    assert found(rows, "other > 0") == []
    assert found(curve_of([1.0], "grad\x1fnorm"), "grad.norm == 1") == [("grad.norm == 1", 0)]


@pytest.mark.parametrize("text", ["loss", "loss >", "loss > x", "loss ~ 3", "loss > 3 for rows", "loss > 3 rm -rf", ""])
def test_what_is_no_rule_is_one_clear_error(text: str) -> None:
    with pytest.raises(UsageError, match='use "METRIC > NUMBER"'):
        parse(text)


def test_the_command_tells_what_it_finds_and_exits_with_three(runs: Runs) -> None:
    def alerts(*options: str) -> tuple[int, str]:
        done = subprocess.run([TRACKER, "alerts", runs.path, *options], capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout or done.stderr

    run = offline_tracker.init(dir=runs.path, id="good")
    for loss in falling(60):
        run.log({"loss": loss})
    run.finish()
    assert alerts() == (0, "")
    assert alerts("--rule", "loss > 9 for 2 rows")[0] == 3
    assert alerts("--rule", "loss ! 9")[0] == 2
    run = offline_tracker.init(dir=runs.path, id="bad")
    run.log({"loss": math.nan, "note": "text"})
    run.alert("\x1b[31mlook", "here", "WARN")
    run.finish()
    status, said = alerts()
    assert status == 3
    assert [line.split()[3:] for line in said.splitlines()] == [
        ["ERROR", "step", "0", "not", "finite:", "loss", "is", "nan"],
        ["WARN", "step", "0", "alert():", "\\x1b[31mlook:", "here"],
    ]
    documents = [json.loads(line) for line in alerts("--json", "--run", "bad")[1].splitlines()]
    assert [(item["run"], item["rule"], item["metric"]) for item in documents] == [
        ("bad", "not finite", "loss"),
        ("bad", "alert()", None),
    ]


def test_a_finding_says_where_it_is() -> None:
    (finding,) = judge(curve_of([1.0, math.nan]))
    assert finding == Finding("not finite", "loss", 1, 1e9 + 1, 2, "is nan", "ERROR")
