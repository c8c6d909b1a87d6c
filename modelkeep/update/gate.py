"""What an update must show: better on held-out new rows, and not more forgotten than allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, Regressed
from modelkeep.evidence import paired_drop, wilson
from modelkeep.types import Report

if TYPE_CHECKING:
    from modelkeep.types import Array

FEWEST = 20
"""Labelled rows below which nothing can be shown on a held-out part of them."""


@dataclass(frozen=True)
class Split:
    """New rows to train on and to judge on, and the old rows likewise; ``old`` parts are None where none were kept."""

    train: Dataset
    held_out: Dataset
    old_train: Dataset | None
    old_held_out: Dataset | None


def split(rows: Dataset | None, old: Dataset | None, *, share: float, seed: int) -> Split:
    """Hold out ``share`` of the new and of the old rows. Raises BadData for too few rows or rows without labels."""
    if rows is None or rows.labels is None:
        raise BadData("an update learns from labelled rows, and these have no labels; give rows with the key 'labels'")
    if len(rows) < FEWEST:
        raise BadData(f"{len(rows)} labelled rows are too few to learn from and to judge by; give {FEWEST} at least")
    held_out, train = rows.split(share, seed)
    if old is None or old.labels is None or len(old) < FEWEST:
        return Split(train, held_out, None, None)
    old_held_out, old_train = old.split(share, seed)
    return Split(train, held_out, old_train, old_held_out)


def indexes(labels: Array | None, classes: tuple[str, ...], count: int) -> Array:
    """Labels as class indexes below ``count``: numbers as they are, or names of ``classes``. Raises BadData."""
    if labels is None:
        raise BadData("these rows have no labels")
    known = {name: index for index, name in enumerate(classes)}
    if labels.dtype.kind in "iub" and not (known and {str(x) for x in np.unique(labels)} <= set(known)):
        found = labels.astype(np.int64)
        unknown = sorted({int(x) for x in found if not 0 <= x < count})
    else:
        names = [str(x) for x in labels]
        unknown = sorted({name for name in names if name not in known})  # type: ignore[assignment]
        found = np.array([known.get(name, -1) for name in names], dtype=np.int64)
    if unknown:
        raise BadData(
            f"the label {unknown[0]!r} is none of the model's {count} classes"
            f"{f' ({chr(44).join(classes)})' if classes else ''}; to learn new classes, use --method transfer"
        )
    return found


def right(module: Any, rows: Dataset, names: list[str]) -> Array:
    """Which rows the module gets right; bool [n]. Labels must be class indexes."""
    import torch

    from modelkeep.train.loop import first

    with torch.no_grad():
        inputs = [torch.from_numpy(rows.inputs[name].copy()) for name in names]
        parts = [first(module(*(x[at : at + 256] for x in inputs))).argmax(-1) for at in range(0, len(rows), 256)]
    found: Array = torch.cat(parts).numpy() == rows.labels
    return found


def learned(before: Array, after: Array, rows: Dataset, *, confidence: float = 0.95) -> Report:
    """Better on held-out new rows: more of them right, and shown not to be worse by more than noise. Raises Regressed.

    "Shown": the one-sided upper bound of the paired drop is at most 1 point, or 3/n where n is too small for that.
    """
    n = len(rows)
    _, upper = paired_drop(before, after, confidence)
    numbers = {"before": float(before.mean()), "after": float(after.mean()), "drop_upper": upper, "n": n}
    numbers["low"], numbers["high"] = wilson(int(after.sum()), n)
    said = f"{before.mean():.1%} → {after.mean():.1%} of {n} held-out new rows right"
    if after.sum() <= before.sum() or upper > max(0.01, 3 / n):
        raise Regressed(f"the update is not better: {said}; nothing was stored. Give more rows, or train longer")
    return Report("new rows", True, said, numbers, rows.source)


def remembered(before: Array, after: Array, rows: Dataset, max_forgetting: float) -> Report:
    """At most ``max_forgetting`` of the old rows' accuracy lost. Raises Regressed.

    The model before the update was most likely trained on these rows, so its accuracy on them is flattering.
    """
    drop, upper = paired_drop(before, after)
    numbers = {"before": float(before.mean()), "after": float(after.mean()), "drop": drop, "drop_upper": upper}
    said = f"{before.mean():.1%} → {after.mean():.1%} of {len(rows)} old reference rows right"
    if drop > max_forgetting:
        raise Regressed(
            f"the update forgets: {said}, which is over the {max_forgetting:.1%} allowed; nothing was stored. "
            "Mix in more old rows (replay), or allow more (--max-forgetting) if the old world is gone"
        )
    return Report("old rows", True, said, {**numbers, "n": len(rows)}, rows.source)
