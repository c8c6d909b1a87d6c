"""ONNX operators that treat each number by itself, and those that reduce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from modelkeep.environments.tensorflow.node import Node, each, numbers, rank

Operator = Callable[..., Any]


def _plain(function: Operator) -> Operator:
    """An operator without attributes whose inputs are tensors of one kind."""
    return lambda node, *values: each(function, *values)


def _with(function: Operator, **defaults: float) -> Operator:
    """One input, and attributes that are numbers."""

    def operator(node: Node, x: Any) -> Any:
        given = {name: node.get(name, value) for name, value in defaults.items()}
        return each(lambda t: function(t, **given), x)

    return operator


def _many(function: Operator) -> Operator:
    """Any number of inputs, taken together two by two."""

    def operator(node: Node, *values: Any) -> Any:
        found = values[0]
        for value in values[1:]:
            found = each(function, found, value)
        return found

    return operator


def _divide(a: Any, b: Any) -> Any:
    """Whole numbers are cut off towards zero, as in C."""
    a, b = tf.convert_to_tensor(a), tf.convert_to_tensor(b)
    return tf.truncatediv(a, b) if a.dtype.is_integer else tf.divide(a, b)


def _mod(node: Node, a: Any, b: Any) -> Any:
    return tf.truncatemod(a, b) if node.get("fmod", 0) else tf.math.floormod(a, b)


def _power(a: Any, b: Any) -> Any:
    a, b = tf.convert_to_tensor(a), tf.convert_to_tensor(b)
    if a.dtype.is_integer and not b.dtype.is_integer:
        return tf.cast(tf.pow(tf.cast(a, b.dtype), b), a.dtype)
    return tf.pow(a, tf.cast(b, a.dtype))


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    low = node.get("min") if low is None else low
    high = node.get("max") if high is None else high

    def clip(t: Any) -> Any:
        t = t if low is None else tf.maximum(t, tf.cast(low, t.dtype))
        return t if high is None else tf.minimum(t, tf.cast(high, t.dtype))

    return each(clip, tf.convert_to_tensor(x) if isinstance(x, np.ndarray) else x)


def _gelu(node: Node, x: Any) -> Any:
    return each(lambda t: tf.nn.gelu(t, approximate=node.get("approximate", "none") == "tanh"), x)


def _prelu(x: Any, slope: Any) -> Any:
    return tf.where(x < 0, x * slope, x)


def _hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    return tf.clip_by_value(alpha * x + beta, 0.0, 1.0)


def _cast(node: Node, x: Any) -> Any:
    to = DTYPES[node.get("to")]
    if to == tf.string:
        return tf.as_string(x)
    x = tf.convert_to_tensor(x)
    if x.dtype == tf.string:
        return tf.strings.to_number(x, to)
    return each(lambda t: tf.cast(t, to), x)


def _where(node: Node, condition: Any, a: Any, b: Any) -> Any:
    return tf.where(condition, a, b)


def _infinite(node: Node, x: Any) -> Any:
    found = tf.math.is_inf(x)
    if not node.get("detect_negative", 1):
        found &= x > 0
    return found if node.get("detect_positive", 1) else found & (x < 0)


# ── reductions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _reduce(function: Operator) -> Operator:
    def operator(node: Node, x: Any, axes: Any = None) -> Any:
        given = node.get("axes") if axes is None else numbers(axes, "the axes")
        keep = bool(node.get("keepdims", 1))
        if not given:
            if node.get("noop_with_empty_axes", 0):
                return tf.identity(x)
            return function(x, None, keep)
        return function(x, list(given), keep)

    return operator


def _pick(function: Operator) -> Operator:
    def operator(node: Node, x: Any) -> Any:
        axis, flip = node.get("axis", 0), node.get("select_last_index", 0)
        x = tf.reverse(x, [axis]) if flip else x
        found = function(x, axis, tf.int64)
        found = tf.shape(x, tf.int64)[axis] - 1 - found if flip else found
        return tf.expand_dims(found, axis) if node.get("keepdims", 1) else found

    return operator


def _softmax(function: Operator) -> Operator:
    def operator(node: Node, x: Any) -> Any:
        if node.opset >= 13:
            return function(x, node.get("axis", -1))
        # before opset 13 all dimensions from ``axis`` on were one
        axis = node.get("axis", 1) % rank(x)
        rows = tf.reshape(x, [tf.reduce_prod(tf.shape(x)[:axis]), -1])
        return tf.reshape(function(rows, -1), tf.shape(x))

    return operator


def _cumulate(node: Node, x: Any, axis: Any) -> Any:
    return tf.cumsum(x, numbers(axis, "the axis")[0], bool(node.get("exclusive", 0)), bool(node.get("reverse", 0)))


def _top(node: Node, x: Any, k: Any) -> list[Any]:
    axis, n = node.get("axis", -1), rank(x)
    order = [d for d in range(n) if d != axis % n] + [axis % n]
    turned = tf.transpose(x, order)
    sign = 1 if node.get("largest", 1) else -1
    values, indices = tf.math.top_k(turned * sign, tf.reshape(tf.cast(k, tf.int32), []), sorted=True)
    back = np.argsort(order)
    return [tf.transpose(values * sign, back), tf.cast(tf.transpose(indices, back), tf.int64)]


def _dequantize(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    scale, zero = _per_axis(node, x, scale), _per_axis(node, x, zero)
    whole = tf.cast(x, tf.int32) - (0 if zero is None else tf.cast(zero, tf.int32))
    return tf.cast(whole, tf.float32) * scale


def _quantize(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    to = tf.uint8 if zero is None else tf.as_dtype(zero.dtype)
    scale, zero = _per_axis(node, x, scale), _per_axis(node, x, zero)
    found = tf.round(x / scale) + (0.0 if zero is None else tf.cast(zero, tf.float32))
    return tf.cast(tf.clip_by_value(found, float(to.min), float(to.max)), to)


def _per_axis(node: Node, x: Any, values: Any) -> Any:
    """A scale for each channel stands along its axis."""
    if values is None or rank(values) == 0:
        return values
    sizes = [1] * rank(x)
    sizes[node.get("axis", 1)] = -1
    return tf.reshape(values, sizes)


DTYPES = {
    1: tf.float32,
    2: tf.uint8,
    3: tf.int8,
    4: tf.uint16,
    5: tf.int16,
    6: tf.int32,
    7: tf.int64,
    8: tf.string,
    9: tf.bool,
    10: tf.float16,
    11: tf.float64,
    12: tf.uint32,
    13: tf.uint64,
    16: tf.bfloat16,
}
"""TensorProto.DataType → TensorFlow's."""

