"""What a search found, as a Report: the table, its Pareto front, why the winner won, what the naive setting costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep import evidence
from modelkeep.quantities import counted
from modelkeep.tune import claims
from modelkeep.tune.bench import doubt
from modelkeep.tune.figures import milliseconds, rate
from modelkeep.tune.halving import Race
from modelkeep.tune.rounds import Entrant
from modelkeep.types import Report, ServeConfig

if TYPE_CHECKING:
    from modelkeep.tune.search import Tune

TELLING = 1.05
"""A gain below this explains nothing."""
CHOSEN, CLOSE, KEEPS = "chosen", "not told apart from the chosen", "keeps the promise"
"""Verdicts on a setting, beside what it lacks and why it left the race."""
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Gain:
    """Throughput over another setting's: the median of so many pairs, and its interval of 95 % or more.

    No interval where the pairs are too few for one.
    """

    ratio: float = 1.0
    low: float | None = None
    high: float | None = None
    pairs: int = 0

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Gain:
        """Of one ratio for each pair."""
        found = claims.median(ratios)
        return cls(found.median, found.low, found.high, found.n)

    def __str__(self) -> str:
        if not self.pairs:
            return f"{self.ratio:.2f}× (not measured in pairs)"
        if self.low is None or self.high is None:
            few = f"{self.pairs} pair{'s' if self.pairs != 1 else ''}, {evidence.SIGN_TEST_LEAST} needed"
            return f"{self.ratio:.2f}× (interval not claimed: {few}; a longer --budget has room for them)"
        return f"{self.ratio:.2f}× ({self.low:.2f} to {self.high:.2f}, n = {self.pairs} pairs)"


@dataclass(frozen=True)
class Outcome:
    """The end of a race. ``other`` is a setting of another version that did better than the winner, by ``ahead``."""

    race: Race
    naive: Entrant
    winner: Entrant
    gain: Gain
    other: Entrant | None = None
    ahead: Gain = Gain()
    proof: int = 0
    """Measurements, made or known, that went into the pairs at the end."""
    relief: tuple[int, float, int] | None = None
    """Where none keeps the promise: so many in flight with which the winner did, its requests a second then, and n."""

    def throughput(self, entrant: Entrant) -> float:
        """The winner's own; the others' by what they did beside it, for the machine's mood changes between rounds."""
        best = self.race.rounds.measured(self.winner).throughput
        return best * math.exp(self.race.strength(entrant) - self.race.strength(self.winner))


def report(found: Outcome, search: Tune, settings: int) -> Report:
    """Report(kind="tune"); ``settings`` is how many an exhaustive search would have measured. Times in seconds.

    Numbers: config, throughput, p99, gain over the naive setting, candidates (each with n, windows, memory in bytes,
    pareto and verdict), refused (with why), because, second, measurements, promise, concurrency, price, other.
    """
    race, winner = found.race, found.winner
    best = race.rounds.measured(winner)
    lacks = race.lacks(winner)
    numbers = {
        "config": asdict(winner.config),
        "throughput": best.throughput,
        "p99": best.percentile(0.99),
        "gain": asdict(found.gain),
        "naive": _row(found, found.naive, frozenset()),
        "candidates": candidates(found),
        "refused": [{"of": e.of, "config": asdict(e.config), "why": why} for e, why in race.rounds.refused.items()],
        "because": because(race, winner),
        "second": second(found),
        "measurements": {
            "made": race.rounds.made,
            "reused": race.rounds.reused,
            "proof": found.proof,
            "seconds": race.seconds,
            "settings": settings,
        },
        "promise": {**asdict(race.promise), "max_drop": search.max_drop},
        "concurrency": search.concurrency,
        "price": price(found, search.price_per_hour),
        "other": _other(found),
        "relief": found.relief,
    }
    data = f"{counted(search.concurrency, 'request')} in flight"
    why = _why(found, lacks) + doubt(len(best.latencies))
    return Report("tune", not lacks, why, numbers, data)


def aside(found: Outcome, entrant: Entrant) -> Report:
    """Report(kind="tune") of the best setting of a version that took part in the search for another."""
    best = found.race.rounds.measured(entrant)
    said = f"{label(entrant.config)}: {rate(best.throughput)} requests/s, p99 {milliseconds(best.percentile(0.99))}"
    why = f"{said}, keeps the promise; measured beside the version it was made from"
    return Report("tune", True, why + doubt(len(best.latencies)), _row(found, entrant, frozenset()))


