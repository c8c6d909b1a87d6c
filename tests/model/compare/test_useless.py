"""Rows, or a reference, that could not have shown a difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.model.compare import compare
from modelkeep.types import Signature, TensorSpec
from tests.model.compare.runners import ONE, Fake, fails_at, right, rows


def test_a_constant_reference_cannot_tell() -> None:
    constant = Fake(lambda x: np.full((len(x), 3), 0.5, np.float32))
    report = compare(constant, constant, rows())
    assert report.ok is False
    assert "gives the same answer to all of the rows, within the tolerance (output)" in report.why
    assert report.numbers["constant"] == ["output"]


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_another_length_of_the_input_is_no_other_answer(dtype: str) -> None:
    free = ("batch", "sequence")
    ids, tags = (TensorSpec(name, kind, (None, None), free) for name, kind in (("ids", "int64"), ("tags", dtype)))
    signature = Signature((ids,), (tags,))
    constant = Fake(lambda ids: np.zeros(ids.shape, dtype), signature)
    assert "gives the same answer to all of the rows" in compare(constant, constant, None).why
    echo = Fake(lambda ids: ids.astype(dtype), signature)
    assert compare(echo, echo, None).ok is True


def test_answers_smaller_than_the_tolerance_cannot_tell() -> None:
    small = Fake(lambda x: right(x) * np.float32(1e-6))
    zeros = Fake(lambda x: np.zeros((len(x), 3), np.float32))
    assert compare(small, zeros, rows()).ok is False  # |difference| is within 1e-4 everywhere
    assert compare(small, small, rows(), atol=1e-9).ok is True


def test_one_constant_output_of_two_is_told() -> None:
    two = Signature(ONE.inputs, (*ONE.outputs, TensorSpec("version", "float32", (None, 1))))
    runner = Fake(lambda x: {"output": right(x), "version": np.ones((len(x), 1), np.float32)}, two)
    report = compare(runner, runner, rows())
    assert report.ok is True
    assert "the same for every row: version" in report.why


def test_one_row_cannot_tell() -> None:
    report = compare(Fake(right), Fake(right), rows(1))
    assert report.ok is False
    assert report.why == "one row cannot show whether two models agree; give more rows"


def test_a_reference_of_chance_cannot_tell() -> None:
    rng = np.random.default_rng(0)
    noisy = Fake(lambda x: right(x) + rng.standard_normal((len(x), 3)))
    report = compare(noisy, Fake(right), rows())
    assert report.ok is False
    assert "the reference gives different answers to the same rows" in report.why


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (lambda x: right(x) * np.nan, "of the reference itself is NaN in 3 of 3"),
        (fails_at(1), "the reference itself fails on 1 row (Got: 7 Expected: 2); give rows that it can answer"),
    ],
)
def test_a_reference_that_does_not_answer(reference: Callable[..., Any], said: str) -> None:
    report = compare(Fake(reference), Fake(right), rows())
    assert report.ok is False
    assert said in report.why
