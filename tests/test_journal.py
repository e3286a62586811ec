"""The journal: what was written is read, whatever a crash or a full disk left of the rest."""

from __future__ import annotations

import math
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_tracker import journal
from offline_tracker.journal import CALL, HEADER, MAGIC, Journal, attempt_of, leftovers, parse, read

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters()), st.just(2**3000)
)
records = st.lists(
    st.tuples(st.integers(1, 2**40), st.just(CALL), st.integers(0, 2**48), st.dictionaries(st.text(), scalars)),
    max_size=6,
)


def written(*batch: Any) -> bytes:
    """The bytes of a journal with these records."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Journal(Path(folder), 1)
        try:
            for record in batch:
                ours.append(record)
        finally:
            ours.close()
        return ours.path.read_bytes()


def read_all(path: Path, end: int | None = None) -> tuple[list[Any], int, int]:
    """Every record, where the last ends, and how many torn bytes there were."""
    found, offset, torn = [], 0, 0
    while True:
        some, after, skipped = read(path, offset, end)
        if after == offset:
            assert not some
            return found, offset, torn
        found, offset, torn = found + some, after, torn + skipped


def call(number: int) -> tuple[Any, ...]:
    return (number, CALL, number, number, 1.5 * number, 1, {"loss": 1 / (number + 1), "note": "x" * (number % 7)})


@settings(deadline=None, max_examples=100)
@given(records)
def test_records_come_back_as_they_were_appended(batch: list[Any]) -> None:
    data = written(*batch)
    assert parse(data) == (batch, len(data), 0)


def test_nan_and_lone_surrogates_survive_the_journal() -> None:
    found, _, _ = parse(written((1, CALL, math.nan, -0.0, math.inf, "\ud800")))
    assert math.isnan(found[0][2])
    assert math.copysign(1, found[0][3]) == -1
    assert found[0][4:] == (math.inf, "\ud800")


def test_a_journal_cut_at_every_byte_gives_every_whole_record_before_the_cut() -> None:
    batch = [call(number) for number in range(6)]
    data = written(*batch)
    ends = [len(written(*batch[:count])) for count in range(7)]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends) - 1
        assert parse(data[:cut]) == (batch[:whole], ends[whole], 0)


def test_a_record_torn_at_every_byte_in_the_middle_costs_only_itself() -> None:
    before, torn, after = written(call(1), call(2)), written(call(3)), written(call(4), call(5))
    for cut in range(1, len(torn)):
        found, used, skipped = parse(before + torn[:cut] + after)
        assert found == [call(1), call(2), call(4), call(5)]
        assert (used, skipped) == (len(before) + cut + len(after), cut)


def test_every_changed_byte_costs_only_its_record() -> None:
    before, middle, after = written(call(1)), written(call(2)), written(call(3))
    for at in range(len(middle)):
        changed = bytearray(middle)
        changed[at] ^= 0x40
        found, used, skipped = parse(before + bytes(changed) + after)
        assert found == [call(1), call(3)]
        assert (used, skipped) == (len(before + middle + after), len(middle))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.integers(1, 99).map(lambda number: (number, written(call(number)))),
            st.binary(max_size=40).map(lambda garbage: (None, garbage)),
            st.sampled_from(
                [(None, part) for part in (MAGIC, MAGIC * 9, HEADER.pack(MAGIC, 9, 9), b"\xf5", b"\0" * 99)]
            ),
            st.tuples(st.integers(1, 99), st.integers(1, 20)).map(lambda x: (None, written(call(x[0]))[: -x[1]])),
        ),
        max_size=9,
    )
)
def test_garbage_between_records_is_skipped_and_counted(parts: list[tuple[int | None, bytes]]) -> None:
    data = b"".join(part for _, part in parts)
    found, used, torn = parse(data)
    assert [record[0] for record in found] == [number for number, _ in parts if number is not None]
    last = max((index for index, (number, _) in enumerate(parts) if number is not None), default=-1)
    assert used == len(b"".join(part for _, part in parts[: last + 1]))
    assert torn == sum(len(part) for number, part in parts[: last + 1] if number is None)


def test_zeros_behind_a_torn_header_are_no_record() -> None:
    for cut in range(1, HEADER.size + 1):  # what a power cut leaves where blocks were promised but not written
        torn = written(call(2))[:cut] + bytes(100)
        assert parse(written(call(1)) + torn + written(call(3)))[0] == [call(1), call(3)]


def test_a_record_inside_a_text_is_no_record() -> None:
    inner = written(call(1))
    text = inner.decode("latin-1")  # the nearest that a text can come to a record's bytes
    data = written((1, CALL, text))
    assert parse(data[:-1])[0] == []
    assert parse(data)[0] == [(1, CALL, text)]


@pytest.mark.parametrize("size_bytes", [(1 << 20) - 40, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_a_record_longer_than_what_is_read_at_once_is_read(size_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "journal-1-0"
    batch = [call(1), (2, CALL, "x" * size_bytes), call(3), (4, CALL, "y" * size_bytes), call(5)]
    path.write_bytes(written(*batch))
    assert read_all(path) == (batch, path.stat().st_size, 0)


def test_a_long_record_that_was_cut_is_skipped_where_another_follows(tmp_path: Path) -> None:
    path = tmp_path / "journal-1-0"
    torn = written((2, CALL, "x" * (3 << 20)))[: 2 << 20]
    path.write_bytes(written(call(1)) + torn)
    assert read_all(path) == ([call(1)], len(written(call(1))), 0)
    path.write_bytes(written(call(1)) + torn + written(call(3)))
    assert read_all(path) == ([call(1), call(3)], path.stat().st_size, len(torn))


def test_many_records_are_read_in_pieces_without_a_seam(tmp_path: Path) -> None:
    path = tmp_path / "journal-1-0"
    batch = [(number, CALL, "x" * (number % 5000)) for number in range(1, 2000)]
    path.write_bytes(written(*batch))
    first, offset, _ = read(path)
    assert 0 < len(first) < len(batch)
    assert offset < 2 << 20
    assert read_all(path)[0] == batch


def test_nothing_is_read_beyond_the_end_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "journal-1-0"
    path.write_bytes(written(call(1), call(2), call(3)))
    two = len(written(call(1), call(2)))
    assert read_all(path, two)[0] == [call(1), call(2)]
    assert read_all(path, two + 5)[0] == [call(1), call(2)]
    assert read_all(path, 0)[0] == []


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Journal]:
    ours = Journal(tmp_path, 3)
    yield ours
    ours.close()


def test_the_size_is_what_the_file_has(ours: Journal) -> None:
    for number in range(5):
        ours.append(call(number))
        assert ours.size_bytes == ours.path.stat().st_size


def test_a_rotated_journal_goes_on_in_a_new_file(ours: Journal, tmp_path: Path) -> None:
    ours.append(call(1))
    assert ours.rotate() == tmp_path / "journal-3-0"
    assert ours.size_bytes == 0
    ours.append(call(2))
    assert [path.name for path in leftovers(tmp_path)] == ["journal-3-0", "journal-3-1"]
    assert [read_all(path)[0] for path in leftovers(tmp_path)] == [[call(1)], [call(2)]]


def test_a_rotation_that_fails_leaves_the_old_file_in_use(ours: Journal, tmp_path: Path) -> None:
    (tmp_path / "journal-3-1").write_bytes(b"somebody else's")
    ours.append(call(1))
    with pytest.raises(FileExistsError):
        ours.rotate()
    ours.append(call(2))
    assert read_all(ours.path)[0] == [call(1), call(2)]


def test_a_journal_never_writes_into_a_file_that_is_there(ours: Journal, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        Journal(tmp_path, 3)


def test_leftovers_come_in_the_order_of_attempts_and_files(tmp_path: Path) -> None:
    for name in ("journal-10-0", "journal-2-0", "journal-2-10", "journal-2-9", "journal-x-0", "journal-2", "run.db"):
        (tmp_path / name).touch()
    found = leftovers(tmp_path)
    assert [path.name for path in found] == ["journal-2-0", "journal-2-9", "journal-2-10", "journal-10-0"]
    assert [attempt_of(path) for path in found] == [2, 2, 2, 10]
    assert leftovers(tmp_path / "nowhere") == []


def test_what_is_no_plain_value_is_refused_and_leaves_nothing(ours: Journal) -> None:
    ours.append(call(1))
    with pytest.raises(ValueError, match="unmarshal"):
        ours.append((2, CALL, object()))
    ours.append(call(3))
    assert read_all(ours.path) == ([call(1), call(3)], ours.size_bytes, 0)


@pytest.fixture
def full_disk() -> Iterator[Any]:
    """Let this process write no file beyond a number of bytes: the kernel then cuts a write short, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes or soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_a_short_write_tears_one_record_and_the_next_is_found(ours: Journal, full_disk: Any) -> None:
    ours.append(call(1))
    whole = ours.size_bytes
    full_disk(whole + 10)
    with pytest.raises(OSError, match=r"."):
        ours.append(call(2))
    assert (ours.size_bytes, os.stat(ours.path).st_size) == (whole + 10, whole + 10)
    full_disk(None)
    ours.append(call(3))
    assert read_all(ours.path) == ([call(1), call(3)], ours.size_bytes, 10)


def test_a_write_that_is_short_once_is_done_again_as_a_whole(ours: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter([7])
    real = os.write
    monkeypatch.setattr(journal.os, "write", lambda fd, data: real(fd, data[: next(lengths, None)]))
    ours.append(call(1))
    ours.append(call(2))
    assert read_all(ours.path) == ([call(1), call(2)], ours.size_bytes, 7)


def test_a_closed_journal_refuses_instead_of_reaching_another_file(tmp_path: Path) -> None:
    ours = Journal(tmp_path, 1)
    ours.close()
    with open(tmp_path / "other", "w") as other:
        assert other.fileno() >= 0
        with pytest.raises(OSError, match="Bad file descriptor"):
            ours.append(call(1))
    assert (tmp_path / "other").read_bytes() == b""
