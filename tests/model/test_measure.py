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
    report = measure.race(lambda: a, lambda: b, INPUTS)
    assert report.numbers["ratio"] == pytest.approx(2, abs=0.05)
    assert 1.9 < report.numbers["low"] <= report.numbers["ratio"] <= report.numbers["high"] < 2.1
    assert (report.numbers["heats"], report.numbers["rounds"], report.numbers["rows"]) == (9, 45, 5)
    assert report.why.startswith("1.98 times as fast (95 % interval 1.97 to 1.99: faster); 10.0")
    swapped = measure.race(lambda: b, lambda: a, INPUTS)
    assert "slower" in swapped.why


def test_the_same_is_told_so(clock: list[float]) -> None:
    rng = np.random.default_rng(1)
    a, b = (Clocked(clock, lambda: 0.01 * rng.lognormal(0, 0.5), name, []) for name in "ab")
    report = measure.race(lambda: a, lambda: b, INPUTS)
    assert report.numbers["low"] < 1 < report.numbers["high"]
    assert "neither faster nor slower" in report.why


def test_they_run_in_turn_each_first_every_other_round(clock: list[float]) -> None:
    order: list[str] = []
    a, b = (Clocked(clock, lambda: 0.01, name, order) for name in "ab")
    measure.race(lambda: a, lambda: b, INPUTS, heats=6, rounds=4)
    heat = "ab" * measure.WARM_UP + "baabbaab"
    assert "".join(order) == heat * 6


def test_the_interval_holds_between_loads(clock: list[float]) -> None:
    """Each load is 20 % off by chance, its runs are not: an interval over the runs alone would claim a difference."""
    rng = np.random.default_rng(2)

    def loader(name: str) -> Any:
        def load() -> Clocked:
            seconds = 0.01 * rng.lognormal(0, 0.2)
            return Clocked(clock, lambda: seconds, name, [])

        return load

    found = [measure.race(loader("a"), loader("b"), INPUTS).numbers for _ in range(100)]
    assert sum(n["low"] <= 1 <= n["high"] for n in found) >= 90


def test_what_was_loaded_is_closed(clock: list[float]) -> None:
    closed: list[str] = []

    class Closing(Clocked):
        def close(self) -> None:
            closed.append(self.name)

    measure.race(
        lambda: Closing(clock, lambda: 0.01, "a", []), lambda: Closing(clock, lambda: 0.01, "b", []), INPUTS, heats=6
    )
    assert sorted(closed) == ["a"] * 6 + ["b"] * 6


def test_a_real_clock_gives_real_seconds() -> None:
    busy = Clocked([0.0], lambda: float(np.linalg.norm(np.ones((300, 300)))), "a", [])
    report = measure.race(lambda: busy, lambda: busy, INPUTS)
    assert 0 < report.numbers["seconds_a"] < 1
