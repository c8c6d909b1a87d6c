"""Only what answers well enough takes part in the race."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, ModelkeepError
from modelkeep.model import engines
from modelkeep.tune import admit
from modelkeep.tune.admit import Admission, admitted
from modelkeep.tune.rounds import Entrant
from modelkeep.types import Model, ServeConfig

DEFAULT = Entrant(ServeConfig())
OTHER = Entrant(ServeConfig(engine="openvino"))
LOWER = Entrant(ServeConfig(engine="openvino", precision="bfloat16"))
INT8 = Entrant(ServeConfig(), "m@3")


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch, fake: Callable[..., Any]) -> dict[str, Any]:
    """What each engine or precision adds to the right answers; an error is raised. ``loads`` counts."""
    added: dict[str, Any] = {"loads": 0}
    right = fake().function

    def load(model: Model, config: ServeConfig | None = None) -> Any:
        added["loads"] += 1
        config = config or ServeConfig()
        plus = added.get(model.path.name, added.get(config.precision or config.engine, 0.0))
        if isinstance(plus, Exception):
            raise plus
        return fake(lambda x: right(x) + plus)

    monkeypatch.setattr(engines, "load", load)
    return added


@pytest.fixture
def rows_(fake: Callable[..., Any]) -> Dataset:
    """Labelled as the model itself answers."""
    x = np.random.default_rng(5).standard_normal((300, 4)).astype(np.float32)
    return Dataset({"x": x}, fake().function(x).argmax(1), "labelled rows")


def test_the_default_engine_is_the_measure_of_the_others(tiny: Model, way: dict[str, Any]) -> None:
    one = Admission({"": tiny})
    assert one.why_not(DEFAULT) == ""
    assert way["loads"] == 0
    assert one.why_not(OTHER) == ""
    way["openvino"] = 0.01
    assert "differs" in Admission({"": tiny}).why_not(OTHER)


def test_each_way_is_judged_once_whatever_the_threads(tiny: Model, way: dict[str, Any]) -> None:
    one = Admission({"": tiny})
    for threads in (1, 2, 3):
        one.why_not(Entrant(ServeConfig(engine="openvino", threads=threads, max_batch=threads)))
    assert way["loads"] == 2


def test_a_lower_precision_may_differ_by_its_own_tolerance(tiny: Model, way: dict[str, Any]) -> None:
    way["bfloat16"] = 0.01
    assert Admission({"": tiny}).why_not(LOWER) == ""
    way["bfloat16"] = 1.0
    assert "differs" in Admission({"": tiny}).why_not(LOWER)


def test_with_rows_a_lower_precision_is_judged_by_its_accuracy(
    tiny: Model, way: dict[str, Any], rows_: Dataset
) -> None:
    way["bfloat16"] = 1.0  # added to every class: the answers differ, the decisions do not
    assert Admission({"": tiny}, rows_, 0.02).why_not(LOWER) == ""
    way["bfloat16"] = np.array([9.0, 0.0, 0.0], np.float32)
    why = Admission({"": tiny}, rows_, 0.02).why_not(LOWER)
    assert "more than the 0.0200 allowed" in why


def test_too_few_rows_prove_nothing(tiny: Model, way: dict[str, Any], rows_: Dataset) -> None:
    why = Admission({"": tiny}, rows_.take(slice(0, 20)), 0.02).why_not(LOWER)
    assert "more labelled rows may narrow the bound" in why


def test_other_weights_are_judged_by_rows_or_come_with_a_verdict(
    tiny: Model, elsewhere: Model, way: dict[str, Any], rows_: Dataset
) -> None:
    way["m"] = np.array([9.0, 0.0, 0.0], np.float32)
    models = {"": tiny, "m@3": elsewhere}
    assert Admission(models).why_not(INT8) == ""
    assert "more than the 0.0200 allowed" in Admission(models, rows_, 0.02).why_not(INT8)
    way["m"] = 0.5
    assert Admission(models, rows_, 0.02).why_not(INT8) == ""


def test_what_does_not_load_is_not_admitted_and_says_why(tiny: Model, way: dict[str, Any]) -> None:
    way["openvino"] = BadModel("no such operator")
    refused: dict[Entrant, str] = {}
    assert asyncio.run(admitted(Admission({"": tiny}), [DEFAULT, OTHER, LOWER], refused)) == [DEFAULT, LOWER]
    assert refused == {OTHER: "no such operator"}


def test_where_the_default_engine_does_not_load_nothing_can_be_compared(tiny: Model, way: dict[str, Any]) -> None:
    way["onnxruntime"] = ModelkeepError("damaged")
    assert Admission({"": tiny}).why_not(OTHER) == "damaged"


def test_a_comparison_that_hangs_costs_its_share_and_no_more(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, fake: Callable[..., Any]
) -> None:
    release = threading.Event()

    def load(model: Model, config: ServeConfig | None = None) -> Any:
        if config is not None and config.engine == "openvino":
            release.wait(30)
        return fake()

    monkeypatch.setattr(engines, "load", load)
    monkeypatch.setattr(admit, "LEAST", 0.05)
    refused: dict[Entrant, str] = {}
    wider = Entrant(ServeConfig(engine="openvino", threads=2))
    try:
        found = asyncio.run(admitted(Admission({"": tiny}), [DEFAULT, OTHER, wider], refused, end=0.0))
    finally:
        release.set()
    assert found == [DEFAULT]
    assert set(refused) == {OTHER, wider}
    assert "share of the budget" in refused[OTHER]
