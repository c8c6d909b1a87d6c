"""Keras files: code inside is refused, names are kept, and what cannot be read is told."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from modelkeep.errors import BadModel, Untrusted
from modelkeep.model import engines, folder, formats


def test_code_inside_needs_trust_which_is_kept(tensorflow_files: Path, tmp_path: Path) -> None:
    with pytest.raises(Untrusted, match=r"code\.keras holds a Lambda layer, which is code that runs.*pass --trust"):
        formats.adopt(tensorflow_files / "code.keras", tmp_path / "refused")
    formats.adopt(tensorflow_files / "code.keras", tmp_path / "trusted", trust=True)
    words = np.ones((1, 2, 16), np.float32)
    with contextlib.closing(engines.load(folder.read(tmp_path / "trusted"))) as runner:
        assert (runner.run({"words": words})[runner.signature.outputs[0].name] == 2).all()


def test_a_layer_that_only_its_author_has(tensorflow_files: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"own\.keras is not .*layers of your own, save it with model\.export") as error:
        formats.adopt(tensorflow_files / "own.keras", tmp_path / "into")
    assert "\n" not in str(error.value)


def test_names_types_and_free_dimensions_are_the_models(tensorflow_files: Path, tmp_path: Path) -> None:
    lstm = formats.adopt(tensorflow_files / "lstm.keras", tmp_path / "lstm").signature
    assert [t.describe() for t in lstm.inputs] == ["tokens int32 [batch, ?]"]
    assert [t.describe() for t in lstm.outputs] == ["scores float32 [batch, 3]"]
    attention = formats.adopt(tensorflow_files / "attention.keras", tmp_path / "attention").signature
    assert [t.name for t in attention.outputs] == ["scores", "mixed"]


def test_the_name_of_the_file_does_not_matter(tensorflow_files: Path, tmp_path: Path) -> None:
    for name, kept in (("net.keras", "model.keras"), ("net.h5", "model.h5")):
        shutil.copyfile(tensorflow_files / name, tmp_path / "net.bin")
        model = formats.adopt(tmp_path / "net.bin", tmp_path / f"from {name}")
        assert model.files == (kept,)
        assert model.signature.inputs[0].describe() == "x float32 [batch, 6]"
