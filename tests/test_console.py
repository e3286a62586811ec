"""The console: what a program prints is kept, and the program does not notice."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker import console
from offline_tracker.console import ConsoleLog, Printed, Tee, read
from offline_tracker.store import Runs
from tests.conftest import Python, Start
from tests.doubles.server import wait_until

ATTEMPT = [(1, False)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ConsoleLog]:
    log = ConsoleLog(tmp_path / "files", 1)
    yield log
    log.close()


def texts(tmp_path: Path, runs: bool = False) -> list[tuple[str, str]]:
    return [(line.source, line.text) for line in read(tmp_path / "files", [(1, runs)])]


def test_lines_come_back_with_their_time_and_stream(log: ConsoleLog, tmp_path: Path) -> None:
    begun = time.time()
    for source, text in (
        ("out", "one\ntwo\n"),
        ("err", "ünï 漢字 🙂 \udcff\n"),
        ("out", "\n"),
        ("out", "a "),
        ("out", "b\n"),
    ):
        log.write(source, text)
    log.alert("WARN", "Careful", "two\nlines")
    lines = read(tmp_path / "files", ATTEMPT)
    assert [line[1:] for line in lines] == [
        *(("out", "one"), ("out", "two"), ("err", "ünï 漢字 🙂 \\udcff"), ("out", ""), ("out", "a b")),
        ("alert", "[WARN] Careful: two lines"),
    ]
    assert all(begun - 0.001 <= line.time <= time.time() for line in lines)


def test_a_progress_bar_is_one_line(log: ConsoleLog, tmp_path: Path) -> None:
    for percent in range(101):
        log.write("err", f"\r{percent:3}%|{'#' * (percent // 10)}")
        if percent == 50:
            log.write("out", "in between\n")
            assert texts(tmp_path) == [("out", "in between"), ("err", " 50%|#####")]
            assert texts(tmp_path, runs=True) == [("out", "in between")]
    log.write("err", "\rdone\r\n")
    log.write("out", "next")
    assert texts(tmp_path, runs=True) == [("out", "in between"), ("err", "done")]
    log.close()
    assert texts(tmp_path, runs=True) == [("out", "in between"), ("err", "done"), ("out", "next")]


def test_the_log_is_bounded_and_says_so(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "files", 1, max_bytes=1000)
    log.write("out", "x" * 100_000 + "\n")
    for number in range(100):
        log.write("out", f"line {number}\n")
    log.close()
    assert (tmp_path / "files" / "console-1.log").stat().st_size < 1200
    assert texts(tmp_path)[-1] == ("err", "[the log of the console ends here, at 1000 bytes]")


def test_no_link_is_followed_and_nothing_waits(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("2026-11-24T08:27:57.560Z | a secret\n")
    files = tmp_path / "files"
    files.mkdir()
    (files / "console-1.log").symlink_to(secret)
    os.mkfifo(files / "console-2.log")
    (files / "console-3.log").mkdir()
    (files / "console-4.log").write_text("2026-11-24T08:27:57.560Z | ours\nno line of ours\n")
    (tmp_path / "linked").symlink_to(files)
    attempts = [(number, False) for number in range(1, 6)]
    assert read(files, attempts) == [Printed(1795508877.56, "out", "ours"), Printed(0.0, "out", "no line of ours")]
    assert read(tmp_path / "linked", attempts) == [] == read(tmp_path / "gone", attempts)
    ConsoleLog(files, 1).write("out", "not through the link\n")
    assert "not" not in secret.read_text()


def test_a_log_that_cannot_be_written_costs_the_program_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files").write_text("in the way")
    tee = Tee(ConsoleLog(tmp_path / "files", 1))
    print("still printed")
    print("and again")
    tee.close()
    assert capsys.readouterr().out == "still printed\nand again\n"
    assert len([record for record in caplog.records if "is not recorded any more" in record.getMessage()]) == 1


def test_streams_are_as_they_were_afterwards(log: ConsoleLog, tmp_path: Path) -> None:
    class Own(io.StringIO):
        pass

    stream = Own()
    with contextlib.redirect_stdout(stream):
        tee = Tee(log)
        assert sys.stdout is stream
        print("recorded")
        sys.stdout.writelines(["by ", "writelines\n"])
        tee.close()
        assert "write" not in vars(stream)
        print("not recorded")
        # Somebody else puts something over ours, and ours ends first.
        tee = Tee(log)
        ours = stream.write
        stream.write = lambda text: ours(text.upper())  # type: ignore[method-assign]
        tee.close()
        log.close()
        print("handed on")
    assert stream.getvalue() == "recorded\nby writelines\nnot recorded\nHANDED ON\n"
    assert texts(tmp_path) == [("out", "recorded"), ("out", "by writelines")]


PRINTS = """
import os, subprocess, sys, offline_tracker
run = offline_tracker.init(project="p", id="a1", dir=sys.argv[1], console=True)
assert sys.stdout.fileno() == 1 and not sys.stdout.isatty() and sys.stdout.buffer
run.log({"loss": 1.0})
print("from the parent")
print("to stderr", file=sys.stderr)
sys.stdout.flush()
if os.fork() == 0:
    print("from the child")
    sys.stdout.flush()
    os._exit(0)
