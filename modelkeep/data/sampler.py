"""Which requests are kept where not all can be: a share of them, by id."""

from __future__ import annotations

import zlib

ALL = 2**32
BURST, REGAINED = 10.0, 0.1
"""Seconds' worth of requests that a rush may bring before it is known how many there are, once; and how much of a
second's worth each second gives back of that.
"""
HEAVY, FEWER = 2000.0, 0.2
"""Requests a second from which fewer are kept, in the end so large a part of the rate: answering them takes so little
that keeping others would show in how many are answered.
"""


def mark_of(request: str) -> int:
    """An id as 32 bits, the same everywhere, so that who keeps fewer requests keeps some of those that others keep."""
    return zlib.crc32(request.encode("utf-8", "replace"))


def passing_mark_of(request: str) -> int:
    """The same, sooner, for decisions that one process makes alone; no client can foresee it."""
    return hash(request) & (ALL - 1)


class Share:
    """What one reader keeps of a track, where more come than ``rate`` a second (see HEAVY): a share, chosen by id.

    Whether a request is kept depends on its id only, never on what became of it, so that what is seen of those kept
    holds for all. Shares of one Sampler are nested: the smaller is part of the larger.
    """

    __slots__ = ("_kept", "_most", "_spare", "below", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.below = ALL if rate > 0 else 0
        self._spare = BURST * rate
        self._kept, self._most = 0, rate + self._spare

    def has(self, mark: int) -> bool:
        """Whether a request of this mark belongs to the share."""
        return mark < self.below

    def wants(self, mark: int) -> bool:
        """Whether to keep the request of this mark; asked once for each that belongs to the share."""
        if mark >= self.below or self._kept >= self._most:
            return False
        self._kept += 1
        return True

    def turn(self, load: float, seconds: float) -> None:
        """``load`` requests a second came in the last ``seconds``; as many are expected from now on."""
        over = max(self._kept - self.rate, 0.0)
        self._spare = min(max(self._spare - over, 0.0) + REGAINED * self.rate * seconds, BURST * self.rate)
        rate = self.rate * max(FEWER, HEAVY / load) if load > HEAVY else self.rate
        self._kept, self._most = 0, rate + self._spare
        self.below = ALL if load <= rate else int(ALL * rate / load)


class Sampler:
    """Counts the requests of one track, and sets the Share of each reader by how many came in the second before."""

    __slots__ = ("_below", "_came", "_due", "_since", "shares")

    def __init__(self, *rates: float) -> None:
        self.shares = tuple(Share(rate) for rate in rates)
        self._since, self._due, self._came = 0.0, 0.0, 0
        self._below = max(share.below for share in self.shares)

    def counts(self, mark: int, now: float) -> bool:
        """Count the request of this mark, which came at ``now`` (seconds); whether any share may have it."""
        if now >= self._due:
            self._turn(now)
        self._came += 1
        return mark < self._below

    def _turn(self, now: float) -> None:
        seconds = now - self._since if self._since else 1.0
        for share in self.shares:
            share.turn(self._came / seconds, seconds)
        self._since, self._due, self._came = now, now + 1.0, 0
        self._below = max(share.below for share in self.shares)
