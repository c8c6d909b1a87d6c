"""What prepares the columns of a table: scaling, filling, choosing, coding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelkeep.convert.onnx_ml.writer import Writer, attributes
from modelkeep.errors import Unsupported

if TYPE_CHECKING:
    import onnx


def scaler(writer: Writer, node: onnx.NodeProto) -> None:
    """Scaler: (rows - offset) · scale."""
    given = attributes(node)
    moved = writer.node("Sub", writer.floats(node.input[0]), writer.constant(given.get("offset") or [0.0], np.float32))
    writer.node("Mul", moved, writer.constant(given.get("scale") or [1.0], np.float32), output=node.output[0])


def imputer(writer: Writer, node: onnx.NodeProto) -> None:
    """Imputer: a value of each column in place of NaN, or of another number that stands for what is missing."""
    given = attributes(node)
    if "imputed_value_floats" not in given:
        raise Unsupported(f"{writer.prefix} fills in whole numbers, which is not known")
    rows, missing = writer.floats(node.input[0]), given.get("replaced_value_float", 0.0)
    if np.isnan(missing):
        where = writer.node("IsNaN", rows)
    else:
        where = writer.node("Equal", rows, writer.constant(missing, np.float32))
    writer.node("Where", where, writer.constant(given["imputed_value_floats"], np.float32), rows, output=node.output[0])


def normalizer(writer: Writer, node: onnx.NodeProto) -> None:
    """Normalizer to a norm of L1 or L2: each row divided by it; one of zeros stays as it is."""
    kind = attributes(node).get("norm", "MAX")
    rows = writer.floats(node.input[0])
    axis, zero, one = (writer.constant(v, t) for v, t in (([-1], np.int64), (0.0, np.float32), (1.0, np.float32)))
    if kind == "L1":
        norm = writer.node("ReduceSum", writer.node("Abs", rows), axis, keepdims=1)
    elif kind == "L2":
        norm = writer.node("Sqrt", writer.node("ReduceSum", writer.node("Mul", rows, rows), axis, keepdims=1))
    else:
        raise Unsupported(f"{writer.prefix} divides by the norm {kind}, which is not known")
    writer.node("Div", rows, writer.node("Where", writer.node("Equal", norm, zero), one, norm), output=node.output[0])


def chosen(writer: Writer, node: onnx.NodeProto) -> None:
    """ArrayFeatureExtractor: these columns, in this order."""
    rows, columns = node.input
    flat = writer.node("Reshape", columns, writer.constant([-1], np.int64))
    writer.node("Gather", rows, flat, axis=-1, output=node.output[0])


def one_hot(writer: Writer, node: onnx.NodeProto) -> None:
    """OneHotEncoder of whole numbers: a new last axis that is 1 where the value is that category."""
    given = attributes(node)
    if not given.get("cats_int64s"):
        raise Unsupported("the categories are text, which has no place in a model of numbers only")
    if not given.get("zeros", 1):
        raise Unsupported(f"{writer.prefix} refuses unknown categories, which the standard operators cannot")
    whole = writer.node("Cast", node.input[0], to=7)
    wide = writer.node("Unsqueeze", whole, writer.constant([-1], np.int64))
    same = writer.node("Equal", wide, writer.constant(given["cats_int64s"], np.int64))
    writer.node("Cast", same, to=1, output=node.output[0])
