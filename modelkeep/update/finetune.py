"""New parameters, the same structure: train on new rows mixed with old ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep import extras
from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset, concat
from modelkeep.errors import BadData, Unsupported
from modelkeep.model import folder, formats
from modelkeep.model.whole import whole
from modelkeep.quantities import counted
from modelkeep.types import Model, Report
from modelkeep.update import classes, gate

OLD_KEPT = 0.2
"""Old rows for each new one among the result's reference rows: monitor must take the new world for normal."""
TO_TRANSFER = "; to learn new classes, use transfer (modelkeep update --method transfer)"


@dataclass(frozen=True)
class Finetune:
    """torch → torch. ``replay`` is how many old reference rows are mixed in for each new one.

    Replay is what class-incremental studies find to work against forgetting (van de Ven & Tolias, arXiv:1904.07734).
    ``held_out`` is the share of the new, and of the old rows, that judges; ``max_forgetting`` the accuracy on old rows
    that may be lost, by its upper bound (gate.remembered). ``progress`` is told how far training is (train.loop).
    """

    epochs: int = 40
    lr: float = 1e-3
    replay: float = 2.0
    max_forgetting: float = 0.05
    held_out: float = 0.25
    seed: int = 0
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Callable[[float, float, str], None] | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Train and judge. Raises BadData (rows), Unsupported (format), Regressed (not better, or forgets)."""
        module = trainable(model)
        from modelkeep.model.formats import torch as torch_format
        from modelkeep.train import loop

        new, old, aside = taught(model, self.rows, model.labels, classes(model), TO_TRANSFER)
        parts = gate.split(new, old, share=self.held_out, seed=self.seed)
        names = [t.name for t in model.signature.inputs]
        judged = [rows for rows in (parts.held_out, parts.old_held_out) if rows is not None]
        before = [gate.right(module, rows, names) for rows in judged]
        mixed = mix(parts.train, parts.old_train, self.replay, self.seed)
        history = loop.fit(
            module,
            mixed,
            epochs=self.epochs,
            lr=self.lr,
            seed=self.seed,
            signature=model.signature,
            progress=self.progress,
        )
        after = [gate.right(module, rows, names) for rows in judged]
        reports = [told(history, parts.train, len(mixed), aside), gate.learned(before[0], after[0], judged[0])]
        if len(judged) > 1:
            reports.append(gate.remembered(before[1], after[1], judged[1], self.max_forgetting))
        else:
            reports.append(gate.unjudged())
        with whole(into):
            made = torch_format.save(module, model, into)
            seen = len(old) / len(new) if old is not None else 0.0  # none of them twice
            folder.keep_reference(into, mix(new, old, min(self.replay, OLD_KEPT, seen), self.seed))
            return folder.write(made), tuple(reports)


FROZEN = ", or add the module's state_dict() with --factory, for a TorchScript archive is frozen"


def trainable(model: Model) -> Any:
    """The module of a PyTorch version. Raises Unsupported for another format, MissingExtra without PyTorch."""
    if model.format not in formats.TRAINABLE:
        raise Unsupported(
            f"only PyTorch models can be trained, and this is '{model.format}'; update its PyTorch ancestor"
            f"{FROZEN if model.format == 'torchscript' else ''}"
        )
    extras.need("torch", extra="torch")
    from modelkeep.model.formats import torch as torch_format

    return torch_format.module(model)


def taught(
    model: Model, rows: Dataset | None, names: tuple[str, ...], count: int, mend: str = ""
) -> tuple[Dataset, Dataset | None, str]:
    """The new rows, the model's old reference rows that are not among them (None without), and what was put aside for
    a label that is no class (labels.sound); labels as numbers.

    A row that is in both would be trained on and judged by. Raises BadData where there are no rows, they do not fit the
    model, or more than a few labels are none of the classes.
    """
    from modelkeep.train.labels import indexed, sound

    if rows is None:
        raise BadData("there are no rows to learn from; give labelled rows")
    new, aside = sound(dataset.fit(rows, model.signature), names, count, mend=mend)
    old = folder.reference(model.path)
    if old is None or old.labels is None:
        return new, None, aside
    old = gate.apart(old, new)
    return new, None if old is None else indexed(old, names, count), aside


def mix(rows: Dataset, old: Dataset | None, replay: float, seed: int) -> Dataset:
    """The rows, and ``replay`` old ones for each of them; an old row comes again only when there are too few.

    None of them is copied before it is read: pictures fill memory.
    """
    wanted = round(replay * len(rows))
    if old is None or wanted < 1:
        return rows
    order = np.random.default_rng(seed).permutation(len(old))
    return concat(rows, old.take(np.resize(order, wanted), copy=False), copy=False)


def told(history: list[float], rows: Dataset, mixed: int, aside: str = "") -> Report:
    """How training on the new rows, ``mixed`` with the old, went, and which were put ``aside``."""
    numbers = {
        "loss_first": history[0],
        "loss_last": history[-1],
        "epochs": len(history),
        "n": len(rows),
        "replayed": mixed - len(rows),
    }
    moved = f"loss {history[0]:.3f} → {history[-1]:.3f} in {counted(len(history), 'epoch')}"
    why = f"{moved} of {len(rows)} new and {mixed - len(rows)} old rows{'; ' if aside else ''}{aside}"
    return Report("training", None, why, numbers, rows.source)
