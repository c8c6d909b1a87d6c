"""Two versions in turns: how many times as fast is the one as the other, with an interval that holds between runs.

Two runs of the same model differ by more than the requests of one run do: where memory lies, which core it got, what
else the machine was doing. So each round starts both in fresh processes and gives one ratio; the rounds are the sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from modelkeep.model import compare
from modelkeep.tune import claims
from modelkeep.tune.bench import answered
from modelkeep.tune.load import Measured
from modelkeep.tune.scenarios import QUEUED, Progress
from modelkeep.tune.served import Load

if TYPE_CHECKING:
    from modelkeep.tune.apart import Apart
    from modelkeep.types import ServeConfig

SHORTEST = 0.2
"""Seconds of one scenario of one version in one round, at least."""
METRICS = {
    "single": ("throughput", "p50", "p99"),
    "server": ("p50", "p99"),
    "offline": ("throughput",),
}
RATIO = ("median", "low", "high", "n")


@dataclass(frozen=True)
class Side:
    """What one of the two did in one round: rows a second, and latencies in seconds of ``n`` requests."""

    n: int
    throughput: float
    p50: float
    p99: float

    @classmethod
    def of(cls, measured: Measured, rows: int) -> Side:
        """Of requests of so many rows."""
        p50, p99 = measured.percentile(0.5), measured.percentile(0.99)
        return cls(len(measured.latencies), measured.throughput * rows, p50, p99)


@dataclass(frozen=True)
class Versus:
    """``rounds`` of both, each scenario for ``duration`` seconds over all rounds; it ends after ``budget`` seconds."""

    scenarios: Sequence[str]
    rounds: int = 9
    duration: float = 10.0
    budget: float = 120.0
    seed: int = 0

    def run(
        self, start: Sequence[Callable[[], Apart]], rate: float | None, progress: Progress
    ) -> tuple[dict[str, Any], str]:
        """The ratios by scenario and metric (first over second), and what was wrong with an answer under load.

        ``rate`` is that of the server scenario, which both must bear.
        """
        ratios: dict[str, dict[str, list[float]]] = {
            name: {metric: [] for metric in METRICS[name]} for name in self._names(rate)
        }
        fewest: dict[str, int] = {}
        end, fault, done = time.monotonic() + self.budget, "", 0
        for number in range(self.rounds):
            if number and time.monotonic() > end:
                break
            progress(number, self.rounds, "in turns")
            found, said = self._round(start, number, rate)
            fault, done = fault or said, done + 1
            for name, pair in found.items():
                fewest[name] = min(*(side.n for side in pair), fewest.get(name, pair[0].n))
                for metric, values in ratios[name].items():
                    values.append(getattr(pair[0], metric) / max(getattr(pair[1], metric), 1e-9))
        numbers = {
            "rounds": done,
            "rate": rate if "server" in ratios else None,
            "ratios": {
                name: {metric: self._claim(metric, values, fewest.get(name, 0)) for metric, values in by_metric.items()}
                for name, by_metric in ratios.items()
            },
        }
        return numbers, fault

    def _names(self, rate: float | None) -> list[str]:
        return [name for name in self.scenarios if name != "server" or rate is not None]

    def _round(
        self, start: Sequence[Callable[[], Apart]], number: int, rate: float | None
    ) -> tuple[dict[str, tuple[Side, Side]], str]:
        """Both from nothing; every other round the second goes first."""
        with start[0]() as first, start[1]() as second:
            pair = (first, second)
            for one in pair:
                one.open()
            found: dict[str, tuple[Side, Side]] = {}
            fault = ""
            for name in self._names(rate):
                sides: dict[int, Side] = {}
                for which in (0, 1) if number % 2 == 0 else (1, 0):
                    load = self._load(name, pair[which].config, number, rate)
                    result = pair[which].load(load)
                    answered(result.measured)
                    sides[which] = Side.of(result.measured, load.rows)
                    fault = fault or (result.fault and f"{pair[which].name}: {result.fault}")
                found[name] = sides[0], sides[1]
        return found, fault

    def _load(self, name: str, config: ServeConfig, number: int, rate: float | None) -> Load:
        seconds = max(SHORTEST, self.duration / self.rounds)
        seed = self.seed + 1000 + number
        if name == "server":
            return Load(seconds, rate=rate, seed=seed, stage="versus server")
        if name == "offline":
            return Load(
                seconds, concurrency=QUEUED * config.workers, rows=config.max_batch, seed=seed, stage="versus offline"
            )
        return Load(seconds, seed=seed, stage="versus single")

    def _claim(self, metric: str, values: Sequence[float], n: int) -> dict[str, Any]:
        """A ratio of percentiles takes as many requests of each, in every round, as the percentile itself."""
        needs = claims.least(claims.SHARES[metric]) if metric in claims.SHARES else 1
        ratio = asdict(claims.median(values))
        if n < needs:
            ratio |= {"median": None, "low": None, "high": None}
        return {**ratio, "requests": n, "needs": needs}


def agreement(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether the second answers as the first does, on the requests that both answered alone; ok is None where its
    outputs have other names, so that nobody knows which is which.
    """
    keys = ("n", "max_abs", "max_rel", "cosine", "top1_agreement")
    theirs, ours = (set[str]().union(*one) for one in (a, b))
    if missing := theirs - ours:
        told = f"the first gives {_listed(ours)} and the second {_listed(theirs)}; give them one name each: modelkeep "
        told += f"convert … --rename {min(ours - theirs, default='OLD')}={min(missing)}"
        return {"ok": None, "why": told, **dict.fromkeys(keys)}
    report = compare.answers(zip(a, b, strict=False))
    numbers = {key: report.numbers[key] for key in keys}
    return {"ok": report.ok, "why": report.why, **numbers}


def _listed(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def summary(name: str, other: str, numbers: Mapping[str, Any]) -> str:
    """The ratios in one sentence."""
    told = []
    for scenario, metrics in numbers["ratios"].items():
        for metric, ratio in metrics.items():
            if ratio["median"] is not None:
                told.append(f"{scenario} {metric} {claims.Ratio(*(ratio[k] for k in RATIO)).text}")
                break
    agree = numbers["answers"]
    same = "their answers agree" if agree["ok"] else f"THEIR ANSWERS DIFFER: {agree['why']}"
    if agree["ok"] is None:
        same = f"their answers cannot be compared: {agree['why']}"
    if not agree["ok"] and agree["top1_agreement"] is not None:
        same += f"; the same class for {agree['top1_agreement']:.1%} of {agree['n']}"
    return f"{name} over {other}: {', '.join(told) or 'nothing can be claimed'}; {same}"
