"""LiteRT (TensorFlow Lite) files. Read in the TensorFlow environment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelkeep.data.dataset import Dataset
from modelkeep.model.engines import tensorflow
from modelkeep.types import Model

MAIN = "model.tflite"


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt. Raises BadModel where the interpreter cannot run it."""
    signature = tensorflow.read_signature(source, "litert")
    shutil.copyfile(source, into / MAIN)
    return Model(into, "litert", signature, (MAIN,))
