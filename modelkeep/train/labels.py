"""Truth as class numbers, whatever the rows call their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData

if TYPE_CHECKING:
    from modelkeep.types import Array


MOST_ASIDE = 0.05
"""The share of rows whose label is no class that is put aside; where it is more, the labels are another model's."""


def indexed(rows: Dataset, classes: Sequence[str], count: int, *, mend: str = "") -> Dataset:
    """The same rows with int64 class numbers below ``count`` as labels; rows without labels as they are.

    Whole numbers that are all below ``count`` are class numbers already, as score takes them; anything else must be
    names of ``classes``. Among names, numbers are class numbers too, for labels come from several hands, unless a class
    is itself called by a number. Raises BadData with a label that is neither, of how many rows, and ``mend``.
    """
    if rows.labels is None:
        return rows
    found, wrong = _numbered(rows, classes, count)
    if wrong.any():
        raise BadData(f"{_said(rows, wrong, classes, count)}{mend}")
    return replace(rows, labels=found)


def sound(rows: Dataset, classes: Sequence[str], count: int, *, mend: str = "") -> tuple[Dataset, str]:
    """``indexed``, without the rows whose label is no class where they are at most MOST_ASIDE of all, and what was put
    aside in a sentence ('' where nothing was): a slip of one hand must not stop learning from all the others.

    Raises BadData as ``indexed`` does where they are more.
    """
    if rows.labels is None:
        return rows, ""
    found, wrong = _numbered(rows, classes, count)
    if wrong.sum() > MOST_ASIDE * len(rows):
        raise BadData(f"{_said(rows, wrong, classes, count)}; {MOST_ASIDE:.0%} at most are put aside{mend}")
    if not wrong.any():
        return replace(rows, labels=found), ""
    return replace(rows, labels=found).take(~wrong), f"put aside: {_said(rows, wrong, classes, count)}"


def _numbered(rows: Dataset, classes: Sequence[str], count: int) -> tuple[Array, Array]:
    """Class numbers, and which rows' labels are none; of numbers and names the reading that leaves fewer of these."""
    given = rows.labels
    assert given is not None
    if given.ndim != 1:
        raise BadData(f"the labels of {rows.source} have shape {list(given.shape)}; give one class a row")
    within = np.zeros(len(given), dtype=bool)
    if given.dtype.kind in "iubf":
        within = (given >= 0) & (given < count) & (given == np.trunc(given))
    number = {name: index for index, name in enumerate(classes)}
    if given.dtype.kind in "OUS" and not any(name.isdecimal() for name in classes):
        number |= {str(index): index for index in range(count)}
    found = np.array([number.get(str(label), -1) for label in given], dtype=np.int64)
    if within.sum() >= (found >= 0).sum():
        found = np.where(within, given, -1).astype(np.int64) if within.any() else found
    return found, found < 0


def _said(rows: Dataset, wrong: Array, classes: Sequence[str], count: int) -> str:
    assert rows.labels is not None
    known = f"{count} classes ({', '.join(classes)})" if classes else f"classes, 0 to {count - 1}"
    told = f"the label '{rows.labels[np.argmax(wrong)]}' of {rows.source} ({wrong.sum():,} of {len(wrong):,} rows)"
    return f"{told} is none of the model's {known}"
