"""Health from the counts that a server keeps of all its requests, and of its memory (data.pulses)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from modelkeep.data import pulses
from modelkeep.metrics import SECONDS
from modelkeep.monitor.burn import Minute
from modelkeep.monitor.health import Health
from modelkeep.monitor.place import Place

if TYPE_CHECKING:
    from modelkeep.monitor.judged import Judged


class Vital:
    """The signs of life of one version; ``any`` is whether a server told some. Each look reads on where the last one
    ended."""

    def __init__(self, judged: Judged) -> None:
        self.judged = judged
        self._place = Place(judged.pulses, partial(pulses.newest, judged.pulses), lambda: 0)
        self.behind = False
        """Whether the last look left something for the next ones."""
        self._begin()

    def _begin(self) -> None:
        limits = self.judged.limits
        self.health = Health(limits.p99, self.judged.every, slo=limits.slo, silence=limits.silence)
        self.since: float | None = None
        self._memory_row = 0

    @property
    def any(self) -> bool:
        """Whether a server counted requests to the version."""
        return self.health.n > 0

    def look(self) -> None:
        """Take what is new."""
        if self._place.moved():
            self._begin()
        who = self.judged
        new = pulses.read(who.pulses, who.name, who.number, after=self._place.row, limit=who.most)
        memory = pulses.memory(who.pulses, after=self._memory_row, limit=who.most)
        self.behind = who.most in (len(new), len(memory))
        for pulse in new:
            self._place.row = pulse.row
            self.since = pulse.at if self.since is None else self.since
            self.health.add_pulse(pulse, SECONDS)
        for row, sample in memory:
            self._memory_row = row
            self.health.leak.add(*sample)
        if who.limits.slo is not None:
            self.health.minutes = [Minute(*one) for one in pulses.minutes(who.pulses, who.name, who.number)]
