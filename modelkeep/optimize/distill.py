"""A smaller module that learns to answer as the model does (Hinton, Vinyals & Dean, arXiv:1503.02531)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel
from modelkeep.model import engines, folder
from modelkeep.types import Model, Report, Runner


@dataclass(frozen=True)
class Distill:
    """Any format → torch. ``student`` is "module:Name"; ``rows`` need no labels; ``noise`` is added to float inputs.

    ``alpha`` weighs the teacher's softened answers against the labels, ``noise`` is a share of an input's deviation.
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

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Train the student on the teacher's answers. Raises BadData without rows, BadModel where they do not fit."""
        torch = extras.need("torch", extra="optimize")
        from modelkeep.model.formats import factories
        from modelkeep.model.formats import torch as torch_format
        from modelkeep.train import loop, losses

        rows = self.rows or folder.reference(model.path)
        if rows is None:
            raise BadData("there are no rows to distil on; pass some, or add the model with --data")
        rows = self._augmented(rows)
        with contextlib.closing(engines.load(model)) as teacher:
            soft = answers(teacher, rows)
        near = (model.path / factories.CODE, Path.cwd())
        factories.keep(self.student, into, near)
        student = self._build(torch, factories, into)
        self._check(loop.first(try_out(student, model, rows)).shape, soft.shape)
        history = loop.fit(
            student,
            rows,
            epochs=self.epochs,
            lr=self.lr,
            seed=self.seed,
            loss=losses.distillation(self.temperature, self.alpha),
            extra={"teacher": torch.from_numpy(soft)},
            signature=model.signature,
        )
        made = torch_format.save(student, model, into, factory=self.student, factory_args=dict(self.student_args))
        folder.copy_reference(model.path, into)
        before, after = model.size, made.size
        why = f"{after:,} bytes instead of {before:,}; loss {history[0]:.3f} → {history[-1]:.3f} on {len(rows)} rows"
        numbers = {"loss_first": history[0], "loss_last": history[-1], "n": len(rows), "size_ratio": after / before}
        return folder.write(made), (Report("distill", None, why, numbers, rows.source),)

    def _build(self, torch: Any, factories: Any, into: Path) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return factories.build(self.student, self.student_args, into)

    def _check(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        if tuple(student[1:]) != tuple(teacher[1:]):
            raise BadModel(
                f"the student {self.student} answers with shape {list(student[1:])} a row, the model with "
                f"{list(teacher[1:])}; give both the same classes"
            )

    def _augmented(self, rows: Dataset) -> Dataset:
        """The rows, and ``copies`` of them with a little noise: soft targets are free, so more rows cost nothing."""
        rng = np.random.default_rng(self.seed)
        noisy = {
            name: np.concatenate([array, *(self._noisy(array, rng) for _ in range(self.copies))])
            for name, array in rows.inputs.items()
        }
        labels = None if rows.labels is None else np.concatenate([rows.labels] * (self.copies + 1))
        return Dataset(noisy, labels, rows.source)

    def _noisy(self, array: Any, rng: np.random.Generator) -> Any:
        if array.dtype.kind != "f":
            return array
        return (array + rng.normal(0, self.noise * array.std(), array.shape)).astype(array.dtype)


def answers(runner: Runner, rows: Dataset, batch: int = 256) -> Any:
    """The first output for every row, computed once; float32 [n, classes]."""
    name = runner.signature.outputs[0].name
    parts = [
        runner.run({key: array[at : at + batch] for key, array in rows.inputs.items()})[name]
        for at in range(0, len(rows), batch)
    ]
    found = np.concatenate(parts)
    if found.dtype.kind != "f" or found.ndim != 2:
        raise BadModel(f"output '{name}' is {found.dtype} {list(found.shape)}; distilling needs scores [rows, classes]")
    return found.astype(np.float32)


def try_out(module: Any, model: Model, rows: Dataset) -> Any:
    """What the module answers two rows with."""
    import torch

    few = rows.take(np.arange(2) % len(rows))
    with torch.no_grad():
        try:
            return module.eval()(*(torch.from_numpy(few.inputs[t.name].copy()) for t in model.signature.inputs))
        except (RuntimeError, TypeError, ValueError) as error:
            raise BadModel(f"the student does not take the model's inputs: {str(error).splitlines()[0]}") from error
