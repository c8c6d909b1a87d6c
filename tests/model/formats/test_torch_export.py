"""Exported programs: their signature, how they are called, and that they can be trained and exported again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel
from modelkeep.model import engines, folder, formats
from modelkeep.model.formats import torch as torch_format
from modelkeep.model.formats import torch_export
from modelkeep.types import Bounds


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.norm(self.a(left)) + right, "which": right.argmax(1)}


def export(path: Path, network: nn.Module, *args: torch.Tensor, free: bool = True, **kwargs: torch.Tensor) -> Path:
    batch = {0: torch.export.Dim("batch", min=1)} if free else None
    shapes = (*([batch] * len(args)), *([batch] * len(kwargs))) if free else None
    names = dict(zip(("left", "right"), shapes, strict=False)) if free and kwargs else shapes
    program = torch.export.export(network.eval(), args, kwargs, dynamic_shapes=names)
    torch.export.save(program, path)
    return path


LEFT, RIGHT = torch.ones(2, 4), torch.arange(6).reshape(2, 3).float()


def check(model: Any, network: nn.Module) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 5):
        inputs = {
            "left": rng.standard_normal((count, 4)).astype(np.float32),
            "right": rng.standard_normal((count, 3)).astype(np.float32),
        }
        with torch.no_grad():
            want = network.eval()(*(torch.from_numpy(array) for array in inputs.values()))
        found = engines.load(model).run(inputs)
        assert np.allclose(found["sum"], want["sum"], atol=1e-6)
        assert found["which"].tolist() == want["which"].tolist()


def test_names_come_from_the_program(tmp_path: Path) -> None:
    network = Two()
    model = formats.adopt(export(tmp_path / "m.pt2", network, LEFT, RIGHT), tmp_path / "into")
    assert [t.describe() for t in model.signature.inputs] == ["left float32 [batch, 4]", "right float32 [batch, 3]"]
    assert [t.describe() for t in model.signature.outputs] == ["sum float32 [batch, 3]", "which int64 [batch]"]
    check(folder.read(model.path), network)


def test_free_dimensions_have_words_and_not_numbers(tmp_path: Path) -> None:
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=8, max=64), 3: torch.export.Dim("w")}
    network = nn.Conv2d(3, 2, 3, padding=1).eval()
    program = torch.export.export(network, (torch.ones(2, 3, 9, 12),), dynamic_shapes=(free,))
    torch.export.save(program, tmp_path / "m.pt2")
    signature = formats.adopt(tmp_path / "m.pt2", tmp_path / "into").signature
    assert signature.inputs[0].describe() == "input float32 [batch, 3, height, width]"
    assert signature.outputs[0].describe() == "output float32 [batch, 2, height, width]"
    assert signature.bounds["height"] == Bounds(8, 64)


def test_a_program_exported_with_keywords_is_called_so(tmp_path: Path) -> None:
    network = Two()
    model = formats.adopt(export(tmp_path / "m.pt2", network, LEFT, right=RIGHT), tmp_path / "into")
    check(model, network)


def test_a_baked_in_batch_is_seen(tmp_path: Path) -> None:
    model = formats.adopt(export(tmp_path / "m.pt2", Two(), LEFT, RIGHT, free=False), tmp_path / "into")
    assert model.signature.inputs[0].shape == (2, 4)
    assert not model.signature.batched


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = export(tmp_path / "m.pt2", Two(), LEFT, RIGHT)
    with pytest.raises(BadData, match=r"made rows has the inputs x; the model also takes left .*, right"):
        formats.adopt(file, tmp_path / "into", data=Dataset({"x": np.zeros((2, 4))}, None, "made rows"))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    import zipfile

    file = export(tmp_path / "m.pt2", Two(), LEFT, RIGHT)
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(tmp_path / "cut.pt2", "w") as cut:
        for name in whole.namelist():
            if not name.endswith("weight_0"):
                cut.writestr(name, whole.read(name))
    with pytest.raises(BadModel, match=r"cut\.pt2 is not a torch\.export file that can be read"):
        formats.adopt(tmp_path / "cut.pt2", tmp_path / "into")


def test_a_program_can_be_trained_and_exported_again(tmp_path: Path) -> None:
    model = formats.adopt(export(tmp_path / "m.pt2", Two(), LEFT, RIGHT), tmp_path / "into")
    module = torch_format.module(model)
    before = engines.load(model).run({"left": LEFT.numpy(), "right": RIGHT.numpy()})["sum"]
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    module(LEFT, RIGHT)["sum"].sum().backward()
    optimiser.step()
    new = folder.write(torch_format.save(module.eval(), model, tmp_path / "new"))
    assert new.format == "torch-export"
    assert new.signature == model.signature
    runner = engines.load(folder.read(new.path))
    after = runner.run({"left": LEFT.numpy(), "right": RIGHT.numpy()})["sum"]
    with torch.no_grad():
        assert np.allclose(after, module(LEFT, RIGHT)["sum"], atol=1e-6)
    assert not np.allclose(after, before, atol=1e-3)
    assert runner.run({"left": np.ones((7, 4), np.float32), "right": np.ones((7, 3), np.float32)})["sum"].shape == (
        7,
        3,
    )


def test_code_that_torch_export_cannot_follow_is_refused(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(
        BadModel, match=r"the module cannot be exported \(.*\); save its state_dict\(\) and pass --factory"
    ):
        torch_export.from_module(Branches(), tmp_path, Dataset({"x": np.ones((3, 2), np.float32)}, None, "rows"))
