"""New parameters, the same structure: train on new rows mixed with old ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from modelkeep import extras
from modelkeep.data.dataset import Dataset, concat
from modelkeep.errors import Unsupported
from modelkeep.model import folder
from modelkeep.types import Model, Report
from modelkeep.update import gate


@dataclass(frozen=True)
class Finetune:
    """torch → torch. ``replay`` is how many old reference rows are mixed in for each new one.

    Replay is what class-incremental studies find to work against forgetting (arXiv:1904.07734).
    """

    epochs: int = 40
    lr: float = 1e-3
    replay: float = 0.5
    max_forgetting: float = 0.05
    held_out: float = 0.25
    seed: int = 0
    rows: Dataset | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Train and judge. Raises BadData (rows), Unsupported (format), Regressed (not better, or forgets)."""
        extras.need("torch", extra="torch")
        from modelkeep.model.formats import torch as torch_format
        from modelkeep.train import loop

        module = trainable(model)
        classes = model.signature.outputs[0].shape[-1] or len(model.labels)
        old = folder.reference(model.path)
        parts = gate.split(self._indexed(self.rows, model, classes), old, share=self.held_out, seed=self.seed)
        old_held_out = self._indexed(parts.old_held_out, model, classes)
        names = [t.name for t in model.signature.inputs]
        judged = [rows for rows in (parts.held_out, old_held_out) if rows is not None]
        before = [gate.right(module, rows, names) for rows in judged]
        history = loop.fit(
            module,
            self._mixed(parts, model, classes),
            epochs=self.epochs,
            lr=self.lr,
            seed=self.seed,
            signature=model.signature,
        )
        after = [gate.right(module, rows, names) for rows in judged]
        reports = [gate.learned(before[0], after[0], parts.held_out)]
        if old_held_out is not None:
            reports.append(gate.remembered(before[1], after[1], old_held_out, self.max_forgetting))
        made = torch_format.save(module, model, into)
        rows = self.rows if self.rows is not None else parts.train
        folder.keep_reference(into, world(rows, old, self.replay, self.seed))
        loss = Report(
            "finetune", None, f"loss {history[0]:.3f} → {history[-1]:.3f}", {"loss": history[-1]}, rows.source
        )
        return folder.write(made), (loss, *reports)

    def _indexed(self, rows: Dataset | None, model: Model, classes: int) -> Dataset | None:
        if rows is None or rows.labels is None:
            return rows
        return replace(rows, labels=gate.indexes(rows.labels, model.labels, classes))

    def _mixed(self, parts: gate.Split, model: Model, classes: int) -> Dataset:
        old = self._indexed(parts.old_train, model, classes)
        wanted = round(self.replay * len(parts.train))
        if old is None or not wanted:
            return parts.train
        picked = np.random.default_rng(self.seed).integers(0, len(old), wanted)
        return concat(parts.train, old.take(picked))


def trainable(model: Model) -> object:
    """The module of a PyTorch version. Raises Unsupported for another format."""
    from modelkeep.model.formats import torch as torch_format

    if model.format not in ("torch", "torch-export"):
        raise Unsupported(
            f"only PyTorch models can be trained, and this is '{model.format}'; update its PyTorch ancestor"
        )
    return torch_format.module(model)


def world(rows: Dataset, old: Dataset | None, replay: float, seed: int) -> Dataset:
    """The new version's reference rows: the new world, with as much of the old as was replayed."""
    if old is None or old.labels is None or not replay:
        return rows
    return concat(rows, old.sample(min(len(old), round(replay * len(rows))), seed=seed))
