"""The live view: its charts, what it keeps of a run, its keys, and the terminal that it gives back."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_tracker_cli.canvas import Line, Mark, chart, ema, sparkline
from offline_tracker_cli.common import Chosen
from offline_tracker_cli.dashboard import Dashboard
from offline_tracker_cli.history import History, Stat, stat
from offline_tracker_cli.keys import split
from offline_tracker_cli.screen import Look, frame
from offline_tracker_cli.watch import Guard, Stream, View

import offline_tracker
from offline_tracker import alerts as rules
from offline_tracker import curve, journal
from offline_tracker.findings import stored
from offline_tracker.host import Holder
from offline_tracker.store import RunInfo, RunReader, Runs, RunStore

from .conftest import Start
from .doubles.server import wait_until
from .test_cli import LOGGER, TRACKER, Pane, link, losses, record, say

SIZES = ((80, 24), (160, 50))


def drawn(line: Line, width: int = 40, height: int = 9, **options: Any) -> list[str]:
    return [text.plain for text in chart([line], width, height, **options)]


def points(ys: list[float]) -> Line:
    return Line([float(x) for x in range(len(ys))], ys, ys)


# The canvas.


def test_a_chart_is_a_line_of_dots_between_its_axes() -> None:
    assert drawn(points([0.0, 1.0, 2.0, 3.0]), 12, 4) == [
        "3┤       ⢀⠤⠊",
        " │   ⣀⡠⠔⠊⠁  ",
        "0┤⣀⠔⠊       ",
        " └0────────3",
    ]


def test_one_point_of_a_hundred_thousand_is_seen() -> None:
    ys = [1.0] * 100_000
    ys[61_803] = 5.0
    top, *_, bottom, _axis = drawn(points(ys))
    assert sum(character > "\u2800" for character in top) == 1
    assert "⣀" in bottom


def test_what_is_not_finite_is_marked_where_it_is() -> None:
    ys = [1.0 + x % 3 for x in range(100)]
    ys[25], ys[50], ys[75] = math.nan, math.inf, -math.inf
    top, *_, bottom, axis = drawn(points(ys), 52, 8)
    assert 0.45 < top.index("▲") / len(axis) < 0.55
    assert 0.2 < bottom.index("x") / len(axis) < 0.3
    assert 0.7 < bottom.index("▼") / len(axis) < 0.8
    assert "x" in drawn(points([math.nan, math.nan]))[-2]


def test_a_logarithmic_axis_makes_an_exponential_a_straight_line() -> None:
    def cells(lines: list[str]) -> list[str]:
        return [line.partition("│")[2] or line.partition("┤")[2] for line in lines[:-1]]

    falling = [10.0 - x / 10 for x in range(101)]
    assert cells(drawn(points([10**y for y in falling]), log_y=True, label_width=9)) == cells(
        drawn(points(falling), label_width=9)
    )
    assert "⣿" not in drawn(points([-1.0, 0.0]), log_y=True)[0]  # nothing to draw, and no error


def test_lines_above_each_other_are_told_apart_by_their_letters() -> None:
    low, high = points([1.0] * 50)._replace(letter="A"), points([2.0] * 50)._replace(letter="B")
    top, *_, bottom, _axis = (text.plain for text in chart([low, high], 60, 8))
    assert "B" in top and "A" not in top
    assert "A" in bottom and "B" not in bottom


def test_a_mark_is_a_thin_line_with_its_label() -> None:
    lines = drawn(points([0.0] * 4), 40, 8, marks=[Mark(1.5, "2"), Mark(2.5, "3", upright=False)])
    at = lines[-1].index("┴2")
    assert sum(line[at] == "│" for line in lines[:-1]) == 6  # and in one row there is the line
    at = lines[-1].index("┴3")
    assert not any(line[at] == "│" for line in lines[:-1])


def test_without_unicode_a_chart_is_ascii() -> None:
    lines = drawn(points([math.inf, 0.0, 5.0, math.nan]), marks=[Mark(1.5, "2")], unicode=False)
    assert all(line.isascii() for line in lines)
    assert {"^", "x", "|", "+"} <= set("".join(lines))


def test_a_sparkline_is_a_bar_a_value() -> None:
    assert sparkline([float(x) for x in range(8)]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, math.nan, math.inf, -math.inf, 2.0]) == "▁xxx█"
    assert sparkline([-1.7e308, 0.0, 1.7e308]) == "▁▅█"
    assert sparkline([3.0, 3.0]) == "▅▅"
    assert sparkline([]) == ""
    assert sparkline([0.0, 1.0, math.nan], unicode=False) == "_@x"


@given(
    ys=st.lists(st.floats() | st.sampled_from([1.0, -1e308, 1e308, 5e-324]), max_size=40),
    width=st.integers(1, 60),
    height=st.integers(1, 20),
    log_y=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_chart_of_anything_fills_its_place(ys: list[float], width: int, height: int, log_y: bool) -> None:
    lines = chart([points(ys)], width, height, log_y=log_y)
    assert [text.cell_len for text in lines] == [width] * height


def test_smoothing_is_debiased_and_passes_over_what_is_no_number() -> None:
    assert ema([2.0] * 5, 0.99) == pytest.approx([2.0] * 5)
    smooth = ema([1.0, math.nan, 3.0], 0.5)
    assert smooth[0] == 1.0 and math.isnan(smooth[1])
    assert smooth[2] == pytest.approx((0.25 * 1 + 0.5 * 3) / 0.75)


# What is kept of a run.


class Written:
    """A run that a test writes into the store itself, with the times it likes."""

    def __init__(self, runs: Runs, run_id: str = "a1", total_steps: int | None = None) -> None:
        self._seq = 0
        self._num = 0
        runs.create(RunInfo(run_id, uuid.uuid4().hex, 0.0, project="p", name="n", total_steps=total_steps))
        self.store = RunStore(runs.folder(run_id) / "run.db")
        self._folder = runs.folder(run_id).resolve()
        self._attempt = 0

    def attempt(self, started_at: float, environment: dict[str, str] | None = None) -> None:
        self._num = 0
        more = {"launch": "", "requeue": "", "reason": "new", "config": "{}"}
        more["environment"] = json.dumps(environment or {})
        self._attempt = self.store.claim(Holder.current(), started_at=started_at, journal=self._folder, **more)

    def put(self, kind: int, *rest: Any) -> None:
        self._num += 1
        self.store.append(self._attempt, [(self._num, kind, *rest)], time.time())

    def calls(self, *calls: tuple[int, float, dict[str, Any]]) -> None:
        """Each is a step, a time, and the values."""
        records = []
        for step, at, values in calls:
            self._num += 1
            self._seq += 1
            records.append((self._num, journal.CALL, self._seq, step, at, 1, values))
        self.store.append(self._attempt, records, time.time())

    def rewind(self, step: int) -> None:
        self.put(journal.REWIND, self._seq, step, 0.0, "test")


@pytest.fixture
def written(runs: Runs) -> Iterator[Written]:
    run = Written(runs)
    yield run
    run.store.close()


def of_the_curve(reader: RunReader) -> dict[str, Stat]:
    """What a history knows in the end, from the calls themselves."""
    values: dict[str, list[Any]] = {}
    for call in reader.calls(curve.live_spans(reader.rewinds, reader.last_seq)):
        for name, value in call.values.items():
            values.setdefault(name, []).append(value)
    return {name: found for name, column in values.items() if (found := stat(column)) is not None}


def of_the_blocks(history: History) -> dict[str, Stat]:
    found: dict[str, Stat] = {}
    for block in history.live():
        for name, known in block.stats.items():
            found[name] = found[name].joined(known) if name in found else known
    return found


def caught_up(history: History, reader: RunReader) -> History:
    history.extend(reader)
    assert history.read(reader, math.inf)
    return history


def same(one: dict[str, Stat], other: dict[str, Stat]) -> bool:
    rounded = [
        {name: repr(known._replace(total=round(known.total, 6))) for name, known in x.items()} for x in (one, other)
    ]
    return rounded[0] == rounded[1]


LIFE = st.tuples(st.sampled_from([0, 1, 7, 60, 200]), st.sampled_from([0, 1, 25, 160]), st.booleans())
"""One stretch of a run: rewind so many steps (0: not), log so many calls, in a new attempt."""


@given(lives=st.lists(LIFE, min_size=1, max_size=8), most=st.integers(4, 40))
@settings(deadline=None, max_examples=25)
def test_a_history_followed_through_rewinds_knows_what_the_curve_holds(
    tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[int, int, bool]], most: int
) -> None:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    run = Written(runs)
    followed = History(most)
    step = 0
    run.attempt(0.0)
    for back, count, again in lives:
        if again:
            run.attempt(float(step))
        if back:
            step = max(0, step - back)
            run.rewind(step - 1)
        odd = {0: math.nan, 5: math.inf, 7: -math.inf}
        run.calls(
            *((step + i, step + i, {"loss": odd.get(i, i * 0.5 + back), "text": "no number"}) for i in range(count))
        )
        step += count
        with runs.read("a1") as reader:
            caught_up(followed, reader)
            assert same(of_the_blocks(followed), of_the_curve(reader))
            assert same(of_the_blocks(caught_up(History(most), reader)), of_the_curve(reader))
            steps = [step for block in followed.live() for step in block.steps if block.stats]
            assert steps == sorted(steps)
            edges = [(block.first, block.last) for block in followed.blocks]
            assert [first for first, _ in edges] == [1, *(last + 1 for _, last in edges)][: len(edges)]
    run.store.close()


def test_what_is_known_of_a_metric() -> None:
    assert stat(["text", None]) is None
    assert stat([True, 3, 0.5]) == Stat(0.5, 3, 4.5, 3, 0.5)
    assert stat([1.0, None, 10**400, -(10**400), "text", math.nan]) == Stat(1.0, 1.0, 1.0, 1, ANY, 1, 1, 1)
    assert stat([math.inf]) == Stat(math.inf, -math.inf, 0.0, 0, math.inf, 0, 1)


def test_a_rewind_reads_again_only_what_it_cuts(runs: Runs, written: Written) -> None:
    written.attempt(0.0)
    written.calls(*((step, float(step), {"loss": 1.0}) for step in range(1000)))
    history = History(most=100)
    with runs.read("a1") as reader:
        before = caught_up(history, reader).blocks
    written.attempt(1000.0)
    written.rewind(499)
    written.calls((500, 1000.0, {"loss": 2.0}))
    with runs.read("a1") as reader:
        history.extend(reader)
    unread = [block for block in history.blocks if block.read < 2]
    assert sum(map(len, unread)) < 4 * history.size + 110  # what it cuts, and the newest calls
    assert sum(block in history.blocks for block in before) > len(before) // 2
    assert len([block for block in history.blocks if not block.live]) > 10


def test_a_rewind_that_is_set_by_hand_gives_old_calls_new_steps(runs: Runs, written: Written) -> None:
    written.attempt(0.0)
    written.calls(*((step, float(step), {"loss": 1.0}) for step in range(600)))
    history = History()
    with runs.read("a1") as reader:
        caught_up(history, reader)
    written.store.rewind(300, 199, "by hand")
    with runs.read("a1") as reader:
        caught_up(history, reader)
    assert [block.steps[0] for block in history.live()] == list(range(500))


def test_a_long_run_is_shown_before_all_of_it_is_read(runs: Runs, written: Written) -> None:
    written.attempt(0.0)
    written.calls(*((step, float(step), {"loss": float(step)}) for step in range(30_000)))
    history = History()
    with runs.read("a1") as reader:
        history.extend(reader)
        assert not history.read(reader, 0.0)
        assert history.part_read < 0.1
        assert len(history.live()) == len(history.blocks) <= 1024
        assert history.newest() == {"loss": (29_999, 29_999.0)}
        assert history.read(reader, math.inf)
        assert same(of_the_blocks(history), of_the_curve(reader))


def test_a_sample_is_of_all_of_the_curve_and_of_nothing_else(runs: Runs, written: Written) -> None:
    written.attempt(0.0)
    written.calls(*((step, float(step), {"loss": 100.0, "dead": 1.0}) for step in range(15_000)))
    written.rewind(9_999)
    written.calls(*((step, float(step), {"loss": float(step)}) for step in range(10_000, 30_000)))
    with runs.read("a1") as reader:
        history = History()
        history.extend(reader)
        assert history.sample(reader, 0.0) == pytest.approx(4 / history.size, rel=0.01)
        assert not [block for block in history.blocks if block.read and not block.live]
        means = history.means("loss", 30)
        assert means[:10] == [100.0] * 10
        assert means[11:] == pytest.approx([11_500.0 + 1000 * nth for nth in range(19)], rel=0.02)
        assert len(history.means("dead", 7)) == 7
        assert history.sample(reader, math.inf) == 1.0
        assert same(of_the_blocks(history), of_the_curve(reader))
        assert history.means("none", 30) == []


def test_a_value_that_comes_after_its_call_is_seen(runs: Runs, written: Written) -> None:
    written.attempt(0.0)
    written.calls((0, 1.0, {"lr": 0.5}), (1, 2.0, {"lr": 0.25}))
    history = History()
    with runs.read("a1") as reader:
        assert "loss" not in caught_up(history, reader).newest()
    written.put(journal.VALUES, 1, {"loss": 4.0})
    with runs.read("a1") as reader:
        assert caught_up(history, reader).newest()["loss"] == (0, 4.0)


# The frame.


def text_of(view: View, width: int = 100, height: int | None = None, look: Look | None = None, **board: Any) -> str:
    dashboard = Dashboard(**board)
    dashboard.runs = [view.run]
    return "\n".join(line.plain for line in frame(dashboard, [view], width, height, look or Look()))


def seen(runs: Runs, run_id: str = "a1") -> View:
    view = View(Chosen(runs, run_id))
    view.refresh(math.inf)
    assert view.error is None and not view.behind
    return view


def steady(runs: Runs, run: Written, environment: dict[str, str] | None = None) -> View:
    """A run that does a step a second, half of that for a while, and has done 400."""
    now = time.time()
    run.attempt(now - 460, environment)
    times = [now - 460 + step + min(max(0, step - 200), 60) for step in range(401)]
    run.calls(*((step, at, {"loss": 4.0 - step / 100, "lr": 0.5}) for step, at in enumerate(times)))
    return seen(runs)


def test_the_header_tells_pace_time_left_and_when_it_ends(runs: Runs) -> None:
    run = Written(runs, total_steps=1000)
    view = steady(runs, run)
    said = text_of(view)
    assert "running   attempt 1" in said
    assert "step 400 of 1000 (40%)   1 steps/s" in said
    left = view.left()
    assert left is not None and left.low is not None and left.high is not None
    assert left.seconds == pytest.approx(690, abs=5)
    assert left.low == pytest.approx(600, abs=5)  # at a step a second
    assert left.high == pytest.approx(1200, abs=10)  # at half of that
    assert "ETA 11m (" in said
    assert f"ends {time.strftime('%H:%M', time.localtime(left.end_at))}" in said
    assert "time limit" not in said
    run.store.close()


@pytest.mark.parametrize(
    ("limit_s", "slurm_s", "words"),
    [
        (1000, None, "won't fit the time limit"),  # from the start of the attempt: 460 are gone
        (1300, None, "may not fit the time limit"),
        (7200, None, "   time limit"),
        (None, 600, "won't fit the time limit"),  # from now on
        (None, 7200, "   time limit"),
        (7200, 600, "   time limit"),
    ],
)
def test_a_run_that_will_not_end_in_time_is_told(
    runs: Runs, limit_s: float | None, slurm_s: int | None, words: str
) -> None:
    run = Written(runs, total_steps=1000)
    end = {"slurm_job_end_time": str(int(time.time()) + slurm_s)} if slurm_s else {}
    assert words in text_of(steady(runs, run, environment=end), look=Look(limit_s=limit_s))
    run.store.close()


def test_the_end_that_slurm_gives_a_job_is_kept(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1900000000")
    record(runs, "a1", {"loss": 1.0})
    with runs.read("a1") as reader:
        assert reader.attempts[0].environment["slurm_job_end_time"] == "1900000000"


def test_a_run_that_lives_but_writes_nothing_is_stalled(runs: Runs, written: Written) -> None:
    now = time.time()
    written.attempt(now - 900)
    written.calls((0, now - 76, {"loss": 1.0, "epoch_Time": 12.5}))
    said = text_of(seen(runs))
    assert "stalled, last write 1m1" in said
    assert "ETA 12.5min (epoch)" in said


def test_attempts_and_rewinds_are_told_apart_and_what_died_is_shown_on_request(runs: Runs, written: Written) -> None:
    written.attempt(0.0)
    written.calls(*((step, float(step), {"loss": 10.0 if step > 60 else 1.0}) for step in range(100)))
    written.attempt(1000.0)
    written.rewind(49)
    written.calls(*((step, 1000.0 + step, {"loss": 2.0}) for step in range(50, 100)))
    view = seen(runs)
    said = text_of(view)
    assert "attempt 2, 1 rewind" in said
    assert "┴2" in said
    assert "10┤" not in said and "loss 2" in said
    assert "10┤" in text_of(view, dead=True)
    assert "2m28s" in text_of(view, by_time=True)  # 49 s, and 99 s from the second start: no downtime
    (block,) = [block for block in view.history.live() if block.steps[0] == 50]
    assert block.attempt == 2


def test_best_values_follow_the_metric(runs: Runs) -> None:
    run = offline_tracker.init(id="a1", dir=runs.path)
    run.define_metric("odd", summary="max")
    for step in range(5):
        run.log({"loss": 5.0 - step, "acc": step / 10, "odd": step * 7, "lr": 0.5 if step else 0.1, "nan": math.nan})
    offline_tracker.finish()
    said = text_of(seen(runs), 160)
    for words in ("best 1 at 4", "best 0.4 at 4", "best 28 at 4", "0.1 to 0.5", "5 NaN"):
        assert words in said


def test_a_frame_fills_every_size_and_no_more(runs: Runs) -> None:
    for number in range(6):
        record(runs, f"run{number}", *losses(30), name="名前" * 20, project="p" * 70, total_steps=100)
    views = [seen(runs, run_id) for run_id in runs.ids()]
    for width, height in ((200, 60), (160, 50), (80, 24), (60, 15), (20, 6), (5, 2)):
        for mode in ("", "help", "runs", "filter", "alerts"):
            for compare in (False, True):
                board = Dashboard(mode=mode, compare=compare, runs=[view.run for view in views])
                for shown in (views, views[:1]):
                    lines = frame(board, shown, width, height, Look())
                    assert len(lines) == height
                    assert max(line.cell_len for line in lines) <= width


def test_where_a_run_is_synced_is_told(runs: Runs, tracker_once: Callable[..., str]) -> None:
    record(runs, "a1", *losses(5))
    link(runs, "a1", confirmed_step=3)
    assert "synced: swanlab to 3" in tracker_once()
    shutil.rmtree(runs.folder("a1"))
    record(runs, "a1", *losses(5))  # another one of the same id
    assert "synced" not in tracker_once()


def test_alerts_follow_the_curve_and_are_kept_with_the_run(
    runs: Runs, written: Written, tracker_once: Callable[..., str]
) -> None:
    now = time.time()
    written.attempt(now)
    written.calls(*((step, now, {"loss": 1.0}) for step in range(10)))
    view = View(Chosen(runs, "a1"), [rules.parse("loss > 5")])
    view.refresh(math.inf)
    assert view.alerts == []
    written.calls((10, now, {"loss": math.inf}), (11, now, {"loss": 9.0}))
    view.refresh(math.inf)
    told = [("not finite", 10), ("loss > 5", 10)]
    assert [(notice.rule, notice.step) for notice in view.alerts] == told
    assert [(finding.rule, finding.step) for finding in stored(runs.folder("a1"))] == told
    assert "! loss > 5: loss is inf, step 10 (+1, a)" in text_of(view)
    assert "not finite: loss is inf" in text_of(view, height=30, mode="alerts")
    assert "! loss > 5: loss is inf" in tracker_once()  # one that knows no such rule
    written.rewind(9)
    written.calls((10, now, {"loss": 1.0}))
    view.refresh(math.inf)
    assert view.alerts == []


def test_what_the_training_says_is_given_once_and_none_of_long_ago(runs: Runs, written: Written) -> None:
    def said(stream: Stream) -> list[str]:
        list(stream.rows())
        return [notice.text for notice in stream.said]

    now = time.time()
    written.attempt(now)
    written.calls((0, now, {"loss": 1.0}))
    written.put(journal.ALERT, now, 1, "first", "", "WARN")
    written.calls(*((step, now, {"loss": 1.0}) for step in range(1, 9)))
    stream = Stream(Chosen(runs, "a1"))
    assert said(stream) == ["first"]
    assert said(Stream(Chosen(runs, "a1"), newest=3)) == []
    written.put(journal.ALERT, now, 9, "second", "", "WARN")
    assert said(stream) == ["second"]
    written.calls((9, now, {"loss": 1.0}))
    assert said(stream) == []


def test_a_guard_begins_with_what_is_usual_and_anew_behind_a_rewind(runs: Runs, written: Written) -> None:
    def told() -> list[tuple[str, int]]:
        return [(finding.rule, finding.step) for row in stream.rows() for finding in guard.see(row)]

    def calls(first: int, *losses: float) -> None:
        written.calls(*((step, 1e9 + step, {"loss": loss}) for step, loss in enumerate(losses, first)))

    written.attempt(1e9)
    calls(0, *(1.0 + step % 3 / 10 for step in range(60)))
    calls(60, 50.0)
    stream = Stream(Chosen(runs, "a1"), newest=1)
    guard = Guard(stream, [rules.parse("loss > 5 for 3 rows")])
    assert told() == [("spike", 60)]
    calls(61, 50.0)
    assert told() == []
    written.rewind(58)
    calls(59, 9.0, 9.0)
    assert told() == [("spike", 59)]  # two rows above five, not four
    written.rewind(59)
    calls(60, math.nan)  # the step that was the newest, but another row
    assert told() == [("not finite", 60)]
    written.rewind(58)
    calls(59, 9.0, 9.0, 9.0)
    assert told() == [("spike", 59), ("loss > 5 for 3 rows", 61)]


# The keys.


def test_keys_are_read_from_what_a_terminal_sends() -> None:
    assert split("q1\x1b[A\x1bOB\x1b[5~\x1b[6~\r\x7f\x1b") == [
        *("q", "1", "up", "down", "pageup", "pagedown", "enter", "backspace", "escape")
    ]
    assert split("\x1b[1;5Cä\x00\x1b[200~x") == ["ä", "x"]


def test_each_key_does_what_the_help_says(runs: Runs) -> None:
    board = Dashboard(runs=[Chosen(runs, name) for name in "abcdef"], pages=3)

    def press(*keys: str) -> Dashboard:
        for key in keys:
            board.press(key)
        return board

    assert [run.id for run in board.visible()] == ["a", "b", "c", "d"]
    assert press("s", "s").smoothing == 2 and press("s", "s").smoothing == 0
    assert press("y", "x", "c", "d", " ").log_y and board.by_time and board.compare and board.dead and board.paused
    assert press("3").columns == 3 and press("0").columns == 0
    assert press("pagedown", "right", "down").page == 2 and press("up").page == 1
    assert press("/", "l", "o", "q", "backspace", "enter").filter == "lo" and not board.done
    assert board.wanted("val\x1floss") and not board.wanted("lr")
    assert press("/", "escape").filter == ""
    assert [run.id for run in press("r", "down", " ", "end", " ", "enter").visible()] == ["a", "c", "d", "f"]
    assert [run.id for run in press("r", "home", "o", "r").visible()] == ["a"]
    assert [run.id for run in press("r", "a", "escape").visible()] == ["a", "b", "c", "d"]
    assert press("?").mode == "help" and press("?").mode == ""
    assert press("a").mode == "alerts" and press("escape").mode == ""
    assert press("q").done


def test_a_time_limit_is_read_as_slurm_reads_it_or_with_units(tracker_once: Callable[..., str], runs: Runs) -> None:
    from offline_tracker_cli.tail import _seconds

    for text, seconds in {
        **{"90": 5400, "90:30": 5430, "1:30:00": 5400, "1-12": 129600, "1-12:30": 131400, "2-00:00:10": 172810},
        **{"90m": 5400, "1d12h": 129600, "45s": 45},
    }.items():
        assert _seconds(text) == seconds
    record(runs, "a1", {"loss": 1.0})
    assert "use a length of time" in tracker_once("--time-limit", "soon", status=2)


@pytest.fixture
def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "error", "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}


@pytest.fixture
def tracker_once(environ: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    def run(*args: str, status: int = 0) -> str:
        command = [TRACKER, "tail", "runs", "--once", *args]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    return run


# In a terminal.


@pytest.fixture
def terminal(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[[int, int], Pane]]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    panes: list[Pane] = []

    def open_(columns: int, lines: int) -> Pane:
        panes.append(Pane({key: value for key, value in environ.items() if key != "TMUX"}, tmp_path, columns, lines))
        panes[-1].keys("PS1='$ '; clear; stty -g > modes; echo 'before'", "Enter")
        panes[-1].wait("before")
        return panes[-1]

    yield open_
    for pane in panes:
        pane.close()


def start_tail(pane: Pane, *options: str) -> None:
    pane.keys(f"bash -c 'echo $$ > pid; exec {TRACKER} tail runs {' '.join(options)}'; echo ended=$?", "Enter")


def given_back(pane: Pane, tmp_path: Path, status: int) -> None:
    """Wait until the terminal is what it was: its modes, its screen, its cursor."""
    screen = pane.wait("before", f"ended={status}")
    assert "┤" not in screen
    pane.keys("stty -g > modes-after; echo written", "Enter")
    wait_until(lambda: pane.text().count("written") == 2)
    assert (tmp_path / "modes-after").read_text() == (tmp_path / "modes").read_text()
    assert pane.flags("alternate_on", "cursor_flag") == ["0", "1"]


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_the_keys_work_in_a_terminal_while_a_training_logs(
    terminal: Callable[[int, int], Pane], start: Start, runs: Runs, tmp_path: Path, columns: int, lines: int
) -> None:
    more = {"lr": 0.125, "gpu": {"mem": 1, "power": 2, "temp": 3}}
    record(runs, "older", *({"loss": 9.0 - step, "val": {"acc": step}, **more} for step in range(8)))
    writer = start(LOGGER, "live")
    assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for loss in (8.0, 4.0, 2.0):
        say(writer, loss)
    pane = terminal(columns, lines)
    start_tail(pane)
    screen = pane.wait("A live", "running", "2/1000", "B older", "finished", "A loss 2", "B loss 2", "q quit")
    assert "before" not in screen
    assert len(screen.splitlines()) == lines
    pane.keys("r", "Down", "o", "r")  # the first is the one that wrote last; the second alone
    pane.wait("older", "step 7", "val.acc")
    pane.keys("r", "Up", "o", "r")
    pane.wait("live · p · writer", "running   attempt 1", "step 2 of 1000", "ETA ", "loss 2   lr 0.0005")
    say(writer, 0.125)
    pane.wait("step 3 of 1000", "best 0.125 at 3")
    pane.keys("Space")
    pane.wait("PAUSED")
    say(writer, 0.0625)
    pane.keys("s", "y", "x")
    screen = pane.wait("smooth 0.6", "y log", "x time")
    assert "step 3 of 1000" in screen
    pane.keys("Space")
    pane.wait("step 4 of 1000")
    pane.keys("/", "l", "r")
    pane.wait("/lr_", "lr 0.0005")
    pane.keys("Enter")
    assert "best" not in pane.wait("filter lr")
    pane.keys("/", "Escape")
    pane.wait("best 0.0625 at 4")
    pane.keys("?")
    pane.wait("columns of charts", "Keys")
    pane.keys("?", "r", "a", "r", "1")
    pane.wait("page 1/")
    pane.keys("PageDown")
    pane.wait("page 2/")
    pane.keys("0", "c")
    pane.wait("overlaid", "loss  A 0.0625  B 2")
    pane.keys("r", "Home", "o", "r")
    say(writer, math.nan)
    pane.wait("! not finite: loss is nan, step 5", "alerts 1")
    pane.keys("a")
    pane.wait("Alerts, the newest first (1)", "ERROR", "step 5  not finite: loss is nan")
    pane.keys("a", "r", "a", "r")
    writer.kill()
    writer.wait()
    pane.wait("crashed")
    pane.keys("q")
    given_back(pane, tmp_path, 0)


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_a_terminal_that_changes_its_size_is_filled_anew(
    terminal: Callable[[int, int], Pane], runs: Runs, tmp_path: Path, columns: int, lines: int
) -> None:
    record(runs, "a1", *losses(30))
    pane = terminal(columns, lines)
    start_tail(pane)
    pane.wait("q quit", "a1", "best 1 at 0")
    for width, height in ((100, 30), (40, 10), (200, 60), (columns, lines)):
        pane.resize(width, height)

        def filled(width: int = width, height: int = height) -> bool:
            screen = pane.text().splitlines()
            axis = [line for line in screen if "└" in line]
            return len(screen) == height and screen[-1].startswith("q quit") and bool(axis) and len(axis[0]) == width

        wait_until(filled, what=f"a frame of {width}x{height}")
    pane.keys("C-c")
    given_back(pane, tmp_path, 0)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0), (signal.SIGQUIT, 131)]
)
def test_the_terminal_is_given_back_on_every_signal(
    terminal: Callable[[int, int], Pane], runs: Runs, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    record(runs, "a1", *losses(3))
    pane = terminal(80, 24)
    start_tail(pane)
    pane.wait("q quit", "a1")
    assert pane.flags("alternate_on", "cursor_flag") == ["1", "0"]
    os.kill(int((tmp_path / "pid").read_text()), number)
    given_back(pane, tmp_path, status)


def test_the_terminal_is_given_back_when_the_runs_folder_goes_away(
    terminal: Callable[[int, int], Pane], runs: Runs, tmp_path: Path
) -> None:
    record(runs, "a1", *losses(3))
    pane = terminal(80, 24)
    start_tail(pane)
    pane.wait("q quit", "a1")
    runs.path.rename(tmp_path / "away")
    given_back(pane, tmp_path, 2)
    assert "no folder" in pane.text()


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(
    terminal: Callable[[int, int], Pane], runs: Runs, tmp_path: Path
) -> None:
    record(runs, "a1", *losses(3))
    pane = terminal(80, 24)
    pane.keys(f"{TRACKER} tail runs; echo ended=$?", "Enter")
    pane.wait("q quit", "a1")
    pane.keys("C-z")
    screen = pane.wait("before", "Stopped")
    assert "┤" not in screen
    pane.keys("fg", "Enter")
    pane.wait("q quit", "a1", "┤")
    pane.keys("y")
    pane.wait("y log")
    pane.keys("q")
    pane.wait("before", "fg")
    assert pane.flags("alternate_on", "cursor_flag") == ["0", "1"]


def test_without_colour_no_colour_is_sent(
    terminal: Callable[[int, int], Pane], runs: Runs, environ: dict[str, str]
) -> None:
    record(runs, "a1", *losses(3))
    record(runs, "b2", *losses(3, first=5.0))
    pane = terminal(80, 24)
    pane.keys(f"NO_COLOR=1 {TRACKER} tail runs", "Enter")
    pane.wait("q quit", "a1")
    pane.keys("c")
    screen = pane.wait("overlaid", "A", "B")
    assert sum(line.count("A") for line in screen.splitlines() if "│" in line or "┤" in line) >= 1
    assert not re.search(r"\x1b\[[0-9;]*\b[39][0-7]m", pane.text("-e"))  # bold and dim, and nothing else
    pane.keys("q")
