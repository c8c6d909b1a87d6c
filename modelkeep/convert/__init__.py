"""The same weights in another format, kept only when the answers agree."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from modelkeep import extras
from modelkeep.errors import Unsupported
from modelkeep.types import Step

ROUTES: dict[tuple[str, str], str] = {
    ("torch", "onnx"): "modelkeep.convert.torch_to_onnx:TorchToOnnx",
    ("torch-export", "onnx"): "modelkeep.convert.torch_to_onnx:TorchToOnnx",
}
"""(from, to) → the Step that does it."""


def step(source: str, target: str, **options: Any) -> Step:
    """The Step that turns one format into another. Unsupported where there is none, or it has no such option;
    MissingExtra where PyTorch is not installed.
    """
    route = ROUTES.get((source, target))
    if route is None:
        there = ", ".join(f"{a} → {b}" for a, b in ROUTES)
        hint = f"it is {target} already" if source == target else f"there are: {there}"
        if target == "openvino":
            hint = "OpenVINO is an engine, which runs onnx as it is; tune tries it where it is installed"
        raise Unsupported(f"no conversion turns {source} into {target}; {hint}")
    for library in ("torch", "onnx", "onnxscript"):
        if not extras.has(library):
            extras.need(library, extra="torch")  # raises, with the command that installs it
    kind = extras.load(route)
    known = [f.name for f in dataclasses.fields(kind)]
    for name in options:
        if name not in known:
            raise Unsupported(f"turning {source} into {target} has no option '{name}'; there are: {', '.join(known)}")
    return cast(Step, kind(**options))
