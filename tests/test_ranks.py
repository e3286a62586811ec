"""Many threads, processes and ranks around one run: one of them writes, and none disturbs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import offline_tracker as wandb
from offline_tracker import Run, UsageError
from offline_tracker.store import Runs

from .conftest import Start, curve_of, only_id, read, rows_of, said, stored
from .doubles.server import wait_until


def test_eight_threads_log_at_once(run: Run, runs: Runs) -> None:
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        for number in range(400):
            run.log({"thread": thread, "number": number})

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    rows = stored(runs)
    assert list(rows) == list(range(3200))
    for thread_number in range(8):
        numbers = [row["number"] for row in rows.values() if row["thread"] == thread_number]
        assert numbers == list(range(400))  # each thread's own order is kept
    with runs.read("a1") as reader:
        every = list(reader.calls([(1, reader.last_seq, None)]))
        assert [call.seq for call in every] == list(range(1, 3201))
        assert [call.time for call in every] == sorted(call.time for call in every)


def test_threads_that_log_while_the_run_finishes_lose_nothing_silently(runs: Runs) -> None:
    for turn in range(5):
        run = wandb.init(dir=runs.path, id=f"r{turn}")
        returned: list[int] = []
        stop = threading.Event()

        def work(run: Run = run, returned: list[int] = returned, stop: threading.Event = stop) -> None:
            number = 0
            while not stop.is_set():
                run.log({"n": number})
                if not run.finished:
                    returned.append(number)
                number += 1

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda returned=returned: len(returned) > 50)  # type: ignore[misc]
        wandb.finish()
        stop.set()
        thread.join()
        kept = {row["n"] for row in curve_of(runs, f"r{turn}").values()}
        assert set(returned) <= kept


FORK = """
import os, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
for number in range(100):
    wandb.log({"n": number})
pid = os.fork()
if pid == 0:
    for _ in range(10):
        wandb.log({"child": 1})
        run.log({"child": 1})
    run.config["child"] = run.summary["child"] = 1
    run.mark_checkpoint("child")
    wandb.define_metric("child")
    if sys.argv[2] == "finish": wandb.finish()
    if sys.argv[2] == "_exit": os._exit(0)
    if sys.argv[2] == "raise": raise SystemExit(5)
    sys.exit(0)
os.waitpid(pid, 0)
for number in range(100, 200):
    wandb.log({"n": number})
run.flush()
wandb.finish()
"""


@pytest.mark.parametrize("end", ["exit", "_exit", "finish", "raise"])
def test_a_forked_child_writes_nothing_and_the_parent_goes_on(end: str, runs: Runs, start: Start) -> None:
    process = start(FORK, end)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors.count("forked child") == 1, errors
    with runs.read("a1") as reader:
        assert rows_of(reader) == {step: {"n": step} for step in range(200)}
        assert (reader.state, len(reader.attempts), reader.info.config, reader.marks) == ("finished", 1, {}, [])
        assert "child" not in reader.summary() and "child" not in reader.definitions()


def test_a_fork_in_the_middle_of_a_commit_breaks_nothing(runs: Runs, start: Start) -> None:
    program = """
import gc, os, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
pids = []
for number in range(6000):
    wandb.log({"n": number})
    if number % 300 == 0:
        pid = os.fork()
        if pid == 0:
            del run
            wandb.session._current = None
            gc.collect()       # a connection that were collected here would roll back the parent's transaction
            sys.exit(0)
        pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""
    process = start(program)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert curve_of(runs, "a1") == {step: {"n": step} for step in range(6000)}


def test_a_forked_child_may_begin_a_run_of_its_own(runs: Runs, start: Start) -> None:
    program = """
import os, sys
import offline_tracker as wandb
parent = wandb.init(dir=sys.argv[1], id="a1")
parent.log({"parent": 1})
pid = os.fork()
if pid == 0:
    run = wandb.init(dir=sys.argv[1], id="b2")
    assert run is not parent
    run.log({"child": 1})
    sys.exit(0)
os.waitpid(pid, 0)
parent.log({"parent": 2})
"""
    process = start(program)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert curve_of(runs, "a1") == {0: {"parent": 1}, 1: {"parent": 2}}
    assert curve_of(runs, "b2") == {0: {"child": 1}}


ORPHAN = """
import os, signal, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], id="a1")
wandb.log({"n": 0})
until, parent = os.pipe()
if os.fork():
    wandb.log({"n": 1})
    if sys.argv[2] == "finish":
        wandb.finish()
    os.kill(os.getpid(), signal.SIGKILL)
os.close(parent)
os.read(until, 1)  # comes back when the parent is gone
for _ in range(3):
    wandb.log({"child": 1})
run.config["child"] = run.summary["child"] = run.name = 1
wandb.define_metric("child")
assert wandb.get_run().id == run.id
wandb.finish()
run.finish()
"""


