"""The search: the fastest setting that keeps the promise, of those whose answers hold."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modelkeep.errors import BadData, ModelkeepError
from modelkeep.model import folder
from modelkeep.model.signature import example
from modelkeep.tune import machine, results, space
from modelkeep.tune.admit import Admission, admitted, company
from modelkeep.tune.halving import Promise, Race
from modelkeep.tune.results import Gain, Outcome, label
from modelkeep.tune.rounds import SHORTEST, Entrant, Rounds, Window
from modelkeep.tune.space import Space
from modelkeep.types import Model, Report, ServeConfig

if TYPE_CHECKING:
    from modelkeep.data.dataset import Dataset
    from modelkeep.types import Arrays

Progress = Callable[[float, float, str], None]
MEMORY, PROCESS = 3.0, 300e6
"""Bytes of memory of a worker for each byte of a model's files, and besides for its engine; both guessed high."""
LONGEST = 3.0
"""Seconds of one measurement at most."""
MEASURING = 0.7
"""Share of the budget that is planned for measurements; the rest is for loading."""
UPHILL = 24
"""Measurements that the way uphill is expected to take."""
ADMITTING = 0.4
"""Share of the budget after which no more answers are compared."""
PROVING = 0.75
"""Share of the budget after which what is left goes to the pairs with the naive setting."""
PAIRS = 9
"""Of so many ratios, the median lies between the second smallest and the second largest with 96 % confidence, whatever
their distribution (evidence.median_interval)."""
FEWEST = 3
"""Pairs that are measured even where the time is up."""
MIXED = "; a row's answer depends on the other rows of its batch ({what}), so only batches of one row were tried"
TRIED = 3
"""Settings that may go to the pairs, where the ones before broke the promise in them."""


class Found(NamedTuple):
    """The best setting of the model, why, and the best settings of the other versions that took part."""

    config: ServeConfig
    report: Report
    others: Mapping[str, tuple[ServeConfig, Report]]


