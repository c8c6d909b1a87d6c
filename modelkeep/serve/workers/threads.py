"""Workers that are threads around one Runner in this process: no copy, no isolation."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Sequence

import numpy as np

from modelkeep import stages
from modelkeep.serve.workers.crew import Batch, Host
from modelkeep.serve.workers.ragged import Ragged
from modelkeep.serve.workers.runs import Part, Runs
from modelkeep.types import Runner


class Threads:
    """A Crew of ``size`` threads that share a runner."""

    trouble = ""

    def __init__(
        self, runner: Runner, size: int, *, ragged: Ragged | None = None, mixes: str = "", memory: int = 0
    ) -> None:
        self.signature = runner.signature
        self.ragged, self.mixes, self.memory = ragged, mixes, memory
        self.alive = size
        self.free = size
        self._runner = runner
        self._jobs: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()

    def pids(self) -> list[int]:
        """See Crew."""
        return []

    def begin(self, host: Host) -> None:
        """See Crew."""
        self._host, self._loop = host, asyncio.get_running_loop()
        self._runs = Runs(self._runner, name=host.name)
        for number in range(self.alive):
            threading.Thread(target=self._work, name=f"{host.name}-{number}", daemon=True).start()

    def start(self, batch: Batch) -> None:
        """See Crew."""
        self.free -= 1
        self._jobs.put(batch)

    def end(self) -> None:
        """See Crew."""
        for _ in range(self.alive):
            self._jobs.put(None)

    def close(self) -> None:
        """See Crew."""
        self._runner.close()

    def _work(self) -> None:
        while (batch := self._jobs.get()) is not None:
            started = time.monotonic()
            with stages.stage("join"):
                inputs = {n: p[0] if len(p) == 1 else np.concatenate(p) for n, p in batch.pieces().items()}
            parts = self._runs.parts(inputs, batch.rows())
            seconds = time.monotonic() - started
            try:
                self._loop.call_soon_threadsafe(self._finished, batch, parts, seconds)
            except RuntimeError:  # the loop was closed: a forced stop, and nobody waits any more
                return
            del batch, inputs, parts  # or the last batch stays in memory while the server is idle

    def _finished(self, batch: Batch, parts: Sequence[Part], seconds: float) -> None:
        self.free += 1
        self._host.finished(batch, parts, seconds)
