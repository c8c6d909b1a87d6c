"""What a conversion must show before it is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from modelkeep.convert.proof import prove
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.errors import Differs
from modelkeep.types import Model


@pytest.fixture(scope="module")
def pair(adopted: Any, tmp_path_factory: Any) -> tuple[Model, Model]:
    source = adopted("MLP")
    return source, TorchToOnnx().run(source, tmp_path_factory.mktemp("made"))[0]


def test_a_faithful_model_is_reported_with_its_numbers(pair: tuple[Model, Model], digits: Any) -> None:
    report = prove(*pair, digits[1])
    assert (report.kind, report.ok) == ("compare", True)
    assert report.numbers["n"] == 597
    assert report.numbers["free"] == {"batch": None}
    assert "; free: batch; tried at batch 1, 2, 3, 7" in report.why


def test_seeded_rows_stand_in_for_real_ones(pair: tuple[Model, Model]) -> None:
    assert "seeded" in prove(*pair, None).data


def test_the_precision_picks_the_tolerance(pair: tuple[Model, Model], digits: Any, tmp_path: Path) -> None:
    off = spoiled(pair[1], tmp_path, 1.002)
    with pytest.raises(Differs, match="the onnx model does not answer as the torch one: output 'output' at"):
        prove(pair[0], off, digits[1])
    assert prove(pair[0], off, digits[1], precision="bfloat16").ok
    assert prove(pair[0], off, digits[1], atol=0.5).ok


def spoiled(model: Model, into: Path, factor: float) -> Model:
    """The same model with its last weights scaled."""
    graph = onnx.load(model.main)
    tensor = [t for t in graph.graph.initializer if len(t.dims) == 2][-1]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    onnx.save(graph, into / "model.onnx")
    return dataclasses.replace(model, path=into)
