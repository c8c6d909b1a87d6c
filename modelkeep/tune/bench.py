"""One setting of one model, loaded into the real plane and measured."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from modelkeep import extras
from modelkeep.errors import ModelkeepError
from modelkeep.serve.loaded import Loaded, bring
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
    """A plane that serves one model with one setting. Made and used inside one event loop.

    With ``stay`` False the model is in memory only while it is measured: for one that is large beside the machine.
    """

    def __init__(self, model: Model, config: ServeConfig, *, stay: bool = True) -> None:
        self.model, self.config, self.stay = model, config, stay
        self.measured = load.Measured()
        self._plane: Plane | None = None

    async def open(self) -> Plane:
        """Load and warm up, unless it is loaded. Raises what the engine raises."""
        if self._plane is not None:
            return self._plane
        plane = Plane(Settings())
        with own_threads(self.config):
            runner, paces = bring(self.model, self.config)
        live = Loaded(NAME, 1, runner, config=self.config, metrics=plane.metrics, paces=paces)
        plane.swap(Router(NAME, live=live))
        self._plane = plane
        return plane

    async def run(
        self, rows: Sequence[Arrays], *, concurrency: int, seconds: float, rate: float | None = None
    ) -> load.Measured:
        """One round of load, added to ``measured``: closed loop, or ``rate`` requests a second."""
        plane = await self.open()
        with own_threads(self.config):
            if rate is None:
                found = await load.closed(plane, NAME, rows, concurrency=concurrency, seconds=seconds)
            else:
                found = await load.poisson(plane, NAME, rows, rate=rate, seconds=seconds)
        self.measured.extend(found)
        await self.rest()
        return found

    async def rest(self) -> None:
        """Give the memory back until the next run, unless it is to stay."""
        if not self.stay:
            await self.close()

    async def close(self) -> None:
        """Give the memory back."""
        plane, self._plane = self._plane, None
        if plane is not None:
            await plane.close()


@contextlib.contextmanager
def own_threads(config: ServeConfig) -> Iterator[None]:
    """PyTorch's number of threads belongs to the process: each setting has it while it is loaded or measured."""
    if config.engine != "torch":
        yield
        return
    torch = extras.need("torch", extra="torch")
    before = torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bench(
    model: Model,
    config: ServeConfig,
    rows: Sequence[Arrays],
    *,
    concurrency: int = 16,
    seconds: float = 3.0,
    rate: float | None = None,
) -> Report:
    """Report(kind="bench"): percentiles and throughput, CPU seconds of the load, peak memory of the process in bytes.

    ``concurrency`` requests are kept in flight, or ``rate`` are sent a second where one is given. ``why`` says so when
    there were too few requests to claim a percentile. Raises ModelkeepError when the model answers none of them.
    """

    async def measure() -> tuple[load.Measured, float, int]:
        one = Bench(model, config)
        await one.open()
        try:
            before = resource.getrusage(resource.RUSAGE_SELF)
            found = await one.run(rows, concurrency=concurrency, seconds=seconds, rate=rate)
            after = resource.getrusage(resource.RUSAGE_SELF)
        finally:
            await one.close()
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return found, cpu, after.ru_maxrss

    found, cpu, peak = asyncio.run(measure())
    answered(found)
    numbers = {
        **found.numbers(),
        "p90": found.percentile(0.9),
        "errors": found.errors,
        "cpu_seconds": cpu,
        "peak_memory": peak * (1 if sys.platform == "darwin" else 1024),
    }
    pressure = f"{concurrency} in flight" if rate is None else f"{rate:g} sent a second"
    why = f"{found.throughput:.0f} requests/s, p99 {numbers['p99'] * 1e3:.3g} ms with {pressure}"
    return Report("bench", None, why + doubt(len(found.latencies)), numbers, f"{len(rows)} different requests")


def answered(found: load.Measured) -> None:
    """Raises ModelkeepError, with the first request's reason, where no request at all was answered."""
    if not found.latencies:
        raise ModelkeepError(
            f"the model answered none of {found.errors} requests: {found.trouble or 'no reason given'}"
        )


def doubt(n: int) -> str:
    """What must be said of percentiles of n latencies."""
    for share, least in LEAST.items():
        if n < least:
            return f" (only {n} requests: too few to claim p{share * 100:.0f}, which needs {least})"
    return ""
