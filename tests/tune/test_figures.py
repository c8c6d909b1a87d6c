"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from modelkeep.tune.figures import milliseconds, rate


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (16234.9, "16,230"),
        (1_234_567.0, "1,235,000"),
        (208.71, "208.7"),
        (1080, "1,080"),
        (3.14159, "3.142"),
        (0, "0"),
    ],
)
def test_a_rate_has_four_digits_and_no_power_of_ten(value: float, told: str) -> None:
    assert rate(value) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.000201, "0.201 ms"), (2.77123, "2,770 ms"), (0.0, "0 ms"), (0.0192, "19.2 ms")]
)
def test_milliseconds_have_three_digits_and_no_power_of_ten(seconds: float, told: str) -> None:
    assert milliseconds(seconds) == told
