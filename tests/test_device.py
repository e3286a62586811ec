"""Scalars that lie on a GPU: log() takes them without waiting, and they are in the row in the end."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

import offline_tracker
from offline_tracker import Run
from offline_tracker.device import SENTINEL, Pending, _Ring
from offline_tracker.store import Runs

from .conftest import Python, Start, curve_of

gpu = pytest.mark.gpu


@pytest.fixture
def run(runs: Runs) -> Run:
    return offline_tracker.init(dir=runs.path, id="a1")


class Operations(TorchDispatchMode):
    """What torch was asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_log_never_reads_a_scalar_on_a_gpu(run: Run, runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    # A fake tensor raises where a real one would wait.
    with FakeTensorMode(), Operations() as operations:
        loss = torch.ones((), device="cuda") * 2
        number = torch.ones(1, device="cuda").long()
        run.log({"loss": loss, "lr": 0.5, "deep": {"norm": loss.bfloat16()}, "n": number})
    assert "aten._local_scalar_dense.default" not in operations.names
    run.finish()
    assert curve_of(runs, "a1") == {0: {"lr": 0.5}}  # there is no value behind a fake one
    assert [record.message for record in caplog.records if "on a device is not logged" in record.message]


@pytest.mark.parametrize("bad", [torch.ones(2, device="meta"), torch.ones((), device="meta", dtype=torch.complex64)])
def test_what_is_not_one_number_is_not_fetched(
    bad: torch.Tensor, run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeTensorMode():
        value = torch.empty(bad.shape, dtype=bad.dtype, device="cuda")
        for _ in range(2):
            run.log({"bad": value, "lr": 0.5})
    run.finish()
    assert curve_of(runs, "a1") == {0: {"lr": 0.5}, 1: {"lr": 0.5}}
    assert len([record for record in caplog.records if "'bad' is not logged" in record.message]) == 1


def test_the_ring_never_gives_out_what_is_not_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    # Memory without pinning is the same to the ring, and there is no GPU in CI.
    plain = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **options: plain(*size, **options))
    ring = _Ring(torch, 10)
    sent: list[Pending] = []
    values = iter(range(10**6))
    expected: list[list[float]] = []
    seen: list[list[float]] = []
    for turn in range(200):
        count = 1 + turn % 4
        while (taken := ring.take(count)) is None:
            pending = sent.pop(0)
            assert pending.read() is None
            start = pending._start
            ring.floats[start : start + len(pending.names)].copy_(torch.tensor(expected[len(seen)]))
            found = pending.read()
            assert found is not None
            seen.append(list(found.values()))
        start, end = taken
        assert ring.words[start : start + count] == [SENTINEL] * count
        sent.append(Pending([str(at) for at in range(count)], "d" * count, ring, start, end))
        expected.append([float(next(values)) for _ in range(count)])
    assert seen == expected[: len(seen)]
    assert len(seen) > 150


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@gpu
@needs_gpu
def test_values_from_the_gpu_come_back_exactly_and_in_their_places(run: Run, runs: Runs) -> None:
    device = {"device": "cuda"}
    third = torch.tensor(1 / 3, dtype=torch.float32, **device)
    run.log(
        {
            "loss": third,
            "lr": 0.1,
            "half": third.bfloat16(),
            "double": torch.tensor(math.pi, dtype=torch.float64, **device),
            "big": torch.tensor(2**53 + 1, **device),
            "least": torch.tensor(-(2**63), **device),
            "yes": torch.tensor(True, **device),
            "nan": torch.tensor(math.nan, **device),
            "low": torch.tensor(-math.inf, **device),
            "deep": {"zero": torch.tensor(-0.0, **device)},
            "one": torch.ones(1, requires_grad=True, **device),
        }
    )
    run.finish()
    row = curve_of(runs, "a1")[0]
    assert math.isnan(row.pop("nan"))
    assert str(row.pop("deep\x1fzero")) == "-0.0"
    expected = {"loss": third.item(), "lr": 0.1, "half": third.bfloat16().item(), "double": math.pi}
    expected |= {"big": 2**53 + 1, "least": -(2**63), "yes": True, "low": -math.inf, "one": 1.0}
    assert row == expected
    assert [type(row[name]) for name in ("big", "yes", "one")] == [int, bool, float]
    with runs.read("a1") as reader:
        names = reader.metric_names([(1, 1, None)])
    assert names[:4] == ["loss", "lr", "half", "double"]  # as they were given, not as they came


@gpu
@needs_gpu
def test_log_does_not_wait_for_the_gpu(run: Run, runs: Runs) -> None:
    loss = torch.ones((), device="cuda")
    run.log({"loss": loss * 1, "n": 0})  # takes the pinned memory; and a kernel waits when it is loaded
    torch.cuda.synchronize()
    begun = time.perf_counter()
    torch.cuda._sleep(2_000_000_000)  # clock cycles, about a second
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(100):
            run.log({"loss": loss * number, "n": number})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    logged = time.perf_counter()
    torch.cuda.synchronize()
    slept = time.perf_counter()
    assert logged - begun < (slept - begun) / 2
    run.finish()
    assert [row["loss"] for row in curve_of(runs, "a1").values()] == [1.0, *range(100)]


@gpu
@needs_gpu
def test_a_scalar_that_is_changed_in_place_after_log_keeps_the_logged_value(run: Run, runs: Runs) -> None:
    total = torch.zeros((), device="cuda")
    for _ in range(20_000):  # more than the ring holds
        run.log({"total": total})
        total += 1
    run.finish()
    assert [row["total"] for row in curve_of(runs, "a1").values()] == list(range(20_000))


@gpu
@needs_gpu
def test_a_graph_can_be_captured_while_values_are_on_their_way(
    run: Run, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.ones(1000, 1000, device="cuda")
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        (x @ x).sum()
    torch.cuda.synchronize()
    for turn in range(20):
        for number in range(50):
            run.log({"n": x[0, 0] * (50 * turn + number)})
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(50):
                y = (x @ x).sum()
            run.log({"captured": y})
        graph.replay()
    run.finish()
    rows = curve_of(runs, "a1")
    assert [row["n"] for row in rows.values() if row] == list(range(1000))
    assert len([record for record in caplog.records if "being captured" in record.message]) == 1


KILLED = """
import os, signal, sys, torch
import offline_tracker as wandb
wandb.init(dir=sys.argv[1], id="a1")
loss = torch.ones((), device="cuda")
for number in range(1000):
    wandb.log({"n": number, "loss": loss * number})
torch.cuda._sleep(100_000_000_000)
for number in range(1000, 1100):
    wandb.log({"n": number, "loss": loss * number})
print("logged", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@gpu
@needs_gpu
def test_a_kill_loses_only_values_that_had_not_come(runs: Runs, start: Start) -> None:
    process = start(KILLED)
    assert process.communicate(timeout=120)[0] == "logged\n"
    rows = list(curve_of(runs, "a1").values())
    assert [row["n"] for row in rows] == list(range(1100))
    assert all("loss" not in row for row in rows[1000:])
    assert all(row.get("loss", row["n"]) == row["n"] for row in rows)


@gpu
@needs_gpu
def test_scalars_of_many_streams_arrive(python: Python, runs: Runs) -> None:
    program = """
import sys, threading, torch
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
def work(thread):
    with torch.cuda.stream(torch.cuda.Stream()):
        for number in range(500):
            run.log({"value": torch.full((), 1000 * thread + number, device="cuda"), "expected": 1000 * thread + number})
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
wandb.finish()
"""
    python(program)
    rows = list(curve_of(runs, "a1").values())
    assert len(rows) == 2000
    assert all(row["value"] == row["expected"] for row in rows)
