"""OpenVINO's own format (IR): model.xml, the graph, and model.bin, its weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, Unsupported
from modelkeep.model.engines.openvino import reason
from modelkeep.types import Model, Signature, TensorSpec

openvino = extras.need("openvino", extra="openvino")

MAIN = "model.xml"
WEIGHTS = "model.bin"
DTYPES = {
    "boolean": "bool",
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"{sign}{bits}": f"{kind}{bits}" for sign, kind in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)},
}
"""OpenVINO's names of element types, and numpy's."""


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt. Raises BadModel for a damaged file, or one whose .bin is not beside it."""
    weights = source.with_suffix(".bin")
    if not weights.is_file():
        raise BadModel(f"{source} keeps its weights in '{weights.name}', which is not beside it; put both together")
    shutil.copyfile(source, into / MAIN)
    shutil.copyfile(weights, into / WEIGHTS)
    return Model(into, "openvino", read_signature(read(into / MAIN, told=source), source), (MAIN, WEIGHTS))


def read(file: Path, told: Path | None = None) -> Any:
    """The file, IR or ONNX, as an openvino.Model. Raises BadModel, which calls it ``told`` and gives the reason.

    Not openvino.convert_model, which reports each call to Intel where the user has agreed to that once.
    """
    try:
        return openvino.Core().read_model(str(file))
    except RuntimeError as error:
        raise BadModel(f"{told or file} is not a model that OpenVINO can read: {reason(error)}") from error


def save(graph: Any, into: Path, *, half: bool = False) -> tuple[str, str]:
    """Write an openvino.Model to ``into``; ``half`` keeps its weights as float16. Returns the names of the files.

    Raises BadModel with OpenVINO's reason.
    """
    try:
        openvino.save_model(graph, str(into / MAIN), compress_to_fp16=half)
    except RuntimeError as error:
        raise BadModel(f"OpenVINO cannot write {into / MAIN}: {reason(error)}") from error
    return MAIN, WEIGHTS


def read_signature(graph: Any, told: Path) -> Signature:
    """Names, dtypes and shapes of an openvino.Model, dynamic dimensions as free.

    Raises Unsupported for an input or output of another type, BadModel for one without a name or a rank.
    """
    return Signature(
        tuple(_spec(port, told) for port in graph.inputs), tuple(_spec(port, told) for port in graph.outputs)
    )


def _spec(port: Any, told: Path) -> TensorSpec:
    names = sorted(port.get_names())
    shape = port.get_partial_shape()
    if not names or shape.rank.is_dynamic:
        raise BadModel(f"an input or output of {told} has no {'fixed rank' if names else 'name'}; convert it anew")
    kind = port.get_element_type().get_type_name()
    if kind not in DTYPES:
        raise Unsupported(f"'{names[0]}' of {told} is {kind}, which engine 'openvino' does not run")
    return TensorSpec(names[0], DTYPES[kind], tuple(d.get_length() if d.is_static else None for d in shape))
