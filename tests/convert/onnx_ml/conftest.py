"""Models with classic operators, and what they answer before and after they are rewritten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from modelkeep.convert import onnx_ml

KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}


def answers(model: onnx.ModelProto, rows: np.ndarray) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found: list[Any] = session.run(None, {session.get_inputs()[0].name: rows})
    return found


@pytest.fixture
def same(tmp_path: Path) -> Callable[..., onnx.ModelProto]:
    """``same(model, rows)``: rewritten, it has no classic operator and answers the same; the rewritten model."""

    def check(model: onnx.ModelProto, rows: np.ndarray) -> onnx.ModelProto:
        onnx.save(model, tmp_path / "classic.onnx")
        assert onnx_ml.needed(tmp_path / "classic.onnx")
        made = onnx_ml.rewritten(tmp_path / "classic.onnx")
        onnx.checker.check_model(made)
        assert {node.domain for node in made.graph.node} == {""}
        for want, got in zip(answers(model, rows), answers(made, rows), strict=True):
            assert want.dtype == got.dtype
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        return made

    return check


@pytest.fixture
def one_node() -> Callable[..., onnx.ModelProto]:
    """``one_node("Scaler", rows, 3, offset=…)``: a model of this operator alone, its output having so many columns."""

    def make(
        operator: str, rows: np.ndarray, *outputs: Sequence[Any], constants: Sequence[Any] = (), **attributes: Any
    ) -> onnx.ModelProto:
        names = [f"out_{n}" for n in range(len(outputs))]
        node = helper.make_node(
            operator, ["rows", *(c.name for c in constants)], names, domain=onnx_ml.DOMAIN, **attributes
        )
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("rows", KINDS[rows.dtype], [None, *rows.shape[1:]])],
            [
                helper.make_tensor_value_info(name, kind, shape)
                for name, (kind, shape) in zip(names, outputs, strict=True)
            ],
            list(constants),
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(onnx_ml.DOMAIN, 3)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    return make
