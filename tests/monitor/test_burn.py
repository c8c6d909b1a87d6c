"""Burn rates: the windows, the pairs, and what is left of the budget."""

from __future__ import annotations

import pytest

from modelkeep.monitor.burn import NAMES, PAIRS, PERIOD, Minute, burn

NOW = 1e9


def minutes(*spans: tuple[float, float, float], rate: int = 100) -> list[Minute]:
    """``rate`` requests a minute from so many seconds before NOW to so many, with a share that failed."""
    found = []
    for begin, end, share in spans:
        at = begin
        while at > end:
            found.append(Minute(NOW - at, rate, round(rate * share)))
            at -= 60
    return found


def test_nothing_known() -> None:
    told = burn([], NOW, 0.999)
    assert set(told.rates.values()) == {0.0}
    assert (told.left, told.fast) == (1.0, None)
    assert told.describe() == "objective 99.900%: 100% of the error budget is left; burn rates unknown"


def test_more_than_the_budget_is_said_in_words() -> None:
    told = burn(minutes((PERIOD, 0, 0.04)), NOW, 0.99)
    assert told.describe().startswith("objective 99.000%: the error budget is spent 4.0 times over; burn rates")


def test_a_rate_of_one_spends_the_budget_in_its_period() -> None:
    told = burn(minutes((PERIOD, 0, 0.01)), NOW, 0.99)
    assert all(rate == pytest.approx(1.0) for rate in told.rates.values())
    assert told.left == pytest.approx(0.0, abs=1e-9)
    assert burn(minutes((PERIOD, 0, 0.02)), NOW, 0.99).fast == PAIRS[3], "six hours and three days at 1 or more"


def test_each_window_counts_its_own_time() -> None:
    told = burn(minutes((86400, 1800, 0.0), (1800, 0, 0.2)), NOW, 0.99)
    assert told.rates["5m"] == pytest.approx(20)
    assert told.rates["30m"] == pytest.approx(20, rel=0.05)
    assert told.rates["1h"] == pytest.approx(10, rel=0.05)
    assert told.rates["1d"] == pytest.approx(20 * 1800 / 86400, rel=0.05)
    assert told.requests["1h"] == pytest.approx(6000, abs=101)


def test_minutes_that_are_still_to_come_count_in_no_window() -> None:
    """Where a clock was set back, all failed in what it showed before."""
    ahead = [Minute(NOW + 86400 + 60 * at, 100, 100) for at in range(10)]
    told = burn([*ahead, *minutes((86400, 0, 0.0))], NOW, 0.99)
    assert set(told.rates.values()) == {0.0}
    assert told.left == 1.0


@pytest.mark.parametrize(("at", "pair"), list(enumerate(PAIRS)))
def test_a_pair_needs_both_of_its_windows(at: int, pair: tuple[int, int, float, str]) -> None:
    short, long, factor, _ = pair
    share = min(factor * 0.001 * 1.2, 1.0)
    both = burn(minutes((long, 0, share), rate=10_000), NOW, 0.999)
    assert both.fast is not None
    assert PAIRS.index(both.fast) <= at
    over = burn(minutes((long, short * 2, share), (short * 2, 0, 0.0), rate=10_000), NOW, 0.999)
    assert over.fast is None or PAIRS.index(over.fast) > at, "it has ended"
    begun = burn(minutes((3 * 86400, 60, 0.0), (60, 0, share), rate=10_000), NOW, 0.999)
    assert begun.fast is None, "one bad minute is no reason to wake anybody"


def test_what_a_report_holds() -> None:
    numbers = burn(minutes((300, 0, 0.5)), NOW, 0.999).numbers()
    assert set(numbers["burn"]) == set(NAMES.values())
    assert numbers["worth"] == "page"
    assert numbers["budget_left"] == pytest.approx(1 - 500)
