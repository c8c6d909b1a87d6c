"""ONNX: model.onnx and the files that keep its weights. Needs onnxruntime only, not the onnx package."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, Unsupported
from modelkeep.model import protobuf
from modelkeep.model import signature as signatures
from modelkeep.model.copying import copied
from modelkeep.types import Model, Signature

MAIN = "model.onnx"
DTYPES = {
    "bool": "bool",
    "double": "float64",
    "float": "float32",
    "float16": "float16",
    "string": "str",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""onnxruntime's names of element types, and numpy's."""


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt. Raises BadModel for a damaged file or a missing file of weights."""
    weights = external_files(source)
    for name in weights:
        if not (source.parent / name).is_file():
            raise BadModel(f"{source} keeps weights in '{name}', which is not beside it; put both into one folder")
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        copied(source.parent / name, into / name)
    copied(source, into / MAIN)
    return Model(into, "onnx", read_signature(into / MAIN, told=source), (MAIN, *weights))


def read_signature(file: Path, told: Path | None = None) -> Signature:
    """Names, dtypes and shapes as onnxruntime reads them, symbolic dimensions as free and under their names.

    Raises BadModel, which calls the file ``told``; Unsupported where an input or output is no tensor.
    """
    import onnxruntime

    from modelkeep.model.engines.onnxruntime import SILENT, open_session

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    # the names are the same without it, and a big model opens sooner
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # else it copies every weight into a layout of its own; without, weights beside the file stay mapped from the disk
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = open_session(file, options, ["CPUExecutionProvider"], told=told or file)
    outputs = [_symbols(node, told or file) for node in session.get_outputs()]
    names = [name for name, _, _ in outputs]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return signatures.from_symbols([_symbols(node, told or file) for node in session.get_inputs()], outputs, run=run)


def external_files(file: Path) -> tuple[str, ...]:
    """The files, relative to this one, that keep the tensors which are not inside it.

    Raises BadModel where one lies outside the file's folder.
    """
    try:
        names = sorted({name for graph in _inside(_mapped(file), 7) for name in _in_graph(graph)})
    except (ValueError, UnicodeDecodeError) as error:
        raise BadModel(f"{file} is not an ONNX model: it is damaged") from error
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or name == MAIN:
            raise BadModel(f"{file} keeps weights in '{name}'; they must be in its own folder, and not in '{MAIN}'")
    return tuple(names)


def opset(file: Path) -> int:
    """The version of ONNX's own operators that the file asks for (ModelProto.opset_import, domain "")."""
    for imported in _inside(_mapped(file), 8):
        found = dict(protobuf.fields(imported))
        if not bytes(found.get(1, b"")):  # field 1 is the domain, text
            return int(found.get(2, 0))  # field 2 is the version, a number
    return 0


def _mapped(file: Path) -> memoryview:
    """Its bytes, read as they are looked at: a model without external data may have 2 GB."""
    with file.open("rb") as opened:
        # left to the garbage collector: closing it by hand fails while a slice of it is alive
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _in_graph(graph: memoryview) -> Iterator[str]:
    """GraphProto: initializer 5, node 1; NodeProto: attribute 5; AttributeProto: t 5, g 6, tensors 10, graphs 11."""
    for tensor in _inside(graph, 5):
        yield from _location(tensor)
    for node in _inside(graph, 1):
        for attribute in _inside(node, 5):
            for tensor in _inside(attribute, 5, 10):
                yield from _location(tensor)
            for inner in _inside(attribute, 6, 11):
                yield from _in_graph(inner)


def _location(tensor: memoryview) -> Iterator[str]:
    """TensorProto: external_data 13, each an entry of key 1 and value 2."""
    for entry in _inside(tensor, 13):
        pair = {number: bytes(value).decode() for number, value in protobuf.fields(entry) if not isinstance(value, int)}
        if pair.get(1) == "location":
            yield pair.get(2, "")


def _inside(message: memoryview, *numbers: int) -> Iterator[memoryview]:
    for number, value in protobuf.fields(message):
        if number in numbers and not isinstance(value, int):
            yield value


def _symbols(node: Any, told: Path) -> signatures.Symbols:
    kind = str(node.type).removeprefix("tensor(").removesuffix(")")
    if kind not in DTYPES and str(node.type).startswith("tensor("):
        raise Unsupported(
            f"'{node.name}' of {told} is {node.type}, and no request or answer holds {kind} numbers; cast it inside "
            "the model, to float32 say, and export it again"
        )
    if kind not in DTYPES:
        hint = "; skl2onnx leaves it out with options={'zipmap': False}" if kind.startswith("seq(map") else ""
        raise Unsupported(f"'{node.name}' of {told} is {node.type}, and modelkeep serves tensors only{hint}")
    return str(node.name), DTYPES[kind], node.shape
