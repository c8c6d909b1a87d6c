"""A smaller module that learns to answer as the model does (Hinton, Vinyals & Dean, arXiv:1503.02531)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, first_line
from modelkeep.model import engines, folder
from modelkeep.model.whole import whole
from modelkeep.optimize.answers import agreement, answers, fitted
from modelkeep.types import Model, Report

if TYPE_CHECKING:
    from modelkeep.types import Array


@dataclass(frozen=True)
class Distill:
    """Any format → torch. ``student`` is "module:Name", called with ``student_args``; ``rows`` need no labels.

    ``alpha`` weighs the teacher's answers, softened by ``temperature``, against the labels. ``copies`` of the rows with
    normal noise of ``noise`` times an input's deviation are answered by the teacher too: soft targets cost nothing.
    ``progress`` is told how far training is (train.loop).
    """

    student: str
    student_args: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 60
    temperature: float = 4.0
    alpha: float = 0.9
    lr: float = 3e-3
    noise: float = 0.1
    copies: int = 3
    seed: int = 0
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Callable[[float, float, str], None] | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Train the student on the teacher's answers. Raises BadData without rows, BadModel where they do not fit."""
        torch = extras.need("torch", extra="optimize")
        from modelkeep.model.formats import factories
        from modelkeep.model.formats import torch as torch_format
        from modelkeep.train import loop, losses
        from modelkeep.train.labels import indexed

        soften = losses.distillation(self.temperature, self.alpha)
        given = self.rows or folder.reference(model.path)
        if given is None:
            raise BadData("there are no rows to distil on; pass some, or add the model with --data")
        rows = fitted(given, model.signature)
        augmented = self._augmented(rows)
        with contextlib.closing(engines.load(model)) as teacher:
            soft, told = _logits(answers(teacher, augmented))
        augmented = indexed(augmented, model.labels, soft.shape[1])
        with whole(into):
            factories.keep(self.student, into, (model.path / factories.CODE, Path.cwd()))
            with loop.seeded(self.seed):
                student = factories.build(self.student, self.student_args, into).eval()
            self._check(student, model, rows)
            history = loop.fit(
                student,
                augmented,
                epochs=self.epochs,
                lr=self.lr,
                seed=self.seed,
                loss=soften,
                extra={"teacher": torch.from_numpy(soft)},
                signature=model.signature,
                progress=self.progress,
            )
            made = torch_format.save(student, model, into, factory=self.student, factory_args=dict(self.student_args))
            folder.copy_reference(model.path, into)
            report = self._report(model, made, history, agreement(soft[: len(rows)], _answers(made, rows)), rows, told)
            return folder.write(made), (report,)

    def _check(self, student: Any, model: Model, rows: Dataset) -> None:
        """The student must take the model's inputs, and answer with what the model answers."""
        from modelkeep.model.formats import torch as torch_format

        try:
            found = torch_format.forward(student, model.signature, rows.take(np.arange(2) % len(rows)).inputs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise BadModel(
                f"the student {self.student} does not take the model's inputs or give its outputs: {first_line(error)}"
            ) from error
        for spec in model.signature.outputs:
            if not spec.accepts(found[spec.name].shape):
                raise BadModel(
                    f"the student {self.student} answers with {list(found[spec.name].shape[1:])} a row, and the model "
                    f"with {spec.describe()}; give both the same classes"
                )

    def _augmented(self, rows: Dataset) -> Dataset:
        copies = self.copies if self.noise > 0 and any(a.dtype.kind == "f" for a in rows.inputs.values()) else 0
        rng = np.random.default_rng(self.seed)
        inputs = {
            name: np.concatenate([array, *(self._noisy(array, rng) for _ in range(copies))])
            for name, array in rows.inputs.items()
        }
        labels = None if rows.labels is None else np.concatenate([rows.labels] * (copies + 1))
        return Dataset(inputs, labels, rows.source)

    def _noisy(self, array: Array, rng: np.random.Generator) -> Array:
        if array.dtype.kind != "f":
            return array
        noisy: Array = (array + rng.normal(0, self.noise * array.std(), array.shape)).astype(array.dtype)
        return noisy

    def _report(
        self, model: Model, made: Model, history: list[float], near: dict[str, float], rows: Dataset, told: str
    ) -> Report:
        numbers = {
            "loss_first": history[0],
            "loss_last": history[-1],
            "n": len(rows),
            "size_ratio": made.size / model.size,
            **near,
        }
        why = (
            f"{made.size:,} bytes instead of {model.size:,}; loss {history[0]:.3f} → {history[-1]:.3f}; "
            f"the same class as the model for {near['agreement']:.1%} of {len(rows)} rows it learned from{told}"
        )
        return Report("distill", None, why, numbers, rows.source)


def _answers(made: Model, rows: Dataset) -> Array:
    with contextlib.closing(engines.load(made)) as student:
        return answers(student, rows)


def _logits(scores: Array) -> tuple[Array, str]:
    """A teacher that ends in softmax gives probabilities; their logarithms are logits, up to a constant a row."""
    if scores.min() < 0 or scores.max() > 1 or not np.allclose(scores.sum(1), 1, atol=1e-3):
        return scores, ""
    logits: Array = np.log(np.maximum(scores, 1e-7)).astype(np.float32)
    return logits, "; the model gives probabilities, the student logits"
