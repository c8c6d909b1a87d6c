"""What serving costs, read when somebody scrapes: memory and CPU of each version's workers, GPUs, the machine.

The server's own are prometheus_client's: ``process_resident_memory_bytes`` and ``process_cpu_seconds_total``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from modelkeep import system
from modelkeep.errors import NotFound
from modelkeep.serve.observers.nvml import Gpu, Gpus

if TYPE_CHECKING:
    from modelkeep.serve.plane.loaded import Loaded
    from modelkeep.serve.plane.plane import Plane

Rows = Iterable[tuple[dict[str, str], float]]


def watch(plane: Plane) -> None:
    """Give ``plane.metrics`` the series of this file."""
    spent, gpus, home = _Spent(plane), Gpus(), plane.settings.home

    def each(read: Callable[[Loaded], float | None]) -> Rows:
        found = ((_labels(one), read(one)) for one in versions(plane))
        return [(labels, float(value)) for labels, value in found if value is not None]

    def by_gpu(read: Callable[[Gpu], float | None]) -> Rows:
        found = (({"gpu": str(gpu.index), "product": gpu.name}, read(gpu)) for gpu in gpus.look())
        return [(labels, float(value)) for labels, value in found if value is not None]

    def disk(at: int) -> Rows:
        found = system.disk(home)
        return [] if found is None else [({}, float(found[at]))]

    table: dict[str, tuple[str, Callable[[], Rows]]] = {
        "track_info": ("1 for the version that is on a track", lambda: _tracks(plane)),
        "worker_resident_memory_bytes": ("Of the worker processes of a version", lambda: each(_resident)),
        "worker_cpu_seconds_total": ("User and system time of them, ended ones included", spent.read),
        "model_memory_bytes": ("What loading and warming up took", lambda: each(lambda one: one.batcher.crew.memory)),
        "machine_cpus": ("Cores that may be used", lambda: [({}, float(system.cores()))]),
        "machine_memory_bytes": ("Memory that may be used", lambda: [({}, float(system.memory()))]),
        "machine_memory_available_bytes": ("Memory that could still be had", lambda: _if(system.available())),
        "home_size_bytes": ("The disk that holds the registry", lambda: disk(0)),
        "home_free_bytes": ("What is free of it", lambda: disk(1)),
        "gpu_memory_bytes": ("Memory of a GPU", lambda: by_gpu(lambda gpu: gpu.memory)),
        "gpu_memory_used_bytes": ("Memory of a GPU that is taken, by whomever", lambda: by_gpu(lambda gpu: gpu.used)),
        "gpu_busy_ratio": ("Share of the time in which a kernel ran", lambda: by_gpu(lambda gpu: gpu.busy)),
        "gpu_energy_joules_total": ("Energy since the driver was loaded", lambda: by_gpu(lambda gpu: gpu.joules)),
        "model_gpu_memory_bytes": ("Of the worker processes, on all GPUs", lambda: _on_gpus(plane, gpus)),
    }
    for name, (what, read) in table.items():
        plane.metrics.watch(f"modelkeep_{name}", what, read)


def versions(plane: Plane) -> Iterator[Loaded]:
    """Every version in memory, from any thread."""
    for name in plane.names:
        try:
            yield from plane.router(name).loaded.values()
        except NotFound:  # it was unloaded meanwhile
            continue


class _Spent:
    """CPU time by version, which must not shrink where a worker ends: what was last seen of it goes on counting."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._lock = threading.Lock()
        self._alive: dict[tuple[str, str], dict[int, float]] = {}
        self._ended: dict[tuple[str, str], float] = {}

    def read(self) -> Rows:
        """Seconds of each version in memory that has processes of its own."""
        rows = []
        with self._lock:
            for one in versions(self._plane):
                if not (pids := one.batcher.crew.pids()):
                    continue
                key = (one.name, str(one.number))
                now = {pid: spent for pid in pids if (spent := system.cpu_seconds(pid)) is not None}
                before = self._alive.get(key, {})
                gone = sum(spent for pid, spent in before.items() if pid not in now)
                self._alive[key], self._ended[key] = now, self._ended.get(key, 0.0) + gone
                rows.append((_labels(one), sum(now.values()) + self._ended[key]))
        return rows


def _labels(one: Loaded) -> dict[str, str]:
    return {"model": one.name, "version": str(one.number)}


def _tracks(plane: Plane) -> Rows:
    rows = []
    for name in plane.names:
        try:
            router = plane.router(name)
        except NotFound:  # it was unloaded meanwhile
            continue
        rows += [({**_labels(one), "track": track}, 1.0) for track, one in router.tracks.items()]
    return rows


def _resident(one: Loaded) -> float | None:
    found = [size for pid in one.batcher.crew.pids() if (size := system.resident(pid)) is not None]
    return float(sum(found)) if found else None


def _on_gpus(plane: Plane, gpus: Gpus) -> Rows:
    seen = [gpu for gpu in gpus.look() if gpu.processes]
    found = ((one, set(one.batcher.crew.pids())) for one in versions(plane)) if seen else ()
    return [(_labels(one), float(sum(gpu.of(pids) for gpu in seen))) for one, pids in found]


def _if(value: float | None) -> Rows:
    return [] if value is None else [({}, float(value))]
