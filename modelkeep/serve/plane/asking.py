"""A request on its way from its arrival at the plane to its answer, without a task of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modelkeep.data.packed import size_of
from modelkeep.errors import BadInput, ModelkeepError, NotReady, Overloaded, TooLate, Wrong
from modelkeep.types import Reply

if TYPE_CHECKING:
    from modelkeep.serve.plane.loaded import Loaded
    from modelkeep.serve.plane.plane import Plane
    from modelkeep.serve.plane.router import Router
    from modelkeep.serve.workers.crew import Answer, Pending
    from modelkeep.types import Request

Answered = Callable[["Reply | ModelkeepError"], object]


class Asking:
    """A request on its way from ``Plane.ask`` to its answer."""

    __slots__ = (
        "answered",
        "began",
        "kept",
        "pending",
        "plane",
        "question",
        "request",
        "router",
        "size",
        "target",
        "track",
    )

    def __init__(
        self, plane: Plane, request: Request, router: Router, target: Loaded, track: str, answered: Answered
    ) -> None:
        self.plane, self.request, self.router, self.target, self.track = plane, request, router, target, track
        self.answered: Answered | None = answered
        self.began = time.monotonic()
        sampler = plane.samplers[track][request.model]
        sampler.left -= 1
        self.kept = 0 if sampler.left and self.began < sampler.due else sampler.choose(self.began)
        self.pending: Pending | None = None
        self.question: bytes | None = None
        self.size = 0

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Check, look into the cache, admit, queue."""
        plane, request, target = self.plane, self.request, self.target
        try:
            check(request, target)
            size = size_of(request.inputs)
            if plane.cache.max_bytes:
                self.question, reply = plane.cached(request, target, parameters)
                if reply is not None:
                    plane.shadow(self, parameters, size)
                    self._end("ok", reply)
                    return
            plane.admit(request, target, size)
        except ModelkeepError as error:
            # where it was raised nobody has to know, and those frames know who waits for it: a cycle
            self._refuse(error.with_traceback(None))
            return
        self.size = size
        try:
            self.pending = target.batcher.submit(request.inputs, parameters, request.deadline)
        except BaseException:  # a defect of modelkeep, which must not cost a place in the queue for ever
            plane.limits.leave(size)
            raise
        plane.shadow(self, parameters, size)
        self.pending.answer.add_done_callback(self._done)

    def cancel(self) -> None:
        """Nobody waits any more: it leaves the queue, or its answer is thrown away."""
        if self.answered is None or self.pending is None:
            return
        self.answered = None
        self.pending.answer.remove_done_callback(self._done)
        self.target.batcher.drop(self.pending)
        self.plane.limits.leave(self.size)
        self.plane.record(self, "cancelled", None, "")

    def _done(self, future: asyncio.Future[Answer]) -> None:
        self.plane.limits.leave(self.size)
        error: Any = None if future.cancelled() else future.exception()
        if error is not None or future.cancelled():
            if isinstance(error, TooLate):
                self.plane.metrics.rejected("deadline_passed")
            self._end(outcome_of(error), error or NotReady(f"{self.target.ref} was closed before it answered"))
            return
        answer, request = future.result(), self.request
        self.target.series.took(answer.queue, answer.compute)
        outputs = {name: answer.outputs[name] for name in request.outputs} if request.outputs else answer.outputs
        timings = {"queue": answer.queue, "compute": answer.compute}
        if self.question is not None:
            self.plane.cache.put(self.question, outputs)
        self._end("ok", Reply(request.id, request.model, self.target.number, outputs, timings))

    def _refuse(self, error: ModelkeepError) -> None:
        answered, request = self.answered, self.request
        if isinstance(error, Overloaded) and answered is not None:
            pause = self.plane.refusals.pause(size_of(request.inputs), request.deadline)
            if pause > 0:
                loop = asyncio.get_running_loop()
                self.answered = lambda got: loop.call_later(pause, answered, got)
        self._end(outcome_of(error), error)

    def _end(self, outcome: str, got: Reply | ModelkeepError) -> None:
        answered, self.answered = self.answered, None
        reply, why = (None, str(got)) if isinstance(got, ModelkeepError) else (got, "")
        try:
            self.plane.record(self, outcome, reply, why)
        finally:
            if answered is not None:
                answered(got)


def check(request: Request, target: Loaded) -> None:
    """Raises BadInput for what the version does not take or give."""
    target.check(request.inputs)
    if request.outputs:
        there = [t.name for t in target.signature.outputs]
        for name in request.outputs:
            if name not in there:
                raise BadInput(f"no output is called '{name}'; the model gives {', '.join(there)}")
    if target.batched and request.inputs and not len(next(iter(request.inputs.values()))):
        raise BadInput("the inputs have no rows; send one at least")


def outcome_of(error: BaseException | None) -> str:
    """One of metrics.OUTCOMES."""
    if isinstance(error, Overloaded):
        return "overloaded"
    if isinstance(error, TooLate):
        return "late"
    return "bad_input" if isinstance(error, Wrong) else "error"
