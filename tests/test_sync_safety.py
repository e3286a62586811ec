"""What a sync must not do: show a key to anybody, leave files that others can read, or look beyond the runs it was given."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.doubles.server import Request
from tests.syncing import REMOTES, House, begin, losses, made


class Looker:
    """Looks at each request's time for a key in command lines and files, and at who may read the files."""

    def __init__(self, house: House, key: str) -> None:
        self.house, self.key = house, key.encode()
        self.found: list[str] = []
        self.looks = 0
        self.folders: set[Path] = set()

    def __call__(self, _: Request) -> None:
        self.looks += 1
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if self.key in path.read_bytes():
                    self.found.append(f"command line {path}")
            except OSError:
                continue
        for path in self.house.tmp.iterdir():
            if path.name.startswith("offline_tracker-") and path.is_dir():
                self.folders.add(path)
                if stat.S_IMODE(path.stat().st_mode) != 0o700:
                    self.found.append(f"{path} may be read by others")
        self.files()

    def files(self) -> None:
        """Look at all files that there are, those of the vendors' clients too."""
        for root in (self.house.home, self.house.tmp, self.house.runs.path):
            for folder, _, names in os.walk(root):
                for name in names:
                    path = Path(folder, name)
                    try:
                        if path.is_file() and self.key in path.read_bytes():
                            self.found.append(f"file {path}")
                    except OSError:
                        continue


@pytest.mark.parametrize("remote", REMOTES)
def test_a_key_is_in_no_file_and_no_command_line_and_in_nothing_that_is_said(house: House, remote: str) -> None:
    key = house.env[f"{remote.upper()}_API_KEY"]
    assert len(key) > 8
    made(house.runs)
    looker = Looker(house, key)
    double = house.double(remote)
    double.fault("", times=99, hook=looker)
    said = house.sync(remote).said
    double.clear_faults()
    double.fault("", times=99, status=403)  # what the client says of that is shown to the user
    begin(house.runs, "a2", steps=range(3))
    said += house.sync(remote, status=1).said
    double.clear_faults()
    looker.files()
    assert looker.looks > 3 and looker.found == []
    assert key not in said
    assert (len(looker.folders) == 1) == (remote == "wandb")
    assert not any(folder.exists() for folder in looker.folders)


def test_nothing_but_the_selected_runs_is_read_or_sent(house: House) -> None:
    for run_id in ("mine", "other"):
        made(house.runs, run_id)
    database = house.runs.path / "other" / "run.db"
    other = house.home / "elsewhere"
    database.rename(other)
    os.mkfifo(database)  # whoever opens it waits for ever
    for remote in REMOTES:
        assert house.sync(remote, only=["mine"]).result["status"] == "confirmed"
        assert list(house.double(remote).runs) == ["mine"]
        house.check(remote, "mine", losses(range(20)))
