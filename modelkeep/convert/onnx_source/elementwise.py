"""Operators that treat each element by itself, and those that reduce or sort along an axis.

Semantics: github.com/onnx/onnx, docs/Operators.md. Each function is copied into the source that uses it, so it may use
nothing but torch, math and its neighbours. An argument annotated ``Sizes`` is wanted as Python's integers, ``Number``
is a Python number where it is constant, and a tensor otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modelkeep.convert.onnx_source.sizes import Sizes

Number = Any


def divide(x: Tensor, y: Number) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def power(x: Tensor, exponent: Number) -> Tensor:
    return torch.pow(x, exponent).to(x.dtype)


def modulo(x: Tensor, y: Number, *, fmod: int = 0) -> Tensor:
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def clip(x: Tensor, min: Number = None, max: Number = None) -> Tensor:  # noqa: A002  (ONNX's names)
    if min is not None:
        x = torch.clamp(x, min=min)
    return x if max is None else torch.clamp(x, max=max)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    return (torch.isposinf(x) & bool(detect_positive)) | (torch.isneginf(x) & bool(detect_negative))


def shifted(x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    wide, by = x.to(torch.int64), y.to(torch.int64)
    return (wide << by if direction == "LEFT" else wide >> by).to(x.dtype)


def cast(x: Tensor, *, to: torch.dtype, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(to)


def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(like.dtype)


def sum_of(*xs: Tensor) -> Tensor:
    found = xs[0]
    for x in xs[1:]:
        found = found + x
    return found


def mean_of(*xs: Tensor) -> Tensor:
    return sum_of(*xs) / len(xs)


def max_of(*xs: Tensor) -> Tensor:
    found = xs[0]
    for x in xs[1:]:
        found = torch.maximum(found, x)
    return found


def min_of(*xs: Tensor) -> Tensor:
    found = xs[0]
    for x in xs[1:]:
        found = torch.minimum(found, x)
    return found


def over(x: Tensor, axes: Sizes | None, noop: int) -> Sizes:
    """The axes that a reduction goes over: all of them where none are given, or none."""
    return list(axes) if axes else ([] if noop else list(range(x.dim())))


def reduce_sum(x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    dims = over(x, axes, noop_with_empty_axes)
    return torch.sum(x, dims, keepdim=bool(keepdims), dtype=x.dtype) if dims else x


def reduce_mean(x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    dims = over(x, axes, noop_with_empty_axes)
    return torch.mean(x, dims, keepdim=bool(keepdims)) if dims else x


def reduce_max(x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    dims = over(x, axes, noop_with_empty_axes)
    return torch.amax(x, dims, keepdim=bool(keepdims)) if dims else x


def reduce_min(x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    dims = over(x, axes, noop_with_empty_axes)
    return torch.amin(x, dims, keepdim=bool(keepdims)) if dims else x


def reduce_prod(x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    dims = over(x, axes, noop_with_empty_axes)
    for axis in sorted((axis % x.dim() for axis in dims), reverse=True):
        x = torch.prod(x, axis, keepdim=bool(keepdims), dtype=x.dtype)
    return x


def reduce_l1(x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return reduce_sum(torch.abs(x), axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)


def reduce_l2(x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return torch.sqrt(reduce_sum(x * x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes))


def reduce_sum_square(
    x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return reduce_sum(x * x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)


def reduce_log_sum(x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return torch.log(reduce_sum(x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes))


def reduce_log_sum_exp(
    x: Tensor, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    dims = over(x, axes, noop_with_empty_axes)
    return torch.logsumexp(x, dims, keepdim=bool(keepdims)) if dims else x


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        return x.shape[axis] - 1 - torch.argmax(torch.flip(x, [axis]), axis, keepdim=bool(keepdims))
    return torch.argmax(x, axis, keepdim=bool(keepdims))


def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        return x.shape[axis] - 1 - torch.argmin(torch.flip(x, [axis]), axis, keepdim=bool(keepdims))
    return torch.argmin(x, axis, keepdim=bool(keepdims))


def cumulative_sum(x: Tensor, axis: Sizes, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    along: Any = axis[0] if isinstance(axis, list) else axis
    x = torch.flip(x, [along]) if reverse else x
    found = torch.cumsum(x, along, dtype=x.dtype)
    found = found - x if exclusive else found
    return torch.flip(found, [along]) if reverse else found


def top_k(x: Tensor, k: Sizes, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:  # noqa: A002
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k[0]), indices.narrow(axis, 0, k[0])


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


def flat_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: over all axes from this one on."""
    return torch.softmax(x.flatten(axis), axis).reshape(x.shape)


def flat_log_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: over all axes from this one on."""
    return torch.log_softmax(x.flatten(axis), axis).reshape(x.shape)
