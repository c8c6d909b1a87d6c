"""ONNX → TensorFlow SavedModel, with the same names, layout and free dimensions, kept only when the answers agree."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from modelkeep.convert.proof import Progress, noted, prove
from modelkeep.convert.rename import Names, keep_reference, renamed_onnx, renamed_signature
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

    An image that the ONNX model takes channels first stays so at the SavedModel's door. ``rename`` gives inputs and
    outputs other names. ``rows`` are what the answers are compared on; without them the model's reference rows, or else
    seeded random ones.
    """

    atol: float | None = None
    rtol: float | None = None
    rename: Names = field(default_factory=dict)
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output that differs, Unsupported for an operator without a counterpart or a
        name that TensorFlow cannot take, and what environments.ensure does; all leave nothing at ``into``.
        """
        check(model, "TensorFlow", self.rename)
        with whole(into), renamed_onnx(model, self.rename, into) as source:
            noted(self.progress, "writing a SavedModel")
            made_with = write(source, into / tensorflow_format.FOLDER, "tensorflow")
            files = tensorflow_format.files(into)
            made = replace(source, path=into, format="tensorflow", files=files, options={})
            rows = self.rows or folder.reference(model.path)
            held: Held = {"atol": self.atol, "rtol": self.rtol, "rename": self.rename, "progress": self.progress}
            return proven(model, made, rows, made_with, held)


def check(model: Model, to: str, names: Names) -> None:
    """Unsupported where ``model`` is no ONNX model, or has an input that TensorFlow cannot name."""
    if model.format != "onnx":
        raise Unsupported(f"this turns ONNX into {to}, and the model is '{model.format}'")
    for spec in model.signature.inputs:
        name = names.get(spec.name, spec.name)
        if not name.isidentifier() or keyword.iskeyword(name):
            raise Unsupported(
                f"{to} cannot call an input '{name}': a name there is letters, digits and '_'; "
                f"give it another with --rename {spec.name}=NAME"
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


class Held(TypedDict):
    """What a step tells its proof."""

    atol: float | None
    rtol: float | None
    rename: Names
    progress: Progress | None


def proven(
    model: Model,
    made: Model,
    rows: Dataset | None,
    made_with: dict[str, Any],
    held: Held,
) -> tuple[Model, tuple[Report, ...]]:
    """The whole folder of ``made`` once it answers as ``model``, and the report of it. Raises Differs."""
    made = replace(made, signature=renamed_signature(smallest(model, rows), held["rename"]))
    report = prove(model, made, rows, **held)
    keep_reference(model, held["rename"], made.path)
    numbers = {**report.numbers, **made_with, "bytes": made.size}
    return folder.write(made), (replace(report, numbers=numbers),)
