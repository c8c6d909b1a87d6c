"""ONNX → PyTorch: the same answers, and a version that learns: trained, grown, converted back."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from modelkeep import convert
from modelkeep.convert.onnx_to_torch import OnnxToTorch
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Differs, Unsupported
from modelkeep.model import engines, folder, formats, score
from modelkeep.model.formats import torch as torch_format
from modelkeep.optimize.distill import Distill
from modelkeep.types import Model
from modelkeep.update.finetune import Finetune
from modelkeep.update.transfer import Transfer

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=["MLP", "Conv", "Encoder"])
def source(request: pytest.FixtureRequest, adopted: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    made, _ = TorchToOnnx().run(adopted(request.param), tmp_path_factory.mktemp("onnx"))
    return folder.write(replace(made, labels=NAMES))


@pytest.fixture(scope="module")
def made(source: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return OnnxToTorch().run(source, tmp_path_factory.mktemp("torch"))[0]


def turned(rows: Dataset) -> Dataset:
    images = np.rot90(rows.inputs["pixels"].reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
    return Dataset({"pixels": np.ascontiguousarray(images)}, rows.labels, "turned digits")


def test_the_answers_and_all_that_belongs_to_them_are_the_same(source: Model, tmp_path: Path, digits: Any) -> None:
    made, (report,) = convert.step("onnx", "torch").run(source, tmp_path / "into")
    assert report.ok is True
    assert report.numbers["max_abs"] < 1e-4
    assert report.why.endswith(f"; {report.numbers['parameters']:,} parameters can be trained")
    assert (made.format, made.labels, made.signature) == ("torch", source.labels, source.signature)
    assert made.files == ("weights.safetensors", "code/network.py")
    assert folder.read(tmp_path / "into") == made
    pixels = digits[1].inputs["pixels"]
    with contextlib.closing(engines.load(made)) as new, contextlib.closing(engines.load(source)) as old:
        for count in (1, 2, 7, 100):
            want, got = (runner.run({"pixels": pixels[:count]})["output"] for runner in (old, new))
            np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


def test_it_has_the_layers_that_it_came_from(made: Model) -> None:
    kinds = {type(layer).__name__ for layer in torch_format.module(made).modules()}
    assert "Linear" in kinds
    if "Conv" in (made.path / "code" / "network.py").read_text():
        assert "Conv2d" in kinds


def test_a_step_of_gradient_descent_changes_the_answers_and_the_loss_falls(made: Model, digits: Any) -> None:
    module = torch_format.module(made).train()
    pixels, labels = (torch.from_numpy(array[:64]) for array in (digits[1].inputs["pixels"], digits[1].labels))
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(pixels), labels)
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)


def test_it_learns_and_becomes_onnx_again(made: Model, tmp_path: Path, digits: Any) -> None:
    tuned, reports = Finetune(epochs=25, lr=3e-3, max_forgetting=1.0, rows=turned(digits[0])).run(
        made, tmp_path / "tuned"
    )
    assert [r.kind for r in reports][:2] == ["training", "new rows"] or reports
    back, (report,) = TorchToOnnx().run(tuned, tmp_path / "onnx")
    assert report.ok
    with contextlib.closing(engines.load(made)) as old, contextlib.closing(engines.load(back)) as new:
        before, after = (score.score(r, turned(digits[1])).numbers["accuracy"] for r in (old, new))
    assert after > before + 0.2


def test_a_model_that_ends_in_softmax_learns_too(adopted: Any, tmp_path: Path, digits: Any) -> None:
    """As Keras writes its classifiers."""
    source, _ = TorchToOnnx().run(adopted("MLP"), tmp_path / "onnx")
    drawn = onnx.load(source.main)
    last = next(node for node in drawn.graph.node if "output" in node.output)
    last.output[:] = ["logits"]
    drawn.graph.node.append(helper.make_node("Softmax", ["logits"], ["output"]))
    onnx.save(drawn, source.main)
    made, _ = OnnxToTorch(rows=digits[0].head(50)).run(source, tmp_path / "torch")
    tuned, _ = Finetune(epochs=25, lr=3e-3, max_forgetting=1.0, rows=turned(digits[0])).run(made, tmp_path / "tuned")
    with contextlib.closing(engines.load(made)) as old, contextlib.closing(engines.load(tuned)) as new:
        before, after = (score.score(r, turned(digits[1])).numbers["accuracy"] for r in (old, new))
    assert after > before + 0.2


def test_new_classes_are_grown_on_it(trained: Any, digits: Any, nets: Path, tmp_path: Path) -> None:
    state = {k: v[:8].clone() if k.startswith("head") else v for k, v in trained("MLP").state_dict().items()}
    torch.save(state, tmp_path / "eight.pt")
    known = digits[0].take(digits[0].labels < 8)
    given = {"factory": "nets:MLP", "factory_args": {"classes": 8}, "labels": NAMES[:8], "data": known}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(nets)
        eight = formats.adopt(tmp_path / "eight.pt", tmp_path / "eight", **given)
    onnx_model, _ = TorchToOnnx().run(eight, tmp_path / "onnx")
    made, _ = OnnxToTorch().run(onnx_model, tmp_path / "torch")
    grown, _ = Transfer(NAMES, epochs=20, rows=digits[0].head(300)).run(made, tmp_path / "grown")
    assert grown.labels == NAMES
    assert grown.signature.outputs[0].shape == (None, 10)
    with contextlib.closing(engines.load(grown)) as runner:
        assert score.score(runner, digits[1], NAMES).numbers["accuracy"] > 0.8


def test_it_teaches_a_student(made: Model, nets: Path, tmp_path: Path, digits: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(nets)
        step = Distill("nets:MLP", {"hidden": 8}, epochs=4, copies=1, rows=digits[0].head(300))
        student, _ = step.run(made, tmp_path / "student")
    assert student.format == "torch"


def drawn(tmp_path: Path, *nodes: Any, opset: int = 18, domain: str = "", **weights: np.ndarray) -> Model:
    """x [batch, 4] through the nodes to y."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    imported = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=imported)
    model.ir_version = 9
    onnx.save(model, tmp_path / "m.onnx")
    return formats.adopt(tmp_path / "m.onnx", tmp_path / "source")


