"""The search: halve the field in interleaved rounds until the fastest setting that keeps the promise is left."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.errors import ModelkeepError
from modelkeep.model import compare, engines, folder
from modelkeep.model.signature import example
from modelkeep.tune import space
from modelkeep.tune.bench import Bench, answered, doubt
from modelkeep.types import Model, Report, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

Progress = Callable[[int, int, str], None]
SHORTEST = 0.1
"""Seconds of one measurement at least."""
FINAL_PAIRS = 8
"""Interleaved rounds of winner and naive setting, which give the gain its interval."""


@dataclass(frozen=True)
class Tune:
    """``p99`` is the promise and ``budget`` the time to spend, both in seconds; ``concurrency`` requests in flight.

    Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): every round measures each setting that is left,
    one after the other so that noise of the machine hits all, and drops the worse half.
    """

    p99: float = 0.05
    budget: float = 60.0
    concurrency: int = 16
    seed: int = 0

    def run(self, model: Model, *, progress: Progress | None = None) -> tuple[ServeConfig, Report]:
        """The best setting, and Report(kind="tune"): ok when it keeps the promise; ``candidates`` holds every setting.

        Raises what loading the model raises when not even the naive setting runs.
        """
        return asyncio.run(self._search(model, progress or (lambda done, total, note: None)))

    async def _search(self, model: Model, progress: Progress) -> tuple[ServeConfig, Report]:
        rows = requests(model, self.seed)
        settings = space.candidates(model)
        refused = self._refused(model, settings)
        benches: dict[ServeConfig, Bench] = {}
        try:
            for config in settings:
                if config not in refused:
                    self._bring(model, config, benches, refused)
            field = list(benches)
            rounds = max(1, math.ceil(math.log2(len(field))))
            spent = 0
            left = field
            for _ in range(rounds):
                seconds = max(SHORTEST, self.budget * 0.6 / rounds / len(left))
                for config in left:
                    await benches[config].run(rows, concurrency=self.concurrency, seconds=seconds)
                    spent += 1
                    progress(spent, sum(math.ceil(len(field) / 2**n) for n in range(rounds)), label(config))
                left = sorted(left, key=lambda c: self._rank(benches[c]))[: math.ceil(len(left) / 2)]
            winner = min(left, key=lambda c: self._rank(benches[c]))
            answered(benches[winner].measured)
            gain = await self._gain(benches[winner], benches[field[0]], rows)
        finally:
            for bench in benches.values():
                await bench.close()
        return winner, self._report(winner, benches, refused, gain)

    def _bring(
        self, model: Model, config: ServeConfig, benches: dict[ServeConfig, Bench], refused: dict[ServeConfig, str]
    ) -> None:
        """Load it; a setting that does not run is refused, unless it is the naive one, which comes first."""
        try:
            benches[config] = Bench(model, config)
        except ModelkeepError as error:
            if not benches:
                raise
            refused[config] = str(error)

    def _rank(self, bench: Bench) -> tuple[bool, float]:
        """Those that keep the promise first, by throughput; the others by how far they miss it."""
        tail = bench.measured.percentile(0.99)
        kept = tail <= self.p99 and not bench.measured.errors
        return (not kept, -bench.measured.throughput if kept else tail)

    async def _gain(self, winner: Bench, naive: Bench, rows: Sequence[Arrays]) -> dict[str, float]:
        """Throughput of the winner over the naive setting, in pairs, with a 95 % bootstrap interval."""
        if winner is naive:
            return {"ratio": 1.0, "low": 1.0, "high": 1.0}
        seconds = max(SHORTEST, self.budget * 0.4 / FINAL_PAIRS / 2)
        ratios = []
        for number in range(FINAL_PAIRS):
            pair = (winner, naive) if number % 2 else (naive, winner)
            found = {b: await b.run(rows, concurrency=self.concurrency, seconds=seconds) for b in pair}
            ratios.append(found[winner].throughput / max(found[naive].throughput, 1e-9))
        rng = np.random.default_rng(self.seed)
        medians = np.median(rng.choice(ratios, (2000, FINAL_PAIRS)), axis=1)
        low, high = np.quantile(medians, [0.025, 0.975]).tolist()
        return {"ratio": float(np.median(ratios)), "low": low, "high": high}

    def _refused(self, model: Model, settings: Sequence[ServeConfig]) -> dict[ServeConfig, str]:
        """Settings whose engine does not load, or does not answer as the default engine does."""
        rows = folder.reference(model.path)
        verdicts: dict[str, str] = {}
        with contextlib.closing(engines.load(model, settings[0])) as reference:
            for engine in dict.fromkeys(config.engine for config in settings[1:]):
                try:
                    with contextlib.closing(engines.load(model, ServeConfig(engine=engine))) as other:
                        report = compare.compare(reference, other, rows)
                        verdicts[engine] = "" if report.ok else report.why
                except ModelkeepError as error:
                    verdicts[engine] = str(error)
        return {c: verdicts[c.engine] for c in settings[1:] if verdicts[c.engine]}

    def _report(
        self,
        winner: ServeConfig,
        benches: dict[ServeConfig, Bench],
        refused: dict[ServeConfig, str],
        gain: dict[str, float],
    ) -> Report:
        table: list[dict[str, Any]] = []
        for config, bench in benches.items():
            found = bench.measured
            kept = not self._rank(bench)[0]
            table.append(
                {
                    "config": asdict(config),
                    "throughput": found.throughput,
                    "p50": found.percentile(0.5),
                    "p99": found.percentile(0.99),
                    "n": len(found.latencies),
                    "verdict": "chosen" if config == winner else "keeps it" if kept else "misses it",
                }
            )
        best = benches[winner].measured
        ok = not self._rank(benches[winner])[0]
        said = f"{label(winner)}: {best.throughput:.0f} requests/s, p99 {best.percentile(0.99) * 1e3:.3g} ms"
        gained = f"{gain['ratio']:.2f}× the naive setting ({gain['low']:.2f} to {gain['high']:.2f})"
        promise = f"the promise of p99 ≤ {self.p99 * 1e3:g} ms"
        why = f"{said}, keeps {promise}; {gained}" if ok else f"no setting keeps {promise}; the nearest is {said}"
        numbers = {
            "config": asdict(winner),
            "candidates": table,
            "refused": [{"config": asdict(c), "why": w} for c, w in refused.items()],
            "gain": gain,
            "p99": best.percentile(0.99),
            "throughput": best.throughput,
        }
        return Report("tune", ok, why + doubt(len(best.latencies)), numbers, f"{self.concurrency} requests in flight")


def requests(model: Model, seed: int = 0, count: int = 64) -> list[Arrays]:
    """Requests of one row each: reference rows where there are any, else seeded ones."""
    rows = folder.reference(model.path)
    if rows is None:
        return [example(model.signature, 1, seed=seed + number) for number in range(count)]
    return [rows.take([number % len(rows)]).inputs for number in range(count)]


def label(config: ServeConfig) -> str:
    """A setting in a few words."""
    threads = f"{config.threads} thread{'s' if config.threads != 1 else ''}" if config.threads else "its own threads"
    workers = f", {config.workers} workers" if config.workers > 1 else ""
    return f"{config.engine}, {threads}{workers}, max batch {config.max_batch}"