def _why(found: Outcome, lacks: str) -> str:
    race, winner = found.race, found.winner
    best = race.rounds.measured(winner)
    said = f"{label(winner.config)}: {rate(best.throughput)} requests/s, p99 {milliseconds(best.percentile(0.99))}"
    promise = f"the promise of p99 ≤ {race.promise.p99 * 1e3:g} ms"
    if race.promise.throughput:
        promise += f" and {rate(race.promise.throughput)} requests/s"
    gained = (
        f"{found.gain} the naive setting" if winner != found.naive else "which is the naive setting: none was faster"
    )
    if lacks:
        eased = ""
        if found.relief is not None:
            fewer, throughput, n = found.relief
            eased = f"; with {fewer} in flight it kept it, at {rate(throughput)} requests/s (n = {n})"
        own = sum(not entrant.of for entrant in race.rounds.windows)
        return f"no setting keeps {promise}, of {own} that were measured; the nearest is {said}: {lacks}{eased}"
    told = "; ".join(because(race, winner))
    return f"{said}, keeps {promise}; {gained}" + (f", because {told}" if told else "") + _close(second(found))


def second(found: Outcome) -> dict[str, Any] | None:
    """The next best setting of the same version that keeps the promise, and how it did beside the winner.

    ``ratio`` is its throughput over the winner's in the ``rounds`` that both had, ``low`` and ``high`` the ends of its
    95 % interval (Student's), None where there were no such rounds. None where nothing else keeps the promise. Only the
    winner goes to the proof.
    """
    race, winner = found.race, found.winner
    rivals = (e for e in race.ranked() if e.of == winner.of and e != winner and not race.lacks(e))
    rival = next(rivals, None)
    if rival is None or race.lacks(winner):
        return None
    ratio, low, high, rounds = race.interval(rival, winner)
    beside = {"ratio": ratio, "low": low, "high": high} if rounds else {}
    return {"config": asdict(rival.config), "ratio": None, "low": None, "high": None, **beside, "rounds": rounds}


def _may_be_as_fast(rival: Mapping[str, Any]) -> bool:
    return not rival["rounds"] or rival["high"] >= 1.0


def _close(rival: Mapping[str, Any] | None) -> str:
    """A sentence where the second may be as fast as the winner."""
    if rival is None or not _may_be_as_fast(rival):
        return ""
    name, rounds = label(ServeConfig(**rival["config"])), rival["rounds"]
    if not rounds:
        return f"; the second, {name}, was never measured beside it, so which of the two is faster is not known"
    beside = f"{rival['ratio']:.2f}× ({rival['low']:.2f} to {rival['high']:.2f}, n = {rounds} round{'s'[: rounds > 1]})"
    return f"; not told apart from the second, {name}, which did {beside} as much beside it"


def candidates(found: Outcome) -> list[dict[str, Any]]:
    """Every setting that was measured, the best first."""
    race = found.race
    front = pareto(race)
    rows = [_row(found, entrant, front) for entrant in race.ranked()]
    close = second(found)
    for row in rows:
        rival = close is not None and _may_be_as_fast(close) and row["config"] == close["config"]
        if rival and row["of"] == found.winner.of and row["verdict"] == KEEPS:
            row["verdict"] = CLOSE
    return rows


def _row(found: Outcome, entrant: Entrant, front: frozenset[Entrant]) -> dict[str, Any]:
    race = found.race
    verdict = race.lacks(entrant) or (CHOSEN if entrant == found.winner else race.fate.get(entrant, ""))
    n = len(race.rounds.windows.get(entrant, ()))
    if not verdict and entrant.of == found.winner.of and race.rank(entrant) < race.rank(found.winner):
        verdict = f"seemed faster in {n} measurement{'s' if n != 1 else ''}, which the proof did not try"
    return {
        "of": entrant.of,
        "config": asdict(entrant.config),
        **race.rounds.measured(entrant).numbers(),
        "throughput": found.throughput(entrant),
        "windows": n,
        "memory": race.rounds.memory(entrant),
        "pareto": entrant in front,
        "verdict": verdict or KEEPS,
    }


