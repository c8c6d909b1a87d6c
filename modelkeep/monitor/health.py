"""Health: do requests fail, or take longer than was promised, more often than may be?

Failures come in bursts, so one second of traffic is one observation: the share of its requests that failed. A burst
shorter than a second counts once, however many requests it hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.monitor.detector import Rising
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.data.traffic import Exchange

FAILED = ("error", "late", "overloaded")
MOST = 0.01
"""The share of requests that may fail, and that may be slower than a promised 99th percentile."""
SLICE = 1.0


class Health:
    """Failures and slowness of one version. ``p99`` is the promised latency in seconds; None judges none."""

    def __init__(self, p99: float | None, false_alarm_every: float) -> None:
        self.p99 = p99
        self.checks = {"errors": Rising(MOST, false_alarm_every)}
        if p99 is not None:
            self.checks["latency"] = Rising(MOST, false_alarm_every)
        self.n = self.failed = 0
        self._seconds: list[float] = []
        self._slice: list[Exchange] = []

    def add(self, exchange: Exchange) -> None:
        """The next exchange, in the order of capture."""
        self.n += 1
        self.failed += exchange.outcome in FAILED
        self._seconds.append(exchange.seconds)
        if self._slice and exchange.at - self._slice[0].at >= SLICE:
            self._close()
        self._slice.append(exchange)

    def _close(self) -> None:
        at, n = self._slice[0].at, len(self._slice)
        self.checks["errors"].add(sum(e.outcome in FAILED for e in self._slice) / n, at)
        if self.p99 is not None:
            self.checks["latency"].add(sum(e.outcome == "late" or e.seconds > self.p99 for e in self._slice) / n, at)
        self._slice = []

    def findings(self) -> list[Finding]:
        """What fails or is slow beyond chance; no-data where nothing was captured at all."""
        if not self.n:
            why = "no request was captured yet, so nothing is known; is the version served, and does traffic reach it?"
            return [Finding("no-data", "traffic", why, {"n": 0})]
        return [self._finding(subject, check) for subject, check in self.checks.items() if check.raised]

    def _finding(self, subject: str, check: Rising) -> Finding:
        since, shares = check.since()
        share = float(shares.mean())
        what = "of the requests failed" if subject == "errors" else f"of the answers took longer than {self.p99:g} s"
        why = f"{share:.1%} {what} over {len(shares)} seconds with traffic, where {MOST:.0%} may"
        evidence = {
            "share": share,
            "most": MOST,
            "n": len(shares),
            "log_evidence": float(check.detector.log_evidence[0]),
            "log_threshold": check.detector.needed,
        }
        return Finding("health", subject, why, evidence, since)

    def numbers(self) -> dict[str, Any]:
        """n, failures, and the median and 99th percentile of the seconds."""
        if not self.n:
            return {"n": 0}
        median, high = np.quantile(self._seconds, (0.5, 0.99))
        return {"n": self.n, "failed": self.failed, "p50": float(median), "p99": float(high), "promised_p99": self.p99}

    def describe(self) -> str:
        """One line for a person."""
        if not self.n:
            return "no request was captured"
        numbers = self.numbers()
        return f"{self.failed} of {self.n} requests failed; p50 {numbers['p50']:.4f} s, p99 {numbers['p99']:.4f} s"
