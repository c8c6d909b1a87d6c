"""A memory leak: does the service's memory grow on and on?

Memory moves in steps: a version is loaded, a cache fills, a large request comes. A line through that has a slope and
means nothing. So time is cut into blocks, each block gives the median of its samples, and what counts is only whether a
block lies above the one before by more than a trifle: a step is one rise, and a leak is a rise in nearly every block.
Under "a block rises with a chance of one half at most" the rises are bets as any other (detector.py). The slope is the
median of the rises, with the interval of the sign test (evidence.median_interval), which no single step can move.

Caches that fill, and an allocator that gets to know its load, raise memory in block after block too, and then are done:
so a server's first hour is not judged, and growth is a finding once it comes to a tenth of what there was. A block that
lies a tenth lower has given that back: what came before counts no more.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from modelkeep.evidence import median_interval
from modelkeep.monitor.detector import Rising
from modelkeep.types import Finding

BLOCK = 120.0
"""Seconds."""
WARM_UP = 3600.0
"""Seconds from the first sample of a server, of which no rise counts."""
MATERIAL = 0.1
"""The share that memory must have grown by."""
TRIFLE = 0.1 / 86400
"""Growth of so small a share a second (a tenth a day) is none."""
MAX_RISES = 720
"""That the slope is told of: a day of them."""
PER_ALARM = 365 * 86400 / BLOCK
"""Blocks per false alarm: a year of them."""


class _Server:
    """One process, from its first sample on: the block that is gathered, and the rises of those before."""

    def __init__(self, at: float) -> None:
        self.born = self.began = self.newest = at
        self.bytes = 0.0
        self._block: list[float] = []
        self._last: float | None = None
        self._forget()

    def _forget(self) -> None:
        self.rises: list[float] = []
        self.rising = Rising(0.5, PER_ALARM)

    def add(self, at: float, size: float) -> None:
        """The next sample."""
        if at - self.began >= BLOCK:
            self._close()
            self.began = at
        self._block.append(size)
        self.newest, self.bytes = at, size

    def _close(self) -> None:
        now = median(self._block)
        if self._last is not None and self._last >= (1 + MATERIAL) * now:
            self._forget()
        elif self._last is not None and self.began - self.born >= WARM_UP:
            self.rises.append(now - self._last)
            del self.rises[:-MAX_RISES]
            self.rising.add(float(now - self._last > TRIFLE * BLOCK * self._last), self.began)
        self._last, self._block = now, []

    @property
    def evidence(self) -> float:
        """That it grows, as a logarithm."""
        return self.rising.evidence["log_evidence"]

    def finding(self) -> Finding | None:
        """See Leak."""
        if not self.rising.raised:
            return None
        since, rises = self.rising.since()
        grown = sum(self.rises[-len(rises) :])
        if grown < MATERIAL * (self.bytes - grown):
            return None
        slope, low, high = (x and x * 3600 / BLOCK for x in median_interval(self.rises[-len(rises) :]))
        assert slope is not None
        band = f" ({_mb(low)} to {_mb(high)})" if low is not None and high is not None else ""
        why = (
            f"the service's memory has grown in {int(rises.sum())} of {len(rises)} spans of {BLOCK / 60:g} minutes, by "
            f"{_mb(slope)} an hour{band}, to {_mb(self.bytes)}: something is never given back"
        )
        evidence: dict[str, Any] = {"slope": slope, "low": low, "high": high, "n": len(rises), "bytes": self.bytes}
        return Finding("health", "memory", why, evidence | self.rising.evidence, since)


class Leak:
    """Samples of servers' memory in bytes, in their order; ``process`` tells one server, or run of it, from the next.

    Of several at a time, the one that grows the most surely is told of.
    """

    def __init__(self) -> None:
        self._servers: dict[int, _Server] = {}
        self.n = 0

    def add(self, at: float, process: int, size: float) -> None:
        """The next sample. A server that was away for a while, or whose clock was set, begins anew."""
        self._servers = {key: one for key, one in self._servers.items() if abs(at - one.newest) <= 3 * BLOCK}
        self._servers.setdefault(process, _Server(at)).add(at, size)
        self.n += 1

    @property
    def _told(self) -> _Server:
        return max(self._servers.values(), key=lambda one: (one.evidence, one.newest))

    def finding(self) -> Finding | None:
        """That it grows on and on; None while that may be chance, or is little."""
        return self._told.finding() if self.n else None

    def numbers(self) -> dict[str, Any]:
        """Bytes now, and the slope in bytes an hour with its interval (95 %), where there are blocks enough."""
        told, per_hour = self._told, 3600 / BLOCK
        slope, low, high = median_interval(told.rises)
        found = {"n": self.n, "bytes": told.bytes, "slope": slope * per_hour if told.rises else None}
        return found | {name: None if end is None else end * per_hour for name, end in (("low", low), ("high", high))}

    def describe(self) -> str:
        """One line for a person."""
        if not self.n:
            return "memory: not known, for no server has told of it"
        numbers = self.numbers()
        if numbers["low"] is None:
            return f"memory {_mb(numbers['bytes'])}"
        told = f"{_mb(numbers['slope'])} an hour ({_mb(numbers['low'])} to {_mb(numbers['high'])})"
        return f"memory {_mb(numbers['bytes'])}, growing by {told}"


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
