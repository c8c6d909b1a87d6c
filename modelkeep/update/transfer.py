"""New structure: a head grown for new classes, on a body that stays (freeze, then unfreeze at a lower rate)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, Regressed
from modelkeep.model import folder
from modelkeep.types import Model, Report, Signature
from modelkeep.update import gate
from modelkeep.update.finetune import trainable


@dataclass(frozen=True)
class Transfer:
    """torch → torch with ``labels`` as its classes. Known classes keep their weights, and come first in order.

    ``floor`` is the accuracy that held-out rows of the new classes must reach.
    """

    labels: tuple[str, ...]
    epochs: int = 40
    lr: float = 3e-3
    max_forgetting: float = 0.05
    floor: float = 0.5
    held_out: float = 0.25
    seed: int = 0
    rows: Dataset | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Grow, train, judge. Raises BadData (rows, classes), Unsupported (format), BadModel (no head), Regressed."""
        extras.need("torch", extra="torch")
        from modelkeep.model.formats import torch as torch_format
        from modelkeep.model.formats import torch_head
        from modelkeep.train import loop

        module = trainable(model)
        known = self._known(model)
        rows = None if self.rows is None else self._indexed(self.rows)
        parts = gate.split(rows, None, share=self.held_out, seed=self.seed)
        names = [t.name for t in model.signature.inputs]
        old = parts.held_out.take(np.flatnonzero(parts.held_out.labels < known))  # type: ignore[operator]
        new = parts.held_out.take(np.flatnonzero(parts.held_out.labels >= known))  # type: ignore[operator]
        before = gate.right(module, old, names) if len(old) else None
        layer = torch_head.find(module)
        torch_head.resize(module, layer, len(self.labels), seed=self.seed)
        head = torch_head.parameters(module, layer)
        share = max(1, self.epochs // 4)
        common = {"seed": self.seed, "signature": model.signature}
        loop.fit(module, parts.train, epochs=share, lr=self.lr, parameters=head, **common)
        history = loop.fit(module, parts.train, epochs=self.epochs - share or 1, lr=self.lr / 3, **common)
        reports = [self._grown(module, new, names)]
        if before is not None:
            reports.append(gate.remembered(before, gate.right(module, old, names), old, self.max_forgetting))
        grown = {"layer": layer, "outputs": len(self.labels)}
        made = torch_format.save(
            module, model, into, labels=self.labels, signature=self._signature(model.signature), head=grown
        )
        folder.keep_reference(into, self.rows or parts.train)
        why = f"head '{layer}' grown from {known} to {len(self.labels)} classes; loss {history[-1]:.3f}"
        return folder.write(made), (Report("transfer", None, why, {"loss": history[-1]}, parts.train.source), *reports)

    def _known(self, model: Model) -> int:
        """How many classes the model has. They must stay what they are, and first."""
        shape = model.signature.outputs[0].shape
        known = shape[-1] if len(shape) == 2 else None
        if known is None:
            raise BadData(f"output {model.signature.outputs[0].describe()} has no fixed number of classes to grow")
        if len(self.labels) <= known:
            raise BadData(
                f"the model has {known} classes and --classes names {len(self.labels)}; name more than it has"
            )
        if model.labels and tuple(self.labels[:known]) != model.labels:
            raise BadData(
                f"the classes that are known must come first and keep their order: {','.join(model.labels)},…"
            )
        return known

    def _indexed(self, rows: Dataset) -> Dataset:
        if rows.labels is None:
            return rows
        return replace(rows, labels=gate.indexes(rows.labels, self.labels, len(self.labels)))

    def _grown(self, module: object, new: Dataset, names: list[str]) -> Report:
        if not len(new):
            raise BadData("the rows hold none of the new classes, so there is nothing to learn; give rows of them too")
        right = gate.right(module, new, names)
        said = f"{right.mean():.1%} of {len(new)} held-out rows of new classes right"
        if right.mean() < self.floor:
            raise Regressed(f"the new classes were not learned: {said}, and {self.floor:.0%} were asked for")
        return Report("new classes", True, said, {"accuracy": float(right.mean()), "n": len(new)}, new.source)

    def _signature(self, signature: Signature) -> Signature:
        first = signature.outputs[0]
        grown = replace(first, shape=(*first.shape[:-1], len(self.labels)))
        return replace(signature, outputs=(grown, *signature.outputs[1:]))
