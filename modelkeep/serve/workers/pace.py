"""What a run costs, learned while it is served: what a wait, a deadline and a promise are judged by."""

from __future__ import annotations

FORGET = 0.95
"""Weight of what was learned before, at each new run."""


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
        """Seconds until one more would run, where so many rows wait in so many requests for so many workers: it shares
        the last run, where that has room.
        """
        if not requests:
            return 0.0
        each = max(rows / requests, 1.0)
        batch = max(int(max_batch // each), 1) * each
        runs = rows // batch
        return runs * self.run(round(batch)) / workers if runs else 0.0
