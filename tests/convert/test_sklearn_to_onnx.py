"""scikit-learn and boosted trees → ONNX: names, roundings at thresholds, and planted faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from modelkeep import convert
from modelkeep.convert import sklearn_to_onnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput, Differs, Undecided, Unsupported
from modelkeep.model import engines, formats
from modelkeep.types import Model, Report

RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 4))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)


def adopted(estimator: Any, at: Path, rows: Dataset | None = None) -> Model:
    skops.io.dump(estimator, at / "m.skops")
    return formats.adopt(at / "m.skops", at / "model", data=rows or Dataset({"x": X}, None, "rows"))


def converted(model: Model, at: Path, **options: Any) -> tuple[Model, Report]:
    made, (report,) = convert.step("sklearn", "onnx", **options).run(model, at / "onnx")
    assert made.format == "onnx"
    return made, report


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(8),
        RandomForestRegressor(8),
        GradientBoostingClassifier(n_estimators=5),
        HistGradientBoostingClassifier(max_iter=5),
        HistGradientBoostingRegressor(max_iter=5),
        MLPClassifier(8, max_iter=20),
        LinearSVC(),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_names_dtypes_and_answers_are_kept(estimator: Any, tmp_path: Path) -> None:
    model = adopted(estimator.fit(X, Y), tmp_path)
    made, report = converted(model, tmp_path)
    assert report.ok is True
    assert report.numbers["n"] == 150
    assert [t.describe() for t in (*made.signature.inputs, *made.signature.outputs)] == [
        t.describe() for t in (*model.signature.inputs, *model.signature.outputs)
    ]
    for count in (1, 2, 7):
        found, want = engines.load(made).run({"x": X[:count]}), engines.load(model).run({"x": X[:count]})
        for name in want:
            np.testing.assert_allclose(found[name], want[name], atol=1e-4)
            assert found[name].dtype == want[name].dtype


def test_names_of_classes_and_two_of_them(tmp_path: Path) -> None:
    model = adopted(LogisticRegression().fit(X, np.where(Y > 0, "yes", "no")), tmp_path)
    made, _ = converted(model, tmp_path)
    assert engines.load(made).run({"x": X})["label"].tolist() == engines.load(model).run({"x": X})["label"].tolist()


def test_columns_stay_inputs_of_their_own(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"age": X[:, 0], "city": np.array(["Rome", "Oslo", "Bern"])[Y]})
    frame.loc[3, "age"] = np.nan
    parts = [
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
        ("words", OneHotEncoder(handle_unknown="ignore"), ["city"]),
    ]
    estimator = make_pipeline(ColumnTransformer(parts), RandomForestClassifier(5)).fit(frame, Y)
    rows = Dataset({"age": frame[["age"]].to_numpy(), "city": frame[["city"]].to_numpy(object)}, Y, "frame")
    made, report = converted(adopted(estimator, tmp_path, rows), tmp_path)
    assert report.ok is True
    assert [t.describe() for t in made.signature.inputs] == ["age float64 [batch, 1]", "city str [batch, 1]"]


def test_names_of_columns_that_no_c_program_would_take(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a b": X[:, 0], "a_b": X[:, 1], "Größe (cm)": X[:, 2], "2nd": X[:, 3]})
    scaled = ColumnTransformer([("all", StandardScaler(), list(frame))])
    estimator = make_pipeline(scaled, LogisticRegression()).fit(frame, Y)
    rows = Dataset({name: frame[[name]].to_numpy() for name in frame}, Y, "frame")
    made, report = converted(adopted(estimator, tmp_path, rows), tmp_path)
    assert report.ok is True
    assert [t.name for t in made.signature.inputs] == list(frame)
    found = engines.load(made).run({name: array[:9] for name, array in rows.inputs.items()})
    np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(frame[:9]), atol=1e-5)


def test_rows_that_are_all_alike_to_it_are_told_once(tmp_path: Path) -> None:
    model = adopted(RandomForestClassifier(5).fit(X + 100, Y), tmp_path)  # all rows are far below its thresholds
    with pytest.raises(Undecided, match=r"^nothing can be told of the onnx model: .*that it tells apart \(--data\)$"):
        converted(model, tmp_path)


def test_names_that_were_given(tmp_path: Path) -> None:
    model = adopted(LogisticRegression().fit(X, Y), tmp_path)
    made, report = converted(model, tmp_path, rename={"x": "features", "probabilities": "scores"})
    assert report.ok is True
    assert [t.name for t in (*made.signature.inputs, *made.signature.outputs)] == ["features", "label", "scores"]
    found, want = engines.load(made).run({"features": X[:5]}), engines.load(model).run({"x": X[:5]})
    np.testing.assert_allclose(found["scores"], want["probabilities"], atol=1e-5)
    with pytest.raises(BadInput, match="no input or output is called 'gone'"):
        convert.step("sklearn", "onnx", rename={"gone": "y"}).run(model, tmp_path / "none")


class TestRounding:
    def on_the_edge(self, tmp_path: Path) -> tuple[Model, Dataset]:
        """A scaler before a forest, and rows so close to its thresholds that 32 bits fall on the other side."""
        estimator = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(X, Y)
        scaler, forest = estimator
        edges = []
        for tree in (each.tree_ for each in forest.estimators_):
            for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
                if feature >= 0:
                    row = X[len(edges) % len(X)].copy()
                    row[feature] = np.float32(threshold) * scaler.scale_[feature] + scaler.mean_[feature]
                    edges.append(row)
        rows = Dataset({"x": np.array(edges)}, None, "rows on the edge")
        return adopted(estimator, tmp_path, rows), rows

    def test_the_way_that_agrees_is_found_and_the_others_are_told(self, tmp_path: Path) -> None:
        model, rows = self.on_the_edge(tmp_path)
        made, report = converted(model, tmp_path, rows=rows)
        assert report.numbers["rounding"] == "in 64 bits, rounded before the trees as scikit-learn does"
        assert "'probabilities'" in report.numbers["failed"]["in 32 bits"]
        assert "in 32 bits was tried before" in report.why
        want = engines.load(model).run(rows.inputs)["probabilities"]
        np.testing.assert_allclose(engines.load(made).run(rows.inputs)["probabilities"], want, atol=1e-5)

    def test_where_no_way_agrees_nothing_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model, rows = self.on_the_edge(tmp_path)
        monkeypatch.setattr(sklearn_to_onnx, "_ways", lambda estimator, _: {"in 32 bits": (estimator, "float32")})
        with pytest.raises(
            Differs, match="does not answer as the scikit-learn one does, so it is not kept; in 32 bits:"
        ):
            converted(model, tmp_path, rows=rows)
        assert not list((tmp_path / "onnx").iterdir())


def test_a_planted_fault_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One leaf of one tree changed while it is written."""
    model = adopted(RandomForestClassifier(5, random_state=0).fit(X, Y), tmp_path)
    finish = sklearn_to_onnx._finish

    def spoilt(graph: Any, *rest: Any) -> None:
        trees = next(node for node in graph.graph.node if node.op_type == "TreeEnsembleClassifier")
        weights = next(a for a in trees.attribute if a.name == "class_weights")
        weights.floats[:] = [weight * 1.01 for weight in weights.floats]
        finish(graph, *rest)

    monkeypatch.setattr(sklearn_to_onnx, "_finish", spoilt)
    with pytest.raises(Differs, match="output 'probabilities'"):
        converted(model, tmp_path)


