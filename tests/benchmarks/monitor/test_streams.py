"""The streams that false alarms are counted on move by what they say."""

from __future__ import annotations

import numpy as np
import pytest
import streams


@pytest.mark.parametrize("moved", [0.0, 0.05, 0.1, 0.4])
def test_a_shift_moves_the_share_that_it_is_for(moved: float) -> None:
    far = streams.shift(moved)
    cuts = np.linspace(-6, 6, 2001)
    before, after = (streams.shares(cuts, one, len(cuts) + 2) for one in (0.0, far))
    assert np.abs(before - after).sum() / 2 == pytest.approx(moved, abs=1e-4)


def test_the_bins_beside_a_features_own_are_empty() -> None:
    assert streams.shares([-1.0, 1.0], 0.5, 6).tolist()[3:] == [0.0, 0.0, 0.0]
    assert streams.shares([-1.0, 1.0], 0.5, 6).sum() == pytest.approx(1.0)


def test_counts_are_as_the_numbers_would_have_been() -> None:
    cuts, far = [-1.0, 0.0, 1.0], streams.shift(0.3)
    numbers = np.concatenate(list(streams.numbers((3, 1), 0, 0.3, 200_000)))
    seen = np.histogram(numbers, [-np.inf, *cuts, np.inf])[0] / len(numbers)
    each = streams.shares(cuts, far, 5)[None]
    counted = streams.counts(np.random.default_rng(4), each, 1000, 200)
    assert counted.shape == (200, 1, 5)
    assert (counted.sum(axis=2) == 1000).all()
    assert counted.sum(axis=(0, 1))[:4] / 200_000 == pytest.approx(seen, abs=0.005)


def test_a_stream_is_the_same_for_a_seed_and_quiet_first() -> None:
    one, two = (np.concatenate(list(streams.numbers((7, 0), 60_000, 0.4, 1000))) for _ in range(2))
    assert (one == two).all()
    assert len(one) == 61_000
    assert abs(one[:60_000].mean()) < 0.02
    assert one[60_000:].mean() == pytest.approx(streams.shift(0.4), abs=0.15)
