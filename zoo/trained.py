"""Can it learn again? One step of plain gradient descent must change what a converted PyTorch model answers."""

from __future__ import annotations

import math
from typing import Any

import torch

from modelkeep.errors import Differs
from modelkeep.model import signature as signatures
from modelkeep.model.formats import torch as torch_format
from modelkeep.types import Model

RATE = 1e-2


def one_step(model: Model) -> dict[str, Any]:
    """How much an answer changes by a step of SGD, and how many weights moved. Raises Differs where none does."""
    module = torch_format.module(model)
    inputs = signatures.example(model.signature, 2)
    tensors = [torch.from_numpy(inputs[spec.name]) for spec in model.signature.inputs]
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    before = _first(module, tensors)
    optimiser = torch.optim.SGD(weights, lr=RATE)
    before.square().mean().backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)  # BatchNorm is folded into what comes before it: gradients are large
    optimiser.step()
    moved = sum(parameter.numel() for parameter in weights if parameter.grad is not None and parameter.grad.any())
    change = float((_first(module, tensors) - before).detach().abs().max())
    if not math.isfinite(change):
        raise Differs("a step of gradient descent makes an answer NaN or infinite")
    if change == 0:
        raise Differs(f"a step of gradient descent moves {moved:,} weights and changes no answer")
    return {"learned": change, "moved": moved}


def _first(module: torch.nn.Module, tensors: list[torch.Tensor]) -> torch.Tensor:
    return next(t for t in torch_format.named(module(*tensors)).values() if t.is_floating_point())
