"""An e-detector: notices that means of bounded numbers rose too high, at an unknown time, after any quiet time."""

from __future__ import annotations

from array import array
from math import log
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array

BETS = np.array([0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97])
"""Shares of the stake that one observation may cost."""
HEADROOM = 5.0
"""Evidence is capped so far (in nats) over the threshold, so that an alarm ends soon after its cause has."""
MAX_VALUES = 10_000
"""Numbers that are remembered, to tell since when; the evidence is of all."""
RELEASE = 2.0
"""An alarm stays until its evidence is so far (in nats) under the threshold, so that it does not flicker there."""


class Detector:
    """Many features side by side, each with its own H0 "the mean given the past is at most q" for numbers in [0, 1].

    The CUSUM form of Shin, Ramdas & Rinaldo (2024, "E-detectors", New England J. Stat. Data Sci. 2): M = max(w, M)·L
    with L the product of the fair bets 1 + λ(x − q) of one step, for each λ of a grid, then their mean, and w the stake
    that a step may begin with, known before its numbers are. Under H0 the sum of the stakes so far bounds M's mean, so
    a threshold of ``features × stakes`` gives at most one false alarm per so many stakes on average, over all features
    together, however often one looks; within s stakes the chance of one is at most s over the stakes per alarm.
    """

    def __init__(self, features: int, needed: float) -> None:
        self.needed = needed
        """The threshold, as a logarithm."""
        self.steps = 0
        self._log_m = np.zeros((features, len(BETS)))
        self._start = np.zeros((features, len(BETS)), dtype=np.int64)
        self._raised = np.zeros(features, dtype=bool)

    def step(self, x: Array, q: Array, stake: float = 1.0) -> None:
        """One step: ``x`` [observations, features] in [0, 1], ``q`` [features]; a q of 1 or more is no bet."""
        bound = np.clip(q, 1e-6, 1.0)
        self._advance(np.log1p((BETS / bound[:, None]) * (x - bound)[:, :, None]).sum(axis=0), bound, stake)

    def step_sums(self, sums: Array, n: float, q: Array, stake: float = 1.0) -> None:
        """One step of ``n`` observations of which only the ``sums`` [features] are known.

        For n numbers that are 0 or 1 that is the same as ``step``. For others it is less, never more: log(1 + λ(x − q))
        is concave in x, so it lies over its chord from 0 to 1, and the chord of a sum is known (the convexity by which
        Hoeffding 1963, JASA 58, bounds any number in [0, 1] by a coin of its mean). The evidence stays valid.
        """
        bound = np.clip(q, 1e-6, 1.0)
        won, lost = np.log1p((BETS / bound[:, None]) * (1 - bound)[:, None]), np.log1p(-BETS)
        hits = np.clip(sums, 0.0, n)[:, None]
        self._advance(hits * won + (n - hits) * lost, bound, stake)

    def skip(self) -> None:
        """A step without a bet."""
        self.steps += 1

    def _advance(self, gain: Array, bound: Array, stake: float) -> None:
        gain[bound >= 1.0] = 0.0
        begin = log(stake)
        self._start[self._log_m <= begin] = self.steps
        self._log_m = np.minimum(np.maximum(self._log_m, begin) + gain, self.needed + HEADROOM)
        self.steps += 1
        evidence = self.log_evidence
        self._raised = (evidence >= self.needed) | (self._raised & (evidence >= self.needed - RELEASE))

    @property
    def log_evidence(self) -> Array:
        """[features]: the logarithm of the mean over the grid."""
        top = self._log_m.max(axis=1)
        found: Array = top + np.log(np.exp(self._log_m - top[:, None]).mean(axis=1))
        return found

    @property
    def raised(self) -> Array:
        """[features] of bool: whose evidence is over the threshold now, or was and is hardly below it."""
        return self._raised

    @property
    def since(self) -> Array:
        """[features]: the step after which the evidence has only been gathered, the estimate of when it changed."""
        found: Array = np.take_along_axis(self._start, self._log_m.argmax(axis=1)[:, None], axis=1)[:, 0]
        return found


class Rising:
    """One mean of numbers in [0, 1] that must not stay over ``most``; a finding's numbers with it.

    ``chunk`` numbers are one step; ``every`` numbers there are per false alarm, at least, on average.
    """

    def __init__(self, most: float, every: float, *, chunk: int = 1) -> None:
        self.most = most
        self.chunk = chunk
        self.detector = Detector(1, float(np.log(max(every / chunk, 1.0))))
        self.values: array[float] = array("d")
        self.ats: array[float] = array("d")
        self._gone = 0

    def add(self, value: float, at: float) -> None:
        """The next number, and when it was (epoch seconds). Of more than 2·MAX_VALUES, the older ones go."""
        self.values.append(value)
        self.ats.append(at)
        if len(self.values) > 2 * MAX_VALUES:
            del self.values[:MAX_VALUES], self.ats[:MAX_VALUES]
            self._gone += MAX_VALUES
        if (self._gone + len(self.values)) % self.chunk == 0:
            last = np.array(self.values[-self.chunk :])[:, None]
            self.detector.step(last, np.array([self.most]))

    @property
    def raised(self) -> bool:
        """Whether the evidence that the mean is too high is over the threshold now."""
        return bool(self.detector.raised[0])

    @property
    def evidence(self) -> dict[str, float]:
        """For a finding: how much there is, and how much makes one, as logarithms."""
        return {"log_evidence": float(self.detector.log_evidence[0]), "log_threshold": self.detector.needed}

    def since(self) -> tuple[float, Array]:
        """When it rose, as far as one can tell, and the numbers from then on."""
        first = max(int(self.detector.since[0]) * self.chunk - self._gone, 0)
        return self.ats[first], np.array(self.values[first:])
