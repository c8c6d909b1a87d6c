"""Where more requests come than can be kept, a share of them is, by id, that follows the load."""

from __future__ import annotations

import numpy as np

from modelkeep.data.sampler import Sampler, mark_of


def marks(n: int, seed: int = 0) -> list[int]:
    return [int(m) for m in np.random.default_rng(seed).integers(0, 2**32, n)]


def test_all_are_kept_up_to_the_rate() -> None:
    sampler = Sampler(100.0)
    assert all(sampler.wants(mark, 1000 + i / 100) for i, mark in enumerate(marks(500)))


def test_beyond_it_a_share_that_follows_the_load() -> None:
    sampler = Sampler(100.0)
    kept = [sampler.wants(mark, 1000 + i / 4000) for i, mark in enumerate(marks(40_000))]
    by_second = [sum(kept[at : at + 4000]) for at in range(0, 40_000, 4000)]
    assert by_second[0] == 1000, "a first rush"
    assert all(60 <= n <= 140 for n in by_second[2:])
    calm = [sampler.wants(mark, 1020 + i / 50) for i, mark in enumerate(marks(500, seed=1))]
    assert all(calm[60:]), "once the load is gone, all of them again"


def test_a_mark_is_the_same_everywhere() -> None:
    assert mark_of("abc") == 0x352441C2  # CRC-32, as anybody computes it
    assert mark_of("\ud800") == mark_of("?")
