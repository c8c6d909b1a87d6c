"""int8 by ONNX Runtime: static (QDQ, calibrated on rows) or dynamic."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, Unsupported
from modelkeep.model import folder
from modelkeep.types import Model, Report


@dataclass(frozen=True)
class Quantize:
    """onnx → onnx. Weights int8, activations uint8 (what VNNI and AMX run), per channel; ``samples`` rows calibrate."""

    per_channel: bool = True
    dynamic: bool = False
    samples: int = 300
    seed: int = 0
    rows: Dataset | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Quantize. Raises Unsupported for another format, BadData without rows, BadModel where ONNX Runtime cannot."""
        if model.format != "onnx":
            raise Unsupported(f"quantize takes ONNX and this is '{model.format}'; convert it first: modelkeep convert")
        rows = self.rows or folder.reference(model.path)
        if rows is None and not self.dynamic:
            raise BadData("there are no rows to calibrate on; pass some, or add the model with --data")
        extras.need("onnx", extra="optimize")
        into.mkdir(parents=True, exist_ok=True)
        try:
            self._quantize(model, into / "model.onnx", rows)
        except (ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
            raise BadModel(f"ONNX Runtime cannot quantize this model: {str(error).splitlines()[0]}") from error
        made = replace(model, path=into, files=("model.onnx",))
        folder.copy_reference(model.path, into)
        how = "dynamic" if self.dynamic else f"static, calibrated on {min(self.samples, len(rows or ()))} rows"
        why = f"int8 ({how}): {made.size:,} bytes instead of {model.size:,}"
        numbers = {"size_ratio": made.size / model.size, "calibration_rows": min(self.samples, len(rows or ()))}
        return folder.write(made), (Report("quantize", None, why, numbers, rows.source if rows else ""),)

    def _quantize(self, model: Model, target: Path, rows: Dataset | None) -> None:
        from onnxruntime import quantization

        logging.getLogger().addFilter(_quiet)  # it advises pre-processing on the root logger, which is done below
        try:
            with tempfile.TemporaryDirectory() as room:
                prepared = Path(room) / "prepared.onnx"
                try:
                    quantization.shape_inference.quant_pre_process(model.main, prepared, skip_symbolic_shape=True)
                except Exception:  # noqa: BLE001  (an aid: models that it cannot take are quantized as they are)
                    prepared = model.main
                if self.dynamic or rows is None:
                    quantization.quantize_dynamic(prepared, target, per_channel=self.per_channel)
                    return
                quantization.quantize_static(
                    prepared,
                    target,
                    _Calibration(rows.sample(min(self.samples, len(rows)), seed=self.seed)),
                    quant_format=quantization.QuantFormat.QDQ,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    per_channel=self.per_channel,
                )
        finally:
            logging.getLogger().removeFilter(_quiet)


class _Calibration:
    """What ONNX Runtime reads rows from, in batches so that a large model's activations stay small."""

    def __init__(self, rows: Dataset, batch: int = 32) -> None:
        self._parts: Iterator[dict[str, Any]] = (
            {name: array[at : at + batch] for name, array in rows.inputs.items()} for at in range(0, len(rows), batch)
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None at the end."""
        return next(self._parts, None)


def _quiet(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()
