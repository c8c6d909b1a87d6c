"""Load on the real serving plane: so many requests in flight, or so many a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.errors import ModelkeepError
from modelkeep.types import Reply, Request

if TYPE_CHECKING:
    from modelkeep.serve.plane.plane import Plane
    from modelkeep.types import Array, Arrays

Seen = Callable[[int, Reply], None]
"""Told the number of a request and its reply, once its latency has been taken."""


@dataclass
class Measured:
    """Latencies in seconds, in order of arrival; ``seconds`` is how long the load ran.

    ``errors`` is how many requests got no answer, ``trouble`` the reason given to the first of them. ``late`` is how
    long after it was due each request was sent, where there was a time at which it was due.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    errors: int = 0
    trouble: str = ""
    late: list[float] = field(default_factory=list)

    def extend(self, other: Measured) -> None:
        """Add another round."""
        self.latencies += other.latencies
        self.seconds += other.seconds
        self.errors += other.errors
        self.trouble = self.trouble or other.trouble
        self.late += other.late

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """Of the latencies; infinite where nothing was answered."""
        return float(np.quantile(self.latencies, share)) if self.latencies else float("inf")

    def numbers(self) -> dict[str, float]:
        """As they go into a report."""
        return {
            "throughput": self.throughput,
            "p50": self.percentile(0.5),
            "p99": self.percentile(0.99),
            "n": len(self.latencies),
        }


async def closed(
    plane: Plane,
    model: str,
    rows: Sequence[Arrays],
    *,
    concurrency: int,
    seconds: float,
    least: int = 0,
    most: float = 0.0,
    seen: Seen | None = None,
) -> Measured:
    """Keep ``concurrency`` requests in flight for ``seconds``, each sent as soon as the one before it is answered.

    It goes on until ``least`` were answered, but for ``most`` seconds at most.
    """
    found = Measured()
    began = time.monotonic()

    async def one_client(first: int) -> None:
        number = first
        while (now := time.monotonic() - began) < seconds or (len(found.latencies) < least and now < most):
            await _one(plane, _request(number, model, rows), time.monotonic(), found, seen)
            number += concurrency

    await asyncio.gather(*(one_client(first) for first in range(concurrency)))
    found.seconds = time.monotonic() - began
    return found


async def poisson(
    plane: Plane,
    model: str,
    rows: Sequence[Arrays],
    *,
    rate: float,
    seconds: float,
    seed: int = 0,
    seen: Seen | None = None,
    hopeless: Callable[[Measured], bool] | None = None,
) -> Measured:
    """Send ``rate`` requests a second at random times, whether or not the others were answered (LoadGen's Server).

    A latency counts from the time at which the request was due, so that a stalled server does not hide its own
    queue (coordinated omission). Where ``hopeless`` says so, it ends early, and the requests that still wait are
    taken back and counted as errors.
    """
    found = Measured()
    began = time.monotonic()
    tasks = []
    given_up = False
    for number, at in enumerate(arrivals(rate, seconds, seed).tolist()):
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        if given_up := hopeless is not None and hopeless(found):
            break
        found.late.append(time.monotonic() - began - at)
        request = _request(number, model, rows)
        tasks.append(asyncio.ensure_future(_one(plane, request, began + at, found, seen)))
    if given_up:
        found.errors += sum(task.cancel() for task in tasks)
        found.trouble = found.trouble or "taken back: the queue had grown too long"
    await asyncio.gather(*tasks, return_exceptions=given_up)
    found.seconds = time.monotonic() - began
    return found


def arrivals(rate: float, seconds: float, seed: int) -> Array:
    """The times, in seconds from the start, of a Poisson process of ``rate`` a second."""
    rng = np.random.default_rng(seed)
    mean = rate * seconds
    enough = round(mean + 6 * mean**0.5 + 10)  # six standard deviations: the last draw falls after ``seconds``
    due: Array = np.cumsum(rng.exponential(1 / rate, enough))
    return due[due < seconds]


def _request(number: int, model: str, rows: Sequence[Arrays]) -> Request:
    return Request(f"load-{number}", model, rows[number % len(rows)])


async def _one(plane: Plane, request: Request, since: float, found: Measured, seen: Seen | None) -> None:
    try:
        reply = await plane.infer(request)
    except ModelkeepError as error:
        found.errors += 1
        found.trouble = found.trouble or str(error)
        await asyncio.sleep(0)  # a plane that refuses at once must not starve the loop
    else:
        found.latencies.append(time.monotonic() - since)
        if seen is not None:
            seen(int(request.id.removeprefix("load-")), reply)
