"""The last Linear layer of a module: found, and grown for more classes with the known ones kept as they are."""

from __future__ import annotations

import torch
from torch import nn

from modelkeep.errors import BadModel


def find(module: nn.Module) -> str:
    """The name of the last Linear layer. Raises BadModel when there is none."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise BadModel("the module has no Linear layer that could be grown for new classes")
    return names[-1]


def parameters(module: nn.Module, layer: str) -> list[nn.Parameter]:
    """The layer's weights."""
    return list(module.get_submodule(layer).parameters())


def resize(module: nn.Module, layer: str, outputs: int, *, seed: int = 0) -> None:
    """Give the layer ``outputs`` rows in place: the old rows stay, so the old logits do not change."""
    old = module.get_submodule(layer)
    if not isinstance(old, nn.Linear):
        raise BadModel(f"layer '{layer}' is a {type(old).__name__} and no Linear layer, so it cannot be grown")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        new = nn.Linear(old.in_features, outputs, bias=old.bias is not None, dtype=old.weight.dtype)
        kept = min(old.out_features, outputs)
        new.weight[:kept] = old.weight[:kept]
        if old.bias is not None:
            new.bias[:kept] = old.bias[:kept]
    parent, _, name = layer.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
