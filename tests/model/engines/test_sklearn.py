"""What of scikit-learn's engine the contract suite does not see: its threads and what it cannot be told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelkeep.errors import Unsupported
from modelkeep.model import engines, formats
from modelkeep.types import Model, ServeConfig

X = np.random.default_rng(0).standard_normal((60, 3))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(4, n_jobs=-1)).fit(X, X[:, 0] > 0)
    skops.io.dump(forest, tmp_path / "m.skops")
    return formats.adopt(tmp_path / "m.skops", tmp_path / "into")


def test_threads_reach_the_estimator_inside(model: Model) -> None:
    runner = engines.load(model, ServeConfig(engine="sklearn", threads=2))
    assert runner._estimator[-1].n_jobs == 2  # type: ignore[attr-defined]
    assert engines.load(model)._estimator[-1].n_jobs == -1  # type: ignore[attr-defined]


@pytest.mark.parametrize("config", [{"precision": "float16"}, {"device": "cuda"}])
def test_what_it_cannot_do_is_refused(model: Model, config: dict[str, str]) -> None:
    with pytest.raises(Unsupported, match="engine 'sklearn' runs"):
        engines.load(model, ServeConfig(engine="sklearn", **config))  # type: ignore[arg-type]


def test_a_pipeline_that_works_in_place_leaves_the_rows_alone(tmp_path: Path) -> None:
    """It is asked for the label, and then for its chances; the rows may be captured afterwards."""
    rows = X * 3 + 5
    scaled = make_pipeline(StandardScaler(copy=False), LogisticRegression()).fit(rows.copy(), X[:, 0] > 0)
    skops.io.dump(scaled, tmp_path / "m.skops")
    model = formats.adopt(tmp_path / "m.skops", tmp_path / "into")
    given = {model.signature.inputs[0].name: rows.copy()}
    found = engines.load(model).run(given)
    np.testing.assert_array_equal(next(iter(given.values())), rows)
    np.testing.assert_allclose(found["probabilities"], scaled.predict_proba(rows.copy()))
