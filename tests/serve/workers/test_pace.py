"""The pace that deadlines are judged by."""

from __future__ import annotations

import pytest

from modelkeep.serve.workers.pace import Pace


def test_pace_learns_a_cost_per_run_and_per_row() -> None:
    pace = Pace()
    for rows in (1, 8, 32, 4, 16):
        pace.observe(rows, 0.010 + 0.002 * rows)
    assert pace.run(10) == pytest.approx(0.030, rel=1e-6)
    assert pace.run(64) == pytest.approx(0.138, rel=1e-6)


def test_pace_is_optimistic_where_it_does_not_know() -> None:
    pace = Pace()
    assert pace.run(32) == 0.0
    assert pace.wait(100, 100, 32, 1) == 0.0
    pace.observe(1, 0.2)
    assert pace.run(32) == pytest.approx(0.2)  # larger batches were never seen: no cost per row is assumed


def test_pace_never_extrapolates_below_nothing() -> None:
    pace = Pace()
    for rows, seconds in ((1, 0.001), (2, 0.1)):
        pace.observe(rows, seconds)
    assert pace.run(0) == 0.0
    assert pace.run(4) > 0


def test_pace_forgets() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(4, 1.0)
    for _ in range(100):
        pace.observe(4, 0.1)
    assert pace.run(4) == pytest.approx(0.1, rel=0.1)


def test_who_shares_the_last_run_waits_for_those_before_it_only() -> None:
    pace = Pace()
    pace.observe(4, 0.2)
    assert [round(pace.wait(n, n, 4, 1), 6) for n in (1, 3, 4, 7, 8)] == [0.0, 0.0, 0.2, 0.2, 0.4]


def test_the_wait_counts_batches_and_workers() -> None:
    pace = Pace()
    pace.observe(4, 0.2)
    assert pace.wait(40, 40, 4, 1) == pytest.approx(2.0)
    assert pace.wait(40, 40, 4, 2) == pytest.approx(1.0)
    assert pace.wait(40, 4, 4, 1) == pytest.approx(0.8)  # requests of 10 rows share no run of 4
