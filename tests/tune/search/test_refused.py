"""What cannot be measured, or answers otherwise, is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadInput, BadModel, ModelkeepError, Unsupported
from modelkeep.tune import space
from modelkeep.tune.rounds import Entrant, Window
from modelkeep.types import Model, ServeConfig
from tests.tune.search.field import NAIVE, OTHER, QUICK, SHORT, field, runners


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


def test_a_format_that_no_engine_runs(tiny: Model) -> None:
    with pytest.raises(Unsupported, match=r"no engine runs models of format 'stone'; there are engines for: .*onnx"):
        SHORT.run(replace(tiny, format="stone"))
