"""Where more requests come than can be kept, a share of them is, that follows the load."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from modelkeep.data.sampler import FEWER, Sampler, mark_of

FIRST, SECOND = 1, 2


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)


def sampler_of(*rates: float, busy: float = 0.0) -> Sampler:
    """Of a thread that is busy for so large a part of the seconds, as each of which the sampler asks once."""
    return Sampler(*rates, ran=map(busy.__mul__, itertools.count()).__next__)


def came(sampler: Sampler, n: int, began: float, each: float) -> list[int]:
    """Who kept each of so many requests, asked as serve.plane.asking does."""
    found = []
    for now in (began + i * each for i in range(n)):
        sampler.left -= 1
        found.append(0 if sampler.left and now < sampler.due else sampler.choose(now))
    return found


def kept(sampler: Sampler, n: int, began: float, each: float) -> list[bool]:
    """Whether the first reader kept each."""
    return [bool(readers & FIRST) for readers in came(sampler, n, began, each)]


def test_all_are_kept_up_to_the_rate() -> None:
    assert all(kept(sampler_of(100.0), 500, 1000, 1 / 100))


def test_beyond_it_a_share_that_follows_the_load() -> None:
    sampler = sampler_of(100.0)
    found = kept(sampler, 40_000, 1000, 1 / 4000)
    by_second = [sum(found[at : at + 4000]) for at in range(0, 40_000, 4000)]
    assert by_second[0] == 500, "a first rush"
    assert all(8 <= n <= 50 for n in by_second[2:]), "fewer than the rate, for the load is heavy"
    calm = kept(sampler, 500, 1020, 1 / 50)
    assert all(calm[60:]), "once the load is gone, all of them again"


def test_up_to_a_heavy_load_the_rate_is_kept() -> None:
    found = kept(sampler_of(100.0), 9000, 1000, 1 / 900)
    assert all(60 <= sum(found[at : at + 900]) <= 140 for at in range(1800, 9000, 900))


def test_however_heavy_the_load_a_part_of_the_rate_is_kept() -> None:
    found = kept(sampler_of(1000.0), 60_000, 1000, 1 / 20_000)
    assert sum(found[40_000:]) == pytest.approx(FEWER * 1000, rel=0.5)


@pytest.mark.parametrize(("busy", "part"), [(0.5, 1.0), (0.75, 0.5), (0.9, 0.2), (1.0, FEWER), (1.2, FEWER)])
def test_the_busier_the_thread_the_fewer_are_kept(busy: float, part: float) -> None:
    found = kept(sampler_of(400.0, busy=busy), 90_000, 1000, 1 / 900)
    assert sum(found[9000:]) / 90 == pytest.approx(part * 400, rel=0.1, abs=4)


def test_however_busy_what_comes_seldom_is_kept() -> None:
    assert all(kept(sampler_of(400.0, busy=1.0), 100, 1000, 1 / (FEWER * 400)))


def test_the_rushes_that_follow_soon_bring_fewer() -> None:
    sampler = sampler_of(100.0)
    rushes = [sum(kept(sampler, 2000, 1000 + 10 * n, 1 / 4000)) for n in range(3)]
    assert rushes[0] == 500
    assert all(100 <= n <= 350 for n in rushes[1:]), "ten calm seconds give one second's worth back"
    assert sum(kept(sampler, 2000, 2000, 1 / 4000)) == 500, "a long calm gives back all"


def test_shares_are_nested_and_each_keeps_to_its_rate() -> None:
    sampler = sampler_of(800.0, 200.0)
    late = came(sampler, 40_000, 1000, 1 / 4000)[20_000:]
    assert 140 <= sum(bool(who & FIRST) for who in late) / 5 <= 260
    assert 30 <= sum(bool(who & SECOND) for who in late) / 5 <= 75
    assert all(who & FIRST for who in late if who), "who keeps fewer keeps some of those that others keep"


def test_each_request_has_the_same_chance() -> None:
    sampler = sampler_of(1000.0)
    came(sampler, 40_000, 1000, 1 / 20_000)
    found = np.flatnonzero(kept(sampler, 400_000, 1002, 1 / 20_000))
    gaps = np.diff(found)
    mean = np.mean(gaps)
    assert np.std(gaps) == pytest.approx(mean, rel=0.15), "as of a geometric distribution"
    assert np.mean(gaps <= mean / 4) == pytest.approx(1 - np.exp(-1 / 4), rel=0.2), "also soon after one that was kept"


def test_what_is_passed_over_is_counted() -> None:
    sampler = sampler_of(100.0, 0.0)
    found = came(sampler, 12_345, 1000, 1 / 4000)
    assert sampler.came == 12_345
    assert sampler.passed(0) == 12_345 - sum(bool(who & FIRST) for who in found)
    assert sampler.passed(1) == 12_345


def test_no_rate_is_no_limit_and_none_is_none() -> None:
    for rate, n in ((float("inf"), 3000), (0.0, 0)):
        assert sum(kept(sampler_of(rate), 3000, 1000, 1 / 1000)) == n


def test_a_mark_is_the_same_everywhere() -> None:
    assert mark_of("abc") == 0x352441C2  # CRC-32, as anybody computes it
    assert mark_of("\ud800") == mark_of("?")