class TestBoosters:
    @pytest.mark.parametrize("classes", [2, 3])
    @pytest.mark.parametrize("library", ["xgboost", "lightgbm", "lightgbm's own file", "xgboost's own file"])
    def test_classifiers(self, library: str, classes: int, tmp_path: Path) -> None:
        pytest.importorskip(library.partition("'")[0])
        labels = np.minimum(Y, classes - 1)
        if library.startswith("xgboost"):
            import xgboost

            estimator = xgboost.XGBClassifier(n_estimators=4).fit(X, labels)
            estimator.save_model(tmp_path / "own.ubj")
        else:
            import lightgbm

            estimator = lightgbm.LGBMClassifier(n_estimators=4, verbose=-1).fit(X, labels)
            estimator.booster_.save_model(tmp_path / "own.txt")
        rows = Dataset({"x": X}, None, "rows")
        if library.endswith("file"):
            (file,) = tmp_path.glob("own.*")
            model = formats.adopt(file, tmp_path / "model", data=rows)
        else:
            model = adopted(estimator, tmp_path)
        made, report = converted(model, tmp_path)
        assert report.ok is True
        found = engines.load(made).run({"x": X})
        np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(X), atol=1e-5)
        assert np.array_equal(found["label"], estimator.predict(X))

    def test_regressors(self, tmp_path: Path) -> None:
        lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
        for kind in (lightgbm.LGBMRegressor(n_estimators=4, verbose=-1), xgboost.XGBRegressor(n_estimators=4)):
            (here := tmp_path / type(kind).__name__).mkdir()
            made, _ = converted(adopted(kind.fit(X, X[:, 0]), here), here)
            np.testing.assert_allclose(engines.load(made).run({"x": X})["prediction"], kind.predict(X), atol=1e-5)


def test_an_estimator_that_skl2onnx_does_not_know_is_unsupported(tmp_path: Path) -> None:
    from sklearn.semi_supervised import LabelPropagation

    model = adopted(LabelPropagation().fit(X, Y), tmp_path)
    with pytest.raises(Unsupported, match="skl2onnx cannot write this model as ONNX; in 32 bits: it cannot be written"):
        converted(model, tmp_path)


def test_a_lower_opset_can_be_asked_for(tmp_path: Path) -> None:
    model = adopted(LogisticRegression().fit(X, Y), tmp_path)
    assert converted(model, tmp_path, opset=15)[1].numbers["opset"] == 15
