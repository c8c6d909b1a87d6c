"""TensorFlow SavedModel: a folder of graph, variables and assets. Read in the TensorFlow environment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelkeep.data.dataset import Dataset
from modelkeep.model.engines import tensorflow
from modelkeep.types import Model

FOLDER = "saved_model"
MAIN = f"{FOLDER}/saved_model.pb"
PARTS = ("saved_model.pb", "fingerprint.pb", "variables", "assets")
"""What TensorFlow writes (tensorflow.org/guide/saved_model); whatever else lies beside them is not the model's."""


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt; ``source`` is the folder, or saved_model.pb in it. Raises BadModel, or Untrusted where its
    graph reaches files outside it.
    """
    folder = source.parent if source.is_file() else source
    signature = tensorflow.read_signature(folder, "tensorflow", trust=trust)
    for part in (folder / name for name in PARTS):
        for file in [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.is_file()):
            to = into / FOLDER / file.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
    return Model(into, "tensorflow", signature, files(into), options={"trusted": True} if trust else {})


def files(into: Path) -> tuple[str, ...]:
    """The SavedModel's files in a model folder, its graph first."""
    found = (str(p.relative_to(into)) for p in sorted((into / FOLDER).rglob("*")) if p.is_file())
    return (MAIN, *(name for name in found if name != MAIN))
