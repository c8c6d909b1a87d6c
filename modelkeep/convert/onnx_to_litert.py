"""ONNX → LiteRT (TensorFlow Lite), by way of TensorFlow, kept only when the answers agree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from modelkeep.convert.onnx_to_tensorflow import Held, check, proven, write
from modelkeep.convert.proof import Progress, noted
from modelkeep.convert.rename import Names, renamed_onnx
from modelkeep.data.dataset import Dataset
from modelkeep.model import folder
from modelkeep.model.formats import litert
from modelkeep.model.whole import whole
from modelkeep.types import Model, Report


@dataclass(frozen=True)
class OnnxToLitert:
    """Only LiteRT's own operators, so that every interpreter runs the file; what needs more is refused.

    ``rename`` gives inputs and outputs other names. ``rows`` are what the answers are compared on; without them the
    model's reference rows, or else seeded random ones.
    """

    atol: float | None = None
    rtol: float | None = None
    rename: Names = field(default_factory=dict)
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output that differs, Unsupported for an operator that LiteRT lacks, and
        what environments.ensure does; all leave nothing at ``into``.
        """
        check(model, "LiteRT", self.rename)
        with whole(into), renamed_onnx(model, self.rename, into) as source:
            noted(self.progress, "writing LiteRT")
            made_with = write(source, into / litert.MAIN, "litert")
            made = replace(source, path=into, format="litert", files=(litert.MAIN,), options={})
            rows = self.rows or folder.reference(model.path)
            held: Held = {"atol": self.atol, "rtol": self.rtol, "rename": self.rename, "progress": self.progress}
            return proven(model, made, rows, made_with, held)
