"""Sketches keep distributions and common texts in little room, and lose nothing when they are merged or written."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from modelkeep.data.sketches import TEXT, Sketches

SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)
RANK_ERROR = 0.0133


def close(sketches: Sketches, values: np.ndarray) -> bool:
    """Whether each quantile lies where the sketch says, by rank."""
    ranks = [(values <= found).mean() for found in sketches.quantiles(0, SHARES)]
    return bool(np.abs(np.array(ranks) - SHARES).max() <= 2 * RANK_ERROR)


class TestNumbers:
    def test_quantiles_of_a_long_stream(self) -> None:
        values = np.random.default_rng(0).lognormal(size=200_000)
        sketches = Sketches([False])
        for part in np.split(values, 40):
            sketches.update(part[:, None], {})
        assert sketches.n(0) == 200_000
        assert close(sketches, values.astype(np.float32))

    @pytest.mark.filterwarnings("error")
    def test_numbers_beyond_float32_are_infinite(self) -> None:
        sketches = Sketches([False])
        sketches.update(np.array([[1.0], [1e300]]), {})
        assert sketches.quantiles(0, (0.0, 1.0)) == [1.0, np.inf]

    def test_merged_hours_are_as_one(self) -> None:
        values = np.random.default_rng(1).normal(size=60_000)
        whole = Sketches([False])
        for part in np.split(values, 60):
            one = Sketches([False])
            one.update(part[:, None], {})
            whole.merge(Sketches.from_bytes(one.to_bytes()))
        assert whole.n(0) == 60_000
        assert close(whole, values)

    def test_nan_is_left_out_and_infinity_is_not(self) -> None:
        sketches = Sketches([False, False])
        sketches.update(np.array([[np.nan, np.inf], [2.0, -np.inf], [3.0, 0.0]]), {})
        assert (sketches.n(0), sketches.n(1)) == (2, 3)
        assert sketches.quantiles(0, [0.0, 1.0]) == [2.0, 3.0]
        assert sketches.quantiles(1, [0.5]) == [0.0]

    def test_nothing_seen(self) -> None:
        assert Sketches([False]).quantiles(0, [0.5]) == []
        assert Sketches([True]).common(0) == []


class TestTexts:
    def test_the_common_ones_are_found_among_thousands(self) -> None:
        rng = np.random.default_rng(2)
        sketches = Sketches([True])
        truth: Counter[str] = Counter()
        for _ in range(50):
            seen = Counter({"cat": 300, "dog": 200, **{f"rare {n}": 1 for n in rng.integers(0, 100_000, 200)}})
            truth += seen
            sketches.update(np.zeros((1, 1)), {0: seen})
        (first, low, high), (second, *_) = sketches.common(0)[:2]
        assert (first, second) == ("cat", "dog")
        assert low <= truth["cat"] <= high
        assert sketches.n(0) == truth.total()

    def test_long_texts_are_cut_within_a_character(self) -> None:
        sketches = Sketches([True])
        sketches.update(np.zeros((1, 1)), {0: {"é" * 1000: 3, "x" * 5: 1}})
        text, low, high = sketches.common(0)[0]
        assert (text, low, high) == ("é" * (TEXT // 2), 3, 3)

    def test_of_numbers_there_are_no_texts_and_the_other_way_round(self) -> None:
        sketches = Sketches([True, False])
        sketches.update(np.ones((3, 2)), {0: {"a": 3}})
        assert sketches.quantiles(0, [0.5]) == []
        assert sketches.common(1) == []


class TestRoom:
    @pytest.mark.parametrize("n", [10**3, 10**6])
    def test_four_kilobytes_a_feature_are_enough(self, n: int) -> None:
        rng = np.random.default_rng(3)
        sketches = Sketches([False, True])
        sketches.update(rng.normal(size=(n, 2)), {1: {f"{'long text ' * 9}{i}"[-60:]: 1 for i in range(2000)}})
        assert len(sketches.to_bytes()) <= 2 * 4096
        assert all(len(one.serialize()) <= 4096 for one in sketches.each)


class TestBytes:
    def test_they_are_read_back(self) -> None:
        sketches = Sketches([False, True])
        sketches.update(np.arange(20.0).reshape(10, 2), {1: {"a": 7, "b": 3}})
        again = Sketches.from_bytes(sketches.to_bytes())
        assert again.quantiles(0, SHARES) == sketches.quantiles(0, SHARES)
        assert again.common(1) == [("a", 7, 7), ("b", 3, 3)]

    @pytest.mark.parametrize("blob", [b"n", b"nonsense here", b"n\x02\x00\x00\x00ab"])
    def test_what_is_no_sketch_is_refused(self, blob: bytes) -> None:
        with pytest.raises(ValueError, match="no sketches"):
            Sketches.from_bytes(blob)

    def test_other_features_cannot_be_merged(self) -> None:
        with pytest.raises(ValueError, match="other features"):
            Sketches([True]).merge(Sketches([False]))
        with pytest.raises(ValueError, match="other features"):
            Sketches([False, False]).merge(Sketches([False]))
