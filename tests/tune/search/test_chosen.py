"""The search finds a setting that keeps the promise, or says that there is none."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from modelkeep.model import engines
from modelkeep.tune import space
from modelkeep.tune.results import label
from modelkeep.tune.search import Tune
from modelkeep.types import Model, ServeConfig
from tests.tune.search.field import NAIVE, QUICK, SHORT, field, runners


def test_a_real_model_on_real_engines(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    monkeypatch.setattr(space, "cores", lambda: 2)
    told: list[tuple[float, float, str]] = []
    config, report, _ = Tune(p99=1.0, budget=6.0, concurrency=4).run(tiny, progress=lambda *said: told.append(said))
    assert (report.kind, report.ok) == ("tune", True)
    assert report.numbers["config"] == asdict(config)
    assert report.numbers["naive"]["config"] == asdict(space.naive(tiny))
    arms = space.space(tiny, p99=1.0, concurrency=4).arms
    assert len(report.numbers["candidates"]) + len(report.numbers["refused"]) > len(arms)
    verdicts = [c["verdict"] for c in report.numbers["candidates"]]
    assert verdicts.count("chosen") == 1
    gain = report.numbers["gain"]
    assert gain["low"] is None or gain["low"] <= gain["ratio"] <= gain["high"]
    assert report.why.startswith(label(config))
    assert "keeps the promise of p99 ≤ 1000 ms" in report.why
    assert "the naive setting" in report.why
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert {total for _, total, _ in told} == {6.0}
    assert report.numbers["measurements"]["made"] == sum(c["windows"] for c in report.numbers["candidates"])
    json.dumps(report.to_json(), allow_nan=False)


def test_no_setting_keeps_an_impossible_promise(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    field(monkeypatch, NAIVE, QUICK)
    config, report, _ = Tune(p99=1e-9, budget=0.2, concurrency=2).run(tiny)
    assert report.ok is False
    said = r"no setting keeps the promise of p99 ≤ 1e-06 ms, of [12] that were measured; the nearest is onnxruntime"
    assert re.match(said, report.why)
    assert "ms instead of 1e-06 ms" in report.why
    assert report.numbers["relief"] is None
    assert config in (NAIVE, QUICK)


def test_the_faster_setting_wins_with_its_gain(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    right = fake().function

    def slow(x: Any) -> Any:
        time.sleep(0.004)
        return right(x)

    field(monkeypatch, NAIVE, QUICK, ServeConfig(threads=2, max_batch=1))
    loaded = runners(monkeypatch, lambda c: fake(None if c == QUICK else slow))
    config, report, _ = Tune(p99=1.0, budget=1.0, concurrency=4).run(tiny)
    assert config == QUICK
    assert report.numbers["gain"]["ratio"] > 1.5
    assert report.numbers["candidates"][0]["verdict"] == "chosen"
    assert all(c["throughput"] < report.numbers["throughput"] / 1.5 for c in report.numbers["candidates"][1:])
    assert report.numbers["because"] == []  # each of the others differs in more than one thing
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
    config, report, _ = Tune(p99=0.05, budget=1.0, concurrency=1).run(tiny)
    assert config == alone
    assert report.ok is True
    quick = report.numbers["candidates"][1]
    assert "ms instead of 50 ms" in quick["verdict"]
    assert quick["throughput"] > 0


def test_few_requests_leave_a_doubt(monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]) -> None:
    def slow(x: Any) -> Any:
        time.sleep(0.01)
        return np.asarray(fake().function(x))

    field(monkeypatch, NAIVE)
    runners(monkeypatch, lambda c: fake(slow))
    _, report, _ = Tune(p99=1.0, budget=0.1, concurrency=1).run(tiny)
    assert "too few to claim p" in report.why


def test_fewer_in_flight_is_what_is_offered_where_none_keeps_the_promise(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    def slow(x: Any) -> Any:
        time.sleep(0.02)
        return fake().function(x)

    field(monkeypatch, NAIVE)
    runners(monkeypatch, lambda c: fake(slow))
    config, report, _ = Tune(p99=0.12, budget=2.0, concurrency=16).run(tiny)
    assert (config, report.ok) == (NAIVE, False)
    fewer, throughput, n = report.numbers["relief"]
    assert n > 0
    assert fewer in (1, 2, 4)
    assert 10 < throughput < 50
    assert f"with {fewer} in flight it kept it" in report.why


def test_a_throughput_that_was_promised_is_kept_or_named(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake())
    _, report, _ = replace(SHORT, min_throughput=1e9).run(tiny)
    assert report.ok is False
    assert "the promise of p99 ≤ 1000 ms and 1,000,000,000 requests/s" in report.why
    assert "requests/s instead of 1,000,000,000" in report.why


def test_another_version_may_win_but_does_not_take_the_place(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, elsewhere: Model, fake: Callable[..., Any]
) -> None:
    right = fake().function

    def slow(x: Any) -> Any:
        time.sleep(0.004)
        return right(x)

    def load(model: Model, config: ServeConfig | None = None) -> Any:
        return fake(None if model == elsewhere else slow)

    field(monkeypatch, NAIVE)
    monkeypatch.setattr(engines, "load", load)
    config, report, others = Tune(p99=1.0, budget=1.0, concurrency=4).run(tiny, others={"m@3": elsewhere})
    assert config == NAIVE
    assert report.numbers["candidates"][0]["of"] == "m@3"
    assert report.numbers["other"]["of"] == "m@3"
    assert report.numbers["other"]["gain"]["ratio"] > 2
    aside, said = others["m@3"]
    assert aside == NAIVE
    assert said.ok is True
    assert "measured beside the version it was made from" in said.why
