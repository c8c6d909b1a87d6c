"""An exported ONNX graph made ready to be kept: training leftovers out, sizes named, written by path at any size."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx_ir
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from modelkeep.model.formats import onnx as onnx_format
from modelkeep.types import Signature

ONE_FILE = 1_500_000_000
"""Bytes of weights that still go into model.onnx itself; a protobuf message ends at 2 GiB."""
SMALL = 1024
"""Weights of fewer bytes stay in model.onnx in any case."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch.onnx notes which submodules a node came from; its stack traces, which name your folders, are dropped."""


ROUNDS = re.compile(r"(Dynamic)?QuantizeLinear|QLinear\w+|QGemm|QAttention|QEmbed\w+|(Conv|MatMul)Integer\w*")
"""Operators that round what a model computes to whole numbers; DequantizeLinear alone only keeps its weights small."""


def rounds(file: Path) -> bool:
    """Whether this ONNX model computes with rounded numbers (int8): functions and branches are looked into."""
    model = onnx_ir.load(file)
    graphs: list[onnx_ir.Graph | onnx_ir.Function] = [model.graph, *model.functions.values()]
    nodes = (node for graph in graphs for node in onnx_ir.traversal.RecursiveGraphIterator(graph))
    return any(ROUNDS.fullmatch(node.op_type) for node in nodes)


def tidy(model: onnx_ir.Model, *, optimise: bool) -> dict[str, int]:
    """Take out what only training needs, in place, and say how many of each kind went.

    Identities, nodes and weights that nothing reads; with ``optimise`` onnxscript's optimiser too (dropout of
    inference, constants folded, equal weights kept once), which torch.onnx has already run on what dynamo exports.
    """
    before = _count(model)
    if optimise:
        optimizer.optimize_ir(model)
    Sequential(
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
        passes.RemoveInitializersFromInputsPass(),
    )(model)
    after = _count(model)
    return {what: before[what] - after[what] for what in before if before[what] > after[what]}


def name_sizes(model: onnx_ir.Model, signature: Signature) -> None:
    """Give the free dimensions of the inputs and outputs the signature's names, in every value that has them."""
    graph = model.graph
    names: dict[str, str] = {}
    for value, spec in zip((*graph.inputs, *graph.outputs), (*signature.inputs, *signature.outputs), strict=False):
        for size, name in zip(value.shape or (), spec.axes, strict=False):
            if isinstance(size, onnx_ir.SymbolicDim) and size.value and name:
                names.setdefault(str(size.value), name)
    for value in _values(model):
        if value.shape is not None and any(isinstance(size, onnx_ir.SymbolicDim) for size in value.shape):
            sizes = [size if isinstance(size, int) else names.get(str(size.value), size.value) for size in value.shape]
            value.shape = onnx_ir.Shape(sizes)


def write(model: onnx_ir.Model, file: Path) -> None:
    """To this file, and with more than ONE_FILE bytes of weights to this file's name and .data beside it."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        for key in [key for key in node.metadata_props if key != SCOPES]:
            del node.metadata_props[key]
    for value in _values(model):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights > ONE_FILE:
        onnx_ir.save(model, file, external_data=f"{file.name}.data", size_threshold_bytes=SMALL)
    else:
        onnx_ir.save(onnx_ir.external_data.load_to_model(model), file)


def files(file: Path) -> tuple[str, ...]:
    """The file and those that keep its weights, as a Model names them."""
    return (file.name, *onnx_format.external_files(file))


def _values(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    graph = model.graph
    found = {id(value): value for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        found |= {id(value): value for value in node.outputs}
    return list(found.values())


def _count(model: onnx_ir.Model) -> dict[str, int]:
    nodes = list(onnx_ir.traversal.RecursiveGraphIterator(model.graph))
    kinds: dict[str, Callable[[onnx_ir.Node], bool]] = {
        "Dropout": lambda node: node.op_type == "Dropout",
        "Identity": lambda node: node.op_type == "Identity",
        "other nodes": lambda node: node.op_type not in ("Dropout", "Identity"),
    }
    counts = {what: sum(map(kind, nodes)) for what, kind in kinds.items()}
    return counts | {"weights": len(model.graph.initializers)}
