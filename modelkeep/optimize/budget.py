"""The accuracy budget: is a cheaper model good enough to keep, and what does it gain?"""

from __future__ import annotations

import contextlib

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData
from modelkeep.evidence import paired_drop
from modelkeep.model import engines, measure, score
from modelkeep.types import Model, Report

RACE_ROWS = 32


def within(base: Model, candidate: Model, rows: Dataset, max_drop: float) -> Report:
    """Whether the candidate is kept: it loses at most ``max_drop`` of accuracy, and is smaller or faster.

    Paired on the same labelled rows: the one-sided 95 % upper bound of the drop must lie within the budget. Speed is
    the ratio of interleaved runs of the two on one machine, with its 95 % interval. Raises BadData for unlabelled rows.
    """
    if rows.labels is None:
        raise BadData(f"{rows.source} has no labels, so no accuracy can be judged on it; give labelled rows")
    with contextlib.closing(engines.load(base)) as old, contextlib.closing(engines.load(candidate)) as new:
        right_before = score.correct(old, rows, labels=base.labels)
        right_after = score.correct(new, rows, labels=candidate.labels)
        race = measure.race(old, new, rows.take(np.arange(RACE_ROWS) % len(rows)).inputs)
    drop, upper = paired_drop(right_before, right_after)
    size = candidate.size / base.size
    low, high = race.numbers["low"], race.numbers["high"]
    numbers = {
        "accuracy_before": float(right_before.mean()),
        "accuracy": float(right_after.mean()),
        "drop": drop,
        "drop_upper": upper,
        "max_drop": max_drop,
        "n": len(rows),
        "size_ratio": size,
        "speedup": race.numbers["ratio"],
        "speedup_low": low,
        "speedup_high": high,
    }
    gain = f"{1 / size:.2g}× smaller, {numbers['speedup']:.2g}× as fast ({low:.2g} to {high:.2g}, batch {RACE_ROWS})"
    moved = f"accuracy {numbers['accuracy_before']:.1%} → {numbers['accuracy']:.1%}"
    lost = f"{moved}, at most {upper:.1%} lost (95 %, n={len(rows)})"
    why = f"{gain}; {lost}"
    if upper > max_drop:
        why = f"{lost}, which is over the budget of {max_drop:.1%}; {gain}"
    elif size >= 1 and low <= 1:
        why = f"neither smaller nor shown to be faster: {gain}; {lost}"
    ok = upper <= max_drop and (size < 1 or low > 1)
    return Report("optimize", ok, why, numbers, rows.source)
