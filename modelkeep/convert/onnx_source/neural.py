"""Operators of neural networks: products, convolutions, pools, norms, resizing, recurrent layers.

Semantics: github.com/onnx/onnx, docs/Operators.md. Each function is copied into the source that uses it, so it may use
nothing but torch, math and its neighbours. Convolutions and norms whose weights are constants are modules of torch.nn
instead (layers.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelkeep.convert.onnx_source.sizes import Sizes


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  (ONNX's names)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    found = alpha * ((a.t() if transA else a) @ (b.t() if transB else b))
    return found if c is None else found + beta * c


def einsum(*xs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *xs)


def around(x: Tensor, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes | None, auto_pad: str) -> Sizes:
    """How much F.pad is to add, the last axis first."""
    k = len(kernel)
    if auto_pad in ("NOTSET", ""):
        given = pads or [0] * (2 * k)
        return [n for axis in reversed(range(k)) for n in (given[axis], given[axis + k])]
    found: Sizes = []
    for axis in reversed(range(k)):
        n, step = x.shape[axis - k], strides[axis]
        wide = (-(-n // step) - 1) * step + (kernel[axis] - 1) * dilations[axis] + 1 - n
        wide = 0 if auto_pad == "VALID" else max(wide, 0)
        less, more = wide // 2, wide - wide // 2
        found += [more, less] if auto_pad == "SAME_LOWER" else [less, more]
    return found


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sizes | None = None,
    strides: Sizes | None = None,
    dilations: Sizes | None = None,
    pads: Sizes | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    kernel = list(weight.shape[2:])
    ones = [1] * len(kernel)
    x = F.pad(x, around(x, kernel, strides or ones, dilations or ones, pads, auto_pad))
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    found: Tensor = function(x, weight, bias, strides or ones, 0, dilations or ones, group)
    return found


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sizes | None = None,
    strides: Sizes | None = None,
    dilations: Sizes | None = None,
    pads: Sizes | None = None,
    output_padding: Sizes | None = None,
    output_shape: Sizes | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    kernel = list(weight.shape[2:])
    k, ones = len(kernel), [1] * len(kernel)
    strides, dilations, more = strides or ones, dilations or ones, output_padding or [0] * k
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[k - 1]
    found: Tensor = function(x, weight, bias, strides, 0, 0, group, dilations)
    found = F.pad(found, [n for extra in reversed(more) for n in (0, extra)])
    if auto_pad.startswith("SAME") and output_shape is None:
        output_shape = [x.shape[axis - k] * strides[axis] for axis in range(k)]
    if output_shape is not None:
        short = [max(output_shape[axis - k] - found.shape[axis - k], 0) for axis in range(k)]
        found = F.pad(found, [n for missing in reversed(short) for n in (0, missing)])
    for axis in range(k):
        if output_shape is None:
            first, last = (pads[axis], pads[axis + k]) if pads else (0, 0)
        else:
            wide = found.shape[axis - k] - output_shape[axis]
            first = wide // 2 if auto_pad != "SAME_LOWER" else wide - wide // 2
            last = wide - first
        found = found.narrow(axis - k, first, found.shape[axis - k] - first - last)
    return found


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sizes,
    strides: Sizes | None = None,
    dilations: Sizes | None = None,
    pads: Sizes | None = None,
    ceil_mode: int = 0,
    storage_order: int = 0,
    auto_pad: str = "NOTSET",
) -> Tensor:
    ones = [1] * len(kernel_shape)
    wide = around(x, kernel_shape, strides or ones, dilations or ones, pads, auto_pad)
    lowest: Any = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel_shape) - 1]
    pairs = [(wide[i], wide[i + 1]) for i in range(0, len(wide), 2)][::-1]
    if all(a == b and a <= n // 2 for (a, b), n in zip(pairs, kernel_shape, strict=True)):
        even = [a for a, _ in pairs]
        found: Tensor = function(x, kernel_shape, strides or ones, even, dilations or ones, bool(ceil_mode))
        return found
    wider = F.pad(x, wide, value=lowest)
    there: Tensor = function(wider, kernel_shape, strides or ones, 0, dilations or ones, bool(ceil_mode))
    return there


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sizes,
    strides: Sizes | None = None,
    pads: Sizes | None = None,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: str = "NOTSET",
) -> Tensor:
    ones = [1] * len(kernel_shape)
    wide = around(x, kernel_shape, strides or ones, ones, pads, auto_pad)
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel_shape) - 1]
    pairs = [(wide[i], wide[i + 1]) for i in range(0, len(wide), 2)][::-1]
    if all(a == b and a <= n // 2 for (a, b), n in zip(pairs, kernel_shape, strict=True)):
        even, counted = [a for a, _ in pairs], bool(count_include_pad)
        found: Tensor = function(x, kernel_shape, strides or ones, even, bool(ceil_mode), counted)
        return found
    summed: Tensor = function(F.pad(x, wide), kernel_shape, strides or ones, 0, bool(ceil_mode), False)
    if count_include_pad:
        return summed
    there: Tensor = function(F.pad(torch.ones_like(x), wide), kernel_shape, strides or ones, 0, bool(ceil_mode), False)
    return summed / there


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    shape = list(x.shape[axis:])
    return F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)


def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    return F.rms_norm(x, list(x.shape[axis:]), None, epsilon) * scale


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, None, None, scale, bias, eps=epsilon)


def local_response_norm(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, bias)


def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / length)


def nearest_places(n: int, wanted: int, scale: float, coordinates: str, rounding: str, device: torch.device) -> Tensor:
    """Where in an axis of ``n`` the nearest of each of ``wanted`` new places lies."""
    at = torch.arange(wanted, device=device, dtype=torch.float32)
    if coordinates == "align_corners":
        at = at * ((n - 1) / max(wanted - 1, 1))
    elif coordinates == "asymmetric":
        at = at / scale
    else:
        at = (at + 0.5) / scale - 0.5
    if rounding == "round_prefer_floor":
        at = torch.ceil(at - 0.5)
    elif rounding == "round_prefer_ceil":
        at = torch.floor(at + 0.5)
    else:
        at = torch.floor(at) if rounding == "floor" else torch.ceil(at)
    return at.clamp(0, n - 1).to(torch.int64)


def resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Sizes | None = None,
    sizes: Sizes | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    axes: Sizes | None = None,
) -> Tensor:
    k = x.dim() - 2
    by = None if sizes is not None else [float(n) for n in scales or []][-k:]
    new = sizes[-k:] if sizes is not None else [int(n * f) for n, f in zip(x.shape[2:], by or [], strict=True)]
    if mode == "nearest" and (coordinate_transformation_mode, nearest_mode) != ("asymmetric", "floor"):
        for i, wanted in enumerate(new):
            n = x.shape[i + 2]
            scale = by[i] if by else wanted / n
            places = nearest_places(n, wanted, scale, coordinate_transformation_mode, nearest_mode, x.device)
            x = x.index_select(i + 2, places)
        return x
    kind = {"nearest": "nearest", "linear": ("linear", "bilinear", "trilinear")[k - 1], "cubic": "bicubic"}[mode]
    corners = {"align_corners": coordinate_transformation_mode == "align_corners"} if mode != "nearest" else {}
    if by is None:
        return F.interpolate(x, new, mode=kind, **corners)
    return F.interpolate(x, scale_factor=by, mode=kind, **corners)


def recurrent(
    layer: nn.Module,
    x: Tensor,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, ...]:
    """ONNX's Y [steps, directions, rows, hidden], Y_h and, of an LSTM, Y_c."""
    x = torch.flip(x, [0]) if reverse else x
    if initial_h is None:
        y, last = layer(x)
    elif initial_c is None:
        y, last = layer(x, initial_h)
    else:
        y, last = layer(x, (initial_h, initial_c))
    last = last if isinstance(last, tuple) else (last,)
    y = y.reshape(y.shape[0], y.shape[1], last[0].shape[0], -1).transpose(1, 2)
    return (torch.flip(y, [0]) if reverse else y, *last)
