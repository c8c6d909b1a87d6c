"""Answers held against the truth that came: all metrics of one version, of all its requests and of each slice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import labels
from modelkeep.data.summaries import are_probabilities
from modelkeep.errors import BadSettings
from modelkeep.monitor.classified import Classified, Measured, probabilities
from modelkeep.monitor.numeric import Numeric
from modelkeep.monitor.quality import Quality, codes, predicted, share_right, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelkeep.data.bins import Bins
    from modelkeep.data.features import Columns
    from modelkeep.types import Array, Arrays, Finding, Model

MAX_CHANCES = 200
"""Classes of which probabilities are kept; of more, there is neither log loss nor AUC."""
MAX_SLICED = 8
"""Columns that requests may be sliced by."""
FEWEST = 30
"""Labelled requests of a slice that is worth a line."""


@dataclass(frozen=True)
class Answer:
    """One request's answers and their truth; rows without a known truth are left out.

    ``right`` is the share that was right, None where answers are no classes. ``classes`` and ``numbers`` are (answered,
    true), [rows] each, or [rows, numbers] where an answer is several; classes are texts where the model answers in such
    and does not name its classes. ``chances`` [rows, classes] are the probabilities that were given.
    """

    right: float | None = None
    classes: tuple[Array, Array] | None = None
    chances: Array | None = None
    numbers: tuple[Array, Array] | None = None


def answer(outputs: Arrays | None, label: Any, model: Model, *, several: bool = False) -> Answer | None:
    """What was answered beside what was so; None where the two cannot be compared.

    Chances count where the likeliest class is the one that was answered: else their columns may be of other classes.
    ``several``: it is known that an answer is several numbers, and no scores of classes.
    """
    answered = predicted(outputs, model)
    if answered is not None and answered.ndim == 2:
        right = share_right(answered, label)
        return None if right is None else Answer(right)
    if several or (isinstance(label, list) and any(map(labels.are_numbers, label))):
        return _several(outputs, label, model, known=several)
    truth = label if isinstance(label, list) else [label]
    known = [row for row, one in enumerate(truth) if one is not None]
    if outputs is None or not known:
        return None
    if answered is None:
        return _number(outputs, truth, known, model)
    right = share_right(answered, label, model.labels)
    if right is None:
        return None
    scores = chances(outputs, model)
    clear = scores is not None and len(scores) == len(truth) and not np.isnan(scores).any()
    given = scores[known] if scores is not None and clear and scores.shape[1] <= MAX_CHANCES else None
    return _class(right, answered[known], [truth[row] for row in known], given, model.labels)


def _class(right: float, said: Array, asked: list[Any], given: Array | None, names: Sequence[str]) -> Answer:
    """The rows whose truth is known: which class was answered to each, what was so, and the chances if any."""
    if said.dtype.kind not in "iub":
        texts = [str(one) for one in said.tolist()], [text_of(one, names) for one in asked]
        if not names:
            return Answer(right, (_texts(texts[0]), _texts(texts[1])), given)
        if not set(texts[0]) <= set(names):  # its names are others', and no number says what a column is of
            return Answer(right, chances=given)
        said, asked = np.array([names.index(one) for one in texts[0]]), texts[1]
    true = codes(asked, names)
    assert true is not None  # or there would be no share that is right
    whole = np.where(true == np.rint(true), true, -1).astype(np.int64)
    said = said.astype(np.int64)
    told = given is not None and np.array_equal(given.argmax(axis=1), said)
    return Answer(right, (said, whole), given if told else None)


def _texts(values: list[str]) -> Array:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def chances(outputs: Arrays, model: Model) -> Array | None:
    """[rows, classes]: the probabilities that were answered, by the first output where that is scores of classes, or
    by another one of probabilities (a classifier of scikit-learn says the class first); None where none is. A row
    whose scores hold NaN, which answers no class, has NaN for all.
    """
    for spec in model.signature.outputs:
        scores = np.asarray(outputs.get(spec.name))
        if scores.ndim != 2 or scores.dtype.kind != "f" or scores.shape[1] < 2:
            continue
        first, void = spec is model.signature.outputs[0], np.isnan(scores).any(axis=1)
        if first or (not void.all() and are_probabilities(scores[~void])):
            found = np.full(scores.shape, np.nan)
            found[~void] = probabilities(scores[~void])
            return found if np.isfinite(found[~void]).all() else None
    return None


def _number(outputs: Arrays, truth: list[Any], known: list[int], model: Model) -> Answer | None:
    """A price, say: one float a row. Where there are more, they are no scores of classes, for these are [rows, n]."""
    first = np.asarray(outputs.get(model.signature.outputs[0].name))
    if first.ndim > 1 and first.size != len(first):
        return _several(outputs, truth, model, known=True)
    rows = first.reshape(-1)
    if first.dtype.kind != "f" or len(rows) != len(truth):
        return None
    true = [truth[row] for row in known]
    if any(isinstance(one, str) or not labels.is_one(one) for one in true):
        return None
    return Answer(numbers=(rows[known].astype(np.float64), np.array(true, dtype=np.float64)))


def _several(outputs: Arrays | None, label: Any, model: Model, *, known: bool) -> Answer | None:
    """A list of numbers for each row; of the only row the list itself will do. Where such answers are not ``known``, a
    one among zeros may be a class. Where the signature leaves free how many they are, all are as one number.
    """
    spec = model.signature.outputs[0]
    first = np.asarray((outputs or {}).get(spec.name))
    if first.dtype.kind != "f" or first.ndim < 2:
        return None
    rows = first.reshape(len(first), -1)
    truth = [label] if len(rows) == 1 and labels.are_numbers(label) else label
    if not isinstance(truth, list) or len(truth) != len(rows):
        return None
    told = {row: one for row, one in enumerate(truth) if one is not None}
    if not told or any(not labels.are_numbers(one) or len(one) != rows.shape[1] for one in told.values()):
        return None
    true = np.array(list(told.values()), dtype=np.float64)
    said = rows[list(told)].astype(np.float64)
    if not known and true.shape[1] > 1 and are_probabilities(true):
        return None
    alike = true.shape[1] > 1 and None not in spec.shape[1:]
    return Answer(numbers=(said, true) if alike else (said.ravel(), true.ravel()))


class Labelled:
    """The metrics of labelled requests. ``floor`` and ``worst`` are what is held, and whose promise that is: the least
    accuracy, and the largest mean absolute error."""

    def __init__(
        self, floor: float | None, promise: str, every: float, *, worst: tuple[float | None, str] = (None, "")
    ) -> None:
        self.quality = Quality(floor, promise, every)
        self.classified, self.numeric = Classified(), Numeric(worst[0], every, worst[1])
        self.n = 0
        self._known: tuple[int, dict[str, Measured]] = (0, {})

    def add(self, one: Answer, at: float) -> None:
        """The next request whose truth came."""
        self.n += 1
        if one.right is not None:
            self.quality.add(one.right, at)
        if one.classes is not None:
            self.classified.add(*one.classes, one.chances)
        if one.numbers is not None:
            self.numeric.add(*one.numbers, at)

    def findings(self) -> list[Finding]:
        """What is below its promise."""
        return [found for found in (self.quality.finding(), self.numeric.finding()) if found is not None]

    def measured(self) -> dict[str, Measured]:
        """Every metric that has a value, by name. Worked out once for each n: intervals take a while."""
        if self._known[0] != self.n:
            parts = (self.quality, self.classified, self.numeric)
            self._known = self.n, {name: one for part in parts for name, one in part.measured().items()}
        return self._known[1]


class Slices:
    """Labelled requests by the bin of a column that they fall into; the promise is held in each bin.

    ``features`` are names of columns of the inputs. Raises BadSettings for one that is none of them.
    """

    def __init__(
        self, bins: Bins, columns: Columns, features: Sequence[str], floor: float | None, promise: str, every: float
    ) -> None:
        if len(features) > MAX_SLICED:
            raise BadSettings(f"{len(features)} columns to slice by; {MAX_SLICED} are the most")
        for name in features:
            if name not in columns.names:
                raise BadSettings(
                    f"there is no column '{name}' to slice by; the inputs have {', '.join(columns.names[:20])}"
                    + (f" and {len(columns.names) - 20} more" if len(columns.names) > 20 else "")
                )
        self._bins, self._columns = bins, columns
        self._features = {name: columns.names.index(name) for name in features}
        self._promise = floor, promise, every * len(features)
        self.slices: dict[tuple[str, int], Labelled] = {}

    def add(self, inputs: Arrays | None, one: Answer, at: float) -> None:
        """A request, by its first row; one whose inputs were not captured is in no slice."""
        if not self._features or inputs is None:
            return
        try:
            places = self._bins.place(self._columns.read({k: np.asarray(v) for k, v in inputs.items()})[:1])[0]
        except (KeyError, ValueError, IndexError):
            return
        for name, feature in self._features.items():
            key = name, int(places[feature])
            if key not in self.slices:
                self.slices[key] = Labelled(*self._promise)
            self.slices[key].add(one, at)

    def findings(self) -> list[Finding]:
        """Slices that are below the promise."""
        return [
            replace(
                found, subject=f"{found.subject} where {self.label(*key)}", why=f"where {self.label(*key)}, {found.why}"
            )
            for key, slice_ in self.slices.items()
            for found in slice_.findings()
        ]

    def label(self, name: str, place: int) -> str:
        """``age 30 to 40``."""
        return f"{name} {self._bins.label(self._features[name], place)}"

    def numbers(self) -> list[dict[str, Any]]:
        """Each slice with its metrics, the least accurate first."""
        rows = [
            {"slice": self.label(*key), "n": one.n, **{k: m._asdict() for k, m in one.measured().items()}}
            for key, one in self.slices.items()
        ]
        return sorted(rows, key=lambda row: row.get("accuracy", {}).get("value", 1.0))

    def describe(self) -> list[str]:
        """Lines for a person: the three least accurate slices that have some requests."""
        told = [row for row in self.numbers() if row["n"] >= FEWEST and "accuracy" in row]
        accuracy = [Measured(**row["accuracy"]).describe("{:.1%}".format) for row in told[:3]]
        return [f"where {row['slice']}: accuracy {one}" for row, one in zip(told, accuracy, strict=False)]
