"""What ONNX Runtime is told, and how its errors read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelkeep.errors import BadInput, BadModel, NotReady, Unsupported
from modelkeep.model import engines, formats
from modelkeep.model.engines import onnxruntime as engine
from modelkeep.types import Model, ServeConfig


@pytest.fixture
def lookup(tmp_path: Path) -> Model:
    """Row number to row: a number beyond the table fails while it runs."""
    table = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [None])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 4])],
        [table],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    onnx.save(made, tmp_path / "m.onnx")
    return formats.adopt(tmp_path / "m.onnx", tmp_path / "into")


def test_threads_are_those_of_the_config_or_of_a_quota(
    lookup: Model, monkeypatch: pytest.MonkeyPatch, container: Callable[[int, str], None]
) -> None:
    seen: list[Any] = []
    real = engine.onnxruntime.InferenceSession

    def session(file: str, options: Any, **more: Any) -> Any:
        seen.append(options)
        return real(file, options, **more)

    monkeypatch.setattr(engine.onnxruntime, "InferenceSession", session)
    engines.load(lookup, ServeConfig(threads=3))
    assert seen[0].intra_op_num_threads == 3
    assert seen[0].log_severity_level == engine.SILENT
    container(64, "200000 100000")
    engines.load(lookup)
    assert seen[1].intra_op_num_threads == 2


def test_threads_rest_between_runs(tmp_path: Path) -> None:
    """Those of ONNX Runtime look out for the next run, unless told otherwise: 40 ms of a core for each request."""
    weights = onnx.numpy_helper.from_array(np.eye(1024, dtype=np.float32), "weights")
    shape = [None, 1024]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    runner = engines.load(formats.adopt(tmp_path / "m.onnx", tmp_path / "into"), ServeConfig(threads=2))
    rows = {"x": np.ones((32, 1024), np.float32)}
    runner.run(rows)
    began = time.process_time()
    for _ in range(10):
        runner.run(rows)
        time.sleep(0.05)
    assert time.process_time() - began < 0.15
    runner.close()


@pytest.mark.parametrize(("version", "rest"), [("1.20.1", engine.REST_AT_ONCE), ("1.26.0.dev2", engine.REST)])
def test_they_rest_in_every_version_of_onnxruntime(
    lookup: Model, version: str, rest: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a version does not know it leaves aside without a word."""
    said: list[tuple[str, str]] = []

    class Options(engine.onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            said.append((key, value))

    monkeypatch.setattr(engine.onnxruntime, "__version__", version)
    monkeypatch.setattr(engine.onnxruntime, "SessionOptions", Options)
    engines.load(lookup)
    assert said == [rest]


def test_inputs_that_fail_are_the_callers_fault_in_one_line(lookup: Model, capfd: pytest.CaptureFixture[str]) -> None:
    runner = engines.load(lookup)
    with pytest.raises(BadInput, match=r"^input 'ids' holds 99, and the model takes 0 to 3 there$") as error:
        runner.run({"ids": np.array([0, 99])})
    assert "\n" not in str(error.value)
    assert runner.run({"ids": np.array([2])})["rows"].tolist() == [[0, 0, 1, 0]]
    assert capfd.readouterr() == ("", "")


def test_memory_of_any_layout_is_taken(lookup: Model) -> None:
    backwards = np.arange(4)[::-2]
    backwards.flags.writeable = False
    assert engines.load(lookup).run({"ids": backwards})["rows"].argmax(1).tolist() == [3, 1]


def test_what_it_cannot_do_is_refused(lookup: Model) -> None:
    with pytest.raises(Unsupported, match="cannot run on device 'cuda'"):
        engines.load(lookup, ServeConfig(device="cuda"))
    with pytest.raises(Unsupported, match="cannot run on device 'abacus'"):
        engines.load(lookup, ServeConfig(device="abacus"))
    with pytest.raises(
        Unsupported, match=r"engine 'onnxruntime' runs a model in its own precision.*'int4' cannot be set"
    ):
        engines.load(lookup, ServeConfig(precision="int4"))


def test_once_closed_it_says_so(lookup: Model) -> None:
    runner = engines.load(lookup)
    runner.close()
    with pytest.raises(NotReady, match="this model has been closed"):
        runner.run({"ids": np.array([0])})


def test_a_file_that_was_spoilt_after_it_was_adopted(lookup: Model) -> None:
    lookup.main.write_bytes(b"spoilt")
    with pytest.raises(BadModel, match=r"model\.onnx is not an ONNX model that can be run: Protobuf parsing failed"):
        engines.load(lookup)


@pytest.fixture
def layer(tmp_path: Path) -> Model:
    """y = x · w, w being 1 MB."""
    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 512])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "layer.onnx"
    )
    return formats.adopt(tmp_path / "layer.onnx", tmp_path / "layer")


