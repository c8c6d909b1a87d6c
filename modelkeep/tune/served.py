"""The process that serves one model and puts load on it: the other end of apart.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import queue
import random
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep import extras, stages
from modelkeep.errors import ModelkeepError, first_line
from modelkeep.model import compare, engines
from modelkeep.model.tally import TOLERANCES
from modelkeep.serve.plane.plane import SWITCH, Plane
from modelkeep.tune import claims, load, meters
from modelkeep.tune.bench import NAME, Bench, own_threads
from modelkeep.tune.gpu import GpuMeter
from modelkeep.tune.load import Measured
from modelkeep.tune.meters import Meter, Usage
from modelkeep.types import Model, Reply, Request, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

    Answer = Mapping[str, Array]

ALONE_SECONDS = 5.0
"""Requests are answered alone for so long at most, but two of them in any case; the load repeats those that were."""
SAMPLE = 64
"""Answers of one load that are compared with the answers alone, taken from all of them by chance (reservoir)."""
SAMPLE_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Load:
    """What to put on: a closed loop of ``concurrency`` requests, or ``rate`` requests a second at random times.

    ``rows`` go into each request. A closed loop goes on after ``seconds`` until ``least`` were answered, for ``most``
    seconds at most. Where a ``promise`` is given, the load ends as soon as its p99 cannot be within it any more.
    """

    seconds: float
    concurrency: int = 1
    rate: float | None = None
    rows: int = 1
    least: int = 0
    most: float = 0.0
    seed: int = 0
    promise: float | None = None
    stage: str = "load"


@dataclass(frozen=True)
class Opened:
    """``seconds`` to load and warm up; bytes resident before that (the engine's library is there) and after."""

    seconds: float
    memory_before: int
    memory_after: int
    alone: list[dict[str, Any]]


@dataclass(frozen=True)
class Round:
    """What one load found; of ``checked`` sampled answers, ``fault`` says how the first bad one differs."""

    measured: Measured
    usage: Usage
    gpu: dict[str, Any] | None
    gpu_problem: str
    checked: int
    max_abs: float
    fault: str


class Sample:
    """So many of all replies, each with the same chance (Vitter's algorithm R), by the number of the request."""

    def __init__(self, most: int, seed: int) -> None:
        self.kept: list[tuple[int, dict[str, Any]]] = []
        self._most, self._seen, self._random = most, 0, random.Random(seed)

    def __call__(self, number: int, reply: Reply) -> None:
        self._seen += 1
        place = len(self.kept) if len(self.kept) < self._most else int(self._random.random() * self._seen)
        if place < self._most:
            # a copy: an answer is a view of its whole batch
            self.kept[place : place + 1] = [(number, {name: np.array(a) for name, a in reply.outputs.items()})]


class Served:
    """One model in this process. ``open`` comes first."""

    bench: Bench
    plane: Plane
    rows: Sequence[Arrays]
    alone: list[dict[str, Any]]

    async def open(self, model: Model, config: ServeConfig, rows: Sequence[Arrays]) -> Opened:
        """Load and warm up; then the answers that each request gets while there is no other."""
        engines.check(model, config)
        before = await asyncio.to_thread(_memory_before, config)
        began = time.monotonic()
        self.bench = Bench(model, config)
        self.plane = await self.bench.open()
        seconds = time.monotonic() - began
        gc.collect()
        after = meters.memory()
        self.alone = await self._answer_alone(rows)
        self.rows = rows[: len(self.alone)]
        return Opened(seconds, before, after, self.alone)

    async def _answer_alone(self, rows: Sequence[Arrays]) -> list[dict[str, Any]]:
        end, found = time.monotonic() + ALONE_SECONDS, list[dict[str, Any]]()
        with own_threads(self.bench.config):
            for number, row in enumerate(rows):
                if number >= 2 and time.monotonic() > end:
                    break
                reply = await self.plane.infer(Request(f"alone-{number}", NAME, row))
                found.append({name: np.array(a) for name, a in reply.outputs.items()})
        return found

    async def load(self, load_: Load) -> Round:
        """Put it on, with the meters beside it; the answers are compared afterwards."""
        sent = [[(first + i) % len(self.rows) for i in range(load_.rows)] for first in self._firsts(load_.rows)]
        requests = [_join([self.rows[i] for i in numbers]) for numbers in sent]
        answer = sum(a.nbytes for a in self.alone[0].values()) * load_.rows
        sample = Sample(max(1, min(SAMPLE, SAMPLE_BYTES // max(answer, 1))), load_.seed)
        meter, gpu = Meter(), GpuMeter(self.bench.config.device, meters.family)
        gc.collect()
        gpu.start()
        meter.start()
        with own_threads(self.bench.config):
            measured = await self._put_on(load_, requests, sample)
        usage, seen = meter.stop(), gpu.stop()
        want = [_join([self.alone[i] for i in numbers]) for numbers in sent]
        largest, fault = self._differ([(want[number % len(want)], got) for number, got in sample.kept])
        return Round(measured, usage, seen, gpu.problem, len(sample.kept), largest, fault)

    def _differ(self, pairs: Sequence[tuple[Arrays, Arrays]]) -> tuple[float, str]:
        """By how much answers under load differ from those alone, and how the first does that must not."""
        if not pairs:
            return 0.0, ""
        allowed = TOLERANCES.get(self.bench.config.precision or "float32", TOLERANCES["float32"])
        report = compare.answers(pairs, atol=allowed.atol, rtol=allowed.rtol)
        return report.numbers["max_abs"] or 0.0, "" if report.ok else report.why

    async def _put_on(self, load_: Load, requests: Sequence[Arrays], sample: Sample) -> Measured:
        handle = stages.start(load_.stage)
        try:
            if load_.rate is None:
                return await load.closed(
                    self.plane,
                    NAME,
                    requests,
                    concurrency=load_.concurrency,
                    seconds=load_.seconds,
                    least=load_.least,
                    most=load_.most,
                    seen=sample,
                )
            return await load.poisson(
                self.plane,
                NAME,
                requests,
                rate=load_.rate,
                seconds=load_.seconds,
                seed=load_.seed,
                seen=sample,
                hopeless=_hopeless(load_),
            )
        finally:
            stages.end(handle)

    def _firsts(self, rows: int) -> list[int]:
        """Where each request of several rows begins: together about as many rows as there are."""
        return list(range(0, max(len(self.rows), 2 * rows), rows))


def _memory_before(config: ServeConfig) -> int:
    """Bytes resident with the engine's library in each process that will hold the model, and without the model."""
    if config.in_process or sys.platform == "win32":
        extras.load(engines.ENGINES[config.engine].target)
        gc.collect()
        return meters.memory()
    from modelkeep.serve.workers.process import Process

    empty = Process(config.engine)
    try:
        empty.prepare()
        return meters.memory() + (config.workers - 1) * meters.memory(empty.pid)
    finally:
        empty.close()


def _hopeless(load_: Load) -> Callable[[Measured], bool] | None:
    """Whether too many were late already for the whole to keep the promise; looks at each answer once."""
    if load_.promise is None or load_.rate is None:
        return None
    promise, looked, over = load_.promise, 0, 0
    allowed = max(claims.may_miss(round(load_.rate * load_.seconds), 0.99), 1)

    def hopeless(found: Measured) -> bool:
        nonlocal looked, over
        over += sum(latency > promise for latency in found.latencies[looked:])
        looked = len(found.latencies)
        return over + found.errors > 2 * allowed + 10

    return hopeless


def _join(parts: Sequence[Answer]) -> dict[str, Any]:
    return dict(parts[0]) if len(parts) == 1 else {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}


def main() -> None:
    """Do what the standard input says until it ends; then this process ends, whatever it is doing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    sys.setswitchinterval(SWITCH)  # as the server does
    stages.follow()
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    # select(2) sleeps to the microsecond, where epoll rounds up to the next millisecond: arrivals would come late
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        served = Served()
        while True:
            what, arguments = orders.get()
            pickle.dump(_answer(lambda: runner.run(getattr(served, what)(*arguments))), answers)  # noqa: B023
            answers.flush()


def _answer(do: Callable[[], Any]) -> tuple[str, Any]:
    """("", result), or the error's kind and sentence."""
    try:
        return "", do()
    except ModelkeepError as error:
        return type(error).__name__, str(error)
    except Exception as error:  # noqa: BLE001 - an engine may raise anything; the other end says it in one sentence
        return "ModelkeepError", f"{type(error).__name__}: {first_line(error)[:300]}"


def _listen(orders: queue.SimpleQueue[Any]) -> None:
    """Every order into the queue. At the end of the pipe our parent is gone, or has enough of us."""
    while True:
        try:
            orders.put(pickle.load(sys.stdin.buffer))  # from the process that started us
        except (EOFError, OSError):
            break
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)
