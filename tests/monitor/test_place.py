"""Where one reads in a file that grows: files made anew, and one who reads on and on."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.data.sqlite import stride
from modelkeep.monitor.place import Place


class File:
    """As much of a file as a place knows: its newest row."""

    def __init__(self, path: Path) -> None:
        self.path, self.newest = path, 0
        self.place = Place(path, lambda: self.newest, lambda: stride(self.newest, 100))

    def make(self) -> None:
        self.path.unlink(missing_ok=True)
        self.path.with_name("other").write_text("keeps the number of the file that is gone")
        self.path.write_text("")


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "file.db")


def test_a_run_begins_and_begins_again_a_stride_later(file: File) -> None:
    file.make()
    assert file.place.moved()
    assert file.place.anew
    file.place.row = file.newest = 150
    assert not file.place.moved()
    file.newest = 230
    assert file.place.moved()
    assert not file.place.anew
    assert file.place.row == 100


def test_a_file_made_anew_is_read_from_its_start(file: File) -> None:
    file.make()
    file.newest = 50
    file.place.moved()
    file.place.row = 50
    file.newest = 10
    assert file.place.moved()
    assert file.place.anew
    assert file.place.row == 0


def test_one_who_reads_on_and_on_begins_once(file: File) -> None:
    place = file.place.once()
    assert place.moved(), "there is no file yet"
    file.make()
    file.newest = 250
    assert place.moved()
    assert place.row == 100
    place.row = 250
    file.newest = 5000
    assert not place.moved()
