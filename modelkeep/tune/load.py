"""Load on the real serving plane: so many requests in flight, or so many a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.errors import ModelkeepError
from modelkeep.types import Request

if TYPE_CHECKING:
    from modelkeep.serve.plane import Plane
    from modelkeep.types import Array, Arrays


@dataclass
class Measured:
    """Latencies in seconds, in order of arrival; ``seconds`` is how long the load ran.

    ``errors`` is how many requests got no answer, ``trouble`` the reason given to the first of them.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    errors: int = 0
    trouble: str = ""

    def extend(self, other: Measured) -> None:
        """Add another round."""
        self.latencies += other.latencies
        self.seconds += other.seconds
        self.errors += other.errors
        self.trouble = self.trouble or other.trouble

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


async def closed(plane: Plane, model: str, rows: Sequence[Arrays], *, concurrency: int, seconds: float) -> Measured:
    """Keep ``concurrency`` requests in flight for ``seconds``, each sent as soon as the one before it is answered."""
    found = Measured()
    began = time.monotonic()

    async def one_client(first: int) -> None:
        number = first
        while time.monotonic() - began < seconds:
            await _one(plane, Request(f"load-{number}", model, rows[number % len(rows)]), time.monotonic(), found)
            number += concurrency

    await asyncio.gather(*(one_client(first) for first in range(concurrency)))
    found.seconds = time.monotonic() - began
    return found


async def poisson(
    plane: Plane, model: str, rows: Sequence[Arrays], *, rate: float, seconds: float, seed: int = 0
) -> Measured:
    """Send ``rate`` requests a second at random times, whether or not the others were answered (LoadGen's Server).

    A latency counts from the time at which the request was due, so that a stalled server does not hide its own
    queue (coordinated omission).
    """
    rng = np.random.default_rng(seed)
    mean = rate * seconds
    enough = round(mean + 6 * mean**0.5 + 10)  # six standard deviations: the last draw falls after ``seconds``
    due: Array = np.cumsum(rng.exponential(1 / rate, enough))
    due = due[due < seconds]
    found = Measured()
    began = time.monotonic()
    tasks = []
    for number, at in enumerate(due.tolist()):
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        request = Request(f"load-{number}", model, rows[number % len(rows)])
        tasks.append(asyncio.ensure_future(_one(plane, request, began + at, found)))
    await asyncio.gather(*tasks)
    found.seconds = time.monotonic() - began
    return found


async def _one(plane: Plane, request: Request, since: float, found: Measured) -> None:
    try:
        await plane.infer(request)
    except ModelkeepError as error:
        found.errors += 1
        found.trouble = found.trouble or str(error)
        await asyncio.sleep(0)  # a plane that refuses at once must not starve the loop
    else:
        found.latencies.append(time.monotonic() - since)
