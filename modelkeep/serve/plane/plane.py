"""The path of one request: route, check, admit, batch, answer, count. Every protocol calls ``infer``."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from modelkeep.data.sampler import Sampler, mark_of
from modelkeep.data.traffic import Exchange
from modelkeep.errors import BadInput, ModelkeepError, NotFound, NotReady, Overloaded
from modelkeep.metrics import Metrics
from modelkeep.serve.plane.asking import Answered, Asking, outcome_of
from modelkeep.serve.plane.cache import Cache, question
from modelkeep.serve.plane.limits import Limits
from modelkeep.serve.plane.loaded import Loaded
from modelkeep.serve.plane.refusals import Refusals
from modelkeep.serve.plane.router import STICKY, Router
from modelkeep.settings import Settings
from modelkeep.types import Reply, Request

if TYPE_CHECKING:
    from modelkeep.serve.plane.batcher import Batcher
    from modelkeep.serve.workers.crew import Answer, Pending
    from modelkeep.types import Arrays

SWITCH = 0.0005
"""Seconds (sys.setswitchinterval) that a thread beside the loop, a scrape or traffic being kept, may hold it up."""
CAPTURED = frozenset({"ok", "error", "overloaded", "late"})
"""Outcomes that say something about the service; a client's own mistake or leaving does not."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a request: ``at`` is its end in epoch seconds; ``timings`` are seconds by stage, none where it
    has no answer; ``why`` is the error's sentence.
    """

    request: Request
    at: float
    version: int
    track: str
    outcome: str
    seconds: float
    timings: Mapping[str, float]
    why: str


class Traffic(Protocol):
    """What the plane needs of data.traffic.TrafficLog."""

    rate: float
    """Requests a second of each track that it takes at most."""

    bare: int
    """Exchanges that are kept without their inputs."""

    @property
    def dropped(self) -> int:
        """Exchanges that could not be kept."""

    def offer(self, exchange: Exchange) -> None:
        """Keep what became of a request. Never blocks, never raises."""


class Samples(Protocol):
    """What the plane needs of data.sample.Sample."""

    def wants(self, mark: int) -> bool:
        """Whether the request of this mark (sampler.py) belongs to its share."""

    def offer(self, exchange: Exchange) -> None:
        """Never blocks, never raises."""


class Gathers(Protocol):
    """What the plane needs of a Collector (observers/collect.py)."""

    rate: float
    """Requests a second of each track that it takes at most."""

    def offer(self, target: Loaded, track: str, request: Request, outputs: Arrays) -> None:
        """Never blocks, never raises."""


GATHERED, KEPT = 1, 2
"""Who has a request that was chosen, added up: the collector, the log of traffic."""


class Plane:
    """The models of one server. All methods belong to the event loop's thread."""

    def __init__(self, settings: Settings, *, metrics: Metrics | None = None, traffic: Traffic | None = None) -> None:
        self.settings, self.traffic = settings, traffic
        self.metrics = metrics or Metrics()
        self.limits = Limits(settings.max_queue_requests, settings.max_queue_bytes, self.metrics.rejected)
        self.refusals = Refusals()
        self.cache = Cache(settings.cache_bytes)
        self.collector: Gathers | None = None
        self.sample: Samples | None = None
        self.stopping = False
        self.shadows_dropped = 0
        self.observers: list[Callable[[Told], None]] = []
        """Told of every request that reached a version, shadows left out; none may block or raise."""
        self.sinks: dict[str, Callable[[], int]] = {}
        """What watches the traffic beside it, by name, and how much each has dropped."""
        self._routers: dict[str, Router] = {}
        live: defaultdict[str, Sampler] = defaultdict(self._sampler)
        self.samplers = {"live": live, "shadow": live, "canary": defaultdict(self._sampler)}
        """By track and model; live and shadow share them, so that both answers to a request are kept or left out."""
        self._passed = 0
        self._watch()

    def adjust(self, settings: Settings) -> None:
        """From now on these bounds hold; what was accepted under the old ones stays accepted."""
        self.settings = settings
        self.limits.max_requests, self.limits.max_bytes = settings.max_queue_requests, settings.max_queue_bytes
        self.cache.bound(settings.cache_bytes)
        self._passed = self.passed
        for samplers in self.samplers.values():
            samplers.clear()

    # ── what is served ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def names(self) -> list[str]:
        """The models that this server is to answer for, loaded or not."""
        return list(self._routers)

    def expect(self, name: str) -> None:
        """A model that this server is to answer for; not ready until it is swapped in."""
        self._routers.setdefault(name, Router(name))

    def forget(self, name: str) -> None:
        """Answer for it no more. What was accepted is still answered. Raises NotFound."""
        self.router(name)
        del self._routers[name]
        self.metrics.weights(name, Router(name).shares)
        for samplers in self.samplers.values():
            if (sampler := samplers.pop(name, None)) is not None:
                self._passed += sampler.passed(0)

    def swap(self, router: Router) -> None:
        """From now on requests for ``router.name`` are answered so. What the old one had accepted is still answered."""
        self._routers[router.name] = router
        self.metrics.weights(router.name, router.shares)
        for track, one in router.tracks.items():  # counters that are there before their first event: see Metrics
            self.metrics.track(router.name, one.number, track)

    def router(self, name: str) -> Router:
        """What is in force. Raises NotFound with the names that there are."""
        try:
            return self._routers[name]
        except KeyError:
            there = ", ".join(self._routers) or "no model"
            raise NotFound(f"no model is called '{name}' here; this server answers for {there}") from None

    def asked_for(self, name: str) -> Router:
        """The same, for a question: one for a model that is not here is counted."""
        if name not in self._routers:
            self.metrics.rejected("not_found")
        return self.router(name)

    def find(self, name: str, version: int | None = None) -> Loaded:
        """The version that a person means: the pinned one, else the live one. Raises NotFound, NotReady."""
        return self.router(name).pick("", version)[0] if version is not None else self._live(name)

    def problem(self, name: str | None = None, version: int | None = None) -> str:
        """Why this server, model or version is not ready; empty where it is.

        Ready means loaded and making progress: a run that outlasts ``request_timeout`` is a hung engine.
        Raises NotFound for a name that is not served.
        """
        if self.stopping:
            return "the server is stopping"
        for one in self.names if name is None else [name]:
            try:
                loaded = self.find(one, version)
            except NotReady as error:
                return str(error)
            if why := loaded.batcher.problem():
                return why
            if (seconds := loaded.batcher.longest()) > self.settings.request_timeout:
                return f"{loaded.ref} has been busy with one run for {seconds:.0f} s"
        return "" if self._routers else "no model is loaded yet"

    def ready(self, name: str | None = None) -> bool:
        """Whether requests for the model, or for all, would be answered now."""
        return not self.problem(name)

    async def close(self) -> None:
        """Answer what was accepted, then close every version."""
        versions = [v for router in self._routers.values() for v in router.loaded.values()]
        self._routers = {name: Router(name) for name in self._routers}
        await asyncio.gather(*(v.close() for v in versions))

    def _live(self, name: str) -> Loaded:
        router = self.router(name)
        return router.live or router.pick("")[0]

    # ── the path ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def infer(self, request: Request) -> Reply:
        """Answer a request. Cancelling the call takes it out of the queue.

        Raises NotFound, NotReady, BadInput, Overloaded, TooLate, or ModelkeepError where the model itself failed.
        """
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        asking = self.ask(request, partial(_answered, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            asking.cancel()
            raise
        finally:
            del answer, asking  # an error that they know knows this frame, and it the request: a cycle

    def ask(self, request: Request, answered: Answered) -> Asking:
        """The same without a task: ``answered`` is called once, perhaps before this returns, with the Reply or with the
        error that ``infer`` would raise. Raises NotFound, and NotReady where no version is loaded.
        """
        router = self.asked_for(request.model)
        parameters, key = request.parameters, ""
        if STICKY in parameters:
            parameters = dict(parameters)
            key = str(parameters.pop(STICKY))
        try:
            target, track = router.pick(key, request.version)
        except (NotReady, NotFound) as error:
            self.metrics.rejected("not_ready" if isinstance(error, NotReady) else "not_found")
            raise
        asking = Asking(self, request, router, target, track, answered)
        asking.begin(parameters)
        return asking

    def cached(self, request: Request, target: Loaded, parameters: Mapping[str, Any]) -> tuple[bytes, Reply | None]:
        """The answer that was given to this before, if it is still there; and by what to keep one."""
        began = time.monotonic()
        asked = question(request, target, parameters)
        outputs, seconds = self.cache.get(asked), time.monotonic() - began
        if outputs is None:
            target.series.missed(seconds)
            return asked, None
        target.series.hit(seconds)
        return asked, Reply(request.id, request.model, target.number, outputs, {"cache": seconds})

    def admit(self, request: Request, target: Loaded, size: int) -> None:
        """Take a request of ``size`` bytes in; ``limits.leave`` must follow. Raises NotReady, Overloaded, TooLate."""
        batcher = target.batcher
        if why := batcher.crew.trouble:
            self.metrics.rejected("not_ready")
            raise NotReady(why)
        wait = batcher.wait()
        if (promise := target.config.p99) is not None:
            try:
                self.limits.promised(promise, expected=batcher.expected(), wait=wait)
            except Overloaded:
                batcher.refused()  # unlike one that is refused for a deadline of its own, it says that others will be
                raise
        self.limits.enter(size, now=time.monotonic(), deadline=request.deadline, wait=wait)

    def shadow(self, asking: Asking, parameters: Mapping[str, Any], size: int) -> None:
        """A copy for the shadow version, if there is one, whose answer nobody waits for."""
        shadow = asking.router.shadow
        if shadow is not None and shadow is not asking.target:
            self._shadow(asking, shadow, parameters, size)

    @property
    def passed(self) -> int:
        """Requests that the collector was not offered, for there were more than it wants."""
        now = (sampler for track in ("live", "canary") for sampler in self.samplers[track].values())
        return self._passed + sum(sampler.passed(0) for sampler in now)

    def record(self, asking: Asking, outcome: str, reply: Reply | None, why: str) -> None:
        """A request came to its end."""
        request, target, track = asking.request, asking.target, asking.track
        seconds = time.monotonic() - asking.began
        self._record(request, target, track, outcome, seconds, asking.kept, reply.outputs if reply else None)
        if self.observers:
            timings = reply.timings if reply else {}
            told = Told(request, time.time(), target.number, track, outcome, seconds, timings, why)
            for observer in self.observers:
                observer(told)

    def _shadow(self, asking: Asking, shadow: Loaded, parameters: Mapping[str, Any], size: int) -> None:
        """A copy, whose answer nobody waits for. Left out where it would take room that requests may need."""
        request, kept = asking.request, asking.kept
        try:
            shadow.check(request.inputs)
        except BadInput:
            return
        if not self.limits.spare(size):
            self.shadows_dropped += 1
            return
        self.limits.enter(size, now=time.monotonic(), deadline=None, wait=0.0)
        try:
            pending = shadow.batcher.submit(request.inputs, parameters, request.deadline)
        except BaseException:  # see Asking.begin
            self.limits.leave(size)
            raise

        def done(future: asyncio.Future[Answer]) -> None:
            self.limits.leave(size)
            self._record_shadow(request, shadow, kept, pending, future)

        pending.answer.add_done_callback(done)

    def _record_shadow(
        self, request: Request, shadow: Loaded, kept: int, pending: Pending, future: asyncio.Future[Answer]
    ) -> None:
        seconds = time.monotonic() - pending.queued
        if future.cancelled():
            return
        error = future.exception()
        outputs = None if error else future.result().outputs
        outcome = outcome_of(error) if error else "ok"
        self._record(request, shadow, "shadow", outcome, seconds, kept, outputs)

    def _record(
        self,
        request: Request,
        target: Loaded,
        track: str,
        outcome: str,
        seconds: float,
        kept: int,
        outputs: Arrays | None,
    ) -> None:
        target.on(track).record(outcome, seconds)
        version = target.number
        if self.sample is not None and outcome in CAPTURED and self.sample.wants(mark_of(request.id)):
            self.sample.offer(_exchange(request, version, track, outcome, seconds, outputs))
        if not kept:
            return
        if kept & GATHERED and outputs is not None and self.collector is not None:
            self.collector.offer(target, track, request, outputs)
        if kept & KEPT and outcome in CAPTURED and self.traffic is not None:
            self.traffic.offer(_exchange(request, version, track, outcome, seconds, outputs))

    def _sampler(self) -> Sampler:
        return Sampler(*(one.rate if one is not None else 0.0 for one in (self.collector, self.traffic)))

    def _watch(self) -> None:
        """What is read at scrape time."""
        watch = self.metrics.watch
        watch(
            "modelkeep_requests_in_flight",
            "Requests admitted and not answered yet",
            lambda: [({}, float(self.limits.requests))],
        )
        watch(
            "modelkeep_queue_depth",
            "Requests that wait for a worker",
            lambda: self._each(lambda batcher: batcher.waiting),
        )
        watch(
            "modelkeep_workers",
            "Workers that are there, busy or not",
            lambda: self._each(lambda batcher: batcher.crew.alive),
        )
        watch("modelkeep_cache_bytes", "Bytes of answers that are kept", lambda: [({}, float(self.cache.bytes))])
        watch(
            "modelkeep_traffic_dropped_total",
            "Exchanges that could not be written and were dropped",
            lambda: [({}, float(self.traffic.dropped if self.traffic else 0))],
        )
        watch(
            "modelkeep_traffic_without_inputs_total",
            "Exchanges kept without their inputs, which came to more bytes a second than the file is to take",
            lambda: [({}, float(self.traffic.bare if self.traffic else 0))],
        )
        watch(
            "modelkeep_monitor_dropped_total",
            "Requests that what watches the traffic could not take",
            lambda: [({"sink": name}, float(read())) for name, read in self.sinks.items()],
        )
        watch(
            "modelkeep_shadow_dropped_total",
            "Shadow copies left out for want of room",
            lambda: [({}, float(self.shadows_dropped))],
        )

    def _each(self, read: Callable[[Batcher], float]) -> list[tuple[dict[str, str], float]]:
        """A value of every version."""
        return [
            ({"model": v.name, "version": str(v.number)}, float(read(v.batcher)))
            for router in list(self._routers.values())
            for v in router.loaded.values()
        ]


def _answered(answer: asyncio.Future[Reply], got: Reply | ModelkeepError) -> None:
    if answer.done():
        return
    if isinstance(got, ModelkeepError):
        answer.set_exception(got)
    else:
        answer.set_result(got)


def _exchange(
    request: Request, version: int, track: str, outcome: str, seconds: float, outputs: Arrays | None
) -> Exchange:
    return Exchange(
        id=request.id,
        at=time.time(),
        model=request.model,
        version=version,
        track=track,
        outcome=outcome,
        seconds=seconds,
        inputs=request.inputs,
        outputs=outputs,
        parameters=request.parameters,
    )
