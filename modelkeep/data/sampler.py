"""Which requests are kept where not all can be: a share of them, chosen at random as they come."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from math import log, log1p
from random import random

from modelkeep import system

ALL = 2**32
BURST, REGAINED = 4.0, 0.1
"""Seconds' worth of requests that a rush may bring before it is known how many there are, once; and how much of a
second's worth each second gives back of that.
"""
HEAVY, FEWER = 1000.0, 0.1
"""Requests a second from which fewer are kept, in the end so large a part of the rate; as few where the thread that
answers is busy all the time (from half of it on fewer), for keeping one takes about as long as a small model's answer.
"""
NEVER = sys.maxsize


def mark_of(request: str) -> int:
    """An id as 32 bits, the same everywhere, so that who keeps fewer requests keeps some of those that others keep."""
    return zlib.crc32(request.encode("utf-8", "replace"))


class Share:
    """What one reader keeps of a track, where more come than ``rate`` a second (see HEAVY): each with the same
    ``chance``, until there are more than a rush may bring.
    """

    __slots__ = ("_spare", "_turned", "chance", "enough", "kept", "rate")

    def __init__(self, rate: float) -> None:
        self.rate, self.kept = rate, 0
        self.chance = 1.0 if rate > 0 else 0.0
        """Of the next request to be kept, while ``kept`` is less than ``enough``."""
        self._spare = BURST * rate
        self._turned, self.enough = 0, rate + self._spare

    def turn(self, load: float, seconds: float, busy: float) -> None:
        """``load`` requests a second came in the last ``seconds``, of which the thread was ``busy`` for so large a
        part; as many are expected from now on.
        """
        over = max(self.kept - self._turned - self.rate, 0.0)
        self._spare = min(max(self._spare - over, 0.0) + REGAINED * self.rate * seconds, BURST * self.rate)
        spare = min(1.0, 2.0 * (1.0 - busy), HEAVY / load if load else 1.0)
        rate = self.rate * max(FEWER, spare)
        self._turned, self.enough = self.kept, self.kept + rate + self._spare
        self.chance = min(rate / load, 1.0) if load else float(rate > 0)


class Sampler:
    """Chooses among the requests of one track, as each comes and before anything is known of it, so that what is seen
    of those kept holds for all. The chance of each reader's Share follows how many came in the second before.

    How many to pass over is drawn once for all of them (a geometric distribution). Whoever asks takes 1 from ``left``,
    and calls ``choose`` where that leaves nothing or the time is ``due``: a request that nobody keeps costs no call,
    which takes a microsecond between the answers of a busy server, where nothing is in the processor's cache. Who has
    the smaller chance keeps some of what the others keep. ``ran`` is seconds that the thread that asks, which is the
    one that answers, had to do something.
    """

    __slots__ = ("_before", "_chance", "_gap", "_log", "_ran", "_running", "_since", "_turned", "due", "left", "shares")

    def __init__(self, *rates: float, ran: Callable[[], float] = system.ran) -> None:
        self.shares = tuple(Share(rate) for rate in rates)
        self._running = ran
        self._since = self.due = self._ran = 0.0
        self._before = self._turned = 0
        self._gap = self.left = 0
        self._chance = self._log = 0.0  # the greatest chance of all, and the logarithm of none
        self._draw()

    @property
    def came(self) -> int:
        """How many were counted."""
        return self._before + self._gap - self.left

    def passed(self, reader: int) -> int:
        """How many came that this reader does not keep."""
        return self.came - self.shares[reader].kept

    def choose(self, now: float) -> int:
        """Who keeps the request that came at ``now`` (seconds) and was taken from ``left``: 1 for the first reader, 2
        for the second, …, added up, and 0 for nobody.
        """
        if now >= self.due:
            self.left += 1
            self._turn(now)
            self.left -= 1
        if self.left:
            return 0
        lot, found, reader = random() * self._chance, 0, 1
        for share in self.shares:
            if lot < share.chance and share.kept < share.enough:
                share.kept += 1
                found |= reader
            reader += reader
        self._draw()
        return found

    def _draw(self) -> None:
        """How many come until the next that somebody keeps."""
        self._before += self._gap - self.left
        greatest = 0.0
        for share in self.shares:
            if share.chance > greatest and share.kept < share.enough:
                greatest = share.chance
        if greatest != self._chance:
            self._chance, self._log = greatest, log1p(-greatest) if greatest < 1 else 0.0
        if self._log:
            self._gap = 1 + int(log(1 - random()) / self._log)
        else:
            self._gap = 1 if greatest else NEVER
        self.left = self._gap

    def _turn(self, now: float) -> None:
        seconds, ran = (now - self._since if self._since else 1.0), self._running()
        busy = min((ran - self._ran) / seconds, 1.0) if self._since else 0.0
        for share in self.shares:
            share.turn((self.came - self._turned) / seconds, seconds, busy)
        self._since, self.due, self._turned, self._ran = now, now + 1.0, self.came, ran
        self._draw()
