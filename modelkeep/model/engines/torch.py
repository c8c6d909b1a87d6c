"""PyTorch modules on PyTorch, as they are or compiled: state dicts with their factory, and exported programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from modelkeep.errors import BadInput, ModelkeepError, NotReady, Unsupported
from modelkeep.model import folder
from modelkeep.model.formats import torch as torch_format
from modelkeep.model.signature import example
from modelkeep.types import Model, ServeConfig, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
INDUCTOR: dict[str, str | int | bool | Callable[..., Any]] = {"freezing": True, "compile_threads": 1}
"""Weights become constants, which are laid out for the processor; compiled here, with no processes that stay behind."""


class TorchRunner:
    """A module in eval mode; ``run`` holds no lock, for an eval module only reads its weights."""

    def __init__(self, signature: Signature, module: Any, device: torch.device, lower: torch.dtype | None) -> None:
        self.signature = signature
        self._device, self._lower = device, lower
        self._module: Any = module
        self._dtypes = {t.name: t.dtype for t in signature.outputs}

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner. Raises BadInput with the module's reason when it fails on these inputs, NotReady once closed."""
        module = self._module
        if module is None:
            raise NotReady("this model has been closed")
        try:
            with self._precision():
                answers = torch_format.forward(module, self.signature, inputs, self._device)
        except (ModelkeepError, MemoryError):
            raise
        except Exception as error:  # forward is a person's code, which may raise anything
            raise BadInput(f"the model cannot run these inputs: {torch_format.reason(error)}") from error
        if self._lower is None:
            return answers
        return {name: array.astype(self._dtypes.get(name, array.dtype)) for name, array in answers.items()}

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._lower is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._lower)

    def close(self) -> None:
        """See Runner."""
        self._module = None


def load(model: Model, config: ServeConfig) -> TorchRunner:
    """See engines.load. ``config.threads`` is PyTorch's own setting, which the whole process shares.

    Precision bfloat16 (on a GPU float16 too) is autocast: matrix products in it, sums and norms in float32.
    """
    device, lower = _device(config), _lower(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    module = torch_format.module(model)
    if device.type == "cpu" and model.format == "torch":
        torch_format.map_weights(module, model.main)
    return TorchRunner(model.signature, module.to(device), device, lower)


def load_compiled(model: Model, config: ServeConfig) -> TorchRunner:
    """``load``, compiled by torch.compile for free sizes; it takes a minute where the code is not in its cache.

    PyTorch compiles one row apart from many, and gives up compiling for more shapes after eight (its recompile limit):
    such inputs run as they would on engine torch. Raises Unsupported where there is no C++ compiler or the module
    cannot be compiled.
    """
    _need_compiler(config)
    runner = load(model, config)
    runner._module = torch.compile(runner._module, dynamic=True, options=INDUCTOR)
    for rows in (2, 1) if model.signature.batched else (1,):
        _compile(runner, _inputs(model, rows))
    return runner


def _compile(runner: TorchRunner, inputs: Arrays) -> None:
    """The first run compiles. Inputs that the model itself refuses are no reason to refuse the model."""
    try:
        runner.run(inputs)
    except BadInput as error:
        if _of_the_compiler(error.__cause__):
            said = torch_format.reason(error.__cause__) if isinstance(error.__cause__, Exception) else str(error)
            raise Unsupported(f"PyTorch cannot compile this module, engine 'torch' runs it: {said}") from error


def _of_the_compiler(error: BaseException | None) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _inputs(model: Model, rows: int) -> Arrays:
    kept = folder.reference(model.path)
    if kept is None or not model.signature.batched:
        return example(model.signature, rows)
    return kept.take([number % len(kept) for number in range(rows)]).inputs


def _need_compiler(config: ServeConfig) -> None:
    if not config.device.startswith("cpu"):
        return  # on a GPU PyTorch brings its own
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise Unsupported(
            "engine 'torch-compile' needs a C++ compiler, and none is found: install g++ or clang "
            "(apt install g++), or set CXX to one"
        ) from error


def _device(config: ServeConfig) -> torch.device:
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was compiled without that device
        raise Unsupported(
            f"engine '{config.engine}' as installed here cannot run on device '{config.device}'"
        ) from error
    return device


def _lower(config: ServeConfig) -> torch.dtype | None:
    """What autocast computes in; None for the module's own precision."""
    precision = config.precision or "float32"
    able = [name for name in PRECISIONS if name != "float16" or not config.device.startswith("cpu")]
    if precision not in able:
        raise Unsupported(
            f"engine '{config.engine}' has no precision '{precision}' on device '{config.device}'; "
            f"there are: {', '.join(able)}"
        )
    return PRECISIONS[precision]
