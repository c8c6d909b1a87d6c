"""Sequences of different lengths: joined where a mask says where each ends, and read without their padding."""

from __future__ import annotations

import numpy as np
import pytest

from modelkeep.data import lengths
from modelkeep.types import TensorSpec

IDS = TensorSpec("input_ids", "int64", (None, None), ("batch", "sequence"))
SEEN = TensorSpec("attention_mask", "int64", (None, None), ("batch", "sequence"))


def request(*ids: int) -> dict[str, np.ndarray]:
    return {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}


class TestJoined:
    def test_short_ones_are_padded_to_the_longest(self) -> None:
        found = lengths.joined([request(5, 6, 7), request(8)])
        assert found["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
        assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]

    def test_what_does_not_move_with_the_length_stays(self) -> None:
        extra = {"age": np.array([[40.0, 2.0, 1.0, 0.0, 7.0]])}
        found = lengths.joined([request(5, 6, 7) | extra, request(8) | extra])
        assert found["age"].shape == (2, 5)

    def test_without_a_mask_nothing_is_made_up(self) -> None:
        one, two = {"x": np.zeros((1, 4))}, {"x": np.zeros((1, 5))}
        with pytest.raises(ValueError, match="no mask that says where they end"):
            lengths.joined([one, two])
        assert lengths.joined([one, one])["x"].shape == (2, 4)

    def test_a_mask_that_is_zero_where_something_is_would_lie_about_padding(self) -> None:
        upside_down = [{"ids": np.ones((1, n)), "padding_mask": np.zeros((1, n), bool)} for n in (3, 4)]
        with pytest.raises(ValueError, match="no mask"):
            lengths.joined(upside_down)

    def test_other_shapes_do_not_fit(self) -> None:
        with pytest.raises(ValueError, match="dimension"):
            lengths.joined([request(1, 2) | {"image": np.zeros((1, 8))}, request(1) | {"image": np.zeros((1, 9))}])


class TestPadding:
    def test_which_mask_is_whose(self) -> None:
        other = TensorSpec("decoder_mask", "int64", (None, None), ("batch", "decoder_sequence"))
        assert lengths.mask_of(IDS, [IDS, other, SEEN]) == "attention_mask"
        assert lengths.mask_of(IDS, [IDS, other]) == ""
        assert lengths.mask_of(TensorSpec("image", "float32", (None, 3, None, None)), [SEEN]) == ""

    def test_where_it_begins(self) -> None:
        masks = [np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]]), np.array([[True, False]])]
        assert lengths.ends(masks).tolist() == [2, 3, 3, 1]

    def test_it_is_cut_off(self) -> None:
        rows, sizes = lengths.cut(np.array([[5, 6, 0], [7, 8, 9]]), np.array([3, 3]), np.array([2, 3]))
        assert sizes.tolist() == [2, 3]
        assert np.isnan(rows).tolist() == [[False, False, True], [False] * 3]
