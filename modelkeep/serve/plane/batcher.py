"""Joins the requests of one version into batches, and has workers run them.

Work-conserving: a request that finds a free worker runs at once, and batches form while workers are busy; where a run
costs much besides its rows, those just answered are given a moment to come back (refill.py). Only requests of the same
input names, shapes beyond the first dimension, dtypes and parameters share a run. All methods belong to the event
loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelkeep import stages
from modelkeep.errors import ModelkeepError, TooLate
from modelkeep.serve.plane.deadlines import Deadlines
from modelkeep.serve.plane.refill import Refill
from modelkeep.serve.plane.suspects import Suspects
from modelkeep.serve.workers.crew import Answer, Batch, Crew, Pending
from modelkeep.serve.workers.pace import Pace
from modelkeep.serve.workers.ragged import bucket
from modelkeep.serve.workers.runs import Part, Seen
from modelkeep.serve.workers.threads import Threads
from modelkeep.types import Runner, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

BUSY = 0.5
"""Share of recent requests that met another one, above which a batch may wait for company."""
ALONE = 0.25
"""Share below which a client counts as alone, and is never made to wait."""
GUILT = {"crash": 0.5, "hang": 0.5, "kill": 0.25}
"""Of a request that a worker ended in. At 1 it has failed: after it was run with others, then alone; a worker that was
killed says less, for it may have been the system, short of memory, or a person."""


@dataclass(slots=True)
class _Group:
    """Requests that may share a run, the oldest first. An ordered dict, so that one that gives up leaves at once."""

    waiting: OrderedDict[Pending, None] = field(default_factory=OrderedDict)
    rows: int = 0


def joinable(inputs: Arrays, parameters: Mapping[str, Any], ragged: Mapping[str, int] | None = None) -> Hashable:
    """Equal for requests that may share a run. Strings of any length are one dtype; of an axis in ``ragged``, by input,
    only the bucket counts.
    """
    if len(inputs) == 1 and not parameters and ragged is None:  # as most are: the same in a third of the time
        ((name, array),) = inputs.items()
        if array.dtype.kind not in "OUS":
            return name, array.dtype, array.shape[1:]
    tensors = tuple(
        (n, "str" if a.dtype.kind in "OUS" else a.dtype.str, _shape(a.shape, ragged.get(n) if ragged else None))
        for n, a in sorted(inputs.items())
    )
    # the type is part of it: True == 1 == 1.0 in Python, and a model may tell them apart
    return tensors, tuple((k, type(v).__name__, repr(v)) for k, v in sorted(parameters.items()))


def _shape(shape: tuple[int, ...], axis: int | None) -> tuple[Hashable, ...]:
    return shape[1:] if axis is None else (*shape[1:axis], ("up to", bucket(shape[axis])), *shape[axis + 1 :])


class Batcher:
    """The queue of one loaded version, and the Host of its workers: a Crew, or threads around a Runner.

    ``name`` goes into error sentences. ``watch`` is told of each good run, ``died`` the kind of each worker's end,
    ``padded`` the positions of sequences in a run, and those that were added.
    """

    def __init__(
        self,
        runner: Runner | Crew,
        config: ServeConfig,
        *,
        name: str,
        watch: Callable[[Seen], None] | None = None,
        padded: Callable[[int, int], None] | None = None,
        died: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.name = config, name
        self.pace = Pace()
        self.waiting = self.waiting_rows = 0
        self.crew: Crew = runner if isinstance(runner, Crew) else Threads(runner, config.workers)
        self._batched = runner.signature.batched
        self._joins = self._batched and not self.crew.mixes
        self._ragged = self.crew.ragged
        self._watch, self._died, self._padded = watch, died, padded
        self._loop = asyncio.get_running_loop()
        self._groups: OrderedDict[Hashable, _Group] = OrderedDict()
        self._running: set[Batch] = set()
        self._deadlines = Deadlines(self._loop, self._expire)
        self._suspects = Suspects()
        self._refill = Refill()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._company = 0.0
        self._active = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self.crew.begin(self)

    # ── the queue ────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, inputs: Arrays, parameters: Mapping[str, Any], deadline: float | None) -> Pending:
        """Queue a request; its ``answer`` fails with TooLate at the deadline. Whoever stops waiting calls ``drop``."""
        now = time.monotonic()
        rows = len(next(iter(inputs.values()))) if self._batched and inputs else 1
        length = self._ragged.length(inputs) if self._ragged is not None else 0
        axes = self._ragged.inputs if self._ragged is not None and length else None
        key = joinable(inputs, parameters, axes) if self._joins else object()
        pending = Pending(inputs, rows, key, now, deadline, self._loop.create_future(), length=length)
        if self._suspects and (why := self._suspects.known(inputs, now)):
            pending.answer.set_exception(self._failed(why))
            return pending
        if deadline is not None:
            self._deadlines.add(pending, deadline - now)
        met = bool(self.waiting or self._running)
        self._company += 0.2 * (met - self._company)
        self._enter(pending)
        self._refill.came(now)
        self._idle.clear()
        self.wake()
        return pending

    def refused(self) -> None:
        """A request was turned away, as too many are here: a run that waits for company begins."""
        if self._refill.refused():
            self.wake()

    def drop(self, pending: Pending) -> None:
        """Nobody waits for this one any more: it leaves the queue, or its answer is thrown away."""
        self._deadlines.discard(pending)
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

    def expected(self) -> float:
        """Seconds until a request that came now would be answered, by the measured pace; 0 where it would run now."""
        if not self.waiting and self.crew.free:
            return 0.0
        full, now = self.pace.run(self.config.max_batch), time.monotonic()
        left = min((self.pace.run(sum(b.rows())) - now + b.started for b in self._running), default=0.0)
        return max(left, 0.0) + self.wait() + full

    def longest(self) -> float:
        """Seconds for which the oldest present run has been running: a hung engine shows here."""
        return time.monotonic() - min(b.started for b in self._running) if self._running else 0.0

    def problem(self) -> str:
        """Why nothing can run just now; empty where it can."""
        return self.crew.trouble or ("" if self.crew.alive else f"{self.name} has no worker yet; one is being started")

    async def close(self) -> None:
        """Wait until everything that was submitted has its answer, then let the workers go."""
        await self._idle.wait()
        self.crew.end()

    def _enter(self, pending: Pending) -> None:
        group = self._groups.get(pending.key)
        if group is None:
            group = self._groups[pending.key] = _Group()
        group.waiting[pending] = None
        pending.stage = stages.start("queue")
        group.rows += pending.rows
        self.waiting += 1
        self.waiting_rows += pending.rows

    def _left(self, pending: Pending, group: _Group) -> None:
        stages.end(pending.stage)
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

    def wake(self) -> None:
        """Dispatch in the next turn of the loop, so that requests that came in this one can share a run."""
        if not self._scheduled and self.crew.free:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._groups and self.crew.free:
            now = time.monotonic()
            key = self._next(now)
            if key is None:
                break
            if requests := self._take(key, now):
                self._start(self._batch(requests, now))
        self._rest()

    def _batch(self, requests: list[Pending], now: float) -> Batch:
        lengths = {p.length for p in requests}
        batch = Batch(requests, now, self._ragged if len(lengths) > 1 else None)
        if self._ragged is not None and self._padded is not None:
            content = sum(p.rows * p.length for p in requests)
            self._padded(content, sum(p.rows for p in requests) * max(lengths) - content)
        return batch

    def _start(self, batch: Batch) -> None:
        self._running.add(batch)
        self._active = batch.started
        try:
            self.crew.start(batch)
        except ModelkeepError as error:  # no worker can be given this
            self._running.discard(batch)
            if len(batch.requests) == 1:
                batch.requests[0].answer.set_exception(error)
            else:
                self._apart(batch.requests)

    def _next(self, now: float) -> Hashable | None:
        """The group to run now, or None where waiting is likely to bring company."""
        first = next(iter(self._groups))
        if not self._joins:
            return first
        due = self._refill.due(now, self.waiting) if self._company > ALONE else now
        if due > now and all(group.rows < self.config.max_batch for group in self._groups.values()):
            self._timer = self._loop.call_later(due - now, self._dispatch)
            return None
        window = self.config.max_wait
        busy = self._company > BUSY and (self._running or now - self._active < window)
        if not (window and busy):
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

    # ── what became of a batch ───────────────────────────────────────────────────────────────────────────────────

    def finished(self, batch: Batch, parts: Sequence[Part], seconds: float) -> None:
        """See Host: everybody gets their own rows."""
        self._running.discard(batch)
        self._active = time.monotonic()
        self.pace.observe(sum(p.rows for p in batch.requests), self._active - batch.started)
        self._refill.answered(self._active, len(batch.requests) + self.waiting, self.pace.run(0))
        with stages.stage("split"):
            for part in parts:
                self._split(batch, part, seconds)
        if self._groups:
            self._dispatch()
        self._rest()

    def _split(self, batch: Batch, part: Part, seconds: float) -> None:
        if part.seen is not None and self._watch is not None:
            self._watch(part.seen)
        at = 0
        for pending in batch.requests[part.start : part.stop]:
            outputs = part.outputs
            if part.stop - part.start > 1:
                outputs = {name: array[at : at + pending.rows] for name, array in outputs.items()}
                at += pending.rows
            error: Exception | None = part.error
            if error is None and batch.padding is not None:
                try:
                    outputs = batch.padding.cut(outputs, pending.length, batch.length)
                except ModelkeepError as odd:
                    error = self._failed(str(odd))
            self._answer(pending, error or Answer(outputs, batch.started - pending.queued, seconds))

    def lost(self, batch: Batch | None, kind: str, why: str) -> None:
        """See Host: whoever was in this run is tried once more, alone; who then ends a worker again has failed."""
        if self._died is not None:
            self._died(kind)
        if batch is None:
            return
        self._running.discard(batch)
        waiting = [p for p in batch.requests if not p.answer.done()]
        for pending in waiting:
            pending.guilt += GUILT[kind]
            if pending.guilt >= 1:
                self._suspects.convict(pending.inputs, why, time.monotonic())
                self._answer(pending, self._failed(why))
        self._apart([p for p in waiting if not p.answer.done()])
        self.wake()
        self._rest()

    def _apart(self, requests: Sequence[Pending]) -> None:
        """Each is to run alone, and before whatever else waits."""
        for pending in reversed(requests):
            pending.key = object()
            self._enter(pending)
            self._groups.move_to_end(pending.key, last=False)

    def _answer(self, pending: Pending, got: Answer | Exception) -> None:
        self._deadlines.discard(pending)
        if pending.answer.done():
            return
        if isinstance(got, Exception):
            pending.answer.set_exception(got)
        else:
            pending.answer.set_result(got)

    def _failed(self, why: str) -> ModelkeepError:
        return ModelkeepError(f"{self.name} failed on this request: {why}")
