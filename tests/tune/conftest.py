"""A tiny ONNX model, and a plane without an engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.model import folder
from modelkeep.serve.plane.loaded import bring_here
from modelkeep.tune import bench, rounds
from modelkeep.tune.load import Measured
from modelkeep.tune.rounds import Rounds
from modelkeep.types import Model, Reply, Request, ServeConfig, Signature, TensorSpec

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


class Clock:
    """Time that only measurements take."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Lab:
    """Benches of a simulated machine: each setting has a speed and a latency, the machine has moods.

    ``speed`` and ``latency`` are functions of an Entrant's config and the model's name; ``mood`` of the number of the
    window. ``opening`` are seconds that a setting takes to
    load; ``windows`` are all that were measured, in order.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.speed: Callable[[ServeConfig, str], float] = lambda config, of: 100.0
        self.latency: Callable[[ServeConfig, str], float] = lambda config, of: 0.01
        self.mood: Callable[[int], float] = lambda number: 1.0
        self.broken: dict[ServeConfig, Exception] = {}
        self.hanging: set[ServeConfig] = set()
        self.opening: dict[ServeConfig, float] = {}
        self.overrun = 1.0
        self.loads = 0
        self.open = 0
        self.windows: list[tuple[ServeConfig, str, float]] = []

    def bench(self, model: Any, config: ServeConfig, *, stay: bool = True) -> SimulatedBench:
        return SimulatedBench(self, model, config)


class SimulatedBench:
    """What Rounds asks of a Bench."""

    def __init__(self, lab: Lab, of: str, config: ServeConfig) -> None:
        self.lab, self.of, self.config, self.memory = lab, of, config, 1000
        self.opened = False

    async def open(self) -> None:
        if self.config in self.lab.broken:
            raise self.lab.broken[self.config]
        if self.config in self.lab.hanging:
            await asyncio.Event().wait()
        await asyncio.sleep(self.lab.opening.get(self.config, 0.0))
        self.lab.loads += 1
        self.lab.open += 1
        self.opened = True

    async def use(self, config: ServeConfig) -> None:
        self.config = config

    async def lap(self, rows: Any, *, concurrency: int) -> None:
        pass

    async def run(self, rows: Any, *, concurrency: int, seconds: float) -> Measured:
        lab = self.lab
        lab.windows.append((self.config, self.of, seconds))
        lab.clock.now += seconds * lab.overrun
        rate = lab.speed(self.config, self.of) * lab.mood(len(lab.windows))
        latency = lab.latency(self.config, self.of) * (concurrency / CONCURRENCY)
        return Measured([latency] * round(rate * seconds), seconds)

    async def close(self) -> None:
        self.lab.open -= self.opened
        self.opened = False


CONCURRENCY = 4


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lab(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A simulated machine in place of benches and of time; the models of Rounds are plain names."""
    made = Lab(clock)
    monkeypatch.setattr(rounds, "Bench", made.bench)
    monkeypatch.setattr(rounds, "time", clock)
    return made


@pytest.fixture
def measuring(lab: Lab) -> Callable[..., Rounds]:
    """Rounds over the simulated machine, of models called "" and "int8"."""

    def make(**options: Any) -> Rounds:
        given: dict[str, Any] = {"concurrency": CONCURRENCY, "end": lab.clock.now + 1e6} | options
        models: Any = {"": "", "int8": "int8"}
        return Rounds(models, [], **given)

    return make
