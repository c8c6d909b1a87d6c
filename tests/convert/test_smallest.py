"""Where a free dimension begins: found by running the model, once, and only where nothing says it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelkeep.convert.onnx_to_openvino import OnnxToOpenVino
from modelkeep.convert.smallest import smallest
from modelkeep.model import engines, formats
from modelkeep.types import Bounds, Model


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A convolution of 3 × 3 without padding, which takes pictures of 3 pixels and more."""
    import numpy as np

    room = tmp_path_factory.mktemp("picture")
    weights = np.random.default_rng(0).standard_normal((2, 1, 3, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "picture",
        [value("x", TensorProto.FLOAT, ["batch", 1, "height", "width"])],
        [value("y", TensorProto.FLOAT, ["batch", 2, "rows", "columns"])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), room / "m.onnx")
    return formats.adopt(room / "m.onnx", room / "adopted")


def test_it_begins_at_what_the_model_takes(picture: Model) -> None:
    found = smallest(picture, None)
    assert (found.bounds["height"].low, found.bounds["width"].low) == (3, 3)
    assert found.inputs == picture.signature.inputs


def test_what_has_a_bound_is_not_tried(picture: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "load", lambda *_: pytest.fail("it was run"))
    told = replace(picture.signature, bounds={"height": Bounds(5, None, 1), "width": Bounds(5, None, 1)})
    assert smallest(replace(picture, signature=told), None) is told


def test_such_a_model_is_converted_and_says_from_where_on(picture: Model, tmp_path: Path) -> None:
    made, (report,) = OnnxToOpenVino().run(picture, tmp_path / "made")
    assert report.ok
    assert made.signature.bounds["height"].low == 3
    assert 3 in report.numbers["sizes"]["height"]
