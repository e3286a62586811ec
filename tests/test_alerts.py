"""What is found in a curve that somebody should look at."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from offline_tracker_cli.words import moment

import offline_tracker
from offline_tracker.alerts import Finding, Judge, Spike, UserRule, parse
from offline_tracker.curve import Row, Span
from offline_tracker.errors import UsageError
from offline_tracker.findings import on_curve, store, stored
from offline_tracker.store import Runs

from .test_tail import Written

TRACKER = Path(sys.executable).with_name("tracker")
ALL = [Span(1, 1000, None)]
"""A curve that nothing was taken from."""


def curve_of(values: Iterable[float], metric: str = "loss", pace_s: float = 1.0) -> list[Row]:
    return [Row(step, 1e9 + pace_s * step, {metric: value}, step + 1) for step, value in enumerate(values)]


def judge(rows: Iterable[Row], own: Sequence[UserRule] = (), starts: Sequence[float] = ()) -> Iterator[Finding]:
    one = Judge(own)
    for row in rows:
        yield from one.see(row, starts)


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


@pytest.mark.parametrize("kind", range(3))
def test_a_spike_is_what_the_robust_z_says(kind: int) -> None:
    chance = random.Random(kind)
    draw = [lambda: chance.gauss(2, 0.1), lambda: float(round(chance.gauss(0, 1))), lambda: chance.expovariate(1) ** 4]
    values = [draw[kind]() + (chance.expovariate(0.2) if chance.random() < 0.05 else 0.0) for _ in range(1000)]
    spike = Spike()
    for row, value in enumerate(values):
        window = values[row - 50 : row] if row >= 50 else []
        z = 0.0
        if window:
            middle = sorted(window)[25]
            spread = 1.4826 * statistics.median(abs(other - middle) for other in window)
            z = (value - middle) / max(spread, 1e-3 * abs(middle), 1e-300)
        assert (spike.see(value) is not None) == (z > 10)


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
    assert found(rows) == [("stall", 59)]
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
    assert alerts()[0] == 3 and alerts("--new", "--rule", "loss > 9 for 2 rows") == (0, "")  # kept, and told once
    assert alerts("--rule", "loss ! 9")[0] == 2
    run = offline_tracker.init(dir=runs.path, id="bad")
    run.log({"loss": math.nan, "note": "text"})
    run.alert("\x1b[31mlook", "here", "WARN")
    run.finish()
    assert "not finite" in alerts("--new")[1]
    status, said = alerts("--run", "bad")
    assert status == 3
    assert [line.split()[3:] for line in said.splitlines()] == [
        ["ERROR", "step", "0", "not", "finite:", "loss", "is", "nan"],
        ["WARN", "step", "0", "alert():", "\\x1b[31mlook:", "here"],
    ]
    assert alerts("--new") == (0, "")
    documents = [json.loads(line) for line in alerts("--json", "--run", "bad")[1].splitlines()]
    assert [(item["run"], item["rule"], item["metric"]) for item in documents] == [
        ("bad", "not finite", "loss"),
        ("bad", "alert()", None),
    ]


def test_what_is_waited_for_is_told_while_it_is_waited_for_and_only_once() -> None:
    rows = curve_of([1.0] * 60)
    one = Judge()
    assert [finding for row in rows for finding in one.see(row)] == []
    assert one.wait(1e9 + 100) is None
    waiting = one.wait(1e9 + 1000)
    assert waiting is not None and (waiting.rule, waiting.step) == ("stall", 59)
    assert one.wait(1e9 + 2000) is None
    late = rows[-1]._replace(step=60, time=1e9 + 3000, seq=61)
    assert list(one.see(late)) == []
    assert one.wait(1e9 + 9000) is not None


def test_a_row_that_comes_again_is_judged_for_what_is_new_in_it() -> None:
    one = Judge([parse("loss > 0 for 2 rows")])
    row = curve_of([1.0])[0]
    assert list(one.see(row)) == []
    again = row._replace(values={"loss": 1.0, "acc": math.nan}, seq=2)
    assert [(finding.rule, finding.metric) for finding in one.see(again)] == [("not finite", "acc")]


def test_what_was_found_is_kept_with_the_run_once(tmp_path: Path) -> None:
    (first, second) = (Finding("spike", "loss", step, 1e9, step + 1, "jumps", "WARN") for step in (3, 5))
    assert stored(tmp_path) == []
    assert store(tmp_path, [first, first], ALL) == [first]
    path = tmp_path / "files" / "alerts.jsonl"
    with path.open("a") as file:
        file.write('{"rule": "torn')
    assert store(tmp_path, [second, first], ALL) == [second]
    with path.open("a") as file:
        file.write(
            '{"rule": 1}\n[]\n{"rule": "x", "metric": 1, "step": 1, "time": 1, "seq": 1, "text": "", "level": ""}\n'
        )
    assert stored(tmp_path) == [first, second]
    twice = [
        first,
        first._replace(seq=first.seq + 1),
        second._replace(seq=2000),
    ]  # two looked at once; one is of no curve
    assert on_curve(twice, ALL) == [first]


def test_a_time_that_no_clock_shows_is_no_error() -> None:
    assert [moment(at) for at in (1e300, math.nan, None)] == ["?", "?", ""]


def test_where_nothing_can_be_kept_it_is_still_told(tmp_path: Path) -> None:
    finding = Finding("spike", "loss", 3, 1e9, 4, "jumps", "WARN")
    (tmp_path / "files").mkdir()
    os.mkfifo(tmp_path / "files" / "alerts.jsonl")
    assert store(tmp_path, [finding], ALL) == [finding] == store(tmp_path, [finding], ALL)
    other = tmp_path / "other"
    (other / "files").mkdir(parents=True)
    (other / "files" / "alerts.jsonl").symlink_to(tmp_path / "elsewhere")
    assert store(other, [finding], ALL) == [finding]
    assert stored(other) == [] and not (tmp_path / "elsewhere").exists()


def test_lines_that_are_none_of_ours_are_passed_over(tmp_path: Path) -> None:
    finding = Finding("spike", "loss", 3, 1e9, 4, "jumps", "WARN")
    (tmp_path / "files").mkdir()
    odd = [{"time": 1e400}, {"time": math.nan}, {"text": "\ud800"}, {"level": None}, {"more": 1}]
    lines = [json.dumps({**finding._asdict(), **change}) for change in odd]
    (tmp_path / "files" / "alerts.jsonl").write_text("\n".join([*lines, "[" * 100_000, "\0", ""]))
    assert stored(tmp_path) == []
    assert store(tmp_path, [finding], ALL) == [finding] and stored(tmp_path) == [finding]


def test_a_resume_that_goes_wrong_at_the_same_step_again_is_told_again(runs: Runs) -> None:
    written = Written(runs)

    def told() -> list[tuple[str, int]]:
        done = subprocess.run([TRACKER, "alerts", runs.path, "--json"], capture_output=True, text=True, timeout=60)
        return [(item["rule"], item["step"]) for item in map(json.loads, done.stdout.splitlines())]

    def calls(first: int, at: float) -> None:
        written.calls(*((step, at + step, {"loss": math.nan if step > 9 else 1.0}) for step in range(first, 12)))

    now = time.time()
    written.attempt(now)
    calls(0, now)
    assert told() == [("not finite", 10)]
    written.rewind(4)
    assert told() == []
    calls(5, now + 100)
    assert told() == told() == [("not finite", 10)]
    written.calls((11, now + 111, {"acc": 1.0}))  # the row grows, and is no other one
    assert told() == [("not finite", 10)]
    assert [finding.seq for finding in stored(runs.folder("a1"))] == [11, 18]
    written.store.close()


def test_a_resume_is_no_stall_before_it_has_a_row() -> None:
    one = Judge()
    for row in curve_of([1.0] * 60):
        assert list(one.see(row)) == []
    assert one.wait(1e9 + 9000, [1e9, 1e9 + 8000]) is None
    assert one.wait(1e9 + 9000, [1e9]) is not None


def test_a_finding_says_where_it_is() -> None:
    (finding,) = judge(curve_of([1.0, math.nan]))
    assert finding == Finding("not finite", "loss", 1, 1e9 + 1, 2, "is nan", "ERROR")
