"""A race says which is faster only where the rounds show it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from modelkeep.model import measure
from modelkeep.types import Signature


class Clocked:
    """Takes a number of seconds by a clock that it moves itself."""

    def __init__(self, clock: list[float], seconds: Any, name: str, order: list[str]) -> None:
        self.signature = Signature((), ())
        self.clock, self.seconds, self.name, self.order = clock, seconds, name, order

    def run(self, inputs: Any) -> dict[str, Any]:
        self.order.append(self.name)
        self.clock[0] += self.seconds()
        return {}

    def close(self) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


INPUTS = {"x": np.zeros((5, 2))}


def test_twice_as_fast_is_told_so(clock: list[float]) -> None:
    rng, order = np.random.default_rng(0), []
    a = Clocked(clock, lambda: 0.010 + rng.random() * 1e-4, "a", order)
    b = Clocked(clock, lambda: 0.005 + rng.random() * 1e-4, "b", order)
    report = measure.race(a, b, INPUTS)
    assert report.numbers["ratio"] == pytest.approx(2, abs=0.05)
    assert 1.9 < report.numbers["low"] <= report.numbers["ratio"] <= report.numbers["high"] < 2.1
    assert (report.numbers["rounds"], report.numbers["rows"]) == (30, 5)
    assert report.why.startswith("1.98 times as fast (95 % interval 1.98 to 1.99: faster); 10.0")
    swapped = measure.race(b, a, INPUTS)
    assert "slower" in swapped.why


def test_the_same_is_told_so(clock: list[float]) -> None:
    rng = np.random.default_rng(1)
    a, b = (Clocked(clock, lambda: 0.01 * rng.lognormal(0, 0.5), name, []) for name in "ab")
    report = measure.race(a, b, INPUTS)
    assert report.numbers["low"] < 1 < report.numbers["high"]
    assert "neither faster nor slower" in report.why


def test_they_run_in_turn_each_first_every_other_round(clock: list[float]) -> None:
    order: list[str] = []
    a, b = (Clocked(clock, lambda: 0.01, name, order) for name in "ab")
    measure.race(a, b, INPUTS, rounds=4)
    assert "".join(order[2 * measure.WARM_UP :]) == "baabbaab"


def test_a_real_clock_gives_real_seconds() -> None:
    busy = Clocked([0.0], lambda: float(np.linalg.norm(np.ones((300, 300)))), "a", [])
    report = measure.race(busy, busy, INPUTS, rounds=5)
    assert 0 < report.numbers["seconds_a"] < 1
