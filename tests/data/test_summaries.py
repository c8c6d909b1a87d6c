"""Summaries, projections and scores hold what their names say, whatever the numbers are."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from modelkeep.data.summaries import (
    MAX_VALUES,
    PROJECTIONS,
    SUMMARIES,
    are_probabilities,
    of_scores,
    places,
    projected,
    summaries,
)


def named(values: object, sizes: object = None) -> dict[str, float]:
    """The summaries of one row."""
    found = summaries(np.array([values], dtype=np.float32), None if sizes is None else np.array([sizes]))
    return dict(zip(SUMMARIES, found[0].tolist(), strict=True))


class TestSummaries:
    def test_known_values(self) -> None:
        found = named([0, 3, 4, 0])
        assert found["mean"] == pytest.approx(7 / 4)
        assert found["std"] == pytest.approx(np.std([0, 3, 4, 0]))
        assert (found["norm"], found["min"], found["max"]) == (pytest.approx(5), 0, 4)
        assert (found["share of zeros"], found["share of NaN"], found["constant"]) == (0.5, 0, 0)

    def test_with_missing_values(self) -> None:
        found = named([0, 3, 4, np.nan])
        assert found["mean"] == pytest.approx(7 / 3)
        assert found["std"] == pytest.approx(np.std([0, 3, 4]))
        assert (found["norm"], found["share of zeros"], found["share of NaN"]) == (5, 0.25, 0.25)

    def test_one_missing_value_changes_no_other_row(self) -> None:
        rows = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
        whole = summaries(rows)
        rows[7, 3] = np.nan
        np.testing.assert_allclose(np.delete(summaries(rows), 7, 0), np.delete(whole, 7, 0), rtol=1e-4, atol=1e-6)

    def test_a_constant_row(self) -> None:
        assert named([2, 2, 2])["constant"] == 1
        assert named([2, 2, np.nan])["constant"] == 1

    def test_rows_that_are_filled_up(self) -> None:
        short, whole = named([1, 2, np.nan, np.nan], sizes=2), named([1, 2])
        assert short == pytest.approx(whole)
        assert named([1, np.nan, np.nan, np.nan], sizes=2)["share of NaN"] == 0.5

    def test_all_missing_and_none_at_all(self) -> None:
        found = named([np.nan, np.nan])
        assert np.isnan(found["mean"])
        assert np.isnan(found["max"])
        assert found["share of NaN"] == 1
        assert np.isnan(summaries(np.empty((2, 0)))).all()

    def test_a_large_mean_does_not_hide_a_small_spread(self) -> None:
        rows = 1000 + np.random.default_rng(1).normal(0, 0.5, (20, 500)).astype(np.float32)
        assert summaries(rows)[:, 1] == pytest.approx(rows.astype(np.float64).std(axis=1), rel=1e-3)

    def test_huge_numbers_and_infinity(self) -> None:
        found = named([3e38, 1e38])
        assert [found[what] for what in ("mean", "std", "norm")] == pytest.approx([2e38, 1e38, np.hypot(3e38, 1e38)])
        assert named([-1e20, 1e20])["std"] == pytest.approx(1e20)
        found = named([np.inf, 1])
        assert (found["mean"], found["min"], found["max"]) == (np.inf, 1, np.inf)


class TestProjections:
    def test_they_keep_distances(self) -> None:
        rows = np.random.default_rng(2).normal(size=(400, 256)).astype(np.float32)
        mean = (projected(rows) ** 2).sum(axis=1).mean() / PROJECTIONS
        assert mean == pytest.approx((rows**2).sum(axis=1).mean() / 256, rel=0.1)

    def test_they_are_the_same_in_every_process(self) -> None:
        code = (
            "import numpy as np; from modelkeep.data.summaries import projected; "
            "print(projected(np.arange(1000, dtype=np.float32)[None]).tolist())"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        here = projected(np.arange(1000, dtype=np.float32)[None])
        np.testing.assert_allclose(np.array(eval(other)), here, rtol=1e-5)

    def test_many_rows_are_as_one(self) -> None:
        rows = np.random.default_rng(3).normal(size=(100, MAX_VALUES)).astype(np.float32)
        np.testing.assert_allclose(projected(rows)[42:43], projected(rows[42:43]), rtol=1e-4, atol=1e-5)

    def test_nan_counts_as_zero(self) -> None:
        rows = np.ones((1, 64), np.float32)
        rows[0, 5] = np.nan
        zero = np.ones((1, 64), np.float32)
        zero[0, 5] = 0
        np.testing.assert_allclose(projected(rows), projected(zero))


class TestPlaces:
    def test_small_rows_are_seen_whole(self) -> None:
        np.testing.assert_array_equal(places(MAX_VALUES), np.arange(MAX_VALUES))

    def test_of_large_rows_everywhere_some(self) -> None:
        found = places(3 * 224 * 224)
        assert len(found) == MAX_VALUES
        assert (np.diff(found) >= 0).all()
        assert 0 <= found[0] < found[-1] < 3 * 224 * 224
        assert np.bincount(found * 8 // (3 * 224 * 224)).min() > 60
        assert np.bincount(found % 224).max() < 30


class TestScores:
    def test_logits_and_probabilities_are_the_same(self) -> None:
        logits = np.random.default_rng(0).normal(size=(20, 5))
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(of_scores(logits), of_scores(chances), atol=1e-9)

    def test_many_rows_are_as_few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logits = np.random.default_rng(0).normal(size=(20, 5)).astype("float32")
        whole = of_scores(logits)
        monkeypatch.setattr("modelkeep.data.summaries.AT_ONCE", 15)
        np.testing.assert_array_equal(of_scores(logits), whole)
        assert of_scores(logits[:0]).shape == (0, 3)

    def test_ends(self) -> None:
        sure, unsure = of_scores(np.array([[1.0, 0, 0, 0], [0.25] * 4]))
        assert sure.tolist() == pytest.approx([0, 1, 0], abs=1e-9)
        assert unsure.tolist() == pytest.approx([0, 0.25, 1])

    def test_huge_logits(self) -> None:
        assert of_scores(np.array([[1e30, -1e30]]))[0].tolist() == [0, 1, 0]

    def test_nan(self) -> None:
        found = of_scores(np.array([[np.nan, 1.0], [3.0, 1.0]]))
        assert np.isnan(found[0]).all()
        assert not np.isnan(found[1]).any()

    def test_what_are_probabilities(self) -> None:
        assert are_probabilities(np.array([[0.2, 0.8], [1.0, 0.0]]))
        assert not are_probabilities(np.array([[0.2, 0.8], [3.0, -2.0]]))
        assert not are_probabilities(np.array([[np.nan, 1.0]]))
