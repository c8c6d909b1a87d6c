"""The scenarios of MLPerf's LoadGen: one request at a time, requests at random times, everything at once.

https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc. LoadGen measures for 600 s; here the
person says for how long, and a percentile is claimed only where there are as many requests as LoadGen's early stopping
asks for (claims.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from modelkeep.quantities import counted
from modelkeep.tune import claims, figures
from modelkeep.tune.bench import answered
from modelkeep.tune.load import Measured
from modelkeep.tune.meters import Usage
from modelkeep.tune.served import Load

if TYPE_CHECKING:
    from modelkeep.tune.served import Round
    from modelkeep.types import ServeConfig

Progress = Callable[[float, float, str], None]
NAMES = ("single", "server", "offline")
OFFLINE_ROUNDS = 6
"""Throughput is told with an interval, which takes so many rounds."""
QUEUED = 2
"""Requests in flight for each worker offline: one that runs, one that waits."""
CURVE = (*np.linspace(0, 0.9, 46), *np.linspace(0.905, 0.99, 18), 0.995, 0.999, 1.0)
"""Shares at which the curve of latencies is kept for the plot."""


class Target(Protocol):
    """What bears the load: Apart, or what a test makes up."""

    config: ServeConfig

    def load(self, load: Load) -> Round:
        """Put it on and say what was found."""
        ...


@dataclass
class Found:
    """All that was measured of one scenario; adds up what its rounds cost and whether their answers were right."""

    measured: Measured = field(default_factory=Measured)
    usage: Usage = field(default_factory=Usage)
    gpus: list[dict[str, Any]] = field(default_factory=list)
    gpu_problem: str = ""
    checked: int = 0
    max_abs: float = 0.0
    fault: str = ""

    def add(self, found: Round) -> Round:
        """Take a round in."""
        self.measured.extend(found.measured)
        self.usage += found.usage
        self.gpus += [found.gpu] if found.gpu else []
        self.gpu_problem = self.gpu_problem or found.gpu_problem
        self.check(found)
        return found

    def check(self, found: Round) -> None:
        """Only whether its answers were right: a round of the search, whose numbers are not claimed."""
        self.checked += found.checked
        self.max_abs = max(self.max_abs, found.max_abs)
        self.fault = self.fault or found.fault

    def numbers(self) -> dict[str, Any]:
        """As they go into the report. CPU time is that of the plane and the model, and of what puts the load on."""
        n = len(self.measured.latencies)
        latencies = self.measured.latencies
        return {
            "n": n,
            "errors": self.measured.errors,
            "trouble": self.measured.trouble,
            "seconds": self.measured.seconds,
            "throughput": self.measured.throughput,
            "percentiles": claims.percentiles(latencies),
            "curve": [[float(s), float(v)] for s, v in zip(CURVE, np.quantile(latencies, CURVE), strict=True)]
            if n
            else [],
            "cpu_seconds": self.usage.cpu_seconds,
            "cpus": self.usage.cpu_seconds / self.usage.seconds if self.usage.seconds else None,
            "peak_memory": self.usage.peak_memory,
            "peak_memory_of_whole_life": self.usage.whole_life,
            "processes": self.usage.processes,
            "gpu": self._gpu(),
            "gpu_problem": self.gpu_problem,
            "checked": self.checked,
        }

    def _gpu(self) -> dict[str, Any] | None:
        """The rounds' peaks, and their utilisation weighed by how often was looked."""
        if not self.gpus:
            return None
        looks = sum(g["looks"] for g in self.gpus)
        mean = sum(g["utilisation"] * g["looks"] for g in self.gpus) / max(looks, 1)
        peaks = {key: max(g[key] for g in self.gpus) for key in ("peak_memory", "peak_utilisation", "shared")}
        return {**self.gpus[-1], **peaks, "utilisation": mean, "looks": looks}


