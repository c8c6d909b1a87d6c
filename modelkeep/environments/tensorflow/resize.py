"""ONNX's Resize along one axis: where each output lies among the inputs, and what it takes of its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from modelkeep.environments.tensorflow.node import Node, rank

PLACES: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "half_pixel": lambda at, scale, size, new: (at + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda at, scale, size, new: tf.where(new > 1, (at + 0.5) / scale - 0.5, tf.zeros_like(at)),
    "asymmetric": lambda at, scale, size, new: at / scale,
    "align_corners": lambda at, scale, size, new: at * (size - 1) / tf.maximum(new - 1, 1.0),
}
"""coordinate_transformation_mode → the place of output ``at`` among ``size`` inputs, where ``new`` are the outputs."""
NEAREST: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda place: tf.math.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: tf.floor(place + 0.5),
    "floor": tf.floor,
    "ceil": tf.math.ceil,
}


def resize(node: Node, x: Any, axis: int, new: Any, scale: Any) -> Any:
    """``x`` with ``new`` numbers along ``axis``, which is ``scale`` times as many."""
    size = tf.cast(tf.shape(x)[axis], tf.float32)
    new = tf.cast(new, tf.int32)
    at = tf.range(tf.cast(new, tf.float32))
    place = PLACES[node.get("coordinate_transformation_mode", "half_pixel")](at, scale, size, tf.cast(new, tf.float32))
    mode = node.get("mode", "nearest")
    if mode == "nearest":
        found = _taken(x, axis, NEAREST[node.get("nearest_mode", "round_prefer_floor")](place), size)
    elif node.get("antialias", 0) or node.get("exclude_outside", 0):
        raise ValueError("antialias and exclude_outside are not supported")
    else:
        taps = _linear(place) if mode == "linear" else _cubic(place, node.get("cubic_coeff_a", -0.75))
        along = [-1 if d == axis else 1 for d in range(rank(x))]
        found = tf.add_n([_taken(x, axis, where, size) * tf.reshape(part, along) for where, part in taps])
    static = tf.get_static_value(new)
    if static is not None:
        found = tf.ensure_shape(found, [int(static) if d == axis else s for d, s in enumerate(found.shape)])
    return found


def _taken(x: Any, axis: int, where: Any, size: Any) -> Any:
    return tf.gather(x, tf.cast(tf.clip_by_value(where, 0.0, size - 1), tf.int32), axis=axis)


def _linear(place: Any) -> list[tuple[Any, Any]]:
    low = tf.floor(place)
    return [(low, 1 - (place - low)), (low + 1, place - low)]


def _cubic(place: Any, a: float) -> list[tuple[Any, Any]]:
    """Keys, 'Cubic convolution interpolation for digital image processing', 1981."""
    low = tf.floor(place)
    found = []
    for step in (-1.0, 0.0, 1.0, 2.0):
        d = tf.abs(place - (low + step))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        found.append((low + step, tf.where(d <= 1, near, far)))
    return found
