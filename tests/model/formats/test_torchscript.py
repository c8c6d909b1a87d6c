"""TorchScript archives: read without trust where they only compute, run, converted, and never trained."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from modelkeep import convert
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, ModelkeepError, Unsupported, Untrusted
from modelkeep.model import engines, formats
from modelkeep.update.finetune import Finetune

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Branches(nn.Module):
    """Data-dependent control flow, which is why people script."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop = nn.Linear(6, 4), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if bool(x.sum() > 0):
            x = x * 2
        return self.drop(self.a(x)) * mask, mask.argmax(1)


class Writes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "/tmp/never")
        return x


class Maps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("/tmp/never", True, 4)


def rows() -> Dataset:
    rng = np.random.default_rng(0)
    # given in another order than forward's: the names decide
    return Dataset({"mask": rng.random((9, 4)), "x": rng.standard_normal((9, 6))}, np.arange(9) % 4, "made rows")


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.script(Branches()).save(str(tmp_path / "m.pt"))  # in training mode, as people leave it
    return tmp_path / "m.pt"


def test_inputs_are_found_by_name_and_dropout_is_off(scripted: Path, tmp_path: Path) -> None:
    model = formats.adopt(scripted, tmp_path / "into", data=rows())
    assert [t.describe() for t in model.signature.inputs] == ["x float32 [batch, 6]", "mask float32 [batch, 4]"]
    assert [t.describe() for t in model.signature.outputs] == ["output_0 float32 [batch, 4]", "output_1 int64 [batch]"]
    runner = engines.load(model)
    given = {"x": np.ones((2, 6), np.float32), "mask": np.ones((2, 4), np.float32)}
    first = runner.run(given)["output_0"]
    assert np.array_equal(runner.run(given)["output_0"], first)
    weight, bias = (t.detach().numpy() for t in torch.jit.load(str(scripted)).a.parameters())
    np.testing.assert_allclose(first, 2 * given["x"] @ weight.T + bias, atol=1e-5)


def test_control_flow_survives_the_conversion(scripted: Path, tmp_path: Path) -> None:
    model = formats.adopt(scripted, tmp_path / "into", data=rows())
    made, (report, *_) = convert.step("torchscript", "onnx").run(model, tmp_path / "onnx")
    assert report.ok is True
    assert report.numbers["exporter"] == "torchscript"
    assert [t.name for t in made.signature.inputs] == ["x", "mask"]
    one, two = engines.load(model), engines.load(made)
    for sign in (1, -1):  # both branches, where a trace would have kept one
        given = {"x": sign * np.ones((3, 6), np.float32), "mask": np.ones((3, 4), np.float32)}
        np.testing.assert_allclose(two.run(given)["output_0"], one.run(given)["output_0"], atol=1e-5)


@pytest.mark.parametrize(("network", "word"), [(Writes(), "save"), (Maps(), "from_file")])
def test_code_that_reaches_files_needs_trust(network: nn.Module, word: str, tmp_path: Path) -> None:
    torch.jit.script(network).save(str(tmp_path / "m.pt"))
    with pytest.raises(Untrusted, match=f"names '{word}', with which TorchScript can reach files.*--trust"):
        formats.adopt(tmp_path / "m.pt", tmp_path / "into", data=rows())


def test_a_disguised_name_is_found(scripted: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(scripted) as archive, zipfile.ZipFile(tmp_path / "bad.pt", "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, content + b"\n# torch .\n  save\n" if name.endswith(".py") else content)
    with pytest.raises(Untrusted, match=r"\.py' of .*bad.pt names 'save'"):
        formats.adopt(tmp_path / "bad.pt", tmp_path / "into", data=rows())


def test_without_rows_the_way_out_is_told(scripted: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="does not say what it takes; pass --data"):
        formats.adopt(scripted, tmp_path / "into")


def test_it_is_not_trained(scripted: Path, tmp_path: Path) -> None:
    model = formats.adopt(scripted, tmp_path / "into", data=rows())
    with pytest.raises(Unsupported, match=r"this is 'torchscript'.*state_dict\(\) with --factory"):
        Finetune(rows=rows()).run(model, tmp_path / "new")


def test_code_that_does_not_compile_is_one_sentence(scripted: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(scripted) as archive, zipfile.ZipFile(tmp_path / "bad.pt", "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, b"class (" if name.endswith(".py") else archive.read(name))
    with pytest.raises(ModelkeepError, match=r"bad.pt is not a TorchScript archive that can be read") as error:
        formats.adopt(tmp_path / "bad.pt", tmp_path / "into", data=rows())
    assert "\n" not in str(error.value)
