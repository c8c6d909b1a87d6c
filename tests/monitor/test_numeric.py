"""RMSE and MAE: their values, intervals that hold while one looks again and again, and a promise that is broken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from modelkeep.monitor import numeric as module
from modelkeep.monitor.numeric import BURN_IN, Numeric


def numeric(errors: object, **given: float) -> Numeric:
    """One request for each error."""
    made = Numeric(**given)
    for at, error in enumerate(np.asarray(errors, dtype=float)):
        made.add(np.array([error]), np.array([0.0]), float(at))
    return made


def test_values_in_the_unit_of_the_answers() -> None:
    measured = numeric([3.0, -4.0]).measured()
    assert measured["mae"] == (3.5, None, None, 2)
    assert measured["rmse"].value == pytest.approx(np.sqrt(12.5))


def test_nothing_yet() -> None:
    assert Numeric().measured() == {}
    assert Numeric().finding() is None


def test_answers_that_are_not_finite_count_for_none() -> None:
    made = numeric([1.0])
    made.add(np.array([np.nan]), np.array([1.0]), 0.0)
    assert len(made) == 1


def test_rows_of_one_request_are_one_observation() -> None:
    made = Numeric()
    made.add(np.array([1.0, 2.0, 3.0]), np.zeros(3), 0.0)
    assert made.measured()["mae"] == (2.0, None, None, 1)


class TestSeveral:
    """Numbers of different sizes: errors of 1 and of 10."""

    def make(self, count: int, seed: int = 0) -> tuple[Numeric, Any, Any]:
        rng = np.random.default_rng(seed)
        answers = rng.normal(0, 1, (count, 2, 3))
        truth = answers + rng.normal(0, [1.0, 10.0, 10.0], answers.shape)
        made = Numeric()
        for at, (said, true) in enumerate(zip(answers, truth, strict=True)):
            made.add(said, true, float(at))
        return made, answers.reshape(-1, 3), truth.reshape(-1, 3)

    def test_they_are_what_scikit_learn_makes_of_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for most in (10_000, 30):
            monkeypatch.setattr(module, "MAX_VALUES", most)
            made, answers, truth = self.make(100)
            measured, rows = made.measured(), 2 * len(made)
            assert len(made) == (100 if most > 100 else 40), "the newest 30 to 60"
            known = truth[-rows:], answers[-rows:]
            assert measured["rmse"].value == pytest.approx(metrics.root_mean_squared_error(*known))
            assert measured["mae"].value == pytest.approx(metrics.mean_absolute_error(*known))
            assert measured["rmse"].value < np.sqrt(metrics.mean_squared_error(*known)) - 0.5, "no root of the mean"

    def test_the_intervals_hold_the_true_value(self) -> None:
        made, _, _ = self.make(600)
        rmse, mae = made.measured()["rmse"], made.measured()["mae"]
        assert mae.low < 7 * np.sqrt(2 / np.pi) < mae.high
        assert rmse.low == mae.low
        assert rmse.low < 7 < rmse.high
        assert rmse.high - rmse.low < 6

    def test_one_that_is_not_finite_counts_for_none(self) -> None:
        made, _, _ = self.make(10)
        made.add(np.array([[1.0, np.nan, 1.0]]), np.zeros((1, 3)), 0.0)
        assert (len(made), made.void) == (10, 1)


def test_intervals_hold_the_true_value_while_looking_again_and_again() -> None:
    rng = np.random.default_rng(0)
    missed, last = 0, None
    for _ in range(60):
        made = Numeric()
        errors = rng.normal(0, 10, 400)
        wrong = False
        for at, error in enumerate(errors, start=1):
            made.add(np.array([error]), np.array([0.0]), 0.0)
            if at > BURN_IN and at % 80 == 0:
                last = made.measured()
                rmse, mae = last["rmse"], last["mae"]
                wrong |= not rmse.low <= 10 <= rmse.high or not mae.low <= 10 * np.sqrt(2 / np.pi) <= mae.high
        missed += wrong
    assert missed < 9, "two metrics at 95 %"
    assert last is not None
    assert 0 < last["mae"].high - last["mae"].low < 5


def test_once_an_error_was_cut_there_is_no_upper_end() -> None:
    """An interval that ends where the value is would claim that no error is larger."""
    errors = np.r_[np.full(40, 1.0), np.full(400, 50.0)]
    for one in numeric(errors).measured().values():
        assert one.low is not None
        assert 1.0 < one.low < one.value
        assert one.high is None
        assert f"({one.low:.3f} or more, n 440)" in one.describe()


def test_exact_answers() -> None:
    assert numeric(np.zeros(60)).measured()["rmse"] == (0.0, None, None, 60)


class TestPromise:
    def test_what_was_promised_is_no_finding(self) -> None:
        rng = np.random.default_rng(1)
        for _ in range(10):
            errors = rng.exponential(1.0, 3000)
            assert numeric(errors, worst=1.0).finding() is None

    def test_larger_errors_are_found(self) -> None:
        rng = np.random.default_rng(2)
        errors = np.r_[rng.exponential(0.8, 800), rng.exponential(2.5, 400)]
        found = numeric(errors, worst=1.0).finding()
        assert found is not None
        assert (found.kind, found.subject) == ("quality", "error")
        assert found.since is not None
        assert 700 <= found.since <= 860
        assert found.evidence["mae"] > 2
        assert "labelled requests; what was promised is 1" in found.why

    def test_one_wild_error_is_none(self) -> None:
        assert numeric(np.r_[np.full(200, 0.5), 1e9, np.full(20, 0.5)], worst=1.0).finding() is None

    def test_none_is_judged_without_one(self) -> None:
        assert numeric(np.full(500, 1e6)).finding() is None
