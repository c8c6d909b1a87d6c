"""Joins the requests of one version into runs, and runs them on threads.

Work-conserving: a request that finds a free worker runs at once, and batches form while workers are busy. Only requests
of the same input names, shapes beyond the first dimension, dtypes and parameters share a run. All methods belong to the
event loop's thread, except ``_work``.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelkeep.errors import TooLate
from modelkeep.serve.limits import Pace
from modelkeep.serve.runs import Answer, Outcome, Pending, Runs, Watcher
from modelkeep.types import Runner, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

BUSY = 0.5
"""Share of recent requests that met another one, above which a batch may wait for company."""


@dataclass(slots=True)
class _Group:
    """Requests that may share a run, the oldest first. An ordered dict, so that one that gives up leaves at once."""

    waiting: OrderedDict[Pending, None] = field(default_factory=OrderedDict)
    rows: int = 0


def joinable(inputs: Arrays, parameters: Mapping[str, Any]) -> Hashable:
    """Equal for requests that may share a run. Strings of any length are one dtype."""
    tensors = tuple(
        (n, "str" if a.dtype.kind in "OUS" else a.dtype.str, a.shape[1:]) for n, a in sorted(inputs.items())
    )
    # the type is part of it: True == 1 == 1.0 in Python, and a model may tell them apart
    return tensors, tuple((k, type(v).__name__, repr(v)) for k, v in sorted(parameters.items()))


class Batcher:
    """The queue and the workers of one loaded version.

    ``name`` goes into error sentences. ``watch`` is called from worker threads after each good run with the outputs,
    the number of rows, and the seconds.
    """

    def __init__(self, runner: Runner, config: ServeConfig, *, name: str, watch: Watcher | None = None) -> None:
        self.config, self.name = config, name
        self.pace = Pace()
        self.waiting = self.waiting_rows = 0
        self._batched = runner.signature.batched
        self._runs = Runs(runner, name=name, watch=watch)
        self._loop = asyncio.get_running_loop()
        self._groups: dict[Hashable, _Group] = {}
        self._running: dict[int, float] = {}
        self._batches = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._company = 0.0
        self._active = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._jobs: queue.SimpleQueue[tuple[int, list[Pending]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(config.workers)
        ]
        for thread in self._threads:
            thread.start()

    # ── the queue ────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, inputs: Arrays, parameters: Mapping[str, Any], deadline: float | None) -> Pending:
        """Queue a request; its ``answer`` fails with TooLate at the deadline. Whoever stops waiting calls ``drop``."""
        now = time.monotonic()
        rows = len(next(iter(inputs.values()))) if self._batched and inputs else 1
        key = joinable(inputs, parameters) if self._batched else object()
        pending = Pending(inputs, rows, key, now, deadline, self._loop.create_future())
        if deadline is not None:
            pending.timer = self._loop.call_later(deadline - now, self._expire, pending)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        met = bool(self.waiting or self._running)
        self._company += 0.2 * (met - self._company)
        group.waiting[pending] = None
        group.rows += rows
        self.waiting += 1
        self.waiting_rows += rows
        self._idle.clear()
        self._schedule()
        return pending

    def drop(self, pending: Pending) -> None:
        """Nobody waits for this one any more: it leaves the queue, or its answer is thrown away."""
        if pending.timer is not None:
            pending.timer.cancel()
        group = self._groups.get(pending.key)
        if group is not None and pending in group.waiting:
            del group.waiting[pending]
            self._left(pending, group)
            if not group.waiting:
                del self._groups[pending.key]
            self._rest()
        pending.answer.cancel()

    def wait(self) -> float:
        """Seconds until a request that came now would run, by the measured pace; 0 where nothing waits."""
        return self.pace.wait(self.waiting_rows, self.waiting, self.config.max_batch, self.config.workers)

    def longest(self) -> float:
        """Seconds for which the oldest present run has been running: a hung engine shows here."""
        return time.monotonic() - min(self._running.values()) if self._running else 0.0

    async def close(self) -> None:
        """Wait until everything that was submitted has its answer, then stop the threads."""
        await self._idle.wait()
        for _ in self._threads:
            self._jobs.put(None)

    def _left(self, pending: Pending, group: _Group) -> None:
        group.rows -= pending.rows
        self.waiting -= 1
        self.waiting_rows -= pending.rows

    def _expire(self, pending: Pending) -> None:
        if not pending.answer.done():
            seconds = time.monotonic() - pending.queued
            pending.answer.set_exception(TooLate(f"{self.name} had no answer within {seconds:.3g} s, the time allowed"))
        self.drop(pending)

    def _rest(self) -> None:
        if not self._running and not self.waiting:
            self._idle.set()

    # ── from the queue to the workers ────────────────────────────────────────────────────────────────────────────

    def _schedule(self) -> None:
        """Dispatch in the next turn of the loop, so that requests that came in this one can share a run."""
        if not self._scheduled and len(self._running) < self.config.workers:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._groups and len(self._running) < self.config.workers:
            now = time.monotonic()
            key = self._next(now)
            if key is None:
                break
            batch = self._take(key, now)
            if batch:
                self._batches += 1
                self._running[self._batches] = now
                self._active = now
                self._jobs.put((self._batches, batch))
        self._rest()

    def _next(self, now: float) -> Hashable | None:
        """The group to run now, or None where waiting is likely to bring company."""
        first = next(iter(self._groups))
        window = self.config.max_wait
        busy = self._company > BUSY and (self._running or now - self._active < window)
        if not (window and busy and self._batched):
            return first
        due = now + window
        for key, group in self._groups.items():
            until = next(iter(group.waiting)).queued + window
            if group.rows >= self.config.max_batch or until <= now:
                return key
            due = min(due, until)
        self._timer = self._loop.call_later(due - now, self._dispatch)
        return None

    def _take(self, key: Hashable, now: float) -> list[Pending]:
        """As many of the group as fit; a request larger than max_batch runs alone. The group goes to the end."""
        group = self._groups.pop(key)
        batch: list[Pending] = []
        rows = 0
        while group.waiting:
            pending = next(iter(group.waiting))
            if batch and rows + pending.rows > self.config.max_batch:
                break
            group.waiting.popitem(last=False)
            self._left(pending, group)
            if pending.deadline is not None and pending.deadline <= now:
                self._expire(pending)
            elif not pending.answer.done():
                batch.append(pending)
                rows += pending.rows
        if group.waiting:
            self._groups[key] = group
        return batch

    def _finish(self, batch: int, started: float, seconds: float, outcomes: Sequence[Outcome]) -> None:
        del self._running[batch]
        self._active = time.monotonic()
        if rows := sum(p.rows for p, _ in outcomes):
            self.pace.observe(rows, seconds)
        for pending, got in outcomes:
            if pending.timer is not None:
                pending.timer.cancel()
            if pending.answer.done():
                continue
            if isinstance(got, Exception):
                pending.answer.set_exception(got)
            else:
                pending.answer.set_result(Answer(got, started - pending.queued, seconds))
        if self._groups:
            self._dispatch()
        self._rest()

    # ── on a worker's thread ─────────────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            number, batch = job
            started = time.monotonic()
            outcomes = self._runs.outcomes(batch)
            seconds = time.monotonic() - started
            try:
                self._loop.call_soon_threadsafe(self._finish, number, started, seconds, outcomes)
            except RuntimeError:  # the loop was closed: a forced stop, and nobody waits any more
                return
            del job, batch, outcomes  # or the last batch stays in memory while the server is idle