@pytest.mark.parametrize("end", ["finish", "kill"])
def test_a_child_that_outlives_its_parent_writes_nothing_either(end: str, runs: Runs, start: Start) -> None:
    process = start(ORPHAN, end)
    _, errors = process.communicate(timeout=60)  # the child's end, too
    assert errors.count("\n") == errors.count("forked child") == 1, errors
    assert [path.name for path in runs.folder("a1").glob("journal-*")] == (["journal-1-0"] if end == "kill" else [])
    with runs.read("a1") as reader:
        assert rows_of(reader) == {0: {"n": 0}, 1: {"n": 1}}
        assert (reader.info.config, reader.info.name, reader.summary(), reader.definitions()) == ({}, None, {}, {})
        assert reader.state == {"finish": "finished", "kill": "crashed"}[end]
        assert (len(reader.attempts), reader.marks) == (1, [])


LOADER = """
import sys, warnings
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
import torch.utils.data as data
import offline_tracker as wandb

class Numbers(data.Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, index):
        wandb.log({"child": index})
        run = wandb.get_run()
        if run is not None:  # in a forked worker it is the parent's
            run.log({"child": index})
            run.summary["child"] = run.config["child"] = 1
            run.mark_checkpoint("child")
            assert run.id == "a1"
        return index

if __name__ == "__main__":
    wandb.init(dir=sys.argv[1], id="a1")
    for method, workers in (("fork", 2), ("spawn", 1), ("forkserver", 1)):
        for batch in data.DataLoader(Numbers(), batch_size=3, num_workers=workers, multiprocessing_context=method):
            wandb.log({"first": int(batch[0])})
        print(file=sys.stderr)
    wandb.finish()
"""


def test_workers_of_a_data_loader_write_nothing_and_the_parent_goes_on(runs: Runs, tmp_path: Path) -> None:
    program = tmp_path / "train.py"  # a program given by -c can't be spawned
    program.write_text(LOADER)
    command = [sys.executable, program, runs.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    forked, spawned, served, rest = done.stderr.split("\n\n")
    assert forked.count("offline_tracker:") == forked.count("forked child") == 2, done.stderr
    assert spawned.count("offline_tracker:") == spawned.count("without a run") == 1, done.stderr
    assert served.count("offline_tracker:") == served.count("without a run") == 1, done.stderr
    assert rest == ""
    with runs.read("a1") as reader:
        assert [row["first"] for row in rows_of(reader).values()] == [0, 3, 6, 9] * 3
        assert reader.metric_names([(1, reader.last_seq, None)]) == ["first"]
        assert (reader.state, len(reader.attempts), reader.marks) == ("finished", 1, [])
        assert (reader.info.config, reader.summary()) == ({}, {})


# Ranks.

DISTRIBUTED = """
import os, sys
import torch.distributed as dist
import offline_tracker as wandb
rank = int(sys.argv[2])
def train(run_id):
    wandb.init(dir=sys.argv[1], id=run_id)
    wandb.log({"rank": rank})
    wandb.finish()
wandb.init(dir=sys.argv[1], id=f"before-{rank}")  # nothing says yet that there is another
dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meet", rank=rank, world_size=2)
wandb.log({"rank": rank})
wandb.finish()
train("behind")
if rank == 0:
    train("alone")  # as MiniMind: a collective in init() or log() would wait for the other for ever
os.environ["OFFLINE_TRACKER_WRITER_RANK"] = "-1"
train("last")
dist.barrier()
dist.destroy_process_group()
"""


def test_the_rank_that_torch_distributed_has_counts_from_the_first_log_on(runs: Runs, start: Start) -> None:
    processes = [start(DISTRIBUTED, rank, env={"GLOO_SOCKET_IFNAME": "lo"}) for rank in (0, 1)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    ranks = {run_id: [row["rank"] for row in curve_of(runs, run_id).values()] for run_id in runs.ids()}
    assert ranks == {"before-0": [0], "behind": [0], "alone": [0], "last": [1]}


RANK = """
import os, sys
import offline_tracker as wandb
run = wandb.init(dir=sys.argv[1], project="p", name="n")
for number in range(3):
    wandb.log({"rank": int(os.environ["RANK"])})
run.config.update({"rank": 1})
run.summary["a"] = 1
print(run.id, flush=True)
sys.stdin.read()
"""


def test_the_other_ranks_have_the_same_id_and_write_nothing(runs: Runs, start: Start) -> None:
    launch = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "WORLD_SIZE": "2"}
    one = start(RANK, env={**launch, "RANK": "1"})  # begins first: it has to wait for the one that writes
    zero = start(RANK, env={**launch, "RANK": "0"})
    ids = []
    for process in (zero, one):
        assert process.stdout is not None
        ids.append(process.stdout.readline().strip())
    _, errors = one.communicate("", timeout=60)
    zero.communicate("", timeout=60)
    assert ids == [only_id(runs)] * 2
    assert errors.count("does not write") == 1
    rows = curve_of(runs, ids[0])
    assert [row["rank"] for row in rows.values()] == [0, 0, 0]
    assert len(read(runs, ids[0]).attempts) == 1
    assert {path.name for path in runs.path.iterdir()} == {ids[0]}


def test_the_id_is_never_that_of_a_training_which_ended_before_on_the_same_port(runs: Runs, start: Start) -> None:
    launch = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "WORLD_SIZE": "2"}
    before = start(RANK, env={**launch, "RANK": "0"})
    before.communicate("", timeout=60)
    (old,) = runs.ids()
    one = start("print('up', flush=True)\n" + RANK, env={**launch, "RANK": "1"})
    assert one.stdout is not None and one.stdout.readline() == "up\n"
    zero = start(RANK, env={**launch, "RANK": "0"})  # begins only now; the other has to wait for it
    assert zero.stdout is not None
    new = zero.stdout.readline()
    assert one.stdout.readline() == new != old + "\n"


