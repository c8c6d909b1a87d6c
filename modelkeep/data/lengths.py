"""Sequences of different lengths side by side: padded with zeros, and told apart from their padding by their mask.

A mask is an input whose name has "mask" in it, and which is not zero where there is something (Hugging Face's
``attention_mask``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.data.summaries import narrowed

if TYPE_CHECKING:
    from modelkeep.types import Array, TensorSpec

MASK = "mask"
"""In the name of an input of whole numbers that says which places of a sequence count."""


def mask_of(spec: TensorSpec, specs: Sequence[TensorSpec]) -> str:
    """The name of the mask of a tensor [rows, positions] of any length; "" where it has none."""
    if spec.shape != (None, None):
        return ""
    fit = (s.name for s in specs if MASK in s.name and s.shape == spec.shape and s.axes == spec.axes)
    return next(fit, "")


def ends(masks: Sequence[Array]) -> Array:
    """[rows of all masks]: where the padding of each row begins; its length where it has none, or is all padding."""
    found = []
    for mask in masks:
        length = mask.shape[1]
        after = np.argmax(mask[:, ::-1] != 0, axis=1) if length else np.zeros(len(mask), np.int64)
        found.append(length - after)
    return np.concatenate(found)


def cut(rows: Array, sizes: Array, ends: Array) -> tuple[Array, Array]:
    """The rows with NaN from their end on, and their sizes without the padding."""
    seen = np.minimum(sizes, ends)
    if (seen == sizes).all():
        return rows, sizes
    return narrowed(np.where(np.arange(rows.shape[1]) < seen[:, None], rows, np.nan)), seen


def joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The rows of all parts by input, short sequences padded to the longest where a mask says where they end.

    KeyError where a part lacks an input, ValueError where the shapes differ otherwise.
    """
    names = list(parts[0])
    if all(len({part[name].shape[1:] for part in parts}) == 1 for name in names):
        return {name: np.concatenate([part[name] for part in parts]) for name in names}
    masks = [name for name in names if MASK in name and parts[0][name].ndim == 2]
    if not masks or any(not part[name][:, :1].all() for part in parts for name in masks):
        raise ValueError("sequences of different lengths have no mask that says where they end")
    lengths = [part[masks[0]].shape[1] for part in parts]
    return {
        name: np.concatenate([_padded(part[name], n, max(lengths)) for part, n in zip(parts, lengths, strict=True)])
        for name in names
    }


def _padded(array: Array, length: int, longest: int) -> Array:
    """With zeros after the axis of that length; an array without one is left, to fit the others or not."""
    along = [axis for axis in range(1, array.ndim) if array.shape[axis] == length]
    if len(along) != 1 or array.dtype.kind not in "biuf":
        return array
    return np.pad(array, [(0, longest - length if axis == along[0] else 0) for axis in range(array.ndim)])
