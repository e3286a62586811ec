"""What may be logged: every kind comes back as it went in, and what can't be kept costs itself alone."""

from __future__ import annotations

import collections
import decimal
import enum
import fractions
import itertools
import logging
import math
import struct
import tempfile
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offline_tracker
from offline_tracker import Run
from offline_tracker.store import Runs
from offline_tracker.values import SEPARATOR, TEXT, decode, encode, points, to_json

from .conftest import curve_of

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    import torch

slow = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

whole = st.one_of(
    st.integers(),
    st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**64, 2**4096 - 1, -(2**4096) + 1]),
    st.integers(0, 4096).flatmap(lambda bits: st.integers(-(2**bits) + 1, 2**bits - 1)),
)
floats = st.one_of(st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308, 2.0**53 + 2]))
texts = st.one_of(st.text(), st.sampled_from(["", "\0", "a\0b", "9" * 30, "nan", "0", "\x1f"]))
scalars = st.one_of(floats, whole, st.booleans(), st.none(), texts)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SEPARATOR), min_size=1, max_size=20)


def same(one: Any, other: Any) -> bool:
    """Of one type and bit for bit; but all NaNs are one."""
    if type(one) is not type(other):
        return False
    if one != one:
        return bool(other != other)
    return struct.pack("d", one) == struct.pack("d", other) if one == 0.0 == other else bool(one == other)


