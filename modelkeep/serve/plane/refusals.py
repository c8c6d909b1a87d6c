"""How fast clients are told that they are too many. Some ask again at once, whatever Retry-After says, and refusing
them takes the processor that the answers of those who were let in need.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

RATE, BURST, MOST = 500.0, 1.0, 1.0
"""Refusals a second, which take a fortieth of a core or so; the seconds' worth of them that go out at once; and the
seconds that one waits for its turn at most, which is no more than what Retry-After asks for.
"""
SMALL = 16 * 1024
"""Bytes of a question whose refusal may wait: with larger ones, memory would fill, and each took long to come."""


class Refusals:
    """Gives each its turn (a leaky bucket). For the loop's thread only."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._turn = clock, 0.0

    def pause(self, size: int, deadline: float | None = None) -> float:
        """Seconds that the refusal of a question of so many bytes is to wait from now, until its deadline at most."""
        now = self._clock()
        self._turn = min(max(self._turn + 1.0 / RATE, now - BURST), now + MOST)
        if size > SMALL:
            return 0.0
        until = self._turn if deadline is None else min(self._turn, deadline)
        return max(until - now, 0.0)
