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
    names of ``classes``. Among names, numbers are class numbers too, for labels come from several hands, unless a class
    is itself called by a number. Raises BadData with a label that is neither, of how many rows, and ``mend``.
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
    if given.dtype.kind in "OUS" and not any(name.isdecimal() for name in classes):
        number |= {str(index): index for index in range(count)}
    found = np.array([number.get(str(label), -1) for label in given], dtype=np.int64)
    if (found < 0).any():
        wrong = (found < 0) & ~within if ((found < 0) & ~within).any() else found < 0
        known = f"{count} classes ({', '.join(classes)})" if classes else f"classes, 0 to {count - 1}"
        told = f"the label '{given[np.argmax(wrong)]}' of {rows.source} ({wrong.sum():,} of {len(given):,} rows)"
        raise BadData(f"{told} is none of the model's {known}{mend}")
    return replace(rows, labels=found)
