"""A registry in memory, and a world that answers requests by the route that it finds there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.errors import Conflict
from modelkeep.types import Model, Ref, Route, Signature, TensorSpec, Version

MODEL = Model(
    Path("unused"), "onnx", Signature((), (TensorSpec("scores", "float32", (None, 2)),)), ("model.onnx",), ("no", "yes")
)


PRICES = replace(MODEL, signature=Signature((), (TensorSpec("scores", "float32", (None, 1)),)), labels=())


@dataclass(frozen=True)
class Entry:
    """A line of the journal."""

    id: int
    kind: str
    why: str
    data: Mapping[str, Any]
    who: str


@dataclass
class FakeRegistry:
    """Routes by compare-and-swap and a journal, as the registry promises them."""

    kept: Route
    writes: list[Route] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    model: Model = MODEL

    def route(self, name: str) -> Route:
        assert name == self.kept.name
        return self.kept

    def set_route(self, route: Route, *, why: str, who: str = "person") -> Route:
        if route.revision != self.kept.revision:
            raise Conflict(f"the route of {route.name} was changed by somebody else")
        self.kept = replace(route, revision=route.revision + 1)
        self.writes.append(self.kept)
        self._add("route", why, {}, who)
        return self.kept

    def rollback(self, name: str, *, why: str, who: str = "person") -> Route:
        return self.set_route(replace(self.route(name), canary=None, weight=0.0), why=why, who=who)

    def note(self, name: str, kind: str, why: str, data: Mapping[str, Any], who: str = "person") -> Entry:
        return self._add(kind, why, data, who)

    def journal(self, name: str | None = None, *, kind: str | None = None, **_: Any) -> list[Entry]:
        return [e for e in self.entries if kind in (None, e.kind)]

    def get(self, ref: Ref) -> Version:
        assert isinstance(ref.which, int)
        return Version(ref.name, ref.which, "digest", self.model, None, "add()", 0.0)

    def _add(self, kind: str, why: str, data: Mapping[str, Any], who: str) -> Entry:
        self.entries.append(Entry(len(self.entries), kind, why, data, who))
        return self.entries[-1]


@dataclass(frozen=True)
class Ways:
    """How a version behaves: its shares of wrong answers and of errors, and its seconds a request; where answers are
    numbers, how far off these are.
    """

    wrong: float = 0.05
    off: float = 0.0
    errors: float = 0.0
    seconds: float = 0.01


@dataclass
class World:
    """Requests by the hundred: each ``sleep`` is a second with ``rate`` of them, answered by the wanted route."""

    registry: Any
    path: Path
    ways: dict[int, Ways]
    rate: int = 200
    labelled: bool = True
    now: float = 0.0
    sent: int = 0
    rng: Any = field(default_factory=lambda: np.random.default_rng(0))
    then: Callable[[], None] | None = None
    """Called after each second."""

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 1.0
        route = self.registry.route("digits")
        log, truth = TrafficLog(self.path), {}
        for _ in range(self.rate):
            canary = route.canary is not None and self.rng.random() < route.weight
            request = f"r{self.sent}"
            self.sent += 1
            log.offer(self._answer(request, route.canary if canary else route.live, "canary" if canary else "live"))
            truth[request] = 0.0 if self._numbers else "yes"
        log.close()
        if self.labelled and truth:
            labels.record(self.path, "digits", truth)
        if self.then:
            self.then()

    @property
    def _numbers(self) -> bool:
        return getattr(self.registry, "model", MODEL) is PRICES

    def _answer(self, request: str, version: int, track: str) -> Exchange:
        ways = self.ways[version]
        failed, wrong = self.rng.random() < ways.errors, self.rng.random() < ways.wrong
        scores = np.array([[0.0, -1.0 if wrong else 1.0]], "float32")
        if self._numbers:
            scores = np.array([[ways.off * self.rng.normal()]], "float32")
        outcome = "error" if failed else "ok"
        seconds = ways.seconds * (1 + 0.1 * self.rng.random())
        outputs = None if failed else {"scores": scores}
        return Exchange(request, self.now, "digits", version, track, outcome, seconds, {"x": np.zeros(1)}, outputs)


@pytest.fixture
def registry() -> FakeRegistry:
    """digits@1 is live."""
    return FakeRegistry(Route("digits", live=1, revision=1))


@pytest.fixture
def prices() -> FakeRegistry:
    """Numbers are answered; digits@1 is live."""
    return FakeRegistry(Route("digits", live=1, revision=1), model=PRICES)


@pytest.fixture
def ways() -> type[Ways]:
    return Ways


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """A world for a registry: ``ways`` are those of version 1 and 2."""

    def make(registry: Any, live: Ways, canary: Ways, **other: Any) -> World:
        return World(registry, tmp_path / "traffic.db", {1: live, 2: canary}, **other)

    return make
