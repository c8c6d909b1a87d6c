"""What OpenVINO is told, and how its errors read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from onnx import TensorProto, helper  # noqa: E402  (after the skip)

from modelkeep.errors import BadInput, BadModel, NotReady, Unsupported  # noqa: E402
from modelkeep.model import engines, formats  # noqa: E402
from modelkeep.types import Model, ServeConfig  # noqa: E402

WEIGHTS = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)


def made(tmp_path: Path, kind: int = TensorProto.FLOAT) -> Model:
    multiply = kind == TensorProto.FLOAT
    node = helper.make_node("MatMul", ["x", "w"], ["y"]) if multiply else helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, [None, 64])],
        [helper.make_tensor_value_info("y", kind, [None, 8 if multiply else 64])],
        [onnx.numpy_helper.from_array(WEIGHTS, "w")] if multiply else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "m.onnx")
    return formats.adopt(tmp_path / "m.onnx", tmp_path / "into")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return made(tmp_path)


ROWS = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)


def worst(model: Model, config: ServeConfig) -> float:
    return float(np.abs(engines.load(model, config).run({"x": ROWS})["y"] - ROWS @ WEIGHTS).max())


def test_without_a_hint_it_computes_in_32_bits(model: Model) -> None:
    assert worst(model, ServeConfig(engine="openvino")) < 1e-4


@pytest.mark.parametrize(("precision", "hint"), [("float32", "f32"), ("bfloat16", "bf16"), (None, "f32")])
def test_threads_and_precision_are_those_of_the_config(model: Model, precision: str | None, hint: str) -> None:
    runner = engines.load(model, ServeConfig(engine="openvino", threads=1, precision=precision))
    compiled = runner._compiled  # type: ignore[attr-defined]
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    told = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert told in (hint, "f32")  # a processor without bfloat16 keeps to 32 bits


def test_each_worker_has_a_stream_and_its_own_threads(model: Model) -> None:
    compiled = engines.load(model, ServeConfig(engine="openvino", threads=1, workers=2))._compiled  # type: ignore[attr-defined]
    assert compiled.get_property("NUM_STREAMS") == 2
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_what_it_cannot_do_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="engine 'openvino' has no precision 'int4'; there are: float32"):
        engines.load(model, ServeConfig(engine="openvino", precision="int4"))
    with pytest.raises(Unsupported, match=r"engine 'openvino' cannot run on device 'abacus' here; there are: .*cpu"):
        engines.load(model, ServeConfig(engine="openvino", device="abacus"))
    (tmp_path / "text").mkdir()
    text = made(tmp_path / "text", TensorProto.STRING)
    with pytest.raises(Unsupported, match="engine 'openvino' does not run text; engine 'onnxruntime' does"):
        engines.load(text, ServeConfig(engine="openvino"))


def test_a_spoilt_file(model: Model) -> None:
    model.main.write_bytes(b"spoilt")
    with pytest.raises(BadModel, match=r"model\.onnx is not a model that OpenVINO can run") as error:
        engines.load(model, ServeConfig(engine="openvino"))
    assert "\n" not in str(error.value)


def test_answers_outlive_the_next_run_and_the_model(model: Model) -> None:
    runner = engines.load(model, ServeConfig(engine="openvino"))
    first = runner.run({"x": ROWS[:2]})["y"]
    kept = first.copy()
    runner.run({"x": ROWS[2:4]})
    runner.close()
    assert np.array_equal(first, kept)
    with pytest.raises(NotReady, match="this model has been closed"):
        runner.run({"x": ROWS})


@pytest.fixture
def lookup(tmp_path: Path) -> Model:
    """Of each row three ids, which choose from a table of 4 and, times another shape, from one of 6."""
    tables = {"small": np.eye(4, dtype=np.float32), "large": np.eye(6, 4, dtype=np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["small", "ids"], ["a"]),
            helper.make_node("Unsqueeze", ["others", "axis"], ["column"]),
            helper.make_node("Gather", ["large", "column"], ["b"]),
            helper.make_node("Squeeze", ["b", "axis"], ["c"]),
            helper.make_node("Add", ["a", "c"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.INT64, [None, 3]) for n in ("ids", "others")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3, 4])],
        [
            *(onnx.numpy_helper.from_array(table, name) for name, table in tables.items()),
            onnx.numpy_helper.from_array(np.array([2]), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "lookup.onnx")
    return formats.adopt(tmp_path / "lookup.onnx", tmp_path / "looked-up")


@pytest.mark.parametrize(
    ("name", "number", "last"), [("ids", 4, 3), ("ids", -5, 3), ("ids", 2**40, 3), ("others", 6, 5), ("others", -7, 5)]
)
def test_a_number_beyond_a_table_is_refused_as_by_onnx_runtime(
    lookup: Model, name: str, number: int, last: int
) -> None:
    """OpenVINO itself answers, with a row of zeros or another one."""
    asked = {n: np.array([[0, -1, 3], [1, 2, 3]]) for n in ("ids", "others")}
    asked[name][1, 1] = number
    for engine in ("openvino", "onnxruntime"):
        runner = engines.load(lookup, ServeConfig(engine=engine))
        with pytest.raises(BadInput, match=f"^input '{name}' holds {number}, and the model takes 0 to {last} there$"):
            runner.run(asked)


def test_numbers_within_a_table_are_answered_as_by_onnx_runtime(lookup: Model) -> None:
    asked = {"ids": np.array([[0, -4, 3]]), "others": np.array([[5, -6, 0]])}
    one, other = (engines.load(lookup, ServeConfig(engine=e)).run(asked)["y"] for e in ("openvino", "onnxruntime"))
    assert one.tolist() == other.tolist()
