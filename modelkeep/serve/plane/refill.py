"""A moment's patience after a run: those who were answered tend to ask again at once, and can then share the next run.

Without it, batches of a closed loop alternate: one request comes back first and is run alone, while all others wait.
"""

from __future__ import annotations

LEAST_COST = 0.001
"""Seconds of a run's fixed cost, below which patience costs more than the run that it saves."""
MOST, MOST_PAUSE = 0.02, 0.002
PAUSE = 1 / 8
"""Of that cost: who has not come back after such a pause is not waited for."""
LATE = 0.0001
"""Seconds by which a timer is late where the loop was busy, with the last answers most likely."""
BUSIEST = 8
"""Times after one run that the loop may have been busy."""
WORTH, PROBE = 0.3, 16
"""Share of times that company must have come for it; where it is less, every PROBE-th run asks again."""


class Refill:
    """When the next run may begin. Times are seconds of one clock.

    It waits for no longer than a run costs, as a skier rents for no more than the price of skis (Karlin et al. 1988,
    "Competitive snoopy caching"), on top of the time that the loop is busy: at worst, twice what foresight would cost.
    """

    def __init__(self) -> None:
        self._until = self._last = self._pause = 0.0
        self._all = self._turn = self._busy = 0
        self._worth = 1.0
        self._held = False

    def answered(self, now: float, requests: int, cost: float) -> None:
        """A run ended, with so many requests in it or waiting; a run costs ``cost`` seconds besides its rows."""
        if self._held:
            self._learn(False)
        self._turn += 1
        hopeful = self._worth > WORTH or self._turn % PROBE == 0
        self._until = now + min(cost, MOST) if hopeful and requests > 1 and cost >= LEAST_COST else 0.0
        self._last, self._pause, self._all, self._busy = now, min(PAUSE * cost, MOST_PAUSE), requests, 0

    def came(self, now: float) -> None:
        """A request came."""
        self._last = now
        if self._held:
            self._learn(True)

    def refused(self) -> bool:
        """A request that came was turned away, and so will the next be: nobody is waited for until the next run has
        ended. Whether somebody was.
        """
        held, self._until = self._held, 0.0
        if held:
            self._learn(False)
        return held

    def due(self, now: float, waiting: int) -> float:
        """When to run, with so many waiting; what lies not after ``now`` means at once."""
        if waiting >= self._all or not self._until:
            return now
        at = min(self._until, self._last + self._pause)
        if now - at > LATE and self._busy < BUSIEST:  # nobody could come, as nobody was listened to
            self._busy += 1
            self._until += now - self._last
            self._last = now
            at = min(self._until, now + self._pause)
        self._held = at > now
        return at

    def _learn(self, came: bool) -> None:
        self._held = False
        self._worth += 0.2 * (came - self._worth)
