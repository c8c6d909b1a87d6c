"""TensorFlow SavedModel and Keras → ONNX, with the same names and free dimensions, kept only when the answers agree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from modelkeep.convert.proof import Progress, noted, prove
from modelkeep.convert.rename import Names, keep_reference, rename_file, renamed_signature
from modelkeep.convert.smallest import smallest
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Unsupported
from modelkeep.model import folder
from modelkeep.model.engines import tensorflow
from modelkeep.model.formats import onnx as onnx_format
from modelkeep.model.whole import whole
from modelkeep.types import Model, Report, Signature

OPSET = 18
"""The newest that tf2onnx writes."""


@dataclass(frozen=True)
class TensorflowToOnnx:
    """By tf2onnx, in the TensorFlow environment. Images stay channels last, as Keras has them.

    ``opset`` None means 18. ``rename`` gives inputs and outputs other names. ``rows`` are what the answers are compared
    on; without them the model's reference rows, or else seeded random ones.
    """

    opset: int | None = None
    atol: float | None = None
    rtol: float | None = None
    rename: Names = field(default_factory=dict)
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output that differs, Unsupported where tf2onnx knows no counterpart of an
        operator, and what environments.ensure does; all leave nothing at ``into``.
        """
        opset = self.opset or OPSET
        if model.format not in ("tensorflow", "keras"):
            raise Unsupported(f"this turns TensorFlow and Keras into ONNX, and the model is '{model.format}'")
        if opset > OPSET:
            raise Unsupported(f"tf2onnx writes no opset above {OPSET}, and {opset} was asked for")
        renamed_signature(model.signature, self.rename)  # refuses names that there are not before the long part
        with whole(into):
            noted(self.progress, "writing ONNX with tf2onnx")
            made, numbers = self._write(model, into, opset)
            rows = self.rows or folder.reference(model.path)
            made = replace(made, signature=renamed_signature(smallest(model, rows), self.rename))
            report = prove(
                model, made, rows, atol=self.atol, rtol=self.rtol, rename=self.rename, progress=self.progress
            )
            keep_reference(model, self.rename, into)
            why = f"{report.why} (exporter tf2onnx, opset {opset})"
            return folder.write(made), (replace(report, why=why, numbers={**report.numbers, **numbers}),)

    def _write(self, model: Model, into: Path, opset: int) -> tuple[Model, dict[str, object]]:
        file = into / onnx_format.MAIN
        ends = (*model.signature.inputs, *model.signature.outputs)
        arguments = {**tensorflow.where(model), "into": str(file), "opset": opset, "axes": [t.axes for t in ends]}
        told = tensorflow.ask("tensorflow.to_onnx:convert", arguments, tensorflow.CONVERT_SECONDS)
        _same_free(model.signature, onnx_format.read_signature(file))
        if self.rename:
            rename_file(file, self.rename)
        made = replace(model, path=into, format="onnx", files=(onnx_format.MAIN,), options={})
        return made, {**told, "opset": opset, "bytes": made.size}


def _same_free(want: Signature, got: Signature) -> None:
    """Unsupported where tf2onnx fixed a size that the model leaves free, or changed a type."""
    for ours, theirs in zip((*want.inputs, *want.outputs), (*got.inputs, *got.outputs), strict=True):
        fixed = any(mine is None and size is not None for mine, size in zip(ours.shape, theirs.shape, strict=True))
        if fixed or ours.dtype != theirs.dtype:
            raise Unsupported(f"tf2onnx wrote {theirs.describe()} where the model has {ours.describe()}")
