"""ONNX → LiteRT (TensorFlow Lite), by way of TensorFlow, kept only when the answers agree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from modelkeep.convert.onnx_to_tensorflow import check, proven, write
from modelkeep.data.dataset import Dataset
from modelkeep.model import folder
from modelkeep.model.formats import litert
from modelkeep.model.whole import whole
from modelkeep.types import Model, Report


@dataclass(frozen=True)
class OnnxToLitert:
    """Only LiteRT's own operators, so that every interpreter runs the file; what needs more is refused.

    ``rows`` are what the answers are compared on; without them the model's reference rows, or else seeded random ones.
    """

    atol: float | None = None
    rtol: float | None = None
    rows: Dataset | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output that differs, Unsupported for an operator that LiteRT lacks, and
        what environments.ensure does; all leave nothing at ``into``.
        """
        check(model, "LiteRT")
        with whole(into):
            made_with = write(model, into / litert.MAIN, "litert")
            made = replace(model, path=into, format="litert", files=(litert.MAIN,), options={})
            return proven(model, made, self.rows or folder.reference(model.path), made_with, self.atol, self.rtol)
