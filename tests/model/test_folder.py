"""model.json is read back as it was written, and a folder that is not whole is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel
from modelkeep.model import folder
from modelkeep.types import Model, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("y", "float32", (None, 2)),), (TensorSpec("output", "str", (None,)),))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    (tmp_path / "m" / "code").mkdir(parents=True)
    (tmp_path / "m" / "weights.bin").write_bytes(b"1234")
    (tmp_path / "m" / "code" / "net.py").write_bytes(b"12")
    options = {"factory": "net:Net", "factory_args": {"hidden": [1, 2]}}
    made = Model(tmp_path / "m", "torch", SIGNATURE, ("weights.bin", "code/net.py"), ("größer", "b"), options)
    return folder.write(made)


def test_a_folder_is_read_back_as_it_was_written(model: Model) -> None:
    assert folder.read(model.path) == model
    assert folder.read(model.path).size == 6


def test_a_folder_moves(model: Model, tmp_path: Path) -> None:
    model.path.rename(tmp_path / "elsewhere")
    assert folder.read(tmp_path / "elsewhere") == model.moved(tmp_path / "elsewhere")


def test_any_other_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"is not a model folder: it has no model\.json"):
        folder.read(tmp_path)


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"format": "onnx", "signature": 3}', "\x00"])
def test_another_model_json_is_refused(model: Model, text: str) -> None:
    (model.path / "model.json").write_text(text)
    with pytest.raises(BadModel, match=r"model\.json is not what modelkeep writes"):
        folder.read(model.path)


def test_a_missing_file_is_named(model: Model) -> None:
    (model.path / "code" / "net.py").unlink()
    with pytest.raises(BadModel, match=r"lacks 'code/net\.py', which its model\.json names"):
        folder.read(model.path)


@pytest.mark.parametrize("name", ["../other/weights.bin", "/etc/hostname"])
def test_a_file_outside_the_folder_is_refused(model: Model, name: str) -> None:
    data = json.loads((model.path / "model.json").read_text())
    data["files"] = [name]
    (model.path / "model.json").write_text(json.dumps(data))
    with pytest.raises(BadModel, match="which lies outside the folder"):
        folder.read(model.path)


def test_reference_rows_are_kept_up_to_a_number_and_copied(model: Model, tmp_path: Path) -> None:
    rows = Dataset({"y": np.random.default_rng(0).random((50, 2), np.float32)}, np.arange(50), "made")
    assert folder.reference(model.path) is None
    folder.keep_reference(model.path, rows, n=20)
    kept = folder.reference(model.path)
    assert kept is not None
    assert len(kept) == 20
    assert kept.labels is not None
    assert np.array_equal(kept.inputs["y"], rows.inputs["y"][kept.labels])  # whole rows, none made up
    folder.copy_reference(model.path, tmp_path)
    copied = folder.reference(tmp_path)
    assert copied is not None
    assert len(copied) == 20


def test_an_input_called_like_the_truth_stays_an_input(model: Model) -> None:
    folder.keep_reference(model.path, Dataset({"y": np.zeros((3, 2), np.float32)}, None, "made"))
    kept = folder.reference(model.path)
    assert kept is not None
    assert list(kept.inputs) == ["y"]
    assert kept.labels is None


def test_copying_no_reference_does_nothing(model: Model, tmp_path: Path) -> None:
    folder.copy_reference(model.path, tmp_path)
    assert not (tmp_path / folder.REFERENCE).exists()