def through(*calls: Any, steps: list[int] | None = None) -> dict[int, dict[str, Any]]:
    """Log *calls*, and read the curve that comes of it from the finished run."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder) / "runs")
        run = offline_tracker.init(dir=runs.path, id="a1")
        try:
            for number, data in enumerate(calls):
                run.log(data, step=None if steps is None else steps[number])
        finally:
            offline_tracker.finish()
        return curve_of(runs, "a1")


@pytest.fixture
def run(runs: Runs) -> Iterator[Run]:
    yield offline_tracker.init(dir=runs.path, id="a1")


def stored(runs: Runs) -> dict[int, dict[str, Any]]:
    offline_tracker.finish()
    return curve_of(runs, "a1")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@given(scalars)
def test_decode_gives_back_what_encode_was_given(value: Any) -> None:
    assert same(decode(*encode(value)), value)


@slow
@given(st.lists(st.dictionaries(names, scalars, min_size=1, max_size=6), min_size=1, max_size=5))
def test_every_kind_of_value_comes_back_exactly(calls: list[dict[str, Any]]) -> None:
    rows = through(*calls)
    assert list(rows) == list(range(len(calls)))
    for step, data in enumerate(calls):
        assert rows[step].keys() == data.keys()
        for name, value in data.items():
            assert same(rows[step][name], value), name


def test_one_metric_may_change_its_kind_from_call_to_call() -> None:
    kinds = [1, 1.0, True, "1", None, math.nan, 2**200, False, 0, -0.0, "nan", -math.inf]
    rows = through(*({"m": value} for value in kinds))
    assert all(same(rows[step]["m"], value) for step, value in enumerate(kinds))


@slow
@given(st.recursive(scalars, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3), max_leaves=8))
def test_nested_dicts_keep_the_path_to_each_leaf(value: Any) -> None:
    def leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from leaves(inner, (*path, key))
        else:
            yield path, value

    said: list[str] = []
    found = points({"top": value}, lambda *why: said.append(str(why)))
    assert not said
    expected = dict(leaves(value, ("top",)))
    assert {tuple(name.split(SEPARATOR)) for name in found} == expected.keys()
    assert all(same(found[SEPARATOR.join(path)], leaf) for path, leaf in expected.items())


def test_names_with_dots_and_slashes_are_told_from_nested_dicts() -> None:
    rows = through({"a.b": 1, "a/b": 2, "a": {"b": 3}, "a b": {"c.d": {"e/f": 4}}})
    assert rows[0] == {"a.b": 1, "a/b": 2, f"a{SEPARATOR}b": 3, f"a b{SEPARATOR}c.d{SEPARATOR}e/f": 4}


@pytest.mark.parametrize(
    "text", ["\ud800", "ok \udfff ok", "\udc80name", "emoji \U0001f600", "\0", "\uffff", "é" * 500]
)
def test_any_text_can_be_a_value_a_name_and_a_nested_name(text: str) -> None:
    rows = through({"value": text, text: 1, "in": {text: 2}, "after": 3.5}, {text: 1.5}, {"later": 1})
    escaped = text.encode(errors="backslashreplace").decode()
    assert rows[0] == {"value": escaped, escaped: 1, f"in{SEPARATOR}{escaped}": 2, "after": 3.5}
    assert rows[1] == {escaped: 1.5}
    assert rows[2] == {"later": 1}  # what SQLite can't bind would have held it back for ever


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
)
def test_a_zero_dimensional_tensor_is_the_scalar_in_it(dtype: torch.dtype) -> None:
    tensor = torch.tensor(3, dtype=dtype)
    assert same(through({"t": tensor})[0]["t"], tensor.item())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 0.1, 65504.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_tensors_float_comes_back_bit_for_bit(value: float, dtype: torch.dtype) -> None:
    tensor = torch.tensor(value, dtype=dtype)
    assert same(points({"t": tensor}, pytest.fail)["t"], tensor.item())


def test_tensors_of_bools_of_big_ints_with_gradients_and_of_one_element_are_scalars() -> None:
    data = {
        "bool": torch.tensor(True),
        "int": torch.tensor(2**53 + 1),
        "grad": torch.tensor(0.5, requires_grad=True) * 2,
        "one": torch.tensor([7]),
        "parameter": torch.nn.Parameter(torch.tensor(1.5)),
    }
    assert through(data)[0] == {"bool": True, "int": 2**53 + 1, "grad": 1.0, "one": 7, "parameter": 1.5}
    assert through(data)[0]["bool"] is True


def test_a_tensor_that_is_changed_in_place_after_log_keeps_the_logged_value(run: Run, runs: Runs) -> None:
    loss = torch.tensor(1.25)
    for factor in range(200):
        loss.fill_(factor)
        run.log({"loss": loss, "nested": {"loss": loss}})
        loss.add_(1000.0)
    rows = stored(runs)
    assert [rows[step]["loss"] for step in range(200)] == [float(step) for step in range(200)]
    assert [rows[step][f"nested{SEPARATOR}loss"] for step in range(200)] == [float(step) for step in range(200)]


def test_a_dict_that_is_changed_after_log_keeps_the_logged_values(run: Run, runs: Runs) -> None:
    data: dict[str, Any] = {"m": 0, "in": {"n": 0}}
    for number in range(100):
        data["m"] = data["in"]["n"] = number
        run.log(data)
    data.clear()
    assert [row["m"] for row in stored(runs).values()] == list(range(100))


class Grade(enum.IntEnum):
    GOOD = 3


class Mode(str, enum.Enum):
    TRAIN = "train"


class Float64(float):
    """As numpy's: a float that is none exactly, with an item()."""

    size = 1

    def item(self) -> float:
        return float(self)


class Bool8:
    """As numpy's bool: no bool, has item()."""

    size = 1

    def item(self) -> bool:
        return True


def test_scalars_of_other_classes_become_plain_ones() -> None:
    row = through(
        {
            "float64": Float64(0.1),
            "bool_": Bool8(),
            "fraction": fractions.Fraction(1, 4),
            "decimal": decimal.Decimal("0.5"),
            "enum": Grade.GOOD,
            "mode": Mode.TRAIN,
            Mode.TRAIN: 1,
        }
    )[0]
    assert row == {
        **{"float64": 0.1, "bool_": True, "fraction": 0.25, "decimal": 0.5, "enum": 3, "mode": "train", "train": 1}
    }
    assert {type(value) for value in row.values()} == {float, bool, int, str}


def test_any_mapping_is_a_dict(run: Run, runs: Runs) -> None:
    run.log(types.MappingProxyType({"a": 1}))
    run.log(collections.OrderedDict(a=2, b=types.MappingProxyType({"c": 3})))
    run.log(collections.ChainMap({"a": 4}, {"d": 5}))
    assert stored(runs) == {0: {"a": 1}, 1: {"a": 2, f"b{SEPARATOR}c": 3}, 2: {"a": 4, "d": 5}}


