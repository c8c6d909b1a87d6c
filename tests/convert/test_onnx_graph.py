"""An exported graph without leftovers, with its sizes named, and in files that any size fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelkeep.convert import onnx_graph
from modelkeep.model.formats import onnx as onnx_format
from modelkeep.types import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", (None, None), ("batch", "words")),),
    (TensorSpec("y", "float32", (None, None), ("batch", "words")),),
)


def leftovers() -> onnx.ModelProto:
    """x · 2, with a Dropout of inference, an Identity, a weight a node that nothing reads, and notes on nodes."""
    nodes = [
        helper.make_node("Dropout", ["x"], ["dropped"]),
        helper.make_node("Identity", ["dropped"], ["same"]),
        helper.make_node("Mul", ["same", "two"], ["y"], name="scale"),
        helper.make_node("Relu", ["x"], ["unread"]),
    ]
    for node in nodes:
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File /home/me/secret.py")
        node.metadata_props.add(key=onnx_graph.SCOPES, value="['', 'inner.scale']")
    weights = [
        numpy_helper.from_array(np.full(300, 2.0, np.float32)[:1], "two"),
        numpy_helper.from_array(np.ones(9, np.float32), "never_read"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["s7", "s3"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["s7", "s3"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("optimise", [True, False])
def test_what_only_training_needs_goes(optimise: bool, tmp_path: Path) -> None:
    model = onnx_ir.from_proto(leftovers())
    removed = onnx_graph.tidy(model, optimise=optimise)
    onnx_graph.write(model, tmp_path / "model.onnx")
    kept = onnx.load(tmp_path / "model.onnx")
    assert [node.op_type for node in kept.graph.node] == (["Mul"] if optimise else ["Dropout", "Mul"])
    assert [tensor.name for tensor in kept.graph.initializer] == ["two"]
    assert removed == {"Identity": 1, "other nodes": 1, "weights": 1} | ({"Dropout": 1} if optimise else {})


def test_sizes_get_the_names_of_the_signature(tmp_path: Path) -> None:
    model = onnx_ir.from_proto(leftovers())
    onnx_graph.name_sizes(model, SIGNATURE)
    onnx_graph.write(model, tmp_path / "model.onnx")
    assert onnx_format.read_signature(tmp_path / "model.onnx") == SIGNATURE


def test_no_path_of_the_person_s_machine_is_kept(tmp_path: Path) -> None:
    onnx_graph.write(onnx_ir.from_proto(leftovers()), tmp_path / "model.onnx")
    written = (tmp_path / "model.onnx").read_bytes()
    assert b"secret.py" not in written
    assert b"inner.scale" in written  # the proof names layers by it


def test_large_weights_go_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "ONE_FILE", 10)
    monkeypatch.setattr(onnx_graph, "SMALL", 8)
    onnx_graph.write(onnx_ir.from_proto(leftovers()), tmp_path / "model.onnx")
    assert onnx_graph.files(tmp_path / "model.onnx") == ("model.onnx", "model.onnx.data")
    assert onnx.load(tmp_path / "model.onnx").graph.initializer[1].raw_data == np.ones(9, np.float32).tobytes()


@pytest.mark.parametrize(
    ("nodes", "rounds"),
    [
        ("y = Relu (x)", False),
        ("y = DequantizeLinear (small, scale)", False),  # weights kept small; what is computed is not rounded
        ("q = QuantizeLinear (x, scale) y = DequantizeLinear (q, scale)", True),
        ("q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z)", True),
        ("y = If (yes) <then_branch = g () => (q) { q = QuantizeLinear (x, scale) }>", True),
    ],
)
def test_what_computes_with_rounded_numbers(nodes: str, rounds: bool, tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]>
        g (float[n] x, float scale, int8[n] small, bool yes) => (float[n] y) { %s }"""
    onnx.save(onnx.parser.parse_model(text % nodes), tmp_path / "m.onnx")
    assert onnx_graph.rounds(tmp_path / "m.onnx") is rounds
