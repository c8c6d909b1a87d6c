"""ONNX models on ONNX Runtime, the default engine."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from modelkeep.errors import BadInput, BadModel, ModelkeepError, NotReady, Unsupported, first_line
from modelkeep.model import folder
from modelkeep.model.engines import ROOM
from modelkeep.model.signature import example
from modelkeep.types import Model, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
READY, TRIED = "ready", "tried"
SILENT = 4
"""onnxruntime's log severity: what fails is raised with its reason, and need not be printed as well; warnings are for
whoever exported the model, not for whoever serves it."""
REST = ("session.intra_op.spin_duration_us", "200")
"""Microseconds for which threads look out for the next run before they rest: it comes sooner while requests queue.
Unless told otherwise they look out for some 40 ms, and take cores from whatever else is there.
"""
REST_AT_ONCE = ("session.force_spinning_stop", "1")
"""What onnxruntime below 1.26 knows of this."""

_state = onnxruntime.capi.onnxruntime_pybind11_state
# onnxruntime's own exceptions have no common parent below Exception
_FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
UNTAUGHT = (
    "; onnxruntime here knows the operation, but not with such numbers or of that opset: where the model computes in "
    "bfloat16, export it in float32"
)
"""It names the operation only, and hardly any of them take bfloat16 on a CPU."""
_UNSHARED: tuple[type[Exception], ...] = (ModelkeepError, OSError, *_FAILURES)


class OnnxRunner:
    """One InferenceSession; its ``run`` is safe to call from several threads."""

    def __init__(self, model: Model, config: ServeConfig) -> None:
        self.signature = model.signature
        self._outputs = [t.name for t in model.signature.outputs]
        self._session: Any = shared_session(model, config) or session(model, config)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner. Raises BadInput with the model's reason when it fails on these inputs, NotReady once closed."""
        if self._session is None:
            raise NotReady("this model has been closed")
        try:
            feeds = {name: _feed(array) for name, array in inputs.items()}
        except UnicodeDecodeError:  # onnxruntime would run the text "b'\\xff'" instead, without a word
            raise BadInput("the inputs hold bytes that are no UTF-8, and ONNX Runtime takes text only") from None
        try:
            answers = self._session.run(self._outputs, feeds)
        except _FAILURES as error:
            raise BadInput(
                _beyond(str(error), feeds) or f"the model cannot run these inputs: {reason(error)}"
            ) from error
        return dict(zip(self._outputs, answers, strict=True))

    def close(self) -> None:
        """See Runner."""
        self._session = None


_INDEX = re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),(-?\d+)\]")


def _beyond(said: str, feeds: Arrays) -> str:
    """Which input holds the number that a table (Gather) does not reach to; empty where none does."""
    found = _INDEX.search(said)
    if found is None:
        return ""
    number, _, last = map(int, found.groups())
    names = [f"'{name}'" for name, array in feeds.items() if array.dtype.kind in "iu" and (array == number).any()]
    return f"input {' or '.join(names)} holds {number}, and the model takes 0 to {last} there" if names else ""


def load(model: Model, config: ServeConfig) -> OnnxRunner:
    """See engines.load."""
    if config.precision not in (None, "float32"):
        raise Unsupported(
            f"engine 'onnxruntime' runs a model in its own precision, so precision '{config.precision}' cannot be set"
        )
    return OnnxRunner(model, config)


def session(model: Model, config: ServeConfig) -> Any:
    """An InferenceSession on ``config.device`` with ``config.threads`` threads for each run."""
    options, providers = _options(config)
    return open_session(model.main, options, providers)


def _options(config: ServeConfig) -> tuple[Any, list[Any]]:
    """SessionOptions and providers. Raises Unsupported."""
    wanted = PROVIDERS.get(config.device.partition(":")[0])
    if wanted not in onnxruntime.get_available_providers():
        raise Unsupported(f"engine 'onnxruntime' as installed here cannot run on device '{config.device}'")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.inter_op_num_threads = 1
    options.add_session_config_entry(*_rest(onnxruntime.__version__))
    if config.threads:
        options.intra_op_num_threads = config.threads
    providers: list[Any] = [wanted]
    if wanted != PROVIDERS["cpu"]:
        providers = [(wanted, {"device_id": config.device.partition(":")[2] or "0"}), PROVIDERS["cpu"]]
    return options, providers


def _rest(version: str) -> tuple[str, str]:
    return REST if tuple(map(int, version.split(".")[:2])) >= (1, 26) else REST_AT_ONCE


def shared_session(model: Model, config: ServeConfig) -> Any | None:
    """One whose weights are mapped from a file, laid out for the processor: all processes have them in common.

    The first process writes the file into ``options[ROOM]``, and the others come after it. None where there is no room,
    or where what was written does not give the same answers, bit by bit.
    """
    if ROOM not in model.options or config.device != "cpu":
        return None
    room = Path(model.options[ROOM])
    try:
        if not (room / READY).exists():
            _write_shared(model, config, room)
        options, providers = _options(config)
        return open_session(room / READY / "model.onnx", options, providers)
    except _UNSHARED:  # a full disk, a model that cannot be written: it runs all the same
        return None


def _write_shared(model: Model, config: ServeConfig, room: Path) -> None:
    if (room / TRIED).exists():
        raise BadModel("it was tried before")
    (room / TRIED).touch()
    made = Path(tempfile.mkdtemp(dir=room))
    options, providers = _options(config)
    options.optimized_model_filepath = str(made / "model.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    ours = open_session(model.main, options, providers)
    options, providers = _options(config)
    theirs = open_session(made / "model.onnx", options, providers)
    rows = folder.reference(model.path)
    inputs = example(model.signature, 1) if rows is None else rows.take([0]).inputs
    feeds = {name: _feed(array) for name, array in inputs.items()}
    for one, other in zip(ours.run(None, feeds), theirs.run(None, feeds), strict=True):
        if one.tobytes() != other.tobytes():
            raise BadModel("what was written answers otherwise")
    made.rename(room / READY)


def open_session(file: Path, options: Any, providers: list[Any], told: Path | None = None) -> Any:
    """An InferenceSession, or BadModel with onnxruntime's reason in one line, which calls the file ``told``."""
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except _FAILURES as error:
        lacks = UNTAUGHT if isinstance(error, _state.NotImplemented) else ""
        raise BadModel(f"{told or file} is not an ONNX model that can be run: {reason(error)}{lacks}") from error


def reason(error: Exception) -> str:
    """onnxruntime's words without its codes, the file's name and the lines that follow."""
    said = first_line(error)
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed: ?)?", "", said).rstrip(".")


def _feed(array: Array) -> Array:
    """As onnxruntime wants it: text as objects, memory in C order. Raises UnicodeDecodeError for other bytes."""
    if array.dtype.kind == "O" and any(isinstance(x, bytes) for x in array.ravel()):
        text = np.empty(array.size, dtype=object)
        text[:] = [x.decode() if isinstance(x, bytes) else x for x in array.ravel()]
        return text.reshape(array.shape)
    return np.asarray(array, dtype=object if array.dtype.kind in "US" else None, order="C")
