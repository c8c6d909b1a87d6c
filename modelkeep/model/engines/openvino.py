"""ONNX models and OpenVINO's own (IR) on OpenVINO."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep import extras
from modelkeep.errors import BadInput, BadModel, NotReady, Unsupported
from modelkeep.types import Model, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

openvino = extras.need("openvino", extra="openvino")

PRECISIONS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
SAME = frozenset({"Convert", "Reshape", "Squeeze", "Unsqueeze"})
"""Operations that leave numbers as they are."""
NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully converted", "Summary:")


class OpenVinoRunner:
    """A compiled model; an infer request takes one run at a time, so each thread that runs gets one of its own."""

    def __init__(self, model: Model, config: ServeConfig) -> None:
        self.signature = model.signature
        self._compiled, self._tables = _compile(model, config)
        self._own = threading.local()

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner. Raises BadInput with the model's reason when it fails on these inputs, NotReady once closed."""
        compiled = self._compiled
        if compiled is None:
            raise NotReady("this model has been closed")
        self.signature.check(inputs)  # OpenVINO itself takes rows that are too short, and answers something
        for name, rows in self._tables.items():
            _within(name, inputs[name], rows)
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = compiled.create_infer_request()
        feeds = {t.name: np.asarray(inputs[t.name], order="C") for t in self.signature.inputs}
        try:
            request.infer(feeds)
        except RuntimeError as error:
            raise BadInput(f"the model cannot run these inputs: {reason(error)}") from error
        # copied, for the request keeps its output tensors for the next run
        return {t.name: np.array(request.get_tensor(t.name).data) for t in self.signature.outputs}

    def close(self) -> None:
        """See Runner."""
        self._compiled = None
        self._own = threading.local()


def load(model: Model, config: ServeConfig) -> OpenVinoRunner:
    """See engines.load. ``config.precision`` is a hint, which OpenVINO follows where the processor can."""
    return OpenVinoRunner(model, config)


def _compile(model: Model, config: ServeConfig) -> tuple[Any, dict[str, int]]:
    """The compiled model, and its tables."""
    if any(t.dtype == "str" for t in (*model.signature.inputs, *model.signature.outputs)):
        raise Unsupported("engine 'openvino' does not run text; engine 'onnxruntime' does")
    # a stream is one run at a time: workers without streams of their own would queue for the first
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": config.workers}
    if config.threads:
        options["INFERENCE_NUM_THREADS"] = config.threads * config.workers
    # without a hint OpenVINO picks bfloat16 by itself on processors that have it, which changes answers
    precision = config.precision or "float32"
    if precision not in PRECISIONS:
        raise Unsupported(f"engine 'openvino' has no precision '{precision}'; there are: {', '.join(PRECISIONS)}")
    options["INFERENCE_PRECISION_HINT"] = PRECISIONS[precision]
    core = openvino.Core()
    if config.device.upper() not in core.available_devices:
        there = ", ".join(device.lower() for device in core.available_devices)
        raise Unsupported(f"engine 'openvino' cannot run on device '{config.device}' here; there are: {there}")
    try:
        graph = core.read_model(str(model.main))
        return core.compile_model(graph, config.device.upper(), options), _tables(graph)
    except RuntimeError as error:
        raise BadModel(f"{model.main} is not a model that OpenVINO can run: {reason(error)}") from error


def _tables(graph: Any) -> dict[str, int]:
    """Of inputs whose numbers choose rows of a table (Gather): how many rows it has, by input name."""
    found: dict[str, int] = {}
    for node in graph.get_ops():
        if node.get_type_name() != "Gather" or (axis := node.input_value(2).get_node()).get_type_name() != "Constant":
            continue
        table = node.input_value(0).get_partial_shape()
        size = table[int(axis.get_data().item())] if table.rank.is_static else None
        source = node.input_value(1).get_node()
        while source.get_type_name() in SAME:
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Parameter" and size is not None and size.is_static:
            for name in source.output(0).get_names():
                found[name] = min(size.get_length(), found.get(name, size.get_length()))
    return found


def _within(name: str, array: Array, rows: int) -> None:
    """Raises BadInput for a number beyond a table, for which OpenVINO would answer something without a word."""
    if array.size and not (-rows <= int(array.min()) and int(array.max()) < rows):  # negative: from its end, as in ONNX
        number = next(n for n in array.ravel().tolist() if not -rows <= n < rows)
        raise BadInput(f"input '{name}' holds {number}, and the model takes 0 to {rows - 1} there")


def reason(error: Exception) -> str:
    """OpenVINO's words without the lines that name its own source files and its own parts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(NOISE)]
    return (told or lines or [repr(error)])[0]
