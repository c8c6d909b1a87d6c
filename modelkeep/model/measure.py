"""Which of two models is faster on this machine, with the interval that says whether it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.types import Report, Runner

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

WARM_UP = 3
RESAMPLES = 2000


def race(a: Runner, b: Runner, inputs: Arrays, rounds: int = 30) -> Report:
    """Report(kind="race"): how many times as fast ``b`` is as ``a`` on the same inputs.

    They run in turn, each first every other round, so that what slows the machine down slows both. Numbers:
    seconds_a and seconds_b (medians of a run), ratio = seconds_a / seconds_b, its 95 % bootstrap interval low and
    high (rounds resampled in pairs, percentiles; Efron 1979), rounds, rows.
    """
    for _ in range(WARM_UP):
        a.run(inputs)
        b.run(inputs)
    seconds = np.empty((rounds, 2))
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            seconds[number, which] = _timed((a, b)[which], inputs)
    rows = len(next(iter(inputs.values())))
    median_a, median_b = np.median(seconds, axis=0).tolist()
    low, high = _interval(seconds)
    ratio = median_a / median_b
    verdict = "faster" if low > 1 else "slower" if high < 1 else "neither faster nor slower, as far as this shows"
    why = (
        f"{ratio:.2f} times as fast (95 % interval {low:.2f} to {high:.2f}: {verdict}); {median_a * 1000:.3f} ms → "
        f"{median_b * 1000:.3f} ms for {rows} rows"
    )
    numbers = {
        "seconds_a": median_a,
        "seconds_b": median_b,
        "ratio": ratio,
        "low": low,
        "high": high,
        "rounds": rounds,
        "rows": rows,
    }
    return Report("race", None, why, numbers, f"{rounds} rounds of {rows} rows")


def _timed(runner: Runner, inputs: Arrays) -> float:
    started = time.perf_counter()
    runner.run(inputs)
    return time.perf_counter() - started


def _interval(seconds: Array) -> tuple[float, float]:
    """95 % percentile bootstrap of the ratio of the medians; ``seconds`` is [rounds, 2]."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(seconds), (RESAMPLES, len(seconds)))
    medians = np.median(seconds[picks], axis=1)
    low, high = np.percentile(medians[:, 0] / medians[:, 1], [2.5, 97.5])
    return float(low), float(high)