@pytest.mark.parametrize(
    ("environ", "writes"),
    [
        ({}, True),
        ({"RANK": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, True),
        ({"RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, False),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "1"}, True),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, True),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "LOCAL_RANK": "1"}, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "OMPI_COMM_WORLD_RANK": "1"}, False),
        ({"OMPI_COMM_WORLD_RANK": "2"}, False),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "RAY_RAYLET_PID": "77"}, True),
        ({"RANK": "1", "SLURM_PROCID": "0", "RAY_RAYLET_PID": "77"}, False),
        ({"PMIX_RANK": "1"}, False),
        ({"PMI_RANK": "1"}, False),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "OFFLINE_TRACKER_WRITER_RANK": "-1"}, False),
        ({"MV2_COMM_WORLD_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"JSM_NAMESPACE_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0"}, True),
        ({"FLUX_TASK_RANK": "1"}, False),
        ({"RANK": "--1", "LOCAL_RANK": "\u00b2", "SLURM_PROCID": "", "SLURM_NTASKS": "4(x2)"}, True),
        ({"RANK": "1", "OFFLINE_TRACKER_RANK": "0"}, True),
        ({"RANK": "3", "WORLD_SIZE": "4", "OFFLINE_TRACKER_WRITER_RANK": "-1"}, True),
        ({"RANK": "0", "WORLD_SIZE": "4", "OFFLINE_TRACKER_WRITER_RANK": "-1"}, False),
        ({"RANK": "2", "OFFLINE_TRACKER_WRITER_RANK": "2"}, True),
    ],
    ids=str,
)
def test_one_rank_writes(
    environ: dict[str, str], writes: bool, runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    run = wandb.init(dir=runs.path, id="a1")
    run.log({"a": 1})
    run.log({"a": 2})
    assert run.id == "a1"
    wandb.finish()
    assert runs.ids() == (["a1"] if writes else [])
    assert len(said(caplog)) == (0 if writes else 1)


@pytest.mark.parametrize("name", ["OFFLINE_TRACKER_RANK", "OFFLINE_TRACKER_WRITER_RANK"])
def test_a_rank_of_ours_that_is_no_number_is_said_before_anything_is_made(
    name: str, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "last")
    with pytest.raises(UsageError, match=f"{name} is 'last'"):
        wandb.init(dir=runs.path)
    assert not runs.path.exists()


def test_a_rank_that_is_given_beats_the_environment(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert not isinstance(wandb.init(dir=runs.path, id="a1", rank=1), Run)


def test_ranks_that_are_known_only_after_init_are_looked_at_again(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = wandb.init(dir=runs.path, id="a1")
    monkeypatch.setenv("RANK", "1")  # as after init_process_group
    run.log({"a": 1})
    run.log({"a": 2})
    assert len(said(caplog)) == 1
    assert run.id == "a1"
    assert wandb.run is run
    assert runs.ids() == []
    wandb.finish()
    assert runs.ids() == []


def test_a_whole_training_uses_no_network_and_starts_no_process(python: Callable[..., str]) -> None:
    program = """
import sys
seen = set()
def hook(event, args):
    if event.startswith(("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system")):
        seen.add(event)
sys.addaudithook(hook)
import offline_tracker as wandb
wandb.login()
run = wandb.init(dir=sys.argv[1], project="p", id="a1", config={"lr": 1})
run.define_metric("loss", summary="min")
wandb.log({"loss": 1.0})
wandb.alert("a", "b")
run.flush()
wandb.finish()
print(*seen)
"""
    assert set(python(program).split()) <= {"socket.gethostname"}


def test_init_installs_no_signal_handler_and_takes_no_output(runs: Runs) -> None:
    numbers = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    before = {number: signal.getsignal(number) for number in numbers}
    streams = (sys.stdout, sys.stderr, sys.excepthook)
    wandb.init(dir=runs.path).log({"a": 1})
    assert {number: signal.getsignal(number) for number in numbers} == before
    assert (sys.stdout, sys.stderr, sys.excepthook) == streams
