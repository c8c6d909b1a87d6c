"""The accuracy budget: is a cheaper model good enough to keep, and what does it gain?"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, Regressed
from modelkeep.evidence import paired_drop
from modelkeep.model import engines, measure, score
from modelkeep.optimize.answers import fixed_batch
from modelkeep.types import Model, Report

if TYPE_CHECKING:
    from modelkeep.types import Array

RACE_ROWS = 32
"""Rows of the race, unless the model was baked for another number."""


def within(base: Model, candidate: Model, rows: Dataset, max_drop: float) -> Report:
    """Whether the candidate is kept: it loses at most ``max_drop`` of accuracy, and is smaller or faster.

    Paired on the same labelled rows: the one-sided 95 % upper bound of the drop must lie within the budget. Speed is
    the ratio of interleaved runs of the two on one machine, loaded anew several times, with its 95 % interval.
    Raises BadData for unlabelled rows.
    """
    if rows.labels is None:
        raise BadData(f"{rows.source} has no labels, so no accuracy can be judged on it; give labelled rows")
    right_before, right_after = _right(base, candidate, rows)
    count = fixed_batch(base.signature) or RACE_ROWS
    sent = rows.take(np.arange(count) % len(rows)).inputs
    race = measure.race(lambda: engines.load(base), lambda: engines.load(candidate), sent)
    drop, upper = paired_drop(right_before, right_after)
    numbers = {
        "accuracy_before": float(right_before.mean()),
        "accuracy": float(right_after.mean()),
        "drop": drop,
        "drop_upper": upper,
        "max_drop": max_drop,
        "n": len(rows),
        "size_ratio": candidate.size / base.size,
        "speedup": race.numbers["ratio"],
        "speedup_low": race.numbers["low"],
        "speedup_high": race.numbers["high"],
        "race_rows": count,
    }
    return verdict(numbers, rows.source)


def kept(base: Model, candidate: Model, rows: Dataset, max_drop: float) -> Report:
    """Whether what ``within`` found once holds again, the model having been updated and made cheaper anew.

    Of what it gains nothing is asked: that was found. The bound is that of ``within``, or 3/n where n rows cannot show
    less. Raises Regressed where more may be lost.
    """
    before, after = _right(base, candidate, rows)
    drop, upper = paired_drop(before, after)
    said = f"accuracy {before.mean():.1%} → {after.mean():.1%} with the cheaper weights"
    lost = f"at most {max(upper, 0):.1%} lost (95 %, n={len(rows)})"
    if upper > max(max_drop, 3 / len(rows)):
        raise Regressed(
            f"the cheaper weights lose what was learned: {said}, {lost}, and optimize promised {max_drop:.1%}; nothing "
            "was stored; update the version that they were made of, then optimize that anew"
        )
    numbers = {"accuracy_before": float(before.mean()), "accuracy": float(after.mean()), "drop": drop}
    numbers |= {"drop_upper": upper, "max_drop": max_drop, "n": len(rows)}
    return Report("optimize", True, f"{said}, {lost}, of the {max_drop:.1%} that were promised", numbers, rows.source)


def _right(base: Model, candidate: Model, rows: Dataset) -> tuple[Array, Array]:
    """Which rows each gets right."""
    with contextlib.closing(engines.load(base)) as old, contextlib.closing(engines.load(candidate)) as new:
        return score.correct(old, rows, labels=base.labels), score.correct(new, rows, labels=candidate.labels)


def verdict(numbers: Mapping[str, Any], source: str = "") -> Report:
    """What these numbers of ``within`` mean, as a Report with one sentence."""
    size, low, high = numbers["size_ratio"], numbers["speedup_low"], numbers["speedup_high"]
    smaller, faster, slower = size < 1, low > 1, high < 1
    speed = f"{numbers['speedup']:.2f}× as fast ({low:.2f} to {high:.2f}, {numbers['race_rows']} rows a run)"
    gain = f"{_sized(size)}, {speed}"
    moved = f"accuracy {numbers['accuracy_before']:.1%} → {numbers['accuracy']:.1%}"
    lost = f"{moved}, at most {max(numbers['drop_upper'], 0):.1%} lost (95 %, n={numbers['n']})"
    fits = numbers["drop_upper"] <= numbers["max_drop"]
    if not fits:
        more = "; more labelled rows may narrow the bound" if numbers["drop"] <= numbers["max_drop"] else ""
        why = f"{lost}, which is over the budget of {numbers['max_drop']:.1%}{more}; {gain}"
    elif not smaller and not faster:
        why = f"neither smaller nor {'faster' if slower else 'shown to be faster'}: {gain}; {lost}"
    else:
        why = f"{gain}{', so slower' if slower else ''}; {lost}"
    return Report("optimize", fits and (smaller or faster), why, dict(numbers), source)


def _sized(ratio: float) -> str:
    if ratio == 1:
        return "as large"
    return f"{1 / ratio:.2g}× smaller" if ratio < 1 else f"{ratio:.2g}× larger"
