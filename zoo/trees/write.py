"""Writes the rows of scikit-learn: trained within a second on its own breast cancer data, saved with skops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from skops import io

from zoo.row import Source

TRAINED_ON, MISSING = 400, 0.05


def pipeline() -> Any:
    """Missing values filled, some columns scaled and others cut into bins, a logistic regression."""
    bins = KBinsDiscretizer(5, encode="onehot-dense", quantile_method="averaged_inverted_cdf")
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), list(range(20))),
        (make_pipeline(SimpleImputer(strategy="median"), bins), list(range(20, 30))),
    )
    return make_pipeline(columns, LogisticRegression(max_iter=1000))


MODELS: dict[str, Callable[[], Any]] = {
    "forest": lambda: RandomForestClassifier(50, random_state=0),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=50, random_state=0),
    "regression": lambda: GradientBoostingRegressor(n_estimators=50, random_state=0),
    "pipeline": pipeline,
}


def skops(folder: Path, *, model: str) -> Source:
    """The model of this name; that of the pipeline has missing values in its rows."""
    rows, truth = load_breast_cancer(return_X_y=True)
    rows = rows.astype(np.float32)
    if model == "pipeline":
        rows[np.random.default_rng(0).random(rows.shape) < MISSING] = np.nan
    if model == "regression":
        rows, truth = rows[:, 1:], rows[:, 0]
    made = MODELS[model]().fit(rows[:TRAINED_ON], truth[:TRAINED_ON])
    io.dump(made, folder / "model.skops")
    return Source(folder / "model.skops", {"features": rows[TRAINED_ON:]})
