"""Arrays of any shape as columns of numbers, one line a row, each column with a name that a person understands."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelkeep.types import Array, Arrays, TensorSpec

MAX_VALUES = 256
"""A tensor with more values a row gives its summaries only."""
MAX_TEXTS = 11
SUMMARIES = ("mean", "std", "share of zeros", "share of NaN", "min", "max", "norm", "number of values")
CONFIDENCES = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
ENTROPIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Fixed bins. Quantiles of reference rows that the model was trained on would call every new row less sure."""

Edges = tuple[float, ...] | None


class Tensor:
    """How one tensor is read. ``columns`` are (name, fixed bin edges, or None where the reference decides)."""

    def __init__(self, spec: TensorSpec, reference: Array, *, scores: bool = False) -> None:
        self.name = spec.name
        self.batched = spec.shape[:1] == (None,)
        rest = spec.shape[1:] if self.batched else spec.shape
        self.scores = scores and reference.ndim == 2 and reference.shape[1] > 1 and reference.dtype.kind == "f"
        self.texts: dict[str, float] | None = None
        if spec.dtype == "str":
            common = Counter(map(str, reference.ravel().tolist())).most_common(MAX_TEXTS)
            self.texts = {text: float(code) for code, (text, _) in enumerate(common)}
        sizes = [d for d in rest if d is not None]
        size = int(np.prod(sizes, dtype=np.int64))
        self.each = len(sizes) == len(rest) and size <= MAX_VALUES
        self.summed = self.texts is None and (len(sizes) < len(rest) or size > 1)
        self.columns = self._columns(tuple(sizes))

    def _columns(self, shape: tuple[int, ...]) -> list[tuple[str, Edges]]:
        if self.scores:
            return [("predicted class", None), ("confidence", CONFIDENCES), ("entropy", ENTROPIES)]
        each = [f"{self.name}[{','.join(map(str, at))}]" if at else self.name for at in np.ndindex(*shape)]
        sums = [f"{what} of {self.name}" for what in SUMMARIES]
        return [(name, None) for name in (each if self.each else []) + (sums if self.summed else [])]

    def read(self, array: Array) -> Array:
        """[rows, columns] as float64; ValueError where the array is not like the reference."""
        rows = array.reshape(len(array) if self.batched else 1, -1)
        if self.scores:
            return of_scores(rows)
        if self.texts is not None:
            codes = [self.texts.get(str(text), -1.0) for text in rows.ravel().tolist()]
            values = np.array(codes, dtype=np.float64).reshape(rows.shape)
        else:
            values = rows.astype(np.float64)
        parts = [values] if self.each else []
        found = np.concatenate([*parts, summaries(values)], axis=1) if self.summed else values
        if not self.each and not self.summed:  # texts whose number is free: how many are of each kind
            found = np.empty((len(rows), 0))
        if found.shape[1] != len(self.columns):
            raise ValueError(
                f"'{self.name}' gives {found.shape[1]} features where its reference gave {len(self.columns)}"
            )
        return found


class Columns:
    """Several tensors side by side; what differs from the reference rows in form is for the server to refuse."""

    def __init__(self, specs: Sequence[TensorSpec], reference: Arrays, *, answers: bool = False) -> None:
        self.tensors = [
            Tensor(spec, np.asarray(reference[spec.name]), scores=answers and at == 0) for at, spec in enumerate(specs)
        ]
        columns = [column for tensor in self.tensors for column in tensor.columns]
        self.names = [name for name, _ in columns]
        self.edges = [edges for _, edges in columns]

    def read(self, arrays: Arrays) -> Array:
        """[rows, features]; KeyError or ValueError where the arrays are not like the reference rows."""
        return np.concatenate([tensor.read(np.asarray(arrays[tensor.name])) for tensor in self.tensors], axis=1)


def summaries(values: Array) -> Array:
    """[rows, 8]: SUMMARIES of each row; of none of its values, NaN."""
    rows, size = values.shape
    if not size:
        return np.concatenate([np.full((rows, len(SUMMARIES) - 1), np.nan), np.zeros((rows, 1))], axis=1)
    missing = np.isnan(values)
    known = np.where(missing, 0.0, values)
    n = np.maximum(size - missing.sum(axis=1), 1)
    mean = known.sum(axis=1) / n
    spread = np.sqrt(np.maximum((known**2).sum(axis=1) / n - mean**2, 0.0))
    lowest = np.where(missing, np.inf, values).min(axis=1)
    highest = np.where(missing, -np.inf, values).max(axis=1)
    zeros, norm = (values == 0).mean(axis=1), np.sqrt((known**2).sum(axis=1))
    sizes = np.full(rows, float(size))
    return np.stack([mean, spread, zeros, missing.mean(axis=1), lowest, highest, norm, sizes], axis=1)


def of_scores(scores: Array) -> Array:
    """[rows, 3]: predicted class, its probability, and the entropy as a share of the highest possible one.

    Scores that are no probabilities are taken for logits; a row with NaN has NaN for all three.
    """
    values = scores.astype(np.float64)
    sums = values.sum(axis=1)
    if not (np.all(values >= 0) and np.allclose(sums, 1.0, atol=1e-3)):
        values = np.exp(values - values.max(axis=1, keepdims=True))
        values = values / values.sum(axis=1, keepdims=True)
    entropy = -(values * np.log(np.maximum(values, 1e-12))).sum(axis=1) / np.log(values.shape[1])
    found = np.stack([values.argmax(axis=1).astype(np.float64), values.max(axis=1), entropy], axis=1)
    found[np.isnan(values).any(axis=1)] = np.nan
    return found
