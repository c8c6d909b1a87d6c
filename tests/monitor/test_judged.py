"""What a version is held to: what was promised, or what its reference rows let expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.model.baseline import Baseline
from modelkeep.monitor.judged import Judged
from modelkeep.monitor.limits import Limits


def judged(right: Any = None, **limits: float) -> Judged:
    """``right`` says of each reference row whether it was answered right."""
    nothing: Any = None
    known = None if right is None else Baseline(nothing, None, np.ones(len(right), dtype=np.int64), None, right)
    return Judged("digits", 1, nothing, Path("unused"), Limits(**limits), known)


def test_a_promise_is_held() -> None:
    assert judged(np.ones(100), min_accuracy=0.7).floor == (0.7, "what was promised")


def test_without_reference_rows_nothing_is_held() -> None:
    assert judged().floor == (None, "")


def test_many_reference_rows_are_held_less_the_tolerance() -> None:
    floor, promise = judged(np.arange(1000) % 10 > 0).floor
    assert floor == pytest.approx(0.8)
    assert promise == "the least to expect from its reference rows"


@pytest.mark.parametrize(("rows", "tolerance"), [(50, 0.1), (1000, 0.02)])
def test_reference_rows_that_were_lucky_hold_nobody_to_their_luck(rows: int, tolerance: float) -> None:
    """An accuracy of 80 % is hardly ever below what is expected of it, however little may be lost."""
    chance = np.random.default_rng(0)
    floors = [judged(chance.random(rows) < 0.8, tolerance=tolerance).floor[0] for _ in range(500)]
    assert np.mean([floor is not None and floor > 0.8 for floor in floors]) <= 0.02
