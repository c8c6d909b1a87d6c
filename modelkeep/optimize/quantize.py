"""int8 by ONNX Runtime: static (QDQ, calibrated on rows) or dynamic."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, Unsupported, first_line
from modelkeep.model import engines, folder
from modelkeep.model.whole import whole
from modelkeep.optimize.answers import agreement, answers, batches, fitted, fixed_batch
from modelkeep.quantities import counted
from modelkeep.types import Model, Report, Runner

ONE_FILE = 1_500_000_000
"""Bytes of the model above which the weights go beside model.onnx; a protobuf message ends at 2 GiB."""
CALIBRATION_BATCH = 32
"""Small, so that a large model's activations, all of which are kept, stay small."""
WEIGHTED = ("Conv", "ConvTranspose", "Gather", "Gemm", "MatMul")
"""Operators that read weights: in a model with attention, the only ones to be quantized."""
FILLER = -1e4
"""What masks positions in a softmax is this or less: as the end of a range it leaves one step for all other values."""


@dataclass(frozen=True)
class Quantize:
    """onnx → onnx. Weights int8, activations uint8 (what VNNI and AMX run); the range of each activation is its least
    and largest value on ``samples`` rows. ``dynamic`` finds the ranges while it serves, over all rows of a run: a row's
    answer then changes with those beside it, so ``optimize`` does not try it.

    In a model with attention only the operators that read weights are quantized: sums, masks and softmax between them
    have ranges that 256 steps do not cover.
    """

    per_channel: bool = True
    dynamic: bool = False
    samples: int = 300
    seed: int = 0
    rows: Dataset | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Quantize. Raises Unsupported for another format, BadData without rows, BadModel where ONNX Runtime cannot."""
        if model.format != "onnx":
            raise Unsupported(f"quantize takes ONNX and this is '{model.format}'; convert it first: modelkeep convert")
        given = self.rows or folder.reference(model.path)
        rows = fitted(given, model.signature).sample(self.samples, self.seed) if given else None
        if rows is None and not self.dynamic:
            raise BadData("there are no rows to calibrate on; pass some, or add the model with --data")
        extras.need("onnx", extra="optimize")
        extras.need("sympy", extra="optimize")
        from modelkeep.model.formats import onnx as onnx_format

        with whole(into):
            try:
                self._quantize(model, into / onnx_format.MAIN, rows)
            except Exception as error:  # the errors of onnx and onnxruntime share no class below Exception
                raise BadModel(f"ONNX Runtime cannot quantize this model: {first_line(error)}") from error
            files = (onnx_format.MAIN, *onnx_format.external_files(into / onnx_format.MAIN))
            made = replace(model, path=into, files=files)
            report = self._report(model, made, rows)
            folder.copy_reference(model.path, into)
            return folder.write(made), (report,)

    def _quantize(self, model: Model, target: Path, rows: Dataset | None) -> None:
        from onnxruntime import quantization

        big = model.size > ONE_FILE
        with _quiet(), tempfile.TemporaryDirectory() as room:
            source = _prepared(model, Path(room), big=big)
            if self.dynamic or rows is None:
                quantization.quantize_dynamic(
                    source, target, per_channel=self.per_channel, use_external_data_format=big
                )
                return
            quantization.quantize_static(
                source,
                target,
                _Calibration(rows, fixed_batch(model.signature)),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=list(WEIGHTED) if _attends(source) else None,
                per_channel=self.per_channel,
                use_external_data_format=big,
            )

    def _report(self, model: Model, made: Model, rows: Dataset | None) -> Report:
        how = "dynamic" if self.dynamic else f"static, calibrated on {counted(len(rows or ()), 'row')}"
        numbers: dict[str, Any] = {"size_ratio": made.size / model.size, "n": len(rows or ())}
        why = f"int8 ({how}): {made.size:,} bytes instead of {model.size:,}"
        with contextlib.closing(engines.load(model)) as old, contextlib.closing(engines.load(made)) as new:
            near = _near(old, new, rows) if rows is not None else {}
        if near:
            why += f"; the same class for {near['agreement']:.1%} of these rows"
        numbers |= near
        return Report("quantize", None, why, numbers, rows.source if rows else "")


def _near(old: Runner, new: Runner, rows: Dataset) -> dict[str, float]:
    try:
        return agreement(answers(old, rows), answers(new, rows))
    except BadModel:
        return {}  # no classifier, so there are no classes to agree on


def _attends(path: Path) -> bool:
    """Whether a softmax is not the graph's last word, or something is masked with a very negative number."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    outputs = {output.name for output in graph.output}
    if any(n.op_type in ("Attention", "MultiHeadAttention") for n in graph.node):
        return True
    if any(n.op_type == "Softmax" and outputs.isdisjoint(n.output) for n in graph.node):
        return True
    values = [*graph.initializer, *(a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute)]
    small = (v for v in values if v.data_type == onnx.TensorProto.FLOAT and not any(d > 1 for d in v.dims))
    return any(onnx.numpy_helper.to_array(v).min(initial=0) <= FILLER for v in small if not v.external_data)


def _prepared(model: Model, room: Path, *, big: bool) -> Path:
    """With shapes inferred and the graph optimised, where that is possible: fewer, larger quantized nodes."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = room / "prepared.onnx"
    try:
        # ONNX Runtime cannot write an optimised model of more than 2 GiB
        quant_pre_process(
            model.main, prepared, skip_optimization=big, skip_symbolic_shape=True, save_as_external_data=big
        )
    except Exception:  # noqa: BLE001  (an aid: a model that it cannot take is quantized as it is)
        return model.main
    return prepared


class _Calibration:
    """What ONNX Runtime reads rows from."""

    def __init__(self, rows: Dataset, fixed: int | None) -> None:
        self._parts = iter(batches(rows, fixed or CALIBRATION_BATCH, exactly=bool(fixed)))

    def get_next(self) -> Any:
        """The next batch, None at the end."""
        return next(self._parts, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It advises pre-processing, which is done above, through the root logger, and warns of its own insides."""
    root = logging.getLogger()
    root.addFilter(_not_quantization)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_not_quantization)


def _not_quantization(record: logging.LogRecord) -> bool:
    """Errors, and what others say meanwhile, go on."""
    return record.levelno >= logging.ERROR or Path(record.pathname).parent.name != "quantization"
