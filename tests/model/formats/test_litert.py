"""LiteRT files."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.errors import BadModel
from modelkeep.model import formats


def test_its_signature_is_read(tensorflow_files: Path, tmp_path: Path) -> None:
    model = formats.adopt(tensorflow_files / "net.tflite", tmp_path / "into")
    assert [t.describe() for t in model.signature.inputs] == ["x float32 [batch, 6]"]
    assert [t.describe() for t in model.signature.outputs] == ["output float32 [batch, 4]"]


@pytest.mark.usefixtures("tensorflow_python")
def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    with pytest.raises(BadModel, match=r"net\.tflite is not a LiteRT model that can be run") as error:
        formats.adopt(tmp_path / "net.tflite", tmp_path / "into")
    assert "\n" not in str(error.value)
