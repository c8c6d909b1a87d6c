"""The race: who is beaten, who is halved, and which way is up."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.tune import halving
from modelkeep.tune.halving import Promise, Race, strengths, student
from modelkeep.tune.rounds import Entrant, Rounds, Window
from modelkeep.tune.space import Space
from modelkeep.types import ServeConfig

Measuring = Callable[..., Rounds]


def entrant(number: int) -> Entrant:
    return Entrant(ServeConfig(threads=number))


def speeds(lab: Any, *given: float) -> list[Entrant]:
    """Entrants by requests a second, numbered from 1."""
    lab.speed = lambda config, of: given[config.threads - 1]
    return [entrant(n + 1) for n in range(len(given))]


def race(one: Rounds, *, p99: float = 0.05, throughput: float = 0.0, seconds: float = 1.0) -> Race:
    return Race(one, Promise(p99, throughput), seconds)


def halve(one: Race, entrants: list[Entrant]) -> list[int]:
    return [e.config.threads or 0 for e in asyncio.run(one.halve(entrants))]


def test_the_fastest_are_left_and_the_field_is_halved(lab: Any, measuring: Measuring) -> None:
    entrants = speeds(lab, 1000, 900, 950, 1050, 1100, 980, 970, 960)
    one = race(measuring())
    assert halve(one, entrants) == [5, 4]
    counts = [len(one.rounds.windows[e]) for e in entrants]
    assert counts == [2, 1, 1, 3, 3, 2, 1, 1]
    assert sum("halved" in why for why in one.fate.values()) == 6


def test_one_far_behind_is_beaten_at_the_first_look(lab: Any, measuring: Measuring) -> None:
    one = race(measuring())
    assert halve(one, speeds(lab, 1000, 100, 90, 80, 70, 60)) == [1]
    assert len(lab.windows) == 6
    assert all(why.startswith("beaten: at most 0.") for why in one.fate.values())


def test_with_one_left_nothing_more_is_measured(lab: Any, measuring: Measuring) -> None:
    assert halve(race(measuring()), speeds(lab, 1000)) == [1]
    assert len(lab.windows) == 1


def test_noise_does_not_beat_anybody(lab: Any, measuring: Measuring) -> None:
    """Equal settings on a noisy machine: over 100 races hardly one claims that a setting was beaten."""
    rng = np.random.default_rng(0)
    wrong = 0
    for seed in range(100):
        lab.mood = lambda number: float(np.exp(rng.normal(0, 0.1)))
        one = race(measuring(seed=seed))
        halve(one, speeds(lab, *[1000.0] * 8))
        wrong += any("beaten" in why for why in one.fate.values())
    assert wrong <= 100 * 0.05


def test_moods_that_all_share_do_not_matter(lab: Any, measuring: Measuring) -> None:
    """The machine gets slower and slower; ratios within rounds still tell who is best."""
    lab.mood = lambda number: 0.7 ** ((number - 1) // 4)
    one = race(measuring())
    assert halve(one, speeds(lab, 1000, 1300, 1100, 1200))[0] == 2
    ranked = one.ranked()
    assert ranked[0] == entrant(2)
    assert one.strength(entrant(2)) - one.strength(entrant(4)) == pytest.approx(math.log(1300 / 1200), abs=0.01)


def test_the_promise_comes_before_the_throughput(lab: Any, measuring: Measuring) -> None:
    entrants = speeds(lab, 1000, 9000, 1100)
    lab.latency = lambda config, of: 0.06 if config.threads == 2 else 0.01
    one = race(measuring())
    halve(one, entrants)
    assert [e.config.threads for e in one.ranked()] == [3, 1, 2]
    assert one.lacks(entrant(2)) == "p99 60 ms instead of 50 ms"
    assert one.lacks(entrant(3)) == ""


def test_a_throughput_may_be_promised_too(lab: Any, measuring: Measuring) -> None:
    one = race(measuring(), throughput=1050)
    halve(one, speeds(lab, 1000, 1100))
    assert one.lacks(entrant(1)) == "1,000 requests/s instead of 1,050"
    assert one.lacks(entrant(2)) == ""


def test_where_none_keeps_it_nobody_is_beaten_and_the_nearest_is_first(lab: Any, measuring: Measuring) -> None:
    entrants = speeds(lab, 1000, 9000, 100)
    lab.latency = lambda config, of: {1: 0.08, 2: 0.09, 3: 0.06}[config.threads]
    one = race(measuring())
    assert halve(one, entrants) == [3, 1]
    assert not any("beaten" in why for why in one.fate.values())


def test_when_the_time_is_up_the_best_so_far_are_left(lab: Any, measuring: Measuring) -> None:
    entrants = speeds(lab, 1000, 1010, 1020, 1030)
    assert halve(race(measuring(end=lab.clock.now + 2.5)), entrants)
    assert len(lab.windows) == 3


# ── uphill ───────────────────────────────────────────────────────────────────────────────────────────────────────────

HILL = Space((ServeConfig(threads=1, max_batch=8),), (1, 2, 4, 8, 16, 32), (0.0, 0.001, 0.002, 0.005))


def climb(lab: Any, one: Race, speed: Callable[[ServeConfig], float]) -> ServeConfig:
    lab.speed = lambda config, of: speed(config)
    start = Entrant(HILL.arms[0])
    asyncio.run(one.rounds.measure([start], one.seconds))
    return asyncio.run(one.climb(start, HILL)).config


@pytest.mark.parametrize(("best", "batch"), [(32, 32), (16, 16), (8, 8), (2, 2), (1, 1)])
def test_it_steps_up_or_down_to_the_best_batch(lab: Any, measuring: Measuring, best: int, batch: int) -> None:
    found = climb(lab, race(measuring()), lambda c: 1000 / (1 + abs(math.log2(c.max_batch / best))))
    assert (found.max_batch, found.max_wait) == (batch, 0.0)


def test_then_to_the_best_wait(lab: Any, measuring: Measuring) -> None:
    found = climb(lab, race(measuring()), lambda c: 1000 - abs(c.max_wait - 0.002) * 1e5 - abs(c.max_batch - 16))
    assert (found.max_batch, found.max_wait) == (16, 0.002)


def test_a_step_that_gains_nothing_is_not_taken(lab: Any, measuring: Measuring) -> None:
    assert climb(lab, race(measuring()), lambda c: 1000.0) == HILL.arms[0]
    assert len(lab.windows) <= 1 + 3 * 2 * halving.LONG


def test_a_step_that_breaks_the_promise_is_not_taken(lab: Any, measuring: Measuring) -> None:
    lab.latency = lambda config, of: 0.06 if config.max_batch > 8 else 0.01
    assert climb(lab, race(measuring()), lambda c: 100.0 * c.max_batch).max_batch == 8


def test_a_step_towards_the_promise_is_taken(lab: Any, measuring: Measuring) -> None:
    lab.latency = lambda config, of: 0.01 * config.max_batch
    assert climb(lab, race(measuring()), lambda c: 1000.0 + c.max_batch).max_batch == 4


# ── the statistics ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tail", "freedom", "t"), [(0.025, 4, 2.776), (0.05, 10, 1.812), (0.001, 5, 5.893), (0.0005, 20, 3.850)]
)
def test_students_t(tail: float, freedom: int, t: float) -> None:
    assert student(tail, freedom) == pytest.approx(t, rel=0.002)


def test_strengths_do_not_favour_who_met_the_machine_in_a_good_mood() -> None:
    def window(e: Entrant, rate: float) -> Window:
        return Window(e, round(rate), 1.0, (0.01,))

    a, b, c = (entrant(n) for n in (1, 2, 3))
    windows = {
        a: [(1, window(a, 1000)), (2, window(a, 500))],
        b: [(1, window(b, 1100)), (2, window(b, 550))],
        c: [(2, window(c, 600))],
    }
    found = strengths(windows)
    assert found[b] - found[a] == pytest.approx(math.log(1.1), abs=1e-6)
    assert found[c] - found[a] == pytest.approx(math.log(1.2), abs=1e-6)
