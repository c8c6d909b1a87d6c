"""Forests and boosting answer as ONNX Runtime's own trees do: every kind, missing values, other comparisons."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from skl2onnx import to_onnx
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from modelkeep.convert import onnx_ml, sklearn_to_onnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Unsupported
from modelkeep.keep import Keep
from modelkeep.settings import Settings

ROWS = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
TWO = (ROWS[:, 0] + ROWS[:, 1] * ROWS[:, 2] > 0).astype(np.int64)
THREE = TWO + (ROWS[:, 3] > 0.5)
NUMBER = ROWS[:, 0] * 3 + TWO
PAIR = np.stack((NUMBER, -NUMBER), 1)


def written(estimator: Any, truth: np.ndarray, rows: np.ndarray = ROWS) -> onnx.ModelProto:
    estimator.fit(rows, truth)
    with sklearn_to_onnx._as_protobuf_wants():
        return _written(estimator, rows)


def _written(estimator: Any, rows: np.ndarray) -> onnx.ModelProto:
    if hasattr(estimator, "predict_proba"):
        with contextlib.suppress(NameError):  # what skl2onnx raises for an estimator without that option
            return to_onnx(estimator, rows[:1], options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3})
    return to_onnx(estimator, rows[:1], target_opset={"": 18, "ai.onnx.ml": 3})


@pytest.mark.parametrize(
    ("estimator", "truth"),
    [
        (DecisionTreeClassifier(random_state=0), TWO),
        (DecisionTreeClassifier(random_state=0), THREE + 4),
        (RandomForestClassifier(9, random_state=0), TWO),
        (RandomForestClassifier(9, random_state=0), THREE),
        (GradientBoostingClassifier(n_estimators=9), TWO),
        (GradientBoostingClassifier(n_estimators=9), THREE),
        (HistGradientBoostingClassifier(max_iter=9), THREE),
        (DecisionTreeRegressor(max_depth=12), NUMBER),
        (DecisionTreeRegressor(max_depth=4), PAIR),
        (RandomForestRegressor(9, max_depth=5), NUMBER),
        (GradientBoostingRegressor(n_estimators=9), NUMBER),
    ],
    ids=lambda x: type(x).__name__ if hasattr(x, "fit") else f"{x.ndim}d-{len(np.unique(x))}",
)
def test_the_answers_are_the_same(same: Callable[..., Any], estimator: Any, truth: np.ndarray) -> None:
    same(written(estimator, truth), ROWS)


def test_missing_values_go_where_training_sent_them(same: Callable[..., Any]) -> None:
    holes = ROWS.copy()
    holes[np.random.default_rng(1).random(holes.shape) < 0.3] = np.nan
    same(written(HistGradientBoostingClassifier(max_iter=9), TWO, holes), holes)


def stump(mode: str, **more: Any) -> dict[str, Any]:
    """One split of column 0 at 0.5, the leaves 1 and 2."""
    return {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": [mode, "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
        "n_targets": 1,
        **more,
    }


NUMBERS = (TensorProto.FLOAT, [None, 1])
EDGES = np.array([[0.4], [0.5], [0.6]], np.float32)


@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ"])
def test_every_comparison(same: Callable[..., Any], one_node: Callable[..., Any], mode: str) -> None:
    same(one_node("TreeEnsembleRegressor", EDGES, NUMBERS, **stump(mode, base_values=[3.0])), EDGES)


def test_a_tree_that_is_one_leaf(same: Callable[..., Any]) -> None:
    same(written(GradientBoostingRegressor(n_estimators=3), np.full(300, 7.0)), ROWS)


def test_a_mean_of_trees(same: Callable[..., Any], one_node: Callable[..., Any]) -> None:
    same(one_node("TreeEnsembleRegressor", EDGES, NUMBERS, **stump("BRANCH_LT", aggregate_function="AVERAGE")), EDGES)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"aggregate_function": "MAX"}, "joined by MAX"),
        ({"nodes_modes": ["BRANCH_NEQ", "LEAF", "LEAF"]}, "compare by BRANCH_NEQ"),
        ({"post_transform": "PROBIT"}, "transformed by PROBIT"),
    ],
)
def test_what_is_not_known_is_named(
    one_node: Callable[..., Any], tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    onnx.save(one_node("TreeEnsembleRegressor", EDGES, NUMBERS, **stump("BRANCH_LT", **change)), tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match=why):
        onnx_ml.rewritten(tmp_path / "m.onnx")


def test_classes_of_text_are_refused(tmp_path: Path) -> None:
    model = written(DecisionTreeClassifier(max_depth=2), np.where(TWO, "yes", "no"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match="the classes are text"):
        onnx_ml.rewritten(tmp_path / "m.onnx")


def test_a_forest_runs_on_openvino(tmp_path: Path) -> None:
    onnx.save(written(RandomForestClassifier(5, random_state=0), THREE), tmp_path / "forest.onnx")
    with Keep(Settings(home=tmp_path / "keep")) as keep:
        rows = Dataset({"X": ROWS}, None, "made rows")
        made = keep.convert(keep.add(tmp_path / "forest.onnx", "forest", data=rows), "openvino")
        assert made.model.files == ("model.xml", "model.bin")
        assert sorted(p.name for p in keep.model(made).path.iterdir() if "onnx" in p.name) == []
        assert made.reports[-1].numbers["top1_agreement"] == 1.0
