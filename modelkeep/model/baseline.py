"""What a version's reference rows look like, and its answers to them: what live requests and answers are held against.

Made once, where the model is at hand (``add``, ``convert``, ``tune --data``), and kept with the version, so that
neither the server nor monitor has to run the model for it.
"""

from __future__ import annotations

import contextlib
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import dataset
from modelkeep.data.bins import Bins
from modelkeep.data.features import CONFIDENCE, Columns
from modelkeep.data.summaries import are_probabilities
from modelkeep.model import engines, folder
from modelkeep.model.score import predictions
from modelkeep.quantities import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelkeep.data.dataset import Dataset
    from modelkeep.types import Array, Arrays, Model, Signature, TensorSpec

FILE = "baseline.npz"
MIN_ROWS, MAX_ROWS = 50, 16_384
"""The more rows, the less is added to the tolerance for what they may err by; only counts of them are kept."""
BATCH = 64
SECONDS = 20.0
"""A slow model answers fewer of its rows; the inputs are taken of all of them."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Inputs, or answers: the features that rows are read as, and the bins that the reference rows fell into."""

    columns: Columns
    bins: Bins

    def __post_init__(self) -> None:
        self.bins.kinds = self.columns.kinds


@dataclass(frozen=True, eq=False)
class Baseline:
    """``answers`` is None where the model was not asked. Of the rows that it was asked, [rows] each: ``predicted``
    classes or values; ``confidence``, NaN where the answers do not tell; ``truth``, None where they have no labels.
    Where each of several classes may be there or not, the first and the last are [rows, classes].
    """

    inputs: Subject
    answers: Subject | None = None
    predicted: Array | None = None
    confidence: Array | None = None
    truth: Array | None = None

    @property
    def right(self) -> Array | None:
        """[rows] of bool, whether the answer was the truth; None where there is none, or the answers are no classes."""
        if self.predicted is None or self.truth is None or self.predicted.dtype.kind == "f":
            return None
        found: Array = (self.predicted == self.truth).reshape(len(self.truth), -1).all(axis=1)
        return found

    @property
    def accuracy(self) -> float | None:
        """The share that was right."""
        return None if self.right is None else float(self.right.mean())

    def subject(self, name: str) -> Subject | None:
        """By its name in data.profiles: inputs or answers."""
        return self.inputs if name == "inputs" else self.answers


def build(model: Model, rows: Dataset | None = None, *, seconds: float = SECONDS) -> Baseline | None:
    """The Baseline of a model folder, of ``rows`` or the reference rows in it; runs the model on them.

    Of more than MAX_ROWS, as many by chance. None where there are fewer than 50 rows, or the model takes no batches.
    Raises what the engine raises, and BadData where the rows do not fit.
    """
    rows = rows or folder.reference(model.path)
    if rows is None or len(rows) < MIN_ROWS or not model.signature.batched:
        return None
    rows = dataset.fit(rows.sample(MAX_ROWS), model.signature)
    outputs = _answers(model, rows, seconds)
    n = len(next(iter(outputs.values())))
    answers = _subject(model.signature.outputs, outputs, answers=True, classes=not _numbers(rows.labels))
    predicted = _plain(predictions(outputs, model.signature))
    names = answers.columns.names
    scores = answers.columns.read(outputs)[:, names.index(CONFIDENCE)] if CONFIDENCE in names else np.full(n, np.nan)
    truth = None if predicted is None or rows.labels is None else _truth(rows.labels[:n], predicted, model.labels)
    inputs = _subject(model.signature.inputs, rows.inputs, answers=False)
    if predicted is not None and predicted.ndim == 2 and truth is None:  # tokens, maybe, and many
        predicted = None
    return Baseline(inputs, answers, predicted, scores, truth)


def inputs_only(model: Model) -> Baseline | None:
    """What can be told of the reference rows without running the model."""
    rows = folder.reference(model.path)
    if rows is None or len(rows) < MIN_ROWS or not model.signature.batched:
        return None
    return Baseline(_subject(model.signature.inputs, rows.inputs, answers=False))


def lacking(model: Model) -> str:
    """Why a version has no Baseline, with what mends it."""
    rows = folder.reference(model.path)
    if rows is None:
        return "the version keeps no reference rows; add it with --data"
    if len(rows) < MIN_ROWS:
        kept = counted(len(rows), "reference row")
        return f"the version keeps {kept}, and {MIN_ROWS} are the least; add it with more"
    if not model.signature.batched:
        return "an input or output of the model has no batch dimension, so that rows cannot be told apart"
    return "the model fails on its reference rows (modelkeep score tells how)"


