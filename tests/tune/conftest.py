"""A tiny ONNX model, and a plane without an engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.model import folder
from modelkeep.serve.loaded import bring_here
from modelkeep.tune import bench
from modelkeep.types import Model, Reply, Request, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None, 3)),))
WEIGHTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """y = x · WEIGHTS, with reference rows."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = tmp_path_factory.mktemp("tiny")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [value("x", TensorProto.FLOAT, [None, 4])],
        [value("y", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, path / "model.onnx")
    model = folder.write(Model(path, "onnx", SIGNATURE, ("model.onnx",)))
    rows = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    folder.keep_reference(path, Dataset({"x": rows}, None, "made rows"))
    return model


@pytest.fixture(autouse=True)
def _engines_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the runners are that a test put in an engine's place, and quick to load."""
    monkeypatch.setattr(bench, "bring", bring_here)


class Fake:
    """A runner made of a function of x; counts what is open."""

    def __init__(self, function: Callable[[Any], Any] | None = None) -> None:
        self.signature, self.function, self.closed = SIGNATURE, function or (lambda x: x @ WEIGHTS), 0

    def run(self, inputs: Any) -> dict[str, Any]:
        return {"y": self.function(inputs["x"])}

    def close(self) -> None:
        self.closed += 1


class Stalling:
    """A plane that blocks everything for a while at its first request, and answers all others at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.requests = seconds, 0

    async def infer(self, request: Request) -> Reply:
        self.requests += 1
        if self.requests == 1:
            time.sleep(self.seconds)
        return Reply(request.id, request.model, 1, {})


@pytest.fixture
def fake() -> type[Fake]:
    return Fake


@pytest.fixture
def stalling() -> type[Stalling]:
    return Stalling


@pytest.fixture
def elsewhere(tiny: Model, tmp_path: Path) -> Model:
    """The tiny model without reference rows."""
    import shutil

    shutil.copytree(tiny.path, tmp_path / "m")
    (tmp_path / "m" / folder.REFERENCE).unlink()
    return tiny.moved(tmp_path / "m")
