"""``open_runs``: what was recorded, for Python; columns without pandas."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .columns import batches, distinct, extra, kinds_of, labels, snapshot, text, type_of
from .errors import UsageError
from .store import Attempt, RunInfo, Runs
from .values import Scalar

Column = Sequence[Scalar]


@dataclass(frozen=True, repr=False)
class Curve:
    """
    The rows of a run that hold, oldest first, column by column; all columns have one length.

    ``curve["loss"]`` is the column of a metric.

    Attributes:
        step: ``array('q')``.
        time: ``array('d')``, unix seconds.
        metrics: name (nested ones joined by a dot) to column, in the order in which they first came: ``array('d')`` or
            ``array('q')`` where each row has a float or each an int of 64 bits; else a list of what was logged, None where
            a row has no value. NaN is a value.
    """

    run: str
    step: array[int]
    time: array[float]
    metrics: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, metric: str) -> Column:
        return self.metrics[metric]

    def __repr__(self) -> str:
        return f"<Curve of {self.run!r}: {len(self)} rows, {len(self.metrics)} metrics>"

    def to_pandas(self) -> Any:
        """
        Return a pandas DataFrame: step, time, then a column a metric.

        A value that is missing is NaN among floats, and ``pd.NA`` in the nullable types that the others get.

        Raises:
            UsageError: pandas is not installed.
        """
        pandas = extra("pandas")
        types = {"int": "Int64", "float": "float64", "bool": "boolean", "text": "string"}
        columns = {"step": self.step, "time": self.time}
        series = {name: pandas.Series(column) for name, column in columns.items()}
        for label, column, of in self._typed():
            dtype = "int64" if of == "int" and isinstance(column, array) else types[of]
            series[label] = pandas.Series(column, dtype=dtype)
        return pandas.DataFrame(series)

    def to_polars(self) -> Any:
        """
        Return a Polars DataFrame: step, time, then a column a metric; a value that is missing is null, NaN is NaN.

        Raises:
            UsageError: Polars is not installed.
        """
        polars = extra("polars")
        types = {"int": polars.Int64, "float": polars.Float64, "bool": polars.Boolean, "text": polars.String}
        columns = [polars.Series("step", self.step, polars.Int64), polars.Series("time", self.time, polars.Float64)]
        columns += [polars.Series(label, column, types[of]) for label, column, of in self._typed()]
        return polars.DataFrame(columns)

    def _typed(self) -> Iterator[tuple[str, Column, str]]:
        """Yield label, values and type of each metric's column, with values of just that type."""
        names = labels(self.metrics)
        for name, column in self.metrics.items():
            if isinstance(column, array):
                yield names[name], column, "int" if column.typecode == "q" else "float"
                continue
            of = type_of(kinds_of(column))
            if of == "text":
                column = [text(value) for value in column]
            elif of == "float":
                column = [None if value is None else float(value) for value in column]
            yield names[name], column, of


class OpenRun:
    """
    One run of an `OpenRuns`, read anew by each call.

    Attributes:
        info: what the run is; *attempts* its process lives, as they were when this was made.
    """

    def __init__(self, runs: Runs, run_id: str) -> None:
        self._runs = runs
        self.id = run_id
        with runs.read(run_id) as reader:
            self.info: RunInfo = reader.info
            self.attempts: Sequence[Attempt] = reader.attempts
            self.state = reader.state

    def __repr__(self) -> str:
        return f"<OpenRun {self.id!r}: {self.state}>"

    def curve(self) -> Curve:
        """
        Return the curve, whole: about 10 bytes a value where all rows have a float, 40 where not.

        Raises:
            StoreError: the run can't be read.
        """
        step, time = array("q"), array("d")
        found: dict[str, Column] = {}
        with self._runs.read(self.id) as reader:
            for batch in batches(reader, snapshot(reader).spans):
                before, count = len(step), len(batch.step)
                step.extend(batch.step)
                time.extend(batch.time)
                for metric in {**found, **batch.metrics}:
                    column = found.get(metric)
                    found[metric] = _joined(
                        [None] * before if column is None else column, batch.metrics.get(metric), count
                    )
            order = list(reader.names().values())
        names = distinct(found)
        return Curve(self.id, step, time, {names[metric]: found[metric] for metric in order if metric in found})


def _joined(column: Column, values: Sequence[Scalar] | None, count: int) -> Column:
    """Return a column with *values* behind it (None: so many that are missing), packed as `Curve` says."""
    values = [None] * count if values is None else values
    new = _packed(values)
    if not column:
        return new
    if isinstance(column, array) and isinstance(new, array) and column.typecode == new.typecode:
        column.extend(new)
        return column
    kept = column if isinstance(column, list) else list(column)
    kept.extend(values)
    return kept


def _packed(values: Sequence[Scalar]) -> Column:
    types = set(map(type, values))
    if types == {float}:
        return array("d", cast("Sequence[float]", values))
    if types == {int}:
        try:
            return array("q", cast("Sequence[int]", values))
        except OverflowError:
            pass
    return values


class OpenRuns:
    """
    The runs of a folder, to be read; iterating gives each as an `OpenRun`.

    Args:
        path: the runs folder, such as ``runs``.

    Raises:
        UsageError: there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._runs = Runs(path)
        if not self._runs.path.is_dir():
            raise UsageError(f"no folder {str(path)!r}; name the runs folder")

    def ids(self) -> list[str]:
        """Return the ids of all runs, sorted."""
        return self._runs.ids()

    def __iter__(self) -> Iterator[OpenRun]:
        return (self[run_id] for run_id in self.ids())

    def __len__(self) -> int:
        return len(self.ids())

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    def __getitem__(self, run_id: str) -> OpenRun:
        """
        Return a run by its id, or a unique prefix of it.

        Raises:
            RunNotFound: there is none, or there are several.
            StoreError: it can't be read.
        """
        return OpenRun(self._runs, self._runs.find(run_id))

    def curve(self, run_id: str) -> Curve:
        """Return the curve of a run; see `OpenRun.curve`."""
        return self[run_id].curve()


def open_runs(path: str | os.PathLike[str]) -> OpenRuns:
    """
    Open a runs folder to read what is in it: ``open_runs("runs").curve("a1")["loss"]``.

    Raises:
        UsageError: there is no such folder.
    """
    return OpenRuns(path)
