"""Answers in runs, also of models that were baked for a number of rows; and how far two agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel
from modelkeep.optimize import answers as room
from modelkeep.optimize.answers import agreement, answers, batches, fixed_batch
from modelkeep.types import Signature, TensorSpec


class Doubles:
    """Answers row by row with [x, 2x]; strict about the number of rows it was baked for."""

    def __init__(self, fixed: int | None = None, answer: Any = None) -> None:
        self.signature = Signature((TensorSpec("x", "float32", (fixed,)),), (TensorSpec("y", "float32", (fixed, 2)),))
        self.fixed, self.sizes, self.answer = fixed, [], answer

    def run(self, inputs: Any) -> Any:
        x = inputs["x"]
        assert self.fixed in (None, len(x))
        self.sizes.append(len(x))
        return {"y": np.stack([x, 2 * x], 1).astype(np.float64) if self.answer is None else self.answer[: len(x)]}

    def close(self) -> None: ...


def rows(n: int) -> Dataset:
    return Dataset({"x": np.arange(n, dtype=np.float32)}, None, "made")


@pytest.mark.parametrize(
    ("fixed", "n", "sizes"),
    [(None, 5, [4, 1]), (None, 8, [4, 4]), (3, 7, [3, 3, 3]), (3, 6, [3, 3]), (1, 3, [1, 1, 1]), (8, 2, [8])],
)
def test_every_row_is_answered_once(fixed: int | None, n: int, sizes: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(room, "BATCH", 4)
    runner = Doubles(fixed)
    found = answers(runner, rows(n))
    assert runner.sizes == sizes
    assert found.dtype == np.float32
    assert found.tolist() == [[i, 2 * i] for i in range(n)]
    assert fixed_batch(runner.signature) == fixed


def test_a_last_run_is_shorter_or_filled_up() -> None:
    assert [len(part["x"]) for part in batches(rows(5), 2, exactly=False)] == [2, 2, 1]
    assert [part["x"].tolist() for part in batches(rows(3), 2, exactly=True)] == [[0, 1], [2, 2]]


@pytest.mark.parametrize(
    ("answer", "told"),
    [(np.zeros(9, np.int64), "int64 \\[\\] a row"), (np.zeros((9, 2, 3), np.float32), "float32 \\[2, 3\\] a row")],
)
def test_what_is_not_one_score_for_each_class_is_refused(answer: Any, told: str) -> None:
    with pytest.raises(BadModel, match=f"output 'y' is {told}; this needs a model that gives one score for each class"):
        answers(Doubles(answer=answer), rows(9))


def test_agreement_is_the_share_of_the_same_class_and_the_angle() -> None:
    one = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
    assert agreement(one, one * 5) == {"agreement": 1.0, "cosine": pytest.approx(1.0)}
    assert agreement(one, one[:, ::-1]) == {"agreement": 0.0, "cosine": pytest.approx(6 / 16)}
    other = one.copy()
    other[3] = [2.0, 1.0]
    assert agreement(one, other)["agreement"] == 0.75
    assert agreement(one, one * 0)["cosine"] == 0.0
