"""A difference is found and named, by output and by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.model.compare import compare
from modelkeep.types import Signature, TensorSpec
from tests.model.compare.runners import ONE, Fake, fails_at, right, rows


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x: right(x) * np.float32(1.01), "output 'output' at 1 row differs in"),
        (lambda x: right(x) + (np.arange(len(x)) == 6)[:, None], "output 'output' at 7 rows differs in 3 of 21"),
        (lambda x: np.where(x[:, :1] > 1.5, np.nan, right(x)), "of the new model is NaN"),
        (lambda x: np.zeros((len(x), 3), np.float32), "(0 instead of"),
        (lambda x: np.resize(right(x[:1]), (1, 3)), "at 2 rows has shape [1, 3] instead of [2, 3]"),
        (lambda x: right(x).astype(str), "instead of float32"),
        (fails_at(7), "at 7 rows the new model fails: Got: 7 Expected: 2"),
    ],
)
def test_a_difference_is_found_and_named(wrong: Callable[..., Any], said: str) -> None:
    report = compare(Fake(right), Fake(wrong), rows())
    assert report.ok is False
    assert said in report.why


def test_the_output_that_differs_is_named() -> None:
    two = Signature(ONE.inputs, (TensorSpec("boxes", "float32", (None, 3)), TensorSpec("scores", "float32", (None,))))
    good = Fake(lambda x: {"boxes": right(x), "scores": x[:, 0]}, two)
    report = compare(good, Fake(lambda x: {"boxes": right(x), "scores": x[:, 0] + 1}, two), rows())
    assert report.ok is False
    assert "output 'scores' at 1 row differs in 1 of 1, by up to 1" in report.why


def test_other_names_are_refused_before_anything_runs() -> None:
    other = Signature(ONE.inputs, (TensorSpec("logits", "float32", (None, 3)),))
    report = compare(Fake(right), new := Fake(right, other), rows())
    assert report.ok is False
    assert report.why == "the outputs are logits instead of output"
    assert new.batches == []


def test_the_tolerance_is_the_one_given() -> None:
    off = Fake(lambda x: right(x) + np.float32(0.01))
    assert compare(Fake(right), off, rows()).ok is False
    assert compare(Fake(right), off, rows(), atol=0.02).ok is True
