"""The collector: what was asked and answered is counted; what it cannot take is counted too, and costs no answer."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.data import profiles
from modelkeep.data.bins import Bins
from modelkeep.data.features import Columns
from modelkeep.data.profiles import ProfileLog
from modelkeep.metrics import Metrics
from modelkeep.model.baseline import Baseline, Subject
from modelkeep.serve.observers import collect
from modelkeep.serve.observers.collect import LEAST, REQUEST_BYTES, SAVED, Budget, Collector
from modelkeep.serve.observers.profiled import MAX_ROWS, Profiled
from modelkeep.types import Request, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 3)),))


class Target(SimpleNamespace):
    """As much of a Loaded as the collector looks at."""

    __hash__ = object.__hash__


def target(number: int = 1, name: str = "digits", signature: Signature = SIGNATURE) -> Any:
    return Target(name=name, number=number, ref=f"{name}@{number}", signature=signature)


def subject(specs: Any, arrays: Any, answers: bool) -> Subject:
    columns = Columns.of(specs, arrays, answers=answers)
    return Subject(columns, Bins.of(columns.read(arrays), columns.edges))


def baseline() -> Baseline:
    """Of 400 rows, normally distributed."""
    rng = np.random.default_rng(0)
    x, y = {"x": rng.normal(size=(400, 2)).astype("f4")}, {"y": rng.normal(size=(400, 3)).astype("f4")}
    return Baseline(subject(SIGNATURE.inputs, x, False), subject(SIGNATURE.outputs, y, True))


def request(at: int = 0, rows: int = 1) -> tuple[Request, dict[str, Any]]:
    rng = np.random.default_rng(at)
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    return Request(f"r{at}", "digits", {"x": x}), {"y": np.tile(np.float32([0, 5, 0]), (rows, 1))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profiles.db"


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., Collector]]:
    """A collector with a baseline and a file, or with what is given."""
    made: list[Collector] = []

    def start(metrics: Metrics | None = None, **given: Any) -> Collector:
        given = {"find": lambda name, number: baseline(), "profiles": ProfileLog(path), **given}
        made.append(Collector(metrics or Metrics(), **given))
        return made[-1]

    yield start
    for one in made:
        one.close()


def send(to: Collector, n: int, at: int = 0, track: str = "live", rows: int = 1, of: Any = None) -> None:
    version = of or target()
    for number in range(at, at + n):
        to.offer(version, track, *request(number, rows))


def chunks(path: Path, collector: Collector, version: int = 1) -> list[profiles.Chunk]:
    """All that was counted, once the collector has ended."""
    collector.close()
    return profiles.read(path, "digits", version)


class TestCounts:
    def test_every_request_is_counted_once_in_each_feature(self, start: Any, path: Path) -> None:
        collector = start()
        send(collector, 700)
        found = chunks(path, collector)
        assert {c.subject for c in found} == {"inputs", "answers"}
        for name, features in (("inputs", 2), ("answers", 3)):
            mine = [c for c in found if c.subject == name]
            assert sum(c.n for c in mine) == 700
            np.testing.assert_allclose(sum(c.counts for c in mine).sum(axis=1), [700] * features)
            assert {c.form for c in mine} == {baseline().subject(name).bins.form}

    def test_they_are_the_counts_of_the_bins(self, start: Any, path: Path) -> None:
        collector = start()
        send(collector, 100)
        found = [c for c in chunks(path, collector) if c.subject == "inputs"]
        bins = baseline().inputs.bins
        rows = np.concatenate([request(at)[0].inputs["x"] for at in range(100)]).astype(np.float64)
        np.testing.assert_allclose(sum(c.counts for c in found), bins.tally(bins.place(rows), np.ones(100)))

    @pytest.mark.parametrize("rows", [4, 100])
    def test_a_request_of_many_rows_is_one(self, start: Any, path: Path, rows: int) -> None:
        collector = start()
        send(collector, 10, rows=rows)
        (inputs,) = (c for c in chunks(path, collector) if c.subject == "inputs")
        assert inputs.n == 10
        np.testing.assert_allclose(inputs.counts.sum(axis=1), 10, rtol=1e-6)

    def test_versions_and_tracks_are_told_apart(self, start: Any, path: Path) -> None:
        collector = start()
        send(collector, 20)
        send(collector, 30, track="canary", of=target(2))
        send(collector, 40, track="shadow", of=target(3))
        live, canary, shadow = (chunks(path, collector, version) for version in (1, 2, 3))
        both = [("inputs", "live", n) for n in (16, 4)] + [("answers", "live", n) for n in (16, 4)]
        assert sorted((c.subject, c.track, c.n) for c in live) == sorted(both)
        assert {(c.track, c.n) for c in canary} == {("canary", 16), ("canary", 14)}
        assert [(c.subject, c.n) for c in shadow] == [("answers", 16), ("answers", 24)]

    def test_chunks_are_closed_while_requests_come(self, start: Any, path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("modelkeep.serve.observers.profiled.CHUNK_SECONDS", 0.0)
        collector = start()
        for at in range(3):
            send(collector, 16, at * 16)
            assert collector.flush()
        assert collector.profiles.flush()
        assert [c.n for c in profiles.read(path, "digits", 1) if c.subject == "inputs"] == [16, 16, 16]

    def test_few_requests_wait_for_more(self, start: Any, path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("modelkeep.serve.observers.profiled.CHUNK_SECONDS", 0.0)
        collector = start()
        send(collector, 15)
        assert collector.flush()
        assert collector.profiles.flush()
        assert profiles.read(path, "digits", 1) == []
        monkeypatch.setattr("modelkeep.serve.observers.profiled.CHUNK_LATEST", 0.0)
        assert collector.flush()
        assert collector.profiles.flush()
        assert {c.n for c in profiles.read(path, "digits", 1)} == {15}

    def test_without_a_baseline_there_is_nothing_to_compare_with(self, start: Any, path: Path) -> None:
        metrics = Metrics()
        collector = start(metrics, find=lambda name, number: None)
        send(collector, 20)
        assert chunks(path, collector) == []
        live = {"model": "digits", "version": "1", "track": "live"}
        assert metrics.value("modelkeep_output_confidence_count", **live) == 20

    def test_a_baseline_that_cannot_be_read(self, start: Any, path: Path) -> None:
        def broken(name: str, number: int) -> Any:
            raise OSError("gone")

        collector = start(find=broken)
        send(collector, 20)
        assert chunks(path, collector) == []
        assert (collector.dropped, collector.passed(), collector.left_out) == (0, 0, {"budget": 0, "form": 0})

    def test_answers_without_all_outputs_are_left_out_and_counted(self, start: Any, path: Path) -> None:
        collector = start()
        send(collector, 20)
        for at in range(20, 25):
            collector.offer(target(), "live", request(at)[0], {})
        found = chunks(path, collector)
        assert sum(c.n for c in found if c.subject == "answers") == 20
        assert sum(c.n for c in found if c.subject == "inputs") == 25
        assert collector.left_out["form"] == 5


class TestSketches:
    def test_a_minute_is_written_when_it_is_over(self, start: Any, path: Path) -> None:
        collector = start()
        send(collector, 300)
        chunks(path, collector)
        inputs = profiles.buckets(path, "digits", 1, "inputs")
        assert sum(b.n for b in inputs) == 300
        assert inputs[0].names == ("x[0]", "x[1]")
        rows = np.concatenate([request(at)[0].inputs["x"] for at in range(300)])
        if len(inputs) == 1:  # else the minute ended meanwhile
            assert inputs[0].sketches.quantiles(1, [0.5])[0] == pytest.approx(np.median(rows[:, 1]), abs=0.15)
        answers = profiles.buckets(path, "digits", 1, "answers")
        assert answers[0].names[0] == "predicted class"
        assert answers[0].sketches.common(0)[0][0] == "1"

    def test_a_version_without_a_baseline_has_them_too(self, start: Any, path: Path) -> None:
        collector = start(find=None)
        send(collector, 30)
        assert chunks(path, collector) == []
        assert sum(b.n for b in profiles.buckets(path, "digits", 1, "answers")) == 30

    def test_where_datasketches_is_missing_there_are_counts(self, start: Any, path: Path, monkeypatch: Any) -> None:
        monkeypatch.setitem(sys.modules, "modelkeep.data.sketches", None)
        collector = start()
        send(collector, 30)
        found = chunks(path, collector)
        assert sum(c.n for c in found if c.subject == "inputs") == 30
        monkeypatch.undo()
        assert profiles.buckets(path, "digits", 1, "inputs") == []


class TestMetrics:
    def test_confidence_as_a_histogram(self, start: Any) -> None:
        metrics = Metrics()
        collector = start(metrics)
        send(collector, 20)
        assert collector.flush()
        live = {"model": "digits", "version": "1", "track": "live"}
        assert metrics.value("modelkeep_output_confidence_bucket", le="0.95", **live) == 0
        assert metrics.value("modelkeep_output_confidence_bucket", le="0.99", **live) == 20
        assert metrics.value("modelkeep_output_confidence_bucket", le="+Inf", **live) == 20
        sure = np.exp(5) / (np.exp(5) + 2)
        assert metrics.value("modelkeep_output_confidence_sum", **live) == pytest.approx(20 * sure)

    def test_what_it_costs_and_what_it_leaves_out(self, start: Any) -> None:
        metrics = Metrics()
        collector = start(metrics)
        send(collector, 500)
        assert collector.flush()
        assert 0 < metrics.value("modelkeep_monitor_cpu_seconds_total") < 1
        assert b'modelkeep_monitor_left_out_total{reason="budget"} 0.0' in metrics.render()
        collector.offer(target(), "live", Request("odd", "digits", {"x": np.zeros((1, 9), np.float32)}), {})
        assert collector.flush()
        assert metrics.value("modelkeep_monitor_left_out_total", reason="form") == 1


class TestPressure:
    @pytest.fixture
    def held(self, start: Any) -> Iterator[tuple[Collector, threading.Event]]:
        """A collector that is stuck at its first request until the event is set."""
        inside, go_on = threading.Event(), threading.Event()

        def find(name: str, number: int) -> Baseline:
            inside.set()
            assert go_on.wait(20)
            return baseline()

        collector = start(find=find)
        send(collector, 1)
        assert inside.wait(20)
        yield collector, go_on
        go_on.set()

    def test_more_requests_than_may_wait_are_dropped_and_counted(self, held: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(collect, "WAITING", 100)
        collector, go_on = held
        began = time.perf_counter()
        send(collector, 300, 1)
        assert time.perf_counter() - began < 5
        assert collector.dropped == 200
        go_on.set()
        assert collector.flush()
        send(collector, 10, 301)
        assert collector.dropped == 200

    def test_more_bytes_than_may_wait_are_dropped_and_counted(self, held: Any) -> None:
        collector, _ = held
        wide = Request("wide", "digits", {"x": np.zeros((1, 1024 * 1024), np.float32)})
        for _ in range(10):
            collector.offer(target(), "live", wide, {})
        assert collector.dropped == 8

    def test_of_large_batches_some_rows_wait_and_none_is_dropped(self, held: Any, path: Path) -> None:
        collector, go_on = held
        rows = REQUEST_BYTES // 4  # of two float32: twice as many bytes as are kept of one request
        for at in range(30):
            collector.offer(target(), "live", *request(at, rows))
        assert all(len(one[3]["x"]) == len(one[4]["y"]) == MAX_ROWS for one in collector._waiting)
        assert sum(one[-1] for one in collector._waiting) < REQUEST_BYTES
        go_on.set()
        inputs = [c for c in chunks(path, collector) if c.subject == "inputs"]
        assert collector.dropped == 0
        assert sum(c.n for c in inputs) == 31
        np.testing.assert_allclose(sum(c.counts.sum(axis=1) for c in inputs), 31, rtol=1e-6)

    def test_of_pictures_the_values_that_are_looked_at_wait(self, held: Any) -> None:
        collector, go_on = held
        collector._find = None
        signature = Signature((TensorSpec("x", "float32", (None, 3, 200, 200)),), SIGNATURE.outputs)
        one = target(name="eyes", signature=signature)
        picture = np.random.default_rng(0).random((1, 3, 200, 200), dtype=np.float32)
        for at in range(40):
            collector.offer(one, "live", Request(f"p{at}", "eyes", {"x": picture}), request()[1])
        assert collector._offered - collector._taken < 40 * picture.nbytes / 50
        go_on.set()
        assert collector.flush()
        assert collector.flush()
        assert (collector.dropped, collector.left_out["form"]) == (0, 0)

    def test_a_request_that_is_no_batch_is_kept_whole(self, held: Any) -> None:
        collector, _ = held
        whole = Signature((TensorSpec("x", "float32", (1, None)),), (TensorSpec("y", "float32", (1,)),))
        long = {"x": np.zeros((1, REQUEST_BYTES), np.float32)}
        collector.offer(target(signature=whole), "live", Request("long", "digits", long), {"y": np.zeros(1, "f4")})
        assert collector._waiting[-1][3]["x"] is long["x"]

    def test_no_more_bytes_are_read_at_a_time_than_a_few_pictures(self, held: Any, monkeypatch: Any) -> None:
        lots: list[int] = []
        take = Profiled.take

        def taken(profiled: Profiled, lot: list[Any], now: float) -> int:
            lots.append(len(lot))
            return take(profiled, lot, now)

        monkeypatch.setattr(Profiled, "take", taken)
        collector, go_on = held
        digits = target()
        for at in range(25):
            wide = Request(f"w{at}", "digits", {"x": np.zeros((15_000, 2), np.float32)})
            collector.offer(digits, "live", wide, {"y": np.zeros((15_000, 3), np.float32)})
        go_on.set()
        assert collector.flush()
        assert collector.flush()
        assert sum(lots) == 26 - collector.left_out["budget"]
        assert max(lots) == 4  # of 300 kB each

    def test_requests_beyond_its_share_are_sampled_by_id(self, start: Any, path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(Budget, "affordable", lambda self, n: 0.25)
        collector = start()
        send(collector, 4000)
        found = chunks(path, collector)
        n = sum(c.n for c in found if c.subject == "inputs")
        assert 850 < n < 1150
        assert collector.left_out["budget"] == 4000 - n
        assert n == sum(c.n for c in found if c.subject == "answers")

    def test_after_the_end_requests_are_dropped(self, start: Any) -> None:
        collector = start()
        collector.close()
        send(collector, 3)
        assert collector.dropped == 3

    def test_whatever_fails_the_next_look_is_made(self, start: Any, path: Path, monkeypatch: Any, caplog: Any) -> None:
        collector = start()
        with monkeypatch.context() as patched:
            patched.setattr("modelkeep.serve.observers.profiled.Profiled.take", lambda *_: 1 / 0)
            for _ in range(3):
                send(collector, 5)
                assert collector.flush()
        assert caplog.text.count("requests to digits@1 are not counted") == 1
        assert collector.left_out["form"] == 15
        send(collector, 20, 5)
        assert sum(c.n for c in chunks(path, collector) if c.subject == "inputs") == 20


class TestBudget:
    def test_it_is_a_share_of_the_time_that_passed(self) -> None:
        now = 100.0
        budget = Budget(0.02, clock=lambda: now)
        budget.spend(0.02 * SAVED, 10_000)
        assert budget.affordable(1000) == pytest.approx(LEAST / 1000)
        now = 100.5
        budget.spend(0.0, 0)
        saved = 0.02 * 0.5
        assert budget.affordable(10_000) == pytest.approx(saved / 1e-5 / 10_000, rel=1e-3)

    def test_what_requests_cost_is_learned(self) -> None:
        now = 0.0
        budget = Budget(0.02, clock=lambda: now)
        for _ in range(40):
            now += 0.5
            budget.spend(0.01, 100)
        now += 5.0
        assert budget.affordable(2000) == pytest.approx(0.1 / 1e-4 / 2000, rel=0.2)

    def test_few_are_always_looked_at(self) -> None:
        budget = Budget(0.02, clock=lambda: 0.0)
        budget.spend(10.0, 1000)
        assert budget.affordable(LEAST) == 1.0
        assert budget.affordable(0) == 1.0

    def test_it_saves_up_no_more_than_some_seconds(self) -> None:
        now = 0.0
        budget = Budget(0.02, clock=lambda: now)
        now = 1e6
        assert budget.affordable(10**6) == pytest.approx(0.02 * SAVED / 1e-5 / 10**6)
