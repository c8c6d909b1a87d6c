"""Copies of big files: the same bytes in a file of its own, wherever that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.model import copying
from modelkeep.model.copying import copied


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_copy_is_whole_and_its_own(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying.sys, "platform", platform)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(bytes(range(256)) * 5000)
    copied(source, target)
    assert target.read_bytes() == source.read_bytes()
    with source.open("r+b") as changed:
        changed.write(b"changed")
    assert target.read_bytes() == bytes(range(256)) * 5000


def test_nothing_there_is_an_error_and_an_old_copy_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"an older and longer one")
    (tmp_path / "a").write_bytes(b"new")
    copied(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"
    with pytest.raises(FileNotFoundError):
        copied(tmp_path / "gone", tmp_path / "c")
