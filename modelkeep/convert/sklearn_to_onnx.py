"""scikit-learn, XGBoost and LightGBM → ONNX, with a free batch and the same names, kept only when the answers agree.

Trees compare numbers with thresholds, and a number rounded to 32 bits can fall on the other side of one (skl2onnx's
documentation, "Issues when switching to float"). So there are several ways to place the rounding, and the first whose
answers agree is kept.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from modelkeep import extras
from modelkeep.convert.proof import Progress, difference, noted, prove
from modelkeep.convert.rename import Names, keep_reference, rename_file, renamed_signature
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, Differs, ModelkeepError, Undecided, Unsupported, first_line
from modelkeep.model import folder
from modelkeep.model.formats import onnx as onnx_format
from modelkeep.model.formats import sklearn as sklearn_format
from modelkeep.model.whole import whole
from modelkeep.types import Model, Report, Signature, TensorSpec

OPSETS = {"": 18, "ai.onnx.ml": 3}
"""What skl2onnx and onnxmltools write for; later ones have nothing that they use."""
ONNX_TYPES = {
    "bool": onnx.TensorProto.BOOL,
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
    "int64": onnx.TensorProto.INT64,
    "str": onnx.TensorProto.STRING,
}
CONVERTERS = {"xgboost": "XGBoost", "lightgbm": "LightGbm"}
"""The module of onnxmltools that converts each."""
_patched = threading.Lock()


@dataclass(frozen=True)
class SklearnToOnnx:
    """Writes the estimator with skl2onnx (and onnxmltools for boosted trees of other libraries).

    ``opset`` None is 18. ``rename`` gives inputs and outputs other names. ``rows`` are what the answers are compared
    on; without them the model's reference rows, or else seeded random ones, which seldom come near a threshold: real
    rows tell more.
    """

    opset: int | None = None
    atol: float = 1e-4
    rtol: float = 1e-3
    rename: Names = field(default_factory=dict)
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs, with the rows that differ for each way tried, Undecided, or Unsupported."""
        if model.format != "sklearn":
            raise Unsupported(f"only scikit-learn models are converted so, and this is '{model.format}'")
        renamed_signature(model.signature, self.rename)  # refuses names that there are not
        estimator = sklearn_format.without_names(sklearn_format.load(model), model)
        rows = self.rows or folder.reference(model.path)
        with whole(into):
            made, report = self._ladder(estimator, model, rows, into)
            keep_reference(model, self.rename, into)
            return folder.write(made), (report,)

    def _ladder(self, estimator: Any, model: Model, rows: Dataset | None, into: Path) -> tuple[Model, Report]:
        failed: dict[str, str] = {}
        differs: Differs | None = None
        for way, (prepared, floating) in _ways(estimator, model.signature).items():
            noted(self.progress, f"writing {way}")
            try:
                made = self._written(prepared, floating, model, into)
                report = prove(
                    model, made, rows, atol=self.atol, rtol=self.rtol, rename=self.rename, progress=self.progress
                )
            except Undecided:
                raise  # of the rows, and not of how it was written
            except ModelkeepError as error:
                failed[way] = difference(error)
                differs = error if isinstance(error, Differs) else differs
                continue
            return made, _told(report, way, failed, made)
        told = "; ".join(f"{way}: {why}" for way, why in failed.items())
        if differs:
            raise Differs(f"the ONNX model does not answer as the scikit-learn one does, so it is not kept; {told}")
        raise Unsupported(f"skl2onnx cannot write this model as ONNX; {told}")

    def _written(self, estimator: Any, floating: str, model: Model, into: Path) -> Model:
        domains = {**OPSETS, "": self.opset or OPSETS[""]}
        with _patched, _as_protobuf_wants(), _quiet():
            try:
                graph = _convert(estimator, floating, model.signature, domains)
            except Exception as error:  # skl2onnx's and onnxmltools' errors have no parent below Exception
                raise Unsupported(f"it cannot be written: {first_line(error)}") from error
        _finish(graph, model.signature)
        file = into / onnx_format.MAIN
        onnx.save(graph, file)
        opset = onnx_format.opset(file)
        if self.opset and opset != self.opset:
            raise Unsupported(f"it wrote opset {opset} where {self.opset} was asked for")
        got = onnx_format.read_signature(file)
        if [(t.name, t.dtype, t.shape) for t in (*got.inputs, *got.outputs)] != [
            (t.name, t.dtype, t.shape) for t in (*model.signature.inputs, *model.signature.outputs)
        ]:
            raise BadModel(f"it wrote {', '.join(t.describe() for t in (*got.inputs, *got.outputs))}")
        if self.rename:
            rename_file(file, self.rename)
        signature = renamed_signature(model.signature, self.rename)
        return replace(model, path=into, format="onnx", signature=signature, files=(onnx_format.MAIN,), options={})


