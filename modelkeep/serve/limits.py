"""How much may wait, and whether a deadline can still be met. What cannot be answered is refused at once, counted."""

from __future__ import annotations

from collections.abc import Callable

from modelkeep.errors import BadInput, Overloaded, TooLate

FORGET = 0.95
"""Weight of what was learned before, at each new run."""
MARGIN = 0.7
"""Share of a promised p99 that an answer may be expected to take: what is expected is a mean."""


class Pace:
    """What a run costs, as a + b × rows seconds, learned from runs with forgetting (weighted least squares).

    Optimistic where it does not know: a cost per row is only believed once batches of different sizes have run.
    """

    def __init__(self) -> None:
        self._n = self._x = self._xx = self._y = self._xy = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """A run of so many rows took so long."""
        self._n = FORGET * self._n + 1
        self._x = FORGET * self._x + rows
        self._xx = FORGET * self._xx + rows * rows
        self._y = FORGET * self._y + seconds
        self._xy = FORGET * self._xy + rows * seconds

    def run(self, rows: int) -> float:
        """Seconds that one run of so many rows is expected to take; 0 before anything was observed."""
        if not self._n:
            return 0.0
        x, y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - x * x
        slope = max(0.0, (self._xy / self._n - x * y) / spread) if spread > 1e-6 else 0.0
        start = y - slope * x
        if start < 0:
            start, slope = 0.0, y / x
        return start + slope * rows

    def wait(self, rows: int, requests: int, max_batch: int, workers: int) -> float:
        """Seconds until so many rows, waiting in so many requests, have run in batches on so many workers."""
        if not requests:
            return 0.0
        each = max(rows / requests, 1.0)
        batch = max(int(max_batch // each), 1) * each
        return (rows / batch) * self.run(round(batch)) / workers


class Limits:
    """A bound on requests and on bytes that are in the server at a time, over all models.

    Counted from admission to answer. ``rejected`` is told the reason of every refusal.
    """

    def __init__(self, max_requests: int, max_bytes: int, rejected: Callable[[str], None]) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.requests = self.bytes = 0
        self._rejected = rejected

    def enter(self, size: int, *, now: float, deadline: float | None, wait: float) -> None:
        """Admit a request of ``size`` bytes that would wait ``wait`` seconds; ``leave`` must follow.

        Raises TooLate where the deadline has passed, Overloaded where a bound is reached or the deadline is hopeless.
        """
        if deadline is not None and deadline <= now:
            self._rejected("deadline_passed")
            raise TooLate("the deadline had passed before the request could be queued; allow more time")
        if self.requests >= self.max_requests:
            self._rejected("queue_full")
            raise Overloaded(
                f"{self.requests} requests are in the server already, the most it takes (max_queue_requests); "
                "send it again later",
                retry_after=wait or 1.0,
            )
        self.hold(size, wait=wait)
        if deadline is not None and now + wait >= deadline:
            self.release(size)
            self._rejected("deadline_hopeless")
            raise Overloaded(
                f"the queue takes {wait:.3g} s at the present pace and the request allows {deadline - now:.3g} s; "
                "send it again later or allow more time",
                retry_after=wait,
            )
        self.requests += 1

    def promised(self, promise: float, *, expected: float, wait: float) -> None:
        """Raises Overloaded where an answer is expected too late for a promise that 99 in 100 are given within."""
        if expected > MARGIN * promise:
            self._rejected("promise")
            raise Overloaded(
                f"an answer would take {expected:.3g} s at the present pace, and {promise:.3g} s are promised (p99); "
                "send it again later",
                retry_after=wait or expected,
            )

    def leave(self, size: int) -> None:
        """A request that entered has its answer."""
        self.requests -= 1
        self.release(size)

    def hold(self, size: int, wait: float = 0.0) -> None:
        """Count bytes, of a body that is being read, say. Raises Overloaded, or BadInput for what can never fit."""
        if size > self.max_bytes:
            raise BadInput(
                f"the request holds {size} bytes and the server takes {self.max_bytes} in all "
                "(max_queue_bytes); split it"
            )
        if self.bytes + size > self.max_bytes:
            self._rejected("queue_bytes")
            raise Overloaded(
                f"{self.bytes} bytes of requests are in the server already, of {self.max_bytes} at most "
                "(max_queue_bytes); send it again later",
                retry_after=wait or 1.0,
            )
        self.bytes += size

    def release(self, size: int) -> None:
        """Bytes that were held are free again."""
        self.bytes -= size

    def spare(self, size: int) -> bool:
        """Whether half of both bounds would stay free: what a shadow copy needs, so that it crowds nobody out."""
        return 2 * (self.requests + 1) <= self.max_requests and 2 * (self.bytes + size) <= self.max_bytes