@dataclass(frozen=True)
class Tune:
    """``p99`` is the promise and ``budget`` the time to spend, both in seconds; ``concurrency`` requests in flight.

    ``min_throughput`` in requests a second is promised too. With ``rows`` and ``max_drop``, lower precisions are
    admitted by their accuracy (see admit.py). Everything counts into the budget: comparing answers, loading, measuring;
    it is exceeded by the setting under way, and where not even the naive setting was measured yet.
    """

    p99: float = 0.05
    budget: float = 60.0
    concurrency: int = 16
    seed: int = 0
    min_throughput: float = 0.0
    max_drop: float | None = None
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        """Raises BadData for rows without the labels that ``max_drop`` is judged by, before anything is measured."""
        if self.max_drop is not None and self.rows is not None and self.rows.labels is None:
            raise BadData(
                f"{self.rows.source} has no labels, and accuracy is judged by them; put them into an array 'labels' "
                "(.npz) or a column 'label' (.csv)"
            )

    def run(
        self,
        model: Model,
        *,
        others: Mapping[str, Model] | None = None,
        known: Sequence[Sequence[Window]] = (),
        remember: Callable[[Sequence[Window]], None] = lambda windows: None,
        progress: Progress | None = None,
    ) -> Found:
        """The best setting, and Report(kind="tune"): ok when it keeps the promise; ``candidates`` holds every setting.

        ``others`` are versions with other weights by their name, which may win a mention but never take the model's
        place. ``known`` are rounds measured before, under the same load, on this machine; ``remember`` is told each new
        one. Raises what loading the model raises when not even the naive setting runs, and Unsupported where no engine
        runs the format.
        """
        return asyncio.run(self._search({"": model, **(others or {})}, known, remember, progress))

    async def _search(
        self,
        models: Mapping[str, Model],
        known: Sequence[Sequence[Window]],
        remember: Callable[[Sequence[Window]], None],
        progress: Progress | None,
    ) -> Found:
        began = time.monotonic()

        def tell(entrant: Entrant) -> None:
            if progress is not None:
                spent = min(time.monotonic() - began, self.budget)
                progress(spent, self.budget, f"{entrant.of} {label(entrant.config)}".strip())

        end = began + self.budget * ADMITTING
        mixes = await company(models[""], end=end)
        spaces = {
            of: space.space(m, p99=self.p99, concurrency=self.concurrency, apart=bool(mixes))
            for of, m in models.items()
        }
        naive = Entrant(space.naive(models[""]))
        refused: dict[Entrant, str] = {}
        every = [Entrant(arm, of) for of, one in spaces.items() for arm in one.arms]
        fitting = [arm for arm in every if not _too_large(arm, models, refused)]
        admission = Admission(models, self.rows, self.max_drop)
        arms = await admitted(admission, fitting, refused, end=end)
        planned = len(arms) * 2 + UPHILL + 2 * PAIRS
        left = self.budget - (time.monotonic() - began)
        seconds = min(max(left * MEASURING / planned, SHORTEST), LONGEST)
        needs = sum(_memory(arm, models) for arm in arms)
        rounds = Rounds(
            models,
            requests(models[""], self.seed),
            concurrency=self.concurrency,
            end=began + self.budget * PROVING,
            seed=self.seed,
            known=known,
            remember=remember,
            tell=tell,
            stay=needs < machine.memory() / 2,
        )
        race = Race(rounds, Promise(self.p99, self.min_throughput), seconds)
        try:
            outcome = await self._race(race, naive, arms, spaces, apart=bool(mixes))
        finally:
            await rounds.close()
        unseen = dict.fromkeys(
            (a for a in arms if a not in rounds.windows),
            "not measured: the time was up; a longer --budget has room for it",
        )
        rounds.refused = refused | unseen | rounds.refused
        report = results.report(outcome, self, sum(len(s.settings()) for s in spaces.values()))
        report = replace(report, why=report.why + MIXED.format(what=mixes)) if mixes else report
        best = {e.of: e for e in reversed(race.ranked()) if e.of and not race.lacks(e)}
        others = {of: (entrant.config, results.aside(outcome, entrant)) for of, entrant in best.items()}
        return Found(outcome.winner.config, report, others)

    async def _race(
        self, race: Race, naive: Entrant, arms: Sequence[Entrant], spaces: Mapping[str, Space], *, apart: bool
    ) -> Outcome:
        """Engines and precisions, then the threads and workers of the best of them, then uphill, then the proof."""
        rounds = race.rounds
        ways: dict[tuple[str, str, str | None], list[Entrant]] = {}
        for arm in arms:
            ways.setdefault(_way(arm), []).append(arm)
        speakers = [Entrant(space.central([e.config for e in of_way]), of_way[0].of) for of_way in ways.values()]
        ahead = await race.halve([naive, *(s for s in speakers if s != naive)], keep=math.ceil(len(ways) / 2) + 1)
        if naive in rounds.refused or not rounds.windows:
            raise ModelkeepError(f"the model cannot be measured: {rounds.refused.get(naive, 'nothing was answered')}")
        if all(e.of for e in ahead):
            ahead.append(next(e for e in race.ranked() if not e.of))
        if layouts := [e for way in dict.fromkeys(map(_way, ahead)) for e in ways.get(way, ())]:
            ahead = await race.halve(layouts)
        if all(e.of for e in ahead):
            ahead.append(next(e for e in race.ranked() if not e.of))
        for entrant in ahead:
            if entrant != naive:
                await race.climb(entrant, spaces[entrant.of])
        admitted_ways = {*ways, _way(naive)}
        rounds.recall(
            lambda e: _way(e) in admitted_ways and not (apart and e.config.max_batch > 1),
            lambda pair: _proves(pair, naive),
        )
        rounds.end = max(rounds.end + self.budget * (1 - PROVING), time.monotonic() + 4 * FEWEST * race.seconds)
        searched = rounds.made + rounds.reused
        winner, gain = await self._prove(race, naive)
        proof = rounds.made + rounds.reused - searched
        if race.lacks(winner):
            return Outcome(race, naive, winner, gain, proof=proof, relief=await self._relief(race, winner))
        other = next((e for e in race.ranked() if e.of), None)
        if other is None or race.rank(other) > race.rank(winner):
            return Outcome(race, naive, winner, gain, proof=proof)
        return Outcome(race, naive, winner, gain, other, await self._pairs(race, other, winner), proof)

    async def _prove(self, race: Race, naive: Entrant) -> tuple[Entrant, Gain]:
        """The first of the ranked that still keeps the promise after pairs with the naive setting, and its gain.

        The pairs are measured anew, for a setting may owe its rank to luck: where it is not faster in them, or breaks
        the promise, and the naive setting keeps it, the naive setting wins.
        """
        own = [e for e in race.ranked() if not e.of]
        tried: dict[Entrant, Gain] = {}
        for entrant in [e for e in own if not race.lacks(e)][:TRIED] or own[:1]:
            tried[entrant] = await self._pairs(race, entrant, naive)
            if not race.lacks(entrant):
                break
        winner = min(tried, key=race.rank)
        if race.lacks(winner) and race.lacks(naive):
            nearest = min(own, key=race.rank)  # what was measured again in the pairs may have fallen behind
            return nearest, tried.get(nearest, Gain())
        better = not race.lacks(winner) and tried[winner].ratio > 1.0
        if not race.lacks(naive) and not better:
            return naive, Gain()
        return winner, tried[winner]

    async def _pairs(self, race: Race, entrant: Entrant, other: Entrant) -> Gain:
        before = len(race.rounds.ratios(entrant, other))
        if entrant == other:
            return Gain()
        for _ in range(PAIRS):
            if not await race.rounds.measure((other, entrant), race.seconds):
                break
        ratios = race.rounds.ratios(entrant, other)[before:]
        if not ratios:  # the time was up
            mine, theirs = (race.rounds.measured(e).throughput for e in (entrant, other))
            ratio = mine / max(theirs, 1e-9)
            return Gain(ratio)
        return Gain.of(ratios)

    async def _relief(self, race: Race, entrant: Entrant) -> tuple[int, float, int] | None:
        """Requests in flight, halved until the promise is kept, the throughput then and n; None where it never is."""
        fewer = self.concurrency // 2
        while fewer and not race.rounds.late:
            found = await race.rounds.at(entrant, fewer, race.seconds)
            if found.percentile(0.99) <= self.p99 and found.throughput >= self.min_throughput:
                return fewer, found.throughput, len(found.latencies)
            fewer //= 2
        return None


