"""The numbers of a comparison, and the rules that are only judged over all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.model.tally import TOLERANCES, Tally

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((400, 10)).astype(np.float32)


def tally(precision: str = "float32", **rule: float) -> Tally:
    return Tally(TOLERANCES[precision]._replace(**rule), frozenset({"y"}))


def test_quantiles_are_right_to_a_bin() -> None:
    seen = tally(atol=1.0)
    shift = np.full_like(SCORES, 1e-5)
    shift[:8] = 1e-3  # 2 % of the rows
    assert seen.check("y", SCORES.astype(np.float64), SCORES + shift.astype(np.float64), "all") == ""
    numbers = seen.outputs["y"].numbers()
    assert numbers["p50_abs"] == pytest.approx(1e-5, rel=0.13)
    assert numbers["p99_abs"] == pytest.approx(1e-3, rel=0.13)
    assert numbers["max_abs"] == pytest.approx(1e-3)
    assert numbers["n"] == SCORES.size


def test_lower_precision_allows_a_share_of_outliers_and_no_more() -> None:
    for share, fine in ((0.005, True), (0.02, False)):
        seen = tally("bfloat16", cosine=-1.0, top1=0.0)
        spoilt = SCORES.copy()
        spoilt.flat[: int(share * SCORES.size)] += 1.0
        assert seen.check("y", SCORES, spoilt, "all") == ""  # nothing is judged before the end
        assert (seen.verdict() == "") is fine
    assert "only 98.000% of all are within that, where 99.0% must be" in seen.verdict()


def test_a_best_class_that_changes_between_ties_is_no_fault() -> None:
    tie = np.array([[1.0, 1.0 + 1e-7, 0.0]], np.float32)
    seen = tally()
    seen.check("y", tie, tie[:, [1, 0, 2]], "all")
    assert seen.verdict() == ""
    assert (seen.outputs["y"].agreed, seen.outputs["y"].ties, seen.outputs["y"].judged) == (0, 1, 1)


def test_a_best_class_that_changes_otherwise_is_one() -> None:
    """Within the tolerance of elements of 10,000, and yet another answer."""
    large = np.array([[10_000.0, 9_999.0, 0.0]] * 2, np.float32)
    seen = tally(cosine=-1.0, divergence=10.0)
    assert seen.check("y", large, large[:, [1, 0, 2]], "all") == ""
    assert "output 'y' has another best class in 2 of 2 rows, ties apart" in seen.verdict()


def test_another_distribution_is_told() -> None:
    logits = np.array([[8.0, 7.99, 0.0]], np.float32)
    seen = tally(top1=0.0)
    assert seen.check("y", logits, logits + np.array([[0.005, -0.005, 0]], np.float32), "all") == ""
    assert "output 'y' is another distribution: divergence" in seen.verdict()


def test_a_certain_class_is_the_same_distribution_whatever_rounding_makes_of_the_others() -> None:
    want = np.tile([[1.0, 0.0], [0.9999996, 4e-7]], (50, 1))
    got = np.tile([[1.0 + 2e-7, -2e-7], [1.0, 0.0]], (50, 1))
    seen = tally()
    assert seen.check("y", want, got, "all") == ""
    assert seen.outputs["y"].divergence / seen.outputs["y"].diverged < 1e-6


def test_a_direction_that_changes_is_told() -> None:
    small = SCORES * 1e-5  # every difference is within atol
    seen = Tally(TOLERANCES["float32"])
    assert seen.check("y", small, -small, "all") == ""
    assert "output 'y' points elsewhere: cosine -1.000000, where 0.99999 is needed" in seen.verdict()


def test_noise_of_the_reference_widens_the_tolerance_four_times_and_no_further_than_rtol_of_the_largest() -> None:
    want = np.array([[0.0, 100.0]], np.float32)
    for noise, gap, fine in ((0.0, 1e-3, False), (3e-4, 1e-3, True), (3e-4, 2e-3, False), (50.0, 0.2, False)):
        seen = tally(cosine=-1.0)
        seen.heard("y", want, want + np.float32(noise))
        said = seen.check("y", want, want + np.array([[gap, 0]], np.float32), "all")
        assert (said == "") is fine, (noise, gap)


def test_text_and_whole_numbers_have_no_noise() -> None:
    seen = tally()
    seen.heard("y", np.array([1, 2]), np.array([1, 3]))
    assert seen.outputs == {}


@pytest.mark.parametrize(
    ("runs", "constant"),
    [
        ([np.array([[1, 2, 3]] * 4)], True),  # unequal inside a row, and every row the same
        ([np.array([[1, 2, 3]] * 4), np.array([[1, 2, 3]])], True),
        ([np.array([[1, 2, 3], [1, 2, 4]])], False),
        ([np.array([[1, 2, 3]]), np.array([[1, 2, 4]])], False),  # one row at a time
        ([np.array(["cat"] * 3, object)], True),
        ([np.array(["cat", "dog"], object)], False),
        ([np.array([[1, 2]]), np.array([[1, 2, 3]])], True),  # an input of another length
        ([np.array([[1, 2]]), np.array([[1, 2, 3], [1, 2, 4]])], False),
    ],
)
def test_an_exact_output_varies_only_where_its_rows_do(runs: list[Any], constant: bool) -> None:
    seen = tally()
    for answer in runs:
        assert seen.check("y", answer, answer.copy(), "all") == ""
    assert (seen.constant() == ["y"]) is constant
