"""Which layer is the first whose answers differ between a PyTorch module and the ONNX graph that was made of it.

The module's layers are watched with hooks, the graph's values are all made outputs; exporters note for each node which
submodule it came from, so the last value of a submodule is that layer's answer.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch

from modelkeep.convert.exporters import exportable
from modelkeep.convert.onnx_graph import SCOPES
from modelkeep.model.engines.onnxruntime import SILENT, open_session
from modelkeep.model.formats import torch as torch_format
from modelkeep.model.tally import Tolerance
from modelkeep.types import BATCH, Model, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

ROWS = 4
"""Every value between is held at once, so few rows are run."""


FUSED = (
    "the module itself answers otherwise where PyTorch's fused attention is off (torch.backends.mha): it zeroes padded "
    "places; pass memory_key_padding_mask to the decoder, or masks that leave no padded place to be read"
)


class Layer(NamedTuple):
    """A submodule's name and class, and what it answered."""

    name: str
    kind: str
    answer: Array


def torch_onnx(reference: Model, made: Model, old_inputs: Arrays, new_inputs: Arrays, rule: Tolerance) -> str:
    """A phrase that names the layer. Inputs are under the names of each model."""
    old, new = _few(reference.signature, old_inputs), _few(made.signature, new_inputs)
    if _fused(reference, old, rule):
        return FUSED
    layers = _watched(reference, old)
    with _opened(made) as (session, values):
        answers = dict(zip(values, session.run(list(values), dict(new)), strict=True))
    agreed, unseen = "", list[str]()
    for number, layer in enumerate(layers):
        value = _match(layer, values, answers)
        if value is not None and _folded(layer, value, layers[number + 1 :], rule):
            value = None
        gap = None if value is None else _beyond(layer.answer, value, rule)
        if gap is not None:
            unless = f", unless it is {_either(unseen)} before it, which the graph does not show" if unseen else ""
            before = f"; '{agreed}' before it agrees" if agreed else ""
            return f"the first layer that differs is '{layer.name}' ({layer.kind}), by up to {gap:.3g}{unless}{before}"
        if value is None:
            unseen.append(layer.name)
        else:
            agreed, unseen = layer.name, []
    if agreed:
        return f"all layers that could be compared agree, so what differs comes after '{agreed}'"
    return "no layer could be matched with a node of the graph, so any of them may be the first that differs"


def _folded(layer: Layer, value: Array, later: list[Layer], rule: Tolerance) -> bool:
    """Whether the value is a later layer's answer: an exporter folded that one (a batch norm) into this."""
    return _beyond(layer.answer, value, rule) is not None and any(
        other.answer.shape == value.shape and _beyond(other.answer, value, rule) is None for other in later
    )


def _fused(reference: Model, inputs: Arrays, rule: Tolerance) -> bool:
    """Whether the module answers otherwise without PyTorch's fused attention, which only eager mode has."""
    module = torch_format.module(reference)
    with_it = torch_format.forward(module, reference.signature, inputs)
    with exportable():
        without = torch_format.forward(module, reference.signature, inputs)
    return any(
        want.shape != without[name].shape or _beyond(want, without[name], rule) is not None
        for name, want in with_it.items()
        if want.dtype.kind == "f"
    )


def _either(names: list[str]) -> str:
    told = [f"'{name}'" for name in names[:3]] + ([f"{len(names) - 3} others"] if len(names) > 3 else [])
    return " or ".join(told)


def _few(signature: Signature, inputs: Arrays) -> dict[str, Array]:
    batched = all(t.axes[:1] == (BATCH,) for t in signature.inputs)
    return {name: array[:ROWS] if batched else array for name, array in inputs.items()}


def _watched(reference: Model, inputs: Arrays) -> list[Layer]:
    """The layers in the order in which they finish; one that runs more than once is left out."""
    module = torch_format.module(reference)
    seen: dict[str, list[Layer]] = {}
    handles = []
    for name, layer in module.named_modules():
        if name:
            kind = type(layer).__name__

            def note(_: Any, __: Any, answer: Any, name: str = name, kind: str = kind) -> None:
                found = answer[0] if isinstance(answer, (tuple, list)) and answer else answer
                if isinstance(found, torch.Tensor):
                    seen.setdefault(name, []).append(Layer(name, kind, found.detach().float().numpy().copy()))

            handles.append(layer.register_forward_hook(note))
    try:
        with exportable():
            torch_format.forward(module, reference.signature, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [runs[0] for runs in seen.values() if len(runs) == 1]


@contextlib.contextmanager
def _opened(made: Model) -> Iterator[tuple[Any, dict[str, set[str]]]]:
    """A session whose outputs are all values of the graph, and for each of them the submodules that it came from."""
    graph = onnx.load(str(made.main), load_external_data=False)
    kept = {output.name for output in graph.graph.output}
    values: dict[str, set[str]] = {}
    for node in graph.graph.node:
        for name in filter(None, node.output):
            values[name] = _scopes(node)
            if name not in kept:
                graph.graph.output.append(onnx.ValueInfoProto(name=name))
    with tempfile.TemporaryDirectory() as room:
        for name in made.files[1:]:
            _link(made.path / name, Path(room) / name)
        onnx.save(graph, f"{room}/model.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = SILENT
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        yield open_session(Path(room) / "model.onnx", options, ["CPUExecutionProvider"]), values


def _scopes(node: onnx.NodeProto) -> set[str]:
    """dynamo notes a list of scopes; the older exporter names a node after its path, ``/inner/block/norm/Add``."""
    noted = next((prop.value for prop in node.metadata_props if prop.key == SCOPES), "")
    if noted:
        try:
            scopes = [str(scope) for scope in ast.literal_eval(noted)]
        except (ValueError, SyntaxError):
            scopes = []
    else:
        parts = node.name.strip("/").split("/")[:-1]
        scopes = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return {scope.removeprefix("inner.") for scope in scopes}


def _match(layer: Layer, values: dict[str, set[str]], answers: Arrays) -> Array | None:
    """The last value that came from this layer and has the shape of its answer."""
    own = [name for name, scopes in values.items() if layer.name in scopes]
    for name in reversed(own):
        if answers[name].shape == layer.answer.shape and answers[name].dtype.kind == "f":
            return answers[name]
    return None


def _beyond(want: Array, got: Array, rule: Tolerance) -> float | None:
    """The largest difference where it is more than the rule allows of the largest answer; NaN counts as that."""
    x, y = want.astype(np.float64), got.astype(np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return float("nan")
    gap = float(np.abs(x - y)[both].max(initial=0.0))
    return gap if gap > rule.atol + rule.rtol * float(np.abs(x[both]).max(initial=0.0)) else None


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
