"""Every ONNX operator written in TensorFlow answers as ONNX Runtime does, with free dimensions, at two sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelkeep.errors import Unsupported
from modelkeep.model.engines import tensorflow
from modelkeep.model.formats import onnx as onnx_format

RNG = np.random.default_rng(0)
F, N, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
KINDS = {F: np.float32, N: np.int64, B: np.bool_}
INPUTS: dict[str, tuple[int, list[Any]]] = {
    "x": (F, ["n", 4, 6]),
    "y": (F, ["n", 4, 6]),
    "positive": (F, ["n", 4, 6]),
    "share": (F, ["n", 4, 6]),
    "whole": (N, ["n", 4, 6]),
    "other": (N, ["n", 4, 6]),
    "truth": (B, ["n", 4, 6]),
    "lie": (B, ["n", 4, 6]),
    "line": (F, ["n", 4, "l"]),
    "image": (F, ["n", 4, "h", "w"]),
    "one": (F, [4]),
}


class Case(NamedTuple):
    """One node: what it is, what it takes (names of INPUTS, or arrays), its attributes, and how many outputs."""

    operator: str
    inputs: tuple[Any, ...]
    attributes: Mapping[str, Any] = MappingProxyType({})
    outputs: int = 1


def w(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def each(operators: str, *inputs: str) -> list[Case]:
    return [Case(operator, inputs) for operator in operators.split()]


SPREAD = (np.abs(w(4)), w(4), w(4), np.abs(w(4)))
GROUPS: dict[str, list[Case]] = {
    "of one": [
        *each("Abs Ceil Cos Cosh Erf Exp Floor Round Sigmoid Sign Sin Sinh Softsign Atan Asinh Tanh Neg Relu", "x"),
        *each("Softplus Mish HardSwish HardSigmoid LeakyRelu Elu Celu Selu ThresholdedRelu Gelu IsNaN IsInf", "x"),
        *each("Log Sqrt Reciprocal", "positive"),
        *each("Acos Asin Atanh Tan", "share"),
        *each("Not", "truth"),
        *each("Identity Dropout Size Hardmax", "x"),
        Case("Acosh", ("positive",)),
        Case("Gelu", ("x",), {"approximate": "tanh"}),
        Case("IsInf", ("x",), {"detect_negative": 0}),
        Case("Clip", ("x", np.float32(-0.5), np.float32(0.5))),
        Case("Clip", ("x", "", np.float32(0.5))),
        Case("Cast", ("x",), {"to": N}),
        Case("Cast", ("truth",), {"to": F}),
    ],
    "of two": [
        *each("Add Sub Mul Div Max Min Sum Mean Greater GreaterOrEqual Less LessOrEqual CastLike", "x", "y"),
        *each("And Or Xor", "truth", "lie"),
        *each("Equal Mod Div BitwiseAnd BitwiseOr BitwiseXor", "whole", "other"),
        Case("BitwiseNot", ("whole",)),
        Case("Mod", ("x", "positive"), {"fmod": 1}),
        Case("Pow", ("positive", "y")),
        Case("Pow", ("x", i(2))),
        Case("PRelu", ("x", w(4, 1))),
        Case("Where", ("truth", "x", "y")),
        Case("Add", ("x", w(4, 1))),
    ],
    "reductions": [
        *(
            Case(f"Reduce{name}", ("positive", i(1)), {"keepdims": keep})
            for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
            for keep in (0, 1)
        ),
        Case("ReduceSum", ("x",)),
        Case("ReduceSum", ("x",), {"noop_with_empty_axes": 1}),
        Case("ArgMax", ("x",), {"axis": 1}),
        Case("ArgMin", ("x",), {"axis": -1, "keepdims": 0}),
        Case("ArgMax", ("whole",), {"axis": 1, "select_last_index": 1}),
        Case("Softmax", ("x",), {"axis": 1}),
        Case("LogSoftmax", ("x",)),
        Case("CumSum", ("x", np.int64(1)), {"exclusive": 1, "reverse": 1}),
        Case("TopK", ("x", i(3)), {"axis": 1}, 2),
        Case("TopK", ("x", i(2)), {"largest": 0}, 2),
        Case("QuantizeLinear", ("x", np.float32(0.1), np.uint8(128))),
        Case("DequantizeLinear", (np.arange(8, dtype=np.int8).reshape(2, 4), w(4), np.zeros(4, np.int8)), {"axis": 1}),
    ],
    "moving": [
        Case("Shape", ("x",), {"start": 0, "end": 2}),
        Case("Reshape", ("x", i(0, -1, 3))),
        Case("Flatten", ("x",), {"axis": 2}),
        Case("Transpose", ("x",), {"perm": [2, 0, 1]}),
        Case("Transpose", ("x",)),
        Case("Unsqueeze", ("x", i(0, -1))),
        Case("Expand", ("x", i(3, 1, 1, 6))),
        Case("Concat", ("x", "y"), {"axis": -1}),
        Case("Split", ("x", i(1, 3)), {"axis": 1}, 2),
        Case("Split", ("x",), {"axis": 2, "num_outputs": 4}, 4),
        Case("Slice", ("x", i(1, -1), i(2**62, -(2**62)), i(1, 2), i(1, -2))),
        Case("Slice", ("x", i(-3), i(-1), i(1))),
        Case("Gather", ("x", i(0, -1, 2)), {"axis": 1}),
        Case("Gather", ("x", np.int64(-1)), {"axis": 2}),
        Case("GatherElements", ("x", i(-1, 0, 1).reshape(1, 3, 1)), {"axis": 2}),
        Case("GatherND", ("x", i(0, -1).reshape(1, 2))),
        Case("ScatterElements", ("x", i(0, 1).reshape(1, 2, 1), w(1, 2, 1)), {"axis": 1}),
        Case("ScatterND", ("x", i(0, 1).reshape(1, 2), w(1, 6)), {"reduction": "add"}),
        Case("Tile", ("x", i(2, 1, 3))),
        Case("Pad", ("x", i(1, 0, 2, 0, 1, 0), np.float32(9))),
        Case("Pad", ("x", i(0, 1, 1, 0, 1, 2)), {"mode": "reflect"}),
        Case("Pad", ("x", i(2, 1), "", i(-1)), {"mode": "edge"}),
        Case("Range", (np.int64(1), np.int64(9), np.int64(3))),
        Case("ConstantOfShape", (i(2, 3),), {"value": numpy_helper.from_array(np.array([7], np.int64))}),
        Case("Constant", (), {"value_floats": [1.0, 2.0]}),
        Case("OneHot", ("whole", np.int64(5), w(2)), {"axis": 1}),
        Case("Trilu", ("x",), {"upper": 0}),
        Case("Trilu", ("x", np.int64(1))),
        Case("NonZero", ("truth",)),
        Case("DepthToSpace", ("image",), {"blocksize": 2}),
        Case("DepthToSpace", ("image",), {"blocksize": 2, "mode": "CRD"}),
    ],
    "products and statistics": [
        Case("MatMul", ("x", w(6, 5))),
        Case("MatMul", ("x", w(6))),
        Case("MatMul", ("one", "x")),
        Case("Gemm", (w(3, 4), w(5, 3), w(5)), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
        Case("Einsum", ("x", "y"), {"equation": "nab, ncb -> nac"}),
        Case("BatchNormalization", ("image", *SPREAD)),
        Case("BatchNormalization", (w(3, 4), *SPREAD)),
        Case("LayerNormalization", ("x", w(6), w(6))),
        Case("LayerNormalization", ("x", w(4, 6)), {"axis": 1}),
        Case("GroupNormalization", ("image", w(2), w(2)), {"num_groups": 2}),
        Case("InstanceNormalization", ("image", w(4), w(4))),
        Case("LRN", ("image",), {"size": 3}),
        Case("LpNormalization", ("x",), {"axis": 1}),
    ],
    "windows": [
        Case("Conv", ("image", w(5, 4, 3, 3), w(5)), {"pads": [1, 1, 1, 1]}),
        Case("Conv", ("image", w(6, 2, 3, 2)), {"group": 2, "strides": [2, 1], "pads": [0, 1, 2, 0]}),
        Case("Conv", ("image", w(8, 1, 3, 3), w(8)), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        Case("Conv", ("image", w(5, 4, 2, 2)), {"auto_pad": "SAME_LOWER"}),
        Case("Conv", ("line", w(5, 4, 3)), {"dilations": [2], "pads": [2, 2]}),
        Case("ConvTranspose", ("image", w(4, 3, 3, 3), w(3)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        Case("ConvTranspose", ("image", w(4, 2, 2, 2)), {"group": 2, "strides": [2, 2], "output_padding": [1, 1]}),
        Case("MaxPool", ("image",), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        Case("MaxPool", ("image",), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        Case("MaxPool", ("line",), {"kernel_shape": [2], "dilations": [2]}),
        Case("AveragePool", ("image",), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        Case("AveragePool", ("image",), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        Case("AveragePool", ("image",), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        Case("GlobalAveragePool", ("image",)),
        Case("GlobalMaxPool", ("image",)),
    ],
    "resizing": [
        Case("Resize", ("image", "", np.array([1, 1, 2, 1.5], np.float32)), {"mode": "nearest"}),
        Case(
            "Resize",
            ("image", "", np.array([1, 1, 2, 2], np.float32)),
            {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        ),
        Case("Resize", ("image", "", np.array([1, 1, 2, 0.5], np.float32)), {"mode": "linear"}),
        Case(
            "Resize",
            ("image", "", "", i(7, 9)),
            {"mode": "linear", "coordinate_transformation_mode": "align_corners", "axes": [2, 3]},
        ),
        Case(
            "Resize",
            ("image", "", np.array([1, 1, 2, 2], np.float32)),
            {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"},
        ),
    ],
    "recurrent": [
        Case("LSTM", ("line", w(1, 12, 5), w(1, 12, 3), w(1, 24)), {"hidden_size": 3}, 3),
        Case("LSTM", ("line", w(2, 12, 5), w(2, 12, 3), w(2, 24)), {"hidden_size": 3, "direction": "bidirectional"}, 3),
        Case("GRU", ("line", w(1, 9, 5), w(1, 9, 3), w(1, 18)), {"hidden_size": 3, "linear_before_reset": 1}, 2),
        Case("GRU", ("line", w(1, 9, 5), w(1, 9, 3)), {"hidden_size": 3, "direction": "reverse"}, 2),
        Case("RNN", ("line", w(1, 3, 5), w(1, 3, 3), w(1, 6)), {"hidden_size": 3}, 2),
    ],
}
"""Cases that share one graph, and so one conversion."""


def graph(cases: list[Case], into: Path, opset: int = 20) -> Path:
    """All of them side by side in one ONNX file; output ``3 Split 1`` is the second of the case at 3."""
    nodes, constants, outputs, used = [], [], [], set()
    for at, case in enumerate(cases):
        names = []
        for position, given in enumerate(case.inputs):
            if isinstance(given, str):
                used |= {given} - {""}
                names.append(given)
            else:
                names.append(f"constant {at} {position}")
                constants.append(numpy_helper.from_array(np.asarray(given), names[-1]))
        made = [f"{at} {case.operator} {n}" for n in range(case.outputs)]
        outputs += made
        nodes.append(helper.make_node(case.operator, names, made, f"node {at}", **case.attributes))
    inputs = [
        helper.make_tensor_value_info(name, kind, ["l", "n", 5] if (name, case.operator) == ("line", "LSTM") else shape)
        for name, (kind, shape) in INPUTS.items()
        if name in used
    ]
    proto = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info(o) for o in outputs], constants)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    model = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    onnx.save(model, into / "model.onnx")
    return into / "model.onnx"


def rows(name: str, sizes: dict[str, int]) -> np.ndarray:
    kind, shape = INPUTS[name]
    drawn = np.random.default_rng(len(name)).standard_normal([sizes.get(size, size) for size in shape])
    if name in ("positive", "share"):
        drawn = np.abs(drawn) + 1 if name == "positive" else np.tanh(drawn)
    if kind == N:
        drawn = np.floor(np.abs(drawn) * 2) + (name == "other")
    return (drawn > 0).astype(bool) if kind == B else drawn.astype(KINDS[kind])


@pytest.mark.usefixtures("tensorflow_python")
@pytest.mark.parametrize("group", GROUPS)
def test_it_answers_as_onnx_runtime_does(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if group == "recurrent":
        monkeypatch.setitem(INPUTS, "line", (F, ["l", "n", 5]))
    session = onnxruntime.InferenceSession(graph(GROUPS[group], tmp_path), providers=["CPUExecutionProvider"])
    ask = converted(tmp_path)
    for sizes in ({"n": 2, "l": 9, "h": 8, "w": 6}, {"n": 3, "l": 7, "h": 10, "w": 12}):
        feeds = {node.name: rows(node.name, sizes) for node in session.get_inputs()}
        want = dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))
        found = ask(feeds)
        for name, answer in want.items():
            assert found[name].dtype == answer.dtype, name
            np.testing.assert_allclose(found[name], answer, rtol=1e-4, atol=1e-5, err_msg=name)


def converted(folder: Path) -> Any:
    """The function that asks the SavedModel made of model.onnx in this folder."""
    signature = onnx_format.read_signature(folder / "model.onnx")
    told = {
        "inputs": [[t.name, t.dtype, t.shape] for t in signature.inputs],
        "outputs": [[t.name, t.dtype, t.shape] for t in signature.outputs],
    }
    arguments = {"file": str(folder / "model.onnx"), "into": str(folder / "saved"), "target": "tensorflow", **told}
    tensorflow.ask("tensorflow.from_onnx:convert", arguments, 300.0)
    asked = tensorflow.SHARED.take()
    opened, _ = asked.call(
        "tensorflow.models:open_model", {"path": str(folder / "saved"), "kind": "tensorflow"}, seconds=60.0
    )
    tensorflow.SHARED.give_back()
    return lambda feeds: asked.call("tensorflow.models:run", {"number": opened["number"]}, feeds, seconds=60.0)[1]


@pytest.mark.usefixtures("tensorflow_python")
@pytest.mark.parametrize(
    ("case", "told"),
    [
        (Case("Det", ("x",)), "the ONNX operator Det has no counterpart in TensorFlow here"),
        (
            Case("LRN", ("image",), {"size": 4}),
            "the ONNX operator LRN (node node 0) cannot be written in TensorFlow",
        ),
        (
            Case("LSTM", ("line", w(1, 12, 5), w(1, 12, 3)), {"hidden_size": 3, "clip": 1.0}, 3),
            "cannot be written in TensorFlow: clip, layout and input_forget are not supported",
        ),
        (Case("MaxPool", ("image",), {"kernel_shape": [2, 2]}, 2), "the indices of a MaxPool are not supported"),
    ],
)
def test_what_has_no_counterpart_is_named(
    case: Case, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(INPUTS, "line", (F, ["l", "n", 5]))
    graph([case], tmp_path)
    (taken,) = (given for given in case.inputs if isinstance(given, str))
    free = [size if isinstance(size, int) else None for size in INPUTS[taken][1]]
    shapes = {"inputs": [[taken, "float32", free]], "outputs": [["out", "float32", [None]]] * case.outputs}
    arguments = {"file": str(tmp_path / "model.onnx"), "into": str(tmp_path / "saved"), "target": "tensorflow"}
    with pytest.raises(Unsupported) as error:
        tensorflow.ask("tensorflow.from_onnx:convert", {**arguments, **shapes}, 300.0)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
