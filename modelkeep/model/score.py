"""How good is a model: accuracy on labelled rows with its interval, and whether a new one is worse than the old."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep import evidence
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData
from modelkeep.quantities import counted
from modelkeep.types import Report, Runner, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


NO_CLASS = -2
"""What scores with NaN among them answer: no label is that."""


def predictions(outputs: Arrays, signature: Signature) -> Array:
    """The class of each row: the argmax of the first output where that is [rows, scores], else that output itself.

    Scores with NaN among them say NO_CLASS, for to argmax NaN is the largest.
    """
    first = outputs[signature.outputs[0].name]
    if first.ndim == 2 and first.dtype.kind == "f" and first.shape[1] > 1:
        chosen: Array = np.where(np.isnan(first).any(axis=1), NO_CLASS, first.argmax(1))
        return chosen
    return first


def correct(runner: Runner, dataset: Dataset, labels: Sequence[str] = (), *, batch: int = 256) -> Array:
    """Which rows are answered rightly, bool [rows]. ``labels`` turns truth given as names into class numbers.

    Raises BadData where the rows have no labels, or labels that the answers cannot be compared with.
    """
    truth = _truth(dataset, labels)
    size = dataset.portion(batch) if runner.signature.batched else 1
    fixed = next((t.shape[0] for t in runner.signature.inputs if t.shape and t.shape[0]), None)
    found = []
    for start in range(0, len(dataset), fixed or size):
        rows = dataset.take(slice(start, start + (fixed or size)))
        answers = predictions(runner.run(_padded(rows, fixed)), runner.signature)
        found.append(_column(answers, dataset)[: len(rows)])
    answered = np.concatenate(found)
    if (answered.dtype.kind in "OUS") != (truth.dtype.kind in "OUS"):
        raise BadData(f"the labels of {dataset.source} are {truth.dtype.name}, the answers {answered.dtype.name}")
    if answered.shape != truth.shape:
        raise BadData(f"{dataset.source} has labels of shape {list(truth.shape)}, the answers {list(answered.shape)}")
    right: Array = np.equal(answered, truth).reshape(len(dataset), -1)
    whole: Array = np.logical_and.reduce(right, axis=1)
    return whole


def score(runner: Runner, dataset: Dataset, labels: Sequence[str] = ()) -> Report:
    """Report(kind="score"): accuracy, its Wilson 95 % interval (low, high), n, how many of the rows hold NaN, and the
    worst class with its n.

    Raises what ``correct`` does.
    """
    right = correct(runner, dataset, labels)
    count, n = int(right.sum()), len(right)
    low, high = evidence.wilson(count, n)
    nan = _with_nan(dataset)
    numbers: dict[str, Any] = {"accuracy": count / n, "low": low, "high": high, "n": n, "correct": count, "nan": nan}
    worst = _worst_class(right, _truth(dataset, labels), labels)
    why = f"accuracy {count / n:.4f} on {counted(n, 'row')} (95 % interval {low:.4f} to {high:.4f})"
    if worst:
        why += f"; worst is class {worst['worst_class']}, {worst['worst_accuracy']:.4f}"
    if nan:
        why += f"; the inputs of {counted(nan, 'row')} hold NaN"
    numbers |= worst
    return Report("score", None, why, numbers, dataset.source)


def regression(base: Runner, new: Runner, dataset: Dataset, max_drop: float, labels: Sequence[str] = ()) -> Report:
    """Report(kind="regression"): ok when accuracy drops by at most ``max_drop``, with 95 % confidence, on these rows.

    The same rows are given to both, so the bound is that of a paired comparison (evidence.paired_drop).
    """
    return judge(correct(base, dataset, labels), correct(new, dataset, labels), max_drop, dataset.source)


def judge(before: Array, after: Array, max_drop: float, source: str) -> Report:
    """``regression`` from which rows were answered rightly, bool [rows], before and after."""
    drop, upper = evidence.paired_drop(before, after)
    ok = bool(upper <= max_drop)
    numbers = {
        "drop": float(drop),
        "drop_upper": float(upper),
        "max_drop": max_drop,
        "accuracy_base": float(before.mean()),
        "accuracy_new": float(after.mean()),
        "n": len(before),
        "lost": int((before & ~after).sum()),
        "won": int((~before & after).sum()),
    }
    moved = f"accuracy {numbers['accuracy_base']:.4f} → {numbers['accuracy_new']:.4f} on {counted(len(before), 'row')}"
    bound = f"with 95 % confidence it drops by at most {upper:.4f}"
    mend = f", and {max_drop:.4f} is allowed" if ok else f", more than the {max_drop:.4f} allowed"
    if not ok and drop <= max_drop:
        mend += "; more labelled rows may narrow the bound"
    return Report("regression", ok, f"{moved}; {bound}{mend}", numbers, source)


def _truth(dataset: Dataset, labels: Sequence[str]) -> Array:
    """Labels as the answers are: numbers, names turned into their class number."""
    if dataset.labels is None:
        raise BadData(
            f"{dataset.source} has no labels; put them into an array 'labels' (.npz) or a column 'label' (.csv); those "
            "of a sample of traffic come by modelkeep label"
        )
    truth = dataset.labels
    if not labels or truth.dtype.kind not in "OUS":
        return truth
    numbers = {name: number for number, name in enumerate(labels)}
    unknown = sorted({str(name) for name in truth.ravel()} - set(numbers))
    if unknown:
        raise BadData(f"{dataset.source} has the label '{unknown[0]}'; the model's classes are {', '.join(labels)}")
    found: Array = np.vectorize(numbers.__getitem__, otypes=[np.int64])(truth)
    return found


def _column(answers: Array, dataset: Dataset) -> Array:
    """[rows, 1] as [rows]; scores that are no classes are refused."""
    if answers.dtype.kind == "f":
        raise BadData(
            f"accuracy on {dataset.source} needs classes, and the model's first output is "
            f"{answers.dtype.name} {list(answers.shape)}, neither classes nor one score for each class"
        )
    return answers[:, 0] if answers.ndim == 2 and answers.shape[1] == 1 else answers


def _padded(rows: Dataset, fixed: int | None) -> Arrays:
    """A model with a baked-in batch needs that many rows, the last one repeated."""
    if fixed is None or len(rows) == fixed:
        return rows.inputs
    return rows.take(np.minimum(np.arange(fixed), len(rows) - 1)).inputs


def _with_nan(dataset: Dataset) -> int:
    """How many rows have NaN in an input: a model answers them, and a person may not know that they are there."""
    found = np.zeros(len(dataset), bool)
    for array in dataset.inputs.values():
        if array.dtype.kind == "f":
            found |= np.isnan(array).reshape(len(dataset), -1).any(axis=1)
    return int(found.sum())


def _worst_class(right: Array, truth: Array, labels: Sequence[str]) -> dict[str, Any]:
    """The class with the lowest accuracy. Nothing where the truth is not one class a row, or nearly all differ."""
    if truth.ndim != 1:
        return {}
    classes, which = np.unique(truth, return_inverse=True)
    if len(classes) < 2 or len(classes) > len(truth) // 2:
        return {}
    n = np.bincount(which)
    accuracy = np.bincount(which, weights=right) / n
    at = int(accuracy.argmin())
    name = classes[at]
    known = truth.dtype.kind in "iu" and 0 <= name < len(labels)
    told = labels[int(name)] if known else str(name)
    return {"worst_class": told, "worst_accuracy": float(accuracy[at]), "worst_n": int(n[at])}
