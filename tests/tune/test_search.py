"""The search finds a setting that keeps the promise, or says that there is none."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadInput, BadModel, ModelkeepError, Unsupported
from modelkeep.model import engines
from modelkeep.tune import machine, rounds, search, space
from modelkeep.tune.results import label
from modelkeep.tune.rounds import Entrant, Window
from modelkeep.tune.search import Tune
from modelkeep.tune.space import Space
from modelkeep.types import Model, ServeConfig, Signature, TensorSpec

NAIVE = ServeConfig(max_batch=1)
QUICK = ServeConfig(threads=1, max_batch=8)
OTHER = ServeConfig(engine="openvino", threads=1, max_batch=8)
SHORT = Tune(p99=1.0, budget=0.5, concurrency=4)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a tenth of their least time: what is tested here is not the machine."""
    monkeypatch.setattr(search, "SHORTEST", 0.02)


def field(monkeypatch: pytest.MonkeyPatch, *settings: ServeConfig) -> None:
    """These are all that there is to search; the first is the naive one."""
    batches = tuple(sorted({config.max_batch for config in settings}))
    monkeypatch.setattr(space, "naive", lambda model: settings[0])
    monkeypatch.setattr(space, "space", lambda model, **load: Space(settings, batches[:1], (0.0,)))
    monkeypatch.setattr(Space, "beside", lambda *asked: None)


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


def test_an_engine_whose_answers_differ_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    field(monkeypatch, NAIVE, OTHER)
    wrong = fake().function
    loaded = runners(monkeypatch, lambda c: fake((lambda x: wrong(x) + 1) if c.engine == "openvino" else None))
    config, report, _ = SHORT.run(tiny)
    assert config == NAIVE
    (refused,) = report.numbers["refused"]
    assert refused["config"] == asdict(OTHER)
    assert "differ" in refused["why"]
    assert [c["config"]["engine"] for c in report.numbers["candidates"]] == ["onnxruntime"]
    assert report.numbers["gain"] == {"ratio": 1.0, "low": None, "high": None, "pairs": 0}
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
    config, report, _ = SHORT.run(tiny)
    assert config == NAIVE
    assert report.numbers["refused"][0]["why"] == "openvino has no such operator"
    assert "which is the naive setting: none was faster" in report.why


def test_the_default_engine_needs_no_proof(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    """A model whose answers are all the same cannot be compared; its threads and batches can be tuned all the same."""
    field(monkeypatch, NAIVE, QUICK, OTHER)
    runners(monkeypatch, lambda c: fake(lambda x: np.ones((len(x), 3), np.float32)))
    _, report, _ = SHORT.run(tiny)
    assert {c["config"]["max_batch"] for c in report.numbers["candidates"]} == {1, 8}
    assert [c["config"] for c in report.numbers["refused"]] == [asdict(OTHER)]


def test_rows_that_are_answered_otherwise_among_others_are_kept_apart(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    runners(monkeypatch, lambda c: fake(lambda x: fake().function(x) - fake().function(x).mean(0, keepdims=True)))
    monkeypatch.setattr(space, "layouts", lambda cores: [(1, 1)])
    monkeypatch.setattr(space, "engines_for", lambda format_: ("onnxruntime",))
    known = [Window(Entrant(ServeConfig(threads=1, max_batch=8)), 10**6, 1.0, (1e-4, 1e-4))]
    config, report, _ = SHORT.run(tiny, known=[known])
    assert config.max_batch == 1
    assert {c["config"]["max_batch"] for c in report.numbers["candidates"]} == {1}
    assert "a row's answer depends on the other rows of its batch (output 'y' by" in report.why


def test_one_setting_that_does_not_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    def crowded(x: Any) -> Any:
        if len(x) > 1:
            raise MemoryError("no room for so many rows")
        return fake().function(x)

    field(monkeypatch, NAIVE, QUICK)
    loaded = runners(monkeypatch, lambda c: fake(crowded if c == QUICK else None))
    config, report, _ = SHORT.run(tiny)
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


def test_a_setting_that_answers_nothing_is_refused_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Model, fake: Callable[..., Any]
) -> None:
    def crowded(x: Any) -> Any:
        raise MemoryError("no room")

    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake(crowded if c == QUICK else None))
    config, report, _ = SHORT.run(elsewhere)
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
    with pytest.raises(ModelkeepError, match=r"cannot be measured: the model cannot run these inputs: index 9"):
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
    replace(SHORT, budget=3.0).run(tiny)
    assert len(counts) > 3
    assert set(counts) == {0}
    assert most() == 0
    counts.clear()
    monkeypatch.setattr(machine, "memory", lambda: 10**12)
    SHORT.run(tiny)
    assert counts == [0, 0, 1, 2]  # the first is asked whether requests may share a run
    assert most() == 0


def test_a_format_that_no_engine_runs(tiny: Model) -> None:
    with pytest.raises(Unsupported, match=r"no engine runs models of format 'stone'; there are engines for: .*onnx"):
        SHORT.run(replace(tiny, format="stone"))


def test_few_requests_leave_a_doubt(monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]) -> None:
    def slow(x: Any) -> Any:
        time.sleep(0.01)
        return np.asarray(fake().function(x))

    field(monkeypatch, NAIVE)
    runners(monkeypatch, lambda c: fake(slow))
    _, report, _ = Tune(p99=1.0, budget=0.1, concurrency=1).run(tiny)
    assert "too few to claim p" in report.why


def test_the_second_search_measures_nothing_again(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake())
    kept: list[list[Window]] = []
    monkeypatch.setattr(search, "LONGEST", 0.05)
    patient = replace(SHORT, budget=60.0)  # it ends by itself, however slow the machine is
    first = patient.run(tiny, remember=lambda windows: kept.append(list(windows)))
    made = first.report.numbers["measurements"]["made"]
    assert made == sum(map(len, kept)) > 0
    again = patient.run(tiny, known=kept)
    counted = again.report.numbers["measurements"]
    assert (counted["made"], counted["reused"], counted["settings"]) == (0, made, 2)
    assert 0 < counted["proof"] < made
    assert (again.config, again.report.numbers["gain"]) == (first.config, first.report.numbers["gain"])


def test_a_search_that_was_killed_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake())
    kept: list[list[Window]] = []

    def killed(windows: Any) -> None:
        kept.append(list(windows))
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(SHORT, budget=9.0).run(tiny, remember=killed)
    report = SHORT.run(tiny, known=kept).report
    assert report.numbers["measurements"]["reused"] == sum(map(len, kept))
    assert report.numbers["measurements"]["made"] > 0


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


def test_requests_have_as_many_rows_as_a_model_was_baked_for(tiny: Model, elsewhere: Model) -> None:
    baked = Signature((TensorSpec("x", "float32", (3, 4)),), (TensorSpec("y", "float32", (3, 3)),))
    assert {r["x"].shape for r in search.requests(tiny)} == {(1, 4)}
    for model in (tiny, elsewhere):
        found = search.requests(replace(model, signature=baked), count=30)
        assert {r["x"].shape for r in found} == {(3, 4)}
        assert not np.array_equal(found[0]["x"], found[1]["x"])
