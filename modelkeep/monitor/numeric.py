"""Quality of numbers: RMSE and MAE of labelled answers, each with an interval that may be looked at any time. Where an
answer is several numbers, both are the mean over these (scikit-learn's uniform average).

Errors have no bound, and no interval without one holds at any time. So an error counts at most SPREAD times the largest
of the first BURN_IN labelled requests, which themselves count for no interval. The intervals are confidence sequences
by betting (evidence.mean_interval: Waudby-Smith & Ramdas 2024, JRSS-B 86(1)) of the errors over that bound. What is
left of a larger error only lowers the mean, so once there is one, the lower end still holds, and there is no upper one.
The mean of several roots is no less than that of the absolute errors, and no more than the root of the mean of all
squares (Jensen), so its interval goes from the lower end of the one to the upper end of the other.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.evidence import mean_interval
from modelkeep.monitor.classified import CONFIDENCE, Measured
from modelkeep.monitor.detector import MAX_VALUES, Rising
from modelkeep.quantities import counted, figure
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.types import Array

BURN_IN = 30
SPREAD = 3.0
PATIENCE = 4.0
CHUNK = 16


class Numeric:
    """What was answered and what was so, as numbers. ``worst`` is the mean absolute error that is held, None for none,
    and ``promise`` whose it is."""

    def __init__(
        self, worst: float | None = None, false_alarm_every: float = 1e6, promise: str = "what was promised"
    ) -> None:
        self.worst, self.promise = worst, promise
        self._too_far = Rising(1 / PATIENCE, false_alarm_every, chunk=CHUNK)
        self.void = 0
        """Requests that count for no error, for an answer was not finite."""
        self._absolute: list[float] = []
        self._squared: list[float] = []
        """Of each request, over all its numbers."""
        self._columns: list[Array] = []
        """Of MAX_VALUES requests each, the sums of the squares of each number."""

    def add(self, answers: Array, truth: Array, at: float) -> None:
        """One request: [rows] each, or [rows, numbers]; its mean error is one observation. One that is not finite is
        none, and counted."""
        errors = np.abs(answers.astype(np.float64) - truth.astype(np.float64))
        with np.errstate(over="ignore"):  # what becomes infinite counts for none either
            squared = (errors**2).mean(axis=0)
        if not np.isfinite(squared.sum()):
            self.void += 1
            return
        if len(self) == 2 * MAX_VALUES:
            del self._absolute[:MAX_VALUES], self._squared[:MAX_VALUES], self._columns[:1]
        if len(self) % MAX_VALUES == 0:
            self._columns.append(np.zeros_like(squared))
        self._columns[-1] += squared
        self._absolute.append(float(errors.mean()))
        self._squared.append(float(squared.mean()))
        if self.worst:
            self._too_far.add(min(self._absolute[-1] / (PATIENCE * self.worst), 1.0), at)

    def __len__(self) -> int:
        """Requests."""
        return len(self._absolute)

    def measured(self) -> dict[str, Measured]:
        """RMSE and MAE by name, in the unit of the answers; empty before the first label."""
        if not self._absolute:
            return {}
        absolute, squared, n = np.array(self._absolute), np.array(self._squared), len(self)
        mean, root = float(absolute.mean()), float(np.sqrt(np.sum(self._columns, axis=0) / n).mean())
        bound = SPREAD * float(np.sqrt(squared[:BURN_IN].max()))
        if n <= BURN_IN or bound <= 0:
            return {"rmse": Measured(root, None, None, n), "mae": Measured(mean, None, None, n)}
        low, high = (bound * end for end in _interval(absolute, bound))
        least, most = (bound * sqrt(end) for end in _interval(squared, bound**2))
        least = low if self._columns[0].ndim else least
        whole = float(squared.max()) <= bound**2
        return {
            "rmse": Measured(root, min(least, root), max(most, root) if whole else None, n),
            "mae": Measured(mean, min(low, mean), max(high, mean) if whole else None, n),
        }

    def finding(self) -> Finding | None:
        """A mean absolute error over the promise. Each counts PATIENCE times the promise at most, which only lowers the
        mean, so that the evidence is valid however large errors may be; None while there is too little."""
        if not self.worst or not self._too_far.raised:
            return None
        since, shares = self._too_far.since()
        mean = float(np.mean(self._absolute[-len(shares) :]))
        why = (
            f"the mean absolute error is {figure(mean)} on the last {counted(len(shares), 'labelled request')}; "
            f"{self.promise} is {figure(self.worst)}"
        )
        evidence = {"mae": mean, "n": len(shares), "worst": self.worst, **self._too_far.evidence}
        return Finding("quality", "error", why, evidence, since)


def _interval(values: Array, bound: float) -> tuple[float, float]:
    return mean_interval(np.minimum(values[BURN_IN:] / bound, 1.0), CONFIDENCE)
