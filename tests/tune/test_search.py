"""The search finds a setting that keeps the promise, or says that there is none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadInput, BadModel, ModelkeepError, Unsupported
from modelkeep.model import engines
from modelkeep.tune import halving, machine, space
from modelkeep.tune.search import Tune, label
from modelkeep.types import Model, ServeConfig

NAIVE = ServeConfig(max_batch=1)
QUICK = ServeConfig(threads=1, max_batch=8)
OTHER = ServeConfig(engine="openvino", threads=1, max_batch=8)
SHORT = Tune(p99=1.0, budget=0.5, concurrency=4)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a tenth of their least time: what is tested here is not the machine."""
    monkeypatch.setattr(halving, "SHORTEST", 0.02)


def field(monkeypatch: pytest.MonkeyPatch, *settings: ServeConfig) -> None:
    monkeypatch.setattr(space, "candidates", lambda model: list(settings))


def runners(monkeypatch: pytest.MonkeyPatch, make: Callable[[ServeConfig], Any]) -> list[Any]:
    """Engines made by a function of the setting; the list of those that were loaded."""
    loaded: list[Any] = []

    def load(model: Model, config: ServeConfig | None = None) -> Any:
        loaded.append(make(config or ServeConfig()))
        return loaded[-1]

    monkeypatch.setattr(engines, "load", load)
    return loaded


