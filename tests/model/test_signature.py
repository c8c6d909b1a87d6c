"""Seeded inputs fit what they were made for."""

from __future__ import annotations

import numpy as np
import pytest

from modelkeep.model import signature as signatures
from modelkeep.types import Signature, TensorSpec

EVERYTHING = Signature(
    (
        TensorSpec("image", "float32", (None, 3, None)),
        TensorSpec("half", "float16", (None,)),
        TensorSpec("tokens", "int64", (None, None)),
        TensorSpec("bytes", "uint8", (None, 5)),
        TensorSpec("flag", "bool", (None, 1)),
        TensorSpec("words", "str", (None, 2)),
        TensorSpec("scale", "float64", ()),
        TensorSpec("table", "float32", (4, 2)),
    ),
    (),
)


@pytest.mark.parametrize("batch", [1, 3])
def test_examples_fit_their_signature(batch: int) -> None:
    made = signatures.example(EVERYTHING, batch, free=6)
    EVERYTHING.check(made)
    assert made["image"].shape == (batch, 3, 6)
    assert made["table"].shape == (4, 2)
    assert made["scale"].shape == ()


def test_examples_come_from_their_seed() -> None:
    a, b, c = (signatures.example(EVERYTHING, 5, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["image"], c["image"])


def test_a_signature_is_seen_on_arrays() -> None:
    inputs = {"x": np.zeros((3, 8), np.float32), "w": np.array([["a"], ["b"], ["c"]])}
    seen = signatures.from_arrays(inputs, {"n": np.zeros(3, np.int64), "loss": np.float64(1)})
    assert seen.inputs == (TensorSpec("x", "float32", (None, 8)), TensorSpec("w", "str", (None, 1)))
    assert seen.outputs == (TensorSpec("n", "int64", (None,)), TensorSpec("loss", "float64", ()))
    assert not seen.batched
