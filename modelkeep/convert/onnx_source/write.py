"""A graph as the source of one torch.nn.Module, and the arrays of its state_dict.

The source stands alone: the functions that it calls are copied into it. Everything taken from the file is either a
number, or text written by repr() or reduced to letters, digits and underscores, so a hostile file writes no code.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import keyword
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx.defs
import torch
from onnx import helper

from modelkeep.convert.onnx_source import elementwise, layers, neural, shaping, sizes
from modelkeep.convert.onnx_source.graph import Graph, Node, learned, readers
from modelkeep.convert.onnx_source.operators import FLAT, MEASURES, REFUSED, SIZES, TENSORS, Written
from modelkeep.errors import Unsupported

if TYPE_CHECKING:
    from modelkeep.types import Array

CLASS = "Network"
HEAD = '''"""Written by modelkeep from an ONNX file: it stands alone, and is yours to read and to edit."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sizes = list[int]
Number = Index = Any
'''
WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "InstanceNormalization": (1, 2),
    "BatchNormalization": (1, 2),
    "PRelu": (1,),
    "Gather": (0,),
    "Transpose": (0,),
    "Add": (0, 1),
    "Mul": (0, 1),
    "Concat": tuple(range(64)),
    "Expand": (0,),
}
"""Where a constant that no layer owns is a parameter; anywhere else it is a buffer."""
MEETS_VALUES = ("MatMul", "Add", "Mul", "Einsum", "Gemm")
"""Here it is one only where it meets what was learned: what meets positions alone (rotary frequencies) is none."""
MASKED = -100.0
"""What is added to a score that is not to count is this, or less; no weight is as large."""
SEVERAL = ("Split", "TopK", "LSTM", "GRU", "RNN")
"""Operators that give more than one value."""
MODULES = (elementwise, neural, shaping, sizes)
TAKEN = {"self", "torch", "F", "nn", "math", "device", "Any", "Tensor", "Sizes", "Number", "Index", *dir(builtins)}


OWN = frozenset(dir(torch.nn.Module()))
"""Names that a module's own attributes must not have."""


class Source(NamedTuple):
    """``text`` defines ``Network``; ``state`` holds its parameters and buffers."""

    text: str
    state: dict[str, Array]


def write(graph: Graph) -> Source:
    """Raises Unsupported where a node does what its PyTorch function cannot."""
    return _Writer(graph).source()


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.uses = graph, graph.uses()
        self.state: dict[str, Array] = {}
        self.made: list[str] = []
        self.lines: list[str] = []
        self.copied: dict[str, Callable[..., Any]] = {}
        self.attributes: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.sized: set[str] = set()
        self.names: set[str] = {*TAKEN, *(name for module in MODULES for name in vars(module))}
        self.taken = {*OWN}
        self.holders: dict[str, set[str]] = {}
        self.last = {name: at for at, node in enumerate(graph.nodes) for name in node.inputs}
        self.parameters = _parameters(graph)

    def source(self) -> Source:
        for name in self.graph.inputs:
            self.variables[name] = self._name(name)
        given = [self.variables[name] for name in self.graph.inputs]
        for at, node in enumerate(self.graph.nodes):
            self._node(node)
            self._release(node, at)
        answers = [self._tensor(name) for name in self.graph.outputs]
        several = ", ".join(f"{name!r}: {answer}" for name, answer in zip(self.graph.outputs, answers, strict=True))
        self.lines.append(f"return {answers[0]}" if len(answers) == 1 else f"return {{{several}}}")
        if any("device=device" in line for line in self.lines):
            self.lines.insert(0, f"device = {given[0]}.device" if given else "device = torch.device('cpu')")
        body = ["super().__init__()", *self.made]
        text = (
            f"{HEAD}\n\n{self._functions()}class {CLASS}(nn.Module):\n"
            f"    def __init__(self) -> None:\n{_indented(body)}\n"
            f"    def forward({', '.join(['self', *given])}):\n{_indented(self.lines)}"
        )
        return Source(text, self.state)

    # ── one node ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _node(self, node: Node) -> None:
        outputs = node.outputs
        if any(outputs[1:]) and node.operator not in SEVERAL:
            used = [name for name in outputs[1:] if self.uses[name]]
            if used:
                raise Unsupported(f"{node} gives '{used[0]}' too, which modelkeep does not write in PyTorch")
            outputs = outputs[:1]
        text, sized = self._expression(node)
        if re.fullmatch(r"\w+", text):  # an Identity: another name for the same value
            self._hold(outputs[0], text)
        else:
            names = [self._name(node.operator) if self.uses[name] else "_" for name in outputs]
            for output, variable in zip(outputs, names, strict=True):
                self._hold(output, variable)
            target = ", ".join(names) + ("," if len(names) == 1 and node.operator in SEVERAL else "")
            if node.operator in SEVERAL and len(names) < 3 and node.operator not in ("Split", "TopK"):
                target = ", ".join([*names, "*_"])
            self.lines.append(f"{target} = {text}")
        if sized:
            self.sized.update(outputs)

    def _hold(self, name: str, variable: str) -> None:
        self.variables[name] = variable
        self.holders.setdefault(variable, set()).add(name)

    def _release(self, node: Node, at: int) -> None:
        """Values that nobody reads any more are let go, as long as they are not the answer."""
        gone = []
        for variable in dict.fromkeys(self.variables.get(name, "_") for name in node.inputs):
            names = self.holders.get(variable, set())
            if (
                variable != "_"
                and names
                and all(self.last.get(n, at) <= at and n not in self.graph.outputs for n in names)
            ):
                gone.append(variable)
        if gone:
            self.lines.append(f"del {', '.join(gone)}")

    def _expression(self, node: Node) -> tuple[str, bool]:
        """The call, and whether it gives sizes."""
        layer = layers.find(node, self.graph, self.uses)
        if layer:
            return self._layer(node, layer), False
        if node.operator in MEASURES:
            return self._call(node, MEASURES[node.operator]), True
        if node.operator in SIZES and self._over_sizes(node):
            return self._call(node, SIZES[node.operator], sized=True), True
        written = FLAT.get(node.operator) if self.graph.opset < 13 else None
        return self._call(node, written or TENSORS[node.operator]), False

    def _over_sizes(self, node: Node) -> bool:
        given = [name for name in node.inputs if name]
        if node.operator == "Cast" and _kind(node.attributes["to"], node).startswith("torch.float"):
            return False
        if self.graph.ranks.get(node.outputs[0], 0) > 1:
            return False
        plain = all(name in self.sized or _is_sizes(self.graph.constants.get(name)) for name in given)
        return plain and any(name in self.sized for name in given)

    def _layer(self, node: Node, layer: layers.Layer) -> str:
        name = self._attribute(_hint(layer.named, node))
        self.made.append(f"self.{name} = {layer.make}")
        self.state.update({f"{name}.{key}": value for key, value in layer.state.items()})
        for function in layer.uses:
            self._copy(function)
        return layer.call.format(*(self._tensor(value) for value in layer.inputs), layer=f"self.{name}")

    def _call(self, node: Node, written: Written, sized: bool = False) -> str:
        if refused := REFUSED.get(node.operator, _nothing)(node, self.graph):
            raise Unsupported(f"{node} has {refused}, which modelkeep does not write in PyTorch")
        if isinstance(written, str):
            if node.attributes:
                raise Unsupported(f"{node} has {', '.join(node.attributes)}, which modelkeep does not write in PyTorch")
            return written.format(*self._operands(node))
        self._copy(written)
        signature = inspect.signature(written).parameters
        wants = _wanted(signature, len(node.inputs))
        if len(node.inputs) > len(wants):
            raise Unsupported(f"{node} has {len(node.inputs)} inputs, of which modelkeep knows {len(wants)}")
        given: list[str] = []
        for name, want in zip(node.inputs, wants, strict=False):
            given.append(self._argument(name, "Sizes" if sized else want))
        given += self._settings(node, signature)
        return f"{written.__name__}({', '.join(given)})"

    def _settings(self, node: Node, signature: Any) -> Iterator[str]:
        """The attributes, and what a function wants to know besides."""
        for name, value in node.attributes.items():
            if name in signature:
                yield f"{name}={_literal(value, name, node)}"
            elif value != _usual(node, name, self.graph.opset):
                raise Unsupported(f"{node} has {name}={value!r}, which modelkeep does not write in PyTorch")
        if "device" in signature:
            yield "device=device"
        if "parts" in signature:
            yield f"parts={len(node.outputs)}"

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _argument(self, name: str, want: str) -> str:
        constant = self.graph.constants.get(name)
        if not name:
            return "None"
        if want.startswith("Sizes"):
            if constant is not None:
                return repr(constant.tolist())
            return self.variables[name] if name in self.sized else f"{self.variables[name]}.tolist()"
        if want.startswith(("Number", "Index")):
            if constant is not None and (constant.ndim == 0 or (want.startswith("Number") and constant.size == 1)):
                return _number(constant)
            if name in self.sized:
                return self.variables[name]
        return self._tensor(name)

    def _operands(self, node: Node) -> list[str]:
        """Inputs of a template. A constant of one element is a number, which takes the other operand's type."""
        given = []
        for place, name in enumerate(node.inputs):
            others = [other for other in node.inputs if other != name and other not in self.graph.constants]
            ranks = [self.graph.ranks.get(other, 0) for other in others]
            value = self.graph.constants.get(name)
            plain = value is not None and value.size == 1 and bool(others) and value.ndim <= max(ranks)
            if (
                value is not None
                and plain
                and not (node.operator == "Where" and (place == 0 or _alone(node, self.graph)))
            ):
                number = _number(value)
                given.append(f"({number})" if number.startswith("-") else number)
            else:
                given.append(self._tensor(name))
        return given

    def _tensor(self, name: str) -> str:
        if name in self.graph.constants:
            return f"self.{self._constant(name)}"
        if name in self.sized:
            kind = self.graph.dtypes.get(name, np.dtype(np.int64)).name
            return f"torch.tensor({self.variables[name]}, dtype=torch.{kind}, device=device)"
        return self.variables[name]

    def _constant(self, name: str) -> str:
        """The parameter or buffer of a constant, made when it is first asked for.

        A vector that is a parameter is made each time: exporters join those that are equal by chance.
        """
        value, learns = self.graph.constants[name], name in self.parameters
        if name in self.attributes and not (learns and value.size == max(value.shape)):
            return self.attributes[name]
        own = self.attributes[name] = self._attribute(_hint(name, None) or "constant")
        shape = f"torch.empty({tuple(value.shape)}, dtype=torch.{_name_of(value.dtype, name)})"
        self.made.append(f"self.{own} = nn.Parameter({shape})" if learns else f"self.register_buffer({own!r}, {shape})")
        self.state[own] = value
        return own

    # ── names ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _name(self, text: str) -> str:
        """A variable that is new."""
        return _new(_identifier(text.lower()) or "x", self.names)

    def _attribute(self, text: str) -> str:
        """An attribute of the module that is new, and none of nn.Module's own."""
        own = _identifier(text) or "layer"
        return _new(own, self.taken)

    def _copy(self, function: Callable[..., Any]) -> None:
        """The function, and those of ours that it calls before it."""
        if function.__name__ in self.copied:
            return
        for name in _globals(function.__code__):
            other = function.__globals__.get(name)
            if inspect.isfunction(other) and other is not function and other.__module__.startswith(__package__ or ""):
                self._copy(other)
        self.copied[function.__name__] = function

    def _functions(self) -> str:
        texts = (inspect.getsource(function).strip() for function in self.copied.values())
        return "".join(re.sub(r"  # noqa[^\n]*", "", text) + "\n\n\n" for text in texts)


def _usual(node: Node, name: str, opset: int) -> Any:
    """The default of an attribute, which says no more than leaving it out."""
    attribute = onnx.defs.get_schema(node.operator, opset).attributes.get(name)
    value = helper.get_attribute_value(attribute.default_value) if attribute and attribute.default_value.type else None
    return value.decode() if isinstance(value, bytes) else value


def _nothing(node: Node, graph: Graph) -> str:
    return ""


def _parameters(graph: Graph) -> set[str]:
    """Constants that a training loop is to change."""
    wanted = {
        name
        for name, node, place in readers(graph)
        if place in WEIGHTS.get(node.operator, ())
        and graph.is_float(name)
        and graph.constants[name].ndim > (node.operator in ("Gather", "Transpose"))
        and not _trivial(node, name, graph)
    }
    owned = {name for name, node, place in readers(graph) if node.operator in layers.LAYERS and graph.is_float(name)}
    values = learned(
        graph, {name for name in owned | wanted if graph.constants[name].ndim > 1} - _beside(graph, wanted)
    )
    joined = {name for node in graph.nodes if node.operator in ("Concat", "Add") for name in node.inputs}
    found = set()
    for name, node, _ in readers(graph):
        meets = any(other in values for other in node.inputs if other != name)
        fits = node.operator != "Expand" or node.outputs[0] in joined
        if name in wanted and fits and (meets or node.operator not in MEETS_VALUES):
            found.add(name)
    return found


def _beside(graph: Graph, wanted: set[str]) -> set[str]:
    """Those of the constants that stand where only what they meet says whether they are weights."""
    return {name for name, node, _ in readers(graph) if name in wanted and node.operator in (*MEETS_VALUES, "Expand")}


def _trivial(node: Node, name: str, graph: Graph) -> bool:
    """A number, a mask, and the ones and zeros of an InstanceNormalization that exporters write a group norm with."""
    value = graph.constants[name]
    if node.operator == "Add" and value.min() <= MASKED and len(np.unique(value)) == 2:
        return True
    values = [graph.constants.get(other) for other in node.inputs[1:]]
    plain = all(one is not None and bool((one == one.flat[0]).all()) for one in values)
    return value.size == 1 or (node.operator == "InstanceNormalization" and plain)


def _alone(node: Node, graph: Graph) -> bool:
    """Whether both answers of a Where are constants, so that their type is nobody else's."""
    return all(name in graph.constants for name in node.inputs[1:])


def _is_sizes(value: Array | None) -> bool:
    return value is not None and value.dtype.kind in "iub" and value.ndim < 2


def _wanted(signature: Any, count: int) -> list[str]:
    """The annotation of each positional argument."""
    found: list[str] = []
    for parameter in signature.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return [str(parameter.annotation)] * count
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            found.append(str(parameter.annotation))
    return found


def _globals(code: Any) -> Iterator[str]:
    """The names that a function looks up outside itself."""
    yield from (one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL")
    for inner in code.co_consts:
        if inspect.iscode(inner):
            yield from _globals(inner)


def _identifier(text: str) -> str:
    found = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
    found = f"x{found}" if found[:1].isdigit() else found
    return f"{found}_" if keyword.iskeyword(found) else found


def _new(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def _hint(constant: str, node: Node | None) -> str:
    """A layer's name from that of its weight, where that was not made up by an exporter."""
    plain = re.sub(r"[._/](weight|kernel|bias|gamma|W|ReadVariableOp)(:\d+)?$", "", constant) if node else constant
    made_up = "::" in constant or re.match(r"^(val|const|onnx|\d)", constant)
    return (node.operator.lower() if node else "") if made_up else plain


def _number(value: Array) -> str:
    return _literal(value.reshape(()).item(), "", None, single=value.dtype == np.float32)


def _literal(value: Any, name: str, node: Node | None, *, single: bool = False) -> str:
    if name in ("to", "dtype"):
        return _kind(value, node)
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise Unsupported(f"{node} has {name} of {value.size} values, which modelkeep does not write in PyTorch")
        return f"({_number(value)}, torch.{_name_of(value.dtype, name)})"
    if isinstance(value, float):
        if not math.isfinite(value):
            return f"float({str(value)!r})"
        short = float(str(np.float32(value))) if single and abs(value) < 1e38 else value
        return repr(short)
    if value is None:
        raise Unsupported(f"{node} holds a graph of its own, which modelkeep does not write in PyTorch")
    return repr(value)


def _kind(number: int, node: Node | None) -> str:
    return f"torch.{_name_of(helper.tensor_dtype_to_np_dtype(number), str(node))}"


def _name_of(dtype: Any, told: str) -> str:
    name = str(np.dtype(dtype).name)
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise Unsupported(f"{told} is of type {name}, which PyTorch has not")
    return name


def _indented(lines: Sequence[str]) -> str:
    return "".join(f"        {line}\n" for line in lines)
