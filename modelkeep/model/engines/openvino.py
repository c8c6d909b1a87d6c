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
NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully converted", "Summary:")


class OpenVinoRunner:
    """A compiled model; an infer request takes one run at a time, so each thread that runs gets one of its own."""

    def __init__(self, model: Model, config: ServeConfig) -> None:
        self.signature = model.signature
        self._compiled: Any = _compile(model, config)
        self._own = threading.local()

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner. Raises BadInput with the model's reason when it fails on these inputs, NotReady once closed."""
        compiled = self._compiled
        if compiled is None:
            raise NotReady("this model has been closed")
        self.signature.check(inputs)  # OpenVINO itself takes rows that are too short, and answers something
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


def _compile(model: Model, config: ServeConfig) -> Any:
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
        return core.compile_model(str(model.main), config.device.upper(), options)
    except RuntimeError as error:
        raise BadModel(f"{model.main} is not a model that OpenVINO can run: {reason(error)}") from error


def reason(error: Exception) -> str:
    """OpenVINO's words without the lines that name its own source files and its own parts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(NOISE)]
    return (told or lines or [repr(error)])[0]
