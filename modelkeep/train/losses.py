"""What training makes small: functions of (the module's logits, a batch's targets) that give one scalar tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

Targets = Mapping[str, torch.Tensor]
"""``labels``: int64 [n], class indexes; ``teacher``: float [n, classes], its logits. A loss says which it needs."""
Loss = Callable[[torch.Tensor, Targets], torch.Tensor]


def cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Of the true classes ``labels``."""
    return F.cross_entropy(logits, targets["labels"])


def distillation(temperature: float, alpha: float) -> Loss:
    """α·T²·KL(teacher ‖ student at temperature T) + (1 - α)·cross-entropy (Hinton, Vinyals & Dean, arXiv:1503.02531).

    T² keeps the size of the soft gradients when T changes. Without ``labels``, the soft targets alone.
    """

    def loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        soft = F.kl_div(
            F.log_softmax(logits / temperature, dim=-1),
            F.log_softmax(targets["teacher"] / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        if "labels" not in targets or alpha == 1.0:
            return temperature**2 * soft
        return alpha * temperature**2 * soft + (1 - alpha) * cross_entropy(logits, targets)

    return loss
