"""One setting of one model, loaded into the real plane and measured."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelkeep.model import engines
from modelkeep.serve.loaded import Loaded, warm
from modelkeep.serve.plane import Plane
from modelkeep.serve.router import Router
from modelkeep.settings import Settings
from modelkeep.tune import load
from modelkeep.types import Model, Report, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

LEAST = {0.9: 64, 0.99: 662}
"""Latencies that LoadGen asks for before it claims a percentile (mlcommons/inference, early stopping)."""
NAME = "model"


class Bench:
    """A plane that serves one model with one setting. Made and used inside one event loop."""

    def __init__(self, model: Model, config: ServeConfig) -> None:
        self.config = config
        self.measured = load.Measured()
        self.plane = Plane(Settings())
        runner = engines.load(model, config)
        paces = warm(model, runner, config)
        self.runner = runner
        loaded = Loaded(NAME, 1, runner, config=config, metrics=self.plane.metrics, paces=paces)
        self.plane.swap(Router(NAME, live=loaded))

    async def run(self, rows: Sequence[Arrays], *, concurrency: int, seconds: float) -> load.Measured:
        """One round of closed-loop load, added to ``measured``."""
        found = await load.closed(self.plane, NAME, rows, concurrency=concurrency, seconds=seconds)
        self.measured.extend(found)
        return found

    async def close(self) -> None:
        """Give the memory back."""
        await self.plane.close()


def bench(
    model: Model, config: ServeConfig, rows: Sequence[Arrays], *, concurrency: int = 16, seconds: float = 3.0
) -> Report:
    """Report(kind="bench"): percentiles and throughput under closed-loop load, CPU seconds, peak memory in bytes.

    ``why`` says so when there were too few requests to claim a percentile.
    """

    async def measure() -> load.Measured:
        one = Bench(model, config)
        try:
            return await one.run(rows, concurrency=concurrency, seconds=seconds)
        finally:
            await one.close()

    before = resource.getrusage(resource.RUSAGE_SELF)
    found = asyncio.run(measure())
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    numbers = {
        "p50": found.percentile(0.5),
        "p90": found.percentile(0.9),
        "p99": found.percentile(0.99),
        "throughput": found.throughput,
        "n": len(found.latencies),
        "errors": found.errors,
        "cpu_seconds": cpu,
        "peak_memory": after.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    why = f"{found.throughput:.0f} requests/s, p99 {numbers['p99'] * 1e3:.3g} ms with {concurrency} in flight"
    return Report("bench", None, why + doubt(len(found.latencies)), numbers, f"{len(rows)} different requests")


def doubt(n: int) -> str:
    """What must be said of percentiles of n latencies."""
    for share, least in LEAST.items():
        if n < least:
            return f" (only {n} requests: too few to claim p{share * 100:.0f}, which needs {least})"
    return ""
