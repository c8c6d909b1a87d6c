"""Quality: of the requests whose truth has come, how many were answered right, and is that below what was promised?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import labels
from modelkeep.evidence import mean_interval
from modelkeep.model.score import predictions
from modelkeep.monitor.classified import Measured
from modelkeep.monitor.detector import Rising
from modelkeep.quantities import counted
from modelkeep.types import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelkeep.types import Array, Arrays, Model

CHUNK = 16
CONFIDENCE = 0.95


def predicted(outputs: Arrays | None, model: Model) -> Array | None:
    """[rows]: the classes that were answered, [rows, classes] where each may be there or not; None where the answers
    are no classes, so that none is right or wrong, and where the client did not ask for the output that says them.
    Scores with NaN say NO_CLASS (model.score).
    """
    if outputs is None or model.signature.outputs[0].name not in outputs:
        return None
    found = np.atleast_1d(predictions(outputs, model.signature))
    sets = found.ndim == 2 and found.shape[1] > 1 and found.dtype.kind in "iub"
    return found if sets or (found.dtype.kind in "iubUOS" and found.ndim == 1) else None


def are_classes(model: Model) -> bool:
    """Whether what it answers first are classes, or scores of them, and no number that misses by so much."""
    first = model.signature.outputs[0]
    return not first.dtype.startswith("float") or (len(first.shape) == 2 and first.shape[1] != 1)


def share_right(answers: Array | None, label: Any, names: Sequence[str] = ()) -> float | None:
    """The share of a request's rows that were answered right; None where answers and truth cannot be compared.

    ``label`` is a scalar, or a list with one a row, None where a row's truth is not known; a text is looked up in
    ``names``, and one that the model does not know was answered wrong. Of several classes a row the truth is a list
    with one for each (of a single row it alone will do), and all must be right.
    """
    truth = label if isinstance(label, list) else [label]
    if answers is not None and answers.ndim == 2:
        return _share_whole(answers, [truth] if len(answers) == 1 and labels.are_numbers(truth) else truth)
    if answers is None or len(truth) != len(answers):
        return None
    known_rows = [row for row, one in enumerate(truth) if one is not None]
    answers, truth = answers[known_rows], [truth[row] for row in known_rows]
    if not truth:
        return None
    if answers.dtype.kind in "iub":
        known = codes(truth, names)
        return None if known is None else float(np.mean(answers == known))
    return float(np.mean([str(a) == text_of(b, names) for a, b in zip(answers.tolist(), truth, strict=True)]))


def _share_whole(answers: Array, truth: Sequence[Any]) -> float | None:
    told = {row: one for row, one in enumerate(truth) if one is not None}
    if len(truth) != len(answers) or not told:
        return None
    if any(not labels.are_numbers(one) or len(one) != answers.shape[1] for one in told.values()):
        return None
    return float(np.mean([bool((answers[row] == one).all()) for row, one in told.items()]))


def text_of(label: Any, names: Sequence[str]) -> str:
    """A label as an answer in texts would say it; the number of a class is its name, where that is known."""
    number = _code(label, ()) if names else None
    return names[int(number)] if number is not None and number % 1 == 0 and 0 <= number < len(names) else str(label)


def codes(truth: Sequence[Any], names: Sequence[str] = ()) -> Array | None:
    """Labels as class numbers, -1 for a name that the model does not know; None where one is no class, as NaN is."""
    found = [_code(one, names) for one in truth]
    return None if None in found else np.array(found, dtype=np.float64)


def _code(label: Any, names: Sequence[str]) -> float | None:
    if not labels.is_one(label):
        return None
    if isinstance(label, str):
        return (float(names.index(label)) if label in names else -1.0) if names else None
    return float(label)


class Quality:
    """Accuracy of one version as the truth comes. ``floor`` is what was promised; None judges nothing."""

    def __init__(self, floor: float | None, promise: str, false_alarm_every: float) -> None:
        self.floor, self.promise = floor, promise
        self.wrong = Rising(1.0 if floor is None else 1 - floor, false_alarm_every, chunk=CHUNK)

    def add(self, right: float, at: float) -> None:
        """The share of a request's rows that were right, in the order in which the truth came."""
        self.wrong.add(1 - right, at)

    def finding(self) -> Finding | None:
        """Accuracy below the floor, by evidence that may be looked at at any time; None while there is too little."""
        if self.floor is None or not self.wrong.raised:
            return None
        since, wrong = self.wrong.since()
        accuracy = 1 - float(wrong.mean())
        low, high = mean_interval(1 - wrong, CONFIDENCE)
        why = (
            f"accuracy is {accuracy:.1%} ({low:.1%} to {high:.1%}) on the last "
            f"{counted(len(wrong), 'labelled request')}; {self.promise} is {self.floor:.1%}"
        )
        evidence = {"accuracy": accuracy, "low": low, "high": high, "n": len(wrong), "floor": self.floor}
        return Finding("quality", "accuracy", why, evidence | self.wrong.evidence, since)

    def measured(self) -> dict[str, Measured]:
        """Accuracy, by name; empty before the first label."""
        right = 1 - np.array(self.wrong.values)
        if not len(right):
            return {}
        return {"accuracy": Measured(float(right.mean()), *mean_interval(right, CONFIDENCE), len(right))}

    def numbers(self) -> dict[str, Any]:
        """n, accuracy and the confidence sequence at this n."""
        found: dict[str, Any] = {"n": len(self.wrong.values), "floor": self.floor}
        for value, low, high, _ in self.measured().values():
            found |= {"accuracy": value, "low": low, "high": high}
        return found

    def describe(self) -> str:
        """A part of a line for a person, once there are labels."""
        numbers = self.numbers()
        return (
            f"accuracy {numbers['accuracy']:.1%} ({numbers['low']:.1%} to {numbers['high']:.1%}) on "
            f"{counted(numbers['n'], 'labelled request')}"
        )
