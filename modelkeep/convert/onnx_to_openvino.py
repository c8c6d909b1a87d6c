"""ONNX → OpenVINO's own format (IR), with the same names and free dimensions, kept only when the answers agree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from modelkeep.convert import onnx_ml
from modelkeep.convert.proof import Progress, noted, prove
from modelkeep.convert.rename import Names, keep_reference, renamed_onnx, renamed_signature
from modelkeep.convert.smallest import smallest
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Unsupported
from modelkeep.model import folder
from modelkeep.model.whole import whole
from modelkeep.types import Model, Report, Signature

PRECISIONS = ("float32", "float16")
STANDARD = "standard.onnx"


@dataclass(frozen=True)
class OnnxToOpenVino:
    """``precision`` float16 halves the file: weights are kept in 16 bits and computed with in 32.

    ``rename`` gives inputs and outputs other names. ``rows`` are what the answers are compared on; without them the
    model's reference rows, or else seeded random ones. Tolerances that are not given are those of the precision
    (compare.TOLERANCES).
    """

    precision: str = "float32"
    atol: float | None = None
    rtol: float | None = None
    rename: Names = field(default_factory=dict)
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output that differs, Unsupported for text and precisions there are not,
        BadModel with the operators that OpenVINO lacks; all leave nothing at ``into``.
        """
        from modelkeep.model.formats import openvino as openvino_format

        self._check(model)
        with whole(into), renamed_onnx(model, self.rename, into) as source:
            noted(self.progress, "writing OpenVINO's format")
            graph = openvino_format.read(_readable(source.main, into))
            _same_free(source.signature, openvino_format.read_signature(graph, source.main))
            files = openvino_format.save(graph, into, half=self.precision == "float16")
            (into / STANDARD).unlink(missing_ok=True)
            rows = self.rows or folder.reference(model.path)
            made = replace(model, path=into, format="openvino", files=files, options={})
            made = replace(made, signature=renamed_signature(smallest(model, rows), self.rename))
            report = prove(
                model,
                made,
                rows,
                precision=self.precision,
                atol=self.atol,
                rtol=self.rtol,
                rename=self.rename,
                progress=self.progress,
            )
            keep_reference(model, self.rename, into)
            return folder.write(made), (report,)

    def _check(self, model: Model) -> None:
        if model.format != "onnx":
            raise Unsupported(f"this turns ONNX into OpenVINO, and the model is '{model.format}'")
        if self.precision not in PRECISIONS:
            raise Unsupported(
                f"there is no precision '{self.precision}' of weights; there are: {', '.join(PRECISIONS)}"
            )
        text = [t.name for t in (*model.signature.inputs, *model.signature.outputs) if t.dtype == "str"]
        if text:
            raise Unsupported(f"'{text[0]}' is text, which OpenVINO does not run; keep the model as ONNX")


def _readable(file: Path, into: Path) -> Path:
    """The file, or one at ``into`` without the operators for classic models, which OpenVINO lacks."""
    if not onnx_ml.needed(file):
        return file
    written = into / STANDARD
    onnx.save(onnx_ml.rewritten(file), written)
    return written


def _same_free(want: Signature, got: Signature) -> None:
    """Unsupported where OpenVINO's reader fixed a size that the ONNX model leaves free."""
    for ours, theirs in zip(want.inputs, got.inputs, strict=True):
        if any(mine is None and size is not None for mine, size in zip(ours.shape, theirs.shape, strict=True)):
            raise Unsupported(f"OpenVINO reads the input {ours.describe()} as {theirs.describe()}")
