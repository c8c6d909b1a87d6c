"""ONNX → TensorFlow SavedModel, with the same names, layout and free dimensions, kept only when the answers agree."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelkeep.convert.proof import prove
from modelkeep.convert.smallest import smallest
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Unsupported
from modelkeep.model import folder
from modelkeep.model.engines import tensorflow
from modelkeep.model.formats import tensorflow as tensorflow_format
from modelkeep.model.whole import whole
from modelkeep.types import Model, Report


@dataclass(frozen=True)
class OnnxToTensorflow:
    """The ONNX graph written operator by operator in the TensorFlow environment; weights become variables.

    An image that the ONNX model takes channels first stays so at the SavedModel's door. ``rows`` are what the answers
    are compared on; without them the model's reference rows, or else seeded random ones.
    """

    atol: float | None = None
    rtol: float | None = None
    rows: Dataset | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output that differs, Unsupported for an operator without a counterpart or a
        name that TensorFlow cannot take, and what environments.ensure does; all leave nothing at ``into``.
        """
        check(model, "TensorFlow")
        with whole(into):
            made_with = write(model, into / tensorflow_format.FOLDER, "tensorflow")
            files = tensorflow_format.files(into)
            made = replace(model, path=into, format="tensorflow", files=files, options={})
            return proven(model, made, self.rows or folder.reference(model.path), made_with, self.atol, self.rtol)


def check(model: Model, to: str) -> None:
    """Unsupported where ``model`` is no ONNX model, or has an input that TensorFlow cannot name."""
    if model.format != "onnx":
        raise Unsupported(f"this turns ONNX into {to}, and the model is '{model.format}'")
    for spec in model.signature.inputs:
        if not spec.name.isidentifier() or keyword.iskeyword(spec.name):
            raise Unsupported(
                f"{to} cannot call an input '{spec.name}': a name there is letters, digits and '_'; "
                "give the inputs such names when the ONNX model is made"
            )


def write(model: Model, into: Path, target: str) -> dict[str, Any]:
    """Write the ONNX model as a SavedModel folder or a LiteRT file; what it was made with. Raises Unsupported."""
    signature = model.signature
    arguments = {
        "file": str(model.main),
        "into": str(into),
        "inputs": [[t.name, t.dtype, t.shape] for t in signature.inputs],
        "outputs": [[t.name, t.dtype, t.shape] for t in signature.outputs],
        "target": target,
    }
    return dict(tensorflow.ask("tensorflow.from_onnx:convert", arguments, tensorflow.CONVERT_SECONDS))


def proven(
    model: Model, made: Model, rows: Dataset | None, made_with: dict[str, Any], atol: float | None, rtol: float | None
) -> tuple[Model, tuple[Report, ...]]:
    """The whole folder of ``made`` once it answers as ``model``, and the report of it. Raises Differs."""
    made = replace(made, signature=smallest(model, rows))
    report = prove(model, made, rows, atol=atol, rtol=rtol)
    folder.copy_reference(model.path, made.path)
    numbers = {**report.numbers, **made_with, "bytes": made.size}
    return folder.write(made), (replace(report, numbers=numbers),)
