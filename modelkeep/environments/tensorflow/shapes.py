"""ONNX operators that move numbers and change none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from modelkeep.environments.tensorflow.node import Node, known, last, numbers, rank, shape
from modelkeep.environments.tensorflow.node import first as channels_first

BIG = 2**31 - 1


def _constant(node: Node) -> Any:
    for name, dtype in (("value", None), ("value_float", np.float32), ("value_int", np.int64)):
        if node.get(name) is not None:
            return np.asarray(node.get(name), dtype)
    for name, kind in (("value_floats", np.float32), ("value_ints", np.int64), ("value_strings", object)):
        if node.get(name) is not None:
            return np.array(list(node.get(name)), kind)
    raise ValueError("the constant has no value")


def _shape(node: Node, x: Any) -> Any:
    return shape(x)[slice(node.get("start", 0), node.get("end"))]


def _size(node: Node, x: Any) -> Any:
    found = shape(x)
    return np.asarray(np.prod(found), np.int64) if known(found) else tf.reduce_prod(found)


def _reshape(node: Node, x: Any, to: Any) -> Any:
    if not known(to):
        return tf.reshape(x, to)
    wanted = [int(n) for n in to]
    if not node.get("allowzero", 0):
        sizes = shape(x)
        wanted = [sizes[at] if n == 0 else n for at, n in enumerate(wanted)]
    return tf.reshape(x, _stacked(wanted))


def _stacked(sizes: list[Any]) -> Any:
    return tf.stack([tf.cast(n, tf.int64) for n in sizes]) if sizes else np.zeros(0, np.int64)


def _flatten(node: Node, x: Any) -> Any:
    sizes, axis = shape(x), node.get("axis", 1)
    axis = axis + rank(x) if axis < 0 else axis
    return tf.reshape(x, _stacked([_product(sizes[:axis]), _product(sizes[axis:])]))


def _product(sizes: Any) -> Any:
    return int(np.prod(sizes)) if known(sizes) else tf.reduce_prod(sizes)


def _transpose(node: Node, x: Any) -> Any:
    return tf.transpose(x, node.get("perm"))


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    given = node.get("axes") if axes is None else numbers(axes, "the axes")
    return tf.squeeze(x, list(given) if given else None)


def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    given = node.get("axes") if axes is None else numbers(axes, "the axes")
    n = rank(x) + len(given)
    for axis in sorted(a % n for a in given):
        x = tf.expand_dims(x, axis)
    return x


def _expand(node: Node, x: Any, to: Any) -> Any:
    """Broadcasting both ways: a 1 in ``to`` keeps the size of ``x``."""
    sizes = shape(x)
    if known(sizes) and known(to):
        return tf.broadcast_to(x, np.broadcast_shapes(tuple(map(int, sizes)), tuple(map(int, to))))
    wide = tf.broadcast_dynamic_shape(tf.cast(sizes, tf.int64), tf.cast(to, tf.int64))
    found = tf.broadcast_to(x, wide)
    length = to.shape[0]
    if length is not None and found.shape.rank is None:
        found.set_shape([None] * max(int(length), rank(x)))
    return found


def _concat(node: Node, *values: Any) -> Any:
    axis = node.get("axis", 1)
    origins = [getattr(value, "_modelkeep_last", None) for value in values]
    if axis == 1 and all(o is not None for o in origins):
        return channels_first(tf.concat(origins, -1))
    return tf.concat([tf.convert_to_tensor(value) for value in values], axis)


def _split(node: Node, x: Any, sizes: Any = None) -> list[Any]:
    axis = node.get("axis", 0)
    given = node.get("split") if sizes is None else sizes
    if given is not None:
        return list(tf.split(x, numbers(given, "the sizes of the parts"), axis))
    count, whole = node.get("num_outputs", node.outputs), x.shape[axis]
    if whole is None:
        raise ValueError("the size that is split depends on the input")
    part = -(-whole // count)
    return list(tf.split(x, [min(part, whole - at * part) for at in range(count)], axis))


def _slice(node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    if starts is None:  # before opset 10
        starts, ends, axes = (np.array(node.get(n)) if node.get(n) else None for n in ("starts", "ends", "axes"))
    count = starts.shape[0]
    along = numbers(axes, "the axes") if axes is not None else list(range(count))
    by = numbers(steps, "the steps") if steps is not None else [1] * count
    where = [slice(None)] * rank(x)
    for at, (axis, step) in enumerate(zip(along, by, strict=True)):
        where[axis] = slice(_bound(starts, at, step, start=True), _bound(ends, at, step, start=False), step)
    # an array cannot be cut at a place that depends on the input
    return tf.convert_to_tensor(x)[tuple(where)]


def _bound(values: Any, at: int, step: int, *, start: bool) -> Any:
    """A slice's end as Python has it: what lies beyond the array is None."""
    if not known(values):
        return tf.cast(tf.clip_by_value(values[at], -BIG, BIG), tf.int32)
    value = int(values[at])
    if abs(value) < BIG:
        return value
    # the end that lies in that direction is where the slice begins or ends by itself; past the other it is empty
    return None if (value > 0) == ((step > 0) != start) else int(np.clip(value, -BIG, BIG))


def _gather(node: Node, x: Any, indices: Any) -> Any:
    axis = node.get("axis", 0)
    return tf.gather(x, _positive(indices, shape(x)[axis]), axis=axis)


def _positive(indices: Any, size: Any) -> Any:
    """Negative indices count from the end."""
    if known(indices) and (indices >= 0).all():
        return indices
    indices = tf.convert_to_tensor(indices)
    return tf.where(indices < 0, indices + tf.cast(size, indices.dtype), indices)


