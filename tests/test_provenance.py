"""made_by, read back: nothing is evaluated, and what cannot be read is said in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelkeep import provenance
from modelkeep.convert.onnx_to_openvino import OnnxToOpenVino
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel
from modelkeep.optimize.quantize import Quantize
from modelkeep.update.finetune import Finetune
from modelkeep.update.transfer import Transfer

ROWS = Dataset({"pixels": np.zeros((3, 2), np.float32)}, None, "made")


@pytest.mark.parametrize("step", [Finetune(epochs=3, lr=1e-5), Quantize(dynamic=True), Transfer(("a", "b'c"))])
def test_a_step_becomes_itself_again(step: Finetune | Quantize | Transfer) -> None:
    assert provenance.rebuild(repr(step)) == step


def test_rows_are_given_anew_and_what_the_step_lacks_is_left_out() -> None:
    step = provenance.rebuild(repr(Finetune()), rows=ROWS, colour="red")
    assert isinstance(step, Finetune)
    assert step.rows is ROWS


def test_parse_gives_name_and_settings() -> None:
    assert provenance.parse("Transfer(labels=('a', 'b'), lr=0.5)") == (
        "Transfer",
        {"labels": ("a", "b"), "lr": 0.5},
    )


@pytest.mark.parametrize(
    "text", ["", "added by hand", "Quantize(", "Quantize(True)", "a.Quantize()", "Quantize(samples=int('3'))", "3"]
)
def test_other_text_is_no_record(text: str) -> None:
    with pytest.raises(BadModel, match="is not the record of a step, so it cannot be done again"):
        provenance.rebuild(text)


def test_text_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(BadModel, match="not the record of a step"):
        provenance.rebuild(f"Quantize(samples=__import__('pathlib').Path({str(mark)!r}).touch())")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("made_by", "told"),
    [
        (repr(TorchToOnnx()), "TorchToOnnx"),
        (repr(TorchToOnnx(opset=18, rename={"x": "y"})), "TorchToOnnx with opset=18, rename={'x': 'y'}"),
        (repr(Finetune(epochs=10, max_forgetting=0.1)), "Finetune with epochs=10, max_forgetting=0.1"),
        (repr(Finetune()), "Finetune"),
        (repr(Quantize(per_channel=False)), "Quantize with per_channel=False"),
        (repr(Transfer(("a", "b"))), "Transfer with labels=('a', 'b')"),
        ("Prune(share=0.5)", "Prune with share=0.5"),
        ("add('net.pt', factory='net:Net')", "add('net.pt', factory='net:Net')"),
        ("by hand", "by hand"),
    ],
)
def test_a_person_is_told_what_was_set(made_by: str, told: str) -> None:
    assert provenance.told(made_by) == told


def test_telling_loads_no_library() -> None:
    """A list of versions must not wait for PyTorch."""
    code = f"import sys; from modelkeep import provenance; provenance.told({repr(TorchToOnnx())!r}); "
    code += "print([m for m in ('torch', 'onnx') if m in sys.modules])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert asked.stdout.strip() == "[]"


def test_an_unknown_step_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadModel, match=r"not made by a step that modelkeep knows; there are: Distill, Finetune, .*"):
        provenance.rebuild("Prune(share=0.5)")


def test_a_setting_that_is_no_more_is_named() -> None:
    with pytest.raises(BadModel, match=r"cannot be done again: .*'bits'"):
        provenance.rebuild("Quantize(bits=4)")


def test_each_step_gets_the_rows_under_the_names_of_its_time() -> None:
    """pixels → image → picture: the model before both takes pixels."""
    records = [repr(TorchToOnnx(rename={"pixels": "image"})), repr(OnnxToOpenVino(rename={"image": "picture"}))]
    live = Dataset({"picture": ROWS.inputs["pixels"]}, None, "made")
    first, steps = provenance.again(records, live)
    assert list(first.inputs) == ["pixels"]
    assert [list(step.rows.inputs) for step in steps] == [["pixels"], ["image"]]  # type: ignore[attr-defined]
    assert [repr(step) for step in steps] == records
