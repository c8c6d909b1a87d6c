"""A real service that is watched: gauges, counts and findings come by themselves, and nothing slows or ends it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
import pytest

from modelkeep.client import Client
from modelkeep.data import pulses
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadSettings
from modelkeep.metrics import Metrics
from modelkeep.monitor import service as service_
from modelkeep.monitor import thread
from modelkeep.monitor.look import Run
from modelkeep.monitor.service import WHO, Looks
from modelkeep.monitor.telling import FOUND, OVER
from modelkeep.monitor.thread import Watcher
from modelkeep.registry import Registry
from modelkeep.serve.observers import collect
from modelkeep.serve.server import Running
from modelkeep.serve.sources.follow import Follower
from modelkeep.settings import Settings
from modelkeep.tune import machine
from modelkeep.types import Model, Version
from tests.waiting import until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", monitor_every=0.05)


@pytest.fixture(autouse=True)
def _as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that never wait for their share of a core, so that what is found comes soon on a busy machine too."""
    monkeypatch.setattr(thread, "SHARE", 1.0)
    monkeypatch.setattr(thread, "BUSY_SHARE", 1.0)


@pytest.fixture
def registry(settings: Settings, model: Model) -> Iterator[Registry]:
    """digits@1, which is live."""
    found = Registry.open(settings)
    found.add("digits", model.path, made_by="add('digits.onnx')")
    found.promote("digits", 1, why="it is the first")
    yield found
    found.close()


def service(registry: Registry, settings: Settings, looks: Looks) -> Running:
    home = settings.home
    return Running(
        Follower(registry, ["digits"], machine=machine.fingerprint, options={"in_process": True}),
        settings=settings,
        traffic=home / "traffic.db",
        profiles=home / "profiles.db",
        find=collect.of_registry(registry, home),
        beside=[lambda plane: service_.start(looks, plane.metrics, lambda: plane.names, settings)],
    )


def findings(registry: Registry, kind: str = FOUND) -> set[str]:
    return {str(entry.data["subject"]) for entry in registry.journal("digits", kind=kind)}


def send(url: str, pixels: Any) -> None:
    with Client(url) as client:
        for row in pixels:
            client.infer("digits", {"pixels": row[None]})


def test_a_changed_world_is_found_by_itself(
    registry: Registry, settings: Settings, digits: tuple[Dataset, Dataset], changed: Callable[..., Any]
) -> None:
    looks = Looks(registry, settings, {}, Lock())
    pixels = digits[1].inputs["pixels"]
    with service(registry, settings, looks) as url:
        send(url, pixels[:200])
        until(lambda: "modelkeep_drift_distance_ratio{" in httpx.get(f"{url}/metrics").text)
        assert findings(registry) == set()
        send(url, changed(pixels[:400]))
        until(lambda: "inputs" in findings(registry))
        text = until(
            lambda: next(
                (
                    line
                    for line in httpx.get(f"{url}/metrics").text.splitlines()
                    if 'findings_total{kind="drift"' in line
                ),
                None,
            )
        )
        assert float(text.split()[-1]) >= 1
    (entry,) = [e for e in registry.journal("digits", kind=FOUND) if e.data["subject"] == "inputs"]
    assert entry.who == WHO
    counted = sum(pulse.counts.requests for pulse in pulses.read(settings.home / "pulses.db", "digits", 1))
    assert counted == 600


