"""An e-detector: notices that means of bounded numbers rose too high, at an unknown time, after any quiet time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array

BETS = np.array([0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9])
"""Shares of the stake that one observation may cost."""
HEADROOM = 5.0
"""Evidence is capped so far (in nats) over the threshold, so that an alarm ends soon after its cause has."""


class Detector:
    """Many features side by side, each with its own H0 "the mean given the past is at most q" for numbers in [0, 1].

    The CUSUM form of Shin, Ramdas & Rinaldo (2024, "E-detectors", New England J. Stat. Data Sci. 2): M = max(1, M)·L
    with L the product of the fair bets 1 + λ(x − q) of one step, for each λ of a grid, then their mean. Its sum over
    the steps bounds M's mean, so a threshold of ``features × steps`` gives at most one false alarm per so many steps on
    average, over all features together, however often one looks.
    """

    def __init__(self, features: int, needed: float) -> None:
        self.needed = needed
        """The threshold, as a logarithm."""
        self.steps = 0
        self._log_m = np.zeros((features, len(BETS)))
        self._start = np.zeros((features, len(BETS)), dtype=np.int64)

    def step(self, x: Array, q: Array) -> None:
        """One step: ``x`` [observations, features] in [0, 1], ``q`` [features]; a q of 1 or more is no bet."""
        bound = np.clip(q, 1e-6, 1.0)
        gain = np.log1p((BETS / bound[:, None]) * (x - bound)[:, :, None]).sum(axis=0)
        gain[bound >= 1.0] = 0.0
        self._start[self._log_m <= 0.0] = self.steps
        self._log_m = np.minimum(np.maximum(self._log_m, 0.0) + gain, self.needed + HEADROOM)
        self.steps += 1

    @property
    def log_evidence(self) -> Array:
        """[features]: the logarithm of the mean over the grid."""
        top = self._log_m.max(axis=1)
        found: Array = top + np.log(np.exp(self._log_m - top[:, None]).mean(axis=1))
        return found

    @property
    def raised(self) -> Array:
        """[features] of bool: whose evidence is over the threshold now."""
        found: Array = self.log_evidence >= self.needed
        return found

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
        self.values: list[float] = []
        self.ats: list[float] = []

    def add(self, value: float, at: float) -> None:
        """The next number, and when it was (epoch seconds)."""
        self.values.append(value)
        self.ats.append(at)
        if len(self.values) % self.chunk == 0:
            last = np.array(self.values[-self.chunk :])[:, None]
            self.detector.step(last, np.array([self.most]))

    @property
    def raised(self) -> bool:
        """Whether the evidence that the mean is too high is over the threshold now."""
        return bool(self.detector.raised[0])

    def since(self) -> tuple[float, Array]:
        """When it rose, as far as one can tell, and the numbers from then on."""
        first = int(self.detector.since[0]) * self.chunk
        return self.ats[first], np.array(self.values[first:])
