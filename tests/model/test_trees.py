"""Trees whose numbers lead anywhere are refused before compiled code follows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from modelkeep.errors import BadModel
from modelkeep.model import trees

X = np.random.default_rng(0).standard_normal((200, 3))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(5),
        HistGradientBoostingClassifier(max_iter=3),
        make_pipeline(StandardScaler(), DecisionTreeClassifier(max_leaf_nodes=7)),  # grown best first
        make_pipeline(OneHotEncoder(sparse_output=False), DecisionTreeClassifier()),
    ],
)
def test_trained_trees_are_trees(estimator: Any) -> None:
    trees.check(estimator.fit(X.round(), Y), Path("m.skops"))


@pytest.mark.parametrize(
    ("field", "value"), [("left_child", 0), ("right_child", 9999), ("feature", 77), ("feature", -1)]
)
def test_a_tree_that_leads_astray_is_refused(field: str, value: int) -> None:
    forest = RandomForestClassifier(3, random_state=0).fit(X, Y)
    tree = forest.estimators_[1].tree_
    state = tree.__getstate__()
    state["nodes"][field][0] = value
    tree.__setstate__(state)
    with pytest.raises(BadModel, match=r"m\.skops is damaged: one of its trees is no tree"):
        trees.check(make_pipeline(StandardScaler(), forest), Path("m.skops"))


@pytest.mark.parametrize(("field", "value"), [("left", 0), ("right", 9999), ("feature_idx", 77)])
def test_a_boosted_tree_that_leads_astray_is_refused(field: str, value: int) -> None:
    boosted = HistGradientBoostingClassifier(max_iter=3).fit(X, Y)
    boosted._predictors[2][0].nodes[field][0] = value
    with pytest.raises(BadModel, match="one of its trees is no tree"):
        trees.check(boosted, Path("m.skops"))


def test_what_holds_itself_is_walked_once() -> None:
    estimator = StandardScaler()
    estimator.me = [estimator, {"again": estimator}, np.array([estimator, None], dtype=object)]
    assert list(trees.inside(estimator, StandardScaler)) == [estimator]
