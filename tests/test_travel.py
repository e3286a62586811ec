"""What travels beside rows, with the real clients: packages, samples, console lines, alerts, and later changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import offline_tracker
from offline_tracker.host import packages
from tests.doubles.swanlab import SwanlabServer
from tests.doubles.wandb import WandbServer
from tests.syncing import REMOTES, House, begin, made


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with WandbServer() as wandb, SwanlabServer() as swanlab:
        house = House(tmp_path, wandb, swanlab)
        yield house
        offline_tracker.finish()
        house.close()


def check_clean(house: House) -> None:
    for double in (house.wandb, house.swanlab):
        assert double.violations == []
        assert double.unknown == []


# Packages.


def test_packages_are_found_by_the_names_of_their_metadata(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (
        *(first / "torch-2.4.0+cu121.dist-info", first / "Flask_SQLAlchemy-3.1.dist-info", first / "no_metadata"),
        *(second / "torch-1.0.dist-info", second / "old-1.2-py3.11.egg-info", second / "in_place.egg-info"),
        second / "without_version.egg-info",
    ):
        folder.mkdir(parents=True)
    (second / "in_place.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: in-place\nVersion: 0.5.dev1\n")
    (tmp_path / "archive.zip").write_bytes(b"PK")
    found = packages([str(first), str(tmp_path / "archive.zip"), str(tmp_path / "gone"), str(second)])
    assert found == ["Flask_SQLAlchemy==3.1", "in_place==0.5.dev1", "old==1.2", "torch==2.4.0+cu121"]


def test_an_attempt_stores_its_packages_only_if_they_have_changed(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(house.runs, steps=range(2))
    made(house.runs, steps=range(2, 4))
    (tmp_path / "site" / "brand_new-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    made(house.runs, steps=range(4, 6))
    with house.runs.read("a1") as reader:
        stored = [attempt.environment.get("packages") for attempt in reader.attempts]
        assert reader.environment()["packages"] == stored[2]
    assert stored[0] and any(line.startswith("sqlite_utils==") for line in stored[0])
    assert stored[1] is None
    assert set(stored[2] or ()) == {*stored[0], "brand_new==1.0"}


def test_a_training_that_was_finished_and_started_again_leaves_no_packages(house: House) -> None:
    made(house.runs, steps=range(2))
    begin(house.runs, steps=(), resume="must")
    offline_tracker.finish()
    with house.runs.read("a1") as reader:
        assert len(reader.attempts) == 1


def test_packages_travel_and_follow(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(house.runs, steps=range(2))
    house.sync(REMOTES)
    first = "".join(f"{line}\n" for line in packages())
    assert house.wandb.runs["a1"].files["requirements.txt"].decode() == first == house.swanlab.runs["a1"].requirements
    (tmp_path / "site" / "brand_new-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    made(house.runs, steps=range(2, 4))
    house.sync(REMOTES)
    assert b"brand_new==1.0\n" in house.wandb.runs["a1"].files["requirements.txt"]
    assert "brand_new==1.0\n" in (house.swanlab.runs["a1"].requirements or "")
    check_clean(house)
