"""Statistics that stay valid however often one looks, and fixed-n intervals for reports."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, exp, inf, isfinite, log, nan, sqrt
from statistics import NormalDist, median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array

BETS = np.array([0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97])
"""Shares of the stake that one observation may cost: λ = bet / m, spread so that weak and strong harm both pay."""
SMALLEST_MEAN = 1e-6
SIGN_TEST_LEAST = 6
"""Values that a 95 % interval for their median needs: of fewer, not even the smallest and the largest give one."""


class Betting:
    """An e-process for "the mean is at most m", of observations in [0, 1] (Waudby-Smith & Ramdas 2024, JRSS-B 86(1)).

    The capital of fair bets, averaged over a grid of stakes: under the hypothesis P(it ever exceeds 1/α) ≤ α, whatever
    the dependence, so long as each observation's mean given the past is at most m. ``log_e`` is its logarithm now,
    ``peak`` the highest it has been. Observations outside [0, 1] raise ValueError.
    """

    def __init__(self, m: float) -> None:
        self.m = min(max(float(m), SMALLEST_MEAN), 1.0)  # a larger m is the weaker claim, so this stays valid
        self._stakes = BETS / self.m
        self._capital = np.zeros(len(BETS))
        self._sum = 0.0
        self.n = 0
        self.log_e = 0.0
        self.peak = 0.0

    @property
    def mean(self) -> float:
        """Of what was observed; NaN before the first."""
        return self._sum / self.n if self.n else float("nan")

    def update(self, x: Array | float) -> None:
        """Take one observation or many, in the order in which they came."""
        given = np.atleast_1d(np.asarray(x, dtype=np.float64)).ravel()
        if not given.size:
            return
        if not (given.min() >= 0.0 and given.max() <= 1.0):  # false for NaN too
            raise ValueError("an observation lies outside [0, 1]")
        steps = np.log1p(self._stakes[:, None] * (given - self.m))
        path = self._capital[:, None] + np.cumsum(steps, axis=1)
        self._capital = path[:, -1]
        evidence = _log_mean_exp(path)
        self.log_e = float(evidence[-1])
        self.peak = max(self.peak, float(evidence.max()))
        self.n += given.size
        self._sum += float(given.sum())


def _log_mean_exp(path: Array) -> Any:
    """The logarithm of the mean over the first axis, of exponentials that may overflow."""
    top = path.max(axis=0)
    return top + np.log(np.exp(path - top).mean(axis=0))


def _log_capital(values: Array, counts: Array, m: float) -> float:
    """What Betting(m) would have after these values; their order does not matter to the capital at the end."""
    return float(_log_mean_exp((np.log1p((BETS / m)[:, None] * (values - m)) * counts).sum(axis=1)))


def mean_interval(
    x: Array | Sequence[float], confidence: float = 0.95, *, counts: Array | Sequence[float] | None = None
) -> tuple[float, float]:
    """(low, high) for the mean of observations in [0, 1]: a confidence sequence at its present n.

    It covers the mean at every n at once with this probability, so it may be looked at after each observation. The
    means that Betting does not reject, from both sides; (0, 1) for no observations. ``counts`` say how often each of
    ``x`` was observed, once where not given: ``mean_interval([0, 1], counts=[wrong, right])`` is of a share.
    """
    given = np.asarray(x, dtype=np.float64).ravel()
    times = np.ones(given.size) if counts is None else np.asarray(counts, dtype=np.float64).ravel()
    if not times.sum():
        return 0.0, 1.0
    if not (given.min() >= 0.0 and given.max() <= 1.0):
        raise ValueError("an observation lies outside [0, 1]")
    enough = log(2 / (1 - confidence))
    values, which = np.unique(given, return_inverse=True)
    counts = np.bincount(which, times)
    return _lowest(values, counts, enough), 1.0 - _lowest(1.0 - values, counts, enough)


def _lowest(values: Array, counts: Array, enough: float) -> float:
    """The smallest mean that is not rejected. A share 1 − b + b·x/m of capital falls with m, so bisection finds it."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if _log_capital(values, counts, max(middle, SMALLEST_MEAN)) > enough:
            low = middle
        else:
            high = middle
    return low


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) for a share, by Wilson's score (1927, JASA 22); for one look at a fixed n. (0, 1) for n = 0."""
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(middle - half, p)), min(1.0, max(middle + half, p))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None, float | None]:
    """(median, low, high): the order statistics that hold the median with this confidence or more, by the sign test.

    It asks for no distribution, only that the values are independent draws. No interval where they are too few.
    """
    ordered, n = sorted(values), len(values)
    spare, chance = -1, 0.0
    while 2 * (chance := chance + comb(n, spare + 1) / 2**n) <= 1 - confidence:
        spare += 1
    if spare < 0:
        return (median(ordered) if n else nan), None, None
    return median(ordered), ordered[spare], ordered[n - 1 - spare]


def paired_drop(base_correct: Array, new_correct: Array, confidence: float = 0.95) -> tuple[float, float]:
    """(drop, upper): how much accuracy the new model loses on the same rows, and a one-sided upper bound of it.

    Tango's score interval for paired shares (1998, Statistics in Medicine 17), at a fixed n. Zero drops on n rows still
    have the bound z²/(n + z²). (0, 1) for no rows; ValueError where the two differ in length.
    """
    base, new = np.asarray(base_correct, dtype=bool).ravel(), np.asarray(new_correct, dtype=bool).ravel()
    if base.size != new.size:
        raise ValueError(f"{base.size} and {new.size} rows are not pairs")
    n = base.size
    if not n:
        return 0.0, 1.0
    lost, won = int((base & ~new).sum()), int((~base & new).sum())
    drop = (lost - won) / n
    z = NormalDist().inv_cdf(confidence)
    low, high = drop, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _tango(lost, won, n, middle) > -z:
            low = middle
        else:
            high = middle
    return drop, high


def _tango(lost: int, won: int, n: int, delta: float) -> float:
    """Tango's score statistic for "the drop is delta"; falls as delta grows."""
    b = -lost - won + (2 * n - lost + won) * delta
    c = -won * delta * (1 - delta)
    rare = (sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    spread = n * (2 * rare + delta * (1 - delta))
    distance = lost - won - n * delta
    return distance / sqrt(spread) if spread > 0 else -inf if distance < 0 else 0.0


def at_most(log_evidence: float) -> float:
    """The chance of evidence this strong under the hypothesis (Ville 1939): 1/e, at most 1."""
    return min(1.0, exp(-log_evidence)) if isfinite(log_evidence) else 0.0
