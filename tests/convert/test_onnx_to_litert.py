"""ONNX → LiteRT keeps answers and free dimensions; what the interpreter cannot hold is refused whole."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelkeep.convert.onnx_to_litert import OnnxToLitert
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.errors import Unsupported
from modelkeep.model import engines, formats

pytestmark = pytest.mark.usefixtures("tensorflow_python")


@pytest.mark.parametrize("name", ["MLP", "Conv"])
def test_the_answers_stay_at_any_batch(name: str, adopted: Any, digits: Any, tmp_path: Path) -> None:
    source, _ = TorchToOnnx().run(adopted(name), tmp_path / "onnx")
    made, (report,) = OnnxToLitert().run(source, tmp_path / "made")
    assert report.ok
    assert made.files == ("model.tflite",)
    assert made.signature == source.signature
    with contextlib.closing(engines.load(source)) as a, contextlib.closing(engines.load(made)) as b:
        for count in (1, 5):
            rows = digits[1].head(count).inputs
            np.testing.assert_allclose(b.run(rows)["output"], a.run(rows)["output"], rtol=1e-4, atol=1e-4)


def test_an_operator_that_it_lacks_is_refused_in_one_sentence(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Asinh", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "net.onnx")
    source = formats.adopt(tmp_path / "net.onnx", tmp_path / "adopted")
    with pytest.raises(Unsupported, match="LiteRT cannot hold this model") as error:
        OnnxToLitert().run(source, tmp_path / "made")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "made").iterdir()) == []