def _along(x: Any, indices: Any, axis: int) -> Any:
    """The full coordinates of GatherElements and ScatterElements: [..., rank]."""
    sizes = tf.shape(indices, tf.int64)
    grid = list(tf.meshgrid(*(tf.range(sizes[d]) for d in range(rank(x))), indexing="ij"))
    grid[axis] = tf.cast(_positive(indices, shape(x)[axis]), tf.int64)
    return tf.stack(grid, -1)


def _gather_elements(node: Node, x: Any, indices: Any) -> Any:
    return tf.gather_nd(x, _along(x, indices, node.get("axis", 0) % rank(x)))


def _gather_nd(node: Node, x: Any, indices: Any) -> Any:
    batch = node.get("batch_dims", 0)
    depth = indices.shape[-1]
    if depth is None:
        raise ValueError("the number of coordinates depends on the input")
    return tf.gather_nd(x, _positive(indices, shape(x)[batch : batch + depth]), batch_dims=batch)


UPDATES: dict[str, Callable[..., Any]] = {
    "none": tf.tensor_scatter_nd_update,
    "add": tf.tensor_scatter_nd_add,
    "max": tf.tensor_scatter_nd_max,
    "min": tf.tensor_scatter_nd_min,
}


def _scatter_elements(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    return UPDATES[node.get("reduction", "none")](x, _along(x, indices, node.get("axis", 0) % rank(x)), updates)


def _scatter_nd(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    depth = indices.shape[-1]
    return UPDATES[node.get("reduction", "none")](x, _positive(indices, shape(x)[:depth]), updates)


def _tile(node: Node, x: Any, repeats: Any) -> Any:
    return tf.tile(x, repeats)


def _pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    given = node.get("pads") if pads is None else pads
    along = numbers(axes, "the axes") if axes is not None else range(rank(x))
    mode = {"constant": "CONSTANT", "reflect": "REFLECT", "edge": "EDGE"}.get(node.get("mode", "constant"))
    if mode is None:
        raise ValueError(f"mode {node.get('mode')} has no counterpart")
    if mode == "EDGE":
        return _pad_edge(x, numbers(given, "the padding"), list(along))
    count = len(along)
    sizes: list[Any] = [[0, 0]] * rank(x)
    for at, axis in enumerate(along):
        sizes[axis] = [given[at], given[at + count]]
    fill = node.get("value", 0.0) if value is None else value
    if not known(given):
        sizes = [[tf.cast(n, tf.int32) for n in pair] for pair in sizes]
    x = tf.convert_to_tensor(x)
    return tf.pad(_cut(x, sizes), _kept(sizes), mode, tf.reshape(tf.cast(fill, x.dtype), []))


def _cut(x: Any, sizes: list[Any]) -> Any:
    """A negative padding takes rows away."""
    if not any(known(np.asarray(n)) and n < 0 for pair in sizes for n in pair if not tf.is_tensor(n)):
        return x
    return x[tuple(slice(max(0, -a), -max(0, -b) or None) for a, b in sizes)]


def _kept(sizes: list[Any]) -> list[Any]:
    return [[n if tf.is_tensor(n) else max(0, int(n)) for n in pair] for pair in sizes]


def _pad_edge(x: Any, pads: list[int], along: list[int]) -> Any:
    count = len(along)
    for at, axis in enumerate(along):
        size = tf.shape(x)[axis]
        where = tf.clip_by_value(tf.range(-pads[at], size + pads[at + count]), 0, size - 1)
        x = tf.gather(x, where, axis=axis)
    return x


def _range(node: Node, start: Any, limit: Any, step: Any) -> Any:
    return tf.range(*(tf.reshape(value, []) for value in (start, limit, step)))


def _filled(node: Node, sizes: Any) -> Any:
    value = node.get("value", np.zeros(1, np.float32))
    return tf.fill(tf.cast(sizes, tf.int64), value.reshape(-1)[0])


def _one_hot(node: Node, indices: Any, depth: Any, values: Any) -> Any:
    off, on = tf.unstack(tf.convert_to_tensor(values))
    depth = tf.cast(tf.reshape(depth, []), tf.int32)
    return tf.one_hot(_positive(tf.cast(indices, tf.int64), depth), depth, on, off, node.get("axis", -1))


def _trilu(node: Node, x: Any, k: Any = None) -> Any:
    sizes, by = tf.shape(x), tf.constant(0) if k is None else tf.cast(tf.reshape(k, []), tf.int32)
    apart = tf.range(sizes[-1])[None, :] - tf.range(sizes[-2])[:, None]
    return tf.where(apart >= by if node.get("upper", 1) else apart <= by, x, tf.zeros([], tf.as_dtype(x.dtype)))


def _non_zero(node: Node, x: Any) -> Any:
    return tf.transpose(tf.where(tf.cast(x, tf.bool)))


def _depth_to_space(node: Node, x: Any) -> Any:
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "DCR":
        return channels_first(tf.nn.depth_to_space(last(x), block))
    n, c, h, w = (shape(x)[d] for d in range(4))
    parts = tf.reshape(x, _stacked([n, c // block**2, block, block, h, w]))
    return tf.reshape(tf.transpose(parts, [0, 1, 4, 2, 5, 3]), _stacked([n, c // block**2, h * block, w * block]))


def _space_to_depth(node: Node, x: Any) -> Any:
    return channels_first(tf.nn.space_to_depth(last(x), node.get("blocksize")))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Identity": lambda node, x: x if known(x) else tf.identity(x),
    "Dropout": lambda node, x, *_: [tf.identity(x), tf.ones(tf.shape(x), tf.bool)],
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Tile": _tile,
    "Pad": _pad,
    "Range": _range,
    "OneHot": _one_hot,
    "Trilu": _trilu,
    "NonZero": _non_zero,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
"""ONNX operator → function(node, *inputs)."""
