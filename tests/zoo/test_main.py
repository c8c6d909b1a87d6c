"""python -m zoo: the exit code is the verdict, and a run of all rows writes the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from zoo import __main__ as command
from zoo import catalogue, run
from zoo.outcome import Cell, Outcome
from zoo.row import Row


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``zoo(words, fails=…)``: the command, its rows passing at once, but for those that fail."""
    page = tmp_path / "zoo.md"
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "ROOT", tmp_path)

    def go(words: Sequence[str] = (), fails: Sequence[str] = ()) -> Result:
        def one(row: Row, file: Path, timeout: float) -> Outcome:
            ok = row.name not in fails
            return Outcome(row.name, {t: Cell(ok, "it agrees" if ok else "it differs") for t in row.targets})

        monkeypatch.setattr(run, "one", one)
        return CliRunner().invoke(command.main, [*words, "--results", str(tmp_path / "results")])

    go.page = page  # type: ignore[attr-defined]
    return go


def test_all_rows_pass_and_the_page_is_written(zoo: Any) -> None:
    done = zoo()
    assert done.exit_code == 0, done.output
    assert f"{len(catalogue.rows())} of {len(catalogue.rows())} rows pass" in done.output
    assert "written: zoo.md" in done.stderr
    assert zoo.page.read_text(encoding="utf-8").startswith("# The zoo")


def test_one_failing_row_is_exit_code_1_and_told(zoo: Any) -> None:
    done = zoo(["--only", "mlp", "--only", "bert"], fails=["bert"])
    assert done.exit_code == 1
    assert "[1/2] mlp: passes" in done.stderr
    assert "[2/2] bert: FAILS: onnx it differs" in done.stderr
    assert not zoo.page.exists()  # a part of the rows is no matrix


def test_json_is_one_document(zoo: Any) -> None:
    done = zoo(["--room", "trees", "--json"], fails=["pipeline"])
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert found["random-forest"]["ok"] is True
    assert found["pipeline"]["cells"]["onnx"]["why"] == "it differs"


def test_a_row_that_is_not_there_is_exit_code_2(zoo: Any) -> None:
    done = zoo(["--only", "lenet"])
    assert done.exit_code == 2
    assert "there is no lenet; there are: alexnet" in done.stderr
