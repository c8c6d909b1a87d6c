"""Requests that were kept, as rows with the truth that came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.data import lengths
from modelkeep.data.dataset import Dataset, truth_of
from modelkeep.errors import BadData

if TYPE_CHECKING:
    from modelkeep.data.traffic import Exchange
    from modelkeep.types import Array


def from_exchanges(exchanges: Sequence[Exchange], source: str = "captured traffic") -> Dataset:
    """Captured requests as rows, in their order; labelled where every one of them is.

    A request whose inputs were not kept, or whose labels are not one a row, is left out, and so is a row whose label is
    None, empty or NaN. Sequences are padded to the longest where they have a mask (``lengths.joined``). BadData when
    none is left, or they differ in other ways.
    """
    kept = [e for e in exchanges if e.inputs]
    if kept and all(e.label is not None for e in kept):
        rows = Labelled(0, source)
        rows.take(kept)
        return rows.dataset()
    if not kept:
        raise BadData(f"{source} has no rows")
    return Dataset(_joined([e.inputs for e in kept if e.inputs], source), None, source)


class Labelled:
    """Labelled requests as rows, as ``from_exchanges`` makes them, taken a part at a time: each is copied, and may then
    be let go, so that pictures are in memory once.

    ``most`` is how many rows are awaited at most, where there are several parts.
    """

    def __init__(self, most: int, source: str) -> None:
        self._most, self._source = most, source
        self._inputs: dict[str, Array] = {}
        self._n = 0
        self._labels: list[Array] = []
        self._known: list[Array] = []

    def take(self, exchanges: Sequence[Exchange]) -> None:
        """The next ones, all of them labelled. Raises BadData where their inputs differ from those before."""
        parts, truth = [], []
        for one in exchanges:
            if one.inputs and _one_a_row(one.label, len(next(iter(one.inputs.values())))):
                parts.append(one.inputs)
                truth.append(np.reshape(one.label, -1))
        if not parts:
            return
        each = np.concatenate(truth).tolist()
        known = np.array([label is not None and str(label).lower() not in ("", "nan") for label in each])
        self._labels += truth
        self._known.append(known)
        inputs = _joined(parts, self._source)
        if not known.all():  # else they would be copied, and pictures are large
            inputs = {name: array[known] for name, array in inputs.items()}
        self._put(inputs, int(known.sum()))

    def dataset(self) -> Dataset:
        """All that were taken. Raises BadData where there is none."""
        if not self._n:
            raise BadData(f"{self._source} has no rows")
        labels = np.concatenate(self._labels)[np.concatenate(self._known)]
        inputs = {name: array[: self._n] for name, array in self._inputs.items()}
        return Dataset(inputs, truth_of(labels, self._source), self._source)

    def _put(self, inputs: dict[str, Array], n: int) -> None:
        """Into arrays with room for all, whose pages take memory once they are written; anew where rows differ."""
        if self._n and not self._fit(inputs, n):
            before = {name: array[: self._n] for name, array in self._inputs.items()}
            inputs, n, self._n = _joined([before, inputs], self._source), self._n + n, 0
        if not self._n and n >= self._most:
            self._inputs = inputs
        elif not self._n:
            self._inputs = {name: np.empty((self._most, *a.shape[1:]), a.dtype) for name, a in inputs.items()}
        if self._inputs is not inputs:
            for name, array in self._inputs.items():
                array[self._n : self._n + n] = inputs[name]
        self._n += n

    def _fit(self, inputs: dict[str, Array], n: int) -> bool:
        """Whether there is room for these rows, and they are as those before."""
        return all(
            name in inputs
            and (array.dtype, array.shape[1:]) == (inputs[name].dtype, inputs[name].shape[1:])
            and self._n + n <= len(array)
            for name, array in self._inputs.items()
        )


def _joined(parts: Sequence[Mapping[str, Array]], source: str) -> dict[str, Array]:
    try:
        return lengths.joined(parts)
    except (KeyError, ValueError) as error:
        raise BadData(
            f"the requests of {source} differ in their inputs, so they cannot be rows of one set: {error}"
        ) from error


def _one_a_row(label: object, rows: int) -> bool:
    each = label if isinstance(label, list) else [label]
    return len(each) == rows and not any(isinstance(one, list) for one in each)
