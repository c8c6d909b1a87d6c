"""Only the classic operators are rewritten, and what cannot be is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelkeep.convert import onnx_ml
from modelkeep.errors import Unsupported

ROWS = np.zeros((2, 3), np.float32)
FLOATS = (TensorProto.FLOAT, [None, 3])


def test_a_model_without_them_needs_nothing(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["rows"], ["out"])
    spec = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in ("rows", "out")]
    onnx.save(helper.make_model(helper.make_graph([node], "g", spec[:1], spec[1:])), tmp_path / "relu.onnx")
    assert not onnx_ml.needed(tmp_path / "relu.onnx")


def test_an_operator_that_is_not_known_is_named(one_node: Callable[..., Any], tmp_path: Path) -> None:
    onnx.save(one_node("SVMRegressor", ROWS, FLOATS), tmp_path / "svm.onnx")
    with pytest.raises(Unsupported, match=r"SVMRegressor of ai\.onnx\.ml cannot be written"):
        onnx_ml.rewritten(tmp_path / "svm.onnx")


def test_names_and_shapes_stay(one_node: Callable[..., Any], same: Callable[..., Any]) -> None:
    model = one_node("Scaler", ROWS, FLOATS, offset=[1.0, 2.0, 3.0], scale=[2.0, 1.0, 0.5])
    made = same(model, ROWS)
    assert made.graph.input == model.graph.input
    assert made.graph.output == model.graph.output
    assert [(o.domain, o.version) for o in made.opset_import] == [("", 18)]
