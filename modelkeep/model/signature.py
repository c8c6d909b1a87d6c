"""Signatures from arrays, and arrays from signatures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.types import Signature, TensorSpec

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

FREE = 4
"""The size given to a free dimension other than the batch, when nobody knows better."""


def dtype_name(array: Array) -> str:
    """The name that a TensorSpec uses: numpy's, and ``str`` for text of any kind."""
    return "str" if array.dtype.kind in "OUS" else array.dtype.name


def from_arrays(inputs: Arrays, outputs: Arrays) -> Signature:
    """What these arrays show, the first dimension of each taken as the batch, free."""

    def specs(arrays: Arrays) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, dtype_name(array), (None, *array.shape[1:]) if array.ndim else ())
            for name, array in arrays.items()
        )

    return Signature(specs(inputs), specs(outputs))


def example(signature: Signature, batch: int, seed: int = 0, free: int = FREE) -> dict[str, Array]:
    """Seeded inputs that fit: ``batch`` rows, ``free`` for every other free dimension.

    Floats are standard normal, integers 0 to 9, truth values and text by chance.
    """
    rng = np.random.default_rng(seed)
    return {spec.name: _draw(spec, batch, free, rng) for spec in signature.inputs}


def _draw(spec: TensorSpec, batch: int, free: int, rng: np.random.Generator) -> Array:
    sizes = [free if size is None else size for size in spec.shape]
    if spec.shape[:1] == (None,):
        sizes[0] = batch
    if spec.dtype == "str":
        text = np.array([f"text {n}" for n in rng.integers(0, 10, math.prod(sizes))], dtype=object)
        return text.reshape(sizes)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, sizes).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, 10, sizes).astype(dtype)
    return rng.standard_normal(sizes).astype(dtype)
