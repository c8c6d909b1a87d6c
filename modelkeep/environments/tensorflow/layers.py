"""ONNX operators with weights, windows or statistics: products, convolutions, pooling, normalisation, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from modelkeep.environments.tensorflow.node import Node, first, laid_out, last, numbers, rank, shape
from modelkeep.environments.tensorflow.resize import resize

# ── products ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _matmul(node: Node, a: Any, b: Any) -> Any:
    """As numpy.matmul: a vector is a row on the left and a column on the right."""
    left, right = rank(a) == 1, rank(b) == 1
    a, b = (tf.expand_dims(a, 0) if left else a), (tf.expand_dims(b, 1) if right else b)
    found = tf.matmul(a, b)
    found = tf.squeeze(found, -1) if right else found
    return tf.squeeze(found, -1 if right else -2) if left else found


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    found = tf.matmul(a, b, transpose_a=bool(node.get("transA", 0)), transpose_b=bool(node.get("transB", 0)))
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    found = found if alpha == 1.0 else found * alpha
    return found if c is None else found + (c if beta == 1.0 else c * beta)


# ── windows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Window:
    """How a convolution or a pool moves over its input: one number for each dimension of space, pads a pair."""

    def __init__(self, node: Node, x: Any, kernel: Sequence[int]) -> None:
        n = len(kernel)
        self.kernel = list(kernel)
        self.strides = list(node.get("strides", [1] * n))
        self.dilations = list(node.get("dilations", [1] * n))
        self.sizes = [shape(x)[2 + d] for d in range(n)]
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        pads = node.get("pads", [0] * 2 * n)
        self.pads: list[tuple[Any, Any]] = list(zip(pads[:n], pads[n:], strict=True))
        auto = node.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            self.pads = [
                _same(*one, lower=auto == "SAME_LOWER") for one in zip(self.sizes, spans, self.strides, strict=True)
            ]
        self.extra: list[Any] = [0] * n
        if node.get("ceil_mode", 0):
            self.extra = [_ceil(*one) for one in zip(self.sizes, self.pads, spans, self.strides, strict=True)]

    def pad(self, x: Any, fill: float, *, extra: bool = True) -> Any:
        """``x``, channels last, with its padding."""
        after = self.extra if extra else [0] * len(self.extra)
        sizes = [[0, 0], *([a, b + more] for (a, b), more in zip(self.pads, after, strict=True)), [0, 0]]
        if all(isinstance(n, int) and n == 0 for pair in sizes for n in pair):
            return x
        return tf.pad(x, [[tf.cast(n, tf.int32) for n in pair] for pair in sizes], constant_values=fill)


def _same(size: Any, span: int, stride: int, *, lower: bool) -> tuple[Any, Any]:
    """Padding that gives ⌈size / stride⌉ windows."""
    total = _at_least_zero((-(-size // stride) - 1) * stride + span - size)
    less = total // 2
    return (total - less, less) if lower else (less, total - less)


def _ceil(size: Any, pads: tuple[Any, Any], span: int, stride: int) -> Any:
    """What has to be added for a last window that is not whole; none that would begin in the padding."""
    padded = size + pads[0] + pads[1]
    extra = (span - padded) % stride
    begins = padded + extra - span
    if tf.is_tensor(begins):
        return tf.where(begins >= size + pads[0], tf.zeros_like(extra), extra)
    return 0 if begins >= size + pads[0] else int(extra)


def _at_least_zero(n: Any) -> Any:
    return tf.maximum(n, 0) if tf.is_tensor(n) else max(int(n), 0)


def _conv(node: Node, x: Any, w: Any, bias: Any = None) -> Any:
    kernel = laid_out(w)
    window = _Window(node, x, kernel.shape[:-2])
    padded, groups = window.pad(last(x), 0.0), node.get("group", 1)
    channels = padded.shape[-1]
    if groups == 1:
        found = tf.nn.convolution(padded, kernel, window.strides, "VALID", dilations=window.dilations)
    elif groups == channels and len(window.kernel) == 2 and len(set(window.strides)) == 1:
        found = _depthwise(padded, kernel, channels, window)
    else:
        parts = zip(tf.split(padded, groups, -1), tf.split(kernel, groups, -1), strict=True)
        found = tf.concat(
            [tf.nn.convolution(p, k, window.strides, "VALID", dilations=window.dilations) for p, k in parts], -1
        )
    return first(found if bias is None else found + bias)


def _depthwise(padded: Any, kernel: Any, channels: int, window: _Window) -> Any:
    """The kernel is [h, w, 1, channels·each]; TensorFlow has it as [h, w, channels, each]."""
    own = tf.reshape(kernel, [*window.kernel, channels, kernel.shape[-1] // channels])
    stride = window.strides[0]
    return tf.nn.depthwise_conv2d(padded, own, [1, stride, stride, 1], "VALID", dilations=window.dilations)


def _conv_transpose(node: Node, x: Any, w: Any, bias: Any = None) -> Any:
    """The kernel is [inputs, outputs / groups, …space]. The whole result is computed, and its padding cut off."""
    n, groups = rank(x) - 2, node.get("group", 1)
    strides, dilations = node.get("strides", [1] * n), node.get("dilations", [1] * n)
    pads, more = list(node.get("pads", [0] * 2 * n)), list(node.get("output_padding", [0] * n))
    if node.get("output_shape") or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError("output_shape and auto_pad are not supported")
    turned, kernel = last(x), tf.transpose(w, [*range(2, n + 2), 1, 0])
    spans = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    sizes = [shape(x)[2 + d] for d in range(n)]
    whole = [(size - 1) * s + span for size, s, span in zip(sizes, strides, spans, strict=True)]
    outputs = w.shape[1]
    target = tf.stack([tf.cast(size, tf.int32) for size in (shape(x)[0], *whole, outputs)])
    parts = zip(tf.split(turned, groups, -1), tf.split(kernel, groups, -1), strict=True)
    found = tf.concat([tf.nn.conv_transpose(p, k, target, strides, "VALID", dilations=dilations) for p, k in parts], -1)
    found = tf.pad(found, [[0, 0], *([0, m] for m in more), [0, 0]]) if any(more) else found
    cut = (slice(a, size + m - b) for a, b, size, m in zip(pads[:n], pads[n:], whole, more, strict=True))
    found = found[(slice(None), *cut)]
    return first(found if bias is None else found + bias)


def _max_pool(node: Node, x: Any) -> Any:
    if node.outputs > 1:
        raise ValueError("the indices of a MaxPool are not supported")
    window = _Window(node, x, node.get("kernel_shape"))
    padded = window.pad(last(x), float(tf.as_dtype(x.dtype).min))
    return first(
        tf.nn.max_pool(padded, window.kernel, window.strides, "VALID")
        if set(window.dilations) == {1}
        else tf.nn.pool(padded, window.kernel, "MAX", window.strides, "VALID", dilations=window.dilations)
    )


def _average_pool(node: Node, x: Any) -> Any:
    """The mean of what lies inside; the padding counts only where the node says so, and never what ceil_mode adds."""
    window = _Window(node, x, node.get("kernel_shape"))
    turned = last(x)
    ones = tf.ones_like(turned[:1, ..., :1])
    counted = window.pad(ones, 1.0 if node.get("count_include_pad", 0) else 0.0, extra=False)
    counted = tf.pad(counted, [[0, 0], *([0, tf.cast(more, tf.int32)] for more in window.extra), [0, 0]])

    def mean(t: Any) -> Any:
        return tf.nn.pool(t, window.kernel, "AVG", window.strides, "VALID", dilations=window.dilations)

    found = mean(window.pad(turned, 0.0))
    plain = all(isinstance(n, int) and n == 0 for n in (*sum(window.pads, ()), *window.extra))
    return first(found if plain else found / mean(counted))


def _global(function: Callable[..., Any]) -> Callable[..., Any]:
    def operator(node: Node, x: Any) -> Any:
        return first(function(last(x), list(range(1, rank(x) - 1)), True))

    return operator


# ── normalisation ────────────────────────────────────────────────────────────────────────────────────────────────────


def _batch_norm(node: Node, x: Any, scale: Any, bias: Any, mean: Any, variance: Any, *_: Any) -> Any:
    if node.get("training_mode", 0):
        raise ValueError("it is in training mode; export the model in eval mode")
    by = scale * tf.math.rsqrt(variance + node.get("epsilon", 1e-5))
    if rank(x) < 3:
        return x * by + (bias - mean * by)
    return first(last(x) * by + (bias - mean * by))


def _layer_norm(node: Node, x: Any, scale: Any, bias: Any = None) -> list[Any]:
    axes = list(range(node.get("axis", -1) % rank(x), rank(x)))
    mean = tf.reduce_mean(x, axes, keepdims=True)
    inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(x - mean), axes, keepdims=True) + node.get("epsilon", 1e-5))
    found = (x - mean) * inverse * scale
    return [found if bias is None else found + bias, mean, inverse]


def _rms_norm(node: Node, x: Any, scale: Any) -> Any:
    axes = list(range(node.get("axis", -1) % rank(x), rank(x)))
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axes, keepdims=True) + node.get("epsilon", 1e-5)) * scale


def _group_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    """Before opset 21 scale and bias were for each group, since then for each channel."""
    groups, turned = node.get("num_groups"), last(x)
    sizes = tf.shape(turned)
    parts = tf.reshape(turned, tf.concat([sizes[:-1], [groups, sizes[-1] // groups]], 0))
    axes = [*range(1, rank(x) - 1), rank(x)]
    mean = tf.reduce_mean(parts, axes, keepdims=True)
    spread = tf.reduce_mean(tf.square(parts - mean), axes, keepdims=True)
    found = tf.reshape((parts - mean) * tf.math.rsqrt(spread + node.get("epsilon", 1e-5)), sizes)
    if node.opset < 21:
        scale, bias = (tf.repeat(v, sizes[-1] // groups) for v in (scale, bias))
    return first(found * scale + bias)


def _instance_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    turned = last(x)
    axes = list(range(1, rank(x) - 1))
    mean = tf.reduce_mean(turned, axes, keepdims=True)
    spread = tf.reduce_mean(tf.square(turned - mean), axes, keepdims=True)
    return first((turned - mean) * tf.math.rsqrt(spread + node.get("epsilon", 1e-5)) * scale + bias)


def _lrn(node: Node, x: Any) -> Any:
    size = node.get("size")
    if not size % 2:
        raise ValueError("an even size is not supported")
    found = tf.nn.local_response_normalization(
        last(x), size // 2, node.get("bias", 1.0), node.get("alpha", 1e-4) / size, node.get("beta", 0.75)
    )
    return first(found)


def _lp_norm(node: Node, x: Any) -> Any:
    return x / tf.norm(x, node.get("p", 2), node.get("axis", -1), keepdims=True)


# ── resizing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _resize(node: Node, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """Axis by axis: a size or a scale for each, whichever is given."""
    by_size = sizes is not None and sizes.shape[0]
    for at, axis in enumerate(node.get("axes", range(rank(x)))):
        whole = shape(x)[axis]
        if by_size:
            size, scale = sizes[at], sizes[at] / whole
        else:
            size, scale = tf.cast(tf.floor(tf.cast(whole, tf.float32) * scales[at]), tf.int64), scales[at]
        if tf.is_tensor(scale) or scale != 1:
            x = resize(node, x, axis, size, tf.cast(scale, tf.float32))
    return x


def _upsample(node: Node, x: Any, scales: Any) -> Any:
    """Resize as it was before opset 10."""
    for axis, scale in enumerate(numbers(scales, "the scales")):
        if scale != 1:
            x = tf.repeat(x, scale, axis)
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": lambda node, *values: tf.einsum(node.get("equation").replace(" ", ""), *values),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global(tf.reduce_mean),
    "GlobalMaxPool": _global(tf.reduce_max),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LpNormalization": _lp_norm,
    "Resize": _resize,
    "Upsample": _upsample,
}
"""ONNX operator → function(node, *inputs)."""