def _ways(estimator: Any, signature: Signature) -> dict[str, tuple[Any, str]]:
    """Name → the estimator to write and the precision of the numbers that it is given."""
    found = {"in 32 bits": (estimator, "float32")}
    if any(t.dtype == "float64" for t in signature.inputs):
        if rounded := _rounded_before_trees(estimator):
            found["in 64 bits, rounded before the trees as scikit-learn does"] = (rounded, "float64")
        found["in 64 bits"] = (estimator, "float64")
    return found


def _rounded_before_trees(estimator: Any) -> Any | None:
    """A pipeline that ends in scikit-learn's own trees, which round to 32 bits themselves; None for any other."""
    from skl2onnx.sklapi import CastTransformer
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline) or len(estimator.steps) < 2:
        return None
    last = estimator.steps[-1][1]
    if not type(last).__module__.startswith(("sklearn.tree", "sklearn.ensemble._forest", "sklearn.ensemble._gb")):
        return None
    cast = CastTransformer(dtype=np.float32)
    cast.fit(np.zeros((1, last.n_features_in_)))
    changed = copy.copy(estimator)
    changed.steps = [*estimator.steps[:-1], ("rounded", cast), estimator.steps[-1]]
    return changed


def _convert(estimator: Any, floating: str, signature: Signature, opsets: Mapping[str, int]) -> Any:
    """The ModelProto as the converters write it, its inputs named as the model's."""
    if sklearn_format.is_booster(estimator):
        from onnxmltools import convert_lightgbm

        types = _types(signature, "float32", "onnxmltools.convert")
        return convert_lightgbm(estimator, initial_types=types, zipmap=False, target_opset=min(opsets[""], 15))
    from skl2onnx import to_onnx

    _register_boosters()
    types = _types(signature, floating, "skl2onnx")
    for options in _options(estimator):
        with contextlib.suppress(NameError):  # skl2onnx's word for an option that this kind of estimator lacks
            return to_onnx(estimator, initial_types=types, options=options, target_opset=dict(opsets))
    return to_onnx(estimator, initial_types=types, target_opset=dict(opsets))


def _options(estimator: Any) -> list[dict[int, dict[str, Any]]]:
    """What is wanted of a classifier, the most first: one array of probabilities or, where it has none, of scores."""
    from sklearn.base import is_classifier

    if not is_classifier(estimator):
        return []
    last = estimator
    while hasattr(last, "steps"):
        last = last.steps[-1][1]
    array: dict[str, Any] = {"zipmap": False}
    scores: dict[str, Any] = {"raw_scores": True}
    wanted = [array] if hasattr(last, "predict_proba") else [{**array, **scores}, scores, array]
    return [{id(last): each} for each in wanted]


