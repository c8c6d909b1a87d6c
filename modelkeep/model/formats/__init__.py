"""What a model file can be: the table of formats, and ``adopt``, which turns a file into a model folder."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput, BadModel
from modelkeep.model import engines, folder
from modelkeep.model.detect import detect
from modelkeep.types import Model

FORMATS: dict[str, str] = {
    "huggingface": "modelkeep.model.formats.huggingface",
    "onnx": "modelkeep.model.formats.onnx",
    "openvino": "modelkeep.model.formats.openvino",
    "torch": "modelkeep.model.formats.torch",
    "torch-export": "modelkeep.model.formats.torch_export",
    "sklearn": "modelkeep.model.formats.sklearn",
    "torchscript": "modelkeep.model.formats.torchscript",
    "tensorflow": "modelkeep.model.formats.tensorflow",
    "keras": "modelkeep.model.formats.keras",
    "litert": "modelkeep.model.formats.litert",
}
"""Each has adopt(source, into, *, factory, factory_args, data, trust) → Model, which writes all but model.json."""
TRAINABLE = ("torch", "torch-export", "huggingface")
"""The formats whose weights can be trained and written again (formats.torch: module, save)."""


def adopt(
    source: Path,
    into: Path,
    *,
    factory: str | None = None,
    factory_args: Mapping[str, Any] | None = None,
    data: Dataset | None = None,
    labels: Sequence[str] = (),
    trust: bool = False,
    **special: Any,
) -> Model:
    """A model folder at ``into`` made from a trained model's file; ``data`` is tried on it and kept as its reference.

    ``special`` is what one format alone takes: ``task`` and ``with_past`` of a Hugging Face folder.

    Raises what ``detect`` does, MissingExtra, and BadModel where the file is damaged, is not what it says, or does
    not answer ``data`` row by row; BadData where ``data`` does not fit.
    """
    source, into = Path(source), Path(into)
    kind = detect(source, factory=factory, trust=trust)
    given = {name: value for name, value in special.items() if value}
    if given and kind != "huggingface":
        told = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise BadModel(f"{told} is for Hugging Face folders, and {source} is of format {kind}")
    engines.need(engines.default_config(kind).engine)
    into.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(FORMATS[kind])
    model: Model = module.adopt(
        source, into, factory=factory, factory_args=dict(factory_args or {}), data=data, trust=trust, **given
    )
    model = replace(model, labels=tuple(labels) or model.labels)
    _check_labels(model)
    if data is not None:
        rows = dataset.fit(data, model.signature)
        _try(model, rows, source)
        folder.keep_reference(into, rows)
    return folder.write(model)


def _check_labels(model: Model) -> None:
    """As many names as the first output's last axis is long, where that is fixed."""
    first = model.signature.outputs[0]
    classes = first.shape[-1] if len(first.shape) > 1 else None
    if model.labels and classes is not None and len(model.labels) != classes:
        raise BadModel(
            f"there are {len(model.labels)} labels for the {classes} classes of output {first.describe()}; "
            f"give {classes}"
        )


def _try(model: Model, rows: Dataset, source: Path) -> None:
    """A model that takes any number of rows must answer any number of rows, row by row."""
    if any(t.shape[:1] != (None,) for t in model.signature.inputs):
        return
    mend = "" if model.signature.batched else ". Without --data it is served all the same, each request alone"
    with contextlib.closing(engines.load(model)) as runner:
        for count in (1, 3):
            few = rows.take(np.arange(count) % len(rows))
            try:
                outputs = runner.run(few.inputs)
            except BadInput as error:
                raise BadModel(f"{source} does not answer {count} rows of {rows.source}: {error}") from error
            for name, answer in outputs.items():
                if answer.shape[:1] != (count,):
                    raise BadModel(
                        f"{source} answers {count} rows with '{name}' of shape {list(answer.shape)}; "
                        f"the first dimension of an output must be the rows{mend}"
                    )
