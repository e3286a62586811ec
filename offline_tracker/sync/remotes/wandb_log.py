"""
W&B's transaction log (``run-ID.wandb``), the file that every W&B client must be able to read.

A header ``<4sHB`` (``:W&B``, 0xBEE1, version 0), then LevelDB's log format (log_format.md of LevelDB) with crc32 in the
place of crc32c: blocks of 32 KiB counted from the start of the file, each record a header ``<IHB`` (checksum over type and
data, length, type) and a serialized `Record`. wandb has no Python writer for it; its protobufs are in the package.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...curve import Row
from ...values import SEPARATOR
from . import UUID_KEY, Alert, Facts, Line, Sample, nanoseconds

_FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_RECORD_HEADER = struct.Struct("<IHB")
_BLOCK = 32_768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_BUFFER_BYTES = 1 << 20
LINE_MAX_BYTES = 10 * 2**20 - 100 * 2**10
"""W&B skips a history line of this size or more, with no more than a warning."""


class TransactionLog:
    """
    Writes a transaction log that may be followed while it grows.

    Args:
        path: a file that does not exist yet.
        pb: the module ``wandb.proto.wandb_internal_pb2``.
        version: of the wandb package, as the producer.
    """

    def __init__(self, path: Path, pb: Any, version: str) -> None:
        # An uploader that goes on with a run counts its time from what the server's summary says; what that was it keeps
        # here, from the first time on.
        path.with_name(f"{path.name}.syncstate").write_text('{"starting_step": 0, "starting_runtime": 0}')
        self._pb = pb
        self._file = open(path, "xb", buffering=_BUFFER_BYTES)  # noqa: SIM115  closed in close()
        self._file.write(_FILE_HEADER)
        self._at = len(_FILE_HEADER)
        self._num = 0
        header = pb.Record()
        header.header.version_info.producer = version
        header.header.version_info.min_consumer = "0.0.1"
        self._write(header)

    def _write(self, record: Any) -> None:
        self._num += 1
        record.num = self._num
        data, begun = record.SerializeToString(), False
        while True:
            left = _BLOCK - self._at % _BLOCK
            if left < _RECORD_HEADER.size:
                self._file.write(b"\0" * left)
                self._at += left
                left = _BLOCK
            part, data = data[: left - _RECORD_HEADER.size], data[left - _RECORD_HEADER.size :]
            kind = (_MIDDLE if data else _LAST) if begun else (_FIRST if data else _FULL)
            checksum = zlib.crc32(part, zlib.crc32(bytes([kind])))
            self._file.write(_RECORD_HEADER.pack(checksum, len(part), kind) + part)
            self._at += _RECORD_HEADER.size + len(part)
            begun = True
            if not data:
                return

    def flush(self) -> None:
        """Let whoever follows the file see all that was written."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def run(self, remote_id: str, facts: Facts, rewind_to: int | None = None, started_at: float | None = None) -> None:
        """
        Write what the run is: all of it, for the server keeps nothing of what a later file leaves out.

        Args:
            rewind_to: have the server drop all rows above this step, as ``wandb.init(resume_from=...)`` does.
            started_at: from when on W&B counts the seconds of the samples behind this; unix seconds.
        """
        record = self._pb.Record()
        run = record.run
        run.run_id, run.project, run.entity, run.display_name = remote_id, facts.project, facts.entity, facts.name
        run.run_group, run.job_type, run.notes = facts.group or "", facts.job_type or "", facts.notes or ""
        run.host = str(facts.environment.get("host", ""))
        run.tags.extend(tag for tag in facts.tags if 0 < len(tag) <= 64)
        run.git.commit = str(facts.environment.get("git_commit", ""))
        run.git.remote_url = str(facts.environment.get("git_remote", ""))
        run.start_time.FromNanoseconds(nanoseconds(facts.created_at if started_at is None else started_at))
        if rewind_to is not None:
            run.branch_point.run, run.branch_point.metric, run.branch_point.value = remote_id, "_step", float(rewind_to)
        for key, value in {**facts.config, UUID_KEY: facts.uuid}.items():
            run.config.update.add(key=str(key), value_json=_json(value))
        self._write(record)

    def environment(self, facts: Facts) -> None:
        """Write the training's machine; it becomes wandb-metadata.json."""
        record = self._pb.Record()
        environment, known = record.environment, facts.environment
        environment.started_at.FromNanoseconds(nanoseconds(facts.created_at))
        for name in ("os", "python", "host", "executable", "program"):
            setattr(environment, name, str(known.get(name, "")))
        environment.args.extend(str(arg) for arg in known.get("args", ()))
        environment.cpu_count = int(known.get("cpu_count") or 0)
        environment.gpu_count = int(known.get("gpu_count") or 0)
        environment.gpu_type = str(known.get("gpu_type") or "")
        slurm = {name[len("slurm_") :]: str(value) for name, value in known.items() if name.startswith("slurm_")}
        environment.slurm.update(slurm)
        self._write(record)

    def file(self, name: str) -> None:
        """Write that a file in the run's ``files`` folder is to be uploaded."""
        record = self._pb.Record()
        record.files.files.add(path=name, type=self._pb.FilesItem.FileType.WANDB)
        self._write(record)

    def metric(self, name: str, options: Mapping[str, Any]) -> None:
        """Write what define_metric said; "best" with a goal is W&B's old word for min or max."""
        record = self._pb.Record()
        metric = record.metric
        if "*" in name:
            metric.glob_name = name
        else:
            metric.name = name
        metric.step_metric = str(options.get("step_metric") or options.get("x_axis") or "")
        metric.options.defined = True
        metric.options.step_sync = bool(options.get("step_sync", bool(metric.step_metric)))
        metric.options.hidden = bool(options.get("hidden", False))
        goal = str(options.get("goal") or "")
        for word in str(options.get("summary") or "").replace(" ", "").split(","):
            word = {"best": "max" if goal.startswith("max") else "min"}.get(word, word)
            if word in ("min", "max", "mean", "last", "none", "first"):
                setattr(metric.summary, word, True)
        self._write(record)

    def history(self, row: Row, runtime_s: float) -> int:
        """Write one row; returns its size in bytes, to hold against `LINE_MAX_BYTES`."""
        record = self._pb.Record()
        item = record.history.item
        for name, value in row.values.items():
            item.add(nested_key=name.split(SEPARATOR), value_json=_json(value))
        item.add(nested_key=["_step"], value_json=str(row.step))
        item.add(nested_key=["_timestamp"], value_json=repr(row.time))
        item.add(nested_key=["_runtime"], value_json=repr(runtime_s))
        record.history.step.num = row.step
        self._write(record)
        size: int = record.ByteSize()
        return size

    def sample(self, sample: Sample) -> None:
        """Write what the hardware did."""
        record = self._pb.Record()
        record.stats.timestamp.FromNanoseconds(nanoseconds(sample.time))
        for name, value in sample.values.items():
            record.stats.item.add(key=name, value_json=_json(value))
        self._write(record)

    def lines(self, lines: Iterable[Line]) -> None:
        """
        Write lines of the console.

        Not as output_raw: that goes through two terminal emulators, one for each stream, which put lines out of order.
        """
        for line in lines:
            record = self._pb.Record()
            record.output_logger.line = line.text
            self._write(record)

    def alert(self, alert: Alert) -> None:
        """Write an alert; W&B passes it on at once."""
        record = self._pb.Record()
        record.alert.title, record.alert.text, record.alert.level = alert
        self._write(record)

    def summary(self, values: Mapping[str, Any], seconds: float) -> None:
        """
        Write the summary: the uploader makes none of the history it sends.

        Args:
            seconds: how long the run has run; what W&B shows as its duration.
        """
        record = self._pb.Record()
        for name, value in values.items():
            record.summary.update.add(nested_key=name.split(SEPARATOR), value_json=_json(value))
        record.summary.update.add(nested_key=["_wandb", "runtime"], value_json=str(int(seconds)))
        self._write(record)

    def exit(self, exit_code: int | None, seconds: float) -> None:
        """Write the end: of the run, or with None only of this file, which leaves the run as running."""
        record = self._pb.Record()
        record.exit.exit_code = exit_code or 0
        record.exit.not_complete = exit_code is None
        record.exit.runtime = int(seconds)
        self._write(record)


def _json(value: Any) -> str:
    if type(value) is float and value - value == 0.0:
        return repr(value)
    return json.dumps(value, allow_nan=True, default=str)
