"""ONNX → PyTorch: a module in source, with its weights, that can be trained; kept only when the answers agree.

The result is an ordinary PyTorch version, weights.safetensors with a factory: nn.Conv2d, nn.BatchNorm2d and nn.Linear
layers in a file of Python. torch.export's format would do as well for serving, but its graph is either of training or
of inference, has no layers that could be grown for new classes, and cannot be read by a person.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modelkeep.convert.onnx_source import graph, operators, write
from modelkeep.convert.proof import Progress, noted, prove
from modelkeep.convert.rename import Names, keep_reference, renamed_onnx, renamed_signature
from modelkeep.convert.smallest import smallest
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Unsupported
from modelkeep.model import folder
from modelkeep.model.formats import factories
from modelkeep.model.formats import torch as torch_format
from modelkeep.model.whole import whole
from modelkeep.types import Model, Report

if TYPE_CHECKING:
    from modelkeep.types import Array

MODULE = "network"
"""The file of the source, code/network.py."""


@dataclass(frozen=True)
class OnnxToTorch:
    """``rename`` gives inputs and outputs other names. ``rows`` are what the answers are compared on; without them the
    model's reference rows, or else seeded random ones.
    """

    atol: float | None = None
    rtol: float | None = None
    rename: Names = field(default_factory=dict)
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output that differs, Unsupported with the operator that cannot be written;
        both leave nothing at ``into``.
        """
        if model.format != "onnx":
            raise Unsupported(f"this turns ONNX into PyTorch, and the model is '{model.format}'")
        text = [t.name for t in (*model.signature.inputs, *model.signature.outputs) if t.dtype == "str"]
        if text:
            raise Unsupported(f"'{text[0]}' is text, which PyTorch has no tensors of; keep the model as ONNX")
        with whole(into), renamed_onnx(model, self.rename, into) as source:
            noted(self.progress, "writing PyTorch source")
            written = write.write(graph.read(source.main, operators.KNOWN))
            rows = self.rows or folder.reference(model.path)
            signature = renamed_signature(smallest(model, rows), self.rename)
            made = replace(_saved(written, source, into), signature=signature)
            report = prove(
                model, made, rows, atol=self.atol, rtol=self.rtol, rename=self.rename, progress=self.progress
            )
            keep_reference(model, self.rename, into)
            return folder.write(made), (_told(report, made),)


def _saved(source: write.Source, model: Model, into: Path) -> Model:
    """The folder, all but model.json: the source beside its weights."""
    (into / factories.CODE).mkdir()
    (into / factories.CODE / f"{MODULE}.py").write_text(source.text, encoding="utf-8")
    factory = f"{MODULE}:{write.CLASS}"
    with torch.random.fork_rng(devices=[]):  # layers draw weights, which are overwritten
        built = factories.build(factory, {}, into)
    built.load_state_dict({name: tensor(value) for name, value in source.state.items()})
    like = replace(model, path=into, format="torch", options={})
    return torch_format.save(built.eval(), like, into, factory=factory, factory_args={}, signature=model.signature)


def tensor(value: Array) -> Any:
    """A copy in PyTorch. bfloat16 goes by its bits, for numpy has no such type of its own."""
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(value, order="C"))


def _told(report: Report, made: Model) -> Report:
    module = torch_format.module(made)
    count = sum(p.numel() for p in module.parameters())
    why = f"{report.why}; {count:,} parameters can be trained"
    return replace(report, why=why, numbers={**report.numbers, "parameters": count})