def test_a_real_model_on_real_engines(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    monkeypatch.setattr(space, "cores", lambda: 2)
    told: list[tuple[int, int, str]] = []
    config, report = SHORT.run(tiny, progress=lambda *said: told.append(said))
    assert (report.kind, report.ok) == ("tune", True)
    assert report.numbers["config"] == asdict(config)
    assert report.numbers["candidates"][0]["config"] == asdict(space.naive(tiny))
    assert len(report.numbers["candidates"]) + len(report.numbers["refused"]) == len(space.candidates(tiny))
    verdicts = [c["verdict"] for c in report.numbers["candidates"]]
    assert verdicts.count("chosen") == 1
    gain = report.numbers["gain"]
    assert gain["low"] <= gain["ratio"] <= gain["high"]
    assert report.why.startswith(label(config))
    assert "keeps the promise of p99 ≤ 1000 ms" in report.why
    assert "× the naive setting" in report.why
    assert [done for done, _, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total, _ in told} == {len(told)}
    json.dumps(report.to_json(), allow_nan=False)


def test_no_setting_keeps_an_impossible_promise(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    field(monkeypatch, NAIVE, QUICK)
    config, report = Tune(p99=1e-9, budget=0.2, concurrency=2).run(tiny)
    assert report.ok is False
    assert report.why.startswith("no setting keeps the promise of p99 ≤ 1e-06 ms; the nearest is onnxruntime")
    assert {c["verdict"] for c in report.numbers["candidates"]} == {"chosen", "misses it"}
    assert config in (NAIVE, QUICK)


def test_an_engine_whose_answers_differ_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    field(monkeypatch, NAIVE, OTHER)
    wrong = fake().function
    loaded = runners(monkeypatch, lambda c: fake((lambda x: wrong(x) + 1) if c.engine == "openvino" else None))
    config, report = SHORT.run(tiny)
    assert config == NAIVE
    (refused,) = report.numbers["refused"]
    assert refused["config"] == asdict(OTHER)
    assert "differ" in refused["why"]
    assert [c["config"]["engine"] for c in report.numbers["candidates"]] == ["onnxruntime"]
    assert report.numbers["gain"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert all(r.closed for r in loaded)


def test_an_engine_that_does_not_load_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    def make(config: ServeConfig) -> Any:
        if config.engine == "openvino":
            raise BadModel("openvino has no such operator")
        return fake()

    field(monkeypatch, NAIVE, OTHER)
    runners(monkeypatch, make)
    config, report = SHORT.run(tiny)
    assert config == NAIVE
    assert report.numbers["refused"][0]["why"] == "openvino has no such operator"
    assert "which is the naive setting: none was faster" in report.why


def test_the_default_engine_needs_no_proof(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    """A model whose answers are all the same cannot be compared; its threads and batches can be tuned all the same."""
    field(monkeypatch, NAIVE, QUICK, OTHER)
    runners(monkeypatch, lambda c: fake(lambda x: np.ones((len(x), 3), np.float32)))
    _, report = SHORT.run(tiny)
    assert [c["config"] for c in report.numbers["candidates"]] == [asdict(NAIVE), asdict(QUICK)]
    assert [c["config"] for c in report.numbers["refused"]] == [asdict(OTHER)]


def test_one_setting_that_does_not_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    def crowded(x: Any) -> Any:
        if len(x) > 1:
            raise MemoryError("no room for so many rows")
        return fake().function(x)

    field(monkeypatch, NAIVE, QUICK)
    loaded = runners(monkeypatch, lambda c: fake(crowded if c == QUICK else None))
    config, report = SHORT.run(tiny)
    assert config == NAIVE
    assert "no room for so many rows" in report.numbers["refused"][0]["why"]
    assert all(r.closed for r in loaded)


def test_a_model_that_does_not_run_at_all_says_why(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    def broken(x: Any) -> Any:
        raise MemoryError("no room")

    field(monkeypatch, NAIVE)
    loaded = runners(monkeypatch, lambda c: fake(broken))
    with pytest.raises(ModelkeepError, match="fails on its own reference rows: MemoryError: no room"):
        SHORT.run(tiny)
    assert all(r.closed for r in loaded)


def test_the_faster_setting_wins_with_its_gain(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    right = fake().function

    def slow(x: Any) -> Any:
        time.sleep(0.004)
        return right(x)

    field(monkeypatch, NAIVE, QUICK, ServeConfig(threads=2, max_batch=1))
    loaded = runners(monkeypatch, lambda c: fake(None if c == QUICK else slow))
    config, report = Tune(p99=1.0, budget=1.0, concurrency=4).run(tiny)
    assert config == QUICK
    assert report.numbers["gain"]["low"] > 1.5
    assert [c["verdict"] for c in report.numbers["candidates"]] == ["keeps it", "chosen", "keeps it"]
    assert all(r.closed for r in loaded)


def test_a_promise_is_worth_more_than_throughput(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    right = fake().function
    alone = ServeConfig(threads=2, max_batch=1)

    def stutter() -> Callable[[Any], Any]:
        calls = iter(range(10**9))

        def run(x: Any) -> Any:
            if next(calls) % 50 == 49:
                time.sleep(0.06)
            return right(x)

        return run

    def steady(x: Any) -> Any:
        time.sleep(0.003)
        return right(x)

    field(monkeypatch, alone, QUICK)
    runners(monkeypatch, lambda c: fake(stutter() if c == QUICK else steady))
    config, report = Tune(p99=0.05, budget=1.0, concurrency=1).run(tiny)
    assert config == alone
    assert report.ok is True
    quick = report.numbers["candidates"][1]
    assert quick["verdict"] == "misses it"
    assert quick["throughput"] > 0


def test_a_setting_that_answers_nothing_is_refused_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Model, fake: Callable[..., Any]
) -> None:
    def crowded(x: Any) -> Any:
        raise MemoryError("no room")

    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake(crowded if c == QUICK else None))
    config, report = SHORT.run(elsewhere)
    assert config == NAIVE
    (refused,) = report.numbers["refused"]
    assert refused["config"] == asdict(QUICK)
    assert "MemoryError: no room" in refused["why"]
    json.dumps(report.to_json(), allow_nan=False)


def test_a_model_that_answers_nothing_at_all_says_why(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Model, fake: Callable[..., Any]
) -> None:
    def broken(x: Any) -> Any:
        raise BadInput("the model cannot run these inputs: index 9 is out of range")

    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake(broken))
    with pytest.raises(
        ModelkeepError, match=r"answered none of \d+ requests: the model cannot run these inputs: index 9"
    ):
        SHORT.run(elsewhere)


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
    SHORT.run(tiny)
    assert len(counts) > 10
    assert set(counts) == {0}
    assert most() == 0
    counts.clear()
    monkeypatch.setattr(machine, "memory", lambda: 1000 * tiny.size)
    SHORT.run(tiny)
    assert counts == [0, 1, 2]
    assert most() == 0


def test_a_format_that_no_engine_runs(tiny: Model) -> None:
    with pytest.raises(Unsupported, match="no engine runs models of format 'stone'; there are engines for: onnx"):
        SHORT.run(replace(tiny, format="stone"))


def test_few_requests_leave_a_doubt(monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]) -> None:
    def slow(x: Any) -> Any:
        time.sleep(0.01)
        return np.asarray(fake().function(x))

    field(monkeypatch, NAIVE)
    runners(monkeypatch, lambda c: fake(slow))
    _, report = Tune(p99=1.0, budget=0.1, concurrency=1).run(tiny)
    assert "too few to claim p90" in report.why


def test_a_setting_in_a_few_words() -> None:
    assert label(NAIVE) == "onnxruntime, its own threads, max batch 1"
    assert label(QUICK) == "onnxruntime, 1 thread, max batch 8"
    assert label(ServeConfig(threads=2, workers=3)) == "onnxruntime, 2 threads, 3 workers, max batch 32"
