"""Nodes whose weights are constants, as the modules of torch.nn that they were: so they can be trained, grown and read.

A matrix that several nodes use is no layer's own (write.py keeps it as one parameter). Vectors that several use are
copied for each: exporters join those that are equal by chance, as all fresh biases are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.convert.onnx_source import neural
from modelkeep.convert.onnx_source.graph import Graph, Node
from modelkeep.errors import Unsupported

if TYPE_CHECKING:
    from modelkeep.types import Array


@dataclass(frozen=True)
class Layer:
    """``make`` builds the module; ``call`` runs it, with {layer} and the values of ``inputs`` ({0}, {1}, …) in it."""

    make: str
    state: dict[str, Array]
    inputs: Sequence[str]
    named: str = ""
    call: str = "{layer}({0})"
    uses: Sequence[Callable[..., Any]] = ()


def find(node: Node, graph: Graph, uses: dict[str, int]) -> Layer | None:
    """The layer that a node is, or None where it is an operator without weights of its own."""
    builder = LAYERS.get(node.operator)
    return builder(node, _Weights(node, graph, uses)) if builder else None


class _Weights:
    """The inputs of one node that are constants and its own."""

    def __init__(self, node: Node, graph: Graph, uses: dict[str, int]) -> None:
        self.node, self.graph, self.uses = node, graph, uses

    def given(self, position: int) -> bool:
        """Whether the node has that input at all."""
        return position < len(self.node.inputs) and self.node.inputs[position] != ""

    def own(self, position: int) -> Array | None:
        """The constant, unless it is a matrix that other nodes use too."""
        if not self.given(position):
            return None
        name = self.node.inputs[position]
        value = self.graph.constants.get(name)
        shared = value is not None and value.ndim > 1 and self.uses[name] > 1
        return None if value is None or value.dtype.kind != "f" or shared else value

    def owns(self, *positions: int) -> bool:
        """Whether each of these inputs is such a constant or left out."""
        return all(self.own(p) is not None or not self.given(p) for p in positions)

    def single(self) -> bool:
        """Whether the node gives one value only."""
        return not any(self.node.outputs[1:])


def _dtype(weight: Array) -> str:
    return "" if weight.dtype == np.float32 else f", dtype=torch.{weight.dtype.name}"


def _state(weight: Array, bias: Array | None) -> dict[str, Array]:
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def _conv(node: Node, found: _Weights) -> Layer | None:
    weight, bias = found.own(1), found.own(2)
    if weight is None or weight.ndim not in (3, 4, 5) or not found.owns(2):
        return None
    k, a = weight.ndim - 2, node.attributes
    kernel, ones = list(weight.shape[2:]), [1] * k
    strides, dilations, group = a.get("strides") or ones, a.get("dilations") or ones, a.get("group", 1)
    pads, auto = a.get("pads") or [0] * (2 * k), a.get("auto_pad", "NOTSET")
    even = auto in ("NOTSET", "VALID", "") and pads[:k] == pads[k:]
    padding = [0] * k if not even or auto == "VALID" else pads[:k]
    call, uses = "{layer}({0})", []
    if not even:
        wide = f"around({{0}}, {kernel}, {strides}, {dilations}, {pads}, {auto!r})"
        call, uses = f"{{layer}}(F.pad({{0}}, {wide}))", [neural.around]
    channels = f"{weight.shape[1] * group}, {weight.shape[0]}, {tuple(kernel)}"
    make = (
        f"nn.Conv{k}d({channels}, stride={tuple(strides)}, padding={tuple(padding)}, dilation={tuple(dilations)}, "
        f"groups={group}, bias={bias is not None}{_dtype(weight)})"
    )
    return Layer(make, _state(weight, bias), node.inputs[:1], node.inputs[1], call, uses)


def _conv_transpose(node: Node, found: _Weights) -> Layer | None:
    weight, bias = found.own(1), found.own(2)
    if weight is None or weight.ndim not in (3, 4, 5) or not found.owns(2):
        return None
    k, a = weight.ndim - 2, node.attributes
    pads, group = a.get("pads") or [0] * (2 * k), a.get("group", 1)
    if "output_shape" in a or a.get("auto_pad", "NOTSET") != "NOTSET" or pads[:k] != pads[k:]:
        return None
    settings = {
        "stride": a.get("strides") or [1] * k,
        "padding": pads[:k],
        "output_padding": a.get("output_padding") or [0] * k,
        "dilation": a.get("dilations") or [1] * k,
    }
    if any(
        o >= max(s, d)
        for o, s, d in zip(settings["output_padding"], settings["stride"], settings["dilation"], strict=True)
    ):
        return None  # PyTorch takes no such padding
    told = ", ".join(f"{name}={tuple(value)}" for name, value in settings.items())
    channels = f"{weight.shape[0]}, {weight.shape[1] * group}, {tuple(weight.shape[2:])}"
    make = f"nn.ConvTranspose{k}d({channels}, {told}, groups={group}, bias={bias is not None}{_dtype(weight)})"
    return Layer(make, _state(weight, bias), node.inputs[:1], node.inputs[1])


def _linear(node: Node, found: _Weights) -> Layer | None:
    """``Linear`` (a MatMul with its bias) and the Gemm that is one."""
    weight, bias, a = found.own(1), found.own(2), node.attributes
    if weight is None or not found.owns(2) or node.inputs[0] in found.graph.constants:
        return None
    if a.get("transA") or a.get("alpha", 1.0) != 1.0 or (found.given(2) and a.get("beta", 1.0) != 1.0):
        return None
    weight = weight if a.get("transB") else weight.T
    bias = None if bias is None else bias.reshape(-1)
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    make = f"nn.Linear({weight.shape[1]}, {weight.shape[0]}, bias={bias is not None}{_dtype(weight)})"
    return Layer(make, _state(weight, bias), node.inputs[:1], node.inputs[1])


def _batch_norm(node: Node, found: _Weights) -> Layer | None:
    a, rank = node.attributes, found.graph.ranks.get(node.inputs[0])
    weight, bias, mean, var = (found.own(position) for position in range(1, 5))
    if a.get("training_mode"):
        raise Unsupported(f"{node} was exported while it was training; export the model in eval mode")
    if weight is None or bias is None or mean is None or var is None or rank not in (2, 3, 4, 5):
        return None
    momentum = round(1 - a.get("momentum", 0.9), 7)
    settings = f"{len(weight)}, eps={a.get('epsilon', 1e-5)}, momentum={momentum}{_dtype(weight)}"
    make = f"nn.BatchNorm{max(rank - 2, 1)}d({settings})"
    state = {**_state(weight, bias), "running_mean": mean, "running_var": var}
    return Layer(make, {**state, "num_batches_tracked": np.array(0)}, node.inputs[:1], node.inputs[1])


def _layer_norm(node: Node, found: _Weights) -> Layer | None:
    weight, bias, axis = found.own(1), found.own(2), node.attributes.get("axis", -1)
    rank = found.graph.ranks.get(node.inputs[0])
    axis = axis - rank if axis >= 0 and rank else axis
    if weight is None or not found.owns(2) or not found.single() or weight.ndim != -axis:
        return None
    if bias is not None and bias.shape != weight.shape:
        return None
    eps = node.attributes.get("epsilon", 1e-5)
    make = f"nn.LayerNorm({tuple(weight.shape)}, eps={eps}, bias={bias is not None}{_dtype(weight)})"
    return Layer(make, _state(weight, bias), node.inputs[:1], node.inputs[1])


def _embedding(node: Node, found: _Weights) -> Layer | None:
    weight = found.own(0)
    if weight is None or weight.ndim != 2 or node.attributes.get("axis", 0) != 0:
        return None
    make = f"nn.Embedding({weight.shape[0]}, {weight.shape[1]}{_dtype(weight)})"
    return Layer(make, {"weight": weight}, node.inputs[1:2], node.inputs[0])


def _dropout(node: Node, found: _Weights) -> Layer | None:
    ratio: Any = node.attributes.get("ratio", 0.5)
    if found.given(1):
        ratio = found.graph.constants.get(node.inputs[1])
    training = found.graph.constants.get(node.inputs[2]) if found.given(2) else None
    if ratio is None or (found.given(2) and (training is None or bool(np.ravel(training)[0]))) or not found.single():
        raise Unsupported(f"{node} was exported while it was training; export the model in eval mode")
    return Layer(f"nn.Dropout({float(np.ravel(ratio)[0]):.6g})", {}, node.inputs[:1], "dropout")


ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""The gates in PyTorch's order (ifgo, rzn) by their place in ONNX's (iofc, zrh)."""
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def _recurrent(node: Node, found: _Weights) -> Layer:
    w, r, b, a, kind = found.own(1), found.own(2), found.own(3), node.attributes, node.operator
    both, hidden = a.get("direction", "forward") == "bidirectional", a.get("hidden_size")
    usual = [name.lower() for name in DEFAULTS[kind] * (2 if both else 1)]
    told = [name.lower() for name in a.get("activations") or usual]
    relu = kind == "RNN" and set(told) == {"relu"}
    odd = [name for name in ("clip", "input_forget", "layout") if a.get(name)]
    odd += ["activations"] if told != usual and not relu else []
    odd += ["linear_before_reset=0"] if kind == "GRU" and not a.get("linear_before_reset") else []
    odd += [name for name, place in (("sequence_lens", 4), ("peepholes", 7)) if found.given(place)]
    if w is None or r is None or not found.owns(3) or odd:
        raise Unsupported(f"{node} has {', '.join(odd) or 'weights that are computed'}, which PyTorch's {kind} has not")
    state: dict[str, Array] = {}
    for direction, end in enumerate(("", "_reverse")[: len(w)]):
        parts = {"weight_ih": w[direction], "weight_hh": r[direction]}
        if b is not None:
            parts |= {"bias_ih": b[direction][: len(w[0])], "bias_hh": b[direction][len(w[0]) :]}
        for name, value in parts.items():
            gates = np.split(value, len(ORDER[kind]))
            state[f"{name}_l0{end}"] = np.concatenate([gates[at] for at in ORDER[kind]])
    extra = ", nonlinearity='relu'" if relu else ""
    make = f"nn.{kind}({w.shape[2]}, {hidden}, bias={b is not None}, bidirectional={both}{extra}{_dtype(w)})"
    starts = [name for name in node.inputs[5:7] if name]
    given = ", ".join(f"{{{place}}}" for place in range(len(starts) + 1))
    back = ", reverse=True" if a.get("direction") == "reverse" else ""
    inputs = [node.inputs[0], *starts]
    return Layer(make, state, inputs, node.inputs[1], f"recurrent({{layer}}, {given}{back})", (neural.recurrent,))


LAYERS: dict[str, Callable[[Node, _Weights], Layer | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Linear": _linear,
    "Gemm": _linear,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Gather": _embedding,
    "Dropout": _dropout,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
