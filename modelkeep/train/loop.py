"""One plain training loop: AdamW over shuffled batches, seeded, that leaves nothing behind but the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, BadSettings, first_line
from modelkeep.train.losses import Loss, Targets, cross_entropy
from modelkeep.types import Signature

if TYPE_CHECKING:
    from modelkeep.types import Array

Progress = Callable[[float, float, str], None]
"""Called before each batch with (epochs done, a fraction of one too; epochs in all; what is known of the loss)."""


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
    """Train in place; returns the mean loss of each epoch. The module ends in eval mode.

    AdamW (Loshchilov & Hutter, arXiv:1711.05101); the process's random state stays as it was. Inputs go to the module
    by position, in the order of ``signature`` or else of the rows. ``extra`` are more targets, one entry a row (a
    teacher's logits). ``parameters`` limits what is trained; by default it is what the module does not hold frozen.
    Raises BadSettings for settings that cannot train, BadData for rows that cannot, BadModel where the module cannot or
    the loss is no longer finite.
    """
    if epochs < 1 or batch < 1 or not lr > 0:
        raise BadSettings(f"epochs={epochs}, batch={batch}, lr={lr} cannot train; each must be above 0")
    names = [t.name for t in signature.inputs] if signature else list(rows.inputs)
    for part in rows.portions(256):  # before hours of training, and not within them
        tensors(part, names)
    targets = {**_truth(rows), **(extra or {})}
    losses: list[float] = []
    with _training(module, parameters) as trained, seeded(seed):
        optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
        shuffle = torch.Generator().manual_seed(seed)
        for epoch in range(epochs):
            order = torch.randperm(len(rows), generator=shuffle)
            tell = _telling(progress, epoch, epochs, losses)
            losses.append(_epoch(module, rows, names, targets, optimiser, loss, _batches(order, batch), tell))
            if not math.isfinite(losses[-1]):
                raise BadModel(
                    f"the loss is {losses[-1]} after {epoch + 1} epochs of training; try a learning rate below {lr}"
                )
    return losses


def _telling(progress: Progress | None, epoch: int, epochs: int, losses: list[float]) -> Callable[[float], None]:
    """What is told before a batch, given the share of the epoch that is done."""
    last = f", loss {losses[-1]:.3g}" if losses else ""
    if progress is None:
        return lambda share: None
    return lambda share: progress(epoch + share, epochs, f"epoch {epoch + 1} of {epochs}{last}")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random state of the CPU, which dropout and new layers draw from, set for as long as this lasts."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set that of GPUs too, and leave it so
        yield


def tensors(rows: Dataset, names: Iterable[str]) -> list[torch.Tensor]:
    """Inputs in the order of ``names``, over the arrays' own memory where that can be.

    Raises BadData for text and for numbers that are not finite.
    """
    found = []
    for name in names:
        array = rows.inputs[name]
        if array.dtype.kind not in "fiub":
            raise BadData(f"input '{name}' of {rows.source} is {array.dtype}; a PyTorch module takes numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadData(f"input '{name}' of {rows.source} has values that are NaN or infinite; remove those rows")
        found.append(_over(array))
    return found


def _over(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def first(answer: object) -> torch.Tensor:
    """The tensor that is trained on: the answer itself, or the first of several."""
    while not isinstance(answer, torch.Tensor):
        answer = next(iter(answer.values() if isinstance(answer, Mapping) else answer))  # type: ignore[call-overload]
    return answer


@contextlib.contextmanager
def _training(
    module: torch.nn.Module, parameters: Iterable[torch.nn.Parameter] | None
) -> Iterator[list[torch.nn.Parameter]]:
    """Training mode, with what is not trained frozen, so that no gradient is computed for it; undone at the end."""
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    chosen = [p for p, free in before.items() if free] if parameters is None else list(parameters)
    if not chosen:
        raise BadModel("the module has no parameters that can be trained; it holds all of them frozen, or has none")
    for parameter in before:
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    module.train()
    try:
        yield chosen
    finally:
        module.eval()
        for parameter, free in before.items():
            parameter.requires_grad_(free)
            parameter.grad = None


def _truth(rows: Dataset) -> dict[str, torch.Tensor]:
    if rows.labels is None:
        return {}
    if rows.labels.dtype.kind not in "iub":
        raise BadData(f"the labels of {rows.source} are {rows.labels.dtype}; training takes class numbers")
    return {"labels": torch.from_numpy(rows.labels.astype(np.int64))}


def _batches(order: torch.Tensor, batch: int) -> list[torch.Tensor]:
    """A last batch of one row joins the one before it: batch norm cannot train on a single row."""
    parts = [order[at : at + batch] for at in range(0, len(order), batch)]
    if len(parts) > 1 and len(parts[-1]) == 1 and batch > 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _epoch(
    module: torch.nn.Module,
    rows: Dataset,
    names: list[str],
    targets: Targets,
    optimiser: torch.optim.Optimizer,
    loss: Loss,
    batches: list[torch.Tensor],
    tell: Callable[[float], None],
) -> float:
    total = 0.0
    for at, chosen in enumerate(batches):
        tell(at / len(batches))
        optimiser.zero_grad(set_to_none=True)
        inputs = [_over(rows.inputs[name][chosen.numpy()]) for name in names]
        try:
            value = loss(first(module(*inputs)), {key: t[chosen] for key, t in targets.items()})
            value.backward()  # type: ignore[no-untyped-call]
        except (RuntimeError, IndexError, TypeError, ValueError) as error:  # what torch raises for shapes and dtypes
            raise BadModel(f"the module cannot be trained on these rows: {first_line(error)}") from error
        optimiser.step()
        total += float(value.detach()) * len(chosen)
    return total / sum(map(len, batches))
