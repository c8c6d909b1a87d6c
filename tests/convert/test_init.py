"""The table of conversions, and what is said where there is none."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from modelkeep import convert, extras
from modelkeep.errors import MissingExtra, Unsupported


def test_a_step_takes_its_options() -> None:
    step = convert.step("torch", "onnx", atol=0.5)
    assert repr(step) == "TorchToOnnx(opset=None, atol=0.5, rtol=0.001)"  # what provenance reads back
    assert dataclasses.is_dataclass(step)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("onnx", "onnx", "no conversion turns onnx into onnx; it is onnx already"),
        ("onnx", "torch", "no conversion turns onnx into torch; there are: torch → onnx, torch-export → onnx"),
        ("torch", "openvino", "OpenVINO is an engine, which runs onnx as it is"),
    ],
)
def test_a_route_that_does_not_exist(source: str, target: str, said: str) -> None:
    with pytest.raises(Unsupported) as error:
        convert.step(source, target)
    assert said in str(error.value)


def test_without_pytorch_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has", lambda name: name != "torch")
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    with pytest.raises(MissingExtra, match=r"this needs torch .* pip install 'modelkeep\[torch\]'"):
        convert.step("torch", "onnx")


def test_an_option_that_does_not_exist() -> None:
    with pytest.raises(
        Unsupported, match=r"turning torch into onnx has no option 'speed'; there are: opset, atol, rtol"
    ):
        convert.step("torch", "onnx", speed=9)
