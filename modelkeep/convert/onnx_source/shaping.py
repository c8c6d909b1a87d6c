"""Operators that move, select, repeat or make elements.

Semantics: github.com/onnx/onnx, docs/Operators.md. Each function is copied into the source that uses it, so it may use
nothing but torch, math and its neighbours. An argument annotated ``Sizes`` is wanted as Python's integers, ``Index`` is
an int where it is a constant of no dimension, and a tensor otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modelkeep.convert.onnx_source.elementwise import Number
from modelkeep.convert.onnx_source.sizes import Sizes

Index = Any


def reshape(x: Tensor, shape: Sizes, *, allowzero: int = 0) -> Tensor:
    return x.reshape(shape if allowzero else [x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def transpose(x: Tensor, *, perm: Sizes | None = None) -> Tensor:
    return x.permute(perm or list(range(x.dim()))[::-1])


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1)
    return x.flatten(axis).flatten(0, axis - 1) if axis < x.dim() else x.reshape(-1, 1)


def squeeze(x: Tensor, axes: Sizes | None = None) -> Tensor:
    return x.squeeze(tuple(axes)) if axes is not None else x.squeeze()


def unsqueeze(x: Tensor, axes: Sizes) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def expand(x: Tensor, shape: Sizes) -> Tensor:
    own = [1] * (len(shape) - x.dim()) + list(x.shape)
    shape = [1] * (len(own) - len(shape)) + list(shape)
    return x.expand([mine if n == 1 else n for mine, n in zip(own, shape, strict=True)])


def tile(x: Tensor, repeats: Sizes) -> Tensor:
    return x.repeat(repeats)


def concat(*xs: Tensor, axis: int) -> Tensor:
    return torch.cat(xs, axis)


def cut_out(x: Tensor, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None) -> Tensor:
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = steps[i] if steps else 1
        if step > 0:
            before: list[Any] = [slice(None)] * (axis % x.dim())
            x = x[(*before, slice(starts[i], ends[i], step))]
        else:
            taken = list(range(x.shape[axis]))[starts[i] : None if ends[i] < -x.shape[axis] else ends[i] : step]
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64, device=x.device))
    return x


def split(
    x: Tensor, split: Sizes | None = None, *, axis: int = 0, num_outputs: int = 0, parts: int = 0
) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = torch.split(x, split or -(-x.shape[axis] // parts), axis)
    return found


def gather(x: Tensor, indices: Index, *, axis: int = 0) -> Tensor:
    if isinstance(indices, int):
        return x.select(axis, indices)
    axis = axis % x.dim()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    places: list[Tensor] = []
    for axis in range(batch_dims):
        along = torch.arange(x.shape[axis], device=x.device)
        places.append(along.reshape([-1 if i == axis else 1 for i in range(indices.dim() - 1)]))
    return x[(*places, *indices.unbind(-1))]


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    indices = torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64)
    if reduction == "none":
        return torch.scatter(x, axis, indices, updates)
    kinds = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(x, axis, indices, updates, kinds[reduction])


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction in ("none", "add"):
        return torch.index_put(x, tuple(indices.unbind(-1)), updates, accumulate=reduction == "add")
    depth = indices.shape[-1]
    kinds = {"mul": "prod", "max": "amax", "min": "amin"}
    rows = torch.zeros_like(indices[..., 0])
    for axis in range(depth):
        rows = rows * x.shape[axis] + indices[..., axis] % x.shape[axis]
    flat, news = x.flatten(0, depth - 1), updates.reshape(rows.numel(), *x.shape[depth:])
    places = rows.reshape(-1, *[1] * (news.dim() - 1)).expand_as(news)
    return torch.scatter_reduce(flat, 0, places, news, kinds[reduction]).reshape(x.shape)


def pad(
    x: Tensor,
    pads: Sizes,
    value: Number = 0,
    axes: Sizes | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    half, widths = len(pads) // 2, [(0, 0)] * x.dim()
    for i, axis in enumerate(range(half) if axes is None else axes):
        widths[axis] = (pads[i], pads[i + half])
    if mode == "constant":
        value = value.item() if isinstance(value, Tensor) else value
        return F.pad(x, [n for pair in widths[::-1] for n in pair], value=value)
    for axis, (before, after) in enumerate(widths):
        n = x.shape[axis]
        if before == 0 and after == 0:
            continue
        places = torch.arange(-before, n + after, device=x.device)
        if mode == "edge":
            places = places.clamp(0, n - 1)
        elif mode == "wrap":
            places = places % n
        else:
            places = (n - 1) - ((n - 1) - places % (2 * n - 2)).abs()
        x = x.index_select(axis, places)
    return x


def size_range(start: Index, limit: Index, delta: Index, *, device: torch.device) -> Tensor:
    kinds = [one.dtype for one in (start, limit, delta) if isinstance(one, Tensor)]
    ends = [one.item() if isinstance(one, Tensor) else one for one in (start, limit, delta)]
    return torch.arange(*ends, dtype=kinds[0] if kinds else None, device=device)


def constant_of_shape(shape: Sizes, *, value: Any = (0.0, torch.float32), device: torch.device) -> Tensor:
    return torch.full(shape, value[0], dtype=value[1], device=device)


def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).t()


def one_hot(indices: Tensor, depth: Sizes, values: Tensor, *, axis: int = -1) -> Tensor:
    classes = depth[0] if isinstance(depth, list) else int(depth)
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    places = torch.remainder(indices.to(torch.int64), classes).unsqueeze(axis)
    known = ((indices >= -classes) & (indices < classes)).unsqueeze(axis)
    along = torch.arange(classes, device=indices.device).reshape([-1] + [1] * (indices.dim() - axis))
    return torch.where((places == along) & known, values[1], values[0])


def eye_like(x: Tensor, *, dtype: torch.dtype | None = None, k: int = 0) -> Tensor:
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return (columns[None] - rows[:, None] == k).to(dtype or x.dtype)


def triangle(x: Tensor, k: Index = 0, *, upper: int = 1) -> Tensor:
    k = int(k)
    return torch.triu(x, k) if upper else torch.tril(x, k)


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    if mode == "CRD":
        parts = x.reshape(n, depth, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(n, b, b, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, depth, h * b, w * b)


def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    parts = x.reshape(n, c, h // b, b, w // b, b)
    parts = parts.permute(0, 1, 3, 5, 2, 4) if mode == "CRD" else parts.permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b * b, h // b, w // b)
