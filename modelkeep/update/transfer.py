"""New structure: a head grown for new classes, on a body that stays (freeze, then unfreeze at a lower rate)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data.dataset import Dataset, concat
from modelkeep.errors import BadData, BadModel, Regressed, Unsupported
from modelkeep.model import folder
from modelkeep.model.whole import whole
from modelkeep.types import Model, Report, Signature
from modelkeep.update import classes, gate
from modelkeep.update.finetune import taught, told, trainable

if TYPE_CHECKING:
    from modelkeep.types import Array

FEWEST_OF_A_CLASS = 5
"""Rows of a new class below which it can be neither learned nor judged."""


@dataclass(frozen=True)
class Transfer:
    """torch → torch with ``labels`` as its classes. Known classes keep their weights, and come first in order.

    Two phases, as fastai does it (Howard & Gugger, arXiv:2002.04688): a quarter of the epochs train the head alone, the
    others everything, at a third of the rate. Known classes are filled up from the old reference rows until they are as
    frequent as new ones. ``floor`` is the accuracy that held-out rows of each new class must reach, ``max_forgetting``
    what may be lost on those of known classes. ``progress`` is told how far training is (train.loop).
    """

    labels: tuple[str, ...]
    epochs: int = 40
    lr: float = 3e-3
    max_forgetting: float = 0.1
    floor: float = 0.5
    held_out: float = 0.25
    seed: int = 0
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Callable[[float, float, str], None] | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Grow, train, judge. Raises BadData (rows, classes), Unsupported (format), BadModel (no head), Regressed."""
        module = self._module(model)
        from modelkeep.model.formats import torch as torch_format

        known = self._known(model)
        new, old, aside = taught(model, self.rows, self.labels, len(self.labels))
        self._enough(new, known)
        parts = gate.split(new, old, share=self.held_out, seed=self.seed)
        names = [t.name for t in model.signature.inputs]
        remembers, learns = self._judges(parts, known)
        before = gate.right(module, remembers, names)
        head, moved = self._grow(module, known, remembers, names)
        mixed = self._filled(parts, known)
        history = self._train(module, mixed, head["layer"], model.signature)
        reports = (
            told(history, parts.train, len(mixed), aside),
            self._grown(gate.right(module, learns, names), learns, head, moved, known),
            gate.remembered(before, gate.right(module, remembers, names), remembers, self.max_forgetting),
        )
        with whole(into):
            made = torch_format.save(
                module, model, into, labels=self.labels, signature=self._signature(model.signature), head=head
            )
            folder.keep_reference(into, new if old is None else concat(new, old, copy=False))
            return folder.write(made), reports

    def _module(self, model: Model) -> Any:
        if model.format == "torch-export":
            raise Unsupported(
                "an exported program (.pt2) has no layers that could be grown; add the model as weights, with --factory"
            )
        return trainable(model)

    def _known(self, model: Model) -> int:
        """How many classes the model has. They must stay what they are, and first."""
        known = classes(model)
        if len(set(self.labels)) != len(self.labels):
            raise BadData(f"the classes {','.join(self.labels)} name one of them twice")
        if len(self.labels) <= known:
            raise BadData(
                f"the model has {known} classes and --classes names {len(self.labels)}; name more than it has"
            )
        if model.labels and tuple(self.labels[:known]) != model.labels:
            raise BadData(
                f"the classes that are known must come first and keep their order: {','.join(model.labels)},…"
            )
        return known

    def _enough(self, rows: Dataset, known: int) -> None:
        if rows.labels is None:
            return  # gate.split says so
        counts = np.bincount(rows.labels, minlength=len(self.labels))
        few = [
            f"{self.labels[at]} ({counts[at]})" for at in range(known, len(counts)) if counts[at] < FEWEST_OF_A_CLASS
        ]
        if few:
            raise BadData(
                f"{rows.source} has too few rows of the new classes {', '.join(few)}; "
                f"give {FEWEST_OF_A_CLASS} of each at least"
            )

    def _judges(self, parts: gate.Split, known: int) -> tuple[Dataset, Dataset]:
        """Held-out rows of known classes, old and new, and those of new classes."""
        assert parts.held_out.labels is not None
        held, is_new = parts.held_out, parts.held_out.labels >= known
        remembers = [held.take(~is_new)] if not is_new.all() else []
        remembers += [parts.old_held_out] if parts.old_held_out is not None else []
        if not remembers:
            raise BadData(
                f"neither {held.source} nor the model's reference rows hold labelled rows of the known classes, so "
                "what would be forgotten cannot be seen; give rows of them too"
            )
        old = remembers[0] if len(remembers) == 1 else concat(*remembers, copy=False)
        return old, held.take(is_new)

    def _grow(self, module: Any, known: int, rows: Dataset, names: list[str]) -> tuple[dict[str, Any], float]:
        """The head as formats.torch keeps it, and by how much growing alone moved the known classes' logits."""
        from modelkeep.model.formats import torch_head

        old = gate.logits(module, rows, names)
        layer = torch_head.find(module, known)
        torch_head.resize(module, layer, len(self.labels), seed=self.seed)
        try:
            grown = gate.logits(module, rows, names)
        except (RuntimeError, ValueError) as error:
            raise BadModel(f"layer '{layer}' was grown, but what follows it takes {known} values only") from error
        if grown.shape[1] != len(self.labels):
            raise BadModel(f"growing layer '{layer}' does not grow the answers: it is not the module's last")
        return {"layer": layer, "outputs": len(self.labels)}, float(np.abs(grown[:, :known] - old).max())

    def _filled(self, parts: gate.Split, known: int) -> Dataset:
        """The new rows to train on, and old ones of each known class that is rarer than the new classes are."""
        old, rows = parts.old_train, parts.train
        if old is None:
            return rows
        assert rows.labels is not None
        counts = np.bincount(rows.labels, minlength=len(self.labels))
        wanted = round(counts[known:].mean())
        picked: list[Array] = []
        for one in range(known):
            there = np.random.default_rng((self.seed, one)).permutation(np.flatnonzero(old.labels == one))
            if len(there) and counts[one] < wanted:
                picked.append(np.resize(there, wanted - counts[one]))
        return concat(rows, old.take(np.concatenate(picked), copy=False), copy=False) if picked else rows

    def _train(self, module: Any, rows: Dataset, layer: str, signature: Signature) -> list[float]:
        from modelkeep.model.formats import torch_head
        from modelkeep.train import loop

        share = max(1, self.epochs // 4)
        head = torch_head.parameters(module, layer)
        history: list[float] = []
        for what, first, last, lr, trained in (
            ("the head alone", 0, share, self.lr, head),
            ("everything", share, self.epochs, self.lr / 3, None),
        ):
            if last > first:
                history += loop.fit(
                    module,
                    rows,
                    epochs=last - first,
                    lr=lr,
                    seed=self.seed + bool(first),
                    parameters=trained,
                    signature=signature,
                    progress=self._telling(first, what),
                )
        return history

    def _telling(self, first: int, what: str) -> Callable[[float, float, str], None] | None:
        """Progress of one phase, which begins after ``first`` epochs, as progress of both."""
        if (progress := self.progress) is None:
            return None
        return lambda done, total, note: progress(first + done, self.epochs, f"{what}: {note}")

    def _grown(self, right: Array, rows: Dataset, head: dict[str, Any], moved: float, known: int) -> Report:
        """Each new class must be learned, not only their mean."""
        assert rows.labels is not None
        each = {self.labels[one]: float(right[rows.labels == one].mean()) for one in range(known, len(self.labels))}
        worst = min(each, key=lambda name: each[name])
        said = (
            f"{right.mean():.1%} of {len(rows)} held-out rows of new classes right; worst is {worst}, {each[worst]:.1%}"
        )
        if each[worst] < self.floor:
            raise Regressed(
                f"the new classes were not learned: {said}, and {self.floor:.0%} were asked for; nothing was stored; "
                f"{gate.MEND}"
            )
        numbers = {
            "accuracy": float(right.mean()),
            "each": each,
            "n": len(rows),
            "floor": self.floor,
            "logits_moved": moved,
        }
        why = f"head '{head['layer']}' grown from {known} to {head['outputs']} classes; {said}"
        return Report("new classes", True, why, numbers, rows.source)

    def _signature(self, signature: Signature) -> Signature:
        first = signature.outputs[0]
        grown = replace(first, shape=(*first.shape[:-1], len(self.labels)))
        return replace(signature, outputs=(grown, *signature.outputs[1:]))
