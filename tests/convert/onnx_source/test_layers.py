"""Nodes with weights become the modules of torch.nn that they were, and shared ones do not; all answer alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modelkeep.convert.onnx_source import graph, operators, write
from modelkeep.convert.onnx_to_torch import tensor
from modelkeep.errors import Unsupported

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def both(
    tmp_path: Path, nodes: list[Any], feeds: dict[str, np.ndarray], weights: dict[str, np.ndarray], gives: str = "y"
) -> nn.Module:
    """The module of a graph, once it has answered as ONNX Runtime does."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    taken = [helper.make_tensor_value_info(n, k, ["rows", *[None] * (feeds[n].ndim - 1)]) for n, k in kinds.items()]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in gives.split()]
    kept = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    drawing = helper.make_graph(nodes, "g", taken, given, kept)
    model = helper.make_model(drawing, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "m.onnx")
    source = write.write(graph.read(tmp_path / "m.onnx", operators.KNOWN))
    names: dict[str, Any] = {}
    exec(compile(source.text, "network.py", "exec"), names)
    network: nn.Module = names["Network"]()
    network.load_state_dict({name: tensor(value) for name, value in source.state.items()})
    want = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"]).run(None, feeds)
    with torch.no_grad():
        found = network.eval()(*map(tensor, feeds.values()))
    for got, expected in zip([found] if isinstance(found, torch.Tensor) else found.values(), want, strict=True):
        np.testing.assert_allclose(got.numpy(), expected, atol=2e-5, rtol=1e-4)
    return network


def node(operator: str, *inputs: str, gives: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), gives.split(" "), **attributes)


def layers(network: nn.Module) -> list[str]:
    return [str(layer) for layer in network.children()]


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 1, 0]])
def test_a_convolution(tmp_path: Path, pads: list[int]) -> None:
    weights = {"conv1.weight": random(8, 2, 3, 3), "conv1.bias": random(8)}
    one = node("Conv", "x", *weights, group=2, strides=[2, 1], pads=pads)
    network = both(tmp_path, [one], {"x": random(2, 4, 9, 8)}, weights)
    assert isinstance(network.conv1, nn.Conv2d)
    assert (network.conv1.in_channels, network.conv1.groups, network.conv1.stride) == (4, 2, (2, 1))


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_a_convolution_that_pads_by_itself(tmp_path: Path, auto: str) -> None:
    one = node("Conv", "x", "w", auto_pad=auto, strides=[2], kernel_shape=[4])
    assert isinstance(both(tmp_path, [one], {"x": random(2, 3, 11)}, {"w": random(5, 3, 4)}).w, nn.Conv1d)


