"""Health: do requests fail, or take longer than was promised, more often than may be? Does memory grow, is all silent?

Failures come in bursts, so a slice of the time with traffic is one observation: the share of its requests that failed.
A burst shorter than a slice counts once, however many requests it hit. A slice is a second of captured requests or,
where the server counts, the time between two of its pulses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelkeep.monitor.burn import Burn, Minute, burn
from modelkeep.monitor.detector import Rising
from modelkeep.monitor.leak import Leak
from modelkeep.quantities import counted
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.data.pulses import Pulse
    from modelkeep.data.traffic import Exchange

FAILED = ("error", "late", "overloaded")
MOST = 0.01
"""The share of requests that may fail where no service level was promised, and that may be slower than a promised 99th
percentile."""
SLICE = 1.0


class Health:
    """Failures and slowness of one version. ``p99`` is the promised latency in seconds; None judges none.

    ``slo`` is the share of requests that must not fail; ``silence`` how many seconds may pass without a request.
    """

    def __init__(
        self, p99: float | None, false_alarm_every: float, *, slo: float | None = None, silence: float | None = None
    ) -> None:
        self.p99, self.slo, self.silence = p99, slo, silence
        self.most = MOST if slo is None else 1 - slo
        self.checks = {"errors": Rising(self.most, false_alarm_every)}
        if p99 is not None:
            self.checks["latency"] = Rising(MOST, false_alarm_every)
        self.leak = Leak()
        self.minutes: list[Minute] = []
        self.now: float | None = None
        """Epoch seconds of this look; None: as late as the last request."""
        self.of = "captured"
        """Which requests these are: ``captured`` ones, or all that were ``served``, as a server counted them."""
        self.n = self.failed = 0
        self.last: float | None = None
        self._span = "seconds"
        self._slice: list[tuple[float, bool, bool]] = []
        """Of the requests of the last second: when, whether it failed, whether it was slow."""

    def add(self, exchange: Exchange) -> None:
        """The next exchange, in the order of capture."""
        if self._slice and abs(exchange.at - self._slice[0][0]) >= SLICE:
            self._close()
        failed = exchange.outcome in FAILED
        slow = exchange.outcome == "late" or (self.p99 is not None and exchange.seconds > self.p99)
        self._slice.append((exchange.at, failed, slow))
        self.n += 1
        self.failed += failed
        self.last = exchange.at

    def _close(self) -> None:
        ats, failed, slow = zip(*self._slice, strict=True)
        self._judge(ats[0], len(ats), sum(failed), sum(slow))
        self._slice = []

    def add_pulse(self, pulse: Pulse, bounds: Sequence[float]) -> None:
        """What a server counted; ``bounds`` (seconds) are those of ``pulse.counts.slower``. One between two of them is
        taken for the next, so that an answer counts as slow only where it certainly was."""
        counts = pulse.counts
        if not counts.requests:
            return
        slow = 0
        if self.p99 is not None and counts.slower:
            slow = counts.slower[min(bisect_left(bounds, self.p99), len(bounds) - 1)]
        self._span, self.of = "spans of a few seconds", "served"
        self._judge(pulse.at, counts.requests, counts.failed, slow)
        self.n += counts.requests
        self.failed += counts.failed
        self.last = pulse.at

    def _judge(self, at: float, n: int, failed: int, slow: int) -> None:
        self.checks["errors"].add(failed / n, at)
        if "latency" in self.checks:
            self.checks["latency"].add(min(slow / n, 1.0), at)

    def burn(self) -> Burn | None:
        """How fast the error budget is spent; None where no service level was promised."""
        now = self.now if self.now is not None else self.last
        return None if self.slo is None or now is None else burn(self.minutes, now, self.slo)

    def findings(self) -> list[Finding]:
        """What fails or is slow beyond chance; no-data where nothing came at all, or nothing for too long."""
        if not self.n:
            why = "no request was captured yet, so nothing is known; is the version served, and does traffic reach it?"
            return [Finding("no-data", "traffic", why, {"n": 0})]
        found = [self._finding(subject, check) for subject, check in self.checks.items() if check.raised]
        return [*found, *(f for f in (self._silent(), self.leak.finding()) if f is not None)]

    def _silent(self) -> Finding | None:
        if self.silence is None or self.now is None or self.last is None or self.now - self.last <= self.silence:
            return None
        quiet = self.now - self.last
        why = (
            f"no request has come for {quiet:,.0f} s, where {self.silence:g} s may pass, so nothing is known of now; "
            "does traffic reach the version?"
        )
        return Finding("no-data", "traffic", why, {"n": self.n, "seconds": quiet, "most": self.silence}, self.last)

    def _finding(self, subject: str, check: Rising) -> Finding:
        since, shares = check.since()
        share = float(shares.mean())
        what = "of the requests failed" if subject == "errors" else f"of the answers took longer than {self.p99:g} s"
        why = (
            f"{share:.1%} {what}, on average over {len(shares)} {self._span} with traffic, where "
            f"{100 * check.most:.3g}% may"
        )
        evidence: dict[str, Any] = {
            "share": share,
            "most": check.most,
            "n": len(shares),
            **check.evidence,
        }
        if subject == "errors" and (spent := self.burn()) is not None:
            evidence |= spent.numbers()
            why += f"; {spent.describe()}"
        return Finding("health", subject, why, evidence, since)

    def numbers(self) -> dict[str, Any]:
        """n, failures, the promise, burn and memory."""
        if not self.n:
            return {"n": 0}
        found: dict[str, Any] = {"n": self.n, "of": self.of, "failed": self.failed, "promised_p99": self.p99}
        if (spent := self.burn()) is not None:
            found["slo"] = spent.numbers()
        if self.leak.n:
            found["memory"] = self.leak.numbers()
        return found

    def describe(self) -> str:
        """One line for a person."""
        if not self.n:
            return "no request was captured"
        spent = self.burn()
        told = [f"{self.failed} of {counted(self.n, f'{self.of} request')} failed"]
        told += [spent.describe()] if spent else []
        return "; ".join([*told, self.leak.describe()] if self.leak.n else told)
