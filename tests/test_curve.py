"""Calls, crashes and resumes become one curve: random histories against a plain dict, and each pure function alone."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offline_tracker
from offline_tracker import Run, curve
from offline_tracker.curve import Row, holds, live_spans, lost_steps, runtime, sendable_step
from offline_tracker.store import Runs, RunStore

from .conftest import curve_of

slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def fast_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is one: the disk's flushes are not what these histories are about."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


class Back(NamedTuple):
    """A rewind, as the curve knows one."""

    seq: int
    step: int


class Said(NamedTuple):
    """A call, as the curve knows one."""

    seq: int
    step: int
    time: float
    values: dict[str, Any]


# A training that dies and goes on, in this process.


def begin(runs: Runs, **options: Any) -> Run:
    offline_tracker.finish()
    return offline_tracker.init(dir=runs.path, id="a1", **options)  # type: ignore[no-any-return]


def die(run: Run, runs: Runs) -> None:
    """
    Leave the run's folder as SIGKILL would leave it at this moment.

    What is committed by now and the journal as it is are put aside, the attempt is ended without a word, and they are put
    back, with a holder that is gone. (Processes that are really killed: test_store, test_run.)
    """
    folder = runs.folder("a1")
    with tempfile.TemporaryDirectory() as aside:
        with (
            contextlib.closing(sqlite3.connect(folder / "run.db")) as reading,
            contextlib.closing(sqlite3.connect(Path(aside) / "run.db")) as writing,
        ):
            reading.backup(writing)
        for path in folder.glob("journal-*"):  # after the database: it may be ahead of it, never behind
            shutil.copy(path, aside)
        run._finished = True  # what a dead process has: no end on record
        run._open = False
        run._writer.abandon().close()
        for path in folder.glob("run.db-journal"):
            path.unlink()
        for path in Path(aside).iterdir():
            shutil.copy(path, folder)
    with contextlib.closing(sqlite3.connect(folder / "run.db", isolation_level=None)) as connection:
        connection.execute("UPDATE attempt SET pid_started = 1")


# The oracle: design.md in terms of a dict, which knows neither seqs nor spans.


@dataclass
class Entry:
    """A call that holds: where it is, what it said, when (between two moments), and how its step came about."""

    step: int
    values: dict[str, Any]
    when: tuple[float, float]
    counted: bool
    closes: bool


@dataclass
class Model:
    live: list[Entry] = field(default_factory=list)
    open_at: int = 0
    fresh: bool = True
    old: int = 0
    """How many of the live calls are of earlier attempts."""
    rewound_to: int | None = None
    """Where the newest rewind went, as long as no call came behind it."""

    def resume(self) -> None:
        self.open_at = (self.last_step() if self.rewound_to is None else self.rewound_to) + 1
        self.fresh, self.old = True, len(self.live)

    def rewind(self, step: int) -> None:
        """No row above *step* holds any more; what is logged next is the row behind it."""
        self.live = [entry for entry in self.live if entry.step <= step]
        self.open_at, self.rewound_to = step + 1, step
        self.old = len(self.live)

    def last_step(self) -> int:
        return self.live[-1].step if self.live else -1

    def log(self, values: dict[str, Any], step: int | None, commit: bool | None, when: tuple[float, float]) -> None:
        first, self.fresh = self.fresh, False
        if step is not None and first and step < self.open_at:
            self.rewind(step - 1)
        at = self.open_at if step is None else step
        if at < self.open_at:
            return  # steps must not fall within an attempt
        self.rewound_to = None
        closes = commit is not False if step is None else commit is True
        self.live.append(Entry(at, values, when, step is None, closes))
        self.open_at = at + 1 if closes else at

    def rebase(self, step: int) -> None:
        """The user says later that this attempt went on from *step*: calls that were counted are counted anew."""
        mine = self.live[self.old :]
        self.live = [entry for entry in self.live[: self.old] if entry.step <= step]
        self.old = len(self.live)
        self.open_at = step + 1
        for entry in mine:
            if entry.counted:
                entry.step = self.open_at
            self.live.append(entry)
            self.open_at = entry.step + 1 if entry.closes else entry.step

    def rows(self) -> dict[int, dict[str, Any]]:
        rows: dict[int, dict[str, Any]] = {}
        for entry in self.live:
            if entry.values:
                rows.setdefault(entry.step, {}).update(entry.values)
        return rows

    def times(self) -> dict[int, tuple[float, float]]:
        return {entry.step: entry.when for entry in self.live if entry.values}


metrics = st.dictionaries(st.sampled_from(["loss", "acc", "note"]), st.integers(0, 10**6), max_size=3)
commits = st.sampled_from([None, None, None, True, False])
ends = st.sampled_from(["finish", "die", "flush and die"])


@settings(slow, max_examples=80)
@given(st.data())
def test_any_history_of_calls_crashes_and_rewinds_is_what_a_dict_would_hold(data: st.DataObject) -> None:
    draw = data.draw
    model = Model()
    with fast_folder() as folder:
        runs = Runs(folder)
        for attempt in range(draw(st.integers(1, 4), label="attempts")):
            how = "new" if attempt == 0 else draw(st.sampled_from(["append", "explicit", "resume_from"]), label="how")
            if attempt:
                model.resume()
            last = model.open_at - 1
            if how == "resume_from":
                step = draw(st.integers(0, last + 1), label="resume_from")
                run = begin(runs, resume_from=f"a1?_step={step}")
                if step < last:
                    model.rewind(step)
            else:
                run = begin(runs)
            assert run.step == model.open_at
            for number in range(draw(st.integers(0, 8), label="calls")):
                explicit = draw(st.booleans(), label="explicit") if number or how != "explicit" else True
                near = st.integers(max(0, model.open_at - 4), model.open_at + 3)
                step_ = draw(near, label="step") if explicit else None
                values, commit = draw(metrics, label="values"), draw(commits, label="commit")
                if draw(st.integers(0, 4)) == 0:
                    assert run.id == "a1"  # a mark: by itself it changes nothing, whole numbers prove nothing
                earliest = time.time()
                run.log(values, step=step_, commit=commit)
                model.log(values, step_, commit, (earliest, time.time()))
                assert run.step == model.open_at
            logged = len(model.live) > model.old
            end = draw(ends, label="end")
            if end == "finish":
                offline_tracker.finish()
            else:
                if end == "flush and die":
                    run.flush()
                die(run, runs)
            if attempt and how == "append" and logged and draw(st.booleans(), label="rewind afterwards"):
                with runs.read("a1") as reader:  # what `tracker rewind` does
                    seq = reader.attempts[-1].after_seq
                begin(runs)  # folds in what is left
                offline_tracker.finish()
                step = draw(st.integers(-1, max(-1, last - 1)), label="rewind to")
                store = RunStore(runs.folder("a1") / "run.db")
                store.rewind(seq, step, "by hand")
                store.close()
                model.rebase(step)
            found = list(curve_rows(runs))
            assert {row.step: dict(row.values) for row in found} == model.rows()
            for row in found:
                earliest, latest = model.times()[row.step]
                assert earliest <= row.time <= latest


def curve_rows(runs: Runs) -> list[Row]:
    with runs.read("a1") as reader:
        return list(curve.rows(reader.calls(live_spans(reader.rewinds, reader.last_seq))))


# A trainer that counts its own iterations: what it would say of its curve is the oracle.


@settings(slow, max_examples=50)
@given(st.data())
def test_a_trainer_without_steps_that_dies_anywhere_has_each_iteration_once(data: st.DataObject) -> None:
    """MiniMind: one stepless call an iteration, a checkpoint now and then, the learning rate a function of the iteration."""
    draw = data.draw
    interval = draw(st.integers(1, 4), label="save interval")
    total = draw(st.integers(1, 16), label="iterations")
    expected: dict[int, dict[str, float]] = {}
    saved: int | None = None  # the iteration in the checkpoint's file
    noise = 0
    with fast_folder() as folder:
        runs = Runs(folder)
        for attempt in range(draw(st.integers(1, 4), label="attempts")):
            if attempt and saved is None:
                break  # without a checkpoint nobody knows the id: it begins again, as another run
            run = begin(runs, resume="must" if attempt else None)
            done = saved or 0
            until = draw(st.integers(done, total), label="dies after")
            for step in range(done + 1, until + 1):
                noise += 1
                row = {
                    "loss": 1 / (noise + 2),
                    "lr": 1e-3 * (1 - step / (total + 1)),
                    "epoch_time": float(total - step),
                }
                run.log(row)
                if step == done + 1:  # only a log takes anything back
                    expected = {old: before for old, before in expected.items() if old < done}
                expected[step - 1] = row
                if step % interval == 0:
                    assert run.id == "a1"
                    if step < until or draw(st.booleans(), label="the file was replaced"):
                        saved = step
            if until == total and draw(st.booleans(), label="finishes"):
                offline_tracker.finish()
            else:
                die(run, runs)
            assert curve_of(runs, "a1") == expected


@settings(slow, max_examples=40)
@given(st.data())
def test_a_trainer_with_steps_that_dies_anywhere_has_each_step_once(data: st.DataObject) -> None:
    """nanoGPT, HF, Megatron: several calls a step, steps given, gaps between them, resumed from any older checkpoint."""
    draw = data.draw
    every = draw(st.integers(1, 7), label="log interval")
    rows: dict[int, dict[str, Any]] = {}
    noise = 0
    with fast_folder() as folder:
        runs = Runs(folder)
        checkpoint = 0
        for _ in range(draw(st.integers(1, 4), label="attempts")):
            run = begin(runs)
            first = (checkpoint // every + 1) * every
            until = draw(st.integers(checkpoint, checkpoint + 30), label="dies after")
            for step in range(first, until + 1, every):
                rows = {old: row for old, row in rows.items() if old < step}
                for name in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), label="names"):
                    noise += 1
                    run.log({name: noise}, step=step)
                    rows.setdefault(step, {})[name] = noise
            die(run, runs)
            assert curve_of(runs, "a1") == rows
            checkpoint = draw(st.integers(0, until), label="checkpoint")


def resumed(first: list[dict[str, Any]], marks: set[int], then: list[dict[str, Any]], folder: Path) -> dict[int, Any]:
    """Log *first* with a mark behind the calls *marks* (counted from 1), die, log *then*; the curve."""
    runs = Runs(folder)
    run = begin(runs)
    for number, row in enumerate(first, 1):
        run.log(row)
        if number in marks:
            assert run.id
    die(run, runs)
    run = begin(runs)
    for row in then:
        run.log(row)
    offline_tracker.finish()
    return curve_of(runs, "a1")


def lr(*steps: int, note: str = "") -> list[dict[str, Any]]:
    return [{"lr": 0.5 / (step + 1), "note": note} for step in steps]


def steps(rows: dict[int, Any]) -> list[str]:
    return [row["note"] for row in rows.values()]


def test_a_resume_is_rewound_to_the_newest_mark_that_its_first_call_proves(tmp_path: Path) -> None:
    old, new = lr(1, 2, 3, 4, 5, 6, note="old"), lr(3, 4, note="new")
    rows = resumed(old, {2, 4}, new, tmp_path)
    assert steps(rows) == ["old", "old", "new", "new"]
    assert [row["lr"] for row in rows.values()] == [row["lr"] for row in lr(1, 2, 3, 4)]


def test_a_mark_that_the_first_call_does_not_prove_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    # The id was read for the checkpoint of 4, but the process died before the file of 2 was replaced.
    assert steps(resumed(lr(1, 2, 3, 4, 5, note="old"), {2, 4}, lr(3, note="new"), tmp_path)) == ["old", "old", "new"]


def test_without_proof_there_is_no_rewind(tmp_path: Path) -> None:
    rows = resumed(lr(1, 2, 3, 4, note="old"), {2}, [{"lr": 0.123, "note": "new"}], tmp_path)
    assert steps(rows) == ["old"] * 4 + ["new"]


def test_the_same_float_without_a_mark_before_it_is_no_proof(tmp_path: Path) -> None:
    assert steps(resumed(lr(1, 2, 3, 4, note="old"), set(), lr(3, note="new"), tmp_path)) == ["old"] * 4 + ["new"]


def test_a_float_that_occurs_twice_is_no_proof(tmp_path: Path) -> None:
    constant = [{"lr": 0.001, "note": "old"} for _ in range(5)]
    assert steps(resumed(constant, {2}, [{"lr": 0.001, "note": "new"}], tmp_path)) == ["old"] * 5 + ["new"]


def test_a_float_that_differs_in_its_last_bit_is_no_proof(tmp_path: Path) -> None:
    import math

    near = [{"lr": math.nextafter(0.5 / 4, 1.0), "note": "new"}]
    assert steps(resumed(lr(1, 2, 3, 4, note="old"), {2}, near, tmp_path)) == ["old"] * 4 + ["new"]


def test_an_equal_int_or_bool_is_no_proof(tmp_path: Path) -> None:
    old = [{"n": number, "flag": number == 3, "note": "old"} for number in range(1, 6)]
    assert steps(resumed(old, {2}, [{"n": 3, "flag": True, "note": "new"}], tmp_path)) == ["old"] * 5 + ["new"]


def test_minutes_that_come_again_by_chance_are_no_proof_against_a_rate_that_differs(tmp_path: Path) -> None:
    old = [{"epoch_time": float(9 - number), "lr": 1 / (number + 3), "note": "old"} for number in range(5)]
    new = [{"epoch_time": 7.0, "lr": 0.77, "note": "new"}]
    assert steps(resumed(old, {2}, new, tmp_path)) == ["old"] * 5 + ["new"]


def test_a_mark_before_the_first_call_is_none(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = begin(runs)
    assert run.id == "a1"  # printed right after init
    for row in lr(1, 2, 3):
        run.log({**row, "note": "old"})
    die(run, runs)
    run = begin(runs)
    assert run.id == "a1"
    run.log({**lr(1)[0], "note": "new"})
    offline_tracker.finish()
    assert steps(curve_of(runs, "a1")) == ["old"] * 3 + ["new"]
    with runs.read("a1") as reader:
        assert reader.marks == []


def test_the_second_resume_from_one_checkpoint_is_proven_as_the_first_was(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    for note in ("one", "two", "three"):
        run = begin(runs)
        for row in lr(*(range(1, 6) if note == "one" else range(3, 6))):
            run.log({**row, "note": note})
            if row == lr(2)[0]:
                run.mark_checkpoint()
        die(run, runs)
        if note == "one":
            run = begin(runs)  # and one that dies before it logs
            die(run, runs)
    assert steps(curve_of(runs, "a1")) == ["one", "one", "three", "three", "three"]


def test_a_mark_that_died_with_its_branch_is_no_place_to_go_on_from(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = begin(runs)
    for number, row in enumerate(lr(1, 2, 3, 4, 5, 6), 1):
        run.log({**row, "note": "old"})
        if number in (2, 4):
            run.mark_checkpoint()
    die(run, runs)
    run = begin(runs, resume_from="a1?_step=2")  # rows 0 to 2 hold; the mark behind the fourth call does not
    run.log({**lr(5)[0], "note": "new"})
    offline_tracker.finish()
    assert steps(curve_of(runs, "a1")) == ["old", "old", "old", "new"]


def test_a_first_call_with_a_bad_step_does_not_use_up_the_rewind(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = begin(runs)
    for step in range(10):
        run.log({"a": step}, step=step)
    die(run, runs)
    run = begin(runs)
    run.log({"a": "bad"}, step=-1)
    run.log({"a": "new"}, step=5)
    offline_tracker.finish()
    assert curve_of(runs, "a1") == {**{step: {"a": step} for step in range(5)}, 5: {"a": "new"}}


def test_resume_from_holds_also_when_the_process_dies_before_its_first_call(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = begin(runs)
    for step in range(10):
        run.log({"a": step})
    die(run, runs)
    run = begin(runs, resume_from="a1?_step=3")
    die(run, runs)
    assert list(curve_of(runs, "a1")) == [0, 1, 2, 3]
    run = begin(runs)
    assert run.step == 4
    run.log({"a": "new"})
    offline_tracker.finish()
    assert list(curve_of(runs, "a1").values()) == [{"a": 0}, {"a": 1}, {"a": 2}, {"a": 3}, {"a": "new"}]


def test_resume_from_a_step_without_a_row_goes_on_behind_that_step(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = begin(runs)
    for step in (0, 10, 20):
        run.log({"a": step}, step=step)
    die(run, runs)
    run = begin(runs, resume_from="a1?_step=15")
    run.log({"a": "new"})
    offline_tracker.finish()
    assert curve_of(runs, "a1") == {0: {"a": 0}, 10: {"a": 10}, 16: {"a": "new"}}


def test_nothing_is_deleted_by_a_rewind(tmp_path: Path) -> None:
    resumed(lr(1, 2, 3, 4, note="old"), {2}, lr(3, note="new"), tmp_path)
    with Runs(tmp_path).read("a1") as reader:
        every = list(reader.calls([(1, reader.last_seq, None)]))
    assert [call.values["note"] for call in every] == ["old"] * 4 + ["new"]


def test_a_fork_begins_with_the_rows_of_the_other_run_and_leaves_it_alone(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = begin(runs)
    for step in range(6):
        run.log({"a": step / 7, "b": True, "c": 2**80}, step=2 * step)
    offline_tracker.finish()
    source = curve_of(runs, "a1")
    fork = offline_tracker.init(dir=tmp_path, id="b2", fork_from="a1?_step=5")
    assert fork.step == 5
    fork.log({"a": "new"})
    offline_tracker.finish()
    assert curve_of(runs, "b2") == {step: source[step] for step in (0, 2, 4)} | {5: {"a": "new"}}
    assert curve_of(runs, "a1") == source
    with runs.read("a1") as one, runs.read("b2") as two:
        times = [
            [call.time for call in reader.calls(live_spans(reader.rewinds, reader.last_seq))][:3]
            for reader in (one, two)
        ]
        assert times[0] == times[1]
        assert one.info.uuid != two.info.uuid


# The pure functions.

rewinds = st.lists(st.builds(Back, st.integers(0, 25), st.integers(-1, 20)), max_size=6)


@given(rewinds, st.integers(0, 22))
def test_spans_say_of_each_call_whether_a_rewind_behind_it_took_it_back(backs: list[Back], last_seq: int) -> None:
    spans = live_spans(backs, last_seq)
    for seq in range(1, last_seq + 3):
        for step in range(21):
            # A rewind whose seq lies beyond the last call looks back on all of them.
            taken = any(seq <= back.seq and step > back.step for back in backs)
            assert holds(spans, seq, step) == (seq <= last_seq and not taken)


@given(rewinds, st.integers(0, 22))
def test_spans_cover_all_calls_in_order_and_caps_never_fall(backs: list[Back], last_seq: int) -> None:
    spans = live_spans(backs, last_seq)
    assert [seq for span in spans for seq in range(span.first, span.last + 1)] == list(range(1, last_seq + 1))
    caps = [span.cap if span.cap is not None else 10**9 for span in spans]
    assert caps == sorted(caps)


@given(rewinds, st.integers(0, 22), st.randoms())
def test_the_order_in_which_rewinds_are_given_does_not_matter(backs: list[Back], last_seq: int, random: Any) -> None:
    mixed = backs[:]
    random.shuffle(mixed)
    assert live_spans(mixed, last_seq) == live_spans(backs, last_seq)
    assert live_spans(backs + backs, last_seq) == live_spans(backs, last_seq)


@st.composite
def calls(draw: st.DrawFn) -> list[Said]:
    found, step = [], 0
    for seq in range(1, draw(st.integers(0, 20)) + 1):
        step += draw(st.integers(0, 2))
        values = draw(st.dictionaries(st.sampled_from("abc"), st.integers(0, 99), max_size=2))
        found.append(Said(seq, step, seq / 2, values))
    return found


@given(calls())
def test_rows_merge_what_one_step_was_given(said: list[Said]) -> None:
    merged: dict[int, tuple[dict[str, Any], float, int]] = {}
    for call in said:
        if call.values:
            values = {**merged[call.step][0], **call.values} if call.step in merged else call.values
            merged[call.step] = (values, call.time, call.seq)
    assert [(row.step, (row.values, row.time, row.seq)) for row in curve.rows(said)] == list(merged.items())


@given(calls())
def test_rows_leave_the_calls_as_they_were(said: list[Said]) -> None:
    before = [call._replace(values=dict(call.values)) for call in said]
    list(curve.rows(iter(said)))
    assert said == before


def test_rows_are_made_one_at_a_time() -> None:
    seen: list[int] = []

    def endless() -> Any:
        for seq in range(10**9):
            seen.append(seq)
            yield Said(seq, seq, 0.0, {"a": seq})

    assert next(curve.rows(endless())).step == 0
    assert len(seen) == 2


@given(rewinds, st.integers(1, 25), st.integers(0, 20))
def test_lost_steps_are_those_sent_that_a_later_rewind_took_back(backs: list[Back], sent_seq: int, sent: int) -> None:
    gone = [step for step in range(sent + 1) if any(back.seq >= sent_seq and step > back.step for back in backs)]
    assert lost_steps(backs, sent_seq, sent) == ((gone[0], gone[-1]) if gone else None)


@given(st.data())
def test_what_may_be_sent_is_never_changed_by_what_comes(data: st.DataObject) -> None:
    """Whatever a run does next, short of going back behind its newest mark, the rows that were sent stay as they are."""
    draw = data.draw
    model, when = Model(), (0.0, 0.0)
    marks: list[int] = []

    def some_calls() -> None:
        for _ in range(draw(st.integers(0, 6))):
            step = draw(st.one_of(st.none(), st.integers(model.open_at, model.open_at + 2)))
            model.log({"a": draw(st.integers())}, step, draw(commits), when)
            if draw(st.integers(0, 3)) == 0:
                marks[:] = [mark for mark in marks if mark <= model.last_step()] + [model.last_step()]

    some_calls()
    last = (model.live[-1].step, model.live[-1].closes) if model.live else None
    mark = marks[-1] if marks else None
    newest = sendable_step(last, mark, ended=False, eager=False)
    eager = sendable_step(last, mark, ended=False, eager=True)
    sent = {step: dict(row) for step, row in model.rows().items() if newest is not None and step <= newest}
    if mark is None:
        assert newest == eager  # without marks a rewind can't be foreseen
    if newest is None:
        assert last is None
    for _ in range(draw(st.integers(0, 3))):
        if mark is not None and draw(st.booleans()):
            back = draw(st.integers(mark, max(mark, model.last_step())))
            if back < model.last_step():
                model.rewind(back)
                model.fresh = False
        some_calls()
    assert {step: row for step, row in model.rows().items() if newest is not None and step <= newest} == sent


def test_what_may_be_sent() -> None:
    closed, open_ = (9, True), (9, False)
    assert sendable_step(None, None, ended=True, eager=True) is None
    assert sendable_step(open_, None, ended=True, eager=False) == 9
    assert sendable_step(open_, 3, ended=True, eager=False) == 9
    assert sendable_step(closed, 3, ended=False, eager=False) == 3
    assert sendable_step(closed, 3, ended=False, eager=True) == 9
    assert sendable_step(open_, 3, ended=False, eager=True) == 8
    assert sendable_step(open_, 9, ended=False, eager=False) == 8  # a mark inside a row that is still open
    assert sendable_step(closed, None, ended=False, eager=False) == 9
    assert sendable_step(open_, None, ended=False, eager=False) == 8
    assert sendable_step((0, False), None, ended=False, eager=False) == -1


@given(st.data())
def test_the_runtime_is_the_time_in_which_what_holds_was_made(data: st.DataObject) -> None:
    draw = data.draw
    now, seq, ran = 1000.0, 0, 0.0
    after, started, last_times = [], [], []
    expected: dict[tuple[int, float], float] = {}
    for _ in range(draw(st.integers(1, 5))):
        now += draw(st.integers(0, 500))  # the downtime
        after.append(seq)
        started.append(now)
        mine = []
        for _ in range(draw(st.integers(0, 5))):
            now += draw(st.integers(0, 60))
            seq += 1
            mine.append((seq, now))
        held = mine[: draw(st.integers(0, len(mine)))]  # the rest is taken back by the next attempt
        for call in held:
            expected[call] = ran + call[1] - started[-1]
        last_times.append(held[-1][1] if held else None)
        ran += held[-1][1] - started[-1] if held else 0.0
    seconds, total = runtime(after, started, last_times)
    assert total == ran
    assert {call: seconds(*call) for call in expected} == expected
    found = [seconds(*call) for call in expected]
    assert found == sorted(found)


def test_a_clock_that_was_set_back_gives_no_negative_runtime() -> None:
    seconds, total = runtime([0, 5], [1000.0, 500.0], [990.0, 505.0])
    assert seconds(1, 990.0) == 0.0
    assert total == 5.0


def test_the_clock_may_go_on_between_attempts() -> None:
    seconds, total = runtime([0, 5, 9], [1000.0, 2000.0, 3000.0], [1100.0, None, 3050.0], downtime=True)
    assert (seconds(1, 1001.0), seconds(6, 2002.0), seconds(10, 3003.0), total) == (1.0, 1002.0, 2003.0, 2050.0)
