"""One plain training loop: AdamW over shuffled batches, seeded, that leaves nothing behind but the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel
from modelkeep.train.losses import Loss, Targets, cross_entropy
from modelkeep.types import Signature

Progress = Callable[[int, int, float], None]
"""Called after each epoch with (epochs done, epochs in all, mean loss)."""


def fit(
    module: torch.nn.Module,
    rows: Dataset,
    *,
    epochs: int,
    lr: float = 1e-3,
    batch: int = 64,
    seed: int = 0,
    loss: Loss = cross_entropy,
    weight_decay: float = 0.0,
    extra: Mapping[str, torch.Tensor] | None = None,
    parameters: Iterable[torch.nn.Parameter] | None = None,
    signature: Signature | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Train in place on labelled rows; returns the mean loss of each epoch. The module ends in eval mode.

    ``extra`` are more targets, one entry a row (a teacher's logits); ``parameters`` limits what is trained. Inputs go
    to the module by position, in the order of ``signature`` or of the rows. The random state of the process is left as
    it was. Raises BadData for too few rows, BadModel when the loss is no longer finite.
    """
    if not len(rows):
        raise BadData(f"{rows.source} has no rows to train on")
    names = [t.name for t in signature.inputs] if signature else list(rows.inputs)
    inputs = [torch.from_numpy(rows.inputs[name].copy()) for name in names]
    targets: dict[str, torch.Tensor] = dict(extra or {})
    if rows.labels is not None:
        targets["labels"] = torch.from_numpy(rows.labels.copy()).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout draws from the global state
        trained = _trainable(module, parameters)
        optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
        losses: list[float] = []
        module.train()
        try:
            for epoch in range(epochs):
                losses.append(_epoch(module, inputs, targets, optimiser, loss, batch))
                if not losses[-1] < float("inf"):
                    raise BadModel(
                        f"the loss is {losses[-1]} after {epoch + 1} epochs; try a lower learning rate than {lr}"
                    )
                if progress:
                    progress(epoch + 1, epochs, losses[-1])
        finally:
            module.eval()
            module.requires_grad_(True)
    return losses


def _trainable(module: torch.nn.Module, parameters: Iterable[torch.nn.Parameter] | None) -> list[torch.nn.Parameter]:
    """What the optimiser gets; the rest is frozen, so that no gradient is computed for it."""
    chosen = list(module.parameters() if parameters is None else parameters)
    module.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def _epoch(
    module: torch.nn.Module,
    inputs: list[torch.Tensor],
    targets: Targets,
    optimiser: torch.optim.Optimizer,
    loss: Loss,
    batch: int,
) -> float:
    total, count = 0.0, len(inputs[0])
    for rows in torch.randperm(count).split(batch):
        if len(rows) == 1 and count > 1:
            continue  # batch norm cannot train on a single row
        optimiser.zero_grad(set_to_none=True)
        value = loss(first(module(*(x[rows] for x in inputs))), {key: t[rows] for key, t in targets.items()})
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(value.detach()) * len(rows)
    return total / count


def first(answer: object) -> torch.Tensor:
    """The tensor that is trained on: the answer itself, or the first of several."""
    while not isinstance(answer, torch.Tensor):
        answer = next(iter(answer.values() if isinstance(answer, Mapping) else answer))  # type: ignore[call-overload]
    return answer
