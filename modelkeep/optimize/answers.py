"""What a model answers on many rows, and how far two models' answers agree."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel
from modelkeep.types import Runner, Signature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelkeep.types import Array, Arrays

BATCH = 256


def fixed_batch(signature: Signature) -> int | None:
    """The number of rows that the model was baked for; None where it takes any."""
    return next((t.shape[0] for t in signature.inputs if t.shape and t.shape[0] is not None), None)


def fitted(rows: Dataset, signature: Signature) -> Dataset:
    """The rows as the model takes them (dataset.fit), any number of them, whatever number it was baked for."""
    free = tuple(replace(t, shape=(None, *t.shape[1:])) if t.shape else t for t in signature.inputs)
    return dataset.fit(rows, replace(signature, inputs=free))


def batches(rows: Dataset, size: int, *, exactly: bool) -> Iterator[Arrays]:
    """The rows in runs of ``size``; the last run is shorter, or filled up with its own last row."""
    for start in range(0, len(rows), size):
        numbers = np.arange(start, start + size)
        yield rows.take(np.minimum(numbers, len(rows) - 1) if exactly else numbers[numbers < len(rows)]).inputs


def answers(runner: Runner, rows: Dataset) -> Array:
    """The first output for every row, float32 [rows, classes]. Raises BadModel where it is not one score for each."""
    name = runner.signature.outputs[0].name
    fixed = fixed_batch(runner.signature)
    parts = [runner.run(some)[name] for some in batches(rows, fixed or BATCH, exactly=bool(fixed))]
    found = np.concatenate(parts)[: len(rows)]
    if found.dtype.kind != "f" or found.ndim != 2:
        told = f"{found.dtype.name} {list(found.shape[1:])} a row"
        raise BadModel(f"output '{name}' is {told}; this needs a model that gives one score for each class")
    return found.astype(np.float32)


def agreement(reference: Array, answered: Array) -> dict[str, float]:
    """How near the second is to the first: share of rows with the same class, and the cosine of all scores."""
    a, b = reference.astype(np.float64).ravel(), answered.astype(np.float64).ravel()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    same = float((reference.argmax(1) == answered.argmax(1)).mean())
    return {"agreement": same, "cosine": float(a @ b) / scale if scale else 0.0}