@dataclass(frozen=True)
class Scenarios:
    """``p99`` is the promise that server must keep; ``duration`` is how long each scenario is measured, and ``budget``
    for how long one may go on until there are requests enough. All three in seconds.
    """

    p99: float = 0.05
    duration: float = 10.0
    budget: float = 120.0
    seed: int = 0

    def measure(self, name: str, target: Target, progress: Progress) -> tuple[Found, dict[str, Any]]:
        """One scenario and its numbers. Raises ModelkeepError where nothing was answered."""
        measures = {"single": self.single, "server": self.server, "offline": self.offline}
        return measures[name](target, progress)

    def single(self, target: Target, progress: Progress) -> tuple[Found, dict[str, Any]]:
        """One request after the other (SingleStream): its latency is that of an idle server."""
        progress(0, 1, "single")
        found = Found()
        found.add(
            target.load(
                Load(
                    self.duration,
                    least=claims.least(0.99),
                    most=max(self.budget, self.duration),
                    seed=self.seed,
                    stage="single",
                )
            )
        )
        answered(found.measured)
        progress(1, 1, "single")
        return found, found.numbers()

    def offline(self, target: Target, progress: Progress) -> tuple[Found, dict[str, Any]]:
        """Full batches, and always one more of them ready (Offline): rows a second, whatever the latency."""
        found, values = Found(), list[float]()
        rows, workers = target.config.max_batch, target.config.workers
        for number in range(OFFLINE_ROUNDS):
            progress(number, OFFLINE_ROUNDS, "offline")
            load = Load(
                self.duration / OFFLINE_ROUNDS,
                concurrency=QUEUED * workers,
                rows=rows,
                seed=self.seed + number,
                stage="offline",
            )
            values.append(found.add(target.load(load)).measured.throughput * rows)
        answered(found.measured)
        progress(OFFLINE_ROUNDS, OFFLINE_ROUNDS, "offline")
        numbers = {
            **found.numbers(),
            "rows_per_request": rows,
            "rows": len(found.measured.latencies) * rows,
            "rows_per_second": asdict(claims.median(values)),
        }
        return found, numbers

    def server(self, target: Target, progress: Progress) -> tuple[Found, dict[str, Any]]:
        """Requests at random times (Server): the highest rate at which p99 keeps the promise; see Search."""
        search = Search(target, self, progress)
        rate = search.run()
        numbers = search.confirmed.numbers()
        numbers |= {
            "promise": self.p99,
            "rate": rate,
            "kept": search.kept,
            "claim": search.claim,
            "over": search.trials[-1].over if search.trials else 0,
            "late_p99": float(np.quantile(search.confirmed.measured.late, 0.99))
            if search.confirmed.measured.late
            else None,
            "capacity": search.capacity,
            "trials": [asdict(trial) for trial in search.trials],
        }
        return search.confirmed, numbers


@dataclass(frozen=True)
class Trial:
    """One rate: of ``n`` requests that were due, ``over`` came later than the promise, or not at all."""

    rate: float
    seconds: float
    n: int
    over: int
    p50: float | None
    p99: float | None
    verdict: str
    part: str


