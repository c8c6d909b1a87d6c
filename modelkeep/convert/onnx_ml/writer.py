"""Writes the nodes and constants that take the place of one node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from modelkeep.errors import Unsupported


@dataclass
class Writer:
    """``nodes`` and ``constants`` so far, names beginning with ``prefix``; they are those of opset 13 or later."""

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, values: Any, dtype: Any) -> str:
        """The name of a constant of these values."""
        name = f"{self.prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """The name of what one node gives; ``output`` where it must have a certain one."""
        name = output or f"{self.prefix}/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def floats(self, name: str) -> str:
        """The same values in 32 bits: these operators take any number and compute with floats."""
        return self.node("Cast", name, to=onnx.TensorProto.FLOAT)

    def transformed(self, scores: str, kind: str, output: str) -> None:
        """Scores [rows, classes] as ``output``, after what ONNX calls a post transform. Unsupported for PROBIT."""
        operators = {"NONE": "Identity", "LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax"}
        if kind not in operators:
            raise Unsupported(f"the scores of {self.prefix} are transformed by {kind}, which is not known")
        axis = {"axis": 1} if kind == "SOFTMAX" else {}
        self.node(operators[kind], scores, output=output, **axis)

    def labelled(self, place: str, labels: Any, output: str) -> None:
        """Each row's label by its place [rows] among ``labels``, which are whole numbers."""
        self.node("Gather", self.constant(labels, np.int64), place, output=output)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes by name, text decoded."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        return [plain(one) for one in value] if isinstance(value, list) else value

    return {a.name: plain(helper.get_attribute_value(a)) for a in node.attribute}


def whole_labels(given: dict[str, Any], *names: str) -> list[int]:
    """The classes of a classifier. Raises Unsupported where they are text."""
    for name in names:
        if name in given:
            return list(given[name])
    raise Unsupported("the classes are text, which has no place in a model of numbers only")
