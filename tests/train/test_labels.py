"""Class numbers from numbers and from names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData
from modelkeep.train.labels import MOST_ASIDE, indexed, sound


def rows(labels: Any) -> Dataset:
    given = None if labels is None else np.array(labels)
    return Dataset({"x": np.zeros((3, 2), np.float32)}, given, "some.npz")


@pytest.mark.parametrize(
    ("given", "classes", "found"),
    [
        ([0, 2, 1], (), [0, 2, 1]),
        (["dog", "cat", "dog"], ("cat", "dog", "emu"), [1, 0, 1]),
        ([7, 3, 9], ("3", "7", "9"), [1, 0, 2]),  # too large for numbers, so they are names
        ([2, 1, 0], ("0", "1", "2"), [2, 1, 0]),
        ([1, 2, 0], ("1", "2", "0"), [1, 2, 0]),  # numbers first, as score takes them
        (["cat", "1", "emu"], ("cat", "dog", "emu"), [0, 1, 2]),  # labels from two hands
        ([True, False, True], ("no", "yes", "maybe"), [1, 0, 1]),
    ],
)
def test_numbers_and_names(given: Any, classes: tuple[str, ...], found: list[int]) -> None:
    made = indexed(rows(given), classes, 3)
    assert made.labels is not None
    assert made.labels.dtype == np.int64
    assert made.labels.tolist() == found
    assert made.source == "some.npz"


def test_rows_without_labels_stay_without() -> None:
    assert indexed(rows(None), (), 3).labels is None


@pytest.mark.parametrize(
    ("given", "classes", "sentence"),
    [
        ([0, 1, 3], (), "the label '3' of some.npz (1 of 3 rows) is none of the model's classes, 0 to 2; use transfer"),
        ([0, -1, 2], (), "the label '-1' of some.npz"),
        (
            [0, 1, 8],
            ("a", "b", "c"),
            "the label '8' of some.npz (1 of 3 rows) is none of the model's 3 classes (a, b, c); use",
        ),
        ([0, 7, 9], ("3", "7", "9"), "the label '0' of some.npz"),  # neither all numbers nor all names
        (["a", "x", "b"], ("a", "b", "c"), "the label 'x' of some.npz (1 of 3 rows) is none"),
        (["a", "1", "0"], ("1", "2", "a"), "the label '0' of some.npz (1 of 3 rows)"),  # a class is called by a number
        ([0.5, 1.0, 2.0], (), "the label '0.5' of some.npz"),
        ([[0, 1], [0, 1], [1, 1]], (), "the labels of some.npz have shape [3, 2]; give one class a row"),
    ],
)
def test_a_label_that_is_no_class_is_named(given: Any, classes: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(BadData) as caught:
        indexed(rows(given), classes, 3, mend="; use transfer")
    assert sentence in str(caught.value)


SLIPS = round(100 * MOST_ASIDE)


@pytest.mark.parametrize(
    ("good", "slip", "classes"),
    [
        ([0, 1, 2, 1], 7, ()),
        ([0, 1, 2, 1], 7, ("cat", "dog", "emu")),
        ([0.0, 1.0, 2.0, 1.0], 0.5, ()),
        (["cat", "dog", "emu", "dog"], "dgo", ("cat", "dog", "emu")),
        (["cat", "1", "emu", "1"], "9", ("cat", "dog", "emu")),  # labels from two hands
        ([1, 2, 3, 2], 9, ("1", "2", "3")),  # names that are numbers stay names
    ],
)
def test_a_few_slips_are_put_aside_with_their_number(good: list[Any], slip: Any, classes: tuple[str, ...]) -> None:
    many = Dataset(
        {"x": np.arange(100.0)[:, None]}, np.array([slip] * SLIPS + (good * 25)[: 100 - SLIPS]), "traffic of m"
    )
    kept, aside = sound(many, classes, 3)
    assert kept.inputs["x"][:, 0].tolist() == list(range(SLIPS, 100))
    assert kept.labels is not None
    assert kept.labels.tolist() == ([0, 1, 2, 1] * 25)[: 100 - SLIPS]
    assert aside.startswith(f"put aside: the label '{slip}' of traffic of m ({SLIPS} of 100 rows) is none of")
    with pytest.raises(BadData, match=rf"\({SLIPS} of 100 rows\)"):
        indexed(many, classes, 3)


def test_more_than_a_few_are_another_models_labels() -> None:
    many = Dataset({"x": np.zeros((100, 1))}, np.array([7] * (SLIPS + 1) + [1] * (99 - SLIPS)), "traffic of m")
    with pytest.raises(BadData, match=r"6 of 100 rows.* classes, 0 to 2; 5% at most are put aside; use transfer"):
        sound(many, (), 3, mend="; use transfer")


def test_nothing_is_said_where_nothing_is_put_aside() -> None:
    assert sound(rows([0, 1, 2]), (), 3)[1] == ""
    assert sound(rows(None), (), 3)[0].labels is None
