"""Seeded inputs fit what they were made for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.model import signature as signatures
from modelkeep.types import Bounds, Signature, TensorSpec

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


CACHED = Signature(
    (
        TensorSpec("input_ids", "int64", (None, None), ("batch", "sequence")),
        TensorSpec("attention_mask", "int64", (None, None), ("batch", "past+sequence")),
        TensorSpec("position_ids", "int64", (None, None), ("batch", "sequence")),
        TensorSpec("token_type_ids", "int64", (None, None), ("batch", "sequence")),
        TensorSpec("past_key", "float32", (None, 2, None, 8), ("batch", None, "past", None)),
    ),
    (),
    {"sequence": Bounds(1, 10, 5), "past": Bounds(0)},
)


def test_sizes_go_by_name() -> None:
    made = signatures.example(CACHED, 3, sizes={"past": 7})
    CACHED.check(made)
    assert made["past_key"].shape == (3, 2, 7, 8)
    assert made["input_ids"].shape == (3, 5)  # the multiple of 5 above 4
    assert made["attention_mask"].shape == (3, 12)
    CACHED.check(signatures.example(CACHED, 1, sizes={"past": 0}))


def test_integers_mean_what_their_names_say() -> None:
    made = signatures.example(CACHED, 50)
    assert set(np.unique(made["attention_mask"])) == {0, 1}
    assert (made["attention_mask"][:, 0] == 1).all()  # no row is padding alone
    assert (np.diff(made["attention_mask"]) <= 0).all()
    assert set(np.unique(made["token_type_ids"])) == {0, 1}
    assert (made["position_ids"] == np.arange(5)).all()


def test_rows_are_cut_and_repeated_to_other_sizes() -> None:
    rows = signatures.example(CACHED, 2, sizes={"past": 0})
    for sizes in ({"batch": 5, "sequence": 10, "past": 3}, {"batch": 1, "sequence": 5, "past": 0}):
        made = signatures.resized(CACHED, rows, sizes)
        CACHED.check(made)
        assert made["attention_mask"].shape == (sizes["batch"], sizes["past"] + sizes["sequence"])
    assert (signatures.resized(CACHED, rows, {"sequence": 10})["input_ids"][:, 5:] == rows["input_ids"]).all()


@pytest.mark.parametrize(
    ("inputs", "outputs", "axes"),
    [
        ([("a", "float32", ["N", 3])], [("y", "float32", ["N"])], [("batch", None), ("batch",)]),
        ([("a", "float32", ["unk__5", 3])], [("y", "float32", ["unk__9"])], [("batch", None), ("batch",)]),
        ([("a", "int64", ["s7", "s3"])], [("y", "float32", ["s7", "s3 + 1"])], [("batch", "s3"), ("batch", "s3+1")]),
        ([("a", "int64", ["steps", "N"]), ("b", "int64", ["N"])], [], [("steps", "N"), ("N",)]),
        ([("a", "int64", ["N", "n"])], [("y", "int64", ["n"])], [("batch", "n"), ("n",)]),
        ([("a", "float32", [4, None]), ("b", "float32", ["N"])], [], [(None, "a.1"), ("batch",)]),
    ],
)
def test_symbols_become_names(inputs: Any, outputs: Any, axes: Any) -> None:
    found = signatures.from_symbols(inputs, outputs)
    assert [t.axes for t in (*found.inputs, *found.outputs)] == axes


def test_bounds_of_the_batch_follow_its_name() -> None:
    found = signatures.from_symbols([("a", "float32", ["s7", 3])], [], {"s7": Bounds(1, 8)})
    assert found.bounds == {"batch": Bounds(1, 8)}
