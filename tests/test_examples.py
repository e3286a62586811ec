"""What README tells a newcomer: the demo, the training under other trackers, installs with one remote only, the commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from itertools import chain
from pathlib import Path

import pytest

from offline_tracker import curve
from offline_tracker.store import Runs
from tests.doubles.swanlab import SwanlabServer
from tests.doubles.wandb import WandbServer

ROOT = Path(__file__).parents[1]
TRACKER = Path(sys.executable).parent / "tracker"


def test_the_demo_ends_with_both_remotes_confirmed(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, str(ROOT / "examples/demo.py"), "--dir", str(tmp_path), "--steps", "60"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL" in done.stdout
    for remote in ("wandb", "swanlab"):
        line = next(line for line in done.stdout.splitlines() if f"│ {remote} " in line)
        _, rows, rewound, _, there, last_step, confirmed = line.strip("│ ").replace(" ", "").split("│")
        assert (rows, there, last_step, confirmed) == ("24", "24", "23", "yes")
        assert int(rewound) >= 2
    runs = Runs(tmp_path / "runs")
    with runs.read(runs.ids()[0]) as reader:
        spans = curve.live_spans(reader.rewinds, reader.last_seq)
        losses = [row.values["loss"] for row in curve.rows(reader.calls(spans))]
        assert reader.state == "finished"
        assert [attempt.exit_code for attempt in reader.attempts] == [None, 0]
    assert len(losses) == 24
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("present", ["wandb", "swanlab"])
def test_a_sync_needs_only_the_client_it_sends_with(present: str, tmp_path: Path) -> None:
    absent = {"wandb": "swanlab", "swanlab": "wandb"}[present]
    bin_folder = environment_without(absent, tmp_path / "env")
    log = "import offline_tracker as w\nw.init(project='p', id='a')\n[w.log({'loss': 1 / i}) for i in range(1, 8)]"
    with {"wandb": WandbServer, "swanlab": SwanlabServer}[present]() as server:
        env = {**os.environ, **server.env(), "HOME": str(tmp_path)}
        for name in ("WANDB_API_KEY", "SWANLAB_API_KEY"):
            if not name.startswith(present.upper()):
                env.pop(name, None)

        def run(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

        assert run(str(bin_folder / "python"), "-c", log).returncode == 0
        synced = run(str(bin_folder / "tracker"), "sync")  # to the one remote that there are credentials for
        assert synced.returncode == 0, synced.stderr
        assert [step for step, _ in server.points("a", "loss")] == list(range(7))
        refused = run(str(bin_folder / "tracker"), "sync", "--to", absent)
    assert refused.returncode == 2
    assert refused.stderr == f"tracker: {absent} is not installed; pip install 'offline-tracker[{absent}]'\n"


def environment_without(package: str, folder: Path) -> Path:
    """Make a virtual environment that has all that this one has but one package; returns its bin folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(package):
            (site / entry.name).symlink_to(entry)
    script = folder / "bin" / "tracker"
    script.write_text(TRACKER.read_text().replace(TRACKER.read_text().splitlines()[0], f"#!{folder}/bin/python", 1))
    script.chmod(0o755)
    return folder / "bin"


def test_readme_has_the_two_commands_and_lists_every_subcommand() -> None:
    for name in ("demo", "test"):
        shown = subprocess.run(
            [sys.executable, ".ci/readme_command.py", name], cwd=ROOT, capture_output=True, text=True
        )
        assert shown.stdout.startswith("python3 -m venv .venv && "), shown.stderr
    readme = (ROOT / "README.md").read_text()
    helped = subprocess.run([TRACKER, "--help"], capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^  (\w+)  ", helped.split("Commands:")[1], re.MULTILINE)
    assert set(commands) == set(re.findall(r"^\| `tracker (\w+)", readme, re.MULTILINE))
    for command in commands:
        [line] = re.findall(rf"^\| `tracker {command}[^|]*(?:\\\|[^|]*)*\|", readme, re.MULTILINE)
        known = subprocess.run([TRACKER, command, "--help"], capture_output=True, text=True, check=True).stdout
        for option in re.findall(r"--[a-z-]+", line):
            assert option in known, f"tracker {command} has no {option}"


def test_the_versions_in_constraints_are_within_pyproject_s_bounds() -> None:
    from packaging.requirements import Requirement

    if sys.version_info < (3, 11):
        pytest.skip("tomllib comes with Python 3.11")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = {need.name: need.specifier for need in map(Requirement, chain(*lists))}
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1].isalpha()]
    for pin in pins:
        [spec] = pin.specifier
        assert bounds[pin.name].contains(spec.version), pin.name
