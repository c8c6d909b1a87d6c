"""The whole benchmark: real processes, the real plane, a tiny model."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import Unsupported, Wrong
from modelkeep.model import folder
from modelkeep.tune import benchmark
from modelkeep.tune.benchmark import Benchmark, Subject, requests, setting
from modelkeep.types import Bounds, Model, ServeConfig, Signature, TensorSpec

ONE = ServeConfig(threads=1, max_batch=8, in_process=True)


@pytest.fixture(scope="module")
def measured(tiny: Model) -> Any:
    """Both versions are the same model: whatever is found besides 1 is the machine's."""
    told: list[tuple[float, float, str]] = []
    plan = Benchmark(p99=0.5, duration=0.3, budget=60.0, rounds=2)
    report = plan.run(
        Subject("tiny@2", tiny, ONE), other=Subject("tiny@1", tiny, ONE), progress=lambda *step: told.append(step)
    )
    return report, told


def test_every_scenario_has_its_numbers(measured: Any, tiny: Model) -> None:
    report, _ = measured
    numbers = report.numbers
    assert report.kind == "bench"
    assert set(numbers["scenarios"]) == {"single", "server", "offline"}
    single = numbers["scenarios"]["single"]
    assert 0 < single["percentiles"]["p50"]["value"] < single["percentiles"]["p99"]["value"] < 1
    assert single["n"] >= 662
    assert 0 < single["cpu_seconds"] < 5
    assert numbers["scenarios"]["server"]["trials"]
    assert numbers["scenarios"]["offline"]["rows_per_second"]["median"] > 0
    assert numbers["memory"]["disk"] == tiny.size
    assert numbers["memory"]["peak"] > numbers["memory"]["before"] > 10_000_000
    assert numbers["config"]["max_batch"] == 8
    assert numbers["machine"]["cores"] >= 1


def test_answers_are_checked_in_the_same_run(measured: Any) -> None:
    report, _ = measured
    assert report.ok is not False
    assert report.numbers["answers_under_load"]["n"] >= 64
    assert report.numbers["answers_under_load"]["fault"] == ""
    assert "answers under load are the answers alone" in report.why


def test_two_are_compared(measured: Any) -> None:
    report, _ = measured
    versus = report.numbers["versus"]
    assert versus["ref"] == "tiny@1"
    assert versus["rounds"] == 2
    assert versus["answers"]["ok"]
    # a machine that is busy with something else may make two rounds of one model look ten times apart
    assert 0.01 < versus["ratios"]["single"]["p50"]["median"] < 100
    assert versus["ratios"]["single"]["throughput"]["low"] is None  # two rounds claim nothing
    assert "tiny@2 over tiny@1" in report.why


def test_the_report_is_plain_and_small(measured: Any) -> None:
    report, told = measured
    text = json.dumps(report.to_json(), allow_nan=False)
    assert len(text) < 100_000
    assert re.fullmatch(r"\d+ different requests of reference rows", report.data)
    assert told[0][2] == "loading tiny@2"
    assert all(done <= total for done, total, _ in told)
    assert told[-1][2] == "in turns"


def test_no_rate_keeps_an_impossible_promise(tiny: Model) -> None:
    report = Benchmark(("server",), p99=1e-6, duration=0.3, budget=5.0).run(Subject("tiny@1", tiny, ONE))
    assert report.ok is False
    assert "no rate keeps it" in report.why


