"""scikit-learn's models and boosted trees: what is taken without trust, what their inputs are, what they answer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas
import pytest
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadInput, BadModel, Untrusted
from modelkeep.model import engines, folder, formats

RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 3))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
NAMES = np.array(["cat", "dog", "owl"])[Y]
FRAME = pandas.DataFrame({"age": np.where(X[:, 0] > 1, np.nan, X[:, 0]), "city": np.array(["Rome", "Oslo", "Bern"])[Y]})
OWN = """
from sklearn.base import BaseEstimator, TransformerMixin
class Doubled(TransformerMixin, BaseEstimator):
    def fit(self, x, y=None):
        self.n_features_in_ = x.shape[1]
        return self
    def transform(self, x):
        return 2 * x
"""


def saved(estimator: Any, at: Path) -> Path:
    skops.io.dump(estimator, at / "m.skops")
    return at / "m.skops"


def described(model: Any) -> list[str]:
    return [t.describe() for t in (*model.signature.inputs, *model.signature.outputs)]


@pytest.mark.parametrize(
    ("estimator", "outputs"),
    [
        (LogisticRegression(), ["label int64 [batch]", "probabilities float64 [batch, 3]"]),
        (RandomForestClassifier(4), ["label int64 [batch]", "probabilities float64 [batch, 3]"]),
        (HistGradientBoostingClassifier(max_iter=2), ["label int64 [batch]", "probabilities float64 [batch, 3]"]),
        (LinearSVC(), ["label int64 [batch]", "scores float64 [batch, 3]"]),
        (GradientBoostingRegressor(n_estimators=3), ["prediction float64 [batch]"]),
        (IsolationForest(n_estimators=4), ["label int64 [batch]", "scores float64 [batch]"]),
        (KMeans(3), ["label int64 [batch]"]),
        (PCA(2), ["transformed float64 [batch, 2]"]),
    ],
)
def test_what_it_answers_follows_from_what_it_is(estimator: Any, outputs: list[str], tmp_path: Path) -> None:
    model = formats.adopt(saved(estimator.fit(X, Y), tmp_path), tmp_path / "into")
    assert described(model) == ["X float64 [batch, 3]", *outputs]
    found = engines.load(model).run({"X": X[:5]})
    if hasattr(estimator, "predict"):
        assert np.array_equal(next(iter(found.values())), estimator.predict(X[:5]))
    if hasattr(estimator, "predict_proba"):
        assert np.array_equal(found["probabilities"], estimator.predict_proba(X[:5]))


def test_two_classes_have_a_score_each_and_names_stay_names(tmp_path: Path) -> None:
    estimator = LinearSVC().fit(X, np.where(Y > 0, "yes", "no"))
    model = formats.adopt(saved(estimator, tmp_path), tmp_path / "into", data=Dataset({"x": X}, None, "x"))
    assert described(model) == ["x float64 [batch, 3]", "label str [batch]", "scores float64 [batch, 2]"]
    found = engines.load(model).run({"x": X})
    assert np.array_equal(np.array(["no", "yes"])[found["scores"].argmax(1)], found["label"])


def test_the_rows_decide_the_precision(tmp_path: Path) -> None:
    file = saved(Ridge().fit(X, X[:, 0]), tmp_path)
    model = formats.adopt(file, tmp_path / "into", data=Dataset({"x": X.astype(np.float32)}, None, "x"))
    assert described(model) == ["x float32 [batch, 3]", "prediction float32 [batch]"]


def pipeline(columns: Any = None) -> Any:
    numbers, words = columns or (["age"], ["city"])
    return make_pipeline(
        ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
                ("words", OneHotEncoder(handle_unknown="ignore"), words),
            ]
        ),
        LogisticRegression(),
    ).fit(FRAME, NAMES)


class TestColumns:
    def test_each_named_column_is_an_input(self, tmp_path: Path) -> None:
        estimator = pipeline()
        FRAME.assign(label=NAMES)[["city", "label", "age"]].to_csv(tmp_path / "d.csv", index=False)
        rows = dataset.read(tmp_path / "d.csv")
        model = formats.adopt(saved(estimator, tmp_path), tmp_path / "into", data=rows)
        assert described(model)[:3] == ["age float64 [batch, 1]", "city str [batch, 1]", "label str [batch]"]
        kept = folder.reference(model.path)
        assert kept is not None
        found = engines.load(model).run(kept.inputs)
        assert np.array_equal(found["label"], estimator.predict(FRAME))
        one = {"age": np.array([[np.nan]]), "city": np.array([["never seen"]], dtype=object)}
        assert engines.load(model).run(one)["probabilities"].shape == (1, 3)

    def test_columns_chosen_by_type_are_named_too(self, tmp_path: Path) -> None:
        chosen = (make_column_selector(dtype_include=float), make_column_selector(dtype_exclude=float))
        (tmp_path / "d.csv").write_text("age,city\n1,Rome\n2,Oslo\n", encoding="utf-8")
        rows = dataset.read(tmp_path / "d.csv")
        model = formats.adopt(saved(pipeline(chosen), tmp_path), tmp_path / "into", data=rows)
        assert [t.name for t in model.signature.inputs] == ["age", "city"]

    def test_without_rows_the_columns_are_named_in_the_refusal(self, tmp_path: Path) -> None:
        with pytest.raises(BadModel, match=r"takes columns by name \(age, city\) and does not say what is in them"):
            formats.adopt(saved(pipeline(), tmp_path), tmp_path / "into")

    def test_a_missing_column_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "d.csv").write_text("age,town\n1,Rome\n", encoding="utf-8")
        with pytest.raises(BadData, match=r"d\.csv lacks city; it has the columns age, town"):
            formats.adopt(saved(pipeline(), tmp_path), tmp_path / "into", data=dataset.read(tmp_path / "d.csv"))

    def test_a_plain_estimator_takes_one_table_in_its_own_order(self, tmp_path: Path, recwarn: Any) -> None:
        frame = pandas.DataFrame(X, columns=["a", "b", "c"])
        file = saved(LogisticRegression().fit(frame, Y), tmp_path)
        (tmp_path / "d.csv").write_text("c,b,a\n1,2,3\n", encoding="utf-8")
        with pytest.raises(BadData, match="stand in another order than the model's: a, b, c"):
            formats.adopt(file, tmp_path / "no", data=dataset.read(tmp_path / "d.csv"))
        model = formats.adopt(file, tmp_path / "into", data=Dataset({"x": X}, Y, "x"))
        engines.load(model).run({"x": X})
        assert not [w for w in recwarn if "feature names" in str(w.message)]


class TestTrust:
    def test_a_pickle_needs_it_and_is_kept_as_none(self, tmp_path: Path) -> None:
        estimator = RandomForestClassifier(4, random_state=0).fit(X, Y)
        joblib.dump(estimator, tmp_path / "m.joblib", compress=3)
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(estimator))
        for name in ("m.joblib", "m.pkl"):
            with pytest.raises(Untrusted, match=f"{name} is a pickle.*skops.io.dump.*--trust"):
                formats.adopt(tmp_path / name, tmp_path / "no")
            model = formats.adopt(tmp_path / name, tmp_path / name.replace(".", ""), trust=True)
            assert model.files == ("model.skops",)
            found = engines.load(folder.read(model.path)).run({"X": X})
            assert np.array_equal(found["probabilities"], estimator.predict_proba(X))

    def test_a_pickle_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "m.pkl").write_bytes(pickle.dumps({"weights": [1, 2]}))
        with pytest.raises(BadModel, match="holds a dict, which is no scikit-learn estimator"):
            formats.adopt(tmp_path / "m.pkl", tmp_path / "into", trust=True)

    def test_types_that_are_not_scikit_learns_are_listed(self, tmp_path: Path) -> None:
        estimator = make_pipeline(FunctionTransformer(np.linalg.norm), LogisticRegression())
        with pytest.raises(Untrusted, match=r"needs types that are not scikit-learn's own.*numpy\.linalg.*--trust"):
            formats.adopt(saved(estimator, tmp_path), tmp_path / "into")

    def test_your_own_types_come_along_with_their_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "own_parts.py").write_text(OWN, encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            import own_parts  # type: ignore[import-not-found]

            estimator = make_pipeline(own_parts.Doubled(), Ridge()).fit(X, X[:, 0])
            file = saved(estimator, tmp_path)
            with pytest.raises(Untrusted, match=r"own_parts\.Doubled"):
                formats.adopt(file, tmp_path / "no")
            model = formats.adopt(file, tmp_path / "into", trust=True)
        assert model.files == ("model.skops", "code/own_parts.py")
        (tmp_path / "own_parts.py").unlink()
        monkeypatch.delitem(__import__("sys").modules, "own_parts")
        found = engines.load(folder.read(model.path)).run({"X": X})["prediction"]
        np.testing.assert_allclose(found, estimator.predict(X))

    def test_what_was_written_in_a_notebook_is_refused_with_the_mend(self, tmp_path: Path) -> None:
        kind = type("Mine", (TransformerMixin, BaseEstimator), {"__module__": "__main__", "transform": lambda s, x: x})
        __import__("sys").modules["__main__"].Mine = kind  # type: ignore[attr-defined]
        estimator = make_pipeline(kind(), Ridge())
        with pytest.raises(BadModel, match=r"\(__main__\).*put it into a module of its own"):
            formats.adopt(saved(estimator, tmp_path), tmp_path / "into", trust=True)


class TestBoosters:
    @pytest.mark.parametrize("suffix", ["json", "ubj"])
    def test_xgboosts_own_files(self, suffix: str, tmp_path: Path) -> None:
        xgboost = pytest.importorskip("xgboost")
        estimator = xgboost.XGBClassifier(n_estimators=3).fit(X, Y)
        estimator.save_model(tmp_path / f"m.{suffix}")
        model = formats.adopt(tmp_path / f"m.{suffix}", tmp_path / "into")
        assert described(model)[1:] == ["label int64 [batch]", "probabilities float64 [batch, 3]"]
        found = engines.load(model).run({"X": X})
        np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(X), atol=1e-6)

    def test_xgboosts_regressor(self, tmp_path: Path) -> None:
        xgboost = pytest.importorskip("xgboost")
        estimator = xgboost.XGBRegressor(n_estimators=3).fit(X, X[:, 0])
        estimator.save_model(tmp_path / "m.ubj")
        model = formats.adopt(tmp_path / "m.ubj", tmp_path / "into")
        np.testing.assert_allclose(engines.load(model).run({"X": X})["prediction"], estimator.predict(X), atol=1e-6)

    @pytest.mark.parametrize("classes", [2, 3])
    def test_lightgbms_own_file(self, classes: int, tmp_path: Path) -> None:
        lightgbm = pytest.importorskip("lightgbm")
        estimator = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(X, np.minimum(Y, classes - 1))
        estimator.booster_.save_model(tmp_path / "m.txt")
        model = formats.adopt(tmp_path / "m.txt", tmp_path / "into")
        found = engines.load(model).run({"X": X})
        np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(X))
        assert np.array_equal(found["label"], estimator.predict(X))

    def test_estimators_of_both_need_no_trust(self, tmp_path: Path) -> None:
        lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
        for number, kind in enumerate((lightgbm.LGBMRegressor(n_estimators=3), xgboost.XGBClassifier(n_estimators=3))):
            frame = pandas.DataFrame(X, columns=["a", "b", "c"])
            model = formats.adopt(saved(kind.fit(frame, Y), tmp_path), tmp_path / str(number))
            first = model.signature.outputs[0].name
            np.testing.assert_allclose(engines.load(model).run({"X": X})[first], kind.predict(frame), atol=1e-6)


def test_one_of_texts_is_not_told_that_it_was_not_fitted(tmp_path: Path) -> None:
    texts = pytest.importorskip("sklearn.feature_extraction.text")
    pipeline = make_pipeline(texts.TfidfVectorizer(), LogisticRegression()).fit(["good", "bad", "good one"], [1, 0, 1])
    with pytest.raises(BadModel, match=r"a Pipeline that does not say how many columns .*add the \.onnx file"):
        formats.adopt(saved(pipeline, tmp_path), tmp_path / "model")


def test_an_unfitted_estimator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="holds a Ridge that was not fitted; fit it, and save it again"):
        formats.adopt(saved(Ridge(), tmp_path), tmp_path / "into")


def test_a_row_that_the_estimator_refuses_is_a_bad_input(tmp_path: Path) -> None:
    model = formats.adopt(saved(LogisticRegression().fit(X, Y), tmp_path), tmp_path / "into")
    with pytest.raises(BadInput, match=r"cannot run these inputs: Input X contains NaN"):
        engines.load(model).run({"X": np.full((2, 3), np.nan)})
