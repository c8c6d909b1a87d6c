"""When requests are to be given up: a timer for each that is due soon, and one for all others together.

Most are answered long before, and a timer that is made and cancelled costs ten times what a place in a dict does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelkeep.serve.workers.crew import Pending

SOON, ROUND = 0.5, 0.25
"""Seconds before its deadline that a request must have a timer; those between two looks at the others."""


class Deadlines:
    """``expire`` is called with each request that is not discarded before its deadline. For the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[Pending], None]) -> None:
        self._loop, self._expire = loop, expire
        self._far: dict[Pending, float] = {}
        self._round: asyncio.TimerHandle | None = None

    def add(self, pending: Pending, seconds: float) -> None:
        """It is to be given up after so many seconds."""
        if seconds < SOON:
            pending.timer = self._loop.call_later(seconds, self._expire, pending)
            return
        self._far[pending] = self._loop.time() + seconds
        if self._round is None:
            self._round = self._loop.call_later(ROUND, self._look)

    def discard(self, pending: Pending) -> None:
        """It has its answer, or nobody waits for it."""
        if self._far.pop(pending, None) is None and pending.timer is not None:
            pending.timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        for pending in [p for p, due in self._far.items() if due - now < SOON]:
            pending.timer = self._loop.call_at(self._far.pop(pending), self._expire, pending)
        self._round = self._loop.call_later(ROUND, self._look) if self._far else None