def _way(entrant: Entrant) -> tuple[str, str, str | None]:
    return entrant.of, entrant.config.engine, entrant.config.precision


def _proves(entrants: Sequence[Entrant], naive: Entrant) -> bool:
    """Whether these are a pair as the proof at the end measures them."""
    return len(entrants) == 2 and (naive in entrants or entrants[0].of != entrants[1].of)


def _memory(arm: Entrant, models: Mapping[str, Model]) -> float:
    """Bytes that its workers will need, guessed high."""
    return (MEMORY * models[arm.of].size + PROCESS) * arm.config.workers


def _too_large(arm: Entrant, models: Mapping[str, Model], refused: dict[Entrant, str]) -> bool:
    """Whether it would not fit beside its own update. One worker is tried in any case."""
    large = arm.config.workers > 1 and 2 * _memory(arm, models) > machine.memory() > 0
    if large:
        refused[arm] = f"{arm.config.workers} workers may need {_memory(arm, models) / 2**30:.1f} GiB of memory"
    return large


def requests(model: Model, seed: int = 0, count: int = 64) -> list[Arrays]:
    """Requests of one row each, or of as many as the model was baked for: reference rows, or else seeded ones."""
    rows = folder.reference(model.path)
    size = next((t.shape[0] for t in model.signature.inputs if t.shape and t.shape[0]), 1)
    if rows is None:
        return [example(model.signature, size, seed=seed + number) for number in range(count)]
    return [rows.take(np.arange(number * size, (number + 1) * size) % len(rows)).inputs for number in range(count)]
