"""Service level: how fast the error budget is spent, over several windows, and how much of it is left.

A burn rate of 1 spends the budget of a period in exactly that period. The pairs of windows and their factors are those
of the SRE Workbook (Beyer et al. 2018, chapter 5, "Multiwindow, multi-burn-rate alerts"): a short window beside a long
one, so that an alarm ends soon after its cause. With few requests a burn rate says nothing (one failure of two requests
is a rate of 500), so the windows only tell how bad it is: that there is a fault is for the evidence to say, which is
exact for any number of requests (health.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array

PERIOD = 30 * 86400.0
NAMES = {300: "5m", 1800: "30m", 3600: "1h", 7200: "2h", 21600: "6h", 86400: "1d", 259200: "3d"}
"""Windows by their seconds."""


class Minute(NamedTuple):
    """What the requests of one minute came to; ``at`` is its beginning in epoch seconds."""

    at: float
    requests: int
    failed: int


class Pair(NamedTuple):
    """Two windows that must both burn at ``factor`` or faster, and what that is worth."""

    short: int
    long: int
    factor: float
    worth: str


PAIRS = (
    Pair(300, 3600, 14.4, "page"),
    Pair(1800, 21600, 6.0, "page"),
    Pair(7200, 86400, 3.0, "ticket"),
    Pair(21600, 259200, 1.0, "ticket"),
)


@dataclass(frozen=True)
class Burn:
    """Burn rates by window, and the share of the period's budget that is left (below 0: overdrawn).

    ``rates`` and ``requests`` are by name of window; ``fast`` is the most urgent pair that burns too fast, if any.
    """

    objective: float
    rates: dict[str, float]
    requests: dict[str, int]
    left: float
    fast: Pair | None

    def numbers(self) -> dict[str, Any]:
        """For a report."""
        found: dict[str, Any] = {"objective": self.objective, "budget_left": self.left, "burn": self.rates}
        return found | {"requests": self.requests, "worth": self.fast.worth if self.fast else None}

    def describe(self) -> str:
        """One line for a person."""
        rates = ", ".join(f"{name} {factor(rate)}" for name, rate in self.rates.items() if self.requests[name])
        left = f"{self.left:.0%} of the error budget is left"
        if self.left < 0:
            left = f"the error budget is spent {1 - self.left:,.1f} times over"
        return f"objective {self.objective:.3%}: {left}; burn rates {rates or 'unknown'}"


def factor(rate: float) -> str:
    """A burn rate for a person: 8.6, 167, 1,000."""
    return f"{rate:.2g}" if rate < 99.5 else f"{rate:,.0f}"


def burn(minutes: Sequence[Minute], now: float, objective: float) -> Burn:
    """Of the minutes that ended before ``now``; ``objective`` is the share of requests that must not fail."""
    table = np.array(minutes, dtype=np.float64).reshape(-1, 3)
    budget = 1 - objective
    requests, rates = {}, {}
    for seconds, name in NAMES.items():
        n, failed = _within(table, now, seconds)
        requests[name], rates[name] = int(n), failed / n / budget if n else 0.0
    n, failed = _within(table, now, PERIOD)
    left = 1 - failed / (n * budget) if n else 1.0
    fast = next((p for p in PAIRS if min(rates[NAMES[p.short]], rates[NAMES[p.long]]) >= p.factor), None)
    return Burn(objective, rates, requests, left, fast)


def _within(table: Array, now: float, seconds: float) -> tuple[float, float]:
    """Requests and failures of the newest so many seconds."""
    inside = (table[:, 0] > now - seconds - 60) & (table[:, 0] <= now)  # a clock that was set back leaves later ones
    return float(table[inside, 1].sum()), float(table[inside, 2].sum())
