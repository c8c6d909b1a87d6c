"""Successive halving in turns, and a final in pairs (Jamieson & Talwalkar 2016, arXiv:1502.07943)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.tune.bench import Bench
from modelkeep.types import ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

Tell = Callable[[int, int, ServeConfig], None]
SHORTEST = 0.1
"""Seconds of one measurement at least."""
TURNS = 2
"""Measurements of a setting in one round, each time in another order."""
HALVING = 0.6
"""Share of the budget for the rounds; the rest is for the final."""
PAIRS = 9
"""Of so many ratios, the median lies between the second smallest and the second largest with 96 % confidence, whatever
their distribution (the interval of the sign test)."""
FINALISTS = 3
"""Settings that may go to the final, where the ones before broke the promise in it."""
PATIENCE = 2.0
"""A slow model's requests outlast the time planned; beyond so many times of it the search ends with what it has."""


@dataclass(frozen=True)
class Gain:
    """Throughput over the naive setting: the median of the pairs, and its interval."""

    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0


class Halving:
    """The settings in the race, the naive one first. Times in seconds."""

    def __init__(
        self,
        benches: Mapping[ServeConfig, Bench],
        rows: Sequence[Arrays],
        *,
        p99: float,
        budget: float,
        concurrency: int,
        seed: int,
    ) -> None:
        self.benches, self.rows = benches, rows
        self.p99, self.budget, self.concurrency = p99, budget, concurrency
        self.naive = next(iter(benches))
        self._rng = np.random.default_rng(seed)
        self._end = math.inf

    def keeps(self, config: ServeConfig) -> bool:
        """Whether all that was measured of it keeps the promise."""
        found = self.benches[config].measured
        return found.percentile(0.99) <= self.p99 and not found.errors

    def rank(self, config: ServeConfig) -> tuple[bool, float]:
        """Those that keep the promise first, by throughput; the others by how far they miss it."""
        found, kept = self.benches[config].measured, self.keeps(config)
        return (not kept, -found.throughput if kept else found.percentile(0.99))

    # ── the rounds ───────────────────────────────────────────────────────────────────────────────────────────────

    async def halve(self, tell: Tell) -> list[ServeConfig]:
        """Every setting, from the best: each round measures those that are left, in turns, and drops the worse half."""
        left = list(self.benches)
        rounds = max(1, math.ceil(math.log2(len(left))))
        sizes = [math.ceil(len(left) / 2**n) for n in range(rounds)]
        lengths = [max(SHORTEST, self.budget * HALVING / rounds / size / TURNS) for size in sizes]
        planned = sum(size * length * TURNS for size, length in zip(sizes, lengths, strict=True))
        self._end = time.monotonic() + PATIENCE * planned + self.budget * (1 - HALVING)
        done, dropped = 0, list[ServeConfig]()
        for size, length in zip(sizes, lengths, strict=True):
            for _ in range(TURNS):
                for config in self._order(left, first=not done):
                    if done and self._late():
                        return [*sorted(left, key=self.rank), *dropped]
                    await self._measure(config, length)
                    done += 1
                    tell(done, sum(sizes) * TURNS, config)
            left.sort(key=self.rank)
            half = math.ceil(size / 2)
            left, dropped = left[:half], [*left[half:], *dropped]
        return [*left, *dropped]

    def _order(self, left: Sequence[ServeConfig], *, first: bool) -> list[ServeConfig]:
        """By chance; but the naive setting begins, so that there is something to fall back on."""
        shuffled = [left[i] for i in self._rng.permutation(len(left))]
        return sorted(shuffled, key=lambda c: c != self.naive) if first else shuffled

    def _late(self) -> bool:
        return time.monotonic() > self._end

    async def _measure(self, config: ServeConfig, seconds: float) -> float:
        bench = self.benches[config]
        return (await bench.run(self.rows, concurrency=self.concurrency, seconds=seconds)).throughput

    # ── the final ────────────────────────────────────────────────────────────────────────────────────────────────

    async def final(self, order: Sequence[ServeConfig]) -> tuple[ServeConfig, Gain]:
        """The first in the order that still keeps the promise after pairs with the naive setting, and its gain.

        The pairs are measured anew, for a setting may owe its place in the order to luck: where it is not faster in
        them, or breaks the promise, and the naive setting keeps it, the naive setting wins.
        """
        tried: dict[ServeConfig, Gain] = {}
        for config in [c for c in order if self.keeps(c)][:FINALISTS] or order[:1]:
            tried[config] = await self._pairs(config)
            if self.keeps(config):
                break
        winner = min(tried, key=self.rank)
        better = self.keeps(winner) and tried[winner].ratio > 1.0
        if self.keeps(self.naive) and not better:
            return self.naive, Gain()
        return winner, tried[winner]

    async def _pairs(self, config: ServeConfig) -> Gain:
        seconds = max(SHORTEST, self.budget * (1 - HALVING) / PAIRS / 2)
        ratios: list[float] = []
        for number in range(PAIRS):
            if ratios and self._late():
                break
            pair = (config, self.naive) if number % 2 else (self.naive, config)
            found = {c: await self._measure(c, seconds) for c in dict.fromkeys(pair)}
            ratios.append(found[config] / max(found[self.naive], 1e-9))
        ratios.sort()
        spare = int(len(ratios) == PAIRS)
        return Gain(float(np.median(ratios)), ratios[spare], ratios[-1 - spare])
