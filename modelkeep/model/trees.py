"""What lies inside a loaded estimator, and whether its trees are trees: compiled code follows them unchecked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.errors import BadModel

DEPTH = 64
"""No estimator is nested deeper; an object that holds itself is."""


def inside(thing: Any, kind: type | tuple[type, ...]) -> Iterator[Any]:
    """Every object of the kind that the thing is, or holds in its attributes, lists, dicts and object arrays."""
    seen: set[int] = set()
    waiting = [(thing, 0)]
    while waiting:
        here, depth = waiting.pop()
        if id(here) in seen or depth > DEPTH:
            continue
        seen.add(id(here))
        if isinstance(here, kind):
            yield here
        waiting += [(part, depth + 1) for part in _parts(here)]


def check(estimator: Any, told: Path) -> None:
    """Raises BadModel where a tree leads back to a node above, or out of its arrays."""
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
    from sklearn.tree._tree import Tree

    for tree in inside(estimator, (Tree, TreePredictor)):
        if isinstance(tree, Tree):
            left, right, feature = tree.children_left, tree.children_right, tree.feature
            inner, width = left != -1, tree.n_features
        else:
            left, right, feature = (tree.nodes[name].astype(np.int64) for name in ("left", "right", "feature_idx"))
            inner, width = tree.nodes["is_leaf"] == 0, _width(estimator)
        at = np.arange(len(left))[inner]
        below = np.stack([left[inner], right[inner]])
        fits = (below > at) & (below < len(left))
        if not (len(left) and fits.all() and (feature[inner] >= 0).all() and (feature[inner] < width).all()):
            raise BadModel(f"{told} is damaged: one of its trees is no tree")


def _width(estimator: Any) -> int:
    """Of the widest table inside: a one-hot encoder before the trees makes it wider than the model's input."""
    from sklearn.base import BaseEstimator

    return max((getattr(part, "n_features_in_", 0) for part in inside(estimator, BaseEstimator)), default=0)


def _parts(thing: Any) -> list[Any]:
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, (list, tuple)):
        return list(thing)
    if isinstance(thing, np.ndarray):
        return list(thing.ravel()) if thing.dtype == object else []
    if type(thing).__module__.partition(".")[0] in ("builtins", "numpy") or isinstance(thing, type):
        return []
    return list(getattr(thing, "__dict__", {}).values())
