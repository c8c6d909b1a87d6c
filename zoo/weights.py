"""Random weights that can fail a proof: seeded, and scaled so that a model's answers differ from row to row.

A deep network with its default initialisation answers nearly the same to everything (EfficientNet-B0: logits of 4e-6)
or nearly overflows (Inception v3: 2e10), so that a comparison would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.inputs import with_extremes

SEED = 0
SPREAD = 0.25
"""The standard deviation that each output gets from row to row."""


def seeded(build: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """What ``build`` makes, its random weights the same each time."""
    torch.manual_seed(SEED)
    return build(*args, **kwargs).eval()


def calibrate(module: nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]]) -> nn.Module:
    """Gives each BatchNorm, one after the other, the mean and variance of what it sees; in eval mode.

    It sees ``inputs`` and constant pictures: a deep network that has seen none answers them with thousands, in which
    float32 has rounding errors beyond any tolerance.

    A channel that hardly varies counts as one that varies a tenth as much as its layer's mean, for it would be blown
    up otherwise, rounding errors and all; training leaves no such channel.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(_observe) for norm in norms]
    _run(module.eval(), {name: with_extremes(array) for name, array in inputs.items()})
    for hook in hooks:
        hook.remove()
    return module


def _observe(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    seen = inputs[0].transpose(0, 1).flatten(1)
    variance = seen.var(1)
    norm.running_mean.copy_(seen.mean(1))  # type: ignore[operator,union-attr]
    norm.running_var.copy_(variance.clamp(min=0.1 * float(variance.mean())))  # type: ignore[operator,union-attr]


def spread(module: nn.Module, head: nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]]) -> nn.Module:
    """Scales the last layer ``head`` so that the answers differ by SPREAD from row to row."""
    answers = _run(module, inputs)
    there = float(answers.std(0).mean())
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(SPREAD / there)
    return module


def lively(module: nn.Module) -> nn.Module:
    """Each matrix of a transformer drawn anew, its variance 1/inputs: the usual 0.02 leaves it nearly linear."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
    return module.eval()


def _run(module: nn.Module, inputs: Mapping[str, np.ndarray[Any, Any]]) -> torch.Tensor:
    with torch.no_grad():
        answer = module(*(torch.from_numpy(array) for array in inputs.values()))
    return answer if isinstance(answer, torch.Tensor) else next(iter(answer.values()))
