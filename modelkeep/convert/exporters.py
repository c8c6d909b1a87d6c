"""PyTorch's ways to write a module as ONNX, in the order in which they are tried. None of them follows every module."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch.nn.modules import transformer

from modelkeep.errors import Unsupported
from modelkeep.types import BATCH, Signature

Tensors = tuple[torch.Tensor, ...]
NO_SCRIPT = "it takes no TorchScript"
Exporter = Callable[[torch.nn.Module, Tensors, Signature, int | None], onnx_ir.Model]
"""(module that answers with a tuple, example, its signature, opset or None) → the graph with its weights."""


def _dynamo(module: torch.nn.Module, example: Tensors, signature: Signature, opset: int | None) -> onnx_ir.Model:
    """torch.export without running Python's bytecode, or else with it; torch.onnx itself tries the two in turn."""
    return _from_program(module, example, signature, opset, dynamic_shapes=_shapes(module, signature))


def _any_batch(module: torch.nn.Module, example: Tensors, signature: Signature, opset: int | None) -> onnx_ir.Model:
    """The same without insisting on the batch: code that asks how many rows there are, to pick a kernel, is followed
    the way the example goes, and the proof shows whether that holds for others.
    """
    shapes = _shapes(module, signature, torch.export.Dim.AUTO)
    return _from_program(module, example, signature, opset, dynamic_shapes=shapes)


def _strict(module: torch.nn.Module, example: Tensors, signature: Signature, opset: int | None) -> onnx_ir.Model:
    """torch.export through TorchDynamo, which reads the bytecode and so sees branches that tracing does not."""
    if isinstance(module, torch.jit.ScriptModule):
        raise Unsupported(NO_SCRIPT)
    program = torch.export.export(module, example, dynamic_shapes=_shapes(module, signature), strict=True)
    return _from_program(program, example, signature, opset)


def _unoptimised(module: torch.nn.Module, example: Tensors, signature: Signature, opset: int | None) -> onnx_ir.Model:
    """Without onnxscript's optimiser, which has been what changed the answers before."""
    return _from_program(module, example, signature, opset, dynamic_shapes=_shapes(module, signature), optimize=False)


def _from_program(
    what: torch.nn.Module | torch.export.ExportedProgram,
    example: Tensors,
    signature: Signature,
    opset: int | None,
    **options: Any,
) -> onnx_ir.Model:
    if isinstance(what, torch.jit.ScriptModule):
        raise Unsupported(NO_SCRIPT)
    program = torch.onnx.export(
        what,
        example,
        dynamo=True,
        input_names=[t.name for t in signature.inputs],
        output_names=[t.name for t in signature.outputs],
        opset_version=opset,
        verbose=False,
        **options,
    )
    assert program is not None
    return program.model


def _traced(module: torch.nn.Module, example: Tensors, signature: Signature, opset: int | None) -> onnx_ir.Model:
    """The older exporter: what one run of the example does, sizes kept as expressions."""
    axes: Mapping[str, Mapping[int, str]] = {
        t.name: {axis: str(name) for axis, name in enumerate(t.axes) if name}
        for t in (*signature.inputs, *signature.outputs)
    }
    with tempfile.TemporaryDirectory() as room:
        torch.onnx.export(
            module,
            example,
            f"{room}/model.onnx",
            dynamo=False,
            input_names=[t.name for t in signature.inputs],
            output_names=[t.name for t in signature.outputs],
            dynamic_axes=axes,
            opset_version=opset,
            verbose=False,
        )
        model = onnx_ir.load(Path(room) / "model.onnx")
        return onnx_ir.external_data.load_to_model(model)  # its files are gone in a moment


def _scripted(module: torch.nn.Module, example: Tensors, signature: Signature, opset: int | None) -> onnx_ir.Model:
    """The older exporter on compiled source: keeps loops and branches that depend on values."""
    if isinstance(module, torch.jit.ScriptModule):
        raise Unsupported("it is TorchScript already")
    inner = module.inner if isinstance(module, Flat) else module  # Python's *inputs cannot be compiled
    return _traced(torch.jit.script(inner), example, signature, opset)


EXPORTERS: dict[str, Exporter] = {
    "dynamo": _dynamo,
    "dynamo-any-batch": _any_batch,
    "dynamo-strict": _strict,
    "dynamo-unoptimised": _unoptimised,
    "torchscript": _traced,
    "torchscript-scripted": _scripted,
}
"""In the order in which they are tried."""


def _shapes(module: torch.nn.Module, signature: Signature, batch: Any = None) -> Any:
    """The batch under one name, so that no example may fix it; the exporter relates the other free sizes itself."""
    batch = batch or torch.export.Dim(BATCH, min=1)
    auto = torch.export.Dim.AUTO
    shapes = tuple(
        {axis: batch if name == BATCH else auto for axis, name in enumerate(t.axes) if name} for t in signature.inputs
    )
    return (shapes,) if isinstance(module, Flat) else shapes


class Flat(torch.nn.Module):
    """The same module, whatever it answers with as a tuple of tensors in the signature's order."""

    def __init__(self, inner: torch.nn.Module, named: Callable[[Any], Mapping[str, torch.Tensor]]) -> None:
        super().__init__()
        self.inner, self._named = inner, named

    def forward(self, *inputs: torch.Tensor) -> Tensors:
        """The inputs by position."""
        return tuple(self._named(self.inner(*inputs)).values())


@contextlib.contextmanager
def exportable() -> Iterator[None]:
    """PyTorch as exporters can follow it: no fused kernels of attention that only eager mode has, and masks taken as
    they are where torch.nn.Transformer would look into their values for a hint that changes no answer.
    """
    fast, looks = torch.backends.mha.get_fastpath_enabled(), transformer._detect_is_causal_mask

    def as_told(mask: object, is_causal: bool | None = None, size: object = None) -> bool:
        return bool(is_causal)

    torch.backends.mha.set_fastpath_enabled(False)
    transformer._detect_is_causal_mask = as_told
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        transformer._detect_is_causal_mask = looks


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters' progress and warnings are theirs; what matters of them stands in the report."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    switch = torch._C._jit_set_onnx_log_enabled
    switch(False)
    # the older exporter always switches it on, and then prints its whole graph where it fails
    torch._C._jit_set_onnx_log_enabled = lambda enabled: None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_set_onnx_log_enabled = switch
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