def _answers(model: Model, rows: Dataset, seconds: float) -> Arrays:
    """To the rows, or to as many as there is time for, MIN_ROWS at least."""
    parts: list[Arrays] = []
    until = time.monotonic() + seconds
    with contextlib.closing(engines.load(model)) as runner:
        size = rows.portion(BATCH)
        for at in range(0, len(rows), size):
            if at >= MIN_ROWS and time.monotonic() > until:
                break
            parts.append(runner.run(rows.take(slice(at, at + size)).inputs))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _subject(specs: Sequence[TensorSpec], arrays: Arrays, *, answers: bool, classes: bool = True) -> Subject:
    columns = Columns.of(specs, arrays, answers=answers, classes=classes)
    return Subject(columns, Bins.of(columns.read_reference(arrays), columns.edges, columns.exact))


def _numbers(labels: Array | None) -> bool:
    """Whether the truth of a row is several numbers, and no class (nor one as zeros and a one)."""
    return labels is not None and labels.ndim == 2 and labels.dtype.kind == "f" and not are_probabilities(labels)


def _plain(answers: Array) -> Array | None:
    """[rows] of classes, texts or values, or [rows, classes] of whole numbers; None where an answer is several of the
    others."""
    if answers.ndim == 2 and answers.shape[1] == 1:
        answers = answers[:, 0]
    if answers.ndim == 2 and answers.dtype.kind in "iub":
        return answers.astype(np.int64)
    if answers.ndim != 1:
        return None
    if answers.dtype.kind in "OUS":
        return np.array([str(one) for one in answers.tolist()])
    return answers.astype(np.float64 if answers.dtype.kind == "f" else np.int64)


def _truth(labels: Array, predicted: Array, names: Sequence[str]) -> Array | None:
    """The labels as the answers are: names as class numbers, -1 for one that the model does not know. None: unlike."""
    if predicted.ndim == 2:
        return labels if labels.shape == predicted.shape and labels.dtype.kind in "iubf" else None
    if labels.ndim != 1:
        return None
    if predicted.dtype.kind == "U":
        return np.array([str(one) for one in labels.tolist()])
    if labels.dtype.kind in "OUS":
        codes = {name: code for code, name in enumerate(names)}
        return np.array([codes.get(str(one), -1) for one in labels.tolist()]) if names else None
    return labels


# ── on disk ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(baseline: Baseline, path: Path) -> None:
    """One .npz file, which is there whole or not at all."""
    arrays: dict[str, Array] = {}
    head: dict[str, Any] = {}
    for name in ("inputs", "answers"):
        if (subject := baseline.subject(name)) is not None:
            bins = subject.bins
            head[name] = {"columns": subject.columns.kept(), "cuts": bins.cuts, "n": bins.n}
            arrays[f"{name}_shares"] = bins.shares
    for name in ("predicted", "confidence", "truth"):
        if (array := getattr(baseline, name)) is not None:
            arrays[name] = array
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.temp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def read(path: Path, signature: Signature) -> Baseline | None:
    """What ``write`` wrote; None where there is no such file, or it cannot be read as one: it can be made again."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays["head"].tobytes())
        specs = {"inputs": signature.inputs, "answers": signature.outputs}
        found = {}
        for name, one in head.items():
            bins = Bins(one["cuts"], one["n"], arrays[f"{name}_shares"])
            found[name] = Subject(Columns.again(specs[name], one["columns"]), bins)
        rest = {name: arrays.get(name) for name in ("predicted", "confidence", "truth")}
        return Baseline(found["inputs"], found.get("answers"), **rest)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def keep(model: Model, rows: Dataset | None = None) -> None:
    """Put the Baseline of a model folder into it, where it can be made; a model that fails on its rows keeps none."""
    if (model.path / FILE).is_file():
        return
    with contextlib.suppress(Exception):  # an engine may raise anything, and the version is sound without it
        if (made := build(model, rows)) is not None:
            write(made, model.path / FILE)


def find(model: Model, home: Path | None = None, digest: str = "") -> Baseline | None:
    """The Baseline that is kept in a model folder, or in ``home`` for a version that came without; None: in neither."""
    there = [model.path / FILE, *([_beside(home, digest)] if home else [])]
    return next((found for path in there if (found := read(path, model.signature)) is not None), None)


def ensure(model: Model, home: Path, digest: str, rows: Dataset | None = None) -> Baseline | None:
    """``find``, or else make it, of ``rows`` or the reference rows, and keep it in ``home``: a version never changes.

    None where there are no rows to make it of, or the model fails on them.
    """
    found = find(model, home, digest)
    if found is None:
        with contextlib.suppress(Exception):  # an engine may raise anything, and the version can be served without it
            if (found := build(model, rows)) is not None:
                write(found, _beside(home, digest))
    return found


def _beside(home: Path, digest: str) -> Path:
    return home / "baselines" / f"{digest}.npz"