os.wait()
subprocess.run(["echo", "from a program"])
print("half a line, then", end=" ", flush=True)
os.kill(os.getpid(), 9) if sys.argv[2] == "kill" else print("the end")
raise SystemExit if sys.argv[2] == "exit" else ValueError("wrong")
"""


def test_what_was_printed_outlives_a_kill_and_a_fork(start: Start, runs: Runs) -> None:
    process = start(PRINTS, "kill")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert out == "from the parent\nfrom the child\nfrom a program\nhalf a line, then "
    assert [line.text for line in read(runs.folder("a1") / "files", ATTEMPT)] == [
        *("from the parent", "to stderr", "half a line, then "),
    ]


def test_an_uncaught_error_is_in_the_log(python: Python, runs: Runs) -> None:
    python(PRINTS, "raise", status=1)
    lines = [line.text for line in read(runs.folder("a1") / "files", ATTEMPT)]
    assert lines[2] == "half a line, then the end"
    assert lines[3] == "Traceback (most recent call last):" and lines[-1] == "ValueError: wrong"


def test_nothing_is_kept_unless_it_is_asked_for(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout.write
    offline_tracker.init(dir=runs.path, id="a1", project="p").log({"loss": 1.0})
    print("not kept")
    offline_tracker.finish()
    assert not (runs.folder("a1") / "files").exists()
    monkeypatch.setenv("OFFLINE_TRACKER_CONSOLE", "1")
    assert console.wanted(None) and not console.wanted(False)
    offline_tracker.init(dir=runs.path, id="a1", project="p").log({"loss": 1.0})
    print("kept")
    offline_tracker.finish()
    assert [
        line.text for line in read(runs.folder("a1") / "files", [(1, False), (2, False)]) if line.source == "out"
    ] == ["kept"]
    assert sys.stdout.write == before


def test_where_the_filesystem_may_hang_nobody_who_prints_waits(faultfs: Callable[..., Any]) -> None:
    fs = faultfs()
    log = ConsoleLog(fs.path / "files", 1, waits=False)
    log.write("out", "one\n")
    wait_until(lambda: [line.text for line in read(fs.path / "files", ATTEMPT)] == ["one"])
    fs.hang("write")
    with ThreadPoolExecutor(1) as pool:  # so that one that waits fails, and doesn't hang for ever
        pool.submit(log.write, "out", "two\n")
        fs.wait_blocked(1, "write")
        printing = pool.submit(lambda: [log.write("out", f"{number}\n") for number in range(1000)])
        try:
            printing.result(10)
        finally:
            fs.lift()
    log.close()
    assert [line.text for line in read(fs.path / "files", ATTEMPT)] == ["one", "two", *map(str, range(1000))]
