"""ONNX → SavedModel keeps answers, names, layout and free dimensions; what differs or cannot be is refused whole."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelkeep import convert
from modelkeep.convert import onnx_to_tensorflow
from modelkeep.convert.onnx_to_tensorflow import OnnxToTensorflow
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.errors import Differs, Unsupported
from modelkeep.model import engines, folder, formats
from modelkeep.types import Model

pytestmark = pytest.mark.usefixtures("tensorflow_python")


@pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
def test_pytorch_becomes_a_saved_model_with_the_same_answers(
    name: str, adopted: Any, digits: Any, tmp_path: Path
) -> None:
    source: Model = adopted(name)
    model = source
    for at, step in enumerate(convert.steps("torch", "tensorflow")):
        model, reports = step.run(model, tmp_path / str(at))
        assert reports[0].ok
    assert model.format == "tensorflow"
    assert model.signature == source.signature
    assert any("variables" in file for file in model.files)
    with contextlib.closing(engines.load(source)) as a, contextlib.closing(engines.load(model)) as b:
        for count in (1, 3, 64):
            rows = digits[1].head(count).inputs
            np.testing.assert_allclose(b.run(rows)["output"], a.run(rows)["output"], rtol=1e-4, atol=1e-4)


def transformer(into: Path) -> Model:
    """A small BERT with free length, as ONNX."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )

    class Scores(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = transformers.BertModel(config)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids, attention_mask=attention_mask).last_hidden_state

    tokens = torch.randint(0, 50, (2, 7))
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
    program = torch.onnx.export(
        Scores().eval(),
        (tokens, torch.ones_like(tokens)),
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_shapes=(free, free),
        verbose=False,
    )
    program.save(into / "bert.onnx")
    return formats.adopt(into / "bert.onnx", into / "bert")


def test_a_small_bert_keeps_batch_and_sequence_free(tmp_path: Path) -> None:
    source = transformer(tmp_path)
    made, (report,) = OnnxToTensorflow().run(source, tmp_path / "made")
    assert made.signature == source.signature
    assert set(made.signature.free) == {"batch", "sequence"}
    assert report.numbers["max_abs"] < 1e-4
    assert report.numbers["exporter"] == "modelkeep"
    with contextlib.closing(engines.load(source)) as a, contextlib.closing(engines.load(made)) as b:
        for shape in ((1, 1), (3, 40)):
            tokens = np.random.default_rng(0).integers(0, 50, shape)
            rows = {"input_ids": tokens, "attention_mask": (np.arange(shape[1]) < 20).astype(np.int64) + 0 * tokens}
            np.testing.assert_allclose(b.run(rows)["hidden"], a.run(rows)["hidden"], rtol=1e-4, atol=1e-4)


def drawn(tmp_path: Path, name: str = "x", weights: np.ndarray | None = None, operator: str = "Conv") -> Model:
    """Channels first at the door: x [batch, 3, h, w]."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) if weights is None else weights
    graph = helper.make_graph(
        [helper.make_node(operator, [name, "w"] if operator == "Conv" else [name], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "net.onnx")
    return formats.adopt(tmp_path / "net.onnx", tmp_path / "adopted")


def test_an_image_stays_channels_first(tmp_path: Path) -> None:
    made, _ = OnnxToTensorflow().run(drawn(tmp_path), tmp_path / "made")
    assert made.signature.inputs[0].shape == (None, 3, None, None)
    with contextlib.closing(engines.load(made)) as runner:
        assert runner.run({"x": np.zeros((2, 3, 9, 5), np.float32)})["y"].shape == (2, 4, 7, 3)


def test_a_weight_changed_by_one_percent_is_caught_and_nothing_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = drawn(tmp_path)
    weights = numpy_helper.to_array(onnx.load(source.main).graph.initializer[0]).copy()
    weights[0] *= 1.01
    (tmp_path / "other").mkdir()
    changed = drawn(tmp_path / "other", weights=weights)
    real = onnx_to_tensorflow.write
    monkeypatch.setattr(onnx_to_tensorflow, "write", lambda model, into, target: real(changed, into, target))
    with pytest.raises(Differs, match="the tensorflow model does not answer as the onnx one: output 'y' at 1 row"):
        OnnxToTensorflow().run(source, tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("name", ["input.1", "class", "1x", "a b"])
def test_a_name_that_tensorflow_cannot_take_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        Unsupported, match=r"TensorFlow cannot call an input '.*': a name there is letters, digits"
    ) as no:
        OnnxToTensorflow().run(drawn(tmp_path, name), tmp_path / "made")
    assert str(no.value).endswith(f"; give it another with --rename {name}=NAME")


def test_another_name_is_the_mend(tmp_path: Path) -> None:
    source = drawn(tmp_path, "input.1")
    made, (report,) = OnnxToTensorflow(rename={"input.1": "image", "y": "maps"}).run(source, tmp_path / "made")
    assert report.ok
    assert [t.name for t in (*made.signature.inputs, *made.signature.outputs)] == ["image", "maps"]
    assert folder.read(made.path) == made
    image = np.random.default_rng(0).standard_normal((2, 3, 9, 5)).astype(np.float32)
    with contextlib.closing(engines.load(source)) as a, contextlib.closing(engines.load(made)) as b:
        np.testing.assert_allclose(
            b.run({"image": image})["maps"], a.run({"input.1": image})["y"], rtol=1e-4, atol=1e-4
        )


def test_an_operator_without_a_counterpart_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="the ONNX operator Det has no counterpart in TensorFlow here"):
        OnnxToTensorflow().run(drawn(tmp_path, operator="Det"), tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_weights_beside_the_onnx_file_are_read(adopted: Any, tmp_path: Path) -> None:
    made, _ = TorchToOnnx().run(adopted("MLP"), tmp_path / "onnx")
    proto = onnx.load(made.main)
    (tmp_path / "apart").mkdir()
    onnx.save(proto, tmp_path / "apart" / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    apart = formats.adopt(tmp_path / "apart" / "m.onnx", tmp_path / "adopted")
    assert len(apart.files) == 2
    again, (report,) = OnnxToTensorflow().run(apart, tmp_path / "made")
    assert report.ok
    assert folder.read(again.path) == again
