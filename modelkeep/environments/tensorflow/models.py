"""SavedModel folders, Keras files and LiteRT files, opened and asked."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from modelkeep.environments.worker import first_line
from modelkeep.errors import BadInput, BadModel, ModelkeepError, Unsupported, Untrusted

SERVING = "serving_default"
OUTSIDE = frozenset({"WriteFile", "ReadFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc"})
"""TensorFlow operators that reach outside the model: files, and Python (github.com/tensorflow/tensorflow, SECURITY.md).
SaveV2 is not among them: every SavedModel holds one, which runs when somebody saves it again and never here."""


@dataclass(frozen=True)
class Opened:
    """A model as one function of tensors by input name; ``keep`` holds what its variables belong to."""

    inputs: tuple[tf.TensorSpec, ...]
    outputs: tuple[tf.TensorSpec, ...]
    call: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    keep: Any = None


_opened: dict[int, Opened] = {}
_numbers = itertools.count()


def open_model(
    path: str, kind: str, trust: bool = False, threads: int | None = None, told: str = ""
) -> tuple[Any, dict[str, Any]]:
    """Open it for ``run``; answers its number, and its inputs and outputs, each a name, a dtype and a shape.

    ``kind`` is tensorflow (``path`` is the folder), keras or litert. Raises BadModel, Unsupported or Untrusted, which
    call the file ``told``.
    """
    _settle(threads)
    try:
        model = OPENERS[kind](Path(path), trust)
        signature = {"inputs": [_told(t) for t in model.inputs], "outputs": [_told(t) for t in model.outputs]}
    except ModelkeepError as error:
        raise type(error)(str(error).replace(path, told or path)) from error
    number = next(_numbers)
    _opened[number] = model
    return {"number": number, **signature}, {}


def close_model(number: int) -> tuple[None, dict[str, Any]]:
    """Give its memory back."""
    _opened.pop(number, None)
    return None, {}


def run(number: int, arrays: Mapping[str, Any]) -> tuple[None, dict[str, Any]]:
    """The open model's answers. Raises BadInput where it fails on these."""
    try:
        found = _opened[number].call(arrays)
        return None, {name: _array(value) for name, value in found.items()}
    except (tf.errors.OpError, ValueError, TypeError, RuntimeError) as error:
        raise BadInput(f"the model cannot run these inputs: {first_line(error)}") from error


# ── SavedModel ───────────────────────────────────────────────────────────────────────────────────────────────────────


