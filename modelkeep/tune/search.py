"""The search: the fastest setting that keeps the promise, of those that answer as the default engine does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from modelkeep.errors import ModelkeepError
from modelkeep.model import compare, engines, folder
from modelkeep.model.signature import example
from modelkeep.tune import machine, space
from modelkeep.tune.bench import Bench, answered, doubt
from modelkeep.tune.halving import Gain, Halving
from modelkeep.types import Model, Report, Runner, ServeConfig

if TYPE_CHECKING:
    from modelkeep.data.dataset import Dataset
    from modelkeep.types import Arrays

Progress = Callable[[int, int, str], None]
MEMORY = 3.0
"""Bytes of memory for each byte of a model's files, guessed high."""


@dataclass(frozen=True)
class Tune:
    """``p99`` is the promise and ``budget`` the time to spend, both in seconds; ``concurrency`` requests in flight.

    See halving.py. What is loaded and compared before comes on top of the budget.
    """

    p99: float = 0.05
    budget: float = 60.0
    concurrency: int = 16
    seed: int = 0

    def run(self, model: Model, *, progress: Progress | None = None) -> tuple[ServeConfig, Report]:
        """The best setting, and Report(kind="tune"): ok when it keeps the promise; ``candidates`` holds every setting.

        Raises what loading the model raises when not even the naive setting runs, and Unsupported where no engine runs
        the format.
        """
        return asyncio.run(self._search(model, progress or (lambda done, total, note: None)))

    async def _search(self, model: Model, progress: Progress) -> tuple[ServeConfig, Report]:
        settings = space.candidates(model)
        refused = self._refused(model, settings)
        # all of them stay loaded where memory allows it, or each would be loaded again for each measurement
        stay = MEMORY * model.size * (len(settings) - len(refused)) < machine.memory() / 2
        benches: dict[ServeConfig, Bench] = {}
        try:
            for config in settings:
                if config not in refused:
                    await self._bring(Bench(model, config, stay=stay), benches, refused)
            rows = requests(model, self.seed)
            race = Halving(
                benches, rows, p99=self.p99, budget=self.budget, concurrency=self.concurrency, seed=self.seed
            )
            order = await race.halve(lambda done, total, config: progress(done, total, label(config)))
            answered(benches[order[0]].measured)
            winner, gain = await race.final(order)
        finally:
            for bench in benches.values():
                await bench.close()
        return winner, self._report(winner, race, refused, gain)

    async def _bring(self, bench: Bench, benches: dict[ServeConfig, Bench], refused: dict[ServeConfig, str]) -> None:
        """Load it; a setting that does not run is refused, unless it is the naive one, which comes first."""
        try:
            await bench.open()
        except ModelkeepError as error:
            if not benches:
                raise
            refused[bench.config] = str(error)
        else:
            benches[bench.config] = bench
            await bench.rest()

    def _refused(self, model: Model, settings: Sequence[ServeConfig]) -> dict[ServeConfig, str]:
        """Settings of engines that do not load, or do not answer as the default engine does."""
        default = settings[0].engine
        verdicts = {config.engine: "" for config in settings}
        if len(verdicts) > 1:
            rows = folder.reference(model.path)
            with contextlib.closing(engines.load(model, settings[0])) as reference:
                for engine in verdicts.keys() - {default}:
                    verdicts[engine] = _difference(model, reference, engine, rows)
        return {config: verdicts[config.engine] for config in settings if verdicts[config.engine]}

    def _report(self, winner: ServeConfig, race: Halving, refused: dict[ServeConfig, str], gain: Gain) -> Report:
        refused, table = dict(refused), list[dict[str, Any]]()
        for config, bench in race.benches.items():
            if not bench.measured.latencies:
                refused[config] = bench.measured.trouble or "not measured: the requests took all of the time"
                continue
            verdict = "chosen" if config == winner else "keeps it" if race.keeps(config) else "misses it"
            table.append({"config": asdict(config), **bench.measured.numbers(), "verdict": verdict})
        best = race.benches[winner].measured
        ok = race.keeps(winner)
        said = f"{label(winner)}: {best.throughput:.0f} requests/s, p99 {best.percentile(0.99) * 1e3:.3g} ms"
        gained = f"{gain.ratio:.2f}× the naive setting ({gain.low:.2f} to {gain.high:.2f})"
        if winner == race.naive:
            gained = "which is the naive setting: none was faster"
        promise = f"the promise of p99 ≤ {self.p99 * 1e3:g} ms"
        why = f"{said}, keeps {promise}; {gained}" if ok else f"no setting keeps {promise}; the nearest is {said}"
        numbers = {
            "config": asdict(winner),
            "candidates": table,
            "refused": [{"config": asdict(c), "why": w} for c, w in refused.items()],
            "gain": asdict(gain),
            "p99": best.percentile(0.99),
            "throughput": best.throughput,
        }
        return Report("tune", ok, why + doubt(len(best.latencies)), numbers, f"{self.concurrency} requests in flight")


def _difference(model: Model, reference: Runner, engine: str, rows: Dataset | None) -> str:
    """Why an engine's answers are not those of the reference; empty where they are."""
    try:
        with contextlib.closing(engines.load(model, ServeConfig(engine=engine))) as other:
            report = compare.compare(reference, other, rows)
    except ModelkeepError as error:
        return str(error)
    return "" if report.ok else report.why


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
