"""Truth as class numbers, whatever the rows call their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData


def indexed(rows: Dataset, classes: Sequence[str], count: int, *, mend: str = "") -> Dataset:
    """The same rows with int64 class numbers below ``count`` as labels; rows without labels as they are.

    Whole numbers that are all below ``count`` are class numbers already, as score takes them; anything else must be
    names of ``classes``. Raises BadData with a label that is neither, and ``mend`` as what to do.
    """
    given = rows.labels
    if given is None:
        return rows
    if given.ndim != 1:
        raise BadData(f"the labels of {rows.source} have shape {list(given.shape)}; give one class a row")
    within = (given >= 0) & (given < count) if given.dtype.kind in "iub" else np.zeros(len(given), dtype=bool)
    if within.all():
        return replace(rows, labels=given.astype(np.int64))
    number = {name: index for index, name in enumerate(classes)}
    found = np.array([number.get(str(label), -1) for label in given], dtype=np.int64)
    if (found < 0).any():
        nameless = found < 0
        at = int(np.argmax(nameless & ~within if (nameless & ~within).any() else nameless))
        known = f"{count} classes ({', '.join(classes)})" if classes else f"classes, 0 to {count - 1}"
        raise BadData(f"the label '{given[at]}' of {rows.source} is none of the model's {known}{mend}")
    return replace(rows, labels=found)
