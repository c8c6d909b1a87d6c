"""The race: successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943) with early ends, then steps uphill.

An entrant leaves the race when it is *beaten*: the upper bound of its throughput, as a ratio to the leader's in the
rounds that both had, lies below 1. The bound is Student's, of a spread that all pairs of the race share, and it is
Bonferroni's over every look at every rival, so that peeking costs nothing: with 95 % confidence the best was not
called beaten. Or it is *halved*, which claims nothing: the time goes to those that look better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from modelkeep.quantities import counted
from modelkeep.tune.figures import milliseconds, rate
from modelkeep.tune.rounds import Entrant, Rounds, Window
from modelkeep.tune.space import Space

CONFIDENCE = 0.95
PRIOR_SPREAD, PRIOR_WEIGHT = 0.15, 4
"""What the logarithm of a ratio of two windows is taken to vary by before there are enough pairs to tell, and how many
pairs that is worth: on a shared machine one window differs from the next by some 10 %."""
CLOSE = 0.01
"""A step that gains less is not taken."""
LONG = 2
"""Rounds of one step at most."""
FINALISTS = 2
"""Entrants that go uphill at most; fewer where the leader has beaten the others."""
RACES = 2
"""Calls of ``halve`` in one search, which share the chance of an error."""


@dataclass(frozen=True)
class Promise:
    """``p99`` in seconds, and answers a second at least."""

    p99: float
    throughput: float = 0.0


@dataclass
class Race:
    """Who is ahead, among entrants measured in ``rounds`` for ``seconds`` at a time; ``fate`` is why one left."""

    rounds: Rounds
    promise: Promise
    seconds: float
    fate: dict[Entrant, str] = field(default_factory=dict)
    _strengths: tuple[int, dict[Entrant, float]] = (0, {})

    def strength(self, entrant: Entrant) -> float:
        """The logarithm of its throughput, up to a constant: what it did beside the others of its rounds.

        Least squares over all windows of log throughput = setting + round. The mean alone would favour who was
        measured while the machine had nothing else to do.
        """
        if self._strengths[0] != self.rounds.number:
            self._strengths = (self.rounds.number, strengths(self.rounds.windows))
        return self._strengths[1].get(entrant, -math.inf)

    def lacks(self, entrant: Entrant) -> str:
        """What it lacks of the promise, by all that was measured of it; empty where it keeps it."""
        found = self.rounds.measured(entrant)
        p99 = found.percentile(0.99)
        lacks = []
        if found.errors:
            lacks.append(f"{counted(found.errors, 'request')} without an answer")
        if p99 > self.promise.p99:
            lacks.append(f"p99 {milliseconds(p99)} instead of {self.promise.p99 * 1e3:g} ms")
        if found.throughput < self.promise.throughput:
            lacks.append(f"{rate(found.throughput)} requests/s instead of {rate(self.promise.throughput)}")
        return " and ".join(lacks)

    def rank(self, entrant: Entrant) -> tuple[bool, float]:
        """Those that keep the promise first, by throughput; the others by how far they miss it."""
        found, kept = self.rounds.measured(entrant), not self.lacks(entrant)
        short = self.promise.throughput / max(found.throughput, 1e-9)
        return (not kept, -self.strength(entrant) if kept else max(found.percentile(0.99) / self.promise.p99, short))

    def ranked(self) -> list[Entrant]:
        """All that were measured and not refused, the best first."""
        return sorted((e for e in self.rounds.windows if e not in self.rounds.refused), key=self.rank)

    # ── halving ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def halve(self, entrants: Sequence[Entrant], keep: int = FINALISTS) -> list[Entrant]:
        """Measure all, drop the beaten, keep the better half, until at most ``keep`` are left. The best first."""
        left = list(entrants)
        rounds = max(math.ceil(math.log2(max(len(left), 2))), LONG + 1)  # _told_apart may ask for so many
        looks = RACES * rounds * max(len(left) - 1, 1)
        while True:
            whole = await self.rounds.measure(left, self.seconds)
            left = sorted((e for e in left if e in self.rounds.windows and e not in self.rounds.refused), key=self.rank)
            left = self._unbeaten(left, looks)
            if not whole or len(left) <= 1:
                return left[:keep]
            if len(left) > keep:
                half = max(keep, math.ceil(len(left) / 2))
                self.fate |= dict.fromkeys(left[half:], "behind when the field was halved")
                left = left[:half]
            if len(left) <= keep and (keep > FINALISTS or self._told_apart(left)):
                return left

    def _told_apart(self, left: Sequence[Entrant]) -> bool:
        """Whether each was measured often enough to say which way is up from it."""
        return min(len(self.rounds.windows[e]) for e in left) > LONG

    def _unbeaten(self, ranked: list[Entrant], looks: int) -> list[Entrant]:
        """Without those that the first has beaten; only one that keeps the promise beats anybody."""
        if not ranked or self.lacks(ranked[0]):
            return ranked
        left = ranked[:1]
        for entrant in ranked[1:]:
            high = self._bound(entrant, ranked[0], looks)
            if high < 1:
                self.fate[entrant] = f"beaten: at most {high:.2f}× {CONFIDENCE:.0%}-confidently"
            else:
                left.append(entrant)
        return left

    def _bound(self, entrant: Entrant, other: Entrant, looks: int) -> float:
        """The upper bound of the entrant's throughput over the other's."""
        logs = np.log(self.rounds.ratios(entrant, other))
        if not len(logs):
            return math.inf
        spread, weight = self._spread(other)
        reach = student((1 - CONFIDENCE) / looks, weight) * spread / math.sqrt(len(logs))
        return float(np.exp(logs.mean() + reach))

    def interval(self, entrant: Entrant, other: Entrant) -> tuple[float, float, float, int]:
        """The entrant's throughput over the other's, the ends of its 95 % interval, and n, the rounds that both had.

        The interval is of one comparison that was named before, two-sided; (nan, 0, inf, 0) where they had no round.
        """
        logs = np.log(self.rounds.ratios(entrant, other))
        if not len(logs):
            return math.nan, 0.0, math.inf, 0
        spread, weight = self._spread(other)
        reach = student((1 - CONFIDENCE) / 2, weight) * spread / math.sqrt(len(logs))
        mean = float(logs.mean())
        return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), len(logs)

    def _spread(self, other: Entrant) -> tuple[float, int]:
        """Of one log ratio, and its degrees of freedom: pooled over all that ran with ``other``."""
        squares, weight = PRIOR_WEIGHT * PRIOR_SPREAD**2, PRIOR_WEIGHT
        for entrant in self.rounds.windows:
            logs = np.log(self.rounds.ratios(entrant, other))
            if entrant != other and len(logs) > 1:
                squares += float(((logs - logs.mean()) ** 2).sum())
                weight += len(logs) - 1
        return math.sqrt(squares / weight), weight

    # ── uphill ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def climb(self, start: Entrant, space: Space) -> Entrant:
        """Step along max batch, then max wait, as long as that gains; where up gains nothing, down."""
        best = start
        for axis in ("max_batch", "max_wait"):
            for step in (1, -1):
                before = best
                while (config := space.beside(best.config, axis, step)) is not None and not self.rounds.late:
                    other = replace(best, config=config)
                    if other in self.rounds.windows or not await self._gains(other, best):
                        break
                    best = other
                if best != before:
                    break
        return best

    async def _gains(self, other: Entrant, best: Entrant) -> bool:
        """Whether a step is taken: measured in pairs, a second time where the first leaves it open."""
        for number in range(LONG):
            if not await self.rounds.measure((best, other), self.seconds) or other in self.rounds.refused:
                return False
            logs = np.log(self.rounds.ratios(other, best))
            if abs(logs.mean()) > 2 * self._spread(best)[0] or number + 1 == LONG:
                break
        if bool(self.lacks(other)) != bool(self.lacks(best)):
            return not self.lacks(other)
        if self.lacks(best):
            return self.rank(other) < self.rank(best)
        return float(logs.mean()) > CLOSE


def strengths(windows: Mapping[Entrant, Sequence[tuple[int, Window]]]) -> dict[Entrant, float]:
    """By entrant, its part of log throughput, in least squares over entrants and rounds."""
    seen = [
        (row, number, math.log(max(w.throughput, 1e-9))) for row, e in enumerate(windows) for number, w in windows[e]
    ]
    numbers = sorted({number for _, number, _ in seen})
    design = np.zeros((len(seen), len(windows) + len(numbers)))
    for line, (row, number, _) in enumerate(seen):
        design[line, row] = design[line, len(windows) + numbers.index(number)] = 1.0
    solution = np.linalg.lstsq(design, np.array([log for _, _, log in seen]), rcond=None)[0]
    return dict(zip(windows, solution[: len(windows)].tolist(), strict=True))


def student(tail: float, freedom: int) -> float:
    """The t that Student's distribution exceeds with this probability: its density, integrated over its angle."""
    angles = np.linspace(-math.pi / 2, math.pi / 2, 20_001)
    mass = np.cumsum(np.cos(angles) ** (freedom - 1))
    return float(np.tan(np.interp(1 - tail, mass / mass[-1], angles)) * math.sqrt(freedom))
