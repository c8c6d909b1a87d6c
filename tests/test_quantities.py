"""Times and sizes are written so that a person takes them in."""

from __future__ import annotations

import pytest

from modelkeep import quantities


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((5e-6, "5 µs"), (0.00123, "1.23 ms"), (0.5, "500 ms"), (2.0, "2 s"), (61.0, "61 s")),
        *((0.0009996, "1 ms"), (0.9996, "1 s"), (1234.5, "1,234 s")),
    ],
)
def test_seconds_are_written(value: float, text: str) -> None:
    assert quantities.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((12, "12 B"), (1234, "1.23 kB"), (5e6, "5 MB"), (4.2e12, "4.2 TB"), (218, "218 B")),
        *((999.6e6, "1 GB"), (999.4e6, "999 MB")),
    ],
)
def test_sizes_are_written(value: float, text: str) -> None:
    assert quantities.size(value) == text


def test_one_is_no_more_than_one() -> None:
    assert [quantities.counted(n, "row") for n in (0, 1, 2, 1797)] == ["0 rows", "1 row", "2 rows", "1,797 rows"]


def test_a_step_is_worth_a_line_as_it_begins_and_every_ten_seconds() -> None:
    clock = iter([0.0, 9.0, 11.0, 12.0, 13.0])
    lines = quantities.Lines(lambda: next(clock))
    told = [lines.of(done, 2, f"{done}") for done in (0, 0.2, 0.4, 0.6, 1)]
    assert told == ["step 1 of 2: 0", None, "step 1 of 2: 0.4", None, "step 2 of 2: 1"]


def test_a_figure_has_four_digits_and_no_power_of_ten_where_it_is_large() -> None:
    found = [quantities.figure(value) for value in (0.000123456, 2.0, 70710.7, -12345678.9, 9999.6, 1e-9, float("inf"))]
    assert found == ["0.0001235", "2", "70,711", "-12,345,679", "10,000", "1e-09", "inf"]
