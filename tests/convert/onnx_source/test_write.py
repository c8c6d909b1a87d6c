"""The source that is written: it stands alone, keeps sizes free, and a hostile file writes no code in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modelkeep.convert.onnx_source import graph, operators, write
from modelkeep.convert.onnx_source.write import Source
from modelkeep.convert.onnx_to_torch import tensor
from modelkeep.errors import Unsupported

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def node(operator: str, *inputs: str, gives: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), gives.split(" "), **attributes)


def written(tmp_path: Path, nodes: list[Any], takes: str = "x", gives: str = "y", **weights: np.ndarray) -> Source:
    """The source of a graph that takes floats [rows, length, 4]."""
    drawn = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "length", 4]) for name in takes.split("|")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in gives.split(" ")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "m.onnx")
    return write.write(graph.read(tmp_path / "m.onnx", operators.KNOWN))


def built(source: Source) -> nn.Module:
    names: dict[str, Any] = {}
    exec(compile(source.text, "network.py", "exec"), names)
    network: nn.Module = names["Network"]()
    network.load_state_dict({name: tensor(value) for name, value in source.state.items()})
    return network.eval()


HEADS = [
    node("Shape", "x", gives="s"),
    node("Gather", "s", "zero", gives="rows"),
    node("Gather", "s", "one", gives="length"),
    node("Unsqueeze", "rows", "first", gives="r"),
    node("Unsqueeze", "length", "first", gives="l"),
    node("Concat", "r", "l", "heads", gives="wanted", axis=0),
    node("Reshape", "x", "wanted", gives="parts"),
    node("Transpose", "parts", gives="y", perm=[0, 2, 1, 3]),
]
SIZES = {
    "zero": np.array(0),
    "one": np.array(1),
    "first": np.array([0]),
    "heads": np.array([2, 2]),
}


def test_sizes_are_integers_and_stay_free(tmp_path: Path) -> None:
    source = written(tmp_path, HEADS, **SIZES)
    assert source.state == {}, "no constant of a size is kept as a tensor"
    assert "torch.tensor" not in source.text
    network = built(source)
    for rows, length in ((1, 1), (2, 7), (5, 3)):
        assert network(torch.zeros(rows, length, 4)).shape == (rows, 2, length, 2)


def test_it_can_be_exported_with_free_sizes(tmp_path: Path) -> None:
    dims = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("length", min=1)}
    program = torch.export.export(
        built(written(tmp_path, HEADS, **SIZES)), (torch.zeros(2, 5, 4),), dynamic_shapes=(dims,)
    )
    assert program.module()(torch.zeros(3, 9, 4)).shape == (3, 2, 9, 2)


def test_it_stands_alone(tmp_path: Path) -> None:
    """Only torch is there when it runs, in a process that cannot find modelkeep."""
    (tmp_path / "network.py").write_text(written(tmp_path, HEADS, **SIZES).text)
    code = (
        "import sys, torch, network; print(tuple(network.Network()(torch.zeros(2, 3, 4)).shape)); "
        "assert not [name for name in sys.modules if name.startswith(('modelkeep', 'onnx'))]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("(2, 2, 3, 2)", 0), done.stderr


def test_several_answers_come_under_their_names(tmp_path: Path) -> None:
    nodes = [node("Relu", "x.0", gives="out/1"), node("Add", "x.0", "class", gives="return")]
    source = written(tmp_path, nodes, "x.0|class", "out/1 return")
    found = built(source)(torch.ones(1, 1, 4), torch.ones(1, 1, 4))
    assert list(found) == ["out/1", "return"]
    assert float(found["return"].sum()) == 8


@pytest.mark.parametrize(
    "name", ['x"); import os; os.abort(); ("', "__import__('os').abort()", "x\nimport os", "del", "self"]
)
def test_a_hostile_name_writes_no_code(tmp_path: Path, name: str) -> None:
    nodes = [node("Relu", name, gives="h"), node("Mul", "h", name + "w", gives="m"), node("MatMul", "m", name + "k")]
    source = written(tmp_path, nodes, name, **{name + "w": random(4), name + "k": random(4, 3)})
    tree = ast.parse(source.text)
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {alias.name for one in imported for alias in one.names} <= {
        "annotations",
        "math",
        "Any",
        "torch",
        "Tensor",
        "nn",
        "torch.nn.functional",
    }
    calls = {ast.unparse(call.func).partition(".")[0] for call in ast.walk(tree) if isinstance(call, ast.Call)}
    assert not calls & {"__import__", "os", "eval", "exec"}
    assert built(source)(torch.ones(2, 1, 4)).shape == (2, 1, 3)


def test_text_in_an_attribute_is_no_code(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="Relu 'y' has evil,"):
        written(tmp_path, [node("Relu", "x", evil="'); import os; ('")])


def test_an_attribute_that_says_the_usual_is_no_hindrance(tmp_path: Path) -> None:
    weights = {"roi": np.array([], np.float32), "scales": np.array([1, 1, 2], np.float32)}
    usual = {"keep_aspect_ratio_policy": "stretch", "antialias": 0, "extrapolation_value": 0.0, "exclude_outside": 0}
    one = node(
        "Resize", "x", "roi", "scales", coordinate_transformation_mode="asymmetric", nearest_mode="floor", **usual
    )
    assert built(written(tmp_path, [one], **weights))(torch.ones(2, 3, 4)).shape == (2, 3, 8)
    with pytest.raises(Unsupported, match="Resize 'y' has antialias=1"):
        written(tmp_path, [node("Resize", "x", "roi", "scales", mode="linear", antialias=1)], **weights)


def test_values_are_let_go_after_their_last_use(tmp_path: Path) -> None:
    nodes = [
        node("Relu", "x", gives="a"),
        node("Identity", "a", gives="b"),
        node("Sigmoid", "a", gives="c"),
        node("Add", "b", "c"),
    ]
    source = written(tmp_path, nodes)
    lines = [line.strip() for line in source.text.splitlines()]
    assert lines.index("del relu_1" if "del relu_1" in lines else "del relu, sigmoid") > 0
    assert built(source)(torch.ones(1, 1, 4)).shape == (1, 1, 4)


class TestWhatIsLearned:
    def parameters(self, tmp_path: Path, nodes: list[Any], **weights: np.ndarray) -> set[str]:
        return {name for name, _ in built(written(tmp_path, nodes, **weights)).named_parameters()}

    def test_scales_and_shifts_of_activations(self, tmp_path: Path) -> None:
        nodes = [node("Mul", "x", "gamma", gives="h"), node("Add", "h", "beta")]
        assert self.parameters(tmp_path, nodes, gamma=random(4), beta=random(4)) == {"gamma", "beta"}

    def test_vectors_that_an_exporter_joined_are_parted(self, tmp_path: Path) -> None:
        nodes = [node("Mul", "x", "ones", gives="h"), node("Relu", "h", gives="r"), node("Mul", "r", "ones")]
        assert self.parameters(tmp_path, nodes, ones=np.ones((1, 4), np.float32)) == {"ones", "ones_1"}

    def test_no_number_and_no_divisor(self, tmp_path: Path) -> None:
        nodes = [node("Mul", "x", "half", gives="h"), node("Sub", "h", "mean", gives="m"), node("Div", "m", "std")]
        weights = {"half": np.float32(0.5).reshape(()), "mean": random(4), "std": random(4)}
        assert self.parameters(tmp_path, nodes, **weights) == set()

    def test_no_mask(self, tmp_path: Path) -> None:
        mask = np.where(np.eye(4, dtype=bool), 0.0, -100.0).astype(np.float32)
        assert self.parameters(tmp_path, [node("Add", "x", "mask")], mask=mask[0]) == set()

    def test_no_frequencies_of_positions(self, tmp_path: Path) -> None:
        nodes = [
            node("Shape", "x", gives="s", start=1, end=2),
            node("Squeeze", "s", gives="n"),
            node("Range", "zero", "n", "one", gives="at"),
            node("Cast", "at", gives="f", to=TensorProto.FLOAT),
            node("Unsqueeze", "f", "last", gives="u"),
            node("Mul", "u", "frequencies", gives="angles"),
            node("Sin", "angles", gives="sines"),
            node("Add", "x", "sines"),
        ]
        weights = {"zero": np.array(0), "one": np.array(1), "last": np.array([1]), "frequencies": random(4)}
        assert self.parameters(tmp_path, nodes, **weights) == set()

    def test_a_token_that_is_put_before_the_others(self, tmp_path: Path) -> None:
        nodes = [
            node("Shape", "x", gives="s", end=1),
            node("Concat", "s", "rest", gives="wide", axis=0),
            node("Expand", "cls", "wide", gives="tokens"),
            node("Concat", "tokens", "x", axis=1),
        ]
        assert self.parameters(tmp_path, nodes, rest=np.array([1, 4]), cls=random(1, 1, 4)) == {"cls"}


def test_what_cannot_be_said_in_pytorch_is_refused(tmp_path: Path) -> None:
    weights = {"roi": np.array([], np.float32), "scales": np.array([1, 1, 2], np.float32)}
    one = node("Resize", "x", "roi", "scales", mode="linear", coordinate_transformation_mode="asymmetric")
    with pytest.raises(Unsupported, match=r"Resize 'y' has coordinate_transformation_mode='asymmetric' with mode="):
        written(tmp_path, [one], **weights)
    with pytest.raises(Unsupported, match="MaxPool 'y' gives 'at' too"):
        written(tmp_path, [node("MaxPool", "x", gives="y at", kernel_shape=[2])], gives="y at")
