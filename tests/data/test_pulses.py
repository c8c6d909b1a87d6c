"""Signs of life: what is written is read, minutes add up, and what is old goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.data import pulses
from modelkeep.data.pulses import Counts, Pulse, Sample
from modelkeep.errors import BadData, Damaged

ONE = ("digits", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "pulses.db"


def test_a_missing_file_holds_none(path: Path) -> None:
    assert pulses.read(path, "digits", 1) == []
    assert pulses.minutes(path, "digits", 1) == []
    assert pulses.memory(path) == []
    assert pulses.newest(path) == 0
    assert not path.exists()


def test_what_was_written_is_read_from_a_row_on(path: Path) -> None:
    pulses.write(path, 100.0, {ONE: Counts(5, 1, (4, 2)), ("digits", 2): Counts(7, 0)})
    pulses.write(path, 105.0, {ONE: Counts(3, 0, (0, 0))})
    assert pulses.read(path, "digits", 1) == [
        Pulse(1, 100.0, Counts(5, 1, (4, 2))),
        Pulse(3, 105.0, Counts(3, 0, (0, 0))),
    ]
    assert pulses.read(path, "digits", 1, after=1) == [Pulse(3, 105.0, Counts(3, 0, (0, 0)))]
    assert [pulse.row for pulse in pulses.read(path, "digits", 1, limit=1)] == [1]
    assert pulses.read(path, "digits", 2) == [Pulse(2, 100.0, Counts(7, 0))]
    assert pulses.newest(path) == 3


def test_minutes_add_up(path: Path) -> None:
    for at in (120.0, 125.0, 179.9, 180.0):
        pulses.write(path, at, {ONE: Counts(10, 1)})
    assert pulses.minutes(path, "digits", 1) == [(120.0, 30, 3), (180.0, 10, 1)]


def test_memory_is_of_a_process(path: Path) -> None:
    pulses.write(path, 100.0, {}, Sample(100.0, 42, 3e8))
    pulses.write(path, 130.0, {}, Sample(130.0, 42, 4e8))
    assert pulses.memory(path) == [(1, Sample(100.0, 42, 3e8)), (2, Sample(130.0, 42, 4e8))]
    assert pulses.memory(path, limit=1) == [(1, Sample(100.0, 42, 3e8))]
    assert pulses.memory(path, after=1) == [(2, Sample(130.0, 42, 4e8))]


def test_what_is_old_goes(path: Path) -> None:
    day = 86400.0
    pulses.write(path, 0.0, {ONE: Counts(1, 0)}, Sample(0.0, 1, 1.0))
    pulses.write(path, day, {ONE: Counts(2, 0)})
    assert [pulse.counts.requests for pulse in pulses.read(path, "digits", 1)] == [2]
    assert len(pulses.minutes(path, "digits", 1)) == 2
    assert len(pulses.memory(path)) == 1
    pulses.write(path, 32 * day, {})
    assert pulses.read(path, "digits", 1) == []
    assert pulses.minutes(path, "digits", 1) == [(day, 2, 0)]
    assert pulses.memory(path) == []


def test_differences_of_counts() -> None:
    assert Counts(10, 3, (5, 2)).since(Counts(4, 1, (1, 1))) == Counts(6, 2, (4, 1))
    assert Counts(10, 3, (5, 2)).since(Counts(0, 0)) == Counts(10, 3, (5, 2))


def test_a_damaged_file_is_refused_by_name(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("no database " * 500)
    with pytest.raises(BadData, match=r"pulses\.db is not a file of signs of life"):
        pulses.read(path, "digits", 1)


def test_a_damaged_file_is_moved_aside_by_who_writes(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("no database " * 500)
    with pytest.raises(BadData):
        pulses.write(path, 0.0, {})
    pulses.write(path, 5.0, {ONE: Counts(1, 0)})
    assert len(pulses.read(path, "digits", 1)) == 1
    assert path.with_name("pulses.db.damaged").is_file()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Damaged, match=r"the signs of life in .* cannot be used"):
        pulses.write(tmp_path / "file" / "pulses.db", 0.0, {})
