"""``tracker verify``: read remote runs back and compare them with the curves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import JsonOption, RunOptions, RunsArgument, runs_folder
from .words import PIPED_WIDTH, clean, number, put, to_json, warn

if TYPE_CHECKING:
    from offline_tracker.sync.verify import Metric, Verification

_COLUMNS = ("points", "first_step", "last_step", "sum", "min", "max", "last", "nan")


def verify(
    runs: RunsArgument = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="REMOTE", help="Which remote; else where each run is linked to.")
    ] = None,
    run: RunOptions = None,
    proof: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what was found, with digests, as JSON.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """
    Read remote runs back in full and compare them with the local curves, metric by metric.

    Exit status: 0 all is there, once and as it was; 1 something is not, or could not be read; 2 usage.
    """
    from offline_tracker.sync.verify import proof as as_proof
    from offline_tracker.sync.verify import verify as read_back

    folder, only = runs_folder(runs)
    found = read_back(folder, to=to or (), only=run or only, done=None if json else _print)
    if proof is not None:
        proof.write_text(to_json(as_proof(found), indent=2) + "\n", encoding="utf-8")
    ok = all(one.ok for one in found)
    if json:
        print(to_json({"ok": ok, "runs": [one.as_dict() for one in found]}, indent=2))
    elif not found:
        warn(f"no runs in {folder}")
    raise typer.Exit(0 if ok else 1)


def _print(one: Verification) -> None:
    where = f"{one.run} -> {one.remote}"
    if one.reason is not None:
        print(clean(f"{where}: NOT VERIFIED: {one.reason}"), file=sys.stderr, flush=True)
        return
    wrong = sum(bool(metric.differences) for metric in one.metrics.values())
    upto = f"{one.rows} rows up to step {one.upto}" if one.rows else "no rows"
    said = f"DIFFERS in {wrong} of {len(one.metrics)} metrics" if wrong else "all is there, once"
    print(clean(f"{where} {one.project}/{one.remote_id}: {said} ({upto})"))
    if one.metrics:
        _table([(name, one.metrics[name]) for name in sorted(one.metrics)])
    for name in sorted(one.metrics):
        for kind, steps in one.metrics[name].differences.items():
            print(clean(f"  {name}: {steps.count} {kind}: steps {steps}"))
    for note in one.notes:
        print(clean(f"  {note}"))
    local, remote = one.digests
    print(f"  sha256 {local}" + ("" if local == remote else f", there {remote}"), flush=True)


def _table(metrics: Sequence[tuple[str, Metric]]) -> None:
    """One line a metric; where the sides differ one more, with what is there."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in ("  metric", *(column.replace("_", " ") for column in _COLUMNS)):
        table.add_column(column, justify="left" if "metric" in column else "right")
    for name, metric in metrics:
        here, there = _cells(metric.local), _cells(metric.remote)
        table.add_row(f"  {clean(name)}", *here)
        if metric.differences:
            table.add_row("    there", *there)
    put(table, PIPED_WIDTH)


def _cells(series: Any) -> list[str]:
    return [number(getattr(series, column)) for column in _COLUMNS]
