"""Rounds of measurements: what is to be compared is measured in turn, remembered, and never measured again.

What was measured together shared the machine's mood, so ratios are taken within rounds only. Where a round was measured
before in part (by an earlier search, or one that was killed), the rest is a round of its own, with the best of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.errors import ModelkeepError
from modelkeep.tune.bench import Bench
from modelkeep.tune.load import Measured
from modelkeep.types import Model, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

SHORTEST = 0.1
"""Seconds of one measurement at least."""
POINTS = 101
"""Quantiles that are kept of a measurement's latencies."""
SAME = 0.5
"""A remembered measurement may be so much shorter than the one that is asked for."""
PATIENCE = 60.0
"""Seconds that loading one setting, or one measurement beyond its length, may take; then it counts as hung."""
LOADING, LEAST = 1 / 3, 10.0
"""Share of the time left that loading one setting may take, but for so many seconds in any case."""


@dataclass(frozen=True)
class Entrant:
    """A setting of a model; ``of`` names the version where it is not the one that is tuned."""

    config: ServeConfig
    of: str = ""


@dataclass(frozen=True)
class Window:
    """One measurement. ``quantiles`` are of the latencies in seconds; ``memory`` is bytes that loading it took."""

    entrant: Entrant
    n: int
    seconds: float
    quantiles: tuple[float, ...]
    errors: int = 0
    trouble: str = ""
    memory: int | None = None

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.n / self.seconds if self.seconds else 0.0

    def latencies(self) -> list[float]:
        """As many as there were, spread as the quantiles say."""
        points = np.linspace(0, 1, len(self.quantiles))
        return np.interp(np.linspace(0, 1, self.n), points, self.quantiles).tolist() if self.n else []

    def to_json(self) -> dict[str, Any]:
        """A form that ``from_json`` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Window:
        """The Window that ``to_json`` wrote."""
        known = {f.name for f in fields(ServeConfig)}
        config = ServeConfig(**{k: v for k, v in data["entrant"]["config"].items() if k in known})
        rest = {k: data[k] for k in ("n", "seconds", "errors", "trouble", "memory")}
        return cls(Entrant(config, data["entrant"]["of"]), quantiles=tuple(data["quantiles"]), **rest)

    @classmethod
    def of(cls, entrant: Entrant, found: Measured, memory: int | None) -> Window:
        """What a run of a bench found."""
        shares = np.linspace(0, 1, POINTS)
        quantiles = np.quantile(found.latencies, shares) if found.latencies else np.zeros(0)
        rounded = tuple(float(f"{q:.5g}") for q in quantiles)
        return cls(entrant, len(found.latencies), found.seconds, rounded, found.errors, found.trouble, memory)


class Rounds:
    """All that was measured, by entrant and round. Made and used inside one event loop.

    ``known`` are rounds of earlier searches; ``remember`` is called with each new one. With ``stay`` False a
    model is in memory only while it is measured. No measurement begins after ``end`` (time.monotonic), but the first.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        rows: Sequence[Arrays],
        *,
        concurrency: int,
        end: float,
        seed: int = 0,
        known: Sequence[Sequence[Window]] = (),
        remember: Callable[[Sequence[Window]], None] = lambda windows: None,
        tell: Callable[[Entrant], None] = lambda entrant: None,
        stay: bool = True,
    ) -> None:
        self.models, self.rows, self.concurrency, self.end = models, rows, concurrency, end
        self.windows: dict[Entrant, list[tuple[int, Window]]] = {}
        self.refused: dict[Entrant, str] = {}
        self.made = self.reused = 0
        self._known, self._remember, self._tell, self._stay = [list(r) for r in known], remember, tell, stay
        self._benches: dict[Entrant, Bench] = {}
        self._rng = np.random.default_rng(seed)
        self.number = 0

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end

    def measured(self, entrant: Entrant) -> Measured:
        """All of an entrant's measurements as one."""
        whole = Measured()
        for _, window in self.windows.get(entrant, ()):
            whole.extend(Measured(window.latencies(), window.seconds, window.errors, window.trouble))
        return whole

    def memory(self, entrant: Entrant) -> int | None:
        """Bytes that loading it took, where that could be told."""
        return next((w.memory for _, w in self.windows.get(entrant, ()) if w.memory is not None), None)

    def ratios(self, entrant: Entrant, other: Entrant) -> list[float]:
        """Throughput over the other's, of each round that has both."""
        theirs = {number: window.throughput for number, window in self.windows.get(other, ())}
        mine = self.windows.get(entrant, ())
        return [max(w.throughput, 1e-9) / max(theirs[n], 1e-9) for n, w in mine if n in theirs]

    async def measure(self, entrants: Sequence[Entrant], seconds: float) -> bool:
        """One round: each of them once, in an order by chance. False where the time was up before all had their turn.

        An entrant that does not load, does not answer or hangs is refused, and is left out from then on.
        """
        wanted = [e for e in entrants if e not in self.refused]
        while known := self._take(wanted, seconds):
            self._record(known)
            there = {w.entrant for w in known}
            if not (rest := [e for e in wanted if e not in there]):
                return True
            wanted = [max(known, key=lambda w: w.throughput).entrant, *rest]
        found: list[Window] = []
        for entrant in self._order(wanted):
            if self.late and (found or self.windows):
                break
            self._tell(entrant)
            first = not (found or self.windows)
            if (window := await self._measure(entrant, seconds, first=first)) is not None:
                found.append(window)
        self.made += len(found)
        if found:
            self._remember(found)
        self._record(found)
        return len(found) == len([e for e in wanted if e not in self.refused])

    def recall(self, may: Callable[[Entrant], bool], apart: Callable[[Sequence[Entrant]], bool]) -> None:
        """Take in all else that is known of those who ``may`` win, so that a short search does not undo a long one.

        Rounds of those that ``apart`` names stay where they are, for a measurement that asks for them.
        """
        left = []
        for known in self._known:
            there = [window.entrant for window in known]
            if apart(there) or not all(map(may, there)):
                left.append(known)
                continue
            self.reused += len(known)
            self._record(known)
        self._known = left

    def _record(self, found: Sequence[Window]) -> None:
        self.number += 1
        for window in found:
            self.windows.setdefault(window.entrant, []).append((self.number, window))

    def _take(self, wanted: Sequence[Entrant], seconds: float) -> list[Window]:
        """Of the rounds of before, the one that has most of them: two at least, or all. Each is taken once."""
        best: list[Window] = []
        at = 0
        for number, known in enumerate(self._known):
            there = {w.entrant: w for w in known if w.seconds >= SAME * seconds}
            found = [there[entrant] for entrant in wanted if entrant in there]
            if len(found) > len(best):
                best, at = found, number
        if not best or len(best) < min(2, len(wanted)):
            return []
        del self._known[at]
        self.reused += len(best)
        return best

    def _order(self, entrants: Sequence[Entrant]) -> list[Entrant]:
        """By chance; but the first one begins the first round, so that there is something to fall back on."""
        shuffled = [entrants[i] for i in self._rng.permutation(len(entrants))]
        return sorted(shuffled, key=lambda e: e != entrants[0]) if not self.windows else shuffled

    async def _measure(self, entrant: Entrant, seconds: float, *, first: bool) -> Window | None:
        bench = await self._bench(entrant, first=first)
        if bench is None:
            return None
        try:
            async with asyncio.timeout(seconds + PATIENCE):
                await bench.use(entrant.config)
                await bench.lap(self.rows, concurrency=self.concurrency)
                found = await bench.run(self.rows, concurrency=self.concurrency, seconds=seconds)
        except TimeoutError:
            await self._refuse(entrant, f"no answer within {seconds + PATIENCE:.0f} s")
            return None
        if not found.latencies:
            await self._refuse(entrant, found.trouble or "it answered nothing")
            return None
        return Window.of(entrant, found, bench.memory)

    async def _bench(self, entrant: Entrant, *, first: bool = False) -> Bench | None:
        """Loaded. Settings that differ in their batches only share an engine.

        The ``first`` has all of PATIENCE, however short the budget is, for without it there is nothing to tell; a cold
        disk may well take that long.
        """
        key = _engine(entrant)
        if key in self._benches:
            return self._benches[key]
        bench = Bench(self.models[entrant.of], entrant.config, stay=self._stay)
        share = (self.end - time.monotonic()) * LOADING
        limit = max(PATIENCE, share) if first else min(PATIENCE, max(LEAST, share))
        try:
            async with asyncio.timeout(limit):
                await bench.open()
        except TimeoutError:
            self.refused[entrant] = f"it was not loaded within {limit:.0f} s, its share of the budget"
            self.refused[entrant] += "; give a longer --budget" if first else ""
            return None
        except ModelkeepError as error:
            self.refused[entrant] = str(error)
            return None
        self._benches[key] = bench
        return bench

    async def _refuse(self, entrant: Entrant, why: str) -> None:
        self.refused[entrant] = why
        await _closed(self._benches.pop(_engine(entrant)))

    async def at(self, entrant: Entrant, concurrency: int, seconds: float) -> Measured:
        """A measurement under another load, which no other is compared with. Empty where it hangs or is refused."""
        found = Measured()
        bench = await self._bench(entrant)
        if bench is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds + PATIENCE):
                    await bench.use(entrant.config)
                    found = await bench.run(self.rows, concurrency=concurrency, seconds=seconds)
        return found

    async def close(self) -> None:
        """Give the memory back, but of what hangs."""
        for bench in self._benches.values():
            await _closed(bench)


def _engine(entrant: Entrant) -> Entrant:
    """Equal for entrants that may share a loaded model."""
    return replace(entrant, config=replace(entrant.config, max_batch=1, max_wait=0.0))


async def _closed(bench: Bench) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE / 10):
            await bench.close()
