"""SavedModel and Keras → ONNX by tf2onnx, with the model's own names."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from tf2onnx.handler import tf_op

from modelkeep.environments.tensorflow import models
from modelkeep.environments.worker import first_line
from modelkeep.errors import Unsupported

MAX_BYTES = 1_900_000_000
"""A protobuf message ends at 2 GiB, and the graph needs some of it."""


def convert(
    path: str, kind: str, into: str, opset: int, axes: list[list[str | None]], trust: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the model at ``path`` (see models.open_model) as one ONNX file. Answers what it was made with. ``axes`` are
    the names of the free dimensions of each input and then of each output.

    tf2onnx's own from_keras fails on Sequential models of Keras 3, so every model goes through from_function.
    Raises what open_model does, and Unsupported where an operator has no counterpart.
    """
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    opened = models.OPENERS[kind](Path(path), trust)
    names = [str(t.name) for t in opened.inputs]
    if both := set(names) & {str(t.name) for t in opened.outputs}:
        raise Unsupported(f"an input and an output are both called '{both.pop()}', which ONNX cannot say")
    specs = [tf.TensorSpec(t.shape, t.dtype, name=f"input_{at}") for at, t in enumerate(opened.inputs)]

    def answers(*tensors: Any) -> dict[str, Any]:
        found = opened.call(dict(zip(names, tensors, strict=True)))
        return {f"output_{at}": tf.identity(found[str(t.name)]) for at, t in enumerate(opened.outputs)}

    try:
        proto, _ = tf2onnx.convert.from_function(
            tf.function(answers, input_signature=specs, autograph=False), specs, opset=opset
        )
    except Exception as error:  # tf2onnx has no error of its own
        raise Unsupported(f"tf2onnx cannot write this model as ONNX: {first_line(error)}") from error
    if strangers := sorted(set(_strangers(proto.graph))):
        raise Unsupported(f"TensorFlow's {', '.join(strangers)} have no counterpart in ONNX, says tf2onnx")
    if proto.ByteSize() > MAX_BYTES:
        raise Unsupported(f"the ONNX model would hold {proto.ByteSize():,} bytes, and one file ends at 2 GiB")
    _rename(proto.graph, [*names, *(str(t.name) for t in opened.outputs)])
    for value, its in zip((*proto.graph.input, *proto.graph.output), axes, strict=True):
        for size, name in zip(value.type.tensor_type.shape.dim, its, strict=True):
            if name:
                size.dim_param = name
    onnx.save(proto, into)
    return {"exporter": "tf2onnx", "version": tf2onnx.__version__, "tensorflow": tf.__version__}, {}


@tf_op("Erfc")
class _Erfc:
    """What tf2onnx does not know by itself and the exact GELU of Keras 3 is made of: erfc(x) = 1 - erf(x)."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        """From ONNX's opset 9 on, the first with Erf."""
        (x,), (y,) = node.input, node.output
        its = {"dtypes": [ctx.get_dtype(y)], "shapes": [ctx.get_shape(y)]}
        ctx.remove_node(node.name)
        one = np.array(1, tf2onnx.utils.map_onnx_to_numpy_type(ctx.get_dtype(x)))
        erf = ctx.make_node("Erf", [x], **its)
        less = [ctx.make_const(tf2onnx.utils.make_name("one"), one).output[0], erf.output[0]]
        ctx.make_node("Sub", less, name=node.name, outputs=[y], **its)


def _strangers(graph: onnx.GraphProto) -> Iterator[str]:
    """Operators that tf2onnx passed on as they were, which it only logs."""
    for node in graph.node:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            yield node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _strangers(inner)


def _rename(graph: onnx.GraphProto, names: list[str]) -> None:
    """The graph's inputs and outputs called so, in this order; a tensor inside that has such a name makes way."""
    ends = [value.name for value in graph.input] + [value.name for value in graph.output]
    inside = {name for node in graph.node for name in (*node.input, *node.output)} - set(ends)
    new = {name: f"{name}/inside" for name in names if name in inside} | dict(zip(ends, names, strict=True))
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = new.get(value.name, value.name)
    _rename_nodes(graph, new)


def _rename_nodes(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    """The bodies of loops and branches see the names outside them."""
    for node in graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = new.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename_nodes(inner, new)