def test_an_operator_that_cannot_be_written_is_named_with_its_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gelu", ["x"], ["g"], "fused gelu", domain="com.microsoft"),
        helper.make_node("Identity", ["g"], ["y"]),
    ]
    source = drawn(tmp_path, *nodes, domain="com.microsoft")
    with pytest.raises(
        Unsupported, match=r"uses com\.microsoft\.Gelu \(node 'fused gelu'\).*without optimizations"
    ) as e:
        OnnxToTorch().run(source, tmp_path / "into")
    assert "\n" not in str(e.value)
    assert list((tmp_path / "into").iterdir()) == []


def test_another_format_and_text_are_refused(source: Model, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="this turns ONNX into PyTorch, and the model is 'torch'"):
        OnnxToTorch().run(replace(source, format="torch"), tmp_path / "into")
    text = replace(source.signature.inputs[0], dtype="str")
    with pytest.raises(Unsupported, match="'pixels' is text, which PyTorch has no tensors of; keep the model as ONNX"):
        OnnxToTorch().run(replace(source, signature=replace(source.signature, inputs=(text,))), tmp_path / "into")


def test_a_function_that_is_written_wrongly_is_not_kept(
    source: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelkeep.convert.onnx_source import operators

    monkeypatch.setitem(operators.TENSORS, "Relu", "torch.abs({0})")
    monkeypatch.setitem(operators.TENSORS, "Softmax", "torch.sigmoid({0})")
    with pytest.raises((Differs, Unsupported)):
        OnnxToTorch().run(source, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []
