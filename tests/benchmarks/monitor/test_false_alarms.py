"""What is counted as a false alarm, and as a delay."""

from __future__ import annotations

import false_alarms
import pytest
from false_alarms import CAP, QUIET, Setting, delays, first_alarm, share, table

SMALL = Setting(features=2, rows=2000)


def test_a_quiet_stream_has_no_alarm_and_a_large_shift_one_soon_after_it_begins() -> None:
    assert first_alarm(SMALL, (0, 0), 0.0, 20_000, 1000) is None
    waited = first_alarm(SMALL, (0, 0), 0.4, 5000, 16)
    assert waited is not None
    assert 0 < waited < 1000


def test_an_alarm_before_the_change_is_told_as_one() -> None:
    hasty = Setting(features=2, rows=2000, every=16.0)
    waited = first_alarm(hasty, (1, 0), 0.4, 5000, 16)
    assert waited is not None
    assert -QUIET < waited < 1000


def test_a_share_has_its_interval_and_n() -> None:
    assert share([None] * 1000) == "0.0% (0.0% to 0.4% of 1,000)"
    assert share([5, None]).startswith("50.0% (")


def test_delays_are_the_median_and_what_nine_of_ten_need() -> None:
    assert delays([100, 200, 300, 400, 500, 600, 700, 800, 900, 5000]) == "550 (900)"
    assert delays([100, 200, None]) == f"200 ({CAP:,}), 1 none"
    assert delays([100, None, None]) == f"2 of 3 none in {CAP:,}"


def test_a_table_has_a_line_a_detector_and_a_column_a_shift() -> None:
    lines = table({"one": {0.0: [None], 2.0: [7]}}, delays).splitlines()
    assert lines[0] == "| detector | nothing moves | 2× tolerance |"
    assert lines[2] == f"| one | 1 of 1 none in {CAP:,} | 7 (7) |"


def test_the_strict_budget_gives_a_hundredth_of_the_streams_an_alarm_at_most() -> None:
    assert false_alarms.LONG / false_alarms.STRICT.every == pytest.approx(0.01)
