"""Bins: every number has one, the shares are those of the reference, and the bounds on them hold."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from scipy import stats

from modelkeep.data.bins import MAX_CATEGORIES, OTHER, REFERENCE_RISK, Bins, cut
from modelkeep.data.features import Columns
from modelkeep.model.baseline import Subject
from modelkeep.types import TensorSpec


def one(values: object, fixed: tuple[float, ...] | None = None) -> Bins:
    """Bins of one feature."""
    return Bins.of(np.asarray(values, dtype=float)[:, None], [fixed])


def places(bins: Bins, values: object) -> list[int]:
    return bins.place(np.asarray(values, dtype=float)[:, None])[:, 0].tolist()


class TestCut:
    def test_few_values_are_categories(self) -> None:
        bins = one([0, 1, 1, 5] * 20)
        assert places(bins, [0, 1, 5]) == [1, 2, 3]
        assert bins.shares[0].tolist() == pytest.approx([0, 0.25, 0.5, 0.25, 0, 0])

    def test_outside_the_categories_is_elsewhere(self) -> None:
        bins = one([0, 1, 5] * 20)
        assert places(bins, [-1, 6, np.nan]) == [0, 4, bins.count - 1]

    def test_a_constant_notices_any_other_value(self) -> None:
        bins = one(np.full(100, 3.0))
        assert len(set(places(bins, [2.9, 3.0, 3.1, np.nan]))) == 4
        assert places(bins, [3.0 + 1e-9]) == places(bins, [3.0])

    @pytest.mark.parametrize("dtype", ["int64", "float64"])
    def test_codes_of_many_digits_are_categories(self, dtype: str) -> None:
        """No rounding makes one of another, unlike what was a float32."""
        codes = np.array([[10_000_001], [10_000_002], [10_000_003]] * 30, dtype=dtype)
        columns = Columns.of((TensorSpec("code", dtype, (None, 1)),), {"code": codes})
        bins = Bins.of(columns.read({"code": codes}), columns.edges, columns.exact)
        assert places(bins, [10_000_000, *codes[:3, 0], 10_000_004]) == [0, 1, 2, 3, 4]
        assert [bins.label(0, place) for place in (1, 2, 3)] == ["10000001", "10000002", "10000003"]
        narrow = Columns.of((TensorSpec("code", "float32", (None, 1)),), {"code": codes.astype(np.float32)})
        assert narrow.exact == [False]

    def test_many_values_are_quantiles(self) -> None:
        values = np.random.default_rng(0).normal(size=4000)
        bins = one(values)
        used = bins.shares[0][bins.shares[0] > 0]
        assert used == pytest.approx(np.full(8, 1 / 8), abs=0.002)

    def test_a_value_that_fills_a_quantile_has_its_own_bin(self) -> None:
        values = np.r_[np.zeros(500), np.random.default_rng(1).uniform(1, 2, 500)]
        bins = one(values)
        (zero,) = set(places(bins, [0.0]))
        assert bins.shares[0][zero] == pytest.approx(0.5)
        assert places(bins, [0.01]) != places(bins, [0.0])

    def test_thirteen_values_are_not_categories(self) -> None:
        assert len(cut(np.arange(MAX_CATEGORIES, dtype=float))) == MAX_CATEGORIES + 1
        assert len(cut(np.arange(130, dtype=float))) == 7

    @pytest.mark.parametrize("size", [1.0, 3e-5, 4096.0])
    def test_what_an_engine_rounds_is_no_difference(self, size: float) -> None:
        """Embeddings of one length, whose norms differ in their last digits: as these are summed, so they fall."""
        rows = np.random.default_rng(0).normal(size=(1000, 384)).astype(np.float32)
        rows *= np.float32(size) / np.sqrt((rows**2).sum(axis=1, keepdims=True))
        norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
        assert len(np.unique(norms)) > 3
        bins = Bins.of(norms, [None])
        other = np.sqrt(np.cumsum(rows**2, axis=1, dtype=np.float32)[:, -1:])
        places = bins.place(np.concatenate([norms, other]))
        assert len(np.unique(places)) == 1
        assert bins.place(np.array([[1.0001 * size], [0.9999 * size]])).ravel().tolist() == [places[0, 0] + 1, 0]

    def test_large_whole_numbers_are_not_rounded(self) -> None:
        """Numbers of shops, say, of which one comes no more."""
        assert len(set(places(one([600_001, 600_002] * 30), [600_001, 600_002]))) == 2
        assert len(set(places(one([600_001] * 60), [600_001, 600_002]))) == 2

    def test_nothing_known(self) -> None:
        bins = one(np.full(60, np.nan))
        assert bins.shares[0].tolist() == pytest.approx([0.0, 1.0])
        assert places(bins, [1.0, np.nan, np.inf]) == [0, 1, 0]

    def test_infinities(self) -> None:
        bins = one(np.r_[np.arange(20), [np.inf, -np.inf]])
        low, high = places(bins, [-np.inf, np.inf])
        assert low == 0
        assert 0 < high < bins.count - 1

    def test_fixed_bins(self) -> None:
        bins = one(np.linspace(0, 1, 101), (0.5, 0.9))
        assert places(bins, [0.2, 0.5, 0.95]) == [0, 1, 2]


class TestShares:
    def test_they_sum_to_one_whatever_the_feature(self) -> None:
        rng = np.random.default_rng(2)
        matrix = np.c_[rng.normal(size=300), rng.integers(0, 4, 300), np.full(300, np.nan), np.zeros(300)]
        bins = Bins.of(matrix, [None] * 4)
        assert bins.shares.sum(axis=1) == pytest.approx(np.ones(4))

    def test_tally_weighs_rows(self) -> None:
        bins = Bins.of(np.array([[0.0, 1.0], [1.0, 1.0]] * 30), [None, None])
        counts = bins.tally(bins.place(np.array([[0.0, 1.0], [1.0, 1.0]])), np.array([0.25, 0.75]))
        assert counts.sum(axis=1).tolist() == [1.0, 1.0]
        assert counts[0].max() == 0.75


class TestUpper:
    def test_it_is_the_exact_chernoff_bound(self) -> None:
        bins = one([0, 1] * 100)
        chosen = np.zeros((1, bins.count), dtype=bool)
        chosen[0, 1] = True
        upper = float(bins.upper(chosen)[0])
        divergence = 0.5 * log(0.5 / upper) + 0.5 * log(0.5 / (1 - upper))
        assert divergence == pytest.approx((5 * log(2) + log(2 / REFERENCE_RISK)) / 200, rel=1e-6)

    def test_all_bins_but_one_are_fewer_unions_so_their_bound_is_tighter(self) -> None:
        bins = one([0, 1] * 100)
        chosen = np.ones((1, bins.count), dtype=bool)
        chosen[0, 1] = False
        upper = float(bins.upper(chosen)[0])
        divergence = 0.5 * log(0.5 / upper) + 0.5 * log(0.5 / (1 - upper))
        assert divergence == pytest.approx((log(5) + log(2 / REFERENCE_RISK)) / 200, rel=1e-6)

    def test_a_class_alone_is_covered(self) -> None:
        """Of 300 reference samples, at most a hundredth may have any class whose true share is below its bound."""
        rng = np.random.default_rng(4)
        missed = 0
        for _ in range(300):
            bins = one(rng.choice(10, 400).astype(float))
            lost = int(np.argmin(np.where(bins.shares[0] > 0, bins.shares[0], 1.0)))
            missed += 1 - bins.upper(np.arange(bins.count)[None] != lost)[0] > 0.1
        assert missed / 300 <= REFERENCE_RISK + 3 * (REFERENCE_RISK / 300) ** 0.5

    def test_nothing_seen_and_all_seen(self) -> None:
        bins = one([0, 1] * 500)
        none, every = np.zeros((1, bins.count), dtype=bool), np.ones((1, bins.count), dtype=bool)
        assert 0 < bins.upper(none)[0] < 0.02
        assert bins.upper(every)[0] == pytest.approx(1.0)

    def test_the_worst_union_of_bins_is_covered(self) -> None:
        """Of 300 reference samples, at most a hundredth may have any union whose true share is above its bound."""
        rng = np.random.default_rng(3)
        missed, edges = 0, tuple(stats.norm.ppf(np.arange(1, 8) / 8))
        for _ in range(300):
            bins = one(rng.normal(size=200), edges)
            under = np.r_[bins.shares[0, :8] < 1 / 8, [False] * (bins.count - 8)][None]
            missed += under.sum() / 8 > bins.upper(under)[0]
        assert missed / 300 <= REFERENCE_RISK + 3 * (REFERENCE_RISK / 300) ** 0.5

    def test_more_rows_are_surer(self) -> None:
        few, many = one([0, 1] * 50), one([0, 1] * 500)
        chosen = np.array([[False, True, False, False, False]])
        assert many.upper(chosen)[0] < few.upper(chosen)[0]


def test_kinds_are_told_by_their_names() -> None:
    texts = np.array([["red"], ["green"], ["red"], [""], ["a colour that few people know of"]], dtype=object)
    columns = Columns.of((TensorSpec("colour", "str", (None, 1)),), {"colour": texts})
    bins = Subject(columns, Bins.of(columns.read({"colour": texts}), columns.edges)).bins
    named = ["red", "green", "''", "a colour that few peopl…"]
    new = columns.read({"colour": np.array([["blue"], *texts[[0, 1, 3, 4]].tolist()], dtype=object)})
    assert [bins.label(0, place) for place in bins.place(new)[:, 0]] == [OTHER, *named]
    classes = one([0, 1, 2] * 20)
    assert [classes.label(0, at, ("cat", "dog")) for at in range(1, 4)] == ["cat", "dog", "2"]


def test_labels_say_what_a_bin_holds() -> None:
    bins = one(np.linspace(0, 1, 100), (0.25, 0.5))
    assert [bins.label(0, at) for at in range(4)] == ["< 0.25", "0.25 to 0.5", "≥ 0.5", "NaN"]
    constant = one(np.full(60, 3.0))
    assert [constant.label(0, at) for at in range(4)] == ["< 3", "3", "≥ 3", "NaN"]
    assert one(np.zeros(60)).label(0, 1) == "0"
    assert one(np.full(60, np.nan)).label(0, 0) == "any"


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        (1.7e9, 1.7e9 + 8000, ["< 1,700,001,000", "1,700,001,000 to 1,700,002,000"]),
        (100_000, 900_000, ["< 200,000", "200,000 to 300,000"]),
        (293.15, 293.158, ["< 293.151", "293.151 to 293.152"]),
        (1e-9, 9e-9, ["< 2e-09", "2e-09 to 3e-09"]),
        (0, 8e12, ["< 1,000,000,000,000", "1,000,000,000,000 to 2,000,000,000,000"]),
        (0, 8e20, ["< 1e+20", "1e+20 to 2e+20"]),
    ],
)
def test_no_two_bins_have_one_label(first: float, last: float, labels: list[str]) -> None:
    """Times were all 1.7e+09, and their slices one; of tiny values all were 0."""
    bins = Bins.of(np.linspace(first, last, 801)[:, None], [None], [True])
    found = [bins.label(0, place) for place in range(8)]
    assert found[:2] == labels
    assert len(set(found)) == 8


def test_codes_of_thousands_are_told_by_their_number() -> None:
    bins = Bins.of(np.arange(5000, 5004.0).repeat(20)[:, None], [None], [True])
    assert [bins.label(0, place) for place in range(1, 5)] == ["5000", "5001", "5002", "5003"]


def test_zeros_before_a_long_tail_have_a_bin_of_their_own() -> None:
    """A millionth of the largest value was more than most of the others."""
    rows = np.concatenate([np.zeros(300), np.random.default_rng(0).lognormal(0, 8, 700)])
    bins = one(rows)
    zero = bins.place(np.zeros((1, 1)))[0, 0]
    assert bins.shares[0, zero] == pytest.approx(0.3, abs=0.1)
    assert bins.label(0, zero) == "0"
    assert sum(bins.label(0, place) == "0" for place in range(bins.count)) == 1


def test_bins_are_made_again_from_what_is_kept_of_them() -> None:
    rng = np.random.default_rng(4)
    reference = np.c_[rng.normal(size=300), rng.integers(0, 3, 300)]
    reference[:9, 0] = np.nan
    bins = Bins.of(reference, [None, None])
    again = Bins(bins.cuts, bins.n, bins.shares)
    others = rng.normal(size=(50, 2))
    np.testing.assert_array_equal(again.place(others), bins.place(others))
    chosen = np.ones((2, bins.count), dtype=bool)
    np.testing.assert_array_equal(again.upper(chosen), bins.upper(chosen))
    assert again.form == bins.form


def test_other_bins_have_another_form() -> None:
    assert one([0, 1] * 30).form == one([0, 0, 1] * 30).form
    assert one([0, 1] * 30).form != one([0, 1, 2] * 30).form


def test_a_class_is_called_by_its_number() -> None:
    bins = Bins.of(np.array([[float(i % 3), 0.37 * i, float(i % 2)] for i in range(60)]), [None, None, None])
    assert [bins.label(0, place) for place in range(5)] == ["< 0", "0", "1", "2", "≥ 2"]
    assert [bins.label(2, place) for place in range(4)] == ["< 0", "0", "1", "≥ 1"]
    assert "to" in bins.label(1, 2)
