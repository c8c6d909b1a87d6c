"""Memory and utilisation of a GPU while something runs on it, from NVML (nvidia-ml-py, the extra ``gpu``)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from modelkeep import extras
from modelkeep.errors import MissingExtra

INTERVAL = 0.1
"""Seconds between two looks; NVML's own utilisation is a mean over the last 1/6 to 1 s."""


@dataclass
class GpuUsage:
    """Of the measured part: bytes, and shares of the time in which a kernel ran.

    ``peak_memory`` is that of our own processes; where NVML does not say whose it is (in many containers), that of the
    whole device, and ``shared`` says so. ``looks`` is how often NVML was asked.
    """

    name: str
    memory_total: int
    peak_memory: int = 0
    shared: bool = False
    utilisation: float = 0.0
    peak_utilisation: float = 0.0
    looks: int = 0

    def add(self, memory: int, shared: bool, busy: float) -> None:
        """One look."""
        self.peak_memory, self.shared = max(self.peak_memory, memory), self.shared or shared
        self.utilisation += (busy - self.utilisation) / (self.looks + 1)
        self.peak_utilisation = max(self.peak_utilisation, busy)
        self.looks += 1


@dataclass
class GpuMeter:
    """Watches the GPU of ``device`` ("cuda", "cuda:1") from a thread of its own between ``start`` and ``stop``.

    ``family`` names the processes whose memory counts. What keeps it from watching is its ``problem`` and no error:
    the rest of a benchmark is still worth having. For another device than a GPU it does nothing.
    """

    device: str
    family: Callable[[], Collection[int]]
    problem: str = ""
    _nvml: Any = None
    _thread: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _usage: GpuUsage | None = None

    def start(self) -> None:
        """Begin to watch."""
        if not self.device.startswith("cuda"):
            return
        try:
            self._nvml = extras.need("pynvml", extra="gpu")
        except MissingExtra as error:
            self.problem = str(error)
            return
        try:
            self._nvml.nvmlInit()
            handle = self._find()
            total = int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total)
            self._usage = GpuUsage(_text(self._nvml.nvmlDeviceGetName(handle)), total)
        except self._nvml.NVMLError as error:
            self.problem = f"the GPU was not watched, for NVML says: {error}"
            return
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, args=(handle, self._usage), name="gpu-meter", daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, Any] | None:
        """A GpuUsage as it goes into a report; None where nothing was watched."""
        thread, self._thread = self._thread, None
        if thread is None or self._usage is None:
            return None
        self._stop.set()
        thread.join()
        self._nvml.nvmlShutdown()
        return asdict(self._usage)

    def _find(self) -> Any:
        """NVML counts all GPUs of the machine, CUDA those that CUDA_VISIBLE_DEVICES leaves, in its order."""
        number = int(self.device.partition(":")[2] or 0)
        visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
        named = visible[number] if number < len(visible) else str(number)
        if named.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(named))
        return self._nvml.nvmlDeviceGetHandleByUUID(named)

    def _watch(self, handle: Any, usage: GpuUsage) -> None:
        while True:
            try:
                usage.add(*self._memory(handle), self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            except self._nvml.NVMLError as error:
                self.problem = f"the GPU was watched in part only, for NVML says: {error}"
                return
            if self._stop.wait(INTERVAL):
                return

    def _memory(self, handle: Any) -> tuple[int, bool]:
        """Bytes of our own processes and False; where NVML cannot tell them apart, the device's and True."""
        ours = set(self.family())
        found = [
            process.usedGpuMemory
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if process.pid in ours
        ]
        if found and None not in found:
            return sum(found), False
        return int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used), True


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
