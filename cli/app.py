"""The command `tracker`: its subcommands, and how an error becomes one line and an exit status."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import offline_tracker
from offline_tracker.errors import TrackerError, UsageError

from . import alerts, compare, doctor, export, links, ls, query, report, rewind, show, sync, tail, verify
from .words import warn

app = typer.Typer(
    name="tracker",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Each command is a function in the module of its name; what is slow to import they import when they run.
COMMANDS = (
    sync.sync,
    verify.verify,
    links.links,
    tail.tail,
    ls.ls,
    alerts.alerts,
    show.show,
    compare.compare,
    export.export,
    query.query,
    report.report,
    rewind.rewind,
    doctor.doctor,
)
for command in COMMANDS:
    app.command()(command)


def _version(asked: bool) -> None:
    if asked:
        print(f"tracker {offline_tracker.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Look at runs that offline_tracker has recorded, and take them elsewhere."""


def main() -> None:
    """Run the command line; exit with 0, 1 (it did not work), 2 (usage), or 130 (Ctrl-C)."""
    try:
        try:
            app()
        except TrackerError as error:
            warn(error)
            sys.exit(2 if isinstance(error, UsageError) else 1)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Who read our output has enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
