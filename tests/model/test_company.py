"""A model that mixes the rows of a batch is told from one that only rounds otherwise in company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput
from modelkeep.model.company import mixed
from modelkeep.types import Bounds, Signature, TensorSpec

ONE = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None, 4)),))


class Fake:
    """A runner made of a function of x; counts its runs."""

    def __init__(self, function: Callable[[Any], Any], signature: Signature = ONE) -> None:
        self.signature, self.function, self.runs = signature, function, 0

    def run(self, inputs: Any) -> dict[str, Any]:
        self.runs += 1
        return {"y": self.function(inputs["x"])}

    def close(self) -> None: ...


def over_rows(x: np.ndarray) -> np.ndarray:
    shares = np.exp(x - x.max(0))
    return np.asarray(shares / shares.sum(0), np.float32)


def test_a_softmax_over_the_rows_mixes_them() -> None:
    said = mixed(Fake(over_rows))
    assert said.startswith("output 'y' by 0.")
    assert said.endswith("of its largest answer")


def test_a_mean_of_the_batch_is_seen_on_real_rows_too() -> None:
    rows = Dataset({"x": np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)}, None, "made")
    assert mixed(Fake(lambda x: x - x.mean(0, keepdims=True)), rows)
    assert mixed(Fake(lambda x: x - x.mean(1, keepdims=True)), rows) == ""


def test_rounding_is_no_company() -> None:
    assert mixed(Fake(lambda x: x * np.float32(1 + 1e-2 * (len(x) == 1)))) == ""
    assert mixed(Fake(lambda x: np.zeros_like(x))) == ""


@pytest.mark.parametrize(
    "signature",
    [
        Signature((TensorSpec("x", "float32", (2, 4)),), (TensorSpec("y", "float32", (2, 4)),)),
        Signature(ONE.inputs, ONE.outputs, {"batch": Bounds(1, 1)}),
    ],
)
def test_where_rows_have_no_company_nothing_is_run(signature: Signature) -> None:
    runner = Fake(over_rows, signature)
    assert mixed(runner) == ""
    assert runner.runs == 0


def test_what_cannot_be_told_is_not_judged() -> None:
    def fails(x: np.ndarray) -> np.ndarray:
        raise BadInput("not these")

    assert mixed(Fake(fails)) == ""
    assert mixed(Fake(lambda x: x[:, 0].astype(np.int64))) == ""
    assert mixed(Fake(lambda x: np.full_like(x, np.nan))) == ""
