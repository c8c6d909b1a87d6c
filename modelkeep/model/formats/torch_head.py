"""The last Linear layer of a module: found, and grown for more classes with the known ones kept as they are."""

from __future__ import annotations

import math

import torch
from torch import nn

from modelkeep.errors import BadModel

SMALL = 0.1
"""Of the size that a fresh layer has: new logits begin near 0, where they disturb the known ones little."""


def find(module: nn.Module, outputs: int | None = None) -> str:
    """The name of the last Linear layer (of that many outputs). Raises BadModel when there is none."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    names = [name for name, layer in layers.items() if outputs in (None, layer.out_features)]
    if not names:
        sizes = ", ".join(f"{name} has {layer.out_features}" for name, layer in layers.items())
        wanted = "" if outputs is None else f" with {outputs} outputs"
        raise BadModel(
            f"the module has no Linear layer{wanted} that could be grown for new classes{f'; {sizes}' if sizes else ''}"
        )
    last: str = names[-1]
    return last


def parameters(module: nn.Module, layer: str) -> list[nn.Parameter]:
    """The layer's weights."""
    return list(module.get_submodule(layer).parameters())


def resize(module: nn.Module, layer: str, outputs: int, *, seed: int = 0) -> None:
    """Give the layer ``outputs`` rows in place. The old rows stay, so the old logits do not change; new ones are small.

    Raises BadModel where there is no such layer, or it is no Linear.
    """
    try:
        old = module.get_submodule(layer)
    except AttributeError as error:
        raise BadModel(f"the module has no layer '{layer}', which the model says was grown") from error
    if not isinstance(old, nn.Linear):
        raise BadModel(f"layer '{layer}' is a {type(old).__name__} and no Linear layer, so it cannot be grown")
    kept = min(old.out_features, outputs)
    with torch.no_grad():
        drawn = torch.randn(outputs, old.in_features, generator=torch.Generator().manual_seed(seed))
        weight = (drawn * SMALL / math.sqrt(old.in_features)).to(old.weight)
        weight[:kept] = old.weight[:kept]
        # built on "meta": drawing weights that are overwritten would move the process's random state
        new = nn.Linear(old.in_features, outputs, bias=old.bias is not None, device="meta")
        new.weight = nn.Parameter(weight)
        if old.bias is not None:
            bias = old.bias.new_zeros(outputs)
            bias[:kept] = old.bias[:kept]
            new.bias = nn.Parameter(bias)
    new.train(old.training)
    parent, _, name = layer.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
