"""Rows run in processes of their own: one that dies costs itself only, and what has passed is not run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from zoo import outcome, run
from zoo.outcome import Cell, Outcome
from zoo.row import Row

PASSES = """
import pathlib, sys
from zoo import outcome
from zoo.outcome import Cell, Outcome
name, result, folder = sys.argv[1:]
open(sys.path[0] + "/ran", "a").write(name + "\\n")
cells = {"onnx": Cell(True, "it agrees"), "openvino": Cell(True, "it agrees")}
outcome.write(Outcome(name, cells, code=outcome.code()), pathlib.Path(result))
"""
KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
RAISES = "import sys\nprint('loading', file=sys.stderr)\nraise MemoryError('9 GiB for conv1')\n"
SLEEPS = "import time\ntime.sleep(60)\n"
LEAVES_NOTHING = "pass\n"


def row(name: str) -> Row:
    return Row(name, "vision", "a row of the tests", "zoo.nowhere:write")


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Which script judges which row, from now on."""

    def by(**scripts: str) -> None:
        for name, code in scripts.items():
            (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.setattr(run, "judge_command", lambda row: [str(tmp_path / f"{row.name}.py")])
        monkeypatch.setenv("PYTHONPATH", str(outcome.ROOT))

    return by


def ran(tmp_path: Path) -> list[str]:
    file = tmp_path / "ran"
    return file.read_text().split() if file.exists() else []


def go(rows: Sequence[Row], tmp_path: Path, **options: Any) -> dict[str, tuple[Outcome, bool]]:
    found: dict[str, tuple[Outcome, bool]] = {}

    def told(number: int, row: Row, outcome: Outcome | None, before: bool) -> None:
        assert rows[number - 1] is row
        if outcome is not None:
            found[row.name] = (outcome, before)

    run.run(rows, tmp_path / "results", told=told, **options)
    return found


def test_a_row_that_dies_is_told_and_the_next_one_runs(tmp_path: Path, judged: Any) -> None:
    judged(killed=KILLED, raises=RAISES, nothing=LEAVES_NOTHING, passes=PASSES)
    found = go([row("killed"), row("raises"), row("nothing"), row("passes")], tmp_path)
    assert {name: outcome.ok for name, (outcome, _) in found.items()} == {
        "killed": False,
        "raises": False,
        "nothing": False,
        "passes": True,
    }
    assert found["killed"][0].why == "its process was killed by SIGKILL"
    assert found["raises"][0].why.startswith("its process ended with exit code 1: ")
    assert found["raises"][0].why.endswith("MemoryError: 9 GiB for conv1")
    assert found["nothing"][0].why == "its process left no result"


def test_a_row_that_takes_too_long_is_ended(tmp_path: Path, judged: Any) -> None:
    judged(sleeps=SLEEPS)
    found = go([row("sleeps")], tmp_path, timeout=0.5)
    assert found["sleeps"][0].why == "it took more than 0.5 seconds and was ended"


def test_what_has_passed_is_not_run_again_and_what_failed_is(tmp_path: Path, judged: Any) -> None:
    judged(passes=PASSES, killed=KILLED)
    rows = [row("passes"), row("killed")]
    go(rows, tmp_path)
    judged(killed=PASSES)
    again = go(rows, tmp_path)
    assert ran(tmp_path) == ["passes", "killed"]
    assert {name: before for name, (_, before) in again.items()} == {"passes": True, "killed": False}
    assert again["killed"][0].ok
    go(rows, tmp_path, fresh=True)
    assert ran(tmp_path) == ["passes", "killed", "passes", "killed"]


def test_what_other_code_has_passed_is_run_again(tmp_path: Path, judged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(passes=PASSES)
    go([row("passes")], tmp_path)
    monkeypatch.setattr(outcome, "code", lambda: "of another day")
    go([row("passes")], tmp_path)
    assert ran(tmp_path) == ["passes", "passes"]


def test_a_row_with_a_new_target_is_run_again(tmp_path: Path, judged: Any) -> None:
    judged(passes=PASSES)
    go([row("passes")], tmp_path)
    go([Row("passes", "vision", "x", "zoo.nowhere:write", targets=("onnx", "openvino", "torch"))], tmp_path)
    assert ran(tmp_path) == ["passes", "passes"]


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    cells = {"onnx": Cell(True, "it agrees", 1.5, {"max_abs": 1e-6}), "openvino": Cell(False, "it differs")}
    made = Outcome(
        "bert", cells, takes=("input_ids int64 [batch, sequence]",), weights=5, seconds=2.0, peak=7, code="c"
    )
    outcome.write(made, tmp_path / "deep" / "bert.json")
    assert outcome.read(tmp_path / "deep" / "bert.json") == made
    assert outcome.read(tmp_path / "none.json") is None
    assert not made.ok
    assert made.failures() == {"openvino": "it differs"}
    assert Outcome("x", why="it died").failures() == {"": "it died"}
    assert not Outcome("x").ok