def in_room(model: Model, room: Path) -> Model:
    room.mkdir(exist_ok=True)
    return replace(model, options={engines.ROOM: str(room)})


def test_processes_share_the_weights_of_the_first_and_answer_alike(layer: Model, tmp_path: Path) -> None:
    shared = in_room(layer, tmp_path / "room")
    runners = [engines.load(layer), engines.load(shared), engines.load(shared)]
    written = tmp_path / "room" / engine.READY / "weights"
    assert written.stat().st_size >= 512 * 512 * 4
    x = np.random.default_rng(1).standard_normal((7, 512)).astype(np.float32)
    answers = [runner.run({"x": x})["y"] for runner in runners]
    assert answers[0].tobytes() == answers[1].tobytes() == answers[2].tobytes()
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(written) in maps.read_text()


def test_what_cannot_be_shared_runs_all_the_same(
    layer: Model, lookup: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that nobody can write to; a model that refuses made-up rows; and neither is tried again."""
    refuses = in_room(lookup, tmp_path / "refuses")
    elsewhere = replace(layer, options={engines.ROOM: str(tmp_path / "nowhere")})
    for _ in range(2):
        assert engines.load(refuses).run({"ids": np.array([2])})["rows"].tolist() == [[0, 0, 1, 0]]
        assert engines.load(elsewhere).run({"x": np.zeros((1, 512), np.float32)})["y"].shape == (1, 512)
    assert not (tmp_path / "refuses" / engine.READY).exists()


def test_what_would_answer_otherwise_is_not_shared(
    layer: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine.onnxruntime.InferenceSession

    class Wrong:
        def run(self, outputs: Any, feeds: Any) -> list[Any]:
            return [np.zeros((1, 512), np.float32)]

    def session(file: str, options: Any, **more: Any) -> Any:
        found = real(file, options, **more)
        return found if file == str(layer.main) else Wrong()

    monkeypatch.setattr(engine.onnxruntime, "InferenceSession", session)
    runner = engines.load(in_room(layer, tmp_path / "room"))
    assert runner.run({"x": np.ones((1, 512), np.float32)})["y"].any()
    assert not (tmp_path / "room" / engine.READY).exists()


def test_bytes_that_are_no_text_are_refused_not_made_up(tmp_path: Path) -> None:
    """onnxruntime itself would run the text "b'\\xff'" in their place."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [value("x", TensorProto.STRING, ["rows"])],
        [value("y", TensorProto.STRING, ["rows"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "same.onnx")
    (tmp_path / "model").mkdir()
    runner = engines.load(formats.adopt(tmp_path / "same.onnx", tmp_path / "model"), ServeConfig())
    given = np.array(["a", "ä".encode()], dtype=object)
    assert runner.run({"x": given})["y"].tolist() == ["a", "ä"]
    given[1] = b"\xff"
    with pytest.raises(BadInput, match="bytes that are no UTF-8"):
        runner.run({"x": given})