class Search:
    """The highest rate that keeps the promise: bracketed, halved, then measured anew.

    Whoever looks at many rates finds one that was lucky. So the search itself claims nothing: the rate that it ends
    with is confirmed by new requests at new times, and lowered where they do not confirm it (LoadGen's advice:
    binary search, then small decrements).
    """

    START, FAR, CLOSE = 0.7, 1.5, 1.06
    """First share of the capacity; the step where one side is not known yet; close enough to stop."""
    TRIALS = 10
    CONFIRM = (1.0, 0.95, 0.85, 0.7, 0.5)
    """Shares of the rate found, tried one after the other until one is confirmed."""

    def __init__(self, target: Target, plan: Scenarios, progress: Progress) -> None:
        self.target, self.plan, self.progress = target, plan, progress
        self.trials: list[Trial] = []
        self.confirmed = Found()
        self.capacity = 0.0
        self.kept: bool | None = None
        self.claim = ""
        self._needs = claims.least(0.99)
        self._end = math.inf

    def run(self) -> float | None:
        """Requests a second, or None where none can be claimed: ``claim`` says why.

        ``kept`` is then False where every rate broke the promise, and None where it cannot be said.
        """
        self._end = time.monotonic() + max(self.plan.budget, 3 * self.plan.duration)
        self.capacity = self._capacity()
        low, rate = self._bracket()
        if low is not None:
            return self._confirm(low)
        if self.trials and all(trial.verdict == "breaks" for trial in self.trials):
            self.kept = False
            self.claim = f"no rate keeps it: {figures.rate(min(t.rate for t in self.trials))} a second break it already"
        else:
            self.claim = self._too_few(rate)
        return None

    def _too_few(self, rate: float) -> str:
        return (
            f"not claimed: p99 needs {self._needs} requests at a rate of about {figures.rate(rate)} a second, and more "
            f"time than there was; give a larger --budget"
        )

    def _capacity(self) -> float:
        """Answers a second with the queue full, which no rate can exceed for long."""
        concurrency = max(8, min(512, 2 * self.target.config.max_batch * self.target.config.workers))
        load = Load(self.plan.duration / 10, concurrency=concurrency, seed=self.plan.seed, stage="capacity")
        found = self.target.load(load)
        self.confirmed.check(found)
        answered(found.measured)
        return found.measured.throughput

    def _bracket(self) -> tuple[float | None, float]:
        """The highest rate that kept it, and the lowest that did not."""
        low, high, rate = None, math.inf, self.START * self.capacity
        for number in range(self.TRIALS):
            self.progress(number, self.TRIALS + 2, f"server, {figures.rate(rate)} requests/s")
            seconds = max(self.plan.duration / self.TRIALS, 1.5 * self._needs / rate)
            if time.monotonic() + seconds > self._end - self._confirming(low or rate):
                break
            trial = self._try(rate, seconds, "search")
            if trial.verdict == "keeps":
                low = rate if low is None else max(low, rate)
            else:
                high = min(high, rate)
            if low is not None and high < low * self.CLOSE:
                break
            rate = math.sqrt(low * high) if low and high < math.inf else low * self.FAR if low else high / self.FAR**2
        return low, min(high, rate)

    def _confirming(self, rate: float) -> float:
        """Seconds that it takes to confirm a rate."""
        return max(self.plan.duration, 1.5 * self._needs / rate)

    def _confirm(self, best: float) -> float | None:
        """That rate or, where new requests do not confirm it, a lower one."""
        for share in self.CONFIRM:
            rate = share * best
            seconds = self._confirming(rate)
            if share < 1 and time.monotonic() + seconds > self._end:
                break
            self.progress(self.TRIALS + 1, self.TRIALS + 2, f"server, confirming {figures.rate(rate)} requests/s")
            before = self.confirmed
            self.confirmed = Found(checked=before.checked, max_abs=before.max_abs, fault=before.fault)
            trial = self._try(rate, seconds, "confirm")
            if trial.verdict == "keeps":
                self.progress(1, 1, "server")
                self.kept = True
                return rate
        self.claim = (
            f"not claimed: {best:,.0f} requests a second kept it once, and {trial.rate:,.0f} not again ({trial.over:,} "
            f"of {trial.n:,} were over); the machine is busy with something else, or --duration is too short"
        )
        return None

    def _try(self, rate: float, seconds: float, part: str) -> Trial:
        seed = self.plan.seed + 1 + len(self.trials)
        load = Load(seconds, rate=rate, seed=seed, promise=self.plan.p99, stage=f"server {rate:.0f}/s")
        found = self.target.load(load)
        if part == "confirm":
            self.confirmed.add(found)
        else:
            self.confirmed.check(found)
        measured, promise = found.measured, self.plan.p99
        over = sum(latency > promise for latency in measured.latencies) + measured.errors
        n = len(measured.latencies) + measured.errors
        keeps = n >= self._needs and over <= claims.may_miss(n, 0.99)
        verdict = "keeps" if keeps else "breaks" if claims.breaks(over, n, 0.99) else "unclear"
        p50, p99 = (_finite(measured.percentile(share)) for share in (0.5, 0.99))
        trial = Trial(rate, measured.seconds, n, over, p50, p99, verdict, part)
        self.trials.append(trial)
        return trial


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summary(name: str, numbers: Mapping[str, Any]) -> str:
    """One scenario in a few words."""
    if name == "offline":
        rows = claims.Ratio(**numbers["rows_per_second"])
        interval = f" ({rows.low:,.0f} to {rows.high:,.0f})" if rows.low is not None and rows.high is not None else ""
        return f"offline {rows.median:,.0f} rows/s{interval}"
    p99 = numbers["percentiles"]["p99"]
    told = f"p99 not claimed ({counted(p99['n'], 'request')}, {p99['needs']} needed)"
    if p99["value"] is not None:
        told = f"p99 {figures.milliseconds(p99['value'])} (n = {p99['n']:,})"
    if name == "single":
        return f"single {told}"
    promise = f"p99 ≤ {numbers['promise'] * 1e3:g} ms"
    if numbers["rate"] is None:
        return f"server {promise}: {numbers['claim']}"
    return f"server {numbers['rate']:,.0f} requests/s keep {promise} ({numbers['over']} of {numbers['n']:,} over)"
