"""Same answers, cheaper weights: the table of methods, and which of them fit a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, Unsupported
from modelkeep.model import formats
from modelkeep.types import Step

METHODS: dict[str, str] = {
    "distill": "modelkeep.optimize.distill:Distill",
    "quantize": "modelkeep.optimize.quantize:Quantize",
}


def step(method: str, **options: Any) -> Step:
    """The step of that name. Raises Unsupported with the names there are, of methods or of a method's options."""
    made: Step = extras.choose(METHODS, method, options, to="optimize")
    return made


def recipes(
    source: str,
    rows: Dataset | None,
    *,
    student: str | None,
    quantize: bool,
    export: Callable[[Dataset], list[Step]],
    **distil: Any,
) -> dict[str, list[Step]]:
    """Name → the chain of steps to try on a model of format ``source``; every chain ends in that format.

    ``export`` gives the steps from PyTorch to that format, which a student must take. Raises BadData without rows, and
    Unsupported when nothing fits.
    """
    if rows is None:
        raise BadData("there are no rows to calibrate or distil on; pass --train-data, or add the model with --data")
    found: dict[str, list[Step]] = {}
    small: list[Step] = []
    if student:
        small = [step("distill", student=student, rows=rows, **distil)]
        if source not in formats.TRAINABLE:
            small += export(rows)
        found["distilled"] = small
    if quantize and source == "onnx":
        found["int8"] = [step("quantize", rows=rows)]
        if small:
            found["distilled+int8"] = [*small, step("quantize", rows=rows)]
    if not found:
        of_int8 = "int8 needs ONNX (modelkeep convert)" if source != "onnx" else "int8 is left out (--no-quantize)"
        raise Unsupported(
            f"nothing to try on a model of format '{source}': {of_int8}, and distilling needs a --student"
        )
    return found
