"""W&B's transaction log, read back by a reader that was written from LevelDB's description of the format."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from wandb.proto import wandb_internal_pb2 as pb

from offline_tracker.curve import Row
from offline_tracker.sync.remotes import UUID_KEY, Facts
from offline_tracker.sync.remotes.wandb_log import TransactionLog
from offline_tracker.values import SEPARATOR

BLOCK = 32 * 1024
BEGUN = 1_700_000_000.25
FACTS = Facts(id="a1", uuid="u1", name="a name", project="p", entity="house", created_at=BEGUN, state="running")


def payloads(data: bytes) -> Iterator[bytes]:
    """
    Yield the records of a log; AssertionError where it breaks a rule of the format.

    Source: LevelDB's doc/log_format.md; W&B puts a header of 7 bytes before it, and crc32 in the place of crc32c.
    """
    assert data[:7] == b":W&B" + bytes([0xE1, 0xBE, 0])
    at, parts = 7, None
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < 7:  # too little for a header: the trailer of the block
            assert data[at : at + left] == b"\0" * min(left, len(data) - at)
            at += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        assert length <= left - 7, "a fragment goes over the end of its block"
        fragment = data[at + 7 : at + 7 + length]
        assert len(fragment) == length
        assert checksum == zlib.crc32(bytes([kind]) + fragment)
        at += 7 + length
        if kind in (1, 2):  # FULL, FIRST
            assert parts is None
            parts = [fragment]
        else:  # MIDDLE, LAST
            assert kind in (3, 4) and parts is not None
            parts.append(fragment)
        if kind in (1, 4):
            yield b"".join(parts)
            parts = None
    assert parts is None, "the last record has no end"


def records(path: Path) -> list[Any]:
    found = []
    for number, payload in enumerate(payloads(path.read_bytes()), 1):
        record = pb.Record()
        record.ParseFromString(payload)
        assert record.num == number
        found.append(record)
    return found


def log_at(path: Path) -> TransactionLog:
    path.unlink(missing_ok=True)
    return TransactionLog(path, pb, wandb.__version__)


def texts(log: TransactionLog, path: Path, sizes: list[int]) -> list[str]:
    """Write rows with texts of these sizes, and return the texts that come back."""
    for step, size in enumerate(sizes):
        log.history(Row(step, 1.0, {"text": "x" * size}, step + 1), 0.0)
    log.close()
    _, *history = records(path)
    assert [record.history.step.num for record in history] == list(range(len(sizes)))
    return [json.loads(record.history.item[0].value_json) for record in history]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 200) | st.integers(BLOCK - 200, BLOCK + 50) | st.integers(0, 4 * BLOCK), max_size=8))
@example([0, 0, 3 * BLOCK])
def test_records_of_any_size_come_back(tmp_path: Path, sizes: list[int]) -> None:
    path = tmp_path / "run.wandb"
    assert [len(text) for text in texts(log_at(path), path, sizes)] == sizes


@pytest.mark.parametrize("left", range(20))
def test_a_record_that_ends_just_before_the_end_of_a_block(tmp_path: Path, left: int) -> None:
    path = tmp_path / "run.wandb"
    log = log_at(path)
    log.history(Row(0, 1.0, {"text": "x" * 20_000}, 1), 0.0)
    log.flush()
    overhead = path.stat().st_size - 20_000  # of the file so far, with the other record's
    log.close()
    size = 20_000 + BLOCK - (overhead + 20_000) - left
    log = log_at(path)
    sizes = [size, 5, 40_000]
    assert [len(text) for text in texts(log, path, sizes)] == sizes


def test_a_row_keeps_its_values_step_and_times(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    log = log_at(path)
    values = {
        **{"loss": 0.1 + 0.2, "nan": math.nan, "inf": math.inf, "minus": -math.inf, "yes": True, "none": None},
        **{"big": 2**70, "text": 'a "text" \u2028', f"deep{SEPARATOR}a.b{SEPARATOR}c": -0.0},
    }
    log.history(Row(2**40, 1_700_000_000.123456, values, 1), 3.5)
    log.close()
    _, record = records(path)
    items = {tuple(item.nested_key): item.value_json for item in record.history.item}
    assert items.pop(("_step",)) == str(2**40) and record.history.step.num == 2**40
    assert float(items.pop(("_timestamp",))) == 1_700_000_000.123456 and float(items.pop(("_runtime",))) == 3.5
    assert (items["nan",], items["inf",], items["minus",]) == ("NaN", "Infinity", "-Infinity")
    assert json.loads(items["loss",]) == 0.1 + 0.2 and items["yes",] == "true" and items["none",] == "null"
    assert json.loads(items["big",]) == 2**70 and json.loads(items["text",]) == values["text"]
    assert items["deep", "a.b", "c"] == "-0.0"


def test_what_a_run_is_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    facts = replace(
        FACTS,
        group="g",
        job_type="train",
        notes="a note",
        tags=("x", "t" * 65, ""),
        config={"lr": 0.1, "nan": math.nan, "deep": {"a": [1, 2]}},
        environment={"host": "node7", "os": "Linux", "args": ["--lr", 1], "slurm_job_id": "12", "cpu_count": 4},
    )
    log = log_at(path)
    log.run("a1", facts)
    log.environment(facts)
    log.metric("val/*", {"step_metric": "epoch", "summary": "min, best", "goal": "maximize"})
    log.summary({f"deep{SEPARATOR}a": 1.5}, 12.5)
    log.summary({}, 0.0)
    log.exit(None, 12.9)
    log.exit(3, 12.9)
    log.close()
    header, run, environment, metric, summary, empty, not_yet, ended = records(path)
    assert header.header.version_info.producer == wandb.__version__
    run = run.run
    assert (run.run_id, run.project, run.entity, run.display_name) == ("a1", "p", "house", "a name")
    assert (run.run_group, run.job_type, run.notes, list(run.tags)) == ("g", "train", "a note", ["x"])
    assert (run.start_time.seconds, run.start_time.nanos) == (1_700_000_000, 250_000_000)
    config = {item.key: item.value_json for item in run.config.update}
    assert config == {"lr": "0.1", "nan": "NaN", "deep": '{"a": [1, 2]}', UUID_KEY: '"u1"'}
    environment = environment.environment
    assert (environment.host, environment.os, list(environment.args)) == ("node7", "Linux", ["--lr", "1"])
    assert dict(environment.slurm) == {"job_id": "12"}
    assert (metric.metric.glob_name, metric.metric.name, metric.metric.step_metric) == ("val/*", "", "epoch")
    assert (metric.metric.summary.min, metric.metric.summary.max, metric.metric.summary.mean) == (True, True, False)
    assert list(summary.summary.update[0].nested_key) == ["deep", "a"]
    assert empty.WhichOneof("record_type") == "summary"
    assert (not_yet.exit.not_complete, not_yet.exit.exit_code) == (True, 0)
    assert (ended.exit.not_complete, ended.exit.exit_code, ended.exit.runtime) == (False, 3, 12)


def test_a_log_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    log_at(path).close()
    with pytest.raises(FileExistsError):
        TransactionLog(path, pb, wandb.__version__)


def test_what_was_flushed_can_be_followed(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    log = log_at(path)
    log.history(Row(0, 1.0, {"loss": 0.5}, 1), 0.0)
    log.flush()
    assert len(records(path)) == 2
    log.history(Row(1, 2.0, {"loss": 0.25}, 2), 1.0)
    log.flush()
    assert len(records(path)) == 3
    log.close()
