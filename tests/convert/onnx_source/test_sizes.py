"""Sizes are computed as ONNX computes tensors of integers: an int has no dimension, a list has one."""

from __future__ import annotations

import pytest
import torch

from modelkeep.convert.onnx_source import sizes

X = torch.zeros(2, 3, 5, 7)


def test_shapes() -> None:
    assert sizes.shape(X) == [2, 3, 5, 7]
    assert sizes.shape(X, start=-2) == [5, 7]
    assert sizes.shape(X, start=1, end=-1) == [3, 5]
    assert sizes.size(X) == 210


@pytest.mark.parametrize(
    ("found", "want"),
    [
        (sizes.pick([2, 3, 5], 1), 3),
        (sizes.pick([2, 3, 5], -1), 5),
        (sizes.pick([2, 3, 5], [0, 2]), [2, 5]),
        (sizes.cut([2, 3, 5, 7], [1], [9223372036854775807]), [3, 5, 7]),
        (sizes.cut([2, 3, 5, 7], [-1], [-100], [0], [-1]), [7, 5, 3, 2]),
        (sizes.join([2], [3, 5]), [2, 3, 5]),
        (sizes.listed(2), [2]),
        (sizes.alone([2]), 2),
        (sizes.reshaped([2], []), 2),
        (sizes.reshaped(2, [1]), [2]),
        (sizes.reshaped([2, 3], [-1]), [2, 3]),
        (sizes.product([2, 3]), [6]),
        (sizes.product([2, 3], keepdims=0), 6),
        (sizes.total([2, 3], keepdims=0), 5),
        (sizes.added([2, 3], 1), [3, 4]),
        (sizes.subtracted([2, 3], [1]), [1, 2]),
        (sizes.multiplied(2, 3), 6),
        (sizes.divided([7, 9], [2, 3]), [3, 3]),
        (sizes.remainder(7, 4), 3),
        (sizes.negated([7]), [-7]),
        (sizes.smallest([7, 1], [3, 3]), [3, 1]),
        (sizes.largest(7, 3), 7),
        (sizes.equal([2, -1], -1), [False, True]),
        (sizes.greater(2, 1), True),
        (sizes.less(2, 1), False),
        (sizes.inverted([True, False]), [False, True]),
        (sizes.chosen([False, True], [1, 1], [2, 3]), [2, 1]),
        (sizes.parted([1, 2, 3], [1, 2], parts=2), [[1], [2, 3]]),
        (sizes.parted([1, 2, 3], parts=2), [[1, 2], [3]]),
        (sizes.same([1], to=torch.int64), [1]),
    ],
)
def test_each_operator(found: object, want: object) -> None:
    assert found == want
