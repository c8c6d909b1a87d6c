"""OpenVINO's IR as a person has it: two files, whose signature is read, and which are refused when one is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelkeep import extras
from modelkeep.errors import BadModel, Unsupported
from modelkeep.model import engines, folder, formats

onnx = pytest.importorskip("onnx")
openvino = extras.need("openvino", extra="openvino")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  (after the skip)

from modelkeep.model.formats import openvino as openvino_format  # noqa: E402

WEIGHTS = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)


def written(at: Path, kind: int = TensorProto.FLOAT, last: int | None = 8) -> Path:
    """at/net.xml and at/net.bin: x [batch, length, 8] times a matrix, and x itself."""
    multiplies = kind == TensorProto.FLOAT and last
    nodes = [helper.make_node("Identity", ["x.in"], ["same"])]
    outputs = [helper.make_tensor_value_info("same", kind, ["batch", "length", last])]
    if multiplies:
        nodes.append(helper.make_node("MatMul", ["x.in", "w"], ["times"]))
        outputs.append(helper.make_tensor_value_info("times", kind, ["batch", "length", 3]))
    taken = [helper.make_tensor_value_info("x.in", kind, ["batch", "length", last])]
    graph = helper.make_graph(nodes, "net", taken, outputs, [numpy_helper.from_array(WEIGHTS, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, at / "net.onnx")
    openvino.save_model(openvino.Core().read_model(at / "net.onnx"), at / "net.xml", compress_to_fp16=False)
    return at / "net.xml"


def test_both_files_are_kept_and_the_free_dimensions_too(tmp_path: Path) -> None:
    model = formats.adopt(written(tmp_path), tmp_path / "into")
    assert model.files == ("model.xml", "model.bin")
    assert [t.shape for t in model.signature.inputs] == [(None, None, 8)]
    assert [(t.name, t.dtype, t.shape) for t in model.signature.outputs] == [
        ("same", "float32", (None, None, 8)),
        ("times", "float32", (None, None, 3)),
    ]
    runner = engines.load(folder.read(model.path))
    for shape in ((1, 1, 8), (3, 7, 8), (2, 4, 8)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        found = runner.run({"x.in": x})
        np.testing.assert_allclose(found["times"], x @ WEIGHTS, atol=1e-5)
        assert np.array_equal(found["same"], x)


@pytest.mark.parametrize("name", ["bool", "int64", "uint8", "float16", "float64"])
def test_types_are_numpys(tmp_path: Path, name: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(name))
    model = formats.adopt(written(tmp_path, kind), tmp_path / "into")
    assert model.signature.inputs[0].dtype == name


def test_what_no_engine_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"'x\.in' of .*net\.xml is string, which engine 'openvino' does not run"):
        formats.adopt(written(tmp_path, TensorProto.STRING), tmp_path / "into")


def test_one_file_of_the_two(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = (tmp_path / "net.bin").read_bytes()
    (tmp_path / "net.bin").write_bytes(whole[:50])
    with pytest.raises(BadModel, match=r"net\.xml is not a model that OpenVINO can read: Incorrect weights in bin"):
        formats.adopt(file, tmp_path / "into")
    (tmp_path / "net.bin").unlink()
    with pytest.raises(BadModel, match=r"net\.xml keeps its weights in 'net\.bin', which is not beside it"):
        formats.adopt(file, tmp_path / "into")


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    graph = openvino_format.read(written(tmp_path))
    with pytest.raises(BadModel, match=r"OpenVINO cannot write .*nowhere/model\.xml"):
        openvino_format.save(graph, tmp_path / "net.bin" / "nowhere")
