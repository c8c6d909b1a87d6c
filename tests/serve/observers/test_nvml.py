"""GPUs, from a stand-in for NVML."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from modelkeep.serve.observers import nvml
from modelkeep.serve.observers.nvml import Gpu, Gpus


class Nvml(ModuleType):
    """Two GPUs; 11 and 12 run on the first."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.__spec__ = importlib.machinery.ModuleSpec("pynvml", None)
        self.looks = 0
        self.missing = self.lost = self.old = False
        self.hidden = False

    def nvmlInit(self) -> None:  # noqa: N802 - the names are NVML's
        if self.missing:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self.looks += 1
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if self.lost and index == 1:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"A GPU"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=80_000, used=9_000)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=40)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        if self.old:
            raise self.NVMLError("Not Supported")
        return 5_500

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        sizes = {} if handle else {11: None if self.hidden else 3_000, 12: 1_000}
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in sizes.items()]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    module = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_each_gpu_is_told(module: Nvml) -> None:
    first, second = Gpus().look()
    assert first == Gpu(0, "A GPU", 80_000, 9_000, 0.4, 5.5, {11: 3_000, 12: 1_000})
    assert second.processes == {}
    assert first.of({11, 99}) == 3_000


def test_one_scrape_asks_once(module: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus()
    for _ in range(5):
        gpus.look()
    assert module.looks == 1
    monkeypatch.setattr(nvml, "KEPT", -1.0)
    gpus.look()
    assert module.looks == 2


def test_what_nvml_does_not_say_is_left_out(module: Nvml) -> None:
    module.old = module.hidden = module.lost = True
    [only] = Gpus().look()
    assert only.joules is None
    assert only.processes == {12: 1_000}


def test_without_driver_or_library_there_is_none(module: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    module.missing = True
    assert Gpus().look() == []
    monkeypatch.setattr(nvml.extras, "has", lambda name: False)
    assert Gpus().look() == []
