"""A memory leak: does the service's memory grow on and on?

Memory moves in steps: a version is loaded, a cache fills, a large request comes. A line through that has a slope and
means nothing. So time is cut into blocks, each block gives the median of its samples, and what counts is only whether a
block lies above the one before by more than a trifle: a step is one rise, and a leak is a rise in nearly every block.
Under "a block rises with a chance of one half at most" the rises are bets as any other (detector.py). The slope is the
median of the rises, with the interval of the sign test (evidence.median_interval), which no single step can move.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from modelkeep.evidence import median_interval
from modelkeep.monitor.detector import Rising
from modelkeep.types import Finding

BLOCK = 120.0
"""Seconds."""
TRIFLE = 0.1 / 86400
"""Growth of so small a share a second (a tenth a day) is none."""
MAX_RISES = 720
"""That the slope is told of: a day of them."""
PER_ALARM = 365 * 86400 / BLOCK
"""Blocks per false alarm: a year of them."""


class Leak:
    """Samples of one service's memory in bytes, in their order; ``process`` tells one run of it from the next."""

    def __init__(self) -> None:
        self._rising = Rising(0.5, PER_ALARM)
        self._rises: list[float] = []
        self._block: list[float] = []
        self._began = 0.0
        self._process: int | None = None
        self._last: float | None = None
        self.bytes = 0.0
        self.n = 0

    def add(self, at: float, process: int, size: float) -> None:
        """The next sample. After a restart or a gap, the next block is compared with none."""
        if process != self._process or at - self._began > 3 * BLOCK:
            self._process, self._last, self._block, self._began = process, None, [], at
        elif at - self._began >= BLOCK:
            self._close()
            self._began = at
        self._block.append(size)
        self.bytes = size
        self.n += 1

    def _close(self) -> None:
        now = median(self._block)
        if self._last is not None:
            rise = now - self._last
            self._rises.append(rise)
            del self._rises[:-MAX_RISES]
            self._rising.add(float(rise > TRIFLE * BLOCK * self._last), self._began)
        self._last, self._block = now, []

    def finding(self) -> Finding | None:
        """That it grows on and on; None while that may be chance."""
        if not self._rising.raised:
            return None
        since, rises = self._rising.since()
        slope, low, high = (
            None if x is None else x * 3600 / BLOCK for x in median_interval(self._rises[-len(rises) :])
        )
        assert slope is not None
        band = f" ({_mb(low)} to {_mb(high)})" if low is not None and high is not None else ""
        why = (
            f"the service's memory has grown in {int(rises.sum())} of {len(rises)} spans of {BLOCK / 60:g} minutes, by "
            f"{_mb(slope)} an hour{band}, to {_mb(self.bytes)}: something is never given back"
        )
        evidence: dict[str, Any] = {"slope": slope, "low": low, "high": high, "n": len(rises), "bytes": self.bytes}
        evidence["log_evidence"] = float(self._rising.detector.log_evidence[0])
        evidence["log_threshold"] = self._rising.detector.needed
        return Finding("health", "memory", why, evidence, since)

    def numbers(self) -> dict[str, Any]:
        """Bytes now, and the slope in bytes an hour with its interval (95 %), where there are blocks enough."""
        slope, low, high = median_interval(self._rises)
        per_hour = 3600 / BLOCK
        found = {"n": self.n, "bytes": self.bytes, "slope": None if not self._rises else slope * per_hour}
        return found | {name: None if end is None else end * per_hour for name, end in (("low", low), ("high", high))}

    def describe(self) -> str:
        """One line for a person."""
        if not self.n:
            return "memory: not known, for no server has told of it"
        numbers = self.numbers()
        if numbers["low"] is None:
            return f"memory {_mb(self.bytes)}"
        told = f"{_mb(numbers['slope'])} an hour ({_mb(numbers['low'])} to {_mb(numbers['high'])})"
        return f"memory {_mb(self.bytes)}, growing by {told}"


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
