"""model.json, and the reference rows beside it: how a model folder is read and written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel
from modelkeep.types import Model, Signature

MODEL_FILE = "model.json"
REFERENCE = "reference.npz"


def read(path: Path) -> Model:
    """The Model that a folder holds. Raises BadModel when it is none, or when one of its files is missing."""
    path = Path(path)
    file = path / MODEL_FILE
    if not file.is_file():
        raise BadModel(f"{path} is not a model folder: it has no {MODEL_FILE}")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        model = _from_json(path, data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{file} is not what modelkeep writes: {error!r}") from error
    for name in model.files:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise BadModel(f"{file} names '{name}', which lies outside the folder")
        if not (path / name).is_file():
            raise BadModel(f"{path} lacks '{name}', which its {MODEL_FILE} names")
    return model


def write(model: Model) -> Model:
    """Write model.json into ``model.path``; the files that it names are there already."""
    data = {
        "format": model.format,
        "signature": model.signature.to_json(),
        "files": list(model.files),
        "labels": list(model.labels),
        "options": dict(model.options),
    }
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    (model.path / MODEL_FILE).write_text(text, encoding="utf-8")
    return model


def keep_reference(into: Path, rows: Dataset, n: int = 1024) -> None:
    """Keep up to ``n`` of the rows that the model was made for, in its folder."""
    dataset.write(rows.sample(n, copy=False), into / REFERENCE)


def reference(path: Path) -> Dataset | None:
    """The rows that the model was made for, or None where none were given. They lie in the file until they are read."""
    file = Path(path) / REFERENCE
    if not file.is_file():
        return None
    signature = read(path).signature if (Path(path) / MODEL_FILE).is_file() else None
    rows = dataset.read(file, signature, mapped=True)
    return Dataset(rows.inputs, rows.labels, "reference rows")


def copy_reference(source: Path, into: Path) -> None:
    """The same reference rows for a model made from another; nothing where there are none."""
    if (source / REFERENCE).is_file():
        shutil.copyfile(source / REFERENCE, into / REFERENCE)


def _from_json(path: Path, data: dict[str, Any]) -> Model:
    if not data["files"]:
        raise ValueError("no files")
    return Model(
        path=path,
        format=str(data["format"]),
        signature=Signature.from_json(data["signature"]),
        files=tuple(data["files"]),
        labels=tuple(data["labels"]),
        options=dict(data["options"]),
    )
