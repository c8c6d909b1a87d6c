"""An ONNX file as plain nodes and constants: functions inlined, constants computed, a bias joined to its MatMul."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from modelkeep.errors import Unsupported

if TYPE_CHECKING:
    from modelkeep.types import Array

OLDEST_OPSET = 7
"""Before it, broadcasting was an attribute."""
DRAWS = ("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli")
"""Operators whose names begin so are no constants although their inputs are."""


@dataclass
class Node:
    """One operator. An input or output that is left out is ``""``; attributes are numbers, text, arrays or lists."""

    operator: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.operator} '{self.name or self.outputs[0]}'"


@dataclass
class Graph:
    """Nodes in an order that they can be run in. ``ranks`` and ``dtypes`` (numpy's) hold what is known of a value,
    ``fixed`` the shapes that have no free dimension.
    """

    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    constants: dict[str, Array]
    opset: int
    ranks: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)
    fixed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def uses(self) -> Counter[str]:
        """How many inputs of nodes, and outputs of the graph, each value is."""
        return Counter([*(name for node in self.nodes for name in node.inputs if name), *self.outputs])

    def is_float(self, name: str) -> bool:
        """Whether a value is known to hold floating-point numbers."""
        return name in self.dtypes and self.dtypes[name].kind == "f"


def read(file: Path, known: Collection[str]) -> Graph:
    """The graph of a file, whose operators are all ``known``; one that ONNX defines by others is written out in them.

    Raises Unsupported, which names the operator and its node.
    """
    model = onnx.load(str(file), load_external_data=False)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise Unsupported(f"{file} is of opset {opset}; convert it to {OLDEST_OPSET} or newer (onnx.version_converter)")
    if model.functions:
        model = inliner.inline_local_functions(model)
    model = _infer(_written_out(_infer(model), known))
    for proto in model.graph.node:
        if proto.op_type not in known or proto.domain not in ("", "ai.onnx"):
            raise Unsupported(_missing(proto))
    graph = _plain(model, file.parent, opset)
    _fold(graph)
    _join_bias(graph)
    _drop_unused(graph)
    return graph


def _missing(node: onnx.NodeProto) -> str:
    where = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    told = (
        f"the ONNX model uses {where} (node '{node.name or node.output[0]}'), which modelkeep does not write in PyTorch"
    )
    if "quantize" in node.op_type.lower() or node.op_type.endswith("Integer"):
        return f"{told}: a quantized model cannot be trained; convert the model that it was made from"
    if node.domain == "ai.onnx.ml":
        return f"{told}: it belongs to classic machine learning, whose models are fitted again instead"
    if node.domain:
        return f"{told}: export the model anew without optimizations of ONNX Runtime, which write such operators"
    return f"{told}; add the PyTorch model itself, with --factory"


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    return shape_inference.infer_shapes(model, data_prop=True)


def _written_out(model: onnx.ModelProto, known: Collection[str]) -> onnx.ModelProto:
    """Operators that are not known, but that ONNX defines as a function of others, written as those."""
    for _ in range(4):  # a function may use others
        unknown = {(n.domain, n.op_type) for n in model.graph.node if n.op_type not in known and not n.domain}
        if not unknown:
            return model
        try:
            written = inliner.inline_selected_functions(model, sorted(unknown), inline_schema_functions=True)
        except RuntimeError:  # of a function that needs types which nobody knows; the operator is told below
            return model
        if len(written.graph.node) == len(model.graph.node):
            return model
        model = _infer(written)
    return model


def _plain(model: onnx.ModelProto, folder: Path, opset: int) -> Graph:
    proto = model.graph
    constants = {t.name: numpy_helper.to_array(t, str(folder)) for t in proto.initializer}
    nodes = []
    for n in proto.node:
        attributes = {a.name: _value(a, folder) for a in n.attribute if a.name}
        if set(attributes.get("dilations", [2])) == {1}:
            del attributes["dilations"]  # no dilation at all, which some operators have no other way to say
        node = Node(n.op_type, n.name, list(n.input), list(n.output), attributes)
        if n.op_type == "Constant":
            ((key, value),) = attributes.items()
            kinds = {
                "value_float": np.float32,
                "value_floats": np.float32,
                "value_int": np.int64,
                "value_ints": np.int64,
            }
            constants[n.output[0]] = np.asarray(value, kinds.get(key))
        else:
            nodes.append(node)
    graph = Graph(
        [i.name for i in proto.input if i.name not in constants],
        [o.name for o in proto.output],
        nodes,
        constants,
        opset,
    )
    for info in (*proto.input, *proto.output, *proto.value_info):
        tensor = info.type.tensor_type
        if tensor.HasField("shape"):
            graph.ranks[info.name] = len(tensor.shape.dim)
            if all(d.HasField("dim_value") for d in tensor.shape.dim):
                graph.fixed[info.name] = tuple(d.dim_value for d in tensor.shape.dim)
        if tensor.elem_type and tensor.elem_type != onnx.TensorProto.STRING:
            graph.dtypes[info.name] = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return graph


def _value(attribute: onnx.AttributeProto, folder: Path) -> Any:
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return None
    value = helper.get_attribute_value(attribute)
    if attribute.type == onnx.AttributeProto.TENSOR:
        return numpy_helper.to_array(value, str(folder))
    if attribute.type == onnx.AttributeProto.FLOAT:
        return _short(value)
    if attribute.type == onnx.AttributeProto.FLOATS:
        return [_short(v) for v in value]
    if isinstance(value, bytes):
        return value.decode()
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [v.decode() for v in value]
    return value if isinstance(value, int) else list(value)


def _short(value: float) -> float:
    """0.01 for the 32 bits that are nearest to it."""
    return float(str(np.float32(value)))


def _fold(graph: Graph) -> None:
    """What depends on constants only is computed, but for a matrix that several nodes use: it stays one parameter."""
    uses, kept = graph.uses(), []
    for node in graph.nodes:
        given = [name for name in node.inputs if name]
        if node.operator == "Shape" and node.inputs[0] in graph.fixed:
            whole = graph.fixed[node.inputs[0]]
            part = whole[node.attributes.get("start", 0) : node.attributes.get("end", len(whole))]
            graph.constants[node.outputs[0]] = np.array(part, np.int64)
            continue
        varies = node.operator.startswith(DRAWS) or not all(name in graph.constants for name in given)
        if varies or any(_is_matrix(graph.constants[name]) and uses[name] > 1 for name in given):
            kept.append(node)
        else:
            graph.constants.update(_computed(node, graph))
    graph.nodes = kept
    for name, value in graph.constants.items():
        graph.ranks[name], graph.dtypes[name] = value.ndim, value.dtype


def _is_matrix(value: Array) -> bool:
    return value.dtype.kind == "f" and value.ndim > 1


def _computed(node: Node, graph: Graph) -> dict[str, Array]:
    """The outputs of a node whose inputs are constants, by ONNX's own reference implementation."""
    proto = helper.make_node(node.operator, node.inputs, node.outputs, **_attributes(node))
    feeds = {name: graph.constants[name] for name in node.inputs if name}
    taken = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in node.outputs if name]
    alone = helper.make_graph([proto], "one", taken, given)
    model = helper.make_model(alone, opset_imports=[helper.make_opsetid("", graph.opset)])
    try:
        found = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # the reference implementation raises whatever numpy does
        raise Unsupported(f"the constant {node} cannot be computed: {error!r}") from error
    return dict(zip([name for name in node.outputs if name], map(np.asarray, found), strict=True))


