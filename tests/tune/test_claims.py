"""What may be claimed of how many measurements: LoadGen's numbers, and intervals that hold as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from modelkeep.tune import claims


def test_loadgens_own_numbers() -> None:
    """mlcommons/inference, early stopping: 64 for p90 and 662 for p99; 459 where none lies above."""
    assert [claims.least(share) for share in (0.5, 0.9, 0.99)] == [11, 64, 662]
    assert claims.may_miss(458, 0.99) == -1
    assert claims.may_miss(459, 0.99) == 0
    assert claims.may_miss(662, 0.99) == 1


@pytest.mark.parametrize("n", [700, 5_000, 100_000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_as_many_as_the_binomial_allows(n: int, share: float) -> None:
    binom = pytest.importorskip("scipy.stats").binom
    t = claims.may_miss(n, share)
    assert binom.cdf(t, n, 1 - share) <= 0.01 < binom.cdf(t + 1, n, 1 - share)


def test_a_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = -np.log(0.01)  # p99 of the exponential distribution
    bounds = [claims.at_most(rng.exponential(size=1000), 0.99) for _ in range(1000)]
    held = np.mean([bound is not None and bound >= truth for bound in bounds])
    assert held >= 0.98
    assert np.median([bound or 0 for bound in bounds]) < 1.5 * truth  # and says something


def test_a_broken_promise_is_sure_or_not() -> None:
    assert not claims.breaks(0, 1000, 0.99)
    assert not claims.breaks(18, 1000, 0.99)
    assert claims.breaks(19, 1000, 0.99)
    # from 3 to 18 of 1,000 nothing is sure
    assert claims.may_miss(1000, 0.99) == 2


def test_percentiles_are_claimed_or_not() -> None:
    few = claims.percentiles(np.linspace(0.001, 0.1, 100))
    assert few["p99"] == {"value": None, "at_most": None, "n": 100, "needs": 662}
    assert few["p90"]["value"] == pytest.approx(0.0901, rel=1e-3)
    assert few["p90"]["value"] < few["p90"]["at_most"] <= 0.1
    many = claims.percentiles(np.linspace(0.001, 0.1, 1000))
    assert many["p99"]["value"] < many["p99"]["at_most"]
    assert claims.percentiles([])["p50"]["value"] is None


@pytest.mark.parametrize(("n", "spare"), [(0, -1), (5, -1), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2)])
def test_the_sign_tests_interval(n: int, spare: int) -> None:
    found = claims.median([float(v) for v in range(n)][::-1])
    if spare < 0:
        assert (found.low, found.high) == (None, None)
        assert f"interval not claimed: {n} rounds, 6 needed" in found.text
    else:
        assert (found.low, found.high) == (spare, n - 1 - spare)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        found = claims.median(rng.exponential(size=9).tolist())
        assert found.low is not None
        assert found.high is not None
        held += found.low <= np.log(2) <= found.high
    assert held / 2000 >= 0.94
    assert claims.median([2.0] * 6).text == "2.00 (2.00 to 2.00, n = 6)"