def test_a_monitor_that_cannot_work_costs_no_answer(
    registry: Registry, settings: Settings, digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look fails, and no count can be written: all requests are answered, and the trouble is counted."""

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(service_.look, "begin", broken)
    monkeypatch.setattr(pulses, "write", broken)
    running = service(registry, settings, Looks(registry, settings, {}, Lock()))
    with running as url:
        send(url, digits[1].inputs["pixels"][:50])
        until(lambda: running.plane.metrics.value("modelkeep_monitor_troubles_total") >= 1)
        send(url, digits[1].inputs["pixels"][:50])
    assert (
        running.plane.metrics.value("modelkeep_requests_total", model="digits", version="1", track="live", outcome="ok")
        == 100
    )


class TestLooks:
    def test_the_live_version_and_the_canary_are_looked_at(
        self, registry: Registry, settings: Settings, model: Model
    ) -> None:
        looks = Looks(registry, settings, {}, Lock())
        assert [checked.ref for checked in looks.at(["digits"])] == ["digits@1"]
        (model.path / "note.txt").write_text("another version")
        registry.add("digits", model.path, made_by="add('digits.onnx')")
        registry.set_route(replace(registry.route("digits"), canary=2, weight=0.1), why="a canary")
        assert [checked.ref for checked in looks.at(["digits", "gone"])] == ["digits@1", "digits@2"]

    def test_one_that_cannot_be_looked_at_keeps_nobody_from_the_others(
        self, registry: Registry, settings: Settings, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        registry.add("other", model.path, made_by="add('digits.onnx')")
        registry.promote("other", 1, why="it is the first")
        begin = service_.look.begin

        def broken(version: Version, *rest: Any, **given: Any) -> Run:
            if version.name == "digits":
                raise KeyError("logits")
            return begin(version, *rest, **given)

        monkeypatch.setattr(service_.look, "begin", broken)
        metrics, looks = Metrics(), Looks(registry, settings, {}, Lock())
        watcher = Watcher(metrics, settings.home, lambda: looks.at(["digits", "other"]), every=1.0)
        with caplog.at_level(logging.WARNING):
            watcher.turn()
        assert "digits@1: KeyError: 'logits'" in caplog.text
        assert metrics.value("modelkeep_findings", model="other", version="1", kind="drift") == 0.0

    def test_after_a_restart_nothing_is_told_again_and_nothing_is_over_before_all_is_read(
        self, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service_, "MOST", 10)
        monkeypatch.setattr(service_, "GRACE", 0.0)
        for at in range(60):
            counts = {("digits", 1): pulses.Counts(100, 60 if at > 20 else 0)}
            pulses.write(settings.home / "pulses.db", time.time() + at, counts)
        looks = Looks(registry, settings, {}, Lock())
        assert [list(looks.at(["digits"])) for _ in range(5)] == [[]] * 5, "not all is read yet"
        for _ in range(4):
            list(looks.at(["digits"]))
        assert findings(registry) == {"errors"}
        again = Looks(registry, settings, {}, Lock())
        for _ in range(9):
            list(again.at(["digits"]))
        assert len(registry.journal("digits", kind=FOUND)) == 1
        assert findings(registry, OVER) == set()

    def test_many_models_are_each_read_on(self, registry: Registry, settings: Settings, model: Model) -> None:
        """More of them than a cache of runs held once: none begins anew."""
        names = ["digits", *(f"digits{at}" for at in range(12))]
        for name in names[1:]:
            registry.add(name, model.path, made_by="add('digits.onnx')")
            registry.promote(name, 1, why="it is the first")
        looks = Looks(registry, settings, {}, Lock())
        list(looks.at(names))
        before = dict(looks._runs)
        list(looks.at(names))
        assert len(before) == 13
        assert all(looks._runs[ref] is run for ref, run in before.items())

    def test_a_folder_is_verified_once(
        self, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks, times = Looks(registry, settings, {}, Lock()), []
        checkout = registry.checkout
        monkeypatch.setattr(registry, "checkout", lambda version: (times.append(version.ref), checkout(version))[1])
        for _ in range(3):
            list(looks.at(["digits"]))
        assert times == ["digits@1"]

    def test_what_is_over_is_said(
        self, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks = Looks(registry, settings, {}, Lock())
        list(looks.at(["digits"]))
        assert findings(registry) == set(), "it has been served for a moment only"
        monkeypatch.setattr(service_, "GRACE", 0.0)
        list(looks.at(["digits"]))
        assert findings(registry) == {"traffic"}, "nothing was served"
        pulses.write(settings.home / "pulses.db", time.time(), {("digits", 1): pulses.Counts(5, 0)})
        list(looks.at(["digits"]))
        assert findings(registry, OVER) == {"traffic"}

    def test_what_is_no_longer_served_has_no_findings(
        self, registry: Registry, settings: Settings, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service_, "GRACE", 0.0)
        metrics, looks = Metrics(), Looks(registry, settings, {}, Lock())
        watcher = Watcher(metrics, settings.home, lambda: looks.at(["digits"]), every=1.0)
        told: list[str] = []
        monkeypatch.setattr(looks.alerts, "over", lambda ref, _: told.append(ref))
        for _ in range(2):
            watcher.turn()
        assert metrics.value("modelkeep_findings", model="digits", version="1", kind="no-data") == 1.0
        (model.path / "note.txt").write_text("another version")
        registry.add("digits", model.path, made_by="add('digits.onnx')")
        registry.promote("digits", 2, why="it is better")
        for _ in range(3):
            watcher.turn()
        (over,) = registry.journal("digits", kind=OVER)
        assert over.why == "no-data of traffic is over: digits@1 is no longer served"
        assert told == ["digits@1"]
        assert 'modelkeep_findings{kind="no-data",model="digits",version="1"}' not in metrics.render().decode()
        registry.promote("digits", 1, why="it is not")
        for _ in range(2):
            watcher.turn()
        assert [e.data["version"] for e in registry.journal("digits", kind=FOUND)] == [1, 2, 1]

    def test_what_ended_while_nobody_looked_is_no_news_to_alertmanager(
        self, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry.note("digits", FOUND, "it moved", {"kind": "drift", "subject": "inputs", "version": 7}, who=WHO)
        looks = Looks(registry, settings, {}, Lock())
        monkeypatch.setattr(looks.alerts, "over", lambda *_: pytest.fail("it was told"))
        list(looks.at(["digits"]))
        assert findings(registry, OVER) == {"inputs"}

    def test_traffic_that_ceased_is_a_finding_where_the_settings_say_so(
        self, registry: Registry, settings: Settings
    ) -> None:
        strict = replace(settings, silence=60.0)
        looks = Looks(registry, strict, strict.promised, Lock())
        pulses.write(settings.home / "pulses.db", time.time() - 90, {("digits", 1): pulses.Counts(5, 0)})
        list(looks.at(["digits"]))
        assert findings(registry) == set(), "it was looked at for a moment only"
        watching_since = dict.fromkeys(looks._first, time.monotonic() - service_.GRACE - 1)
        looks._first.update(watching_since)
        list(looks.at(["digits"]))
        assert findings(registry) == {"traffic"}

    def test_limits_and_addresses_that_are_none_are_refused_at_once(
        self, registry: Registry, settings: Settings
    ) -> None:
        with pytest.raises(BadSettings, match="slo is 2"):
            Looks(registry, settings, {"slo": 2.0}, Lock())
        with pytest.raises(BadSettings, match="the webhook 'nowhere' is no http"):
            Looks(registry, replace(settings, webhook="nowhere"), {}, Lock())
