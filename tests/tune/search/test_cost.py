"""What a search takes: the time that it was given, and no more memory than there is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from modelkeep.tune import machine, rounds
from modelkeep.tune.search import Tune
from modelkeep.types import Model, ServeConfig
from tests.tune.search.field import NAIVE, QUICK, SHORT, field, runners


def test_the_budget_is_kept_whatever_is_slow(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    def slow(x: Any) -> Any:
        time.sleep(0.2)
        return fake().function(x)

    field(monkeypatch, *(ServeConfig(threads=n, max_batch=1) for n in range(1, 9)))
    runners(monkeypatch, lambda c: fake(slow))
    began = time.monotonic()
    _, report, _ = Tune(p99=9.0, budget=1.0, concurrency=1).run(tiny)
    assert time.monotonic() - began < 6
    assert report.numbers["candidates"]
    assert any("the time was up; a longer --budget" in r["why"] for r in report.numbers["refused"])
    assert not json.dumps(report.to_json(), allow_nan=False).count("Infinity")


def test_a_setting_that_hangs_costs_its_patience_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    release = threading.Event()

    def hang(x: Any) -> Any:
        release.wait(30)
        return fake().function(x)

    monkeypatch.setattr(rounds, "PATIENCE", 0.3)
    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake(hang if c == QUICK else None))
    try:
        config, report, _ = SHORT.run(tiny)
    finally:
        release.set()
    assert config == NAIVE
    (refused,) = report.numbers["refused"]
    assert refused["config"] == asdict(QUICK)
    assert "within 0 s" in refused["why"]


def test_engines_are_compared_before_their_threads(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    """The slow engine is measured in one of its settings; the fast one in all."""
    right = fake().function

    def slow(x: Any) -> Any:
        time.sleep(0.02)
        return right(x)

    layouts = ((1, 1), (1, 2), (2, 1))
    slows = [ServeConfig(engine="openvino", threads=t, workers=w, max_batch=8) for t, w in layouts]
    quicks = [ServeConfig(threads=t, workers=w, max_batch=8) for t, w in layouts]
    field(monkeypatch, NAIVE, *slows, *quicks)
    runners(monkeypatch, lambda c: fake(slow if c.engine == "openvino" else None))
    _, report, _ = Tune(p99=5.0, budget=6.0, concurrency=4).run(tiny)
    measured = [c["config"]["engine"] for c in report.numbers["candidates"]]
    assert measured.count("openvino") == 1
    assert measured.count("onnxruntime") == 4


def test_a_model_that_is_large_beside_the_machine_is_loaded_once_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    loaded: list[Any] = []

    def most() -> int:
        return sum(not r.closed for r in loaded)

    def make(config: ServeConfig) -> Any:
        counts.append(most())
        loaded.append(fake())
        return loaded[-1]

    field(monkeypatch, NAIVE, QUICK, ServeConfig(threads=2))
    counts: list[int] = []
    runners(monkeypatch, make)
    monkeypatch.setattr(machine, "memory", lambda: tiny.size)
    replace(SHORT, budget=3.0).run(tiny)
    assert len(counts) > 3
    assert set(counts) == {0}
    assert most() == 0
    counts.clear()
    monkeypatch.setattr(machine, "memory", lambda: 10**12)
    SHORT.run(tiny)
    assert counts == [0, 0, 1, 2]  # the first is asked whether requests may share a run
    assert most() == 0


def test_more_workers_than_fit_the_memory_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    crowd = ServeConfig(threads=1, workers=64)
    field(monkeypatch, NAIVE, QUICK, crowd)
    runners(monkeypatch, lambda c: fake())
    monkeypatch.setattr(machine, "memory", lambda: 8 * 2**30)
    _, report, _ = SHORT.run(tiny)
    (refused,) = [r for r in report.numbers["refused"] if r["config"] == asdict(crowd)]
    assert "64 workers may need 17.9 GiB of memory" in refused["why"]
