"""What a number of measurements allows one to say: LoadGen's early stopping, and medians of paired rounds.

The rule (mlcommons/inference, loadgen/early_stopping.md): of n latencies, t may lie above a bound and the share that
does is still called smaller than 1 - p with 99 % confidence, where a share of exactly 1 - p would show t or fewer with
a chance of at most 1 %. Latencies are taken to be independent, as LoadGen takes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep import evidence
from modelkeep.quantities import counted

if TYPE_CHECKING:
    from modelkeep.types import Array

CONFIDENCE = 0.99
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@lru_cache(maxsize=4096)
def may_miss(n: int, share: float) -> int:
    """How many of n may lie above a bound that is still claimed for the percentile ``share``; -1 where none may."""
    # log P(k of n lie above), k = 0, 1, …, each from the one before it; half of n(1-p) and more never passes
    most = int(n * (1 - share)) + 1
    k = np.arange(most)
    steps = np.log(np.maximum(n - k, 1e-300)) - np.log(k + 1.0) + math.log((1 - share) / share)
    start = n * math.log(share)
    chances = np.exp(np.concatenate([[start], start + np.cumsum(steps)]))
    return int(np.searchsorted(np.cumsum(chances), 1 - CONFIDENCE, side="right")) - 1


@lru_cache(maxsize=64)
def least(share: float) -> int:
    """Latencies that it takes to claim this percentile at all, one of them being above: 64 for p90, 662 for p99."""
    n = 1
    while may_miss(n, share) < 1:
        n += 1
    return n


def at_most(latencies: Sequence[float] | Array, share: float) -> float | None:
    """What the percentile does not exceed, with 99 % confidence; None where there are too few to say."""
    t = may_miss(len(latencies), share)
    return float(np.sort(np.asarray(latencies))[len(latencies) - t]) if t >= 1 else None


def breaks(over: int, n: int, share: float) -> bool:
    """Whether ``over`` of n above the bound show, with 99 % confidence, that the percentile is not kept."""
    # the same rule from the other side: those below the bound are too few for a share of ``share``
    return over > 0 and n - over <= may_miss(n, 1 - share)


@dataclass(frozen=True)
class Percentile:
    """``value`` is None where n are too few to claim it, of which ``needs`` are; ``at_most`` is its 99 % bound."""

    value: float | None
    at_most: float | None
    n: int
    needs: int


def percentiles(latencies: Sequence[float] | Array) -> dict[str, dict[str, Any]]:
    """p50, p90 and p99 as they go into a report: see Percentile."""
    found = {}
    for name, share in SHARES.items():
        enough = len(latencies) >= least(share)
        value = float(np.quantile(latencies, share)) if enough else None
        bound = at_most(latencies, share) if enough else None
        found[name] = asdict(Percentile(value, bound, len(latencies), least(share)))
    return found


@dataclass(frozen=True)
class Ratio:
    """The median of n values and its interval of 95 % confidence or more; no interval where n are too few."""

    median: float
    low: float | None
    high: float | None
    n: int

    @property
    def text(self) -> str:
        """``2.10 (1.98 to 2.25, n = 9)``."""
        if self.low is None or self.high is None:
            few = f"{counted(self.n, 'round')}, {evidence.SIGN_TEST_LEAST} needed"
            return f"{self.median:.2f} (interval not claimed: {few}, with more --rounds or a larger --budget)"
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f}, n = {self.n})"


def median(values: Sequence[float]) -> Ratio:
    """Their median, and the sign test's interval (evidence.median_interval)."""
    middle, low, high = evidence.median_interval(values)
    return Ratio(middle, low, high, len(values))