def _register_boosters() -> None:
    """Tells skl2onnx of the boosted trees of other libraries that are installed."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator as shapes

    classes = {"nocl": [True, False], "zipmap": [True, False, "columns"], "raw_scores": [True, False]}
    known = {
        "xgboost": ("XGBClassifier", "XGBRFClassifier", "XGBRegressor", "XGBRFRegressor"),
        "lightgbm": ("LGBMClassifier", "LGBMRegressor"),
    }
    for library, names in known.items():
        if not extras.has(library):
            continue
        module = importlib.import_module(library)
        converter = importlib.import_module(f"onnxmltools.convert.{library}.operator_converters.{CONVERTERS[library]}")
        for name in names:
            classifies = name.endswith("Classifier")
            update_registered_converter(
                getattr(module, name),
                f"{library}{name}",
                shapes.calculate_linear_classifier_output_shapes
                if classifies
                else shapes.calculate_linear_regressor_output_shapes,
                getattr(converter, f"convert_{library}"),
                options=classes if classifies else {"split": None} if library == "lightgbm" else None,
            )


def _types(signature: Signature, floating: str, library: str) -> list[tuple[str, Any]]:
    types = importlib.import_module(f"{library}.common.data_types")
    kinds = {
        "float32": types.FloatTensorType,
        "float64": types.DoubleTensorType,
        "int64": types.Int64TensorType,
        "str": types.StringTensorType,
        "bool": types.BooleanTensorType,
    }
    return [
        (t.name, kinds[floating if t.dtype.startswith("float") else t.dtype](list(t.shape))) for t in signature.inputs
    ]


def _finish(graph: Any, signature: Signature) -> None:
    """Inputs and outputs as the signature has them: names, dtypes, ranks; casts go in where the converter differs."""
    nodes = graph.graph
    if len(nodes.input) != len(signature.inputs):
        raise Unsupported(f"it takes {', '.join(value.name for value in nodes.input)} only")
    for spec, given in zip(signature.inputs, nodes.input, strict=True):
        if given.name != spec.name:  # the converters write "length (cm)" as length__cm_; the order is the model's
            _rename(nodes, given.name, spec.name)
        kind = given.type.tensor_type.elem_type
        if kind != ONNX_TYPES[spec.dtype]:
            _rename(nodes, spec.name, f"{spec.name}/cast")
            cast = onnx.helper.make_node("Cast", [spec.name], [f"{spec.name}/cast"], to=kind)
            nodes.node.insert(0, cast)
    results = [value.name for value in nodes.output][: len(signature.outputs)]
    del nodes.input[:], nodes.output[:], nodes.value_info[:]
    nodes.input.extend(_value(spec) for spec in signature.inputs)
    nodes.output.extend(_value(spec) for spec in signature.outputs)
    if len(results) < len(signature.outputs):
        raise Unsupported(f"it wrote {', '.join(results)} only")
    for name in results:
        _rename(nodes, name, f"{name}/raw")
    for name, spec in zip(results, signature.outputs, strict=True):
        nodes.initializer.append(
            onnx.numpy_helper.from_array(np.array([-1 if s is None else s for s in spec.shape]), f"{spec.name}/shape")
        )
        # text cannot be cast, and needs no cast; of numbers the converters' own dtypes are not always as declared
        at = f"{name}/raw"
        if spec.dtype != "str":
            nodes.node.append(onnx.helper.make_node("Cast", [at], [f"{name}/cast"], to=ONNX_TYPES[spec.dtype]))
            at = f"{name}/cast"
        nodes.node.append(onnx.helper.make_node("Reshape", [at, f"{spec.name}/shape"], [spec.name]))


def _rename(nodes: Any, old: str, new: str) -> None:
    """A tensor inside the graph; its inputs and outputs keep their own lists."""
    for node in nodes.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == old:
                    names[at] = new


def _value(spec: TensorSpec) -> Any:
    shape = [axis if size is None else size for size, axis in zip(spec.shape, spec.axes, strict=True)]
    return onnx.helper.make_tensor_value_info(spec.name, ONNX_TYPES[spec.dtype], shape)


def _told(report: Report, way: str, failed: Mapping[str, str], made: Model) -> Report:
    """What the comparison found, and how the numbers were rounded."""
    opset = onnx_format.opset(made.main)
    numbers = {**report.numbers, "exporter": "skl2onnx", "rounding": way, "opset": opset, "bytes": made.size}
    after = "".join(f"; {name} was tried before: {why}" for name, why in failed.items())
    return replace(
        report, why=f"{report.why} (skl2onnx, {way}, opset {opset}){after}", numbers={**numbers, "failed": dict(failed)}
    )


@contextlib.contextmanager
def _as_protobuf_wants() -> Iterator[None]:
    """skl2onnx 1.20 hands truth values to a list of ints, which protobuf 6 and later refuse."""
    from skl2onnx.common import _container as container

    original: Callable[..., Any] = container.make_node

    def make_node(*args: Any, **attributes: Any) -> Any:
        for name, value in attributes.items():
            if isinstance(value, list) and any(isinstance(each, (bool, np.bool_)) for each in value):
                attributes[name] = [int(each) for each in value]
        return original(*args, **attributes)

    container.make_node = make_node
    try:
        yield
    finally:
        container.make_node = original


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converters' warnings are theirs; what matters of them shows in the comparison."""
    logger = logging.getLogger("skl2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
