"""Faults planted in a converted model: each is caught, by the output and where it can be told by the layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from modelkeep.convert.proof import prove
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Differs
from modelkeep.model import formats
from modelkeep.types import Model

CODE = '''
import torch
from torch import nn


class Net(nn.Module):
    """Ids of any size are hashed, as advertising does; two heads of the same shape."""

    def __init__(self):
        super().__init__()
        self.words, self.hidden = nn.Embedding(1000, 8), nn.Linear(12, 16)
        self.first, self.second = nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, ids, image):
        words = self.words((ids * 31 + 7) % 1000).mean(1)
        found = self.hidden(torch.cat([words, image], 1)).relu()
        return {"kind": self.first(found).softmax(1), "mood": self.second(found).softmax(1)}
'''
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model, Dataset]:
    """The source, the faithful conversion and real rows, some ids of which need more than 32 bits."""
    room = tmp_path_factory.mktemp("net")
    (room / "hashed_net.py").write_text(CODE, encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.manual_seed(0)
    net = namespace["Net"]()
    for layer in (net.words, net.first, net.second):
        torch.nn.init.normal_(layer.weight)
    torch.save(net.state_dict(), room / "w.pt")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1000, (60, 4))
    ids[50:] += 2**40
    rows = Dataset({"ids": ids, "image": rng.standard_normal((60, 4)).astype(np.float32)}, None, "made rows")
    source = formats.adopt(room / "w.pt", room / "model", factory="hashed_net:Net", data=rows)
    made, (report,) = TorchToOnnx().run(source, room / "onnx")
    assert report.ok
    return source, made, rows


def caught(pair: tuple[Model, Model, Dataset], change: Change, into: Path, rows: Any = "its own") -> str:
    """What the proof says of the conversion with that change."""
    source, made, own = pair
    graph = onnx.load(made.main)
    change(graph)
    onnx.save(graph, into / "model.onnx")
    with pytest.raises(Differs) as error:
        prove(source, dataclasses.replace(made, path=into), own if rows == "its own" else rows)
    assert "\n" not in str(error.value)
    return str(error.value)


def weights(graph: onnx.ModelProto, *shape: int) -> list[Any]:
    return [t for t in graph.graph.initializer if tuple(t.dims) in (shape, shape[::-1])]


def scaled(tensor: Any, factor: float) -> None:
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))


def test_nothing_is_caught_where_there_is_no_fault(pair: tuple[Model, Model, Dataset], tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        caught(pair, lambda graph: None, tmp_path)


def test_a_weight_changed_by_one_percent_names_its_layer(pair: Any, tmp_path: Path) -> None:
    said = caught(pair, lambda graph: scaled(weights(graph, 12, 16)[0], 1.01), tmp_path)
    assert "the onnx model does not answer as the torch one: output 'kind' at 1 row differs in" in said
    assert "the first layer that differs is 'hidden' (Linear), by up to" in said
    assert "'words' before it agrees" in said


def test_two_outputs_swapped(pair: Any, tmp_path: Path) -> None:
    def swap(graph: onnx.ModelProto) -> None:
        names = {"kind": "mood", "mood": "kind"}
        for node in graph.graph.node:
            node.output[:] = [names.get(name, name) for name in node.output]

    said = caught(pair, swap, tmp_path)
    assert "output 'kind' at 1 row differs" in said
    assert "all layers that could be compared agree, so what differs comes after 'second'" in said


def test_a_batch_baked_in(pair: Any, tmp_path: Path) -> None:
    def bake(graph: onnx.ModelProto) -> None:
        node = next(node for node in graph.graph.node if "kind" in node.output)
        node.output[:] = ["any_batch" if name == "kind" else name for name in node.output]
        graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 5]), "two"))
        graph.graph.node.append(helper.make_node("Reshape", ["any_batch", "two"], ["kind"]))

    assert "at 1 row the new model fails" in caught(pair, bake, tmp_path)


def test_a_softmax_lost(pair: Any, tmp_path: Path) -> None:
    def lose(graph: onnx.ModelProto) -> None:
        node = next(node for node in graph.graph.node if "mood" in node.output)
        assert node.op_type == "Softmax"
        node.CopyFrom(helper.make_node("Identity", node.input, node.output))

    said = caught(pair, lose, tmp_path)
    assert "output 'mood'" in said
    assert "what differs comes after 'second'" in said


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT16, TensorProto.INT8])
def test_ids_truncated(pair: Any, tmp_path: Path, kind: int) -> None:
    assert "output 'kind' at" in caught(pair, lambda graph: truncate(graph, kind), tmp_path)


@pytest.mark.parametrize("kind", [TensorProto.INT16, TensorProto.INT8])
def test_ids_truncated_without_rows_that_show_it(pair: Any, tmp_path: Path, kind: int) -> None:
    assert "output 'kind' at rows of ids" in caught(pair, lambda graph: truncate(graph, kind), tmp_path, rows=None)


def truncate(graph: onnx.ModelProto, kind: int) -> None:
    for node in graph.graph.node:
        node.input[:] = ["long" if name == "ids" else name for name in node.input]
    casts = [helper.make_node("Cast", ["ids"], ["short"], to=kind), helper.make_node("Cast", ["short"], ["long"], to=7)]
    rest = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*casts, *rest])


def test_a_nan(pair: Any, tmp_path: Path) -> None:
    def spoil(graph: onnx.ModelProto) -> None:
        tensor = weights(graph, 16, 5)[0]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[3] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    assert "of the new model is NaN in" in caught(pair, spoil, tmp_path)


def test_a_constant_model(pair: Any, tmp_path: Path) -> None:
    def still(graph: onnx.ModelProto) -> None:
        for tensor in weights(graph, 16, 5):
            scaled(tensor, 0.0)

    assert "output 'kind' at 1 row differs" in caught(pair, still, tmp_path)


def test_two_constant_models_do_not_pass_either(pair: Any, tmp_path: Path) -> None:
    """Both are right on 0 % of the rows, and agree."""
    made, rows = pair[1], pair[2]
    graph = onnx.load(made.main)
    for tensor in weights(graph, 16, 5):
        scaled(tensor, 0.0)
    onnx.save(graph, tmp_path / "model.onnx")
    dead = dataclasses.replace(made, path=tmp_path)
    with pytest.raises(Differs, match="the reference gives the same answer to all of the rows"):
        prove(dead, dead, rows)


def test_a_layer_that_cannot_be_matched_does_not_hide_the_difference(pair: Any, tmp_path: Path) -> None:
    def forget(graph: onnx.ModelProto) -> None:
        scaled(weights(graph, 12, 16)[0], 1.01)
        for node in graph.graph.node:
            del node.metadata_props[:]
            node.name = ""

    assert "no layer could be matched with a node of the graph" in caught(pair, forget, tmp_path)
