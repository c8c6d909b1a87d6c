"""Every format, by being listed in FORMATS, is run through one suite: adopted whole, kept whole, refused when cut."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, ModelkeepError
from modelkeep.model import detect, engines, folder, formats
from modelkeep.model.formats import FORMATS

WEIGHTS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
NET = """
from torch import nn
class Net(nn.Linear):
    def __init__(self):
        super().__init__(6, 4, bias=False)
    def forward(self, x):
        return super().forward(x)
"""


def onnx_file(at: Path) -> tuple[Path, dict[str, Any]]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["output"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, at / "net.onnx")
    return at / "net.onnx", {}


def _network() -> Any:
    import torch

    torch.set_num_threads(1)
    network = torch.nn.Linear(6, 4, bias=False)
    network.load_state_dict({"weight": torch.from_numpy(WEIGHTS.T.copy())})
    return network.eval()


def torch_file(at: Path) -> tuple[Path, dict[str, Any]]:
    import torch

    (at / "linear_net.py").write_text(NET, encoding="utf-8")
    torch.save(_network().state_dict(), at / "net.pt")
    return at / "net.pt", {"factory": "linear_net:Net"}


def torch_export_file(at: Path) -> tuple[Path, dict[str, Any]]:
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(x)
            return found

    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(Named(), (torch.zeros(2, 6),), dynamic_shapes=shapes), at / "net.pt2")
    return at / "net.pt2", {}


def torchscript_file(at: Path) -> tuple[Path, dict[str, Any]]:
    import torch

    warnings.simplefilter("ignore")  # that TorchScript is deprecated; pytest puts the filters back
    torch.jit.trace(_network(), torch.zeros(2, 6)).save(str(at / "net.ts"))
    return at / "net.ts", {}


def openvino_file(at: Path) -> tuple[Path, dict[str, Any]]:
    openvino = extras.need("openvino", extra="openvino")
    openvino.save_model(openvino.Core().read_model(onnx_file(at)[0]), at / "net.xml", compress_to_fp16=False)
    return at / "net.xml", {}


def sklearn_file(at: Path) -> tuple[Path, dict[str, Any]]:
    import skops.io
    from sklearn.linear_model import LinearRegression

    x = np.random.default_rng(3).standard_normal((20, 6))
    skops.io.dump(LinearRegression(fit_intercept=False).fit(x, x @ WEIGHTS), at / "net.skops")
    return at / "net.skops", {}


FILES: dict[str, Callable[[Path], tuple[Path, dict[str, Any]]]] = {
    "onnx": onnx_file,
    "openvino": openvino_file,
    "torch": torch_file,
    "torch-export": torch_export_file,
    "sklearn": sklearn_file,
    "torchscript": torchscript_file,
}
"""One linear layer as a file of each format. A new format needs its line here."""
OF_TENSORFLOW = {"tensorflow": "saved/saved_model.pb", "keras": "net.keras", "litert": "net.tflite"}
"""Formats whose files the TensorFlow environment makes, and where."""
ARCHITECTURES = {"huggingface"}
"""Formats that hold certain architectures only, none of which is one layer; their own tests ask the same of them."""


def test_every_format_is_listed_here() -> None:
    assert set(FORMATS) == {*FILES, *OF_TENSORFLOW, *ARCHITECTURES}


@pytest.fixture(params=[kind for kind in FORMATS if kind not in ARCHITECTURES])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    if kind in OF_TENSORFLOW:
        made = request.getfixturevalue("write_tensorflow_files")(WEIGHTS)
        return shutil.copytree(made, tmp_path / "source") / OF_TENSORFLOW[kind], {}
    (tmp_path / "source").mkdir()
    return FILES[kind](tmp_path / "source")


def rows(n: int = 30, width: int = 6) -> Dataset:
    rng = np.random.default_rng(1)
    return Dataset({"anything": rng.standard_normal((n, width))}, rng.integers(0, 4, n), "made rows")


def test_its_module_has_what_the_table_promises(kind: str) -> None:
    assert callable(importlib.import_module(FORMATS[kind]).adopt)
    assert engines.engines_for(kind)  # nothing is adopted that nothing runs


def test_a_file_is_known_for_what_it_is(kind: str, source: tuple[Path, dict[str, Any]]) -> None:
    assert detect.detect(source[0]) == kind


def test_an_adopted_model_needs_only_its_folder(
    kind: str, source: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, options = source
    made = formats.adopt(file, tmp_path / "into", data=rows(), labels=["a", "b", "c", "d"], **options)
    shutil.rmtree(file.parent)
    (tmp_path / "into").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    model = folder.read(tmp_path / "elsewhere")
    assert model == made.moved(tmp_path / "elsewhere")
    assert model.format == kind
    assert model.labels == ("a", "b", "c", "d")
    assert model.signature.batched
    x = np.random.default_rng(2).standard_normal((5, 6)).astype(model.signature.inputs[0].dtype)
    found = engines.load(model).run({model.signature.inputs[0].name: x})
    np.testing.assert_allclose(found[model.signature.outputs[0].name], x @ WEIGHTS, atol=1e-5, rtol=1e-5)


def test_its_files_are_all_of_the_folder(kind: str, source: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file, options = source
    model = formats.adopt(file, tmp_path / "into", data=rows(), **options)
    there = {str(p.relative_to(model.path)) for p in model.path.rglob("*") if p.is_file()}
    assert there == {*model.files, folder.MODEL_FILE, folder.REFERENCE}
    json.loads((model.path / folder.MODEL_FILE).read_text())


def test_the_rows_are_kept_as_the_model_takes_them(
    kind: str, source: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    file, options = source
    model = formats.adopt(file, tmp_path / "into", data=rows(2000), **options)
    kept = folder.reference(model.path)
    assert kept is not None
    assert len(kept) == 1024
    assert kept.labels is not None
    model.signature.check(kept.inputs)


def test_rows_of_another_width_are_refused(kind: str, source: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file, options = source
    with pytest.raises((BadData, ModelkeepError)) as error:
        formats.adopt(file, tmp_path / "into", data=rows(width=7), **options)
    assert "made rows" in str(error.value)


def test_a_cut_file_is_refused_by_name(kind: str, source: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file, options = source
    whole = file.read_bytes()
    for share in (0.0, 0.3, 0.9):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ModelkeepError) as error:
            formats.adopt(file, tmp_path / "into", data=rows(), **options)
        assert file.name in str(error.value)
        assert "\n" not in str(error.value)


def test_the_wrong_number_of_labels_is_refused(kind: str, source: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file, options = source
    with pytest.raises(ModelkeepError, match="there are 3 labels for the 4 classes of output"):
        formats.adopt(file, tmp_path / "into", data=rows(), labels=["a", "b", "c"], **options)
