"""Where a free dimension begins, for a file that only says that it is free."""

from __future__ import annotations

import contextlib

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.model import engines, free_dimensions
from modelkeep.model import signature as signatures
from modelkeep.types import BATCH, Model, Signature


def smallest(model: Model, rows: Dataset | None) -> Signature:
    """Its signature; what it leaves free and unbounded begins at the smallest size that it takes, found by running it.

    ONNX, Keras and SavedModels have no word for it, and a network that halves a picture twice cannot take three pixels.
    """
    signature = model.signature
    unbounded = set(signature.free) - {BATCH} - set(signature.bounds)
    if not unbounded or not signature.batched:
        return signature
    some = dataset.fit(rows, signature).inputs if rows else signatures.example(signature)
    with contextlib.closing(engines.load(model)) as runner:
        return free_dimensions.raised(runner.run, {name: array[:1] for name, array in some.items()}, signature)
