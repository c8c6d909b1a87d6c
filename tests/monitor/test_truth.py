"""The truth of answers that are numbers: counted, held to a promise, and said in words that fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels, pulses, traffic
from modelkeep.data.bins import Bins
from modelkeep.data.features import Columns
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.model.baseline import Baseline, Subject
from modelkeep.monitor import truth as truth_
from modelkeep.monitor.judged import Judged
from modelkeep.monitor.limits import Limits
from modelkeep.monitor.look import Run
from modelkeep.monitor.page import page
from modelkeep.monitor.truth import Truth
from modelkeep.types import Model, Signature, TensorSpec

PRICE = Signature((TensorSpec("x", "float32", (None, 1)),), (TensorSpec("price", "float32", (None, 1)),))


@pytest.fixture
def prices(tmp_path: Path) -> Truth:
    """100 requests, each answered with 5, of a version that misses by 1 on its reference rows."""
    log = TrafficLog(tmp_path / "traffic.db")
    for at in range(100):
        arrays: dict[str, Any] = {
            "inputs": {"x": np.zeros((1, 1), "float32")},
            "outputs": {"price": np.full((1, 1), 5.0)},
        }
        log.offer(Exchange(f"r{at}", 1e6 + at, "house", 1, "live", "ok", 0.01, **arrays))
    log.close()
    known = Baseline(None, None, np.full(80, 5.0), None, np.full(80, 4.0))  # type: ignore[arg-type]
    model = Model(tmp_path, "onnx", PRICE, ("model.onnx",))
    return Truth(Judged("house", 1, model, tmp_path, Limits(), known), None)


def test_before_the_first_label(prices: Truth) -> None:
    prices.look()
    assert prices.describe() == [
        "no truth has come for 100 captured answers, so their error is unknown (modelkeep label)"
    ]


def test_how_many_have_a_label(prices: Truth) -> None:
    labels.record(prices.judged.traffic, "house", {f"r{at}": 4.0 for at in range(40)})
    prices.look()
    numbers = prices.numbers()
    assert (numbers["n"], numbers["coverage"]) == (40, 0.4)
    assert prices.describe()[0] == "the truth is known of 40 requests; labels came for 40% of 100 captured answers"
    assert prices.labelled.findings() == []


def test_the_labels_of_a_busy_model_push_none_out(prices: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth_, "RUN", 50)
    labels.record(prices.judged.traffic, "house", {f"r{at}": 4.0 for at in range(40)})
    labels.record(prices.judged.traffic, "busy", {f"b{at}": 1 for at in range(500)})
    prices.look()
    assert prices.labelled.n == 40


@pytest.mark.parametrize(("classes", "n", "strange"), [(False, 40, 0), (True, 0, 40)])
def test_of_several_numbers_the_error_is_told(tmp_path: Path, classes: bool, n: int, strange: int) -> None:
    """Where the labels of the reference rows were such; else they are scores of classes, and a list is one a row."""
    spec = TensorSpec("grades", "float32", (None, 3))
    rows = {"grades": np.random.default_rng(0).normal(5, 1, (80, 3)).astype("float32")}
    columns = Columns.of((spec,), rows, answers=True, classes=classes)
    answers = Subject(columns, Bins.of(columns.read(rows), columns.edges))
    log = TrafficLog(tmp_path / "traffic.db")
    for at in range(40):
        arrays: dict[str, Any] = {"inputs": {}, "outputs": {"grades": rows["grades"][[at]]}}
        log.offer(Exchange(f"r{at}", 1e6 + at, "school", 1, "live", "ok", 0.01, **arrays))
    log.close()
    given = {f"r{at}": (rows["grades"][at] + [1, 2, 3]).tolist() for at in range(40)}
    labels.record(tmp_path / "traffic.db", "school", given)
    model = Model(tmp_path, "onnx", Signature(PRICE.inputs, (spec,)), ("model.onnx",))
    known = Baseline(None, answers)  # type: ignore[arg-type]
    truth = Truth(Judged("school", 1, model, tmp_path, Limits(max_error=1.0), known), None)
    truth.look()
    assert (truth.labelled.n, truth.strange) == (n, strange)
    if n:
        assert truth.numbers()["mae"]["value"] == pytest.approx(2.0, abs=1e-5)
        assert truth.numbers()["rmse"]["value"] == pytest.approx(2.0, abs=1e-5)
        assert truth.describe()[1].startswith("rmse 2 (1.153 to 4.5")


def test_each_number_says_of_which_requests_it_is(prices: Truth) -> None:
    who = prices.judged
    pulses.write(who.pulses, 1e6, {("house", 1): pulses.Counts(296, 3)})
    checked = Run(who).look()
    assert checked.about == "house@1, 296 requests served"
    assert checked.numbers["health"]["of"] == "served"
    assert checked.numbers["quality"]["answers"] == 100
    assert "no truth has come for 100 captured answers, so their error is unknown (modelkeep label)" in checked.lines
    assert "3 of 296 served requests failed; p50 10 ms, p99 10 ms of those captured" in checked.lines
    assert "296 requests served since " in page(checked)


def test_answers_without_an_error_are_said(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path / "traffic.db")
    for at, price in enumerate([5.0, np.nan, np.inf, 6.0]):
        arrays: dict[str, Any] = {"inputs": {}, "outputs": {"price": np.full((1, 1), price)}}
        log.offer(Exchange(f"r{at}", 1e6 + at, "house", 1, "live", "ok", 0.01, **arrays))
    log.close()
    labels.record(tmp_path / "traffic.db", "house", {f"r{at}": 4.0 for at in range(4)})
    model = Model(tmp_path, "onnx", PRICE, ("model.onnx",))
    checked = Run(Judged("house", 1, model, tmp_path, Limits(), None)).look()
    assert checked.numbers["quality"]["mae"]["value"] == 1.5
    assert "2 labelled requests got an answer with NaN or infinity, and counted for no error" in checked.notes


def test_of_pictures_few_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TrafficLog(tmp_path / "traffic.db")
    for at in range(40):
        arrays: dict[str, Any] = {
            "inputs": {"x": np.full((1, 3, 100, 100), at % 2, "float32")},
            "outputs": {"price": np.full((1, 1), 5.0)},
        }
        log.offer(Exchange(f"r{at}", 1e6 + at, "house", 1, "live", "ok", 0.01, **arrays))
    log.close()
    seen: list[int] = []
    read = traffic.read

    def watched(*args: Any, **options: Any) -> list[Exchange]:
        seen.append(len(page := read(*args, **options)))
        return page

    monkeypatch.setattr(traffic, "read", watched)
    spec = TensorSpec("x", "float32", (None, 3, 100, 100))
    rows = {"x": np.random.default_rng(0).random((80, 3, 100, 100)).astype("float32")}
    columns = Columns.of((spec,), rows)
    inputs = Subject(columns, Bins.of(columns.read(rows), columns.edges))
    model = Model(tmp_path, "onnx", Signature((spec,), PRICE.outputs), ("model.onnx",))
    limits = Limits(slices=("mean of x",))
    truth = Truth(Judged("house", 1, model, tmp_path, limits, Baseline(inputs)), None)
    labels.record(truth.judged.traffic, "house", {f"r{at}": 4.0 for at in range(-5, 40)})
    truth.look()
    assert (truth.labelled.n, sum(seen)) == (40, 40)
    assert max(seen) == 9  # of 120 kB each
    assert truth.slices is not None
    assert sorted(row["n"] for row in truth.slices.numbers()) == [20, 20]


def test_what_was_not_promised_is_not_called_a_promise(prices: Truth) -> None:
    labels.record(prices.judged.traffic, "house", {f"r{at}": 50.0 for at in range(100)})
    prices.look()
    (found,) = prices.labelled.findings()
    assert found.why.endswith("labelled requests; 1.5 times that of its reference rows is 1.5")


def test_reference_rows_without_an_error_promise_nothing(prices: Truth) -> None:
    """One answer of NaN made the mean NaN, over which no error lies."""
    predicted = np.full(80, 5.0)
    predicted[0] = np.nan
    known = Baseline(None, None, predicted, None, np.full(80, 4.0))  # type: ignore[arg-type]
    labels.record(prices.judged.traffic, "house", {f"r{at}": 50.0 for at in range(100)})
    truth = Truth(replace(prices.judged, known=known), None)
    truth.look()
    (found,) = truth.labelled.findings()
    assert found.evidence["worst"] == 1.5


def test_of_embeddings_nothing_is_said(tmp_path: Path) -> None:
    spec = TensorSpec("embedding", "float32", (None, 48))
    rows = {"embedding": np.random.default_rng(0).normal(size=(80, 48)).astype("float32")}
    columns = Columns.of((spec,), rows, answers=True)
    answers = Subject(columns, Bins.of(columns.read(rows), columns.edges))
    model = Model(tmp_path, "onnx", Signature(PRICE.inputs, (spec,)), ("model.onnx",))
    known = Baseline(None, answers)  # type: ignore[arg-type]
    assert Truth(Judged("faces", 1, model, tmp_path, Limits(), known), None).describe() == []
