"""A folder is whole or empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.model.whole import whole


def test_what_was_written_stays(tmp_path: Path) -> None:
    with whole(tmp_path / "a" / "b") as into:
        (into / "file").write_text("x")
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_nothing_is_left_when_it_fails(tmp_path: Path, error: type[BaseException]) -> None:
    def write(into: Path) -> None:
        (into / "code").mkdir()
        (into / "code" / "net.py").write_text("x")
        (into / "weights").write_text("x")
        raise error

    beside = tmp_path / "beside"
    beside.write_text("untouched")
    with pytest.raises(error), whole(tmp_path / "into") as into:
        write(into)
    assert list((tmp_path / "into").iterdir()) == []
    assert beside.read_text() == "untouched"