def pareto(race: Race) -> frozenset[Entrant]:
    """Those that no other beats in throughput, p99 and memory at once; memory that is not known beats nothing."""
    points = {}
    for entrant in race.ranked():
        found, memory = race.rounds.measured(entrant), race.rounds.memory(entrant)
        points[entrant] = (-found.throughput, found.percentile(0.99), math.inf if memory is None else float(memory))

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(o != mine and all(a <= b for a, b in zip(o, mine, strict=True)) for o in points.values())

    return frozenset(e for e, point in points.items() if not beaten(point))


# ── why ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def because(race: Race, winner: Entrant) -> list[str]:
    """What each choice of the winner gains, from rounds in which settings that differ in it only were measured."""
    found = []
    for what, axes in _AXES.items():
        pairs = [
            (float(np.exp(np.mean(np.log(ratios)))), len(ratios), other)
            for mine in race.rounds.windows
            for other in race.rounds.windows
            if _tells(winner, mine, other, axes) and (ratios := race.rounds.ratios(mine, other))
        ]
        if not pairs:
            continue
        gain, n, other = min(pairs, key=lambda pair: pair[0])
        if gain >= TELLING:
            rounds = f"{n} round{'s' if n != 1 else ''}"
            found.append(f"{_VALUE[what](winner.config)} gives {gain:.2f}× {_VALUE[what](other.config)} ({rounds})")
    return found


_AXES = {
    "engine": ("engine",),
    "precision": ("precision",),
    "layout": ("threads", "workers"),
    "batch": ("max_batch",),
    "wait": ("max_wait",),
}
_VALUE: dict[str, Callable[[ServeConfig], str]] = {
    "engine": lambda c: _way(c),
    "precision": lambda c: SHORT.get(c.precision or "", c.precision or "the model's own precision"),
    "layout": lambda c: _layout(c),
    "batch": lambda c: f"max batch {c.max_batch}",
    "wait": lambda c: f"a wait of {c.max_wait * 1e3:g} ms",
}


def _tells(winner: Entrant, mine: Entrant, other: Entrant, axes: Sequence[str]) -> bool:
    """Whether these two show what the winner's choice gains: they differ in it only, and one of them shares it."""
    same = all(getattr(mine.config, a) == getattr(winner.config, a) for a in ("engine", "precision", *axes))
    changed = replace(other, config=replace(other.config, **{a: getattr(mine.config, a) for a in axes}))
    if axes == ("engine",):  # another engine may lack the winner's precision
        changed = replace(changed, config=replace(changed.config, precision=mine.config.precision))
        same = same and other.config.engine != mine.config.engine
    return same and mine != other and changed == mine


# ── money, and other versions ────────────────────────────────────────────────────────────────────────────────────────


def price(found: Outcome, per_hour: float | None) -> dict[str, float] | None:
    """What a million predictions cost with the winner and with the naive setting, on a machine that is always busy."""
    if per_hour is None:
        return None
    return {
        "per_hour": per_hour,
        "winner_per_million": per_million(per_hour, found.throughput(found.winner)),
        "naive_per_million": per_million(per_hour, found.throughput(found.naive)),
    }


def per_million(per_hour: float, throughput: float) -> float:
    """The price of a million predictions at so many a second."""
    return per_hour / 3600 * 1e6 / throughput if throughput else math.inf


def _other(found: Outcome) -> dict[str, Any] | None:
    if found.other is None:
        return None
    return {**_row(found, found.other, frozenset()), "gain": asdict(found.ahead)}


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def label(config: ServeConfig) -> str:
    """A setting in a few words."""
    wait = f", max wait {config.max_wait * 1e3:g} ms" if config.max_wait else ""
    return f"{_way(config)}, {_layout(config)}, max batch {config.max_batch}{wait}"


def _way(config: ServeConfig) -> str:
    return f"{config.engine} {SHORT.get(config.precision, config.precision)}" if config.precision else config.engine


def _layout(config: ServeConfig) -> str:
    threads = f"{config.threads} thread{'s' if config.threads != 1 else ''}" if config.threads else "its own threads"
    return threads + (f" × {config.workers} workers" if config.workers > 1 else "")
