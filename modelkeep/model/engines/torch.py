"""PyTorch modules on PyTorch: state dicts with their factory, and exported programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from modelkeep.errors import BadInput, ModelkeepError, NotReady, Unsupported
from modelkeep.model.formats import torch as torch_format
from modelkeep.types import Model, ServeConfig, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


class TorchRunner:
    """A module in eval mode; ``run`` holds no lock, for an eval module only reads its weights."""

    def __init__(self, signature: Signature, module: torch.nn.Module, device: torch.device) -> None:
        self.signature = signature
        self._device = device
        self._module: torch.nn.Module | None = module.to(device)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner. Raises BadInput with the module's reason when it fails on these inputs, NotReady once closed."""
        module = self._module
        if module is None:
            raise NotReady("this model has been closed")
        try:
            answers = torch_format.forward(module, self.signature, inputs, self._device)
        except (ModelkeepError, MemoryError):
            raise
        except Exception as error:  # forward is a person's code, which may raise anything
            raise BadInput(f"the model cannot run these inputs: {torch_format.reason(error)}") from error
        return answers

    def close(self) -> None:
        """See Runner."""
        self._module = None


def load(model: Model, config: ServeConfig) -> TorchRunner:
    """See engines.load. ``config.threads`` is PyTorch's own setting, which the whole process shares."""
    if config.precision not in (None, "float32"):
        raise Unsupported(
            f"engine 'torch' runs a model in its own precision, so precision '{config.precision}' cannot be set"
        )
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was compiled without that device
        raise Unsupported(f"engine 'torch' as installed here cannot run on device '{config.device}'") from error
    if config.threads:
        torch.set_num_threads(config.threads)
    return TorchRunner(model.signature, torch_format.module(model), device)
