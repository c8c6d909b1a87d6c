"""One version in memory: its runner, its queue, its counters."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep import system
from modelkeep.metrics import Metrics, TrackSeries, VersionSeries
from modelkeep.serve.plane.batcher import Batcher
from modelkeep.serve.workers import ragged
from modelkeep.serve.workers.crew import Crew
from modelkeep.serve.workers.runs import Seen
from modelkeep.serve.workers.threads import Threads
from modelkeep.serve.workers.warm import Paces, warm
from modelkeep.types import Model, Runner, ServeConfig, Signature

if TYPE_CHECKING:
    from modelkeep.types import Arrays


Brought = tuple[Runner | Crew, Paces]
"""A version in memory that has been warmed up, and how fast it was."""
CROWDED = 2.0
"""Times that a run beside requests may take what it took at warm-up, when the processor had nothing else to do: what a
promise goes by until some runs have been measured.
"""
_SERIAL = itertools.count()
log = logging.getLogger(__name__)


class Loaded:
    """A version that can answer. Made in the event loop's thread."""

    def __init__(
        self,
        name: str,
        number: int,
        runner: Runner | Crew,
        *,
        config: ServeConfig,
        metrics: Metrics,
        format: str = "",  # noqa: A002
        labels: tuple[str, ...] = (),
        paces: Paces | None = None,
    ) -> None:
        self.name, self.number, self.config, self.format = name, number, config, format
        self.labels = labels
        self.serial = next(_SERIAL)
        self.signature = runner.signature
        self.batched = self.signature.batched
        self._plain = _plain(self.signature)
        self.series = metrics.version(name, number)
        self._metrics, self._tracks = metrics, dict[str, TrackSeries]()
        metrics.loaded(name, number, format, config)
        self.batcher = Batcher(
            runner,
            config,
            name=self.ref,
            watch=watcher(self.series, labels),
            padded=self.series.padded,
            died=lambda kind: metrics.worker_died(name, number, kind),
        )
        if self.batcher.crew.mixes and self.batched and config.max_batch > 1:
            log.warning(
                "the rows of a batch of %s change each other's answers (%s), so that each request runs alone",
                self.ref,
                self.batcher.crew.mixes,
            )
        for rows, seconds in paces or ():
            self.batcher.pace.observe(rows, seconds if config.p99 is None else CROWDED * seconds)

    @classmethod
    def of(
        cls, name: str, number: int, model: Model, brought: Brought, *, config: ServeConfig, metrics: Metrics
    ) -> Loaded:
        """Of what ``bring`` gave for a model."""
        runner, paces = brought
        labels = model.labels
        return cls(
            name, number, runner, config=config, metrics=metrics, format=model.format, labels=labels, paces=paces
        )

    @property
    def ref(self) -> str:
        """``name@number``."""
        return f"{self.name}@{self.number}"

    def on(self, track: str) -> TrackSeries:
        """The series of its requests on a track."""
        series = self._tracks.get(track)
        if series is None:
            series = self._tracks[track] = self._metrics.track(self.name, self.number, track)
        return series

    def check(self, inputs: Arrays) -> None:
        """``signature.check``, in a third of its time where all is well. Raises BadInput."""
        if self._plain is not None and len(inputs) == 1:
            name, dtype, row = self._plain
            array = inputs.get(name)
            if array is not None and array.dtype == dtype and array.ndim and array.shape[1:] == row:
                return
        self.signature.check(inputs)

    async def close(self) -> None:
        """Answer what waits, then give the memory back."""
        await self.batcher.close()
        await asyncio.to_thread(self.batcher.crew.close)
        self._metrics.retire(self.name, self.number)


def _plain(signature: Signature) -> tuple[str, np.dtype[Any], tuple[int | None, ...]] | None:
    """Name, dtype and shape of a row, of the only input, where nothing but its number of rows is free and unbounded."""
    first = signature.inputs[0] if len(signature.inputs) == 1 else None
    if first is None or first.shape[:1] != (None,) or None in first.shape[1:] or signature.bounds:
        return None
    return first.name, np.dtype(object if first.dtype == "str" else first.dtype), first.shape[1:]


def watcher(series: VersionSeries, labels: tuple[str, ...]) -> Callable[[Seen], None]:
    """Counts what was seen of each run, classes by their labels."""

    def watch(seen: Seen) -> None:
        series.ran(seen.rows, seen.seconds)
        if seen.invalid:
            series.invalid.inc(seen.invalid)
        for index, count in seen.classes.items():
            series.answered(labels[index] if index < len(labels) else str(index), count)

    return watch


def bring(model: Model, config: ServeConfig) -> Brought:
    """Load and warm up, in processes of its own unless ``config.in_process``; may take long.

    Raises what the engine raises, ModelkeepError where the model fails at once.
    """
    if not config.in_process and sys.platform != "win32":
        from modelkeep.serve.workers.pool import Pool

        return Pool.open(model, config)
    return bring_here(model, config)


def give_up() -> None:
    """End whatever is being brought by processes: at the end of a program, which would wait for it."""
    if pool := sys.modules.get("modelkeep.serve.workers.pool"):
        pool.give_up()


def bring_here(model: Model, config: ServeConfig) -> tuple[Threads, Paces]:
    """Load into this process and warm up. Raises what ``bring`` does."""
    from modelkeep.model import engines

    before = system.resident(os.getpid()) or 0
    runner = engines.load(model, config)
    try:
        paces, mixes = warm(model, runner, config)
        pads = ragged.of(model.signature) if ragged.tried(runner, model.path, config) else None
        taken = max((system.resident(os.getpid()) or 0) - before, 0)
        return Threads(runner, config.workers, ragged=pads, mixes=mixes, memory=taken), paces
    except BaseException:  # whatever it was, the runner is closed before it is raised again
        runner.close()
        raise
