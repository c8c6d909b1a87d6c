"""scikit-learn estimators and pipelines, and boosted trees of XGBoost and LightGBM, kept without pickles.

Estimators are kept as skops files (skops.readthedocs.io), which name every type that they need: those beyond
scikit-learn's own are loaded only where a person trusted them. The libraries of boosted trees have files of their own.
"""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep import extras
from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, Untrusted, first_line
from modelkeep.model import trees
from modelkeep.model.formats import factories
from modelkeep.types import Model, Signature, TensorSpec

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

SKOPS, XGBOOST, LIGHTGBM = "model.skops", "model.ubj", "model.txt"
COMPUTES_ONLY = {
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRanker",
    "lightgbm.sklearn.LGBMRegressor",
    "numpy.dtype",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRFClassifier",
    "xgboost.sklearn.XGBRFRegressor",
    "xgboost.sklearn.XGBRanker",
    "xgboost.sklearn.XGBRegressor",
}
"""Types that skops leaves to its user and that hold arrays only. What could walk out of an array is checked (trees)."""


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt. Raises Untrusted, with the types that a skops file needs beyond scikit-learn's own, or for a
    pickle; BadModel for a damaged file, or one whose inputs cannot be told without ``data``.
    """
    from modelkeep.model.detect import library

    made_by = library(source)
    options: dict[str, Any]
    files: tuple[str, ...]
    if made_by == "xgboost":
        extras.need("xgboost", extra="trees")
        files, options = _adopt_xgboost(source, into), {"library": "xgboost"}
    elif made_by == "lightgbm":
        extras.need("lightgbm", extra="trees")
        shutil.copyfile(source, into / LIGHTGBM)
        files, options = (LIGHTGBM,), {"library": "lightgbm"}
    else:
        files, options = _adopt_estimator(source, into, pickled=made_by == "pickle", trust=trust)
    model = Model(into, "sklearn", Signature((), ()), files, (), options)
    estimator = load(model, told=source)
    inputs, columns = _inputs(estimator, data, source)
    options = {**options, **({"columns": True} if columns else {})}
    model = Model(into, "sklearn", Signature(inputs, ()), files, (), options)
    return Model(into, "sklearn", Signature(inputs, _outputs(estimator, model, data, source)), files, (), options)


def load(model: Model, told: Path | None = None) -> Any:
    """The estimator (or LightGBM's Booster). Raises BadModel, MissingExtra, or Untrusted."""
    made_by, file = model.options.get("library", "sklearn"), model.main
    if made_by == "lightgbm":
        lightgbm = extras.need("lightgbm", extra="trees")
        return _read(lambda: lightgbm.Booster(model_file=str(file)), told or file)
    if made_by == "xgboost":
        return _read(lambda: _xgboost(file), told or file)
    estimator = _open(file, told or file, tuple(model.options.get("trusted", ())), model.path)
    for part in all_estimators(estimator):
        if getattr(part, "copy", None) is False:  # a scaler that works in place would scale again for probabilities
            part.copy = True
    return estimator


def answers(estimator: Any, inputs: Arrays, model: Model) -> dict[str, Array]:
    """What the estimator says: ``label`` and ``probabilities`` (or ``scores``), ``prediction``, or ``transformed``.

    Floats come in the precision of the inputs.
    """
    floating = _floating(model.signature.inputs)
    found = _answers(estimator, _table(inputs, model))
    return {name: array.astype(floating) if array.dtype.kind == "f" else array for name, array in found.items()}


def without_names(estimator: Any, model: Model) -> Any:
    """The names of its columns forgotten where it takes one matrix: their order was settled when it was added."""
    if not is_booster(estimator) and not model.options.get("columns"):
        for part in all_estimators(estimator):
            vars(part).pop("feature_names_in_", None)
            if hasattr(part, "get_booster"):
                part.get_booster().feature_names = None
    return estimator


def is_booster(estimator: Any) -> bool:
    """Whether it is LightGBM's own Booster, which has no scikit-learn interface."""
    return type(estimator).__module__.startswith("lightgbm.basic")


def _answers(estimator: Any, table: Any) -> dict[str, Array]:
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector

    if is_booster(estimator):
        return _booster(estimator, table)
    if is_classifier(estimator):
        found = {"label": _labels(estimator.predict(table))}
        if hasattr(estimator, "predict_proba"):
            return {**found, "probabilities": np.asarray(estimator.predict_proba(table))}
        if hasattr(estimator, "decision_function"):
            scores = np.asarray(estimator.decision_function(table))
            # two classes get one score from scikit-learn; a column for each is what every other model gives
            found["scores"] = np.stack([-scores, scores], 1) if scores.ndim == 1 else scores
        return found
    if is_outlier_detector(estimator):
        return {
            "label": _labels(estimator.predict(table)),
            "scores": np.asarray(estimator.decision_function(table), dtype=np.float64),
        }
    if is_clusterer(estimator):
        return {"label": np.asarray(estimator.predict(table)).astype(np.int64)}
    if hasattr(estimator, "predict"):
        return {"prediction": np.asarray(estimator.predict(table), dtype=np.float64)}
    found_table = estimator.transform(table)
    return {"transformed": np.asarray(found_table.todense() if hasattr(found_table, "todense") else found_table)}


def _booster(booster: Any, table: Any) -> dict[str, Array]:
    found = np.asarray(booster.predict(table))
    objective = booster.dump_model(num_iteration=1)["objective"].split(" ")[0]
    if objective not in ("binary", "multiclass", "multiclassova"):
        return {"prediction": found}
    scores = np.stack([1 - found, found], 1) if found.ndim == 1 else found
    return {"label": scores.argmax(1).astype(np.int64), "probabilities": scores}


def _labels(found: Any) -> Array:
    """Classes as int64 or as text."""
    array = np.asarray(found)
    if array.dtype.kind in "OUS":
        return array.astype(object)
    return array.astype(np.int64) if array.dtype.kind in "iub" or np.array_equal(array, np.round(array)) else array


def _table(inputs: Arrays, model: Model) -> Any:
    """A DataFrame where the pipeline picks columns by name, else the one matrix."""
    names = [t.name for t in model.signature.inputs]
    if not model.options.get("columns"):
        return inputs[names[0]]
    pandas = extras.need("pandas", extra="sklearn")
    return pandas.DataFrame({name: np.asarray(inputs[name])[:, 0] for name in names})


def _floating(inputs: Sequence[TensorSpec]) -> str:
    kinds = {t.dtype for t in inputs if t.dtype.startswith("float")}
    return "float32" if kinds == {"float32"} else "float64"


def _no_width(estimator: Any) -> str:
    validation = extras.need("sklearn.utils.validation", extra="sklearn")
    try:
        validation.check_is_fitted(estimator)
    except (ValueError, TypeError):  # NotFittedError is a ValueError; TypeError: it cannot be fitted
        return "was not fitted; fit it, and save it again"
    return "does not say how many columns it takes, as of texts; convert it with skl2onnx, and add the .onnx file"


def _inputs(estimator: Any, data: Dataset | None, source: Path) -> tuple[tuple[TensorSpec, ...], bool]:
    """One matrix, or an input for each named column where the pipeline picks them by name."""
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if names and _by_name(estimator):
        if data is None:
            raise BadModel(
                f"{source} takes columns by name ({', '.join(names)}) and does not say what is in them; pass --data "
                "FILE (.csv, .npz) with some rows"
            )
        rows = dataset.columns(data, names)
        return tuple(TensorSpec(name, _dtype(rows[name]), (None, 1)) for name in names), True
    width = int(estimator.num_feature() if is_booster(estimator) else getattr(estimator, "n_features_in_", 0))
    if not width:
        raise BadModel(f"{source} holds a {type(estimator).__name__} that {_no_width(estimator)}")
    if data is None:
        return (TensorSpec("X", "float64", (None, width)),), False
    if len(data.inputs) > 1:
        raise BadData(f"{source} takes one table of {width} columns, and {data.source} has {', '.join(data.inputs)}")
    if names and set(data.columns) == set(names) and list(data.columns) != names:
        raise BadData(f"the columns of {data.source} stand in another order than the model's: {', '.join(names)}")
    ((name, array),) = data.inputs.items()
    return (TensorSpec(name, _dtype(array), (None, width)),), False


def _by_name(estimator: Any) -> bool:
    """Whether a ColumnTransformer inside was told columns as text, which works on a DataFrame only."""
    from sklearn.compose import ColumnTransformer

    picked = [
        column
        for part in trees.inside(estimator, ColumnTransformer)
        for _, _, chosen in part.transformers
        for column in (chosen if isinstance(chosen, (list, tuple)) else [chosen])
    ]
    return any(isinstance(column, str) for column in picked) or any(callable(column) for column in picked)


def _dtype(array: Array) -> str:
    if array.dtype.kind in "OUS":
        return "str"
    return array.dtype.name if array.dtype.name in ("float32", "float64", "int64", "bool") else "float64"


def _outputs(estimator: Any, model: Model, data: Dataset | None, source: Path) -> tuple[TensorSpec, ...]:
    """Seen on three rows."""
    rows = _three_rows(model.signature, data)
    try:
        found = answers(without_names(estimator, model), rows, model)
    except Exception as error:  # an estimator is made of many libraries, which share no error
        given = data.source if data else "three rows of zeros"
        raise BadModel(f"{source} cannot run {given}: {first_line(error)}") from error
    for name, array in found.items():
        if array.shape[:1] != (3,):
            raise BadModel(f"{source} answers 3 rows with '{name}' of shape {list(array.shape)}")
    return tuple(
        TensorSpec(name, "str" if array.dtype.kind in "OUS" else array.dtype.name, (None, *array.shape[1:]))
        for name, array in found.items()
    )


def _three_rows(signature: Signature, data: Dataset | None) -> Arrays:
    if data is None:
        spec = signature.inputs[0]
        return {spec.name: np.zeros((3, *(size or 1 for size in spec.shape[1:])), spec.dtype)}
    rows = dataset.fit(data, signature)
    return rows.take(np.arange(3) % len(rows)).inputs


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _adopt_estimator(source: Path, into: Path, *, pickled: bool, trust: bool) -> tuple[tuple[str, ...], dict[str, Any]]:
    """A skops file as it is, a pickle as the skops file that it should have been; the code of your own types too."""
    skops = extras.need("skops.io", extra="sklearn")
    if pickled:
        _write_skops(skops, _unpickle(source), into / SKOPS, source)
    else:
        shutil.copyfile(source, into / SKOPS)
    needed = _untrusted(skops, into / SKOPS, source)
    if needed and not trust:
        raise Untrusted(
            f"{source} needs types that are not scikit-learn's own, and loading them can run any code: "
            f"{', '.join(needed)}; pass --trust if you made the file yourself"
        )
    modules = sorted({name.rpartition(".")[0] for name in needed} - {""})
    code = [file for module in modules for file in _code(module, into, source)]
    return (SKOPS, *code), ({"trusted": needed} if needed else {})


def _code(module: str, into: Path, source: Path) -> tuple[str, ...]:
    if module == "__main__":
        raise BadModel(
            f"{source} holds a type that was written in a script or notebook (__main__), where nothing can find it "
            "again; put it into a module of its own, import it from there, and save the model again"
        )
    return factories.keep(f"{module}:_", into, near=(Path.cwd(), source.parent))


def _untrusted(skops: Any, file: Path, told: Path) -> list[str]:
    found = _read(lambda: skops.get_untrusted_types(file=file), told)
    return sorted(set(found) - COMPUTES_ONLY)


def _open(file: Path, told: Path, trusted: Sequence[str], home: Path) -> Any:
    skops = extras.need("skops.io", extra="sklearn")
    for name, extra in (("xgboost", "trees"), ("lightgbm", "trees")):
        if name.encode() in file.read_bytes():
            extras.need(name, extra=extra)
    with factories.importable(home / factories.CODE):
        estimator = _read(lambda: skops.load(file, trusted=[*COMPUTES_ONLY, *trusted]), told)
    trees.check(estimator, told)
    return estimator


def _unpickle(source: Path) -> Any:
    import joblib

    with factories.importable(Path.cwd(), source.parent):
        return _read(lambda: joblib.load(source), source)


def _write_skops(skops: Any, estimator: Any, file: Path, source: Path) -> None:
    if not hasattr(estimator, "get_params"):
        raise BadModel(f"{source} holds a {type(estimator).__name__}, which is no scikit-learn estimator")
    try:
        skops.dump(estimator, file)
    except Exception as error:  # skops has no error of its own for what it cannot write
        raise BadModel(f"{source} cannot be kept without pickle: {first_line(error)}") from error


def _adopt_xgboost(source: Path, into: Path) -> tuple[str, ...]:
    import xgboost

    def again() -> None:
        booster = xgboost.Booster()
        booster.load_model(bytearray(source.read_bytes()))
        booster.save_model(into / XGBOOST)

    _read(again, source)
    return (XGBOOST,)


def _xgboost(file: Path) -> Any:
    """The classifier or the regressor that the file's objective belongs to."""
    xgboost = importlib.import_module("xgboost")
    booster = xgboost.Booster()
    booster.load_model(bytearray(file.read_bytes()))
    config = booster.save_config()
    kind = "XGBClassifier" if '"name":"binary:' in config or '"name":"multi:' in config else "XGBRegressor"
    estimator = getattr(xgboost, kind)()
    estimator.load_model(file)
    return estimator


def _read(reader: Any, told: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader()
    except ModuleNotFoundError as error:
        raise BadModel(f"{told} needs the module '{error.name}', which is not installed here") from error
    except Exception as error:  # skops, joblib and the boosters raise whatever damaged bytes lead them to
        raise BadModel(f"{told} is damaged, or was saved by another version: {first_line(error)}") from error


def all_estimators(estimator: Any) -> Iterator[Any]:
    """The estimator and every estimator inside it."""
    from sklearn.base import BaseEstimator

    return trees.inside(estimator, BaseEstimator)
