"""`tracker compare`, run as a user runs it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_tracker_cli.glance import best_is, goals
from offline_tracker_cli.history import History

import offline_tracker
from offline_tracker import curve
from offline_tracker.store import Runs

from .test_cli import TRACKER, Pane, record
from .test_tail import Written

Compare = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """Run `tracker compare` to its end, which must be a good one unless *status* says otherwise."""

    def run(*args: object, status: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [TRACKER, "compare", *map(str, args)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONWARNINGS": "error", "LC_ALL": "C.UTF-8", **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def pane(tmp_path: Path) -> Iterator[Pane]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    environ = {key: value for key, value in os.environ.items() if key not in ("TMUX", "NO_COLOR")}
    pane = Pane({**environ, "LC_ALL": "C.UTF-8"}, tmp_path, 80, 150)
    yield pane
    pane.close()


def two(runs: Runs) -> None:
    """Run a1 has the better loss, b2 the better accuracy; only a1 has `extra`."""
    losses, accuracies = [3.0, 1.0, 2.0], [0.25, 0.5, 0.125]
    calls = [{"acc": acc, "loss": loss, "extra": 1} for loss, acc in zip(losses, accuracies, strict=True)]
    record(runs, "a1", *calls, name="first", config={"lr": 0.1, "model": {"dim": 8}, "same": 1})
    calls = [{"acc": 2 * acc, "loss": loss + 1} for loss, acc in zip(losses, accuracies, strict=True)]
    record(runs, "b2", *calls, config={"lr": 0.2, "model": {"dim": 8}, "same": 1, "only": math.nan})


def words(text: str, of: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith(of)]


def test_it_tells_what_differs_and_which_run_is_best(runs: Runs, compare: Compare) -> None:
    two(runs)
    said = compare("a1", "b2").stdout
    assert words(said, "A ")[0][:6] == ["A", "a1", "finished", "2", "1", words(said, "A ")[0][5]]
    assert words(said, "A ")[0][-1] == "first"
    config = said.split("Config, where it differs\n")[1].split("\n\n")[0]
    assert [line.split() for line in config.splitlines()] == [["A", "B"], ["lr", "0.1", "0.2"], ["only", "-", "nan"]]
    assert words(said, "loss")[:2] == [
        ["loss", "(min)", "A", "1*", "1", "2", "2"],
        ["loss", "(min)", "B", "2", "1", "3", "2"],
    ]
    assert words(said, "acc")[:2] == [
        ["acc", "(max)", "A", "0.5", "1", "0.125", "2"],
        ["acc", "(max)", "B", "1*", "1", "0.25", "2"],
    ]
    assert words(said, "extra") == [["extra", "A", "1", "2"]]
    charts = said.split("Charts, by step\n")[1]
    assert charts.startswith("loss  A 2  B 3")  # first, and side by side
    assert "acc  A 0.125  B 0.25" in charts.splitlines()[0]
    assert "extra" not in charts and "\x1b" not in said
    assert any("\u2800" < character < "\u2900" for character in charts)
    assert max(map(len, charts.splitlines())) <= 100


def test_json_has_the_same_facts(runs: Runs, compare: Compare) -> None:
    two(runs)
    document = json.loads(compare("a1", "b2", "--json").stdout)
    assert [run["run"] for run in document["runs"]] == ["a1", "b2"]
    assert document["config"] == {"lr": [0.1, 0.2], "only": [None, "NaN"]}
    assert list(document["metrics"]) == ["loss", "acc", "extra"]
    assert document["metrics"]["acc"]["best_is"] == "max"
    assert document["metrics"]["acc"]["runs"][1] == {
        "last": {"step": 2, "value": 0.25},
        "best": {"step": 1, "value": 1.0},
        "nan": 0,
        "infinite": 0,
        "is_best": True,
    }
    assert document["metrics"]["acc"]["runs"][0]["is_best"] is False
    assert document["metrics"]["extra"] == {"best_is": None, "runs": [{**_none_best(1, 2), "is_best": False}, None]}
    assert document["unreadable"] == []
    picked = json.loads(compare("a1", "b2", "--json", "--metric", "lo*", "--metric", "ex*").stdout)
    assert list(picked["metrics"]) == ["loss", "extra"]


def _none_best(value: Any, step: int) -> dict[str, Any]:
    return {"last": {"step": step, "value": value}, "best": None, "nan": 0, "infinite": 0}


def test_a_config_that_is_equal_differs_nowhere_though_nan_is_no_nan(runs: Runs, compare: Compare) -> None:
    for run_id in ("a1", "b2"):
        record(runs, run_id, {"loss": 1.0}, config={"odd": math.nan, "list": [1, math.nan]})
    assert "nowhere" in compare("a1", "b2").stdout
    assert json.loads(compare("a1", "b2", "--json").stdout)["config"] == {}


def test_what_is_not_finite_is_counted_marked_and_never_best(runs: Runs, compare: Compare) -> None:
    record(runs, "a1", *[{"loss": value} for value in (2.0, -math.inf, math.nan, 3.0)])
    record(runs, "b2", {"loss": math.nan})
    said = compare("a1", "b2").stdout
    assert words(said, "loss")[:2] == [
        ["loss", "(min)", "A", "2*", "0", "3", "3", "1", "NaN", "1", "inf"],
        ["loss", "(min)", "B", "nan", "0", "1", "NaN"],
    ]
    assert {"x", "▼"} <= set(said.split("Charts")[1])
    of_json = json.loads(compare("a1", "b2", "--json").stdout)["metrics"]["loss"]["runs"]
    assert [(run["last"]["value"], run["nan"], run["infinite"]) for run in of_json] == [(3.0, 1, 1), ("NaN", 1, 0)]


def test_runs_without_a_metric_or_a_row_in_common(runs: Runs, compare: Compare) -> None:
    record(runs, "a1", {"loss": 1.0, "text": "no number"})
    record(runs, "b2", {"acc": 1.0, "text": "neither"})
    record(runs, "empty")
    said = compare("a1", "b2", "empty").stdout
    assert said.endswith("\nThe runs have no numbers of a metric in common.\n")
    assert words(said, "text") == [["text", "A", "no", "number", "0"], ["text", "B", "neither", "0"]]
    assert words(said, "C ")[0][:3] == ["C", "empty", "finished"]


def test_a_run_that_cannot_be_read_costs_a_line_and_the_status(runs: Runs, compare: Compare) -> None:
    two(runs)
    record(runs, "c3", {"loss": 1.0})
    path = runs.path / "c3" / "run.db"
    path.write_bytes(b"x" * path.stat().st_size)
    done = compare("c3", "a1", "nope", "b2", status=1)
    assert words(done.stdout, "A ")[0][1] == "a1" and words(done.stdout, "B ")[0][1] == "b2"
    first, second = sorted(done.stderr.splitlines())
    assert first.startswith("tracker: run c3: ") and "run.db" in first
    assert second == "tracker: run nope: no run 'nope' in runs"
    document = json.loads(compare("c3", "a1", "b2", "--json", status=1).stdout)
    assert [run["run"] for run in document["unreadable"]] == ["c3"]
    assert compare("c3", "nope", status=1).stdout == ""


def test_fewer_than_two_runs_are_a_usage_error(runs: Runs, compare: Compare) -> None:
    two(runs)
    for names in ([], ["a1"], ["a1", "runs/a1"]):
        done = compare(*names, status=2)
        assert done.stderr == "tracker: compare takes two runs or more; tracker show RUN shows one\n"
        assert done.stdout == ""


def test_what_runs_say_cannot_steer_the_terminal(runs: Runs, compare: Compare) -> None:
    evil = "\x1b[2J\x9b1m\r\u202e"
    for run_id in ("a1", "b2"):
        record(runs, run_id, {f"{evil}loss": 1.0, f"t{evil}": evil}, name=evil, config={evil: evil + run_id})
    said = compare("a1", "b2").stdout
    assert not set("\x1b\x9b\r\u202e") & set(said)
    assert "\\x1b[2J" in said.split("Charts")[1]


def test_without_unicode_it_is_ascii(runs: Runs, compare: Compare) -> None:
    two(runs)
    said = compare("a1", "b2", PYTHONIOENCODING="ascii").stdout
    assert said.isascii() and "?" not in said
    assert "A" in said.split("Charts")[1]


def test_many_metrics_give_a_dozen_charts_unless_they_are_picked(runs: Runs, compare: Compare) -> None:
    for run_id in ("a1", "b2"):
        record(runs, run_id, {f"m{nth:02}": nth for nth in range(15)})
    said = compare("a1", "b2").stdout.split("Charts, by step\n")[1]
    assert "m11  A 11  B 11" in said and "m12" not in said
    assert said.endswith("3 more in common; --metric GLOB picks\n")
    assert "m14  A 14  B 14" in compare("a1", "b2", "--metric", "m*").stdout


def test_in_a_terminal_of_80_columns_nothing_is_wider(pane: Pane, runs: Runs) -> None:
    two(runs)
    for nth in range(6):
        record(runs, f"more{nth}", {"loss": float(nth), "acc": 0.5}, config={"lr": f"a value of {nth}", "own": nth})
    pane.keys("PS1='$ '; clear", "Enter")
    pane.keys(f"NO_COLOR=1 {TRACKER} compare a1 b2 more0 more1 more2 more3 more4 more5; echo ended=$?", "Enter")
    screen = pane.wait("ended=0")
    heads = [line.split() for line in screen.splitlines() if line.split() and set(line.split()) <= set("ABCDEFGH")]
    assert [letter for line in heads for letter in line] == list("ABCDEFGH")
    assert len(heads) > 1
    chart = next(line for line in screen.splitlines() if line.startswith("loss  A 2  B 3"))
    assert "acc  A" in chart and len(chart) <= 80
    pane.keys("clear", "Enter")
    pane.keys(f"{TRACKER} compare a1 b2; echo again=$?", "Enter")
    pane.wait("again=0")  # not what stands there from before
    assert "\x1b[36m" in pane.text("-e")  # and with colour where it is wanted


def test_which_end_of_a_metric_is_best() -> None:
    names = ["train/loss", "perplexity", "val.accuracy", "reward", "f1_score", "lr", "loss_scale"]
    assert [best_is(name, {}) for name in names] == ["min", "min", "max", "max", "max", None, None]
    known = goals(
        {
            "val/*": {"summary": "min"},
            "val/acc": {"goal": "maximize", "summary": "min"},
            "lr": {"summary": "last"},
            "a\x1fb": {"goal": "minimize"},
        }
    )
    assert [best_is(name, known) for name in ("val/acc", "val/reward", "reward", "lr")] == ["max", "min", "max", None]


def test_what_one_run_defined_holds_for_all(runs: Runs, compare: Compare) -> None:
    for run_id, value in (("a1", 1.0), ("b2", 2.0)):
        run = offline_tracker.init(id=run_id, dir=runs.path)
        if run_id == "b2":
            run.define_metric("odd_loss", goal="maximize")
        run.log({"odd_loss": value})
        run.log({"odd_loss": 1.5})
        offline_tracker.finish()
    metric = json.loads(compare("a1", "b2", "--json").stdout)["metrics"]["odd_loss"]
    assert metric["best_is"] == "max"
    assert [run["best"]["value"] for run in metric["runs"]] == [1.5, 2.0]


STRETCH = st.tuples(st.integers(0, 60), st.integers(1, 90), st.integers(1, 4))
"""Rewind so many steps (0: not), log so many calls, so many of them a step."""


@given(stretches=st.lists(STRETCH, min_size=1, max_size=5), most=st.integers(4, 40), data=st.data())
@settings(deadline=None, max_examples=25)
def test_the_best_is_that_of_the_curve(
    tmp_path_factory: pytest.TempPathFactory, stretches: list[tuple[int, int, int]], most: int, data: st.DataObject
) -> None:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    run = Written(runs, uuid.uuid4().hex[:8])
    run.attempt(0.0)
    step = 0
    random = data.draw(st.randoms(use_true_random=False))
    odd = [math.nan, math.inf, -math.inf, "text", None, 10**400, True, 7]
    for back, count, each in stretches:
        if back:
            step = max(0, step - back)
            run.rewind(step - 1)
        values = [random.choice(odd) if random.random() < 0.1 else random.gauss(0, 1) for _ in range(count)]
        run.calls(*((step + i // each, 1.0 + i, {"loss": value}) for i, value in enumerate(values)))
        step += (count - 1) // each + 1
    run.store.close()
    with runs.read(runs.ids()[0]) as reader:
        rows = list(curve.rows(reader.calls(curve.live_spans(reader.rewinds, reader.last_seq))))
        numbers = [
            (row.step, value)
            for row in rows
            if isinstance(value := row.values["loss"], int | float) and abs(value) < math.inf and value != 10**400
        ]
        history = History(most)
        history.extend(reader)
        assert history.read(reader, math.inf)
        for kind, of in (("min", min), ("max", max)):
            found = history.best(reader, "loss", kind)
            assert (None if found is None else found[1]) == of((value for _, value in numbers), default=None)
            assert found is None or found in numbers
