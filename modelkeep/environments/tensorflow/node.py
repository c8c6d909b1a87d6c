"""One node of an ONNX graph, and the small things that operators ask of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import tensorflow as tf


class Node:
    """A node's kind, its attributes as Python has them, and the opset that says what they mean."""

    def __init__(self, proto: onnx.NodeProto, opset: int) -> None:
        self.kind = str(proto.op_type)
        self.opset = opset
        self.outputs = len(proto.output)
        self._attributes = {a.name: _value(a) for a in proto.attribute}

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or what it is where the file does not say."""
        return self._attributes.get(name, default)


def known(value: Any) -> bool:
    """Whether it is a number or an array that is there before any input; an input left out is."""
    return value is None or isinstance(value, np.ndarray)


def numbers(value: Any, what: str) -> list[int]:
    """A list that must be known before any input, such as axes."""
    if not known(value):
        found = tf.get_static_value(value)
        if found is None:
            raise ValueError(f"{what} depends on the input")
        value = found
    return [int(number) for number in np.ravel(value)]


def rank(value: Any) -> int:
    """How many dimensions it has, which must be known."""
    found = value.ndim if isinstance(value, np.ndarray) else value.shape.rank
    if found is None:
        raise ValueError("the number of dimensions depends on the input")
    return int(found)


def shape(value: Any) -> Any:
    """Its sizes: an array where all are known, else an int64 tensor."""
    static = value.shape if isinstance(value, np.ndarray) else value.shape.as_list()
    return tf.shape(value, tf.int64) if None in static else np.array(static, np.int64)


def last(value: Any) -> Any:
    """Channels last, as TensorFlow's convolutions want them: [n, c, h, w] → [n, h, w, c]."""
    origin = getattr(value, "_modelkeep_last", None)
    return tf.transpose(value, [0, *range(2, rank(value)), 1]) if origin is None else origin


def first(value: Any) -> Any:
    """Channels first again. It remembers what it was made of, so that the next ``last`` costs nothing."""
    n = rank(value)
    found = tf.transpose(value, [0, n - 1, *range(1, n - 1)])
    if not tf.executing_eagerly():
        found._modelkeep_last = value
    return found


def kernel(variable: Any, n: int) -> Any:
    """A convolution's weights, [outputs, inputs, …space] as ONNX has them, of a variable that keeps them as TensorFlow
    does, [...space, inputs, outputs]: so that they are not turned in every run.
    """
    kept = tf.convert_to_tensor(variable)
    found = tf.transpose(kept, [n - 1, n - 2, *range(n - 2)])
    found._modelkeep_kernel = kept
    return found


def laid_out(weights: Any) -> Any:
    """A convolution's weights as TensorFlow has them."""
    kept = getattr(weights, "_modelkeep_kernel", None)
    return tf.transpose(weights, [*range(2, rank(weights)), 1, 0]) if kept is None else kept


def each(function: Any, *values: Any) -> Any:
    """An elementwise function, in the layout in which its tensors lie already."""
    origins = [getattr(value, "_modelkeep_last", None) for value in values]
    if any(o is not None for o in origins):
        n = next(rank(o) for o in origins if o is not None)
        turned = [o if o is not None else _turned(value, n) for value, o in zip(values, origins, strict=True)]
        if all(value is not None for value in turned):
            return first(function(*turned))
    return function(*values)


def _turned(value: Any, n: int) -> Any:
    """A constant in channels-last layout, so that it still stands beside the same numbers; None for a tensor."""
    if not isinstance(value, np.ndarray):
        return None
    if value.ndim == 0:
        return value
    whole = value.reshape((1,) * (n - value.ndim) + value.shape)
    return np.transpose(whole, [0, *range(2, n), 1])


def _value(attribute: onnx.AttributeProto) -> Any:
    found = onnx.helper.get_attribute_value(attribute)
    if isinstance(found, bytes):
        return found.decode()
    if isinstance(found, onnx.TensorProto):
        return onnx.numpy_helper.to_array(found)
    if isinstance(found, Sequence) and found and isinstance(found[0], bytes):
        return [item.decode() for item in found]
    return found
