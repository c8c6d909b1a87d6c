"""What NVML says of the GPUs: memory, by process too, utilisation and energy. Nothing where there is no GPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from modelkeep import extras

KEPT = 0.5
"""Seconds for which a look is good: one scrape asks for each of its numbers."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: bytes, the share of the time in which a kernel ran, joules since the driver was loaded, and bytes by
    process. ``joules`` is None where the device does not count them.
    """

    index: int
    name: str
    memory: int
    used: int
    busy: float
    joules: float | None
    processes: dict[int, int] = field(default_factory=dict)

    def of(self, pids: Collection[int]) -> int:
        """Bytes of these processes. In many containers NVML knows none of them."""
        return sum(size for pid, size in self.processes.items() if pid in pids)


class Gpus:
    """Looks at all GPUs of the machine, from any thread. Without the extra ``gpu``, or a driver, there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._asked = False
        self._seen: list[Gpu] = []
        self._at = float("-inf")

    def look(self) -> list[Gpu]:
        """What there is now, at most KEPT seconds old."""
        with self._lock:
            if not self._asked:
                self._asked, self._nvml = True, _nvml()
            if self._nvml is not None and time.monotonic() - self._at > KEPT:
                self._seen, self._at = _look(self._nvml), time.monotonic()
            return self._seen


def _nvml() -> Any:
    if not extras.has("pynvml"):
        return None
    nvml = extras.need("pynvml", extra="gpu")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver, no GPU
        return None
    return nvml


def _look(nvml: Any) -> list[Gpu]:
    found = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            found.append(_gpu(nvml, index))
    except nvml.NVMLError:  # lost meanwhile: what was seen before it is said all the same
        pass
    return found


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory, name = nvml.nvmlDeviceGetMemoryInfo(handle), nvml.nvmlDeviceGetName(handle)
    try:
        joules = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except nvml.NVMLError:  # older than Volta
        joules = None
    running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return Gpu(
        index,
        name.decode() if isinstance(name, bytes) else name,
        int(memory.total),
        int(memory.used),
        nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        joules,
        {process.pid: int(process.usedGpuMemory) for process in running if process.usedGpuMemory is not None},
    )