BAD: dict[str, Any] = {
    "list": [1, 2],
    "tuple": (1.0,),
    "set": {1},
    "bytes": b"abc",
    "complex": 1j,
    "object": object(),
    "type": int,
    "function": len,
    "tensor": torch.zeros(3),
    "empty tensor": torch.zeros(0),
    "complex tensor": torch.tensor(1j),
    "meta tensor": torch.zeros((), device="meta"),
    "huge int": 2**4096,
    "decimal nan": decimal.Decimal("sNaN"),
    "generator": (x for x in ()),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_costs_one_warning_and_itself(
    name: str, run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        run.log({"before": number, name: BAD[name], "in": {name: BAD[name], "kept": 1}, "after": 2.5})
    rows = stored(runs)
    assert rows == {step: {"before": step, f"in{SEPARATOR}kept": 1, "after": 2.5} for step in range(3)}
    said = messages(caplog)
    assert len(said) == 2
    assert repr(name) in said[0]
    assert repr(f"in.{name}") in said[1]
    assert all("a1" in text for text in said)


def test_a_bad_value_warns_once_though_its_reason_differs_each_time(
    run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    for size in range(2, 50):
        run.log({"grads": torch.zeros(size), "loss": 1.0})
    assert len(stored(runs)) == 48
    assert len(messages(caplog)) == 1


@pytest.mark.parametrize("value", [1, 1.5])
@pytest.mark.parametrize("key", [1, None, "", ("a", "b"), b"loss", 1.5, object()])
def test_a_key_that_is_no_name_costs_one_warning_and_its_value(
    key: Any, value: Any, run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run.log({key: value, "loss": 0.5})
    run.log({key: value, "loss": 0.25})
    assert stored(runs) == {0: {"loss": 0.5}, 1: {"loss": 0.25}}
    assert len(messages(caplog)) == 1
    assert repr(key) in messages(caplog)[0]


@pytest.mark.parametrize("data", [None, 1, "loss", [("loss", 1)], {"loss"}, object(), torch.zeros(())])
def test_data_that_is_no_dict_costs_one_warning_and_no_step(
    data: Any, run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run.log({"loss": 1})
    run.log(data)
    run.log(data)
    run.log({"loss": 2})
    assert stored(runs) == {0: {"loss": 1}, 1: {"loss": 2}}
    assert len(messages(caplog)) == 1
    assert type(data).__name__ in messages(caplog)[0]


@pytest.mark.parametrize(
    "step", [1.5, -1, -(2**70), 2**48 + 1, 2**70, math.nan, math.inf, "x", [1], object(), 1j, torch.tensor(1.5)]
)
def test_a_step_that_is_none_costs_one_warning_and_its_call(
    step: Any, run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run.log({"loss": 0}, step=0)
    run.log({"loss": 1}, step=step)
    run.log({"loss": 1}, step=step)
    run.log({"loss": 2}, step=7)
    assert stored(runs) == {0: {"loss": 0}, 7: {"loss": 2}}
    assert len(messages(caplog)) == 1


@pytest.mark.parametrize("step", [3.0, torch.tensor(3), Float64(3.0), Grade.GOOD], ids=type)
def test_a_whole_number_of_another_class_is_a_step(step: Any) -> None:
    assert through({"loss": 1}, steps=[step]) == {3: {"loss": 1}}


@pytest.mark.parametrize("step", [0, 1, 2**31, 2**48])
def test_steps_go_up_to_what_the_remotes_take(step: int) -> None:
    assert through({"loss": 1}, steps=[step]) == {step: {"loss": 1}}


def test_a_dict_that_holds_itself_costs_one_warning_and_its_key(
    run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    data: dict[str, Any] = {"x": 1}
    data["self"] = data
    run.log({"before": 1, "data": data, "after": 2})
    assert stored(runs) == {0: {"before": 1, "after": 2}}
    assert len(messages(caplog)) == 1
    assert "'data'" in messages(caplog)[0]


# Objects that raise wherever they are touched.

RAISED = [ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError, RecursionError, StopIteration]
SPECIAL = [
    *("__float__", "__int__", "__index__", "__bool__", "__eq__", "__hash__", "__repr__", "__str__", "__len__"),
    *("__iter__", "__getitem__", "__format__", "item", "numel", "size", "__getattr__", "__class__"),
    *("items", "keys", "encode", "bit_length", "__ne__", "__lt__", "is_integer"),
]


class Spiteful(Exception):
    """An error whose own text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")

    __repr__ = __str__


def _raiser(error: type[Exception]) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise error("hostile")

    return method


@st.composite
def hostile(draw: st.DrawFn) -> Any:
    """An object of a class, derived from a plain one or from nothing, some of whose methods raise."""
    base = draw(st.sampled_from([object, float, int, str, dict, Exception, Mapping]))
    body: dict[str, Any] = {}
    for name in draw(st.sets(st.sampled_from(SPECIAL), min_size=1, max_size=8)):
        method = _raiser(draw(st.sampled_from([*RAISED, Spiteful])))
        body[name] = property(method) if name in ("__class__", "size") else method
    if base is Mapping:
        for name in ("__getitem__", "__iter__", "__len__"):
            body.setdefault(name, _raiser(Spiteful))
    return type("Hostile", (base,), body)()


@slow
@given(st.data())
def test_log_never_raises_whatever_it_is_given(data: st.DataObject) -> None:
    value, other = data.draw(hostile()), data.draw(hostile())
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder) / "runs")
        run = offline_tracker.init(dir=runs.path, id="a1")
        run.log({"first": 1})
        run.log({"before": 1, "odd": value, "in": {"odd": other}, "after": 2})
        run.log(value)
        run.log({"n": 1}, step=value)
        run.log({"n": 1}, commit=value)
        offline_tracker.log({"n": 1}, step=other, commit=other, sync=value, odd=other)  # type: ignore[call-arg]
        try:
            run.log({value: 1, "after": 3})
        except Exception:
            hash_works = False
            try:
                hash(value)
            except Exception:
                pass
            else:
                hash_works = True
            assert not hash_works  # then it was the dict that could not be made
        run.log({"last": 1})
        run.flush(20)
        offline_tracker.finish()
        rows = curve_of(runs, "a1")
    assert rows[0] == {"first": 1}
    assert {"before": 1, "after": 2}.items() <= rows[1].items()  # the rest of a call is kept
    assert any("last" in row for row in rows.values())


def test_a_str_that_turns_into_another_class_does_not_stop_the_writer(run: Run, runs: Runs) -> None:
    class Text(str):
        def __str__(self) -> str:
            return Text("inner")

    run.log({"a": Text("outer"), Text("key"): 1})
    run.log({"b": 2})
    run.flush(20)
    assert stored(runs) == {0: {"a": "outer", "key": 1}, 1: {"b": 2}}


def test_an_interrupt_is_not_swallowed(run: Run) -> None:
    class Interrupts:
        def item(self) -> float:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.log({"x": Interrupts()})


# Config and summary are JSON.


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), floats, texts, st.binary(), st.complex_numbers()),
        lambda inner: st.one_of(
            st.lists(inner), st.sets(st.integers()), st.dictionaries(st.one_of(names, st.integers(), st.none()), inner)
        ),
        max_leaves=10,
    )
)
def test_to_json_takes_anything(value: Any) -> None:
    import json

    json.loads(to_json(value))


def test_to_json_takes_what_holds_itself_and_what_raises() -> None:
    import json

    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    loop: list[Any] = []
    loop.append(loop)
    for value in (loop, Bad(), {"a": Bad()}, {(1, 2): 3}, {Bad: Bad()}, [torch.zeros(2), torch.tensor(1.5)]):
        json.loads(to_json(value))


def test_kinds_are_what_the_file_format_says() -> None:
    assert [encode(value)[1] for value in (1.5, 1, None, math.nan, True, 2**63, "x")] == [None, None, None, 1, 2, 3, 4]
    assert TEXT == 4
    assert list(itertools.islice(map(encode, (True, 2**63, "x")), 3)) == [(1, 2), (str(2**63), 3), ("x", 4)]
