"""Inputs and outputs under other names than the model's own, as ``--rename old=new`` asks for."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput
from modelkeep.model import folder
from modelkeep.model.copying import copied
from modelkeep.types import Model, Runner, Signature, TensorSpec

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

Names = Mapping[str, str]
"""Old name → new name, of inputs and outputs alike."""


def renamed(rows: Dataset, names: Names) -> Dataset:
    """The same rows under the new names of the inputs."""
    return Dataset({names.get(name, name): array for name, array in rows.inputs.items()}, rows.labels, rows.source)


def renamed_signature(signature: Signature, names: Names) -> Signature:
    """The same signature with new names of inputs and outputs. Raises BadInput where one does not exist, or twice."""
    specs = (*signature.inputs, *signature.outputs)
    known = [t.name for t in specs]
    for old in names:
        if old not in known:
            raise BadInput(
                f"no input or output is called '{old}', so it cannot be renamed; there are {', '.join(known)}"
            )
    new = [names.get(name, name) for name in known]
    if len(set(new)) < len(new):
        twice = next(name for name in new if new.count(name) > 1)
        raise BadInput(f"two of the inputs and outputs would be called '{twice}'; rename to names that differ")
    sizes = {f"{t.name}.{axis}": f"{names.get(t.name, t.name)}.{axis}" for t in specs for axis in range(len(t.shape))}

    def spec(one: TensorSpec) -> TensorSpec:
        axes = ("+".join(sizes.get(part, part) for part in name.split("+")) if name else None for name in one.axes)
        return replace(one, name=names.get(one.name, one.name), axes=tuple(axes))

    bounds = {sizes.get(name, name): limits for name, limits in signature.bounds.items()}
    return Signature(tuple(map(spec, signature.inputs)), tuple(map(spec, signature.outputs)), bounds)


def keep_reference(model: Model, names: Names, into: Path) -> None:
    """The model's reference rows for what was made of it at ``into``, under the new names."""
    rows = folder.reference(model.path) if names else None
    if rows is None:
        folder.copy_reference(model.path, into)
    else:
        folder.keep_reference(into, renamed(rows, names))


class Renamed:
    """A Runner under other names of its inputs and outputs, as ``names`` (old → new) says."""

    def __init__(self, runner: Runner, names: Names) -> None:
        self._runner, self._names = runner, dict(names)
        self._old = {new: old for old, new in self._names.items()}
        self.signature = renamed_signature(runner.signature, self._names)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner."""
        found = self._runner.run({self._old.get(name, name): array for name, array in inputs.items()})
        return {self._names.get(name, name): array for name, array in found.items()}

    def close(self) -> None:
        """See Runner."""
        self._runner.close()


# ── ONNX files ───────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def renamed_onnx(model: Model, names: Names, room: Path) -> Iterator[Model]:
    """The ONNX model under the new names, in a folder inside ``room`` that is gone afterwards; itself without names.

    Raises what ``renamed_signature`` does.
    """
    if not names:
        yield model
        return
    signature = renamed_signature(model.signature, names)
    with tempfile.TemporaryDirectory(dir=room) as there:
        for name in model.files:
            (target := Path(there) / name).parent.mkdir(parents=True, exist_ok=True)
            copied(model.path / name, target)
        rename_file(Path(there) / model.files[0], names)
        yield replace(model, path=Path(there), signature=signature)


def rename_file(file: Path, names: Names) -> None:
    """Give the inputs and outputs of an ONNX file new names, in place; weights beside it are not touched."""
    import onnx

    proto = onnx.load(file, load_external_data=False)
    _rename(proto.graph, {**_moved(proto.graph, names), **names})
    onnx.save(proto, file)


def _moved(graph: Any, names: Names) -> dict[str, str]:
    """Other names for the values inside the graph that have one of the new names."""
    there = set(_values(graph))
    found: dict[str, str] = {}
    for new in set(names.values()) & there - set(names):
        free = f"{new}_"
        while free in there:
            free += "_"
        there.add(free)
        found[new] = free
    return found


def _values(graph: Any) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield from node.output
        for inner in _inner(node):
            yield from _values(inner)


def _rename(graph: Any, names: Names) -> None:
    """ONNX gives no two values one name, be they in a graph or in another inside it, so all are renamed alike."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            for at, name in enumerate(ends):
                ends[at] = names.get(name, name)
        for inner in _inner(node):
            _rename(inner, names)


def _inner(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