def saved_model(folder: Path, trust: bool) -> Opened:
    """Its serving_default, or its only signature."""
    file = folder / "saved_model.pb"
    if not trust:
        _reaches_out(file)
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # the loader has no error of its own
        raise BadModel(f"{file} is not a TensorFlow SavedModel that can be read: {first_line(error)}") from error
    names = list(loaded.signatures)
    key = SERVING if SERVING in names else names[0] if len(names) == 1 else None
    if key is None:
        there = f"it has {', '.join(names)}" if names else "it has none"
        raise BadModel(f"{file} needs a signature called {SERVING}, and {there}; save it with signatures=")
    function = loaded.signatures[key]
    inputs = tuple(_named(name, spec) for name, spec in function.structured_input_signature[1].items())
    outputs = tuple(_named(name, spec) for name, spec in function.structured_outputs.items())
    specs = {t.name: t for t in inputs}

    def call(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = function(**{name: _tensor(value, specs[name]) for name, value in arrays.items()})
        return found

    return Opened(inputs, outputs, call, loaded)


def _reaches_out(file: Path) -> None:
    """Untrusted where a graph names an operator of OUTSIDE."""
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError, or an OSError
        raise BadModel(f"{file} is not a TensorFlow SavedModel that can be read: {first_line(error)}") from error
    for meta in saved.meta_graphs:
        nodes = [*meta.graph_def.node, *(n for f in meta.graph_def.library.function for n in f.node_def)]
        for node in nodes:
            if node.op in OUTSIDE:
                raise Untrusted(
                    f"{file} uses {node.op}, which reaches files or Python outside the model; "
                    "pass --trust if you made it yourself"
                )


# ── Keras ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def keras_file(file: Path, trust: bool) -> Opened:
    """A .keras or .h5 file; a Lambda layer in it is code, and needs trust."""
    model = load_keras(file, trust)
    inputs = tuple(_named(t.name, t) for t in model.inputs)
    names = output_names(model)
    outputs = tuple(_named(name, t) for name, t in zip(names, model.outputs, strict=True))
    specs = {t.name: t for t in inputs}

    def answers(*tensors: Any) -> list[Any]:
        return list(tf.nest.flatten(model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)))

    function = tf.function(answers, autograph=False)

    def call(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        found = function(*(_tensor(arrays[name], spec) for name, spec in specs.items()))
        return dict(zip(names, found, strict=True))

    return Opened(inputs, outputs, call, model)


def load_keras(file: Path, trust: bool) -> Any:
    """The model, built. Raises Untrusted for code inside, BadModel for layers that only their author has."""
    import keras

    keras.config.disable_interactive_logging()
    try:
        model = keras.saving.load_model(str(file), compile=False, safe_mode=not trust)
    except Exception as error:  # Keras has no error of its own
        text = str(error)
        if "safe_mode" in text or "unsafe" in text or "Lambda" in text:
            raise Untrusted(
                f"{file} holds a Lambda layer, which is code that runs when the file is opened; "
                "pass --trust if you made it yourself"
            ) from error
        hint = ""
        if "Could not locate" in text or "Unknown layer" in text:
            hint = "; where it has layers of your own, save it with model.export(folder) and add that folder"
        raise BadModel(f"{file} is not a Keras model that can be read: {first_line(error)}{hint}") from error
    if not getattr(model, "inputs", None):
        raise BadModel(f"{file} does not say what the model takes; save it with model.export(folder) and add that")
    return model


def output_names(model: Any) -> list[str]:
    """The layers that the outputs come from, each name once."""
    names = list(getattr(model, "output_names", None) or [model.layers[-1].name])
    return [name if names.index(name) == at else f"{name}_{at}" for at, name in enumerate(names)]


# ── LiteRT ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def litert_file(file: Path, trust: bool) -> Opened:
    """A .tflite file with one signature. The interpreter reaches no files, so there is nothing to trust."""
    try:
        interpreter = tf.lite.Interpreter(str(file))
        runner = interpreter.get_signature_runner()
    except Exception as error:  # the interpreter has no error of its own
        raise BadModel(f"{file} is not a LiteRT model that can be run: {first_line(error)}") from error
    inputs = tuple(_lite(name, d) for name, d in runner.get_input_details().items())
    outputs = tuple(_lite(name, d) for name, d in runner.get_output_details().items())
    lock = threading.Lock()  # its tensors are shared by all runs

    def call(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        with lock:
            return {name: np.array(value) for name, value in runner(**arrays).items()}

    return Opened(inputs, outputs, call, interpreter)


def _lite(name: str, detail: Mapping[str, Any]) -> tf.TensorSpec:
    shape = [None if size < 0 else int(size) for size in detail["shape_signature"]]
    return tf.TensorSpec(shape, tf.as_dtype(detail["dtype"]), name)


OPENERS: dict[str, Callable[[Path, bool], Opened]] = {
    "tensorflow": saved_model,
    "keras": keras_file,
    "litert": litert_file,
}


# ── small things ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _settle(threads: int | None) -> None:
    """As many threads as asked for, and the same answer every time."""
    if threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            pass  # TensorFlow has begun already; the first model of a process decides
    tf.keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()


def _named(name: str, spec: Any) -> tf.TensorSpec:
    return tf.TensorSpec(spec.shape, spec.dtype, name.partition(":")[0])


def _told(spec: tf.TensorSpec) -> tuple[str, str, list[int | None]]:
    if spec.shape.rank is None:
        raise Unsupported(f"'{spec.name}' has no fixed number of dimensions, so nothing can be checked against it")
    dtype = tf.as_dtype(spec.dtype)
    known = "str" if dtype == tf.string else np.dtype(dtype.as_numpy_dtype).name
    if dtype == tf.bfloat16 or dtype.is_quantized:
        raise Unsupported(f"'{spec.name}' is {dtype.name}, which has no counterpart in numpy; give and take float32")
    return str(spec.name), known, [None if size is None else int(size) for size in spec.shape]


def _tensor(array: Any, spec: tf.TensorSpec) -> Any:
    if tf.is_tensor(array):
        return array  # the model is being traced
    return tf.constant(array.tolist() if array.dtype.kind in "OUS" else array, dtype=spec.dtype, shape=array.shape)


def _array(value: Any) -> Any:
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)
