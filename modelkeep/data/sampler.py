"""Which requests are kept where not all can be: a share of them, by id."""

from __future__ import annotations

import zlib

ALL = 2**32
BURST = 10
"""Seconds' worth of requests that one second may bring before it is known how many there are."""


def mark_of(request: str) -> int:
    """An id as 32 bits, the same everywhere, so that who keeps fewer requests keeps some of those that others keep."""
    return zlib.crc32(request.encode("utf-8", "replace"))


class Sampler:
    """Which requests are kept where more come than ``rate`` a second: a share of them, chosen by id, that follows the
    load of the second before. A first rush is kept up to BURST seconds' worth.

    Whether a request is kept depends on its id only, never on what became of it, so that what is seen of those kept
    holds for all.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._below = ALL
        self._since = self._came = self._kept = 0.0

    def wants(self, mark: int, now: float) -> bool:
        """Whether to keep the request of this ``mark`` (its id as 32 bits), which came at ``now`` (seconds)."""
        if now - self._since >= 1.0:
            rate = self._came / (now - self._since) if self._since else 0.0
            self._below = ALL if rate <= self.rate else int(ALL * self.rate / rate)
            self._since, self._came, self._kept = now, 0, 0
        self._came += 1
        if not self.has(mark) or self._kept >= BURST * self.rate:
            return False
        self._kept += 1
        return True

    def has(self, mark: int) -> bool:
        """Whether a request of this mark belongs to the share."""
        return mark < self._below
