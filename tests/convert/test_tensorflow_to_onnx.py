"""Keras and SavedModel → ONNX keeps answers, names and free dimensions; what cannot be is refused whole."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from modelkeep.convert.tensorflow_to_onnx import TensorflowToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput, Unsupported
from modelkeep.model import engines, folder, formats
from modelkeep.types import Bounds

KINDS = {
    "net.keras": {"x": (6,)},
    "net.h5": {"x": (6,)},
    "saved": {"x": (6,)},
    "cnn.keras": {"image": (16, 16, 3)},
    "lstm.keras": {"tokens": (9,)},
    "attention.keras": {"words": (5, 16)},
}
"""File → its inputs, and the shape of a row."""


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_network_keeps_its_answers(name: str, tensorflow_files: Path, tmp_path: Path) -> None:
    source = formats.adopt(tensorflow_files / name, tmp_path / "adopted")
    made, (report,) = TensorflowToOnnx().run(source, tmp_path / "made")
    assert report.ok
    assert "tf2onnx" in report.why
    assert report.numbers["opset"] == 18
    assert made.signature == source.signature
    assert made.signature.batched
    proto = onnx.load(made.main)
    assert [value.name for value in proto.graph.output] == [t.name for t in source.signature.outputs]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    rng = np.random.default_rng(0)
    with contextlib.closing(engines.load(source)) as a, contextlib.closing(engines.load(made)) as b:
        for count in (1, 4):
            drawn = {k: rng.uniform(0, 9, (count, *shape)) for k, shape in KINDS[name].items()}
            rows = {t.name: drawn[t.name].astype(t.dtype) for t in source.signature.inputs}
            want, found = a.run(rows), b.run(rows)
            for output, answer in want.items():
                np.testing.assert_allclose(found[output], answer, rtol=1e-4, atol=1e-4)


def test_a_size_that_is_free_begins_where_the_model_takes_it(tensorflow_files: Path, tmp_path: Path) -> None:
    """Pictures that are halved twice, and the exact GELU, which tf2onnx does not know by itself."""
    source = formats.adopt(tensorflow_files / "any_size.keras", tmp_path / "adopted")
    rows = Dataset({"image": np.random.default_rng(0).normal(size=(8, 12, 16, 3)).astype(np.float32)}, None, "pictures")
    made, (report,) = TensorflowToOnnx(rows=rows).run(source, tmp_path / "made")
    height, width = source.signature.inputs[0].axes[1:3]
    assert made.signature.bounds == {height: Bounds(4), width: Bounds(4)}
    assert folder.read(made.path).signature == made.signature
    assert f"; free: batch, {height} (4 or more), {width} (4 or more)" in report.why
    assert report.numbers["sizes"] == {height: [4, 8, 13, 24], width: [4, 10, 17, 32]}
    assert not report.numbers["skipped"]


def test_an_older_opset_on_demand_and_none_that_there_is_not(tensorflow_files: Path, tmp_path: Path) -> None:
    source = formats.adopt(tensorflow_files / "net.keras", tmp_path / "adopted")
    made, (report,) = TensorflowToOnnx(opset=15).run(source, tmp_path / "made")
    assert report.numbers["opset"] == 15
    assert onnx.load(made.main).opset_import[0].version == 15
    with pytest.raises(Unsupported, match="tf2onnx writes no opset above 18, and 21 was asked for"):
        TensorflowToOnnx(opset=21).run(source, tmp_path / "none")


def test_names_that_were_given(tensorflow_files: Path, tmp_path: Path) -> None:
    source = formats.adopt(tensorflow_files / "net.keras", tmp_path / "adopted")
    (output,) = (t.name for t in source.signature.outputs)
    made, (report,) = TensorflowToOnnx(rename={"x": "features", output: "scores"}).run(source, tmp_path / "made")
    assert report.ok
    assert [t.name for t in (*made.signature.inputs, *made.signature.outputs)] == ["features", "scores"]
    graph = onnx.load(made.main).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["features", "scores"]
    with pytest.raises(BadInput, match="no input or output is called 'y1', so it cannot be renamed"):
        TensorflowToOnnx(rename={"y1": "z"}).run(source, tmp_path / "none")


def test_what_has_no_counterpart_is_refused_in_one_sentence(tensorflow_files: Path, tmp_path: Path) -> None:
    source = formats.adopt(tensorflow_files / "reader", tmp_path / "adopted", trust=True)
    with pytest.raises(Unsupported, match="TensorFlow's ReadFile have no counterpart in ONNX") as error:
        TensorflowToOnnx().run(source, tmp_path / "made")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "made").iterdir()) == []
