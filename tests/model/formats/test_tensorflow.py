"""SavedModel folders: which signature is taken, what reaches outside, and what is copied."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from modelkeep.errors import BadModel, Untrusted
from modelkeep.model import engines, folder, formats


def test_the_only_signature_is_taken_whatever_its_name(tensorflow_files: Path, tmp_path: Path) -> None:
    model = formats.adopt(tensorflow_files / "text", tmp_path / "into")
    assert [t.describe() for t in model.signature.inputs] == ["words str [batch]"]
    with contextlib.closing(engines.load(model)) as runner:
        found = runner.run({"words": np.array(["a", "é"], dtype=object)})
    assert found["loud"].tolist() == ["A", "é"]


@pytest.mark.parametrize(("name", "told"), [("bare", "it has none"), ("two", "it has one, other")])
def test_without_one_to_take_it_says_what_there_is(
    name: str, told: str, tensorflow_files: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadModel, match=rf"needs a signature called serving_default, and {told}; save it with"):
        formats.adopt(tensorflow_files / name, tmp_path / "into")


def test_a_graph_that_reads_files_needs_trust_which_is_kept(tensorflow_files: Path, tmp_path: Path) -> None:
    with pytest.raises(Untrusted, match=r"reader/saved_model\.pb uses ReadFile, which reaches files.*pass --trust"):
        formats.adopt(tensorflow_files / "reader", tmp_path / "refused")
    formats.adopt(tensorflow_files / "reader", tmp_path / "trusted", trust=True)
    (tmp_path / "note").write_text("hello")
    with contextlib.closing(engines.load(folder.read(tmp_path / "trusted"))) as runner:
        assert runner.run({"words": np.array([str(tmp_path / "note")], dtype=object)})["loud"].tolist() == ["hello"]


def test_only_the_models_own_files_are_copied(tensorflow_files: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tensorflow_files / "saved", tmp_path / "source")
    (source / "notes.txt").write_text("mine")
    model = formats.adopt(source, tmp_path / "into")
    assert model.files[0] == "saved_model/saved_model.pb"
    assert "saved_model/variables/variables.index" in model.files
    assert not any("notes" in file for file in model.files)


def test_variables_that_are_missing_are_told(tensorflow_files: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tensorflow_files / "saved", tmp_path / "source")
    shutil.rmtree(source / "variables")
    with pytest.raises(BadModel, match=r"saved_model\.pb is not a TensorFlow SavedModel that can be read") as error:
        formats.adopt(source, tmp_path / "into")
    assert "\n" not in str(error.value)
