"""A GPU's memory and utilisation, from a stand-in for NVML."""

from __future__ import annotations

import builtins
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from modelkeep.tune import gpu
from modelkeep.tune.gpu import GpuMeter, GpuUsage


class Nvml(ModuleType):
    """One GPU on which two processes run, 11 of them ours; it is asked for by index or by UUID."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.asked: list[Any] = []
        self.busy = iter([20, 60, 40] + [50] * 1000)
        self.memory: int | None = 3_000
        self.open = 0
        self.missing = self.lost = False

    def nvmlInit(self) -> None:  # noqa: N802 - the name is NVML's
        if self.missing:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        self.asked.append(index)
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked.append(uuid)
        return "handle"

    def nvmlDeviceGetName(self, handle: str) -> bytes:  # noqa: N802
        return b"A GPU"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(total=80_000, used=9_000)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        if self.lost:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(gpu=next(self.busy))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=11, usedGpuMemory=self.memory), SimpleNamespace(pid=99, usedGpuMemory=5_000)]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    module = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(gpu, "INTERVAL", 0.001)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


def measure(device: str = "cuda", pids: tuple[int, ...] = (11,)) -> tuple[dict[str, Any] | None, GpuMeter]:
    meter = GpuMeter(device, lambda: pids)
    meter.start()
    time.sleep(0.02)
    return meter.stop(), meter


def test_our_own_memory_and_the_utilisation(nvml: Nvml) -> None:
    found, meter = measure()
    assert found is not None
    assert (found["name"], found["memory_total"], found["peak_memory"]) == ("A GPU", 80_000, 3_000)
    assert not found["shared"]
    assert found["peak_utilisation"] == 0.6
    assert 0.2 <= found["utilisation"] <= 0.6
    assert found["looks"] >= 3
    assert meter.problem == ""
    assert nvml.open == 0  # what was opened is closed
    assert nvml.asked == [0]


def test_in_a_container_the_memory_is_the_devices(nvml: Nvml) -> None:
    nvml.memory = None
    found, _ = measure()
    assert found is not None
    assert (found["peak_memory"], found["shared"]) == (9_000, True)
    found, _ = measure(pids=(12,))  # pids of another namespace
    assert found is not None
    assert found["shared"]


@pytest.mark.parametrize(
    ("device", "visible", "asked"),
    [("cuda:1", "", 1), ("cuda:1", "4,7", 7), ("cuda", "GPU-abc", "GPU-abc"), ("cuda:3", "4,7", 3)],
)
def test_cudas_order_is_not_nvmls(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, device: str, visible: str, asked: Any
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    measure(device)
    assert nvml.asked == [asked]


def test_on_a_cpu_nothing_is_asked(nvml: Nvml) -> None:
    found, meter = measure("cpu")
    assert (found, meter.problem, nvml.asked) == (None, "", [])


def test_what_keeps_it_from_watching_is_said(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.missing = True
    found, meter = measure()
    assert found is None
    assert meter.problem == "the GPU was not watched, for NVML says: Driver Not Loaded"
    nvml.missing, nvml.lost = False, True
    found, meter = measure()
    assert found is not None
    assert found["looks"] == 0
    assert "watched in part only" in meter.problem
    monkeypatch.delitem(sys.modules, "pynvml")
    real = builtins.__import__
    monkeypatch.setattr("importlib.import_module", lambda name: real("no_such_module_" + name))
    found, meter = measure()
    assert found is None
    assert "pip install 'modelkeep[gpu]'" in meter.problem


def test_the_mean_is_over_all_looks() -> None:
    usage = GpuUsage("A GPU", 100)
    for busy in (0.0, 0.5, 1.0):
        usage.add(10, False, busy)
    assert usage.utilisation == pytest.approx(0.5)
    assert (usage.peak_utilisation, usage.looks, usage.peak_memory) == (1.0, 3, 10)
