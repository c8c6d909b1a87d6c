"""What is measured beside what, and what is told of it."""

from __future__ import annotations

import pytest
from peers import report, servers

THEIRS = {"requests/s": [100.0, 110.0], "p50 ms": [1.0, 1.1], "p99 ms": [2.0, 2.2]}
OURS = {"requests/s": [200.0, 330.0], "p50 ms": [0.5, 0.4], "p99 ms": [1.0, 0.9]}


def test_modelkeep_is_measured_whoever_is_named() -> None:
    assert servers(["litserve"]) == ["modelkeep", "litserve"]
    assert servers(["echo", "modelkeep", "echo"]) == ["modelkeep", "echo"]


def test_it_can_be_left_out() -> None:
    assert servers(["modelkeep", "echo"], with_modelkeep=False) == ["echo"]


def test_ratios_are_taken_round_by_round(capsys: pytest.CaptureFixture[str]) -> None:
    report({"modelkeep JSON": OURS, "litserve JSON": THEIRS})
    assert "| litserve JSON | 2.50 (2.00 to 3.00) |" in capsys.readouterr().out


def test_without_it_there_is_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    report({"litserve JSON": THEIRS})
    assert "| against |" not in capsys.readouterr().out