OPERATORS: dict[str, Operator] = {
    **{name: _plain(getattr(tf.math, name.lower())) for name in ("Abs", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor")},
    **{name: _plain(getattr(tf.math, name.lower())) for name in ("Log", "Round", "Sigmoid", "Sign", "Sin", "Sinh")},
    **{name: _plain(getattr(tf.math, name.lower())) for name in ("Softsign", "Sqrt", "Tan", "Tanh", "Reciprocal")},
    **{name: _plain(getattr(tf.math, name.lower())) for name in ("Acos", "Asin", "Atan", "Acosh", "Asinh", "Atanh")},
    "Neg": _plain(tf.math.negative),
    "Relu": _plain(tf.nn.relu),
    "Softplus": _plain(tf.math.softplus),
    "Mish": _plain(lambda x: x * tf.tanh(tf.math.softplus(x))),
    "HardSwish": _plain(lambda x: x * tf.clip_by_value(x / 6.0 + 0.5, 0.0, 1.0)),
    "HardSigmoid": _with(_hard_sigmoid, alpha=0.2, beta=0.5),
    "LeakyRelu": _with(lambda x, alpha: tf.nn.leaky_relu(x, alpha), alpha=0.01),
    "Elu": _with(lambda x, alpha: tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0.0))), alpha=1.0),
    "Celu": _with(lambda x, alpha: tf.maximum(x, 0.0) + tf.minimum(0.0, alpha * tf.math.expm1(x / alpha)), alpha=1.0),
    "Selu": _with(
        lambda x, alpha, gamma: gamma * tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0.0))),
        alpha=1.6732632423543772,
        gamma=1.0507009873554805,
    ),
    "ThresholdedRelu": _with(lambda x, alpha: tf.where(x > alpha, x, tf.zeros_like(x)), alpha=1.0),
    "Gelu": _gelu,
    "PRelu": _plain(_prelu),
    "Clip": _clip,
    "Add": _plain(tf.add),
    "Sub": _plain(tf.subtract),
    "Mul": _plain(tf.multiply),
    "Div": _plain(_divide),
    "Mod": _mod,
    "Pow": _plain(_power),
    "Max": _many(tf.maximum),
    "Min": _many(tf.minimum),
    "Sum": _many(tf.add),
    "Mean": lambda node, *values: tf.add_n(list(values)) / len(values),
    "Equal": _plain(tf.equal),
    "Greater": _plain(tf.greater),
    "GreaterOrEqual": _plain(tf.greater_equal),
    "Less": _plain(tf.less),
    "LessOrEqual": _plain(tf.less_equal),
    "And": _plain(tf.logical_and),
    "Or": _plain(tf.logical_or),
    "Xor": _plain(tf.math.logical_xor),
    "Not": _plain(tf.logical_not),
    "BitwiseAnd": _plain(tf.bitwise.bitwise_and),
    "BitwiseOr": _plain(tf.bitwise.bitwise_or),
    "BitwiseXor": _plain(tf.bitwise.bitwise_xor),
    "BitwiseNot": _plain(tf.bitwise.invert),
    "IsNaN": _plain(tf.math.is_nan),
    "IsInf": _infinite,
    "Where": _where,
    "Cast": _cast,
    "CastLike": lambda node, x, like: tf.cast(x, tf.as_dtype(like.dtype)),
    "ReduceSum": _reduce(tf.reduce_sum),
    "ReduceMean": _reduce(tf.reduce_mean),
    "ReduceMax": _reduce(tf.reduce_max),
    "ReduceMin": _reduce(tf.reduce_min),
    "ReduceProd": _reduce(tf.reduce_prod),
    "ReduceL1": _reduce(lambda x, axes, keep: tf.reduce_sum(tf.abs(x), axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: tf.sqrt(tf.reduce_sum(tf.square(x), axes, keep))),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: tf.reduce_sum(tf.square(x), axes, keep)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: tf.math.log(tf.reduce_sum(x, axes, keep))),
    "ReduceLogSumExp": _reduce(tf.reduce_logsumexp),
    "ArgMax": _pick(tf.argmax),
    "ArgMin": _pick(tf.argmin),
    "Softmax": _softmax(lambda x, axis: tf.nn.softmax(x, axis)),
    "LogSoftmax": _softmax(lambda x, axis: tf.nn.log_softmax(x, axis)),
    "Hardmax": lambda node, x: tf.one_hot(
        tf.argmax(x, node.get("axis", -1)), x.shape[node.get("axis", -1)], axis=node.get("axis", -1)
    ),
    "CumSum": _cumulate,
    "TopK": _top,
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
}
"""ONNX operator → function(node, *inputs)."""
