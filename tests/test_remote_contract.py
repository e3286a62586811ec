"""What `remotes.Remote` and `remotes.Shipment` promise, held against each remote: two with their real clients, and a toy."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline_tracker.curve import Row
from offline_tracker.errors import BadName, RemoteError, RemoteRefused, RemoteRunGone
from offline_tracker.sync.remotes import (
    Alert,
    Besides,
    Facts,
    Found,
    Line,
    Mark,
    Part,
    Remote,
    Sample,
    Shipment,
    Tally,
    Target,
    create,
)
from offline_tracker.values import SEPARATOR
from tests.doubles.server import wait_until
from tests.doubles.swanlab import SwanlabServer
from tests.doubles.wandb import WandbServer
from tests.toy_remote import WHERE, ToyService, install

BEGUN = 1_700_000_000.25
NUMBERS = itertools.count()


class Service:
    """
    A remote, and behind it what a test may do to the service that it goes to.

    Attributes:
        double: the stand-in, or the toy's service.
        started: what a shipment told of that would have to be cleaned up.
    """

    def __init__(self, remote: Remote, double: Any) -> None:
        self.remote, self.double = remote, double
        self.entity = remote.connect()
        self.started: list[Mapping[str, Any]] = []

    def target(self, run_id: str) -> Target:
        return Target("p", self.entity, run_id)

    def facts(self, run_id: str, **more: Any) -> Facts:
        base = Facts(run_id, "u1", "a name", "p", self.entity, BEGUN, "running", config={"lr": 0.1})
        return replace(base, runtime=lambda seq, at: at - BEGUN, **more)

    def open(self, run_id: str, **more: Any) -> Shipment:
        return self.remote.open(self.target(run_id), self.facts(run_id, **more), self.started.append)

    def look(self, run_id: str) -> Found:
        found = self.remote.look(self.target(run_id))
        assert found is not None
        return found

    def ship(self, shipment: Shipment, run_id: str, rows: Sequence[Row], before: Sequence[Row] = ()) -> Found:
        """Send rows as an engine does, and wait until the mark tells of them."""
        for start in range(0, len(rows), 3):
            shipment.send(rows[start : start + 3])
        shipment.flush()

        def there() -> Found | None:
            found = self.remote.look(self.target(run_id))
            shipment.complaint()  # of what it only tries again it may tell, but it must not give up
            return found if found is not None and self.remote.agrees(found.mark, mark([*before, *rows])) else None

        found: Found = wait_until(there, 30, f"the rows at {self.remote.name}")
        return found

    def make(self, run_id: str, rows: Sequence[Row], state: str = "finished", **more: Any) -> None:
        """Make a remote run that holds *rows* and has ended so."""
        facts = self.facts(run_id, state=state, **more)
        shipment = self.remote.open(self.target(run_id), facts, self.started.append)
        self.ship(shipment, run_id, rows)
        shipment.finish(facts)
        shipment.close()

    def stored(self, run_id: str) -> list[tuple[int, float, dict[str, Any]]]:
        """What the service holds: step, time and values, a metric at a time where it holds metrics."""
        if isinstance(self.double, WandbServer):
            own = ("_step", "_timestamp", "_runtime")
            return [
                (row["_step"], row["_timestamp"], {name: value for name, value in row.items() if name not in own})
                for row in self.double.runs[run_id].history
            ]
        if isinstance(self.double, SwanlabServer):
            run = self.double.runs[run_id]
            times = {key: iter(self.double.times(run_id, key)) for key in run.series}
            return [(point.step, next(times[point.key]), {point.key: point.value}) for point in run.points]
        rows = self.double.read()["runs"][f"me/p/{run_id}"]["rows"]
        return [(step, at, values) for step, at, values in rows]

    def delete(self, run_id: str) -> None:
        self.double.delete(f"me/p/{run_id}" if isinstance(self.double, ToyService) else run_id)

    def disown(self, run_id: str) -> None:
        """Make a run there one that we know nothing of."""
        if isinstance(self.double, WandbServer):
            self.double.runs[run_id].config.clear()
        elif isinstance(self.double, SwanlabServer):
            self.double.runs[run_id].profile.clear()
        else:
            self.double.change(f"me/p/{run_id}", lambda run: run["config"].clear())

    def refuse_one(self) -> None:
        """Answer the next rows with 429, once; the toy has nothing of that kind."""
        match = {"wandb": "file_stream", "swanlab": "POST /house/metrics"}.get(self.remote.name)
        if match is not None:
            self.double.fault(match, status=429, headers={"Retry-After": "1"})

    def check_clean(self) -> None:
        if not isinstance(self.double, ToyService):
            assert (self.double.violations, self.double.unknown) == ([], [])


@pytest.fixture(scope="session")
def doubles() -> Iterator[dict[str, Any]]:
    with WandbServer(rewinds=True) as wandb, SwanlabServer() as swanlab:
        yield {"wandb": wandb, "swanlab": swanlab}  # one for the process: wandb reads its settings but once


@pytest.fixture(params=("wandb", "swanlab", "toy"))
def service(
    request: pytest.FixtureRequest, doubles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    double = doubles.get(request.param) or ToyService(tmp_path / "service.json")
    env = {WHERE: str(double.path)} if isinstance(double, ToyService) else double.env()
    for name, value in {**env, "HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    service = Service(create(request.param), double)
    yield service
    service.remote.close()
    for children in service.started:
        service.remote.clean(children)
    service.check_clean()


@pytest.fixture
def run_id() -> str:
    return f"run{next(NUMBERS)}"


def row(step: int, **values: Any) -> Row:
    return Row(step, BEGUN + step / 4, values or {"loss": 1 / (step + 1)}, step + 1)


def rows(steps: Sequence[int]) -> list[Row]:
    return [row(step) for step in steps]


def mark(rows: Sequence[Row]) -> Mark:
    steps: dict[str, int] = {}
    for one in rows:  # a text is no number, as the engine has it
        steps |= {name: one.step for name, value in one.values.items() if not isinstance(value, str)}
    return Mark(rows[-1].step if rows else None, len(rows), steps)


def read_back(service: Service, run_id: str) -> dict[str, list[tuple[int, Any]]]:
    """All that `points` gives, by metric; each part holds what it says, in the order of the steps."""
    found = service.look(run_id)
    there: dict[str, list[tuple[int, Any]]] = {}
    covered: set[str] = set()
    part = Part(frozenset(), iter(()))
    for part in service.remote.points(service.target(run_id), found):
        newest = -1
        for step, values in part.rows:
            assert step >= newest
            newest = step
            assert covered.isdisjoint(values) and (part.names is None or values.keys() <= part.names)
            for name, value in values.items():
                there.setdefault(name, []).append((step, value))
        covered |= part.names or set()
    assert part.names is None, "the last part is the one that says: that is all"
    return there


def test_a_run_is_not_there_until_it_is_opened_and_then_it_is_ours(service: Service, run_id: str) -> None:
    assert service.remote.look(service.target(run_id)) is None
    assert service.remote.look(Target("nothing_here", service.entity, run_id)) is None
    shipment = service.open(run_id)
    shipment.flush()
    found = wait_until(lambda: service.remote.look(service.target(run_id)), 30, "the run")
    assert (found.uuid, found.state, found.mark.last_step) == ("u1", "running", None)
    assert not found.mark.rows and not found.mark.last_steps
    assert shipment.url and found.url == shipment.url
    shipment.close()
    shipment.close()


def test_rows_arrive_with_step_time_and_value_and_the_mark_tells(service: Service, run_id: str) -> None:
    sent = [*rows(range(8)), row(8, loss=0.5, lr=1e-9), *rows([10, 700])]
    shipment = service.open(run_id)
    found = service.ship(shipment, run_id, sent)
    agrees = service.remote.agrees
    local = mark(sent)
    assert found.mark.last_step == 700 and found.mark.rows in (None, len(sent))
    assert not agrees(found.mark, mark(sent[:-1])) and not agrees(found.mark, mark([]))
    assert not agrees(found.mark, Mark(701, len(sent), {"loss": 701, "lr": 8}))
    assert not agrees(mark([]), local)
    shipment.close()
    stored = [(step, at, name, value) for step, at, values in service.stored(run_id) for name, value in values.items()]
    expected = [(one.step, one.time, name, value) for one in sent for name, value in one.values.items()]
    assert sorted(stored) == sorted(expected)


def test_looking_and_reading_back_change_nothing(service: Service, run_id: str) -> None:
    service.make(run_id, rows(range(5)))
    before = service.look(run_id)
    read_back(service, run_id)
    assert service.look(run_id) == before
    assert (before.uuid, before.state) == ("u1", "finished")


def test_all_points_come_back_as_shown_says(service: Service, run_id: str) -> None:
    sent = []
    for step in range(0, 40, 2):
        values: dict[str, Any] = {f"m{n}": step / (n + 1) for n in range(20)}
        if step % 6 == 0:
            values |= {f"deep{SEPARATOR}a": step, "word": "a text", "yes": True, "big": 2**60 + 1, "inf": math.inf}
        if step == 10:
            values |= {"nan": math.nan, "m3": math.nan}
        sent.append(row(step, **values))
    expected: dict[str, list[tuple[int, Any]]] = {}
    for one in sent:
        shown = service.remote.shown(one.values)
        unable = service.remote.cannot_hold(one.values)
        assert all(type(value) in (float, str) for value in shown.values())
        assert len(shown) == len(one.values) - sum("left out" in why for why in unable.values())
        for name, value in shown.items():
            expected.setdefault(name, []).append((one.step, value))
    shipment = service.open(run_id)
    service.ship(shipment, run_id, sent)
    shipment.close()
    there = read_back(service, run_id)
    if service.remote.hides_nan:
        for points in (there, expected):
            for name, found in points.items():
                points[name] = [point for point in found if point[1] == point[1]]
    assert {name: repr(found) for name, found in there.items()} == {name: repr(list) for name, list in expected.items()}


def test_what_a_remote_can_not_hold_is_told_and_nothing_else(service: Service) -> None:
    values = {"loss": 0.5, "zero": 0, "nan": math.nan, "yes": True}
    assert service.remote.cannot_hold(values) == {}
    assert set(service.remote.shown(values)) == set(values)
    odd = {"none": None, "word": "a text", "huge": 10**400, "inf": math.inf}
    unable, shown = service.remote.cannot_hold(odd), service.remote.shown(odd)
    assert unable.keys() <= odd.keys() and all(unable.values())
    for name, value in odd.items():
        kept = name in shown and (shown[name] == value or name not in unable)
        assert kept or name in unable or value is None, name


def test_rows_that_were_refused_once_arrive_once(service: Service, run_id: str) -> None:
    shipment = service.open(run_id)
    service.refuse_one()
    service.ship(shipment, run_id, rows(range(10)))
    shipment.close()
    assert sorted(step for step, _, _ in service.stored(run_id)) == list(range(10))


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_finishing_sets_the_state_and_a_later_delta_goes_on(service: Service, run_id: str, state: str) -> None:
    service.make(run_id, rows(range(4)), state=state, exit_code=int(state == "failed"))
    assert service.look(run_id).state in ((state, "crashed") if state == "failed" else (state,))
    shipment = service.open(run_id)
    service.ship(shipment, run_id, rows(range(4, 9)), before=rows(range(4)))
    assert wait_until(lambda: service.look(run_id).state == "running", 30, "the run to run again")
    shipment.finish(service.facts(run_id, state="running"))
    shipment.close()
    found = service.look(run_id)
    assert (found.state, found.uuid, found.mark.last_step) == ("running", "u1", 8)
    assert [step for step, _, _ in service.stored(run_id)] == list(range(9))


def test_a_deleted_run_is_gone_and_its_id_is_not_used_again(service: Service, run_id: str) -> None:
    service.make(run_id, rows(range(3)))
    service.delete(run_id)
    assert service.remote.look(service.target(run_id)) is None
    with pytest.raises(RemoteRunGone):  # from open, or where only the client's own process finds out, as a complaint
        _complained(service.open(run_id))
    assert service.remote.look(service.target(run_id)) is None


def _complained(shipment: Shipment) -> None:
    end = time.monotonic() + 60
    try:
        shipment.flush()
        while time.monotonic() < end:
            shipment.complaint()
            time.sleep(0.05)
    finally:
        shipment.close()


def test_a_run_of_somebody_else_has_no_uuid(service: Service, run_id: str) -> None:
    service.make(run_id, rows(range(3)))
    service.disown(run_id)
    assert service.look(run_id).uuid is None


def test_rows_above_a_step_are_taken_back_or_all_stay(service: Service, run_id: str) -> None:
    service.make(run_id, rows(range(10)))
    before = service.stored(run_id)
    facts = service.facts(run_id)

    def rewind() -> None:
        service.remote.rewind(service.target(run_id), 5, facts, service.started.append)

    if service.remote.name == "swanlab":
        with pytest.raises(RemoteRefused):
            rewind()
        assert service.stored(run_id) == before
        return
    rewind()
    found = wait_until(lambda: _at(service.look(run_id), 5), 30, "the rewind")
    assert found.uuid == "u1" and service.stored(run_id) == before[:6]
    shipment = service.open(run_id)
    service.ship(shipment, run_id, [row(6, loss=7.0)], before=rows(range(6)))
    shipment.close()
    assert [step for step, _, _ in service.stored(run_id)] == list(range(7))


def _at(found: Found, step: int) -> Found | None:
    return found if found.mark.last_step == step else None


def test_a_rewind_to_a_step_that_is_not_there_is_refused(service: Service, run_id: str) -> None:
    service.make(run_id, rows([0, 2, 4]))
    before = service.stored(run_id)
    with pytest.raises(RemoteError):
        service.remote.rewind(service.target(run_id), 3, service.facts(run_id), service.started.append)
    assert service.stored(run_id) == before


def test_names_that_the_service_refuses_are_refused_before_anything_is_sent(service: Service) -> None:
    for target in (Target("a/b", service.entity, "r"), Target("p", "x" * 26 + "/y", "r")):
        with pytest.raises(BadName):
            service.remote.check(target)
    service.remote.check(service.target("r"))


def test_closing_in_the_middle_leaves_a_running_run_and_no_more(service: Service, run_id: str) -> None:
    shipment = service.open(run_id)
    service.ship(shipment, run_id, rows(range(5)))
    close: Callable[[], None] = shipment.close
    for _ in range(2):
        close()
    found = service.look(run_id)
    assert (found.state, found.mark.last_step) == ("running", 4)


def test_what_goes_up_beside_the_rows_is_counted_and_goes_on_where_it_ended(service: Service, run_id: str) -> None:
    remote, target = service.remote, service.target(run_id)

    def add(first: int, last: int, state: str) -> None:
        numbers = range(first, last)
        besides = Besides(
            [Sample(BEGUN + 15 * n, 15.0 * n, {"cpu_percent": n + 0.5}) for n in numbers],
            [Line(BEGUN + n, "err" if n % 2 else "out", f"line {n}") for n in numbers],
            [Alert("high", f"loss is {n}", "WARN") for n in numbers if remote.alerts],
            first_sample=first,
            first_line=first,
        )
        facts = service.facts(run_id, state=state)
        shipment = remote.open(target, facts, service.started.append)
        service.ship(shipment, run_id, [row(last)], [row(n) for n in (3, 5) if n < last])
        assert shipment.add(besides) in (True, False)
        shipment.finish(facts)
        shipment.close()
        wait_until(lambda: remote.tally(target) == besides.after == Tally(last, last), 30, f"{last} samples and lines")

    add(0, 3, "running")
    assert service.look(run_id).state == "running"
    add(3, 5, "running")
    add(5, 9, "finished")
    assert service.look(run_id).state == "finished"
    assert [step for step, _, values in service.stored(run_id) if "loss" in values] == [3, 5, 9]
