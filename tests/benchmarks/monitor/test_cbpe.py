"""The estimate is held against the truth, and labels tell when it no longer holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cbpe import chances, level, mean_error, real

from modelkeep.monitor.estimated import Calibration


def answered(n: int, seed: int, honest: bool = True) -> tuple[Any, Any]:
    """Scores of two classes and the truth, which comes true as often as they say, or only two thirds as often."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1.0, n)
    best = rng.integers(0, 2, n)
    right = rng.random(n) < (sure if honest else 0.65 * sure)
    scores = np.where(np.arange(2) == best[:, None], sure[:, None], 1 - sure[:, None])
    return scores, np.where(right, best, 1 - best)


def calibration() -> Calibration:
    scores, truth = answered(5000, 0)
    return Calibration(scores.max(axis=1), scores.argmax(axis=1) == truth)


def test_while_the_scores_are_honest_the_estimate_is_close_and_nothing_is_found() -> None:
    found = level(calibration(), 0.0, [answered(1000, seed) for seed in (1, 2)])
    assert found.error("accuracy") < 3
    assert found.broken_after is None
    assert found.labels == 2000


def test_scores_that_claim_too_much_are_found_out_by_labels() -> None:
    found = level(calibration(), 0.5, [answered(1000, seed, honest=False) for seed in (3, 4)])
    assert found.error("accuracy") > 10
    assert found.broken_after is not None
    assert found.broken_after < 1000


def test_the_real_metrics() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    assert real(scores, np.array([0, 1, 1, 1])) == {
        "accuracy": 0.75,
        "f1": pytest.approx((2 / 3 + 4 / 5) / 2),
        "auc": 1.0,
    }


def test_logits_become_probabilities_and_errors_a_mean() -> None:
    assert chances(np.array([[1000.0, 1000.0, -1000.0]])).tolist() == [[0.5, 0.5, 0.0]]
    assert mean_error([0.5, 0.7], [0.6, 0.5]) == pytest.approx(0.15)
