"""Other names for inputs and outputs: in signatures, in rows, and in ONNX files with all that is inside them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelkeep import convert
from modelkeep.convert import rename
from modelkeep.convert.onnx_to_openvino import OnnxToOpenVino
from modelkeep.convert.onnx_to_torch import OnnxToTorch
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput
from modelkeep.model import engines, folder, formats
from modelkeep.types import Bounds, Model, Signature, TensorSpec


def two_inputs(into: Path, *, apart: bool = False) -> Model:
    """y = (left · w) + hidden, where hidden = right + 1; rows of four."""
    weights = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["right", "one"], ["hidden"]),
            helper.make_node("MatMul", ["left", "w"], ["product"]),
            helper.make_node("Add", ["product", "hidden"], ["y"]),
        ],
        "g",
        [value("left", TensorProto.FLOAT, ["batch", 4]), value("right", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    into.mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, into / "m.onnx", save_as_external_data=apart, location="m.data", size_threshold=0)
    rng = np.random.default_rng(1)
    rows = Dataset({n: rng.standard_normal((30, 4)).astype(np.float32) for n in ("left", "right")}, None, "made rows")
    return formats.adopt(into / "m.onnx", into / "adopted", data=rows)


def answer(model: Model, **inputs: np.ndarray) -> np.ndarray:
    with contextlib.closing(engines.load(model)) as runner:
        (found,) = runner.run(inputs).values()
    return found


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)


def test_a_size_that_is_called_by_its_place_follows_its_input() -> None:
    old = Signature(
        (TensorSpec("x", "float32", (None, None)),),
        (TensorSpec("y", "float32", (None, None), ("batch", "x.1+1")),),
        {"x.1": Bounds(2, 9)},
    )
    new = rename.renamed_signature(old, {"x": "words"})
    assert [t.axes for t in (*new.inputs, *new.outputs)] == [("batch", "words.1"), ("batch", "words.1+1")]
    assert new.bounds == {"words.1": Bounds(2, 9)}
    assert rename.renamed_signature(old, {}) == old


def test_two_inputs_may_swap_their_names(tmp_path: Path) -> None:
    model = two_inputs(tmp_path / "m")
    left, right = drawn(2), drawn(3)
    want = answer(model, left=left, right=right)
    with rename.renamed_onnx(model, {"left": "right", "right": "left"}, tmp_path) as swapped:
        np.testing.assert_array_equal(answer(swapped, right=left, left=right), want)
    assert not swapped.path.exists()


def test_a_value_inside_makes_room_for_a_new_name(tmp_path: Path) -> None:
    model = two_inputs(tmp_path / "m")
    left, right = drawn(2), drawn(3)
    want = answer(model, left=left, right=right)
    with rename.renamed_onnx(model, {"left": "hidden", "y": "product"}, tmp_path) as made:
        onnx.checker.check_model(str(made.main), full_check=True)
        assert [t.name for t in (*made.signature.inputs, *made.signature.outputs)] == ["hidden", "right", "product"]
        np.testing.assert_array_equal(answer(made, hidden=left, right=right), want)


def test_graphs_inside_are_renamed_too(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["x"], [f"{name}_out"])],
            name,
            [],
            [value(f"{name}_out", TensorProto.FLOAT, [2])],
        )
        for name, operator in (("then", "Neg"), ("else", "Abs"))
    }
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], **branches)],
        "g",
        [value("flag", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    file = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    rename.rename_file(file, {"x": "then_out", "y": "z"})
    made = onnx.load(file)
    onnx.checker.check_model(made, full_check=True)
    assert [i.name for i in made.graph.input] == ["flag", "then_out"]
    assert {g.node[0].input[0] for g in (a.g for a in made.graph.node[0].attribute)} == {"then_out"}


def test_weights_beside_the_file_come_along(tmp_path: Path) -> None:
    model = two_inputs(tmp_path / "m", apart=True)
    left, right = drawn(2), drawn(3)
    with rename.renamed_onnx(model, {"left": "a"}, tmp_path) as made:
        np.testing.assert_array_equal(answer(made, a=left, right=right), answer(model, left=left, right=right))


@pytest.mark.parametrize("step", [OnnxToOpenVino, OnnxToTorch])
def test_a_step_from_onnx_gives_the_new_names(step: type[OnnxToOpenVino | OnnxToTorch], tmp_path: Path) -> None:
    model = two_inputs(tmp_path / "m")
    notes: list[str] = []
    telling = step(rename={"left": "a", "y": "b"}, progress=lambda done, total, note: notes.append(note))
    made, (report,) = telling.run(model, tmp_path / "made")
    assert report.ok
    assert notes[0].startswith("writing ")
    assert [note for note in notes[1:] if not note.startswith("comparing ")] == []
    assert len(notes) > 4
    assert [t.name for t in (*made.signature.inputs, *made.signature.outputs)] == ["a", "right", "b"]
    assert folder.read(made.path) == made
    kept = folder.reference(made.path)
    assert kept is not None
    left, right = drawn(2), drawn(3)
    np.testing.assert_allclose(
        answer(made, a=left, right=right), answer(model, left=left, right=right), rtol=1e-4, atol=1e-5
    )
    assert not [path for path in made.path.iterdir() if path.name.startswith("tmp")]


def test_a_name_that_there_is_not_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no input or output is called 'gone', so it cannot be renamed; there are left,"):
        OnnxToOpenVino(rename={"gone": "a"}).run(two_inputs(tmp_path / "m"), tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_of_several_steps_the_first_renames_and_the_others_get_rows_to_match() -> None:
    rows = Dataset({"x": np.zeros((2, 3), np.float32)}, None, "made rows")
    first, second = convert.steps("torch", "openvino", rename={"x": "pixels"}, rows=rows)
    assert "rename={'x': 'pixels'}" in repr(first)
    assert "rename={}" in repr(second)
    assert list(second.rows.inputs) == ["pixels"]  # type: ignore[attr-defined]
