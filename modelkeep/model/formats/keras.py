"""Keras files: .keras, and the older HDF5. Read in the TensorFlow environment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelkeep.data.dataset import Dataset
from modelkeep.model.engines import tensorflow
from modelkeep.types import Model


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt. Raises BadModel, or Untrusted for a Lambda layer, which is code inside the file."""
    with source.open("rb") as file:
        # Keras goes by the name's ending, modelkeep by what is inside
        main = "model.h5" if file.read(4) == b"\x89HDF" else "model.keras"
    shutil.copyfile(source, into / main)
    signature = tensorflow.read_signature(into / main, "keras", trust=trust, told=source)
    return Model(into, "keras", signature, (main,), options={"trusted": True} if trust else {})
