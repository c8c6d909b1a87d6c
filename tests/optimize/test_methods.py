"""The table of methods, and which chains of steps fit which model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep import optimize
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, Unsupported
from modelkeep.optimize.distill import Distill
from modelkeep.optimize.quantize import Quantize

ROWS = Dataset({"pixels": np.zeros((3, 64), np.float32)}, None, "made")


def recipes(source: str, rows: Dataset | None = ROWS, **options: Any) -> dict[str, list[str]]:
    given = {"student": None, "quantize": True, "export": lambda rows: [TorchToOnnx(rows=rows)], **options}
    return {name: [type(s).__name__ for s in steps] for name, steps in optimize.recipes(source, rows, **given).items()}


def test_onnx_is_tried_in_every_way() -> None:
    assert recipes("onnx", student="a:B") == {
        "distilled": ["Distill", "TorchToOnnx"],
        "int8": ["Quantize"],
        "distilled+int8": ["Distill", "TorchToOnnx", "Quantize"],
    }


def test_without_a_student_only_int8() -> None:
    assert recipes("onnx") == {"int8": ["Quantize"]}


def test_without_quantize_only_the_student() -> None:
    assert recipes("onnx", student="a:B", quantize=False) == {"distilled": ["Distill", "TorchToOnnx"]}


def test_pytorch_is_distilled_and_stays_pytorch() -> None:
    assert recipes("torch", student="a:B") == {"distilled": ["Distill"]}


def test_settings_and_rows_reach_the_steps() -> None:
    found = optimize.recipes("torch", ROWS, student="a:B", quantize=True, export=lambda _: [Quantize()], epochs=7)
    (step,) = found["distilled"]
    assert isinstance(step, Distill)
    assert (step.student, step.epochs, step.rows) == ("a:B", 7, ROWS)


def test_without_rows_nothing_can_be_tried() -> None:
    with pytest.raises(BadData, match="there are no rows to calibrate or distil on; pass --train-data"):
        recipes("onnx", rows=None)


@pytest.mark.parametrize(
    ("source", "options", "why"),
    [
        ("torch", {}, r"int8 needs ONNX \(modelkeep convert\)"),
        ("onnx", {"quantize": False}, r"int8 is left out \(--no-quantize\)"),
    ],
)
def test_nothing_to_try_is_said(source: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(Unsupported, match=f"nothing to try on a model of format '{source}': {why}, and distilling"):
        recipes(source, **options)


def test_step_by_name() -> None:
    assert optimize.step("quantize", samples=5) == Quantize(samples=5)


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(Unsupported, match="no way to optimize called 'prune'; there are: distill, quantize"):
        optimize.step("prune")


@pytest.mark.parametrize("source", ["torch", "torch-export"])
def test_an_exported_program_is_distilled_into_pytorch(source: str) -> None:
    assert recipes(source, student="a:B") == {"distilled": ["Distill"]}


def test_an_option_that_a_method_lacks_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        Unsupported, match="'quantize' has no option 'epochs'; there are: per_channel, dynamic, samples"
    ):
        optimize.step("quantize", epochs=3)
