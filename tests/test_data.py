"""Runs as data: Parquet, the partitioned dataset, SQL, and columns in Python; read by what people read them with."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from array import array
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from offline_tracker_cli.app import app
from typer.testing import CliRunner

import offline_tracker
from offline_tracker import columns, curve, open_runs
from offline_tracker.curve import Span
from offline_tracker.store import Runs

Tracker = Callable[..., str]

VALUES = {
    "loss": [0.1 + 0.2, math.nan, math.inf, None, -0.0],
    "tokens": [1, 2**62, None, -(2**63), 3],
    "lr": [1, 0.5, 2**53, None, math.nan],
    "mixed_long": [0.5, 2**53 + 1, None, None, None],
    "big": [2**70, -(2**70), 1, None, 10**400],
    "ok": [True, False, None, True, None],
    "odd": [True, 1, 0.5, math.nan, "x"],
    "note": ['a "text",\nof two lines', "", None, "nan", "损失"],
    "nothing": [None] * 5,
}
"""Metric to what was logged at the steps 0 to 4."""

TYPED: dict[str, tuple[str, list[Any]]] = {
    **{
        name: (of, VALUES[name])
        for name, of in (("loss", "double"), ("tokens", "int64"), ("ok", "bool"), ("note", "string"))
    },
    "lr": ("double", [1.0, 0.5, 2.0**53, None, math.nan]),
    "mixed_long": ("string", ["0.5", "9007199254740993", None, None, None]),
    "big": ("string", [str(2**70), str(-(2**70)), "1", None, str(10**400)]),
    "odd": ("string", ["true", "1", "0.5", "nan", "x"]),
    "nothing": ("double", [None] * 5),
}
"""The column that each of `VALUES` becomes, as README says."""


@pytest.fixture
def tracker(runs: Runs) -> Tracker:
    """Run a command to its end, which must be a good one unless *status* says otherwise; what it said."""

    def run(*args: object, status: int = 0, warned: bool = False) -> str:
        done = CliRunner().invoke(app, [*map(str, args)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            if status == 0 or not isinstance(done.exception, offline_tracker.TrackerError):
                raise done.exception
            return str(done.exception)  # what main() says
        assert done.exit_code == status, done.output
        return done.output if status or warned else done.stdout

    return run


def record(runs: Runs, run_id: str, *calls: dict[str, Any], **options: Any) -> None:
    offline_tracker.init(id=run_id, dir=runs.path, **options)
    for call in calls:
        offline_tracker.log(call)
    offline_tracker.finish()


def odd(runs: Runs, run_id: str = "a1", **options: Any) -> None:
    record(runs, run_id, *({name: values[step] for name, values in VALUES.items()} for step in range(5)), **options)


def rewound(runs: Runs, run_id: str = "a1", **options: Any) -> None:
    """Two attempts; the second goes on from behind step 1."""
    for steps in ((0, 1, 2, 3), (2, 3, 4)):
        offline_tracker.init(id=run_id, dir=runs.path, **options)
        for step in steps:
            offline_tracker.log({"loss": step + 10.0 * len(steps)}, step=step)
        offline_tracker.finish()


def same(found: Any, wanted: Any) -> bool:
    """Equal in type and to the bit; any NaN is as any other."""
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return type(found) is type(wanted) and repr(found) == repr(wanted)


def test_each_column_of_parquet_has_the_type_that_holds_its_values(
    runs: Runs, tracker: Tracker, tmp_path: Path
) -> None:
    odd(runs)
    out = tmp_path / "out.parquet"
    assert tracker("export", runs.path, "--format", "parquet", "-o", out) == ""
    table = pq.read_table(out)
    assert table.column_names == ["run", "step", "time", *VALUES]
    assert table["run"].to_pylist() == ["a1"] * 5
    assert table["step"].to_pylist() == list(range(5))
    with runs.read("a1") as reader:
        assert table["time"].to_pylist() == [call.time for call in reader.calls([(1, 5, None)])]
    for name, (of, values) in TYPED.items():
        assert str(table.schema.field(name).type) == of, name
        assert same(table[name].to_pylist(), values), name
    assert polars.read_parquet(out)["loss"].is_nan().to_list() == [False, True, False, None, False]
    assert duckdb.sql(f"SELECT count(loss), count(*) FILTER (isnan(loss)) FROM '{out}'").fetchall() == [(4, 1)]


def test_parquet_of_several_runs_has_the_columns_of_all_and_with_all_every_call(
    runs: Runs, tracker: Tracker, tmp_path: Path
) -> None:
    rewound(runs)
    record(runs, "b2", {"acc": 1, "step": "text", "loss": "diverged"})
    out = tmp_path / "out.parquet"
    tracker("export", runs.path, "--format", "parquet", "-o", out)
    found = pq.read_table(out).drop_columns("time").to_pylist()
    assert [(row["run"], row["step"], row["loss"]) for row in found] == [
        *(("a1", 0, "40.0"), ("a1", 1, "41.0"), ("a1", 2, "32.0"), ("a1", 3, "33.0"), ("a1", 4, "34.0")),
        ("b2", 0, "diverged"),
    ]
    assert found[-1] == {"run": "b2", "step": 0, "acc": 1, "metric.step": "text", "loss": "diverged"}
    tracker("export", runs.path, "--run", "a1", "--format", "parquet", "--all", "-o", out)
    found = pq.read_table(out).drop_columns(["run", "time"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        *((step, 1, step < 2, 40.0 + step) for step in range(4)),
        *((step, 2, True, 30.0 + step) for step in (2, 3, 4)),
    ]


def test_parquet_goes_to_a_pipe_and_csv_and_jsonl_are_as_they_were(runs: Runs, tmp_path: Path) -> None:
    record(runs, "a1", {"loss": 1.0, "ok": True}, {"loss": math.nan})
    command = [str(Path(sys.executable).parent / "tracker"), "export", str(runs.path), "--format"]
    piped = subprocess.run([*command, "parquet"], capture_output=True, check=True).stdout
    (tmp_path / "x.parquet").write_bytes(piped)
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 2


def test_a_missing_extra_is_one_clear_line(runs: Runs, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    record(runs, "a1", {"loss": 1.0})
    monkeypatch.setattr(sys, "meta_path", [_Absent({"pyarrow", "duckdb", "pandas"}), *sys.meta_path])
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pyarrow", "duckdb", "pandas"):
            monkeypatch.delitem(sys.modules, name)
    wanted = "pyarrow is not installed; pip install 'offline-tracker[parquet]'"
    assert tracker("export", runs.path, "--format", "parquet", status=2) == wanted
    with pytest.raises(offline_tracker.UsageError, match="pandas is not installed; pip install pandas"):
        open_runs(runs.path).curve("a1").to_pandas()


class _Absent:
    """Finds no module of these packages, as if they were not installed."""

    def __init__(self, packages: set[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@given(
    calls=st.lists(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from([1.5, math.nan, 7, True, None, "t"])).map(
            lambda values: (0, values)
        )
        | st.tuples(st.integers(0, 2), st.dictionaries(st.sampled_from("abc"), st.floats() | st.integers())),
        max_size=12,
    ),
    cells=st.integers(1, 12),
    every=st.booleans(),
)
def test_batches_hold_what_the_rows_hold(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, dict[str, Any]]], cells: int, every: bool
) -> None:
    """Steps go on by 0, 1 or 2; a call may be empty, a row be spread over batches."""
    reader = _Stored(calls)
    whole = [Span(1, len(calls), None)]
    wanted = list(reader.calls() if every else curve.rows(reader.calls()))
    found = list(columns.batches(reader, whole, every, cells))  # type: ignore[arg-type]
    assert [*chain(*(batch.seq for batch in found))] == [row.seq for row in wanted]
    assert [*chain(*(batch.step for batch in found))] == [row.step for row in wanted]
    assert [*chain(*(batch.time for batch in found))] == [row.time for row in wanted]
    for name in "abc":
        values = [*chain(*(batch.metrics.get(name, [None] * len(batch.seq)) for batch in found))]
        assert same(values, [row.values.get(name) for row in wanted])


class _Stored:
    """Calls, as a reader has them, in chunks of three."""

    def __init__(self, calls: list[tuple[int, dict[str, Any]]]) -> None:
        from offline_tracker.store import Call

        self._calls = []
        step = 0
        for seq, (more, values) in enumerate(calls, 1):
            step += more
            self._calls.append(Call(seq, step, float(seq), 1, values))

    def calls(self) -> list[Any]:
        return self._calls

    def names(self) -> dict[int, str]:
        return dict(enumerate("abc"))

    def chunks(self, spans: Any) -> Any:
        from offline_tracker.values import encode

        for at in range(0, len(self._calls), 3):
            part = self._calls[at : at + 3]
            points = [(c.seq, "abc".index(name), *encode(c.values[name])) for c in part for name in sorted(c.values)]
            yield [call[:4] for call in part], points


def dataset(runs: Runs, root: Path) -> None:
    """Runs with other metrics, of other types, without a project, with odd names."""
    odd(runs, "a1", project="p")
    rewound(runs, "0012", project="a/b c%=ä")
    record(runs, "c3", {"acc": 1, "loss": "diverged"}, {"a": {"b": 2}})


LONG = ["run_id", "metric", "step", "time", "value", "text", "attempt", "live"]


def test_a_partitioned_dataset_is_one_table_for_duckdb_and_polars(runs: Runs, tracker: Tracker, tmp_path: Path) -> None:
    dataset(runs, tmp_path)
    root = tmp_path / "set"
    assert (
        tracker("export", runs.path, "--partition", "-o", root) == f"{root}: 3 runs written, 0 unchanged or left out\n"
    )
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*.parquet")) == [
        "project=__HIVE_DEFAULT_PARTITION__/run=c3/curve.parquet",
        "project=a%2Fb c%25%3D%C3%A4/run=0012/curve.parquet",
        "project=p/run=a1/curve.parquet",
    ]
    frame = polars.scan_parquet(root, hive_partitioning=True).collect()
    assert frame.columns == [*LONG, "project", "run"]
    assert set(frame["project"]) == {"p", "a/b c%=ä", None}
    assert frame["run"].to_list() == frame["run_id"].to_list()
    part = frame.filter(polars.col("run") == "0012").select("step", "value", "attempt", "live")
    assert part.rows() == [(0, 40.0, 1, True), (1, 41.0, 1, True), *((n, 30.0 + n, 2, True) for n in (2, 3, 4))]

    sql = f"FROM read_parquet('{root}/**/*.parquet', hive_partitioning = true)"
    found = duckdb.sql(f"SELECT metric, step, value, text {sql} WHERE run = 'a1' ORDER BY step").fetchall()
    assert same(
        {name: [row[1:] for row in found if row[0] == name] for name in VALUES if name != "loss"}["big"],
        [(0, 2.0**70, str(2**70)), (1, -(2.0**70), str(-(2**70))), (2, 1.0, None), (4, None, str(10**400))],
    )
    by = {name: [row[1:] for row in found if row[0] == name] for name in VALUES}
    assert same(by["loss"], [(0, 0.1 + 0.2, None), (1, math.nan, None), (2, math.inf, None), (4, -0.0, None)])
    assert same(by["tokens"][1], (1, 2.0**62, str(2**62)))
    assert by["ok"] == [(0, 1.0, "true"), (1, 0.0, "false"), (3, 1.0, "true")]
    assert by["note"] == [(step, None, VALUES["note"][step]) for step in (0, 1, 3, 4)]
    assert by["nothing"] == []
    assert duckdb.sql(f"SELECT project, metric, value, text {sql} WHERE run = 'c3' ORDER BY metric").fetchall() == [
        *((None, "a.b", 2.0, None), (None, "acc", 1.0, None), (None, "loss", None, "diverged")),
    ]


def test_spark_reads_the_dataset_as_it_is(runs: Runs, tracker: Tracker, tmp_path: Path) -> None:
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed")
    from pyspark.sql import SparkSession

    dataset(runs, tmp_path)
    tracker("export", runs.path, "--partition", "-o", tmp_path / "set")
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        frame = spark.read.parquet(str(tmp_path / "set"))
        assert frame.columns == [*LONG, "project", "run"]
        assert {(row.project, row.run) for row in frame.select("project", "run").distinct().collect()} == {
            *(("p", "a1"), ("a/b c%=ä", "0012"), (None, "c3"))
        }
        losses = frame.where("run = 'a1' AND metric = 'loss'").orderBy("step").collect()
        assert same([row.value for row in losses], [0.1 + 0.2, math.nan, math.inf, -0.0])
    finally:
        spark.stop()


def test_run_again_only_what_changed_is_written(runs: Runs, tracker: Tracker, tmp_path: Path) -> None:
    record(runs, "a1", {"loss": 1.0}, project="p")
    rewound(runs, "b2", project="p")
    root = tmp_path / "set"
    tracker("export", runs.path, "--partition", "-o", root)
    files = {path.parent.name: path for path in root.rglob("*.parquet")}
    before = {name: path.stat().st_ino for name, path in files.items()}
    assert "0 runs written, 2 unchanged" in tracker("export", runs.path, "--partition", "-o", root)
    assert {name: path.stat().st_ino for name, path in files.items()} == before
    record(runs, "a1", {"loss": 2.0})
    assert "1 run written, 1 unchanged" in tracker("export", runs.path, "--partition", "-o", root)
    assert pq.read_table(files["run=a1"])["value"].to_pylist() == [1.0, 2.0]
    assert files["run=b2"].stat().st_ino == before["run=b2"]
    tracker("rewind", "b2", "--runs", runs.path, "--step", 3, "--end")
    assert "1 run written" in tracker("export", runs.path, "--partition", "-o", root)
    assert pq.read_table(files["run=b2"])["step"].to_pylist() == [0, 1, 2, 3]
    assert "2 runs written" in tracker("export", runs.path, "--partition", "--all", "-o", root)
    assert pq.read_table(files["run=b2"])["live"].to_pylist().count(False) == 3
    files["run=a1"].write_bytes(b"PAR1 cut off")
    assert "1 run written" in tracker("export", runs.path, "--partition", "--all", "-o", root)
    elsewhere = files["run=b2"].parent.parent.with_name("project=old") / "run=b2"
    elsewhere.parent.mkdir()
    files["run=b2"].parent.rename(elsewhere)
    assert "1 run written" in tracker("export", runs.path, "--partition", "--all", "-o", root)
    assert sorted(path.parent.name for path in root.rglob("*.parquet")) == ["run=a1", "run=b2"]
    assert not elsewhere.parent.exists()


def test_a_run_that_breaks_leaves_its_file_and_the_others(runs: Runs, tracker: Tracker, tmp_path: Path) -> None:
    for run_id in ("a1", "b2"):
        record(runs, run_id, *({"loss": float(n)} for n in range(3000)), project="p")
    root = tmp_path / "set"
    tracker("export", runs.path, "--partition", "-o", root)
    before = (root / "project=p/run=a1/curve.parquet").read_bytes()
    record(runs, "a1", {"loss": 1.0})
    record(runs, "b2", {"loss": 1.0})
    database = runs.folder("a1") / "run.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    assert "run a1 is not" in tracker("export", runs.path, "--partition", "-o", root, status=1)
    assert (root / "project=p/run=a1/curve.parquet").read_bytes() == before
    assert pq.read_metadata(root / "project=p/run=b2/curve.parquet").num_rows == 3001
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "set"]


def test_partition_needs_a_folder_and_runs_of_different_names(runs: Runs, tracker: Tracker, tmp_path: Path) -> None:
    other = Runs(tmp_path / "other")
    record(runs, "a1", {"loss": 1.0})
    record(other, "a1", {"loss": 2.0})
    assert "-o" in tracker("export", runs.path, "--partition", status=2)
    assert "-o" in tracker("export", runs.path, "--partition", "--format", "csv", "-o", tmp_path / "x", status=2)
    both = ("--run", runs.folder("a1"), "--run", other.folder("a1"))
    assert "two runs 'a1'" in tracker("export", *both, "--partition", "-o", tmp_path / "x", status=2)
    (tmp_path / "file").write_text("")
    assert "can't write" in tracker("export", runs.path, "--partition", "-o", tmp_path / "file", status=1)


def asked(tracker: Tracker, runs: Runs, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(tracker("query", sql, runs.path, "--json"))
    return found


def test_query_sees_all_runs_in_three_tables(runs: Runs, tracker: Tracker) -> None:
    odd(runs, "a1", project="p", config={"lr": 0.5, "model": {"depth": 3}}, tags=["x"])
    rewound(runs, "b2")
    sql = "SELECT run, metric, step, value, text, attempt FROM curves WHERE metric = 'loss' ORDER BY run, step"
    assert [tuple(row.values()) for row in asked(tracker, runs, sql)] == [
        *(("a1", "loss", 0, 0.1 + 0.2, None, 1), ("a1", "loss", 1, "NaN", None, 1)),
        *(("a1", "loss", 2, "Infinity", None, 1), ("a1", "loss", 4, -0.0, None, 1)),
        *(("b2", "loss", step, 40.0 + step, None, 1) for step in (0, 1)),
        *(("b2", "loss", step, 30.0 + step, None, 2) for step in (2, 3, 4)),
    ]
    sql = "SELECT run, project, tags, state, attempts, config->>'$.model.depth' AS depth FROM runs ORDER BY run"
    assert asked(tracker, runs, sql) == [
        {"run": "a1", "project": "p", "tags": ["x"], "state": "finished", "attempts": 1, "depth": "3"},
        {"run": "b2", "project": None, "tags": [], "state": "finished", "attempts": 2, "depth": None},
    ]
    sql = "SELECT run, attempt, exit_code, alive FROM attempts JOIN runs USING (run) ORDER BY ALL"
    assert [tuple(row.values()) for row in asked(tracker, runs, sql)] == [
        *(("a1", 1, 0, False), ("b2", 1, 0, False), ("b2", 2, 0, False)),
    ]
    assert [row["run"] for row in json.loads(tracker("query", "FROM runs", "--run", runs.folder("b2"), "--json"))] == [
        "b2"
    ]
    joined = "SELECT count(*) AS n FROM curves a JOIN curves b USING (run, metric, step)"
    assert asked(tracker, runs, joined) == [{"n": asked(tracker, runs, "SELECT count(*) AS n FROM curves")[0]["n"]}]


def test_query_prints_a_table_csv_or_json_of_any_type(runs: Runs, tracker: Tracker) -> None:
    record(runs, "a1", {"note": "\x1b[31mred"})
    sql = "SELECT text, 1 AS x, 2 AS x, to_timestamp(0) AT TIME ZONE 'UTC' AS t, NULL AS n, true AS b FROM curves"
    table = tracker("query", sql, runs.path)
    assert "\x1b" not in table and "\\x1b[31mred" in table
    assert table.splitlines()[0].split() == ["text", "x", "x_1", "t", "n", "b"]
    assert tracker("query", sql, runs.path, "--csv").splitlines() == [
        *("text,x,x_1,t,n,b", "\x1b[31mred,1,2,1970-01-01 00:00:00,,true"),
    ]
    [row] = asked(tracker, runs, sql)
    assert row == {"text": "\x1b[31mred", "x": 1, "x_1": 2, "t": "1970-01-01 00:00:00", "n": None, "b": True}
    types = (
        "SELECT 1.5::DECIMAL(9, 2) AS d, {'a': [1, 2]} AS s, 170141183460469231731687303715884105727 AS h, now() AS z"
    )
    [row] = asked(tracker, runs, types)
    assert (row["d"], row["s"], row["h"]) == ("1.50", {"a": [1, 2]}, 2**127 - 1)
    assert asked(tracker, runs, "FROM curves WHERE false") == []
    assert tracker("query", "FROM range(3000)", runs.path, "--csv").count("\n") == 3001
    said = tracker("query", "FROM range(3000)", runs.path, warned=True)
    assert said.count("\n") == 1001 + 1 and "first 1000 rows" in said


ESCAPES = {
    "SELECT * FROM read_csv('{secret}')": "disabled",
    "SELECT * FROM read_text('{secret}')": "disabled",
    "SELECT * FROM read_blob('/proc/self/environ')": "disabled",
    "SELECT * FROM '{secret}'": "disabled",
    "SELECT * FROM glob('/*')": "disabled",
    "SELECT * FROM parquet_metadata('{secret}')": "disabled",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')": "disabled",
    "SELECT * FROM sqlite_scan('{secret}', 'x')": "sqlite_scan",
    "SELECT * FROM local": "does not exist",
    "SELECT getenv('HOME')": "getenv",
    "COPY runs TO '{out}'": "one SELECT",
    "COPY (SELECT 1) TO '{out}'": "one SELECT",
    "COPY runs FROM '{secret}'": "one SELECT",
    "EXPORT DATABASE '{out}'": "one SELECT",
    "ATTACH '{out}' AS x": "one SELECT",
    "INSTALL httpfs": "one SELECT",
    "LOAD httpfs": "one SELECT",
    "SET enable_external_access = true": "one SELECT",
    "RESET enable_external_access": "one SELECT",
    "PRAGMA database_list": "one SELECT",
    "CALL pragma_version()": "one SELECT",
    "CREATE TABLE x AS SELECT 1": "one SELECT",
    "CREATE TEMP TABLE x AS SELECT 1": "one SELECT",
    "INSERT INTO runs (run) VALUES ('x')": "one SELECT",
    "UPDATE runs SET run = 'x'": "one SELECT",
    "DELETE FROM runs": "one SELECT",
    "DROP TABLE runs": "one SELECT",
    "EXPLAIN ANALYZE COPY runs TO '{out}'": "one SELECT",
    "PREPARE x AS COPY runs TO '{out}'": "one SELECT",
    "SELECT 1; COPY runs TO '{out}'": "one SELECT",
    "SELECT 1; SELECT 2": "one SELECT",
    "": "one SELECT",
    "SELECT FROM FROM": "syntax",
    "SELECT x FROM runs": '"x"',
    "SELECT CAST(run AS INTEGER) FROM runs": "convert",
}
"""SQL to a word of the refusal."""


def test_query_can_read_and_nothing_else(runs: Runs, tracker: Tracker, tmp_path: Path) -> None:
    record(runs, "a1", {"loss": 1.0})
    secret, out = tmp_path / "secret.csv", tmp_path / "out"
    secret.write_text("password\nhunter2\n")
    for sql, word in ESCAPES.items():
        said = tracker("query", sql.format(secret=secret, out=out), runs.path, status=2)
        assert word in said, (sql, said)
        assert "hunter2" not in said, sql
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "secret.csv"]


def test_the_database_itself_refuses_what_the_parser_would_let_pass(
    runs: Runs, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from offline_tracker import query

    record(runs, "a1", {"loss": 1.0})
    monkeypatch.setattr(query, "_check", lambda duckdb, db, sql: None)
    out = tmp_path / "out"
    for sql in (
        *(f"COPY runs TO '{out}'", f"ATTACH '{out}'", "INSTALL httpfs", "LOAD httpfs", f"EXPORT DATABASE '{out}'"),
        *("SET enable_external_access = true", "SET lock_configuration = false", "RESET threads", "DELETE FROM runs"),
        *("CREATE TABLE x (y INT)", "DROP TABLE runs", "EXPLAIN ANALYZE DELETE FROM runs"),
    ):
        assert tracker("query", sql, runs.path, status=2), sql
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_a_run_that_cannot_be_read_is_left_out_of_a_query(runs: Runs, tracker: Tracker) -> None:
    record(runs, "a1", {"loss": 1.0})
    record(runs, "b2", {"loss": 1.0})
    (runs.folder("a1") / "run.db").write_bytes(b"no database")
    said = tracker("query", "SELECT run FROM runs", runs.path, "--csv", status=1)
    assert "tracker: run a1 is left out: " in said and "run\nb2\n" in said


def test_a_curve_is_columns_without_pandas(runs: Runs) -> None:
    odd(runs, project="p")
    rewound(runs, "b2")
    opened = open_runs(runs.path)
    assert opened.ids() == ["a1", "b2"] == [run.id for run in opened]
    assert ("a1" in opened, "c3" in opened, len(opened)) == (True, False, 2)
    found = opened.curve("a1")
    assert list(found.metrics) == list(VALUES)
    assert found.step == array("q", range(5))
    assert len(found) == len(found.time) == 5 and found.time.typecode == "d"
    for name, values in VALUES.items():
        assert same(list(found[name]), values), name
    dense = opened["b"].curve()
    assert dense["loss"] == array("d", [40.0, 41.0, 32.0, 33.0, 34.0])
    assert isinstance(dense["loss"], array)
    run = opened["b2"]
    assert (run.info.id, [attempt.number for attempt in run.attempts], run.state) == ("b2", [1, 2], "finished")
    with pytest.raises(offline_tracker.RunNotFound, match="no run 'b3'"):
        opened.curve("b3")
    with pytest.raises(offline_tracker.UsageError, match="no folder"):
        open_runs(runs.path / "nowhere")


def test_a_column_that_changes_over_batches_is_whole(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = [{"loss": 1.0, "n": n} for n in range(10)]
    calls += [{"loss": 1.0, "late": 2.0, "n": 0.5}] * 3 + [{"n": None, "loss": 2**64}]
    record(runs, "a1", *calls)
    monkeypatch.setattr(columns.batches, "__defaults__", (False, 4))
    found = open_runs(runs.path).curve("a1")
    for name in ("loss", "n", "late"):
        assert same(list(found[name]), [call.get(name) for call in calls])
    assert found.to_polars()["late"].to_list() == [None] * 10 + [2.0] * 3 + [None]


def test_a_curve_becomes_a_frame_with_the_types_of_parquet(runs: Runs) -> None:
    odd(runs)
    found = open_runs(runs.path).curve("a1")
    frame = found.to_polars()
    assert frame.columns == ["step", "time", *VALUES]
    for name, (_, values) in TYPED.items():
        assert same(frame[name].to_list(), values), name


def test_a_curve_becomes_a_pandas_frame(runs: Runs) -> None:
    if importlib.util.find_spec("pandas") is None:
        pytest.skip("pandas is not installed")
    import pandas

    odd(runs)
    frame = open_runs(runs.path).curve("a1").to_pandas()
    assert list(frame.columns) == ["step", "time", *VALUES]
    assert frame["tokens"].tolist() == [1, 2**62, pandas.NA, -(2**63), 3]
    assert frame["ok"].tolist() == [True, False, pandas.NA, True, pandas.NA]
    assert frame["loss"].isna().tolist() == [False, True, False, True, False]
    assert frame["big"][0] == str(2**70)


def test_importing_offline_tracker_loads_none_of_what_reads_data(python: Callable[..., str]) -> None:
    heavy = {"pyarrow", "duckdb", "polars", "numpy"}
    program = f"import sys, offline_tracker; offline_tracker.open_runs; print({heavy} & {{*sys.modules}})"
    assert python(program) == "set()\n"
