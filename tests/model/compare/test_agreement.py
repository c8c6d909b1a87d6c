"""Two models agree only when every output does: what is run, and by which rule answers are alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from modelkeep.model import compare as comparing
from modelkeep.model.compare import compare
from modelkeep.types import Signature, TensorSpec
from tests.model.compare.runners import ONE, Fake, right, rows


def test_the_numbers_are_those_of_the_differences() -> None:
    shift = np.float32(5e-5)
    report = compare(Fake(right), Fake(lambda x: right(x) + shift), rows())
    assert report.ok is True
    assert report.kind == "compare"
    assert report.numbers["max_abs"] == pytest.approx(5e-5, rel=0.02)
    assert report.numbers["top1_agreement"] == 1.0
    assert report.numbers["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert report.numbers["n"] == 100
    assert report.numbers["outputs"]["output"]["max_abs"] == report.numbers["max_abs"]
    assert report.data == "100 rows of made rows"
    assert "agree: largest difference 5e-05, the same class for 100.00%" in report.why


def test_every_row_and_the_given_batches_are_run() -> None:
    new = Fake(right)
    report = compare(Fake(right), new, rows(100), batches=(1, 2, 7))
    assert new.batches == [1, 2, 7, 2, 2, 2, 2, 2, 64, 36]  # the twos are edge rows
    assert report.numbers["batches"] == [1, 2, 7]
    assert report.numbers["n"] == 100


def test_answers_that_are_large_are_compared_in_smaller_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "CHUNK_BYTES", 10 * 3 * 8)
    new = Fake(right)
    assert compare(Fake(right), new, rows(30)).ok is True
    assert new.batches[-3:] == [10, 10, 10]


def test_a_slow_model_is_compared_on_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "MAX_SECONDS", 0.0)
    report = compare(Fake(right), Fake(right), rows(1000))
    assert report.ok is True
    assert report.numbers["n"] == 64
    assert report.data == "64 rows of made rows"


def test_the_reference_s_noise_is_measured_where_it_could_matter() -> None:
    """Each measurement is a run of one row more; of all trials but the first only where something differs."""
    quiet, loud = Fake(right), Fake(right)
    assert compare(quiet, Fake(right), rows(100)).ok is True
    # twice for the first row, which shows its noise
    assert quiet.batches == [1, 1, 1, 2, 7, 2, 2, 2, 2, 2, 64, 36]
    off = Fake(lambda x: right(x) + np.float32(2e-4) * (len(x) == 7) * np.sign(right(x)))
    report = compare(loud, off, rows(100), rtol=0.1)
    assert report.ok is True
    assert loud.batches == [1, 1, 1, 2, 7, 1, 2, 2, 2, 2, 2, 64, 36]


def test_noise_that_shows_on_later_rows_only_is_taken_for_noise() -> None:
    """A kernel that sums in another order for seven rows: the reference is off by as much as the new model."""

    def reference(x: np.ndarray) -> np.ndarray:
        return right(x) + np.float32(4e-4) * (len(x) == 7)

    assert compare(Fake(reference), Fake(right), rows()).ok is True
    assert compare(Fake(right), Fake(reference), rows()).ok is False  # a new model may not be off by that much


def test_seeded_rows_stand_in_for_real_ones() -> None:
    report = compare(Fake(right), Fake(right), None, seed=3)
    assert report.ok is True
    assert report.data == "32 seeded random rows (seed 3)"
    assert compare(Fake(right), Fake(lambda x: right(x) * 1.01), None).ok is False


def test_free_dimensions_are_tried_at_several_sizes() -> None:
    free = Signature((TensorSpec("x", "float32", (None, None)),), ONE.outputs)
    seen: set[int] = set()

    def sums(x: np.ndarray) -> np.ndarray:
        seen.add(x.shape[1])
        return np.stack([x.sum(1), x.max(1), x.min(1)], 1)

    report = compare(Fake(sums, free), Fake(sums, free), None)
    assert report.ok is True
    assert report.numbers["sizes"] == {"x.1": [1, 2, 5, 8]}
    assert seen == {1, 2, 4, 5, 8}
    report = compare(Fake(sums, free), Fake(lambda x: sums(x[:, :4]), free), None)  # stops at what it was made for
    assert report.ok is False


def test_a_baked_in_batch_is_run_at_that_batch() -> None:
    fixed = Signature((TensorSpec("x", "float32", (8, 4)),), (TensorSpec("output", "float32", (8, 3)),))
    new = Fake(right, fixed)
    assert compare(Fake(right, fixed), new, rows(20)).ok is True
    assert set(new.batches) == {8}


def test_whole_numbers_and_text_must_be_equal() -> None:
    def classes(x: np.ndarray) -> np.ndarray:
        return right(x).argmax(1)

    def names(x: np.ndarray) -> np.ndarray:
        return np.array(["a", "b", "c"], dtype=object)[classes(x)]

    for answer, wrong in ((classes, 2), (names, "c")):
        assert compare(Fake(answer), Fake(answer), rows()).ok is True
        spoilt = _but_last(answer, wrong)
        report = compare(Fake(answer), Fake(spoilt), rows())
        assert report.ok is False
        assert f"{wrong} instead of" in report.why


def test_the_same_infinities_agree_and_others_do_not() -> None:
    def masked(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, :3] < 0, -np.inf, right(x)).astype(np.float32)

    assert compare(Fake(masked), Fake(masked), rows()).ok is True
    report = compare(Fake(masked), Fake(lambda x: np.where(np.isinf(masked(x)), np.inf, masked(x))), rows())
    assert report.ok is False
    assert compare(Fake(masked), Fake(lambda x: np.where(np.isinf(masked(x)), 0, masked(x))), rows()).ok is False


def _but_last(answer: Callable[[np.ndarray], np.ndarray], wrong: object) -> Callable[[np.ndarray], np.ndarray]:
    def spoilt(x: np.ndarray) -> np.ndarray:
        found = answer(x).copy()
        found[np.flatnonzero(found != wrong)[:1]] = wrong
        return found

    return spoilt
