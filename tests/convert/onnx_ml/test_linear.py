"""Linear models answer as ONNX Runtime's own do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression, LogisticRegression

from modelkeep.convert import onnx_ml
from modelkeep.errors import Unsupported

ROWS = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
SUM = ROWS.sum(1)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression(same: Callable[..., Any], classes: int) -> None:
    truth = np.digitize(SUM, [0.0, 1.0][: classes - 1]) * 10
    made = LogisticRegression().fit(ROWS, truth)
    same(to_onnx(made, ROWS[:1], options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3}), ROWS)


@pytest.mark.parametrize("targets", [1, 2])
def test_linear_regression(same: Callable[..., Any], targets: int) -> None:
    truth = np.stack([SUM, -2 * SUM + 1][:targets], 1)
    made = LinearRegression().fit(ROWS, truth)
    same(to_onnx(made, ROWS[:1], target_opset={"": 18, "ai.onnx.ml": 3}), ROWS)


def test_without_intercepts(same: Callable[..., Any], one_node: Callable[..., Any]) -> None:
    model = one_node(
        "LinearRegressor", ROWS, (TensorProto.FLOAT, [None, 1]), coefficients=[1.0, 2.0, 3.0, 4.0], targets=1
    )
    same(model, ROWS)


def test_one_score_for_two_classes_is_refused(one_node: Callable[..., Any], tmp_path: Path) -> None:
    outputs = (TensorProto.INT64, [None]), (TensorProto.FLOAT, [None, 2])
    model = one_node(
        "LinearClassifier", ROWS, *outputs, coefficients=[1.0] * 4, intercepts=[0.0], classlabels_ints=[0, 1]
    )
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match="has 1 score for 2 classes"):
        onnx_ml.rewritten(tmp_path / "m.onnx")
