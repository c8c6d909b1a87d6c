"""ONNX → OpenVINO keeps answers, names, labels and free dimensions; what differs or cannot be is refused whole."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelkeep import convert
from modelkeep.convert.onnx_to_openvino import OnnxToOpenVino
from modelkeep.convert.proof import prove
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.errors import BadModel, Differs, Unsupported
from modelkeep.model import engines, folder, formats
from modelkeep.optimize.quantize import Quantize
from modelkeep.types import Model

pytest.importorskip("openvino")


def labelled(model: Model, into: Path) -> Model:
    made, _ = TorchToOnnx().run(model, into)
    return folder.write(replace(made, labels=tuple("0123456789")))


@pytest.fixture(scope="module", params=["MLP", "Conv", "Encoder"])
def source(request: pytest.FixtureRequest, adopted: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return labelled(adopted(request.param), tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def conv(adopted: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return labelled(adopted("Conv"), tmp_path_factory.mktemp("onnx"))


def drawn(tmp_path: Path, operator: str, kind: int, *shape: int) -> Model:
    """One node from x [batch, 4, 4] to y [batch, …]."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 4, 4])],
        [helper.make_tensor_value_info("y", kind, ["batch", *shape])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "m.onnx")
    return formats.adopt(tmp_path / "m.onnx", tmp_path / "source")


def test_the_answers_are_the_same_and_so_is_the_rest(source: Model, tmp_path: Path, digits: Any) -> None:
    made, (report,) = convert.step("onnx", "openvino").run(source, tmp_path / "into")
    assert report.ok is True
    assert report.numbers["precision"] == "float32"
    assert (made.format, made.files) == ("openvino", ("model.xml", "model.bin"))
    assert (made.signature, made.labels) == (source.signature, source.labels)
    assert folder.read(tmp_path / "into") == made
    pixels = digits[1].inputs["pixels"]
    with contextlib.closing(engines.load(made)) as new, contextlib.closing(engines.load(source)) as old:
        for count in (1, 2, 7, 100):
            want, got = (runner.run({"pixels": pixels[:count]})["output"] for runner in (old, new))
            np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


def test_weights_stay_whole_unless_halves_are_asked_for(conv: Model, tmp_path: Path) -> None:
    whole, _ = OnnxToOpenVino().run(conv, tmp_path / "whole")
    half, (report,) = OnnxToOpenVino(precision="float16").run(conv, tmp_path / "half")
    assert (half.path / "model.bin").stat().st_size < 0.6 * (whole.path / "model.bin").stat().st_size
    assert (report.numbers["precision"], report.numbers["atol"]) == ("float16", 5e-3)
    assert report.numbers["max_abs"] > 1e-6, "something was rounded"


@pytest.fixture(scope="module", params=[False, True], ids=["static", "dynamic"])
def int8(request: pytest.FixtureRequest, conv: Model, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    into = tmp_path_factory.mktemp("int8")
    return Quantize(dynamic=request.param, rows=digits[0]).run(conv, into)[0]


def test_a_quantized_model_is_held_to_the_rule_of_int8_and_the_report_says_so(
    int8: Model, tmp_path: Path, digits: Any
) -> None:
    made, (report,) = OnnxToOpenVino(rows=digits[1]).run(int8, tmp_path / "into")
    assert (report.ok, report.numbers["precision"], made.format) == (True, "int8", "openvino")
    assert report.numbers["top1_agreement"] >= 0.98
    assert report.numbers["cosine"] >= 0.997
    assert (
        "; the reference is quantized, so its outputs are held to a cosine of 0.997 and to the same best" in report.why
    )


def test_a_tolerance_that_was_given_holds_of_a_quantized_model_too(int8: Model, tmp_path: Path, digits: Any) -> None:
    with pytest.raises(Differs, match="output 'output'"):
        OnnxToOpenVino(rows=digits[1], atol=1e-9, rtol=0.0).run(int8, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("fault", ["two classes swapped", "one class silent", "softmax added"])
def test_the_wider_rule_of_int8_still_finds_faults(fault: str, int8: Model, tmp_path: Path, digits: Any) -> None:
    graph = onnx.load(int8.main)
    (last,) = [node for node in graph.graph.node if "output" in node.output]
    last.output[0] = "right"
    order = [1, 0, *range(2, 10)]
    shares = np.ones(10, np.float32) * (np.arange(10) != 3)
    graph.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in (("order", order), ("shares", shares))
    )
    node = {
        "two classes swapped": helper.make_node("Gather", ["right", "order"], ["output"], axis=1),
        "one class silent": helper.make_node("Mul", ["right", "shares"], ["output"]),
        "softmax added": helper.make_node("Softmax", ["right"], ["output"], axis=1),
    }[fault]
    graph.graph.node.append(node)
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(Differs, match=r"points elsewhere|another best class"):
        prove(int8, replace(int8, path=tmp_path), digits[1])


def test_halves_are_held_to_a_tolerance_that_was_given(conv: Model, tmp_path: Path) -> None:
    with pytest.raises(Differs, match="output 'output'"):
        OnnxToOpenVino(precision="float16", atol=1e-7, rtol=0.0).run(conv, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_text_is_refused(tmp_path: Path) -> None:
    source = drawn(tmp_path, "Identity", TensorProto.STRING, 4, 4)
    with pytest.raises(Unsupported, match="'x' is text, which OpenVINO does not run; keep the model as ONNX"):
        OnnxToOpenVino().run(source, tmp_path / "into")


def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path) -> None:
    source = drawn(tmp_path, "Det", TensorProto.FLOAT)
    with pytest.raises(BadModel, match=r"OpenVINO can read: .*No conversion rule found for operations: Det") as error:
        OnnxToOpenVino().run(source, tmp_path / "into")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "into").iterdir()) == []


def test_nothing_is_written_elsewhere(conv: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    made, _ = OnnxToOpenVino().run(conv, tmp_path / "into")
    engines.load(made).close()
    assert not list((tmp_path / "home").iterdir())
    assert not list((tmp_path / "here").iterdir())
