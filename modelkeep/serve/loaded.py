"""One version in memory: its runner, its queue, its counters."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.errors import ModelkeepError
from modelkeep.metrics import Metrics, VersionSeries
from modelkeep.serve.batcher import Batcher
from modelkeep.types import Model, Runner, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

Paces = list[tuple[int, float]]
"""Rows and seconds of the runs of a warm-up."""


class Loaded:
    """A version that can answer. Made in the event loop's thread."""

    def __init__(
        self,
        name: str,
        number: int,
        runner: Runner,
        *,
        config: ServeConfig,
        metrics: Metrics,
        format: str = "",  # noqa: A002
        labels: tuple[str, ...] = (),
        paces: Paces | None = None,
    ) -> None:
        self.name, self.number, self.runner, self.config, self.format = name, number, runner, config, format
        self.signature = runner.signature
        self._inputs = {t.name: (t, np.dtype(object if t.dtype == "str" else t.dtype)) for t in self.signature.inputs}
        self.series = metrics.version(name, number)
        self._metrics = metrics
        metrics.loaded(name, number, format=format, engine=config.engine, device=config.device)
        watch = output_watcher(self.series, labels, first=runner.signature.outputs[0].name)
        self.batcher = Batcher(runner, config, name=self.ref, watch=watch)
        for rows, seconds in paces or ():
            self.batcher.pace.observe(rows, seconds)

    @property
    def ref(self) -> str:
        """``name@number``."""
        return f"{self.name}@{self.number}"

    def check(self, inputs: Arrays) -> None:
        """``signature.check``, in a third of its time where all is well. Raises BadInput."""
        wanted = self._inputs
        if len(inputs) == len(wanted) == 1:
            for name, array in inputs.items():
                if name in wanted and array.dtype == wanted[name][1] and wanted[name][0].accepts(array.shape):
                    return
        self.signature.check(inputs)

    async def close(self) -> None:
        """Answer what waits, then give the memory back."""
        await self.batcher.close()
        await asyncio.to_thread(self.runner.close)
        self._metrics.retire(self.name, self.number)


def output_watcher(
    series: VersionSeries, labels: tuple[str, ...], *, first: str
) -> Callable[[Arrays, int, float], None]:
    """Counts each run, rows that are not finite, and predicted classes (argmax of a 2-D float first output)."""

    def watch(outputs: Arrays, rows: int, seconds: float) -> None:
        series.compute.observe(seconds)
        series.batch.observe(rows)
        for array in outputs.values():
            if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
                series.invalid.inc(int((~finite.reshape(len(array), -1).all(axis=1)).sum()) if array.ndim else 1)
        scores = outputs[first]
        if scores.dtype.kind == "f" and scores.ndim == 2 and scores.shape[1] > 1:
            for index, count in Counter(scores.argmax(axis=1).tolist()).items():
                series.answered(labels[index] if index < len(labels) else str(index), count)

    return watch


def bring(model: Model, config: ServeConfig) -> tuple[Runner, Paces]:
    """Load and warm up; may take long. Raises what the engine raises, ModelkeepError where the model fails at once."""
    from modelkeep.model import engines

    runner = engines.load(model, config)
    try:
        return runner, warm(model, runner, config)
    except BaseException:  # whatever it was, the runner is closed before it is raised again
        runner.close()
        raise


def warm(model: Model, runner: Runner, config: ServeConfig) -> Paces:
    """Run it at batch 1 and at max_batch, twice each, and give the second runs' seconds: a first idea of its pace.

    On the model's own reference rows, where it has any: a model that fails on these must not be served, and the
    engine's error is passed on. Made-up rows may be refused by a sound model, so that such a failure is let pass.
    """
    from modelkeep.model import folder
    from modelkeep.model.signature import example

    rows = folder.reference(model.path)
    paces: Paces = []
    for batch in sorted({1, config.max_batch}) if runner.signature.batched else [1]:
        made_up = example(runner.signature, batch)
        inputs = made_up if rows is None else rows.take(np.arange(batch) % len(rows)).inputs
        try:
            runner.run(inputs)
            started = time.monotonic()
            runner.run(inputs)
            paces.append((batch, time.monotonic() - started))
        except Exception as error:  # an engine may raise anything
            if rows is None:
                break
            raise ModelkeepError(
                f"the model fails on its own reference rows: {type(error).__name__}: {error}"
            ) from error
    return paces
