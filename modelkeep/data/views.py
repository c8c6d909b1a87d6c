"""Rows of arrays by their numbers, which are copied only when they are read: pictures fill memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array


class View:
    """Looks like the array [numbers, ...] of these rows of the ``parts``, which are numbered one after the other.

    Rows are read by a slice or by their numbers; for anything else it becomes the whole array. The parts are alike in
    all but their number of rows, and may be views.
    """

    def __init__(self, parts: Sequence[Array | View], numbers: Array) -> None:
        self.parts: list[Array] = []
        known, count = [], 0
        for part in parts:
            known.append(count + (part.numbers if isinstance(part, View) else np.arange(len(part))))
            self.parts += part.parts if isinstance(part, View) else [part]
            count = sum(map(len, self.parts))
        self.numbers: Array = np.concatenate(known)[numbers]
        self.dtype, self.shape = self.parts[0].dtype, (len(numbers), *self.parts[0].shape[1:])
        self.ndim, self.nbytes = len(self.shape), math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: Any) -> Array:
        if not isinstance(key, slice | np.ndarray):
            whole: Array = np.asarray(self)[key]
            return whole
        numbers, start = self.numbers[key], 0
        if len(self.parts) == 1:
            return self.parts[0][numbers]
        found: Array = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for part in self.parts:
            here = np.flatnonzero((numbers >= start) & (numbers < start + len(part)))
            found[here] = part[numbers[here] - start]
            start += len(part)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)
