"""A file is read as plain nodes: constants computed, functions written out, a bias joined, the unused gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelkeep.convert.onnx_source import graph, operators
from modelkeep.convert.onnx_source.graph import Graph
from modelkeep.errors import Unsupported

KNOWN = operators.KNOWN


def saved(tmp_path: Path, nodes: list[Any], opset: int = 18, functions: Any = (), **weights: np.ndarray) -> Path:
    """x [rows, 4] through the nodes to y."""
    drawn = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    domains = {n.domain: 1 for n in nodes if n.domain} | {"": opset}
    imported = [helper.make_opsetid(*one) for one in domains.items()]
    model = helper.make_model(drawn, opset_imports=imported, functions=functions)
    model.ir_version = 9
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def node(operator: str, *inputs: str, gives: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), gives.split(" "), **attributes)


def listed(found: Graph) -> list[str]:
    return [one.operator for one in found.nodes]


W = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def test_what_is_constant_is_computed(tmp_path: Path) -> None:
    nodes = [
        node("Constant", gives="two", value_float=2.0),
        node("Mul", "w", "two", gives="w2"),
        node("Transpose", "w2", gives="t"),
        node("Gemm", "x", "t", transB=1),
    ]
    found = graph.read(saved(tmp_path, nodes, w=W), KNOWN)
    assert listed(found) == ["Gemm"]
    np.testing.assert_array_equal(found.constants["t"], 2 * W.T)
    assert set(found.constants) == {"t"}


def test_the_shape_of_what_is_fixed_is_a_constant(tmp_path: Path) -> None:
    """As TorchScript's exporter asks how many dimensions an expanded tensor has."""
    nodes = [node("Shape", "x", gives="s"), node("Shape", "s", gives="many"), node("ConstantOfShape", "many")]
    found = graph.read(saved(tmp_path, nodes), KNOWN)
    assert (listed(found), found.constants["y"].tolist()) == ([], [0, 0])
    part = [node("Transpose", "w", gives="t"), node("Shape", "t", gives="y", start=-1)]
    assert graph.read(saved(tmp_path, part, w=W), KNOWN).constants["y"].tolist() == [4]


def test_a_matrix_that_two_nodes_use_is_left_alone(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", "w", gives="t"),
        node("MatMul", "x", "w", gives="h"),
        node("MatMul", "h", "t"),
    ]
    assert listed(graph.read(saved(tmp_path, nodes, w=W), KNOWN)) == ["Transpose", "MatMul", "MatMul"]


def test_a_bias_is_joined_to_its_matrix_unless_others_read_between_them(tmp_path: Path) -> None:
    joined = [node("MatMul", "x", "w", gives="h"), node("Add", "b", "h")]
    (linear,) = graph.read(saved(tmp_path, joined, w=W, b=np.ones(3, np.float32)), KNOWN).nodes
    assert (linear.operator, linear.inputs, linear.outputs) == ("Linear", ["x", "w", "b"], ["y"])
    between = [*joined[:1], node("Add", "h", "b", gives="a"), node("Mul", "a", "h")]
    assert listed(graph.read(saved(tmp_path, between, w=W, b=np.ones(3, np.float32)), KNOWN)) == [
        "Linear",
        "Add",
        "Mul",
    ]
    wide = graph.read(saved(tmp_path, joined, w=W, b=np.ones((2, 1, 3), np.float32)), KNOWN)
    assert listed(wide) == ["Linear", "Add"], "what adds dimensions is no bias"


def test_what_no_output_needs_is_gone(tmp_path: Path) -> None:
    nodes = [node("Relu", "x"), node("Add", "x", "w", gives="unused")]
    found = graph.read(saved(tmp_path, nodes, w=np.ones(4, np.float32)), KNOWN)
    assert (listed(found), found.constants) == (["Relu"], {})


def test_functions_of_the_file_and_of_onnx_are_written_out(tmp_path: Path) -> None:
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", "a", "a", gives="b")], [helper.make_opsetid("", 18)]
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["h"], domain="mine"),
        node("MeanVarianceNormalization", "h", axes=[1]),
    ]
    found = listed(graph.read(saved(tmp_path, nodes, functions=[twice]), KNOWN))
    assert found[0] == "Add"
    assert {"ReduceMean", "Sqrt", "Div"} <= set(found)


def test_weights_outside_the_file_are_read(tmp_path: Path) -> None:
    file = saved(tmp_path, [node("MatMul", "x", "w")], w=W)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="w.data", size_threshold=0)
    np.testing.assert_array_equal(graph.read(file, KNOWN).constants["w"], W)


@pytest.mark.parametrize(
    ("operator", "domain", "said"),
    [
        ("Det", "", r"uses Det \(node 'one'\), which modelkeep does not write in PyTorch; add the PyTorch model"),
        ("DynamicQuantizeLinear", "com.microsoft", "a quantized model cannot be trained; convert the model that it"),
        ("DequantizeLinear", "", "a quantized model cannot be trained; convert the model that it was made from"),
        ("TreeEnsembleClassifier", "ai.onnx.ml", "belongs to classic machine learning, whose models are fitted again"),
        ("FusedMatMul", "com.microsoft", "export the model anew without optimizations of ONNX Runtime"),
    ],
)
def test_an_operator_that_is_not_known_is_told_with_the_mend(
    tmp_path: Path, operator: str, domain: str, said: str
) -> None:
    nodes = [helper.make_node(operator, ["x"], ["y"], name="one", domain=domain)]
    with pytest.raises(Unsupported, match=said):
        graph.read(saved(tmp_path, nodes), KNOWN)


def test_an_old_opset_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"m\.onnx is of opset 5; convert it to 7 or newer"):
        graph.read(saved(tmp_path, [node("Relu", "x")], opset=5), KNOWN)


def test_the_floats_of_attributes_are_what_a_person_wrote(tmp_path: Path) -> None:
    (one,) = graph.read(saved(tmp_path, [node("LeakyRelu", "x", alpha=0.01)]), KNOWN).nodes
    assert one.attributes == {"alpha": 0.01}


def test_what_depends_on_what_was_learned(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", gives="s"),
        node("Cast", "s", gives="f", to=TensorProto.FLOAT),
        node("MatMul", "x", "w", gives="h"),
        node("ReduceSum", "f", gives="g"),
        node("Mul", "h", "g"),
    ]
    found = graph.read(saved(tmp_path, nodes, w=W), KNOWN)
    assert graph.learned(found, set()) == {"x", "h", "y"}