def test_a_transposed_convolution(tmp_path: Path) -> None:
    weights = {"up.weight": random(4, 3, 3, 3), "up.bias": random(6)}
    one = node("ConvTranspose", "x", *weights, group=2, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    assert isinstance(both(tmp_path, [one], {"x": random(2, 4, 5, 6)}, weights).up, nn.ConvTranspose2d)


def test_a_linear_layer_in_each_of_its_forms(tmp_path: Path) -> None:
    weights = {"a.weight": random(6, 4), "a.bias": random(6), "b": random(6, 5), "b_bias": random(5)}
    weights |= {"c": random(5, 3)}
    nodes = [
        node("Gemm", "x", "a.weight", "a.bias", gives="h", transB=1),
        node("MatMul", "h", "b", gives="m"),
        node("Add", "b_bias", "m", gives="n"),
        node("MatMul", "n", "c"),
    ]
    network = both(tmp_path, nodes, {"x": random(3, 4)}, weights)
    assert layers(network) == [
        "Linear(in_features=4, out_features=6, bias=True)",
        "Linear(in_features=6, out_features=5, bias=True)",
        "Linear(in_features=5, out_features=3, bias=False)",
    ]


def test_batch_norm_keeps_statistics_and_trains(tmp_path: Path) -> None:
    weights = {"bn.weight": random(4), "bn.bias": random(4), "mean": random(4), "var": random(4) ** 2 + 0.5}
    one = node("BatchNormalization", "x", *weights, epsilon=1e-3, momentum=0.8)
    network = both(tmp_path, [one], {"x": random(3, 4, 5, 5)}, weights)
    assert isinstance(network.bn, nn.BatchNorm2d)
    assert (network.bn.eps, network.bn.momentum) == (1e-3, 0.2)
    before, x = network.bn.running_mean.clone(), tensor(random(8, 4, 5, 5) + 3)
    network.train()(x)
    moved = 0.8 * before + 0.2 * x.mean((0, 2, 3))
    torch.testing.assert_close(network.bn.running_mean, moved)
    assert float(network(x).mean((0, 2, 3)).sub(network.bn.bias).abs().max().detach()) < 1e-5, (
        "by the batch's own statistics"
    )


def test_norms_embeddings_and_what_is_dropped(tmp_path: Path) -> None:
    weights = {"words.weight": random(9, 4), "ln.weight": random(4), "ln.bias": random(4)}
    nodes = [
        node("Gather", "words.weight", "ids", gives="e"),
        node("LayerNormalization", "e", "ln.weight", "ln.bias", gives="l", epsilon=1e-6),
        node("Dropout", "l", "ratio"),
    ]
    ids = RNG.integers(0, 9, (3, 5))
    network = both(tmp_path, nodes, {"ids": ids}, {**weights, "ratio": np.float32(0.25).reshape(())})
    assert layers(network) == [
        "Embedding(9, 4)",
        "LayerNorm((4,), eps=1e-06, elementwise_affine=True, bias=True)",
        "Dropout(p=0.25, inplace=False)",
    ]
    assert not torch.equal(network.train()(tensor(ids)), network(tensor(ids)))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("starts", [False, True])
def test_recurrent_layers(tmp_path: Path, kind: str, direction: str, starts: bool) -> None:
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if direction == "bidirectional" else 1
    weights = {"w": random(ways, gates * 5, 3), "r": random(ways, gates * 5, 5), "b": random(ways, gates * 10)}
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    names = [*weights, *(["", "h", *(["c"] if kind == "LSTM" else [])] if starts else [])]
    given = {name: random(ways, 2, 5) for name in names if name in ("h", "c")}
    gives = "y last cell" if kind == "LSTM" else "y last"
    one = node(kind, "x", *names, gives=gives, hidden_size=5, direction=direction, **extra)
    network = both(tmp_path, [one], {"x": random(7, 2, 3)}, {**weights, **given}, gives)
    assert isinstance(next(network.children()), getattr(nn, kind))


def test_a_recurrent_layer_that_pytorch_has_not_is_refused(tmp_path: Path) -> None:
    weights = {"w": random(1, 15, 3), "r": random(1, 15, 5)}
    one = node("GRU", "x", *weights, gives="y", hidden_size=5)
    with pytest.raises(Unsupported, match="GRU 'y' has linear_before_reset=0, which PyTorch's GRU has not"):
        both(tmp_path, [one], {"x": random(7, 2, 3)}, weights)


def test_a_matrix_that_two_use_stays_one_parameter(tmp_path: Path) -> None:
    """A language model's words, which are looked up first and compared with last."""
    nodes = [
        node("Gather", "wte", "ids", gives="e"),
        node("Transpose", "wte", gives="t", perm=[1, 0]),
        node("MatMul", "e", "t"),
    ]
    network = both(tmp_path, nodes, {"ids": RNG.integers(0, 9, (3, 5))}, {"wte": random(9, 4)})
    assert [name for name, _ in network.named_parameters()] == ["wte"]
    network(torch.tensor([[1, 2]])).sum().backward()
    assert network.wte.grad is not None


def test_vectors_that_were_joined_because_they_were_equal_are_parted(tmp_path: Path) -> None:
    weights = {"w": random(4, 4), "v": random(4, 4), "zeros": np.zeros(4, np.float32)}
    nodes = [node("Gemm", "x", "w", "zeros", gives="h"), node("Gemm", "h", "v", "zeros")]
    network = both(tmp_path, nodes, {"x": random(3, 4)}, weights)
    assert len(list(network.parameters())) == 4


def test_an_exported_training_graph_is_refused(tmp_path: Path) -> None:
    weights = {"s": random(4), "b": random(4), "m": random(4), "v": random(4) ** 2}
    one = node("BatchNormalization", "x", *weights, gives="y m2 v2", training_mode=1)
    with pytest.raises(Unsupported, match="was exported while it was training; export the model in eval mode"):
        both(tmp_path, [one], {"x": random(3, 4, 5)}, weights)
