"""What training makes small: functions of (the module's logits, a batch's targets) that give one scalar tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from modelkeep.errors import BadData, BadSettings

Targets = Mapping[str, torch.Tensor]
"""``labels``: int64 [n], class numbers; ``teacher``: float [n, classes], its logits. A loss says which it needs."""
Loss = Callable[[torch.Tensor, Targets], torch.Tensor]


def cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Of the true classes ``labels``. Raises BadData without them, or where they do not fit the logits."""
    if "labels" not in targets:
        raise BadData("these rows have no labels to train on; give them the true class of each row")
    labels = targets["labels"]
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise BadData(
            f"labels of shape {list(labels.shape)} do not fit answers of shape {list(logits.shape)}; training takes "
            "one class number a row, and a module that answers with one score for each class"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise BadData(
            f"the label {wrong} is none of the module's {logits.shape[1]} classes (0 to {logits.shape[1] - 1})"
        )
    return F.cross_entropy(as_logits(logits), labels)


def as_logits(answers: torch.Tensor) -> torch.Tensor:
    """A module that ends in softmax gives probabilities: their logarithms are its logits, up to a constant a row.

    Taken for logits, probabilities would be pressed through softmax twice, where hardly any gradient is left.
    """
    with torch.no_grad():
        probable = bool(((answers >= 0) & (answers <= 1)).all()) and bool(((answers.sum(1) - 1).abs() < 1e-3).all())
    return torch.log(answers.clamp_min(1e-7)) if probable else answers


def distillation(temperature: float, alpha: float) -> Loss:
    """α·T²·KL(teacher ‖ student at temperature T) + (1 - α)·cross-entropy (Hinton, Vinyals & Dean, arXiv:1503.02531).

    T² keeps the size of the soft gradients when T changes. Without ``labels``, T²·KL alone. Raises BadSettings for a
    temperature that is not above 0 or an α outside 0 to 1.
    """
    if not temperature > 0 or not 0 <= alpha <= 1:
        raise BadSettings(f"temperature={temperature} must be above 0, and alpha={alpha} between 0 and 1")

    def loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        logits = as_logits(logits)
        soft = temperature**2 * F.kl_div(
            F.log_softmax(logits / temperature, dim=-1),
            F.log_softmax(targets["teacher"] / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        if "labels" not in targets or alpha == 1.0:
            return soft
        return alpha * soft + (1 - alpha) * cross_entropy(logits, targets)

    return loss
