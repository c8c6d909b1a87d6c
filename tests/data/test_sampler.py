"""Where more requests come than can be kept, a share of them is, by id, that follows the load."""

from __future__ import annotations

import numpy as np
import pytest

from modelkeep.data.sampler import ALL, FEWER, Sampler, mark_of, passing_mark_of


def marks(n: int, seed: int = 0) -> list[int]:
    return [int(m) for m in np.random.default_rng(seed).integers(0, 2**32, n)]


def kept(sampler: Sampler, given: list[int], began: float, each: float) -> list[bool]:
    """Whether each was kept by the first reader."""
    share = sampler.shares[0]
    return [sampler.counts(mark, began + i * each) and share.wants(mark) for i, mark in enumerate(given)]


def test_all_are_kept_up_to_the_rate() -> None:
    assert all(kept(Sampler(100.0), marks(500), 1000, 1 / 100))


def test_beyond_it_a_share_that_follows_the_load() -> None:
    sampler = Sampler(100.0)
    found = kept(sampler, marks(40_000), 1000, 1 / 4000)
    by_second = [sum(found[at : at + 4000]) for at in range(0, 40_000, 4000)]
    assert by_second[0] == 1100, "a first rush"
    assert all(30 <= n <= 75 for n in by_second[2:]), "fewer than the rate, for the load is heavy"
    calm = kept(sampler, marks(500, seed=1), 1020, 1 / 50)
    assert all(calm[60:]), "once the load is gone, all of them again"


def test_up_to_a_heavy_load_the_rate_is_kept() -> None:
    found = kept(Sampler(100.0), marks(15_000), 1000, 1 / 1500)
    assert all(70 <= sum(found[at : at + 1500]) <= 130 for at in range(3000, 15_000, 1500))


def test_however_heavy_the_load_a_part_of_the_rate_is_kept() -> None:
    found = kept(Sampler(1000.0), marks(60_000), 1000, 1 / 20_000)
    assert sum(found[40_000:]) == pytest.approx(FEWER * 1000, rel=0.3)


def test_the_rushes_that_follow_soon_bring_fewer() -> None:
    sampler = Sampler(100.0)
    rushes = [sum(kept(sampler, marks(2000, seed=n), 1000 + 10 * n, 1 / 4000)) for n in range(3)]
    assert rushes[0] == 1100
    assert all(100 <= n <= 350 for n in rushes[1:]), "ten calm seconds give one second's worth back"
    assert sum(kept(sampler, marks(2000, seed=9), 2000, 1 / 4000)) == 1100, "a long calm gives back all"


def test_shares_are_nested_and_each_keeps_to_its_rate() -> None:
    sampler = Sampler(200.0, 50.0)
    wide, narrow = sampler.shares
    each = []
    for i, mark in enumerate(marks(40_000)):
        counted = sampler.counts(mark, 1000 + i / 4000)
        each.append((counted and wide.wants(mark), counted and narrow.wants(mark)))
    late = each[20_000:]
    assert 70 <= sum(w for w, _ in late) / 5 <= 130
    assert 12 <= sum(n for _, n in late) / 5 <= 38
    assert all(w for w, n in late if n), "who keeps fewer keeps some of those that others keep"


def test_no_rate_is_no_limit_and_none_is_none() -> None:
    for rate, n in ((float("inf"), 3000), (0.0, 0)):
        assert sum(kept(Sampler(rate), marks(3000), 1000, 1 / 1000)) == n


def test_a_mark_is_the_same_everywhere() -> None:
    assert mark_of("abc") == 0x352441C2  # CRC-32, as anybody computes it
    assert mark_of("\ud800") == mark_of("?")


def test_passing_marks_are_spread_evenly() -> None:
    found = np.array([passing_mark_of(f"request {n}") for n in range(20_000)])
    assert found.min() >= 0
    assert found.max() < ALL
    assert np.mean(found < ALL / 10) == pytest.approx(0.1, abs=0.01)
    assert passing_mark_of("a") == passing_mark_of("a")
