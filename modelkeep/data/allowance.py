"""How many bytes may be kept, so many a second on average: where more come, of a share of what comes, by chance."""

from __future__ import annotations

import time
from collections.abc import Callable

SAVED = 32.0
"""Seconds whose bytes may be saved up for a rush."""
EVEN = 10.0
"""Seconds in which what is saved is to come back to half of what may be."""
TURN = 1.0


class Allowance:
    """``rate`` bytes a second, of which SAVED seconds' worth may be spent at once, and no bound where it is 0.

    ``chance`` is the share that is kept now. It follows what came in the last second or more, never what is asked for
    itself, so that large and small have the same chance, until all that was saved is spent.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self.chance = 1.0
        self._saved = SAVED * rate
        self._came, self._turned = 0, clock()

    def takes(self, size: int, lot: float, *, room: bool = True) -> bool:
        """Whether so many bytes are kept; ``lot``, from 0 up to 1, is drawn by who asks, and so is none kept where
        they have no ``room``.
        """
        if not self.rate:
            return room
        self._came += size
        if not room or lot >= self.chance or size > self._saved:
            return False
        self._saved -= size
        return True

    def turn(self) -> None:
        """Time has passed; to be called now and then."""
        now = self._clock()
        seconds = now - self._turned
        if not self.rate or seconds < TURN:
            return
        most = SAVED * self.rate
        self._saved = min(self._saved + self.rate * seconds, most)
        may = max(self.rate + (self._saved - most / 2) / EVEN, 0.0)
        self.chance = min(may * seconds / self._came, 1.0) if self._came else 1.0
        self._came, self._turned = 0, now