def _attributes(node: Node) -> dict[str, Any]:
    arrays = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in node.attributes.items()}
    return {key: value for key, value in arrays.items() if value is not None}


def _join_bias(graph: Graph) -> None:
    """MatMul and the Add of a constant row after it are one ``Linear``, as they were before they were exported."""
    uses = graph.uses()
    readers = {name: node for node in graph.nodes for name in node.inputs}
    joined: set[int] = set()
    for node in graph.nodes:
        weight = graph.constants.get(node.inputs[1]) if node.operator == "MatMul" else None
        if weight is None or weight.ndim != 2 or uses[node.inputs[1]] > 1 or node.inputs[0] in graph.constants:
            continue
        node.operator = "Linear"
        after = readers.get(node.outputs[0])
        if after is None or after.operator != "Add" or uses[node.outputs[0]] > 1:
            continue
        bias = next(name for name in reversed(after.inputs) if name != node.outputs[0])
        if bias in graph.constants and graph.constants[bias].shape == weight.shape[1:]:
            node.inputs, node.outputs = [*node.inputs, bias], after.outputs
            joined.add(id(after))
    graph.nodes = [node for node in graph.nodes if id(node) not in joined]


def _drop_unused(graph: Graph) -> None:
    """Only what the outputs need."""
    wanted, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    graph.nodes = kept[::-1]
    graph.constants = {name: value for name, value in graph.constants.items() if name in wanted}


def learned(graph: Graph, weights: Collection[str]) -> set[str]:
    """The values that depend on a floating-point input of the graph or on one of the ``weights``."""
    found = {name for name in graph.inputs if graph.is_float(name)} | set(weights)
    for node in graph.nodes:
        if node.operator not in ("Shape", "Size") and found.intersection(node.inputs):
            found.update(name for name in node.outputs if name)
    return found


def readers(graph: Graph) -> Iterator[tuple[str, Node, int]]:
    """Every (constant, node that reads it, which of its inputs it is)."""
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            if name in graph.constants:
                yield name, node, position
