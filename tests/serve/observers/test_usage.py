"""What serving costs, as Prometheus reads it: real worker processes, and a GPU that is none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep import system
from modelkeep.serve.observers import usage
from modelkeep.serve.observers.nvml import Gpu, Gpus
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import Model, ServeConfig
from tests.waiting import until

ONE = {"model": "m", "version": "1"}
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")


@pytest.fixture
def running(tricky: Callable[..., Model], tmp_path: Path) -> Iterator[Running]:
    configs = {"m": ServeConfig(engine="tricky", workers=2)}
    server = Running({"m": tricky()}, configs=configs, settings=Settings(home=tmp_path))
    with server:
        yield server


@linux
def test_workers_and_the_machine_are_told(running: Running) -> None:
    value = running.plane.metrics.value
    pids = running.plane.find("m").batcher.crew.pids()
    assert len(pids) == 2
    resident = sum(system.resident(pid) or 0 for pid in pids)
    assert value("modelkeep_worker_resident_memory_bytes", **ONE) == pytest.approx(resident, rel=0.2)
    assert value("modelkeep_worker_cpu_seconds_total", **ONE) > 0.05  # two interpreters have started
    assert "modelkeep_model_memory_bytes{" in running.plane.metrics.render().decode()
    assert value("modelkeep_machine_cpus") == system.cores()
    assert 0 < value("modelkeep_machine_memory_available_bytes") <= value("modelkeep_machine_memory_bytes")
    assert 0 < value("modelkeep_home_free_bytes") <= value("modelkeep_home_size_bytes")
    assert value("modelkeep_track_info", **ONE, track="live") == 1


@linux
def test_cpu_time_of_a_worker_that_died_goes_on_counting(running: Running) -> None:
    crew, value = running.plane.find("m").batcher.crew, running.plane.metrics.value
    before, victim = value("modelkeep_worker_cpu_seconds_total", **ONE), crew.pids()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in crew.pids() and crew.alive == 2)
    assert value("modelkeep_worker_cpu_seconds_total", **ONE) >= before


def test_counters_are_there_before_the_first_request(running: Running) -> None:
    """Or Prometheus would see the first failures as the counter's beginning, and not as an increase."""
    text = running.plane.metrics.render().decode()
    assert 'modelkeep_requests_total{model="m",outcome="error",track="live",version="1"} 0.0' in text


def test_in_process_there_are_no_workers_to_tell_of(fakes: SimpleNamespace) -> None:
    server = Running({"m": fakes.Fake()})
    with server:
        text = server.plane.metrics.render().decode()
    assert "modelkeep_worker_resident_memory_bytes{" not in text
    assert 'modelkeep_model_memory_bytes{model="m",version="1"} 0.0' in text


def test_gpus_are_told_by_device_and_by_version(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = running.plane.find("m").batcher.crew.pids()[0]
    seen = [Gpu(0, "A GPU", 80, 9, 0.4, 5.5, {pid: 3, 1: 4}), Gpu(1, "old", 40, 0, 0.0, None)]
    monkeypatch.setattr(Gpus, "look", lambda self: seen)
    value = running.plane.metrics.value
    first: dict[str, Any] = {"gpu": "0", "product": "A GPU"}
    assert value("modelkeep_gpu_memory_bytes", **first) == 80
    assert value("modelkeep_gpu_memory_used_bytes", **first) == 9
    assert value("modelkeep_gpu_busy_ratio", **first) == 0.4
    assert value("modelkeep_gpu_energy_joules_total", **first) == 5.5
    assert value("modelkeep_model_gpu_memory_bytes", **ONE) == 3
    assert 'modelkeep_gpu_energy_joules_total{gpu="1"' not in running.plane.metrics.render().decode()


def test_a_model_that_is_unloaded_meanwhile_is_left_out(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(running.plane), "names", property(lambda plane: ["gone", "m"]))
    assert [one.name for one in usage.versions(running.plane)] == ["m"]
    assert running.plane.metrics.value("modelkeep_track_info", **ONE, track="live") == 1
