"""What adopt itself says, whatever the format."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from modelkeep.errors import MissingExtra, NotFound
from modelkeep.model import formats


def test_a_missing_file_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        formats.adopt(tmp_path / "gone.onnx", tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_without_pytorch_the_command_that_installs_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((2, 2), np.float32)}, tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    with pytest.raises(MissingExtra, match=r"this needs torch .* pip install 'modelkeep\[torch\]'"):
        formats.adopt(tmp_path / "w.safetensors", tmp_path / "into", factory="net:Net")
    assert not (tmp_path / "into").exists()
