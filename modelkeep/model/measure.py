"""Which of two models is faster on this machine, with the interval that says whether it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.evidence import median_interval
from modelkeep.quantities import counted
from modelkeep.types import Report, Runner

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

WARM_UP = 3


def race(
    a: Callable[[], Runner], b: Callable[[], Runner], inputs: Arrays, *, heats: int = 9, rounds: int = 5
) -> Report:
    """Report(kind="race"): how many times as fast the model that ``b`` loads is as that of ``a``, on the same inputs.

    Two loads of one model differ by more than its runs do, so each heat loads both anew and gives one ratio: that of
    the medians of its ``rounds``. In these they run in turn, each first every other round, so that what slows the
    machine down slows both. Numbers: seconds_a and seconds_b (medians of a run), ratio (the heats' median) and its
    95 % interval low and high (the sign test's over the heats), heats, rounds (of all heats), rows. It takes six heats.
    """
    seconds = np.stack([_heat(a, b, inputs, rounds) for _ in range(heats)])
    median_a, median_b = np.median(seconds, axis=(0, 1)).tolist()
    medians = np.median(seconds, axis=1)
    ratio, low, high = median_interval((medians[:, 0] / medians[:, 1]).tolist())
    assert low is not None, "a race takes six heats"
    assert high is not None
    rows = len(next(iter(inputs.values())))
    verdict = "faster" if low > 1 else "slower" if high < 1 else "neither faster nor slower, as far as this shows"
    why = (
        f"{ratio:.2f} times as fast (95 % interval {low:.2f} to {high:.2f}: {verdict}); {median_a * 1000:.3f} ms → "
        f"{median_b * 1000:.3f} ms for {counted(rows, 'row')}"
    )
    numbers = {
        "seconds_a": median_a,
        "seconds_b": median_b,
        "ratio": ratio,
        "low": low,
        "high": high,
        "heats": heats,
        "rounds": heats * rounds,
        "rows": rows,
    }
    return Report("race", None, why, numbers, f"{heats} heats of {rounds} rounds of {counted(rows, 'row')}")


def _heat(a: Callable[[], Runner], b: Callable[[], Runner], inputs: Arrays, rounds: int) -> Array:
    """Seconds of each run, [rounds, 2], of both loaded anew."""
    seconds = np.empty((rounds, 2))
    with contextlib.closing(a()) as first, contextlib.closing(b()) as second:
        for _ in range(WARM_UP):
            first.run(inputs)
            second.run(inputs)
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                seconds[number, which] = _timed((first, second)[which], inputs)
    return seconds


def _timed(runner: Runner, inputs: Arrays) -> float:
    started = time.perf_counter()
    runner.run(inputs)
    return time.perf_counter() - started
