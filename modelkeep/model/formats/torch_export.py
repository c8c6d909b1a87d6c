"""torch.export programs (.pt2): graph and weights in one file, which needs no code of yours."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel
from modelkeep.model import free_dimensions
from modelkeep.model import signature as signatures
from modelkeep.model.copying import copied
from modelkeep.model.formats import pt2
from modelkeep.types import Bounds, Model, Signature

MAIN = "model.pt2"
UNBOUNDED = 2**40
"""A range that ends above this has no end: torch.export writes sys.maxsize or an infinity."""


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt. Raises Untrusted where the archive could run code, BadModel for one that is damaged."""
    if not trust:
        pt2.check(source)
    copied(source, into / MAIN)
    program = _open(into / MAIN, told=source)
    signature = read_signature(program)
    return Model(into, "torch-export", signature, (MAIN,))


def module(model: Model) -> torch.nn.Module:
    """The exported module; train() and eval() change nothing, for the graph is of eval mode."""
    return _module(_open(model.main))


def from_module(built: torch.nn.Module, into: Path, rows: Dataset, like: Signature | None = None) -> Model:
    """Export a module with a free batch to ``into``; its signature is ``like``, or as seen on ``rows``.

    Raises BadModel where torch.export cannot follow its code.
    """
    from modelkeep.model.formats import torch as torch_format

    signature = like or torch_format.observe(built, rows)
    batch = torch.export.Dim("batch", min=1)
    arrays = (rows.inputs[t.name][[0] * 2].astype(t.dtype) for t in signature.inputs)
    example = tuple(torch.from_numpy(array) for array in arrays)
    shapes = tuple({0: batch} if t.shape[:1] == (None,) else {} for t in signature.inputs)
    try:
        torch.export.save(torch.export.export(built, example, dynamic_shapes=_shapes(built, shapes)), into / MAIN)
    except Exception as error:  # torch.export has no error of its own; the sentence says the way out
        line = str(error).strip().partition("\n")[0]
        raise BadModel(f"the module cannot be exported ({line}); save its state_dict() and pass --factory") from error
    return Model(into, "torch-export", signature, (MAIN,))


def read_signature(program: torch.export.ExportedProgram) -> Signature:
    """Inputs named by the exported function's parameters; symbolic dimensions as free, with the range they have."""
    from modelkeep.model.formats import torch as torch_format

    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    wanted = program.graph_signature.user_inputs
    outputs = [values[str(name)] for name in program.graph_signature.user_outputs]
    tree = torch.utils._pytree.tree_unflatten(outputs, program.call_spec.out_spec)
    ranges = {str(symbol): _bounds(limits) for symbol, limits in program.range_constraints.items()}
    signature = signatures.from_symbols(
        [_symbols(str(name), values[str(name)]) for name in wanted],
        [_symbols(name, value) for name, value in torch_format.named(tree).items()],
        {name: limits for name, limits in ranges.items() if limits != Bounds()},
    )
    return free_dimensions.reworded(signature)


def _bounds(limits: Any) -> Bounds:
    """torch.export's range of a symbol; it takes 0 and 1 for constants, so a range from 2 says nothing of them."""
    low, high = int(limits.lower), limits.upper
    return Bounds(1 if low <= 2 else low, int(high) if high < UNBOUNDED else None)


def _symbols(name: str, value: Any) -> signatures.Symbols:
    if not isinstance(value, torch.Tensor):
        raise BadModel(f"'{name}' of the exported program is a {type(value).__name__}; export it with tensors only")
    dtype = str(value.dtype).removeprefix("torch.")
    shape = [size if isinstance(size, int) else str(size) for size in value.shape]
    return name, "float32" if dtype == "bfloat16" else dtype, shape


def _open(file: Path, told: Path | None = None) -> torch.export.ExportedProgram:
    try:
        return torch.export.load(file)
    except Exception as error:  # the archive's reader has no error of its own
        line = (str(error).strip() or repr(error)).partition("\n")[0]
        raise BadModel(f"{told or file} is not a torch.export file that can be read: {line}") from error


class _Positional(torch.nn.Module):
    """An exported module called with its inputs by position, however it was exported."""

    def __init__(self, inner: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.names = inner, names

    def forward(self, *inputs: torch.Tensor) -> Any:
        first = len(inputs) - len(self.names)
        return self.inner(*inputs[:first], **dict(zip(self.names, inputs[first:], strict=True)))


def _module(program: torch.export.ExportedProgram) -> torch.nn.Module:
    graph = program.module()
    # torch refuses train() and eval() on an exported module; a training loop calls both
    for name in ("train", "eval"):
        setattr(graph, name, types.MethodType(getattr(torch.nn.Module, name), graph))
    keywords = _keywords(program)
    return (_Positional(graph, keywords) if keywords else graph).eval()


def _keywords(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The names of the inputs that were exported as keyword arguments; they follow the others."""
    _, keywords = program.example_inputs or ((), {})
    return tuple(keywords)


def _shapes(built: torch.nn.Module, shapes: tuple[dict[int, Any], ...]) -> Any:
    return (shapes,) if isinstance(built, _Positional) else shapes
