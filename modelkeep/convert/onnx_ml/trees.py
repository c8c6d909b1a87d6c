"""Ensembles of trees: every row walks down all trees at once, one level a turn.

Nakandala and others, "A tensor compiler for unified machine learning prediction serving", OSDI 2020, where it is called
TreeTraversal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.convert.onnx_ml.writer import Writer, attributes, whole_labels
from modelkeep.errors import Unsupported

if TYPE_CHECKING:
    import onnx

    from modelkeep.types import Array

MODES = {
    "BRANCH_LEQ": "LessOrEqual",
    "BRANCH_LT": "Less",
    "BRANCH_GTE": "GreaterOrEqual",
    "BRANCH_GT": "Greater",
    "BRANCH_EQ": "Equal",
}
HALF = 0.5


@dataclass(frozen=True)
class _Forest:
    """All nodes of all trees in one row of arrays [nodes]; a leaf is its own child. ``roots`` are [trees]."""

    feature: Array
    threshold: Array
    yes: Array
    no: Array
    missing: Array
    roots: Array
    depth: int
    comparison: str
    places: Mapping[tuple[int, int], int]


def classifier(writer: Writer, node: onnx.NodeProto) -> None:
    """TreeEnsembleClassifier: the label [rows] and the scores [rows, classes].

    Of two classes with the weights of one, those are the second one's: a chance where none is negative, else a score.
    """
    given = attributes(node)
    labels = whole_labels(given, "classlabels_int64s")
    classes, kind = sorted(set(given["class_ids"])), given.get("post_transform", "NONE")
    label, scores = node.output
    if len(labels) != 2 or len(classes) > 1:
        told = _scores(writer, node.input[0], given, "class", len(labels))
        writer.labelled(writer.node("ArgMax", told, axis=1, keepdims=0), labels, label)
        writer.transformed(told, kind, scores)
        return
    given = {**given, "class_ids": [0] * len(given["class_ids"])}
    second = _scores(writer, node.input[0], given, "class", 1)
    chances = all(weight >= 0 for weight in given["class_weights"])
    above = writer.node("Greater", second, writer.constant(HALF if chances else 0.0, np.float32))
    place = writer.node("Squeeze", writer.node("Cast", above, to=7), writer.constant([1], np.int64))
    writer.labelled(place, labels, label)
    one = writer.constant(1.0, np.float32)
    first = writer.node("Sub", one, second) if chances else writer.node("Neg", second)
    writer.transformed(writer.node("Concat", first, second, axis=1), "NONE" if chances else kind, scores)


def regressor(writer: Writer, node: onnx.NodeProto) -> None:
    """TreeEnsembleRegressor: the numbers [rows, targets]."""
    given = attributes(node)
    scores = _scores(writer, node.input[0], given, "target", given["n_targets"])
    writer.transformed(scores, given.get("post_transform", "NONE"), node.output[0])


def _scores(writer: Writer, rows: str, given: Mapping[str, Any], what: str, count: int) -> str:
    """The sum (or the mean) over all trees of the weights of the leaves, and what is added to it: [rows, count]."""
    forest = _forest(given)
    weights = np.zeros((len(forest.feature), count), np.float32)
    keys = zip(given[f"{what}_treeids"], given[f"{what}_nodeids"], strict=True)
    for key, column, weight in zip(keys, given[f"{what}_ids"], given[f"{what}_weights"], strict=True):
        weights[forest.places[key], column] += weight
    kind = given.get("aggregate_function", "SUM")
    if kind not in ("SUM", "AVERAGE"):
        raise Unsupported(f"the trees of {writer.prefix} are joined by {kind}, which is not known")
    if kind == "AVERAGE":
        weights /= len(forest.roots)
    leaves = writer.node("Gather", writer.constant(weights, np.float32), _walk(writer, writer.floats(rows), forest))
    total = writer.node("ReduceSum", leaves, writer.constant([1], np.int64), keepdims=0)
    start = given.get("base_values") or [0.0]
    return writer.node("Add", total, writer.constant(start, np.float32))


def _walk(writer: Writer, rows: str, forest: _Forest) -> str:
    """The leaf that each row [rows, features] reaches in each tree: [rows, trees]."""
    here = forest.roots
    value = writer.node("Gather", rows, writer.constant(forest.feature[here], np.int64), axis=1)
    at = _step(
        writer,
        value,
        forest,
        writer.constant(forest.threshold[here], np.float32),
        writer.constant(forest.yes[here], np.int64),
        writer.constant(forest.no[here], np.int64),
        writer.constant(forest.missing[here], bool),
    )
    tables = {
        "feature": writer.constant(forest.feature, np.int64),
        "threshold": writer.constant(forest.threshold, np.float32),
        "yes": writer.constant(forest.yes, np.int64),
        "no": writer.constant(forest.no, np.int64),
        "missing": writer.constant(forest.missing, bool),
    }
    for _ in range(forest.depth - 1):
        value = writer.node("GatherElements", rows, writer.node("Gather", tables["feature"], at), axis=1)
        looked_up = (writer.node("Gather", tables[name], at) for name in ("threshold", "yes", "no", "missing"))
        at = _step(writer, value, forest, *looked_up)
    return at


def _step(writer: Writer, value: str, forest: _Forest, threshold: str, yes: str, no: str, missing: str) -> str:
    """Where a value leads: to ``yes`` where it holds against the threshold, or is NaN and that counts as holding."""
    holds = writer.node(forest.comparison, value, threshold)
    if forest.missing.any():
        holds = writer.node("Or", holds, writer.node("And", writer.node("IsNaN", value), missing))
    return writer.node("Where", holds, yes, no)


def _forest(given: Mapping[str, Any]) -> _Forest:
    modes = {mode for mode in given["nodes_modes"] if mode != "LEAF"}
    if len(modes) > 1 or not modes <= set(MODES):
        raise Unsupported(f"the trees compare by {', '.join(sorted(modes))}; they must by one of {', '.join(MODES)}")
    keys = list(zip(given["nodes_treeids"], given["nodes_nodeids"], strict=True))
    places = {key: place for place, key in enumerate(keys)}
    leaf = np.array([mode == "LEAF" for mode in given["nodes_modes"]])
    own = np.arange(len(keys))

    def children(name: str) -> Array:
        found = [places.get((tree, child), 0) for (tree, _), child in zip(keys, given[name], strict=True)]
        return np.where(leaf, own, found)

    yes, no = children("nodes_truenodeids"), children("nodes_falsenodeids")
    reached = set(yes[~leaf]) | set(no[~leaf])
    roots = np.array([place for place in own if place not in reached])
    missing = given.get("nodes_missing_value_tracks_true") or [0] * len(keys)
    return _Forest(
        np.where(leaf, 0, given["nodes_featureids"]),
        np.array(given["nodes_values"], np.float32),
        yes,
        no,
        np.array(missing, bool) & ~leaf,
        roots,
        _depth(roots, yes, no),
        MODES[modes.pop()] if modes else "LessOrEqual",
        places,
    )


def _depth(roots: Array, yes: Array, no: Array) -> int:
    """How many turns until every walk has come to a leaf; at least one."""
    depth, here = 0, set(roots.tolist())
    while ahead := {int(child) for place in here for child in (yes[place], no[place]) if child != place}:
        depth, here = depth + 1, ahead
    return max(depth, 1)
