"""The statistics keep their promises: error rates under peeking, coverage, and values known from the literature."""

from __future__ import annotations

from math import comb, exp, log

import numpy as np
import pytest

from modelkeep.evidence import SIGN_TEST_LEAST, Betting, at_most, mean_interval, median_interval, paired_drop, wilson


def share_within(count: int, n: int, most: float) -> bool:
    """Whether a count of n could come of a chance of ``most``, five standard errors allowed."""
    return count / n <= most + 5 * (most * (1 - most) / n) ** 0.5


class TestBetting:
    def test_nothing_seen_is_no_evidence(self) -> None:
        bet = Betting(0.3)
        assert (bet.n, bet.log_e, bet.peak) == (0, 0.0, 0.0)
        assert np.isnan(bet.mean)
        bet.update(np.array([]))
        assert bet.n == 0

    def test_mean_and_n(self) -> None:
        bet = Betting(0.5)
        bet.update(1.0)
        bet.update(np.array([0.0, 0.5]))
        assert bet.n == 3
        assert bet.mean == pytest.approx(0.5)

    def test_one_at_a_time_or_many_is_the_same(self) -> None:
        x = np.random.default_rng(0).random(200)
        many, single = Betting(0.4), Betting(0.4)
        many.update(x)
        for value in x:
            single.update(float(value))
        assert single.log_e == pytest.approx(many.log_e)
        assert single.peak == pytest.approx(many.peak)
        assert many.peak >= many.log_e

    @pytest.mark.parametrize("mean", [0.05, 0.5, 0.9])
    def test_peeking_after_every_observation_keeps_the_error_rate(self, mean: float) -> None:
        rng = np.random.default_rng(1)
        runs, wrong = 400, 0
        for _ in range(runs):
            bet = Betting(mean)
            bet.update((rng.random(400) < mean).astype(float))
            wrong += bet.peak >= log(1 / 0.05)
        assert share_within(wrong, runs, 0.05)

    def test_the_capital_is_fair_at_the_boundary(self) -> None:
        """The exact expectation over all outcomes of 12 coins is 1."""
        p, n = 0.3, 12
        expected = 0.0
        for k in range(n + 1):
            bet = Betting(p)
            bet.update(np.array([1.0] * k + [0.0] * (n - k)))
            expected += comb(n, k) * p**k * (1 - p) ** (n - k) * exp(bet.log_e)
        assert expected == pytest.approx(1.0, rel=1e-9)

    def test_a_mean_above_is_found(self) -> None:
        bet = Betting(0.1)
        bet.update((np.random.default_rng(2).random(150) < 0.4).astype(float))
        assert bet.log_e > log(1000)

    def test_a_mean_below_never_is(self) -> None:
        bet = Betting(0.5)
        bet.update(np.full(5000, 0.2))
        assert bet.peak <= 0.1

    def test_long_streams_do_not_overflow(self) -> None:
        bet = Betting(0.01)
        bet.update(np.ones(20_000))
        assert np.isfinite(bet.log_e)
        assert bet.log_e > 1000

    def test_extreme_hypotheses(self) -> None:
        never, always = Betting(0.0), Betting(1.0)
        never.update(1.0)
        always.update(np.ones(100))
        assert never.log_e > log(1000)
        assert always.log_e <= 0.0

    @pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
    def test_observations_outside_are_refused(self, bad: float) -> None:
        with pytest.raises(ValueError, match=r"an observation lies outside \[0, 1\]"):
            Betting(0.5).update(bad)


class TestMeanInterval:
    def test_no_observations_say_nothing(self) -> None:
        assert mean_interval(np.array([])) == (0.0, 1.0)

    def test_it_holds_the_mean_and_narrows(self) -> None:
        x = (np.random.default_rng(3).random(4000) < 0.9).astype(float)
        widths = []
        for n in (50, 500, 4000):
            low, high = mean_interval(x[:n])
            assert low < 0.9 < high
            assert low <= x[:n].mean() <= high
            widths.append(high - low)
        assert widths[0] > widths[1] > widths[2]
        assert widths[2] < 0.04

    @pytest.mark.parametrize("mean", [0.02, 0.5, 0.95])
    def test_coverage_while_peeking(self, mean: float) -> None:
        rng = np.random.default_rng(4)
        runs, missed = 120, 0
        for _ in range(runs):
            x = (rng.random(256) < mean).astype(float)
            looks = [mean_interval(x[:n]) for n in (2, 4, 8, 16, 32, 64, 128, 256)]
            missed += any(not low <= mean <= high for low, high in looks)
        assert share_within(missed, runs, 0.05)

    def test_counts_stand_for_that_many_observations(self) -> None:
        x = np.repeat([0.0, 0.25, 1.0], [30, 7, 200])
        assert mean_interval([1.0, 0.0, 0.25], counts=[200, 30, 7]) == pytest.approx(mean_interval(x))
        assert mean_interval([0.0, 1.0], counts=[0, 0]) == (0.0, 1.0)

    def test_more_confidence_is_wider(self) -> None:
        x = np.array([0.0, 1.0, 1.0, 0.5] * 30)
        low, high = mean_interval(x, 0.5)
        wide_low, wide_high = mean_interval(x, 0.99)
        assert wide_low < low < high < wide_high

    def test_it_agrees_with_betting(self) -> None:
        """The ends are where the evidence is exactly 2/α."""
        x = np.random.default_rng(5).random(300)
        low, high = mean_interval(x, 0.9)
        from_below, from_above = Betting(low), Betting(1 - high)
        from_below.update(x)
        from_above.update(1 - x)
        assert from_below.log_e == pytest.approx(log(20), abs=1e-3)
        assert from_above.log_e == pytest.approx(log(20), abs=1e-3)

    def test_all_alike(self) -> None:
        low, high = mean_interval(np.ones(200))
        assert high == pytest.approx(1.0)
        assert 0.95 < low < 1.0

    def test_observations_outside_are_refused(self) -> None:
        with pytest.raises(ValueError, match="outside"):
            mean_interval(np.array([0.5, 2.0]))


