"""Results are kept with the state of the code that they are of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from zoo import outcome
from zoo.outcome import Cell, Outcome


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_named_only_where_the_code_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert outcome.commit() == ""
    for name in ("modelkeep", "zoo", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.py").write_text("1\n", encoding="utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "all")
    assert len(outcome.commit()) >= 7
    (tmp_path / "docs" / "file.py").write_text("2\n", encoding="utf-8")
    assert outcome.commit()  # a page is not code
    (tmp_path / "zoo" / "file.py").write_text("2\n", encoding="utf-8")
    assert outcome.commit() == ""


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = Outcome("mlp", {"onnx": Cell(True, "it agrees", 1.5, {"n": 3})}, takes=("x",), code="a1")
    outcome.write(found, tmp_path / "deep" / "mlp.json")
    assert outcome.read(tmp_path / "deep" / "mlp.json") == found
    assert outcome.read(tmp_path / "gone.json") is None
