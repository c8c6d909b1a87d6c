"""What an update must show: better on held-out new rows, and not more forgotten than allowed."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
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
MEND = "give more rows, train longer, or at a lower rate (--lr)"
MARGIN = 0.01
"""Not worse: with 95 % confidence at most this much is lost."""


@dataclass(frozen=True)
class Split:
    """New rows to train on and to judge on, and the old rows likewise; ``old`` parts are None where none were kept."""

    train: Dataset
    held_out: Dataset
    old_train: Dataset | None
    old_held_out: Dataset | None


def split(rows: Dataset, old: Dataset | None, *, share: float, seed: int) -> Split:
    """Hold out ``share`` of the new and of the old rows, class by class. Labels are class numbers.

    Raises BadData for too few rows, or rows without labels.
    """
    if rows.labels is None:
        raise BadData(
            f"an update learns from labelled rows, and {rows.source} has none; give the true class of each row"
        )
    if len(rows) < FEWEST:
        raise BadData(f"{len(rows)} labelled rows are too few to learn from and to judge by; give {FEWEST} at least")
    held_out, train = stratified(rows, share, seed)
    if old is None or old.labels is None or len(old) < FEWEST:
        return Split(train, held_out, None, None)
    old_held_out, old_train = stratified(old, share, seed)
    return Split(train, held_out, old_train, old_held_out)


def stratified(rows: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Two views, the first with ``share`` of each class; a class of two rows or more has at least one in each."""
    assert rows.labels is not None
    rng = np.random.default_rng(seed)
    first: list[Array] = []
    second: list[Array] = []
    for one in np.unique(rows.labels):
        order = rng.permutation(np.flatnonzero(rows.labels == one))
        cut = min(max(round(share * len(order)), 1), len(order) - 1)
        first.append(order[:cut])
        second.append(order[cut:])
    if not sum(map(len, first)):
        raise BadData(f"each class of {rows.source} has a single row, so none can be held out; give more of each")
    return rows.take(np.sort(np.concatenate(first)), copy=False), rows.take(np.sort(np.concatenate(second)), copy=False)


def apart(old: Dataset, rows: Dataset) -> Dataset | None:
    """The old rows whose inputs are not those of a new row; None when there is none."""
    new = set(_fingerprints(rows, sorted(rows.inputs)))
    kept = [at for at, one in enumerate(_fingerprints(old, sorted(rows.inputs))) if one not in new]
    if len(kept) == len(old):
        return old
    return old.take(kept) if kept else None


def _fingerprints(rows: Dataset, names: list[str]) -> list[tuple[bytes, ...]]:
    """Without zeros at the end, so that a sequence is known again however far it is padded."""

    def one(array: Array) -> bytes:
        return blake2b(array.tobytes().rstrip(b"\0"), digest_size=16).digest()

    return [tuple(one(rows.inputs[name][at]) for name in names) for at in range(len(rows))]


def right(module: Any, rows: Dataset, names: list[str]) -> Array:
    """Which rows the module gets right; bool [n]. Labels must be class numbers."""
    found: Array = logits(module, rows, names).argmax(1) == rows.labels
    return found


def logits(module: Any, rows: Dataset, names: list[str]) -> Array:
    """What the module answers, in eval mode and in batches."""
    import torch

    from modelkeep.train.loop import first, tensors

    with torch.no_grad():  # of clones, for a module may work in place
        parts = [first(module(*(x.clone() for x in tensors(part, names)))) for part in rows.portions(256)]
    found: Array = torch.cat(parts).numpy()
    return found


def learned(before: Array, after: Array, rows: Dataset) -> Report:
    """Better on held-out new rows: more of them right, and shown not to be worse. Raises Regressed.

    Shown: the one-sided 95 % upper bound of the paired drop is within MARGIN, or 3/n where n is too small for that
    (the bound of n rows of which none was lost is 2.7/n).
    """
    numbers = _numbers(before, after)
    said = f"{before.mean():.1%} → {after.mean():.1%} of {len(rows)} held-out new rows right"
    if after.sum() <= before.sum():
        mend = MEND if before.mean() < 1 else "there is nothing left to learn from them"
        raise Regressed(f"the update is not better: {said}; nothing was stored; {mend}")
    if numbers["drop_upper"] > max(MARGIN, 3 / len(rows)):
        raise Regressed(
            f"the update is not shown to be better: {said}, but with 95 % confidence up to {numbers['drop_upper']:.1%} "
            f"may be lost; nothing was stored; {MEND}"
        )
    return Report("new rows", True, f"{said} (95 % interval {_interval(numbers)})", numbers, rows.source)


def remembered(before: Array, after: Array, rows: Dataset, max_forgetting: float) -> Report:
    """At most ``max_forgetting`` of the old rows' accuracy lost, with 95 % confidence. Raises Regressed.

    The bound is that of ``learned``: one-sided, of the paired drop, and 3/n where n is too small to show less, which is
    to say that then no row may be lost. The model before the update was most likely trained on these rows, so its
    accuracy on them is flattering: the drop that is measured is rather too large than too small.
    """
    numbers = _numbers(before, after) | {"max_forgetting": max_forgetting}
    said = (
        f"{before.mean():.1%} → {after.mean():.1%} of {len(rows)} held-out old rows right "
        "(the old model may have been trained on them)"
    )
    said = f"{said}; with 95 % confidence {numbers['drop_upper']:.1%} lost at most"
    if numbers["drop"] > max_forgetting or numbers["drop_upper"] > max(max_forgetting, 3 / len(rows)):
        raise Regressed(
            f"the update forgets: {said}, which is over the {max_forgetting:.1%} allowed; nothing was stored. "
            "Mix in more old rows (--replay), give more of them (add --data), or allow more (--max-forgetting) if the "
            "old world is gone"
        )
    return Report("old rows", True, said, numbers, rows.source)


def unjudged() -> Report:
    """Nothing is known of what was forgotten."""
    kept = f"the model keeps fewer than {FEWEST} labelled old rows that are not among the new ones"
    why = f"what was forgotten is not known: {kept}"
    return Report("old rows", None, why, {"n": 0})


def _numbers(before: Array, after: Array) -> dict[str, Any]:
    drop, upper = paired_drop(before, after)
    low, high = wilson(int(after.sum()), len(after))
    accuracy = {"before": float(before.mean()), "after": float(after.mean()), "low": low, "high": high}
    return {**accuracy, "drop": drop, "drop_upper": upper, "n": len(after)}


def _interval(numbers: dict[str, Any]) -> str:
    return f"{numbers['low']:.1%} to {numbers['high']:.1%}"
