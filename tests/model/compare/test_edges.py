"""Rows that real ones leave out, and sizes that they do not have, are compared too."""

from __future__ import annotations

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput
from modelkeep.model.compare import compare, other_sizes
from modelkeep.types import Bounds, Signature, TensorSpec
from tests.model.compare.runners import ONE, Fake, right, rows


def test_extreme_rows_are_compared_too() -> None:
    report = compare(Fake(right), Fake(right), rows())
    assert report.numbers["edges"] == [
        "rows of zeros",
        "rows of ones",
        "rows of the smallest values",
        "rows of the largest values",
        "rows of a thousandth of their values",
    ]


def test_a_fault_that_only_they_show_is_found() -> None:
    wrong = Fake(lambda x: right(x) + (np.abs(x).sum(1, keepdims=True) == 0))
    assert "output 'output' at rows of zeros differs" in compare(Fake(right), wrong, rows()).why


@pytest.mark.parametrize("other", [1e-12, 2e-5])
def test_another_epsilon_of_a_norm_shows_on_small_rows(other: float) -> None:
    def norm(x: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
        middle = x - x.mean(1, keepdims=True)
        return (middle / np.sqrt(x.var(1, keepdims=True) + np.float32(epsilon)))[:, :3]

    assert compare(Fake(norm), Fake(norm), rows()).ok is True
    said = compare(Fake(norm), Fake(lambda x: norm(x, other)), rows()).why
    assert "at rows of a thousandth of their values differs" in said


def test_half_precision_is_not_held_to_rows_of_other_magnitudes() -> None:
    edges = compare(Fake(right), Fake(right), rows(), precision="bfloat16").numbers["edges"]
    assert not any("their values" in edge for edge in edges)


@pytest.mark.parametrize(("name", "dtype"), [("padding", "int64"), ("attention_mask", "float32")])
def test_a_mask_that_was_dropped_shows_though_no_row_is_padded(name: str, dtype: str) -> None:
    signature = Signature((TensorSpec("ids", "int64", (None, 8)), TensorSpec(name, dtype, (None, 8))), ONE.outputs)

    def pooled(ids: np.ndarray, kept: np.ndarray) -> np.ndarray:
        words = np.sin(ids[..., None] * np.arange(1, 4))
        return ((words * kept[..., None]).sum(1) / np.maximum(kept.sum(1)[:, None], 1)).astype(np.float32)

    model = Fake(lambda **given: pooled(given["ids"], given[name]), signature)
    deaf = Fake(lambda **given: pooled(given["ids"], np.ones_like(given[name])), signature)
    ids = np.random.default_rng(0).integers(0, 50, (20, 8))
    data = Dataset({"ids": ids, name: np.ones((20, 8), dtype)}, None, "whole sentences")
    assert compare(model, model, data).ok is True
    assert compare(model, deaf, data).ok is False


def test_whole_numbers_are_tried_at_the_largest_there_are() -> None:
    """Ids that were cast to 8 bits go wrong only above 127."""
    signature = Signature((TensorSpec("ids", "int64", (None, 4)),), ONE.outputs)
    ids = np.random.default_rng(0).integers(0, 20, (40, 4))
    ids[-1] = 300

    def table(ids: np.ndarray) -> np.ndarray:
        return np.sin(ids[:, :3]).astype(np.float32)

    data = Dataset({"ids": ids}, None, "ids")
    cut = Fake(lambda ids: table(ids.astype(np.int8).astype(np.int64)), signature)
    assert "rows of the largest values" in compare(Fake(table, signature), cut, data).why


def test_ids_cast_to_8_bits_are_found_in_a_small_vocabulary_without_rows() -> None:
    signature = Signature((TensorSpec("ids", "int64", (None, 4)),), ONE.outputs)

    def table(ids: np.ndarray) -> np.ndarray:
        if (ids >= 1000).any():
            raise BadInput("there are 1,000 words")
        return np.sin(ids[:, :3]).astype(np.float32)

    cut = Fake(lambda ids: table(ids.astype(np.int8).astype(np.int64)), signature)
    assert "rows of ids above 255 differs" in compare(Fake(table, signature), cut, None).why
    assert compare(Fake(table, signature), Fake(table, signature), None).numbers["skipped"] == []


def test_where_the_reference_itself_has_no_answer_is_told() -> None:
    def unit(x: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return x[:, :3] / np.linalg.norm(x[:, :3], axis=1, keepdims=True)

    report = compare(Fake(unit), Fake(unit), rows())
    assert report.ok is True
    assert report.numbers["skipped"] == ["rows of zeros: the reference answers NaN"]


def test_masks_are_padded_and_never_zeroed() -> None:
    signature = Signature(
        (
            TensorSpec("ids", "int64", (None, None), ("batch", "sequence")),
            TensorSpec("mask", "int64", (None, None), ("batch", "sequence")),
        ),
        ONE.outputs,
    )
    seen: list[np.ndarray] = []

    def mean(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        seen.append(mask)
        share = (ids * mask).sum(1) / mask.sum(1)
        return np.stack([share, share**2, share**3], 1).astype(np.float32)

    report = compare(Fake(mean, signature), Fake(mean, signature), None)
    assert report.ok is True
    assert "rows of padding in their second half" in report.numbers["edges"]
    assert all(mask.any(1).all() for mask in seen)


@pytest.mark.parametrize(
    ("usual", "bounds", "sizes"),
    [
        (12, Bounds(1, 40), [1, 6, 13, 40]),
        (32, Bounds(4, None, 4), [4, 16, 36, 64]),
        (7, Bounds(7, 7), []),
        (6, Bounds(0), [0, 3, 7, 12]),
        (512, Bounds(1, 512), [1, 256]),
    ],
)
def test_other_sizes(usual: int, bounds: Bounds, sizes: list[int]) -> None:
    assert other_sizes(usual, bounds) == sizes