class TestWilson:
    def test_known_values(self) -> None:
        """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
        for successes, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
            assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)

    def test_ends(self) -> None:
        assert wilson(0, 0) == (0.0, 1.0)
        assert wilson(29, 29)[1] == pytest.approx(1.0)
        assert wilson(29, 29)[0] == pytest.approx(0.8830, abs=5e-5)

    def test_confidence(self) -> None:
        assert wilson(50, 100, 0.99)[0] < wilson(50, 100, 0.9)[0] < 0.5


def tables(n: int, lost: int, won: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with so many lost and won; the others are right in both."""
    base, new = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    new[:lost] = False
    base[lost : lost + won] = False
    return base, new


class TestPairedDrop:
    def test_equal_models(self) -> None:
        drop, upper = paired_drop(*tables(100, 0, 0))
        z2 = 1.6448536269514722**2
        assert drop == 0.0
        assert upper == pytest.approx(z2 / (100 + z2), abs=1e-9)

    @pytest.mark.parametrize(("n", "lost", "won"), [(68, 12, 2), (68, 2, 12), (200, 0, 3), (40, 5, 5)])
    def test_it_is_the_score_test_turned_round(self, n: int, lost: int, won: int) -> None:
        """At the bound, the score with the likelihood maximised by brute force is exactly -z (Tango 1998, eq. 3)."""
        _, upper = paired_drop(*tables(n, lost, won), confidence=0.975)
        q = np.linspace(1e-9, (1 - abs(upper)) / 2, 2_000_001)[:-1] + max(0.0, -upper)
        q = q[q + upper > 0]
        rest = 1 - 2 * q - upper
        likely = lost * np.log(q + upper) + won * np.log(q) + (n - lost - won) * np.log(np.maximum(rest, 1e-300))
        best = q[likely.argmax()]
        score = (lost - won - n * upper) / np.sqrt(n * (2 * best + upper * (1 - upper)))
        assert score == pytest.approx(-1.959964, abs=1e-3)

    def test_a_better_model_has_a_negative_drop(self) -> None:
        drop, upper = paired_drop(*tables(1000, 5, 60))
        assert drop == pytest.approx(-0.055)
        assert drop < upper < -0.03

    def test_coverage(self) -> None:
        rng = np.random.default_rng(6)
        runs, missed = 600, 0
        for _ in range(runs):
            kind = rng.choice(4, size=300, p=[0.85, 0.06, 0.02, 0.07])  # both, lost, won, neither
            base, new = np.isin(kind, (0, 1)), np.isin(kind, (0, 2))
            missed += paired_drop(base, new)[1] < 0.04
        assert share_within(missed, runs, 0.05)

    def test_more_rows_narrow_it(self) -> None:
        assert paired_drop(*tables(2000, 20, 20))[1] < paired_drop(*tables(200, 2, 2))[1]

    def test_no_rows(self) -> None:
        assert paired_drop(np.array([], dtype=bool), np.array([], dtype=bool)) == (0.0, 1.0)

    def test_everything_lost(self) -> None:
        drop, upper = paired_drop(np.ones(30, dtype=bool), np.zeros(30, dtype=bool))
        assert drop == 1.0
        assert upper == pytest.approx(1.0)

    def test_different_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match="3 and 2 rows are not pairs"):
            paired_drop(np.ones(3, dtype=bool), np.ones(2, dtype=bool))


def test_evidence_as_a_chance() -> None:
    assert at_most(log(100)) == pytest.approx(0.01)
    assert at_most(-5.0) == 1.0
    assert at_most(float("inf")) == 0.0


@pytest.mark.parametrize(("n", "spare"), [(6, 0), (8, 0), (9, 1), (12, 2)])
def test_the_median_lies_between_order_statistics(n: int, spare: int) -> None:
    values = [float(v) for v in range(n)][::-1]
    assert median_interval(values) == ((n - 1) / 2, spare, n - 1 - spare)
    assert median_interval(values[: SIGN_TEST_LEAST - 1])[1:] == (None, None)
