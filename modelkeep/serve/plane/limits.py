"""How much may wait, and whether a deadline can still be met. What cannot be answered is refused at once, counted."""

from __future__ import annotations

from collections.abc import Callable

from modelkeep.errors import BadInput, Overloaded, TooLate

MARGIN = 0.7
"""Share of a promised p99 that an answer may be expected to take: what is expected is a mean."""


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
