"""The watcher: counts, gauges and findings beside a server, and nothing that goes wrong with it ends or slows it."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep import system
from modelkeep.data import pulses
from modelkeep.metrics import SECONDS, Metrics
from modelkeep.monitor import thread as module
from modelkeep.monitor.look import Checked
from modelkeep.monitor.thread import BUSY_SHARE, SHARE, Watcher, counted, gauges_of, share_of
from modelkeep.types import Finding

DRIFT = Finding("drift", "inputs", "they moved", {}, 1.0)
ESTIMATE = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100}
NUMBERS: dict[str, Any] = {
    "inputs": {"n": 10, "moved": 0.3, "tolerance": 0.1, "log_evidence": 25.0, "log_threshold": 20.0},
    "answers": {"n": 0},
    "quality": {"n": 5, "coverage": 0.5, "accuracy": 0.8, "f1": {"value": 0.7}, "rmse": {"value": 12.0}, "lag": 60.0},
    "estimated": {"n": 10, "accuracy": ESTIMATE},
    "health": {"n": 10, "slo": {"budget_left": 0.25}},
}


def looked(*findings: Finding, ref: str = "digits@1") -> Checked:
    return Checked(ref, 10, 1.0, findings, NUMBERS)


def serve(metrics: Metrics, times: int, outcome: str = "ok", seconds: float = 0.003, track: str = "live") -> None:
    series = metrics.track("digits", 1, track)
    for _ in range(times):
        series.record(outcome, seconds)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Watcher]:
    def one(look: Callable[[], Any] = list, **given: Any) -> Watcher:
        return Watcher(Metrics(), tmp_path, look, **{"every": 0.01, **given})

    return one


class Moving(dict[str, int]):
    """Counts that another thread adds a failure to while they are read."""

    def items(self) -> Any:
        found = list(super().items())
        self["error"] += 1
        return found


class TestCounting:
    def test_what_comes_while_it_counts_is_in_all_or_in_none(self) -> None:
        metrics = Metrics()
        serve(metrics, 5)
        series = metrics.track("digits", 1, "live")
        series.outcomes = Moving(series.outcomes)
        one = counted(metrics)["digits", 1]
        assert (one.requests, one.failed) == (5, 0)

    def test_requests_failures_and_slow_ones_by_version(self) -> None:
        metrics = Metrics()
        serve(metrics, 5, seconds=0.003)
        serve(metrics, 2, "error", seconds=0.4)
        serve(metrics, 1, "bad_input", seconds=0.0001)
        serve(metrics, 3, track="canary", seconds=0.0001)
        serve(metrics, 9, track="shadow")
        found = counted(metrics)
        assert list(found) == [("digits", 1)]
        one = found[("digits", 1)]
        assert (one.requests, one.failed) == (10, 2)
        assert dict(zip(SECONDS, one.slower, strict=True))[0.002] == 7
        assert dict(zip(SECONDS, one.slower, strict=True))[0.2] == 2

    def test_each_turn_writes_what_is_new(self, make: Callable[..., Watcher], tmp_path: Path) -> None:
        watcher = make()
        serve(watcher.metrics, 5)
        watcher.turn()
        serve(watcher.metrics, 3, "error")
        watcher.turn()
        watcher.turn()
        found = pulses.read(tmp_path / "pulses.db", "digits", 1)
        assert [(pulse.counts.requests, pulse.counts.failed) for pulse in found] == [(5, 0), (3, 3)]
        (sample,) = pulses.memory(tmp_path / "pulses.db")
        assert sample[1].bytes > 1e6, "of this process, once in half a minute"

    def test_memory_is_told_on_where_the_clock_is_set_back(
        self, make: Callable[..., Watcher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MEMORY_EVERY", 0.0)
        watcher = make()
        watcher.turn()
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 86400)
        watcher.turn()
        assert len(pulses.memory(tmp_path / "pulses.db")) == 2


class TestGauges:
    def test_what_a_look_gives(self) -> None:
        found = {(name, *sorted(labels.items())): value for name, labels, value in gauges_of(looked(DRIFT))}
        whose = (("model", "digits"), ("version", "1"))
        subject = (whose[0], ("subject", "inputs"), whose[1])
        accuracy = (("metric", "accuracy"), *whose)
        assert found["modelkeep_drift_distance_ratio", *subject] == 0.3
        assert found["modelkeep_drift_tolerance_ratio", *subject] == 0.1
        assert found["modelkeep_drift_log_evidence", *subject] == 25.0
        assert found["modelkeep_estimated_quality_ratio", *accuracy] == 0.9
        assert found["modelkeep_labelled_quality_ratio", *accuracy] == 0.8
        assert found["modelkeep_labelled_quality_ratio", ("metric", "f1"), *whose] == 0.7
        assert found["modelkeep_labelled_error", ("metric", "rmse"), *whose] == 12.0
        assert found["modelkeep_label_coverage_ratio", *whose] == 0.5
        assert found["modelkeep_label_lag_seconds", *whose] == 60.0
        assert found["modelkeep_error_budget_left_ratio", *whose] == 0.25
        assert found["modelkeep_findings", ("kind", "drift"), *whose] == 1.0
        assert found["modelkeep_findings", ("kind", "health"), *whose] == 0.0

    def test_they_are_scraped(self, make: Callable[..., Watcher]) -> None:
        watcher = make(lambda: [looked(DRIFT)])
        before = watcher.metrics.render().decode()
        assert "modelkeep_drift_distance_ratio{" not in before
        watcher.turn()
        text = watcher.metrics.render().decode()
        assert 'modelkeep_drift_distance_ratio{model="digits",subject="inputs",version="1"} 0.3' in text
        assert "modelkeep_monitor_looks_total 1.0" in text
        assert "modelkeep_monitor_troubles_total 0.0" in text

    def test_a_finding_is_counted_once_each_time_it_comes(self, make: Callable[..., Watcher]) -> None:
        looks = iter([[looked()], [looked(DRIFT)], [looked(DRIFT)], [looked()], [looked(DRIFT)]])
        watcher = make(lambda: next(looks))

        def count(kind: str) -> float:
            return watcher.metrics.value("modelkeep_findings_total", model="digits", version="1", kind=kind)

        told = []
        for _ in range(5):
            watcher.turn()
            told.append(count("drift"))
        assert told == [0.0, 1.0, 1.0, 1.0, 2.0]
        assert count("quality") == 0.0
        assert 'kind="no-data"' in watcher.metrics.render().decode(), "there before its first, so that rate() sees it"

    def test_what_is_served_no_more_has_none(self, make: Callable[..., Watcher]) -> None:
        looks = iter([[looked(ref="digits@1")], [looked(ref="digits@2")]])
        watcher = make(lambda: next(looks))
        watcher.turn()
        watcher.turn()
        text = watcher.metrics.render().decode()
        assert 'modelkeep_drift_distance_ratio{model="digits",subject="inputs",version="2"}' in text
        assert 'modelkeep_drift_distance_ratio{model="digits",subject="inputs",version="1"}' not in text


class TestTrouble:
    def test_it_is_said_once_and_tried_again(
        self, make: Callable[..., Watcher], caplog: pytest.LogCaptureFixture
    ) -> None:
        looks: list[Any] = [RuntimeError("no such disk"), RuntimeError("no such disk"), [looked(DRIFT)]]

        def look() -> Any:
            found = looks.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        watcher = make(look)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                watcher.turn()
        assert [r.getMessage() for r in caplog.records] == [
            "monitor could not look, and tries again: RuntimeError: no such disk"
        ]
        assert (watcher.looks, watcher.troubles) == (1, 2)
        assert watcher.metrics.value("modelkeep_findings", model="digits", version="1", kind="drift") == 1.0

    def test_counts_that_cannot_be_written_keep_no_look_away(
        self, make: Callable[..., Watcher], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "pulses.db").write_text("no database " * 500)
        watcher = make(lambda: [looked(DRIFT)])
        watcher.turn()
        assert "is not a file of signs of life" in caplog.text
        assert watcher.metrics.value("modelkeep_findings", model="digits", version="1", kind="drift") == 1.0

    def test_a_look_that_hangs_keeps_no_server_from_ending(self, make: Callable[..., Watcher]) -> None:
        begun, release = threading.Event(), threading.Event()

        def look() -> list[Checked]:
            begun.set()
            release.wait(20)
            return []

        watcher = make(look)
        watcher.start()
        assert begun.wait(10)
        at = time.monotonic()
        watcher.close(timeout=0.05)
        assert time.monotonic() - at < 5
        release.set()

    @pytest.mark.parametrize(("saved", "least", "most"), [(0.0, 1, 1), (60.0, 2, 12)])
    def test_costly_looks_make_the_next_one_wait_once_what_was_saved_is_spent(
        self, make: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch, saved: float, least: int, most: int
    ) -> None:
        """A look of 50 ms each 10 ms would take most of a core: at 1 % there is one in 5 s, but for the first 0.6 s."""
        monkeypatch.setattr(module, "SAVED", saved)
        looks = []

        def look() -> list[Checked]:
            until = time.thread_time() + 0.05
            while time.thread_time() < until:
                pass
            looks.append(time.monotonic())
            return []

        watcher = make(look)
        watcher.start()
        time.sleep(1.5)
        watcher.close()
        assert least <= len(looks) <= most

    def test_it_is_a_daemon_that_ends_when_it_is_told(self, make: Callable[..., Watcher]) -> None:
        looked_at = threading.Event()

        def look() -> list[Checked]:
            looked_at.set()
            return []

        watcher = make(look)
        assert watcher._thread.daemon
        watcher.start()
        assert looked_at.wait(10)
        watcher.close()
        assert not watcher._thread.is_alive()
        watcher.close()

    def test_one_that_never_began_is_closed(self, make: Callable[..., Watcher]) -> None:
        make().close()


def test_looks_take_less_of_a_process_that_is_busy() -> None:
    assert share_of(0.0) == share_of(-1.0) == SHARE
    assert share_of(1.0) == share_of(7.0) == pytest.approx(BUSY_SHARE)
    assert BUSY_SHARE < share_of(0.5) < SHARE


def test_a_process_whose_threads_wait_for_a_core_is_busy(
    make: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVED", 0.0)

    def pause_after_a_look(*, each: float) -> float:
        """Where each second brings so many seconds in which threads ran or wanted to."""
        pauses: list[float] = []
        ran = itertools.count(0.0, each)
        monkeypatch.setattr(system, "all_ran", lambda: next(ran))
        watcher = make(spin)
        monkeypatch.setattr(watcher, "_stop", SimpleNamespace(wait=lambda pause: pauses.append(pause) or pauses[1:]))
        watcher._run()
        return pauses[1]

    def spin() -> list[Checked]:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return []

    assert pause_after_a_look(each=1.0) > 5 * pause_after_a_look(each=0.0)
