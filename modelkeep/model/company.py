"""Does a row's answer depend on the rows beside it? Then requests must not share a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput
from modelkeep.model import signature as signatures
from modelkeep.types import BATCH, Bounds, Runner

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

ROWS = 3
"""Rows that keep each other company."""
SHARE = 0.05
"""Of the largest answer: more than any precision's rounding, which batches of another size may change too."""


def mixed(runner: Runner, rows: Dataset | None = None) -> str:
    """The output that answers a row alone otherwise than among others, and by how much; empty where none does.

    A softmax over the rows does that, or a normalisation by the batch's own mean. ``rows`` are real ones, by default
    seeded ones that fit the signature. Two runs; a model whose batch is fixed, or that fails on them, is not judged.
    """
    signature = runner.signature
    if not signature.batched or not signature.bounds.get(BATCH, Bounds()).allows(ROWS):
        return ""
    pool = rows.inputs if rows else signatures.example(signature, ROWS)
    few = {name: array[np.arange(ROWS) % len(array)] for name, array in pool.items()}
    try:
        alone, among = runner.run({name: array[:1] for name, array in few.items()}), runner.run(few)
    except BadInput:
        return ""
    return apart(alone, among)


def apart(alone: Arrays, among: Arrays) -> str:
    """The same of answers that are there: to a row alone, and to it as the first of several."""
    for name, answer in alone.items():
        if (gap := _gap(answer, among[name])) > SHARE:
            return f"output '{name}' by {gap:.2g} of its largest answer"
    return ""


def _gap(alone: Array, among: Array) -> float:
    """By which share of the largest number the first row differs; of what is no number, not judged."""
    if alone.dtype.kind != "f" or not alone.ndim or not alone.size or among[:1].shape != alone.shape:
        return 0.0
    one, other = alone.astype(np.float64), among[:1].astype(np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return 0.0
    largest = max(float(np.abs(one).max()), float(np.abs(other).max()))
    return float(np.abs(one - other).max()) / largest if largest else 0.0
