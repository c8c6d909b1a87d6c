"""Which layer differs first: each layer in turn is made wrong, and none is blamed for another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from modelkeep.convert import torch_to_onnx
from modelkeep.convert.exporters import EXPORTERS
from modelkeep.convert.first_difference import torch_onnx
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.model import formats
from modelkeep.model.tally import Tolerance
from modelkeep.types import Model

CODE = """
from torch import nn


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 7), nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.three(self.two(self.one(x).tanh()).tanh())
"""
RULE = Tolerance(atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model, dict[str, Any]]:
    room = tmp_path_factory.mktemp("chain")
    (room / "chain.py").write_text(CODE, encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.manual_seed(0)
    torch.save(namespace["Chain"]().state_dict(), room / "w.pt")
    inputs = {"x": np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)}
    source = formats.adopt(room / "w.pt", room / "model", factory="chain:Chain", data=Dataset(inputs, None, "rows"))
    made, _ = TorchToOnnx().run(source, room / "onnx")
    return source, made, inputs


def wrong(made: Model, into: Path, shape: tuple[int, ...]) -> Model:
    """The conversion with the weight of that shape made a tenth larger."""
    graph = onnx.load(made.main)
    for tensor in graph.graph.initializer:
        if tuple(tensor.dims) in (shape, shape[::-1]):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
            break
    else:
        raise AssertionError(f"no weight of shape {shape}: {[list(t.dims) for t in graph.graph.initializer]}")
    onnx.save(graph, into / made.files[0])
    return dataclasses.replace(made, path=into)


@pytest.mark.parametrize(
    ("layer", "shape", "before"), [("one", (7, 6), ""), ("two", (8, 7), "one"), ("three", (3, 8), "two")]
)
def test_the_layer_that_was_made_wrong_is_named(
    pair: tuple[Model, Model, dict[str, Any]], tmp_path: Path, layer: str, shape: tuple[int, ...], before: str
) -> None:
    source, made, inputs = pair
    told = torch_onnx(source, wrong(made, tmp_path, shape), inputs, inputs, RULE)
    assert f"the first layer that differs is '{layer}' (Linear)" in told
    assert (f"'{before}' before it agrees" in told) == bool(before)


def test_where_all_layers_agree_it_says_so(pair: tuple[Model, Model, dict[str, Any]]) -> None:
    source, made, inputs = pair
    assert "all layers that could be compared agree" in torch_onnx(source, made, inputs, inputs, RULE)


def test_a_graph_without_a_trace_of_its_layers_names_none(
    pair: tuple[Model, Model, dict[str, Any]], tmp_path: Path
) -> None:
    source, made, inputs = pair
    graph = onnx.load(made.main)
    for number, node in enumerate(graph.graph.node):
        del node.metadata_props[:]
        node.name = f"n{number}"
    onnx.save(graph, tmp_path / made.files[0])
    told = torch_onnx(source, dataclasses.replace(made, path=tmp_path), inputs, inputs, RULE)
    assert "no layer could be matched" in told


def test_only_a_few_rows_are_run(pair: tuple[Model, Model, dict[str, Any]], tmp_path: Path) -> None:
    source, made, _ = pair
    many = {"x": np.random.default_rng(1).standard_normal((5000, 6)).astype(np.float32)}
    assert "'two'" in torch_onnx(source, wrong(made, tmp_path, (8, 7)), many, many, RULE)


FOLDS = """
from torch import nn


class Folds(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
"""


def test_a_batch_norm_folded_into_a_convolution_is_not_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folds.py").write_text(FOLDS, encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(FOLDS, namespace)
    torch.manual_seed(0)
    net = namespace["Folds"]()
    torch.nn.init.normal_(net.norm.weight)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    inputs = {"x": np.random.default_rng(0).standard_normal((5, 2, 6, 6)).astype(np.float32)}
    source = formats.adopt(
        tmp_path / "w.pt", tmp_path / "model", factory="folds:Folds", data=Dataset(inputs, None, "rows")
    )
    monkeypatch.setattr(torch_to_onnx, "EXPORTERS", {"torchscript": EXPORTERS["torchscript"]})
    made, _ = TorchToOnnx().run(source, tmp_path / "onnx")
    (tmp_path / "wrong").mkdir()
    told = torch_onnx(source, wrong(made, tmp_path / "wrong", (3, 4)), inputs, inputs, RULE)
    assert "the first layer that differs is 'head' (Linear)" in told
