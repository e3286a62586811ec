"""The ledger: one transaction a change, a lease that a dead holder does not keep, and doubt that only reading ends."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from offline_tracker.errors import NewerSchema, RunBusy, StoreError
from offline_tracker.host import STALE_S, Holder
from offline_tracker.sync.engine import links_of
from offline_tracker.sync.ledger import VERSION, Doubt, Ledger, Link
from tests.syncing import ROOT

LINK = Link("u1", "wandb", "http://one", "a1", "p", "house", "a1")
OTHER_HOST = Holder("node7", "other boot", 7, 70)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        yield ledger


def test_a_link_comes_back_as_it_was_saved(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.link(*LINK.key) is None
    saved = ledger.save(LINK, made_at=12.5, url="http://one/a1", confirmed_step=3, confirmed_rows=4)
    assert ledger.link(*LINK.key) == saved == replace(LINK, **{**saved.__dict__})
    other = ledger.save(replace(LINK, server="http://two"))
    assert ledger.links("u1") == [saved, other] and ledger.links("u2") == []
    assert links_of(tmp_path) == {"a1": [saved, other]}
    assert links_of(tmp_path / "elsewhere") == {}


def test_it_is_on_disk_when_a_method_returns(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from offline_tracker.sync.ledger import Ledger, Link
ledger = Ledger(Path(sys.argv[1]))
number, link = ledger.sent(ledger.save(Link("u1", "wandb", "http://one", "a1", "p", "house", "a1")), 0, 9, 10, 11)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    with Ledger(tmp_path) as ledger:
        link = ledger.link(*LINK.key)
        assert link is not None and (link.sent_seq, link.sent_step) == (11, 9)
        doubt = ledger.doubt(link)
        assert doubt is not None and (doubt.first_step, doubt.last_step) == (0, 9)
        assert time.time() - 60 < doubt.sent_at <= time.time()


def test_only_reading_the_remote_ends_the_doubt(ledger: Ledger) -> None:
    other = ledger.save(replace(LINK, server="http://two"))
    first, link = ledger.sent(ledger.save(LINK), 0, 9, 10, 11)
    _, link = ledger.sent(link, 10, 19, 10, 21)
    assert ledger.doubt(other) is None
    ledger.acked(first)
    doubt = ledger.doubt(link)
    assert doubt == Doubt(0, 19, doubt.sent_at if doubt else 0)
    ledger.settled(link)
    assert ledger.doubt(link) is None


def test_rows_that_fill_a_hole_do_not_move_the_newest_call(ledger: Ledger) -> None:
    _, link = ledger.sent(ledger.save(LINK), 0, 19, 20, 20)
    _, link = ledger.sent(link, 5, 8, 2, 9)
    assert (link.sent_seq, link.sent_step) == (20, 19) == (ledger.links()[0].sent_seq, ledger.links()[0].sent_step)
    # The rows of a branch that never arrived and died: what came instead ends at a smaller step.
    _, link = ledger.sent(link, 15, 17, 3, 30)
    assert (link.sent_seq, link.sent_step) == (30, 17)


def test_a_lease_is_kept_from_others_while_its_holder_lives(ledger: Ledger, tmp_path: Path) -> None:
    me = Holder.current()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        other = Holder(me.host, me.boot, child.pid, Holder.current().started)
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        other = replace(other, started=int(stat[stat.rindex(")") + 2 :].split()[19]))
        with ledger.lease("u1", "a1", other) as children:
            assert children == {}
            with pytest.raises(RunBusy, match=rf"'a1' is being synced by pid {child.pid} on"), Ledger(tmp_path) as mine:
                mine._take("u1", "a1", me)
            with ledger.lease("u2", "b2", me):
                pass
            child.communicate()
            with ledger.lease("u1", "a1", me):  # it is dead now
                pass
    with ledger.lease("u1", "a1", me):
        pass


def test_what_a_dead_holder_had_started_is_handed_on(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from offline_tracker.host import Holder
from offline_tracker.sync.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
with ledger.lease("u1", "a1", Holder.current()):
    ledger.children("u1", {"remote": "wandb", "folder": "/tmp/x"})
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    with Ledger(tmp_path) as ledger:
        with ledger.lease("u1", "a1", Holder.current()) as children:
            assert children == {"remote": "wandb", "folder": "/tmp/x"}
        with ledger.lease("u1", "a1", Holder.current()) as children:
            assert children == {}


def test_a_holder_on_another_host_is_judged_by_its_heartbeat(ledger: Ledger) -> None:
    ledger._take("u1", "a1", OTHER_HOST)
    with pytest.raises(RunBusy, match="pid 7 on node7"):
        ledger._take("u1", "a1", Holder.current())
    ledger._db.execute("UPDATE lease SET beat_at = beat_at - ?", (STALE_S + 1,))
    with ledger.lease("u1", "a1", Holder.current()):
        begun = ledger._db.execute("SELECT beat_at FROM lease").fetchone()[0]
        ledger.beat("u1")
        assert ledger._db.execute("SELECT beat_at FROM lease").fetchone()[0] >= begun


def test_syncs_that_begin_in_the_same_moment_make_one_ledger(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from offline_tracker.sync.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
for folder in sys.argv[1:]:
    Ledger(Path(folder)).close()
"""
    folders = [str(tmp_path / str(number)) for number in range(20)]
    command = [sys.executable, "-c", program, *folders]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, env=env, text=True, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    said = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        said.append(process.communicate(timeout=60)[1])
    assert said == ["", "", ""]


def test_a_ledger_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        path = ledger.path
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    for reading in (Ledger, links_of):
        with pytest.raises(NewerSchema, match=r"ledger\.db was written by a newer offline_tracker"):
            reading(tmp_path)
    path.write_bytes(b"no database, but long enough to be looked at" * 99)
    for reading in (Ledger, links_of):
        with pytest.raises(StoreError, match=r"sync ledger .*ledger\.db"):
            reading(tmp_path)
