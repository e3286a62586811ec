"""What the tests of the core share: a clean environment, a runs folder, and processes of their own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker import Run, curve, session
from offline_tracker.store import RunReader, Runs
from tests.doubles.swanlab import SwanlabServer
from tests.doubles.wandb import WandbServer
from tests.syncing import House

OURS = re.compile(
    r"(OFFLINE_TRACKER|WANDB|SWANLAB|SLURM|TORCHELASTIC|OMPI|PMIX?|MV2|JSM|FLUX|RAY|MASTER)_"
    r"|(NODE_|LOCAL_|GROUP_)?RANK$|(LOCAL_)?WORLD_SIZE$"
)
"""Variables by which a machine that runs the tests could tell us of a job of its own."""

Start = Callable[..., "subprocess.Popen[str]"]
Python = Callable[..., str]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No job around this process, no run before the test and none behind it, nothing kept from elsewhere, no samples."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in filter(OURS.match, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("OFFLINE_TRACKER_SAMPLES_S", "0")
    monkeypatch.setattr(session, "_warned", set())
    yield
    offline_tracker.finish()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Python program with arguments, in *tmp_path*; it is killed if it outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, *args: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        # sys.argv[1] is the runs folder in all of them.
        command = [sys.executable, "-c", program, str(tmp_path / "runs"), *map(str, args)]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **(env or {})}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace"
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def python(start: Start) -> Callable[..., str]:
    """Run a Python program to its end, which must be a good one unless *status* says otherwise; its output."""

    def run(program: str, *args: object, status: int = 0, **env: str) -> str:
        process = start(program, *args, env=env)
        out, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        return out

    return run


def rows_of(reader: RunReader) -> dict[int, dict[str, Any]]:
    """The curve, step to values."""
    spans = curve.live_spans(reader.rewinds, reader.last_seq)
    found = list(curve.rows(reader.calls(spans)))
    assert [row.step for row in found] == sorted({row.step for row in found})
    return {row.step: dict(row.values) for row in found}


def curve_of(runs: Runs, run_id: str) -> dict[int, dict[str, Any]]:
    with runs.read(run_id) as reader:
        return rows_of(reader)


@pytest.fixture
def run(runs: Runs) -> Iterator[Run]:
    yield offline_tracker.init(dir=runs.path, id="a1", project="p", name="n")


def stored(runs: Runs, run_id: str = "a1") -> dict[int, dict[str, Any]]:
    """The curve, once the current run is finished."""
    offline_tracker.finish()
    return curve_of(runs, run_id)


def read(runs: Runs, run_id: str = "a1") -> RunReader:
    """What a reader knows at once, once the current run is finished."""
    offline_tracker.finish()
    reader = runs.read(run_id)
    reader.close()  # what it read at once is kept
    return reader


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def only_id(runs: Runs) -> str:
    (run_id,) = runs.ids()
    return run_id


@pytest.fixture
def faultfs(tmp_path: Path, start: Start) -> Iterator[Callable[..., Any]]:
    """
    Mount the folder ``backing`` once more, under a name, with faults to be ordered: see `tests.faultfs.FaultFS`.

    It ends before the processes of `start`, so those that still hang there can end.
    """
    from .faultfs import CannotMount, FaultFS

    with contextlib.ExitStack() as stack:

        def mount(name: str = "faulty", backing: str = "backing", **options: Any) -> FaultFS:
            try:
                return stack.enter_context(FaultFS(tmp_path / backing, tmp_path / name, **options))
            except CannotMount as error:
                pytest.skip(str(error))

        yield mount


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a tmpfs of so many bytes, under a name: see `tests.faultfs.tmpfs`."""
    from . import faultfs

    with contextlib.ExitStack() as stack:

        def mount(name: str = "small", **options: Any) -> Path:
            try:
                return stack.enter_context(faultfs.tmpfs(tmp_path / name, **options))
            except faultfs.CannotMount as error:
                pytest.skip(str(error))

        yield mount


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A runs folder, and both services."""
    with WandbServer() as wandb, SwanlabServer() as swanlab:
        house = House(tmp_path, wandb, swanlab)
        yield house
        offline_tracker.finish()
        house.close()
