"""PyTorch → ONNX, with a free batch and the same names, kept only when the answers agree."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, Differs, ModelkeepError, Unsupported
from modelkeep.model import engines, folder
from modelkeep.model import signature as signatures
from modelkeep.model.compare import compare
from modelkeep.model.formats import onnx as onnx_format
from modelkeep.model.formats import torch as torch_format
from modelkeep.types import Model, Report, Runner, Signature

ONE_FILE = 1_500_000_000
"""Bytes of weights that still go into model.onnx itself; a protobuf message ends at 2 GiB."""
EXAMPLE_ROWS = 2
"""torch.export takes a batch of 0 or 1 for a constant, so the example has more."""


@dataclass(frozen=True)
class TorchToOnnx:
    """Exports with torch.export's exporter and, where that fails or differs, with the older TorchScript one.

    ``opset`` None leaves it to the exporter. ``rows`` are what the answers are compared on; without them the model's
    reference rows, or else seeded random ones.
    """

    opset: int | None = None
    atol: float = 1e-4
    rtol: float = 1e-3
    rows: Dataset | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output that differs, Unsupported where neither exporter can; both leave
        nothing at ``into``.
        """
        rows = self.rows or folder.reference(model.path)
        rows = dataset.fit(rows, model.signature) if rows else None
        into.mkdir(parents=True, exist_ok=True)
        try:
            made, report = self._ladder(model, rows, into)
            folder.copy_reference(model.path, into)
            return folder.write(made), (report,)
        except BaseException:  # a half-made model must not be left, not even by Ctrl-C
            _clear(into)
            raise

    def _ladder(self, model: Model, rows: Dataset | None, into: Path) -> tuple[Model, Report]:
        failed: dict[str, str] = {}
        differs: Report | None = None
        with contextlib.closing(engines.load(model)) as reference:
            for name, export in EXPORTERS.items():
                _clear(into)
                try:
                    made = self._export(export, model, rows, into)
                except ModelkeepError as error:
                    failed[name] = str(error)
                    continue
                report = self._compare(reference, made, rows)
                if report.ok:
                    return made, _told(report, name, failed, made)
                failed[name], differs = report.why, differs or report
        told = "; ".join(f"exporter {name}: {why}" for name, why in failed.items())
        if differs:
            raise Differs(f"the ONNX model does not answer as the PyTorch one does, so it is not kept; {told}")
        raise Unsupported(f"PyTorch cannot write this model as ONNX; {told}")

    def _export(self, export: Exporter, model: Model, rows: Dataset | None, into: Path) -> Model:
        """One exporter's file, its signature held against the model's own."""
        signature, file = model.signature, into / onnx_format.MAIN
        example = (rows.take([0] * EXAMPLE_ROWS).inputs if rows else None) or signatures.example(
            signature, EXAMPLE_ROWS
        )
        tensors = tuple(torch.from_numpy(example[t.name].copy()) for t in signature.inputs)
        tensors = tuple(_as_fixed(x, t.shape[:1]) for x, t in zip(tensors, signature.inputs, strict=True))
        with _quiet():
            try:
                export(_flat(torch_format.module(model)), tensors, signature, file, self.opset)
            except ModelkeepError:
                raise
            except Exception as error:  # the exporters share no error below Exception; the next one may manage
                raise Unsupported(f"it fails: {_reason(error)}") from error
        if self.opset and onnx_format.opset(file) != self.opset:
            raise Unsupported(f"it wrote opset {onnx_format.opset(file)} where {self.opset} was asked for")
        _same_signature(signature, onnx_format.read_signature(file))
        files = (onnx_format.MAIN, *onnx_format.external_files(file))
        return replace(model, path=into, format="onnx", files=files, options={})

    def _compare(self, reference: Runner, made: Model, rows: Dataset | None) -> Report:
        with contextlib.closing(engines.load(made)) as candidate:
            return compare(reference, candidate, rows, atol=self.atol, rtol=self.rtol)


class _Flat(torch.nn.Module):
    """The same module, whatever it answers with as a tuple of tensors in the signature's order."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch_format.named(self.inner(*inputs)).values())


def _flat(module: torch.nn.Module) -> torch.nn.Module:
    """A scripted module stays as it is: it can be no part of another that is traced, and its exporter flattens."""
    return module if isinstance(module, torch.jit.ScriptModule) else _Flat(module).eval()


Exporter = Callable[[torch.nn.Module, tuple[torch.Tensor, ...], Signature, Path, int | None], None]


def _dynamo(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], signature: Signature, file: Path, opset: int | None
) -> None:
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple(
        {axis: batch if axis == 0 else torch.export.Dim.AUTO for axis, size in enumerate(t.shape) if size is None}
        for t in signature.inputs
    )
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        input_names=[t.name for t in signature.inputs],
        output_names=[t.name for t in signature.outputs],
        dynamic_shapes=(shapes,),
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    program.save(str(file), external_data=_size(module) > ONE_FILE)


def _torchscript(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], signature: Signature, file: Path, opset: int | None
) -> None:
    if _size(module) > ONE_FILE:
        raise Unsupported("it cannot write a model of more than 1.5 GB")
    axes: Mapping[str, Mapping[int, str]] = {
        t.name: {
            axis: "batch" if axis == 0 else f"{t.name}_{axis}" for axis, size in enumerate(t.shape) if size is None
        }
        for t in (*signature.inputs, *signature.outputs)
    }
    torch.onnx.export(
        module,
        example,
        str(file),
        dynamo=False,
        input_names=[t.name for t in signature.inputs],
        output_names=[t.name for t in signature.outputs],
        dynamic_axes=axes,
        opset_version=opset,
        verbose=False,
    )


EXPORTERS: dict[str, Exporter] = {"dynamo": _dynamo, "torchscript": _torchscript}


def _same_signature(want: Signature, got: Signature) -> None:
    """BadModel where the exported file does not take and give what the module does, for any batch."""
    for ours, theirs in zip((*want.inputs, *want.outputs), (*got.inputs, *got.outputs), strict=False):
        free = all(size is None for size, mine in zip(theirs.shape, ours.shape, strict=False) if mine is None)
        alike = (ours.name, ours.dtype, len(ours.shape)) == (theirs.name, theirs.dtype, len(theirs.shape))
        if not (alike and free):
            raise BadModel(f"it wrote {theirs.describe()} where the model has {ours.describe()}")
    if len(got.inputs) != len(want.inputs) or len(got.outputs) != len(want.outputs):
        names = ", ".join(t.name for t in (*got.inputs, *got.outputs))
        raise BadModel(f"it wrote other inputs and outputs than the model has: {names}")


def _told(report: Report, exporter: str, failed: Mapping[str, str], made: Model) -> Report:
    """What the comparison found, and how the file came about."""
    opset = onnx_format.opset(made.main)
    numbers = {**report.numbers, "exporter": exporter, "opset": opset, "bytes": made.size, "failed": dict(failed)}
    after = "".join(f"; exporter {name} was tried before: {why}" for name, why in failed.items())
    return replace(report, why=f"{report.why} (exporter {exporter}, opset {opset}){after}", numbers=numbers)


def _as_fixed(example: torch.Tensor, first: tuple[int | None, ...]) -> torch.Tensor:
    """An input whose batch is baked in gets that many rows."""
    if not first or first[0] is None or first[0] == len(example):
        return example
    return example[torch.arange(first[0]) % len(example)]


def _size(module: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' progress and warnings are theirs; what matters of them stands in the report."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of the exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _clear(into: Path) -> None:
    for path in into.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