def test_a_wrong_answer_makes_it_a_no(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = benchmark.Scenarios.measure

    def wrong(self: Any, name: str, target: Any, progress: Any) -> Any:
        found, numbers = real(self, name, target, progress)
        found.fault = "output 'y' differs"
        return found, numbers

    monkeypatch.setattr(benchmark.Scenarios, "measure", wrong)
    report = Benchmark(("single",), duration=0.1, budget=0.1).run(Subject("tiny@1", tiny, ONE))
    assert report.ok is False
    assert report.why.startswith("answers under load are not the answers alone: tiny@1, single: output 'y' differs")


def test_requests_without_an_answer_make_it_a_no(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = benchmark.Scenarios.measure

    def lossy(self: Any, name: str, target: Any, progress: Any) -> Any:
        found, numbers = real(self, name, target, progress)
        found.measured.errors, found.measured.trouble = 3, "the queue is full"
        return found, numbers

    monkeypatch.setattr(benchmark.Scenarios, "measure", lossy)
    report = Benchmark(("single",), duration=0.1, budget=0.1).run(Subject("tiny@1", tiny, ONE))
    assert report.ok is False
    assert re.search(r"tiny@1, single: 3 of [\d,]+ requests got no answer: the queue is full", report.why)
    assert report.numbers["sentences"] == report.why.split("; ")


def test_two_that_take_different_requests_cannot_be_compared(tiny: Model) -> None:
    other = replace(tiny, signature=Signature((TensorSpec("z", "float32", (None, 4)),), tiny.signature.outputs))
    with pytest.raises(Wrong, match=r"a@1 takes x float32 .* and b@1 takes z float32 .*: the same requests cannot"):
        Benchmark().run(Subject("a@1", tiny, ONE), other=Subject("b@1", other, ONE))


def test_an_unknown_scenario() -> None:
    with pytest.raises(Wrong, match="no scenario 'multi'; there are single, server, offline"):
        Benchmark(("multi",))


class TestRequests:
    def test_given_rows_then_the_versions_own_then_made_up_ones(self, tiny: Model, elsewhere: Model) -> None:
        given = Dataset({"x": np.full((3, 4), 7, np.float32)}, None, "given")
        assert [r["x"].tolist() for r in requests(tiny, given, 0)] == [[[7.0] * 4]] * 3
        own = folder.reference(tiny.path)
        assert own is not None
        rows = requests(tiny, None, 0)
        assert len(rows) == 50
        assert np.array_equal(rows[0]["x"], own.inputs["x"][:1])
        made = requests(elsewhere, None, 0)
        assert len(made) == benchmark.REQUESTS
        assert made[0]["x"].shape == (1, 4)

    def test_a_fixed_batch_is_filled(self, tiny: Model, tmp_path: Path) -> None:
        shutil.copytree(tiny.path, tmp_path / "m")
        fixed = Signature((TensorSpec("x", "float32", (8, 4)),), (TensorSpec("y", "float32", (8, 3)),))
        model = replace(tiny, signature=fixed, path=tmp_path / "m")
        assert {r["x"].shape for r in requests(model, None, 0)} == {(8, 4)}
        assert setting(model, None, {}).max_batch == 1
        with pytest.raises(Unsupported, match="its batch is fixed; leave --max-batch out"):
            setting(model, None, {"max_batch": 4})


class TestSetting:
    def test_the_tuned_one_with_what_was_given(self, tiny: Model) -> None:
        tuned = ServeConfig(engine="openvino", threads=2, max_batch=16)
        assert setting(tiny, tuned, {}) == tuned
        assert setting(tiny, tuned, {"threads": 1, "workers": None}) == replace(tuned, threads=1)
        assert setting(tiny, None, {}) == ServeConfig(engine="onnxruntime")

    def test_no_batch_beyond_the_models_bounds(self, tiny: Model) -> None:
        bounded = replace(tiny, signature=replace(tiny.signature, bounds={"batch": Bounds(1, 4)}))
        assert setting(bounded, None, {}).max_batch == 4

    def test_another_engine_begins_from_its_own_defaults(self, tiny: Model) -> None:
        tuned = ServeConfig(engine="openvino", precision="bfloat16", threads=2)
        assert setting(tiny, tuned, {"engine": "onnxruntime"}) == ServeConfig(engine="onnxruntime")
        assert setting(tiny, tuned, {"engine": "openvino"}) == tuned
