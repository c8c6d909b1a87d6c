"""ONNX files: adopted whole, with the files that keep their weights, read without the onnx package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, Unsupported
from modelkeep.model import engines, folder, formats
from modelkeep.model.formats import onnx as onnx_format
from modelkeep.serve.server import Running

WEIGHTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def value(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def model(nodes: list, inputs: list, outputs: list, weights: tuple = (), opset: int = 18) -> onnx.ModelProto:
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, list(weights)),
        opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", opset)],
    )
    made.ir_version = 9
    return made


def linear(batch: Any = "batch") -> onnx.ModelProto:
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", batch, 4)],
        [value("y", batch, 3)],
        (numpy_helper.from_array(WEIGHTS, "w"),),
    )


def detector() -> onnx.ModelProto:
    """Where there are numbers other than 0, as many as there are, and the rows beside it, whose batch was lost."""
    return model(
        [
            helper.make_node("NonZero", ["x"], ["z"]),
            helper.make_node("Transpose", ["z"], ["found"], perm=[1, 0]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        [value("x", "batch", 4)],
        [value("found", "k", 2, kind=TensorProto.INT64), value("y", "Identity_dim_0", 4)],
    )


def apart(path: Path, location: str) -> Path:
    (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(linear(), path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def rows(n: int = 5) -> Dataset:
    return Dataset({"x": np.random.default_rng(1).standard_normal((n, 4))}, None, "made rows")


def test_an_output_with_rows_of_its_own_has_no_batch(tmp_path: Path) -> None:
    """Boxes that were found, say: each request for another number of them than of rows was refused with 500."""
    onnx.save(detector(), tmp_path / "m.onnx")
    with pytest.raises(BadModel, match=r"must be the rows\. Without --data it is served all the same, each request"):
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into", data=rows())
    made = formats.adopt(tmp_path / "m.onnx", tmp_path / "into")
    assert [t.describe() for t in made.signature.outputs] == ["found int64 [?, 2]", "y float32 [batch, 4]"]
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 1, 1]}]}
    with Running({"m": made}) as url:
        found = httpx.post(f"{url}/v2/models/m/infer", json=body, timeout=30).json()["outputs"]
    assert found[0]["shape"] == [3, 2]
    assert found[0]["data"] == [0, 1, 0, 2, 0, 3]


def test_the_signature_is_read_with_symbolic_dimensions_free(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "m.onnx")
    made = formats.adopt(tmp_path / "m.onnx", tmp_path / "into", data=rows(), labels=["a", "b", "c"])
    assert [t.describe() for t in made.signature.inputs] == ["x float32 [batch, 4]"]
    assert [t.describe() for t in made.signature.outputs] == ["y float32 [batch, 3]"]
    assert made.files == ("model.onnx",)
    assert made.labels == ("a", "b", "c")
    assert onnx_format.opset(made.main) == 18


@pytest.mark.parametrize("location", ["m.onnx.data", "weights/w.bin"])
def test_weights_in_another_file_come_along(tmp_path: Path, location: str) -> None:
    (tmp_path / "source").mkdir()
    made = formats.adopt(apart(tmp_path / "source" / "m.onnx", location), tmp_path / "into", data=rows())
    assert made.files == ("model.onnx", location)
    (tmp_path / "source").rename(tmp_path / "gone")
    found = engines.load(folder.read(tmp_path / "into")).run({"x": np.ones((2, 4), np.float32)})["y"]
    assert np.allclose(found, np.ones((2, 4)) @ WEIGHTS, atol=1e-6)


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    file = apart(tmp_path / "m.onnx", "m.onnx.data")
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(BadModel, match=r"m\.onnx keeps weights in 'm\.onnx\.data', which is not beside it"):
        formats.adopt(file, tmp_path / "into")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    made = onnx.load(apart(tmp_path / "m.onnx", "m.onnx.data"), load_external_data=False)
    made.graph.initializer[0].external_data[0].value = location
    onnx.save(made, tmp_path / "m.onnx")
    with pytest.raises(BadModel, match="they must be in its own folder"):
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into")


def test_weights_inside_branches_are_found(tmp_path: Path) -> None:
    def branch(name: str) -> Any:
        tensor = numpy_helper.from_array(WEIGHTS, f"w_{name}")
        onnx.external_data_helper.set_external_data(tensor, location=f"{name}.bin")
        tensor.ClearField("raw_data")
        node = helper.make_node("Constant", [], [f"c_{name}"], value=tensor)
        return helper.make_graph([node], name, [], [value(f"c_{name}", 4, 3)])

    made = model(
        [helper.make_node("If", ["which"], ["y"], then_branch=branch("yes"), else_branch=branch("no"))],
        [value("which", kind=TensorProto.BOOL)],
        [value("y", 4, 3)],
    )
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    assert onnx_format.external_files(tmp_path / "m.onnx") == ("no.bin", "yes.bin")


@pytest.mark.parametrize("kind", ["BOOL", "DOUBLE", "FLOAT16", "INT8", "UINT8", "INT32", "INT64", "UINT32", "STRING"])
def test_every_kind_of_tensor_goes_in_and_comes_out(tmp_path: Path, kind: str) -> None:
    element = getattr(TensorProto, kind)
    made = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", None, 2, kind=element)],
        [value("y", None, 2, kind=element)],
    )
    onnx.save(made, tmp_path / "m.onnx")
    adopted = formats.adopt(tmp_path / "m.onnx", tmp_path / "into")
    dtype = adopted.signature.inputs[0].dtype
    given = np.array([["grün", "b"]]) if dtype == "str" else np.array([[1, 0]], dtype)
    adopted.signature.check({"x": given})
    found = engines.load(adopted).run({"x": given})["y"]
    assert found.tolist() == given.tolist()
    assert adopted.signature.outputs[0].dtype == dtype


def test_the_onnx_package_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = apart(tmp_path / "m.onnx", "m.onnx.data")
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)  # importing it now fails
    assert formats.adopt(file, tmp_path / "into", data=rows()).format == "onnx"


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_a_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    onnx.save(linear(), tmp_path / "m.onnx")
    whole = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(whole[:-cut])
    with pytest.raises(BadModel, match=r"m\.onnx is not an ONNX model"):
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into")


def test_a_graph_that_makes_no_sense_is_refused_with_the_reason_in_one_line(tmp_path: Path) -> None:
    wrong = model([helper.make_node("NoSuchOperator", ["x"], ["y"])], [value("x", 1)], [value("y", 1)])
    (tmp_path / "m.onnx").write_bytes(wrong.SerializeToString())
    with pytest.raises(BadModel, match=r"m\.onnx is not an ONNX model that can be run: .*NoSuchOperator") as error:
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into")
    assert "\n" not in str(error.value)
    assert "ONNXRuntimeError" not in str(error.value)


def test_outputs_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [None, 2]))
    made = model(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [value("x", None, 2)],
        [helper.make_value_info("y", kind)],
    )
    onnx.save(made, tmp_path / "m.onnx")
    with pytest.raises(
        Unsupported, match=r"'y' of .*m\.onnx is seq\(tensor\(float\)\), and modelkeep serves tensors only"
    ):
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into")


@pytest.mark.parametrize("which", ["x", "y"])
def test_numbers_that_no_request_holds_are_told(tmp_path: Path, which: str) -> None:
    kinds = {"x": TensorProto.FLOAT, "y": TensorProto.FLOAT, which: TensorProto.BFLOAT16}
    node = helper.make_node("Cast", ["x"], ["y"], to=kinds["y"])
    made = model([node], [value("x", None, 2, kind=kinds["x"])], [value("y", None, 2, kind=kinds["y"])])
    onnx.save(made, tmp_path / "m.onnx")
    told = rf"'{which}' of .*m\.onnx is tensor\(bfloat16\), and no request or answer holds bfloat16 numbers; cast it"
    with pytest.raises(Unsupported, match=told):
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into")


def test_a_model_that_computes_in_bfloat16_is_told_what_to_do(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["b", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = helper.make_tensor("w", TensorProto.BFLOAT16, [4, 3], WEIGHTS.ravel().tolist())
    onnx.save(model(nodes, [value("x", None, 4)], [value("y", None, 3)], (weights,)), tmp_path / "m.onnx")
    told = "find an implementation for MatMul.*: where the model computes in bfloat16, export it in float32"
    with pytest.raises(BadModel, match=told):
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into")


def test_a_batch_that_is_only_free_in_name_is_refused(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1, 4]), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    weights = (shape, numpy_helper.from_array(WEIGHTS, "w"))
    onnx.save(model(nodes, [value("x", "batch", 4)], [value("y", "batch", 3)], weights), tmp_path / "m.onnx")
    with pytest.raises(
        BadModel, match=r"m\.onnx does not answer 3 rows of made rows: the model cannot run these inputs"
    ):
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into", data=rows())


def test_a_mean_over_the_rows_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("ReduceMean", ["m", "axes"], ["y"], keepdims=1),
    ]
    weights = (numpy_helper.from_array(np.array([0]), "axes"), numpy_helper.from_array(WEIGHTS, "w"))
    onnx.save(model(nodes, [value("x", "batch", 4)], [value("y", "rows", 3)], weights), tmp_path / "m.onnx")
    with pytest.raises(BadModel, match=r"answers 3 rows with 'y' of shape \[1, 3\]; the first dimension"):
        formats.adopt(tmp_path / "m.onnx", tmp_path / "into", data=rows())


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of its process from /proc")
def test_weights_beside_the_file_are_never_all_in_memory(tmp_path: Path) -> None:
    """256 MB of them, most a hole in the file, adopted by a process of its own that says what it held at most."""
    rows, columns = 65536, 1024
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, columns])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(4 * rows * columns)
    big = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", "batch", rows)],
        [value("y", "batch", columns)],
        (weight,),
    )
    (tmp_path / "m.onnx").write_bytes(big.SerializeToString())
    code = (
        "import re, sys, threading, time, pathlib\n"
        "from modelkeep.model import formats\n"
        "import onnxruntime\n"
        "def held(): return int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "start, seen, done = held(), [0], threading.Event()\n"
        "def watch():\n"
        "    while not done.wait(0.002): seen.append(held())\n"
        "watcher = threading.Thread(target=watch); watcher.start()\n"
        "model = formats.adopt(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
        "done.set(); watcher.join()\n"
        "print(model.size, max(seen) - start)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m.onnx", tmp_path / "into"], check=True, capture_output=True, text=True
    )
    size, held = map(int, told.stdout.split())
    assert size > 256 * 2**20
    assert held < 64 * 2**10, "kilobytes"
