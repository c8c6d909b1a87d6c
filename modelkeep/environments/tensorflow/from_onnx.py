"""ONNX → a TensorFlow function with the same names and the same layout, and from it a SavedModel or a LiteRT file.

Node by node: operators.OPERATORS says what each ONNX operator is in TensorFlow. What is known before any input is
(shapes, axes, masks) is computed here and now, so that TensorFlow sees numbers where it wants numbers. onnx2tf, the
library that does this, fails on transformers of free length, and pins NumPy 1.26 and Python up to 3.12.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from modelkeep.environments.tensorflow import operators
from modelkeep.environments.tensorflow.node import Node, kernel, known
from modelkeep.environments.worker import first_line
from modelkeep.errors import ModelkeepError, Unsupported

MAX_FLOATS = 64
"""Constants of more numbers than this are weights: variables of the SavedModel, kept outside its graph."""


class Converted(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """The graph as one function, which tf.saved_model.save writes with its variables."""

    def __init__(
        self, model: onnx.ModelProto, folder: Path, outputs: Sequence[Sequence[int | None]], *, variables: bool
    ) -> None:
        super().__init__()
        self._graph = model.graph
        self._shapes = outputs
        self._opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self._kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
        self._weights: dict[str, Any] = {}
        self._constants: dict[str, Any] = {}
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor, str(folder))
            if array.dtype.kind != "f" or array.size <= MAX_FLOATS:
                self._constants[tensor.name] = array
                continue
            if tensor.name in self._kernels:
                array = np.transpose(array, [*range(2, array.ndim), 1, 0])
            name = _variable_name(tensor.name)
            self._weights[tensor.name] = tf.Variable(array, name=name) if variables else array

    def function(self, specs: Sequence[tf.TensorSpec]) -> Any:
        """A tf.function that takes tensors by the graph's names and answers with a dict by the graph's names."""
        names = [str(t.name) for t in specs]

        def answers(*tensors: Any) -> dict[str, Any]:
            values = dict(self._constants)
            for name, weights in self._weights.items():
                kept = name in self._kernels
                values[name] = kernel(weights, len(weights.shape)) if kept else tf.convert_to_tensor(weights)
            values |= dict(zip(names, tensors, strict=True))
            self._walk(values)
            return {
                value.name: _shaped(tf.identity(values[value.name]), shape)
                for value, shape in zip(self._graph.output, self._shapes, strict=True)
            }

        return tf.function(answers, input_signature=list(specs), autograph=False)

    def _walk(self, values: dict[str, Any]) -> None:
        for proto in self._graph.node:
            node = Node(proto, self._opset)
            if proto.domain not in ("", "ai.onnx") or proto.op_type not in operators.OPERATORS:
                raise Unsupported(
                    f"the ONNX operator {proto.op_type} has no counterpart in TensorFlow here, so this model "
                    "cannot be written as a SavedModel"
                )
            inputs = [values[name] if name else None for name in proto.input]
            try:
                found = _done(operators.OPERATORS[proto.op_type], node, inputs)
            except ModelkeepError:
                raise
            except Exception as error:  # TensorFlow's functions raise what they like
                raise Unsupported(
                    f"the ONNX operator {proto.op_type} (node {proto.name}) cannot be written in TensorFlow: "
                    f"{first_line(error)}"
                ) from error
            values.update((name, value) for name, value in zip(proto.output, found, strict=False) if name)


def convert(
    file: str, into: str, inputs: list[list[Any]], outputs: list[list[Any]], target: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the ONNX model at ``file`` as a SavedModel folder or a LiteRT file (``target`` tensorflow or litert).

    ``inputs`` and ``outputs`` are its signature: name, dtype and shape of each. Raises Unsupported.
    """
    model = onnx.load(file, load_external_data=False)
    specs = [tf.TensorSpec(shape, _dtype(dtype), name) for name, dtype, shape in inputs]
    # an interpreter of LiteRT that was not told to set variables would read noise
    module = Converted(model, Path(file).parent, [s for _, _, s in outputs], variables=target == "tensorflow")
    concrete = module.function(specs).get_concrete_function()
    if target == "litert":
        _write_litert(module, concrete, Path(into))
    else:
        tf.saved_model.save(module, into, signatures={"serving_default": concrete})
    return {"exporter": "modelkeep", "tensorflow": tf.__version__}, {}


def _write_litert(module: Converted, concrete: Any, into: Path) -> None:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        into.write_bytes(converter.convert())
    except Exception as error:  # the converter has no error of its own
        raise Unsupported(f"LiteRT cannot hold this model: {first_line(error)}") from error


def _done(operator: Any, node: Node, inputs: list[Any]) -> Sequence[Any]:
    """The operator's outputs; computed now where all inputs are known, and numbers then."""
    if all(known(value) for value in inputs):
        with tf.init_scope():
            found = operator(node, *inputs)
            return [np.asarray(value) for value in (found if isinstance(found, list | tuple) else [found])]
    found = operator(node, *inputs)
    return found if isinstance(found, list | tuple) else [found]


def _shaped(tensor: Any, shape: Sequence[int | None]) -> Any:
    """TensorFlow forgets a size where it is computed; the ONNX file knows it."""
    if tensor.shape.rank is None or tensor.shape.rank == len(shape):
        tensor.set_shape(shape)
    return tensor


def _variable_name(name: str) -> str:
    """Letters, digits and a few signs are all that TensorFlow takes."""
    clean = "".join(c if c.isalnum() or c in "._-/" else "_" for c in name)
    return clean if clean[:1].isalnum() else f"w{clean}"


def _dtype(name: str) -> Any:
    return tf.string if name == "str" else tf.as_dtype(name)
