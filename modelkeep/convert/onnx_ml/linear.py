"""Linear models: one matrix product, and what each of them does with its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.convert.onnx_ml.writer import Writer, attributes, whole_labels
from modelkeep.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx


def classifier(writer: Writer, node: onnx.NodeProto) -> None:
    """LinearClassifier with a score for each class: the label [rows] and the scores [rows, classes]."""
    given = attributes(node)
    labels = whole_labels(given, "classlabels_ints")
    count = len(given["coefficients"]) // _width(given, len(labels))
    if count != len(labels):
        raise Unsupported(f"{writer.prefix} has {count} score for {len(labels)} classes; it must have one for each")
    label, output = node.output
    scores = _scores(writer, node.input[0], given, count)
    writer.labelled(writer.node("ArgMax", scores, axis=1, keepdims=0), labels, label)
    writer.transformed(scores, given.get("post_transform", "NONE"), output)


def regressor(writer: Writer, node: onnx.NodeProto) -> None:
    """LinearRegressor: the numbers [rows, targets]."""
    given = attributes(node)
    scores = _scores(writer, node.input[0], given, given.get("targets", 1))
    writer.transformed(scores, given.get("post_transform", "NONE"), node.output[0])


def _width(given: Mapping[str, Any], labels: int) -> int:
    """How many columns a row has: there are as many intercepts as scores."""
    return len(given["coefficients"]) // (len(given.get("intercepts") or []) or labels)


def _scores(writer: Writer, rows: str, given: Mapping[str, Any], count: int) -> str:
    weights = writer.constant(np.reshape(given["coefficients"], (count, -1)).T, np.float32)
    start = writer.constant(given.get("intercepts") or [0.0], np.float32)
    return writer.node("Add", writer.node("MatMul", writer.floats(rows), weights), start)
