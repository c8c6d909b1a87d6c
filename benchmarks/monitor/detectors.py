"""Other people's detectors on the streams of streams.py: when does each give its first alarm?

    PYTHON detectors.py '{"seed": 0, "number": 100, "window": 1000, …}'

Runs in the environment of requirements.txt (others.py makes it) and prints JSON: by detector, a list with the number of
observations until the first alarm after the quiet part, one a stream; null where there was none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import streams
from river import drift
from scipy import stats


def one_by_one(detector: Any, blocks: Iterator[np.ndarray], quiet: int) -> int | None:
    """Of a detector that takes numbers as they come; it goes on where it fires in the quiet part."""
    n = 0
    for block in blocks:
        update = detector.update
        for x in block.tolist():
            update(x)
            n += 1
            if detector.drift_detected and n > quiet:
                return n - quiet
    return None


def by_window(
    changed: Callable[[np.ndarray], bool], blocks: Iterator[np.ndarray], quiet: int, window: int
) -> int | None:
    """Of a test of each window against the reference."""
    n = 0
    for block in blocks:
        for at in range(0, len(block), window):
            n += window
            if n > quiet and changed(block[at : at + window]):
                return n - quiet
    return None


def ks(before: np.ndarray, alpha: float) -> Callable[[np.ndarray], bool]:
    """The two-sample test of Kolmogorov and Smirnov."""
    return lambda now: bool(stats.ks_2samp(before, now).pvalue < alpha)


def evidently(before: np.ndarray) -> Callable[[np.ndarray], bool]:
    """What Evidently does by itself: a test chosen by the kind of column and the size of the reference."""
    from evidently.legacy.calculations.stattests import get_stattest

    column = pd.Series(before)

    def changed(now: np.ndarray) -> bool:
        given = pd.Series(now)
        test = get_stattest(column, given, "num", None)
        return bool(test.func(column, given, "num", test.default_threshold)[1])

    return changed


def alarms(seed: int, number: int, quiet: int, moved: float, n: int, window: int) -> dict[str, list[int | None]]:
    """By detector, the first alarm in each of ``number`` streams."""
    found: dict[str, list[int | None]] = {}
    for stream in range(number):
        named = (seed, stream)
        for name, detector in (("River ADWIN", drift.ADWIN()), ("River PageHinkley", drift.PageHinkley())):
            blocks = streams.numbers(named, quiet, moved, n)
            found.setdefault(name, []).append(one_by_one(detector, blocks, quiet))
        few, before = (streams.reference(named, rows, 1)[:, 0] for rows in (1000, 1024))
        tests = {
            "Evidently, 1,000 reference rows (KS, 5 %)": evidently(few),
            "Evidently, 1,024 reference rows (Wasserstein, 0.1)": evidently(before),
            "KS in windows, 5 %": ks(before, 0.05),
            "KS in windows, 1 % over 1,000 looks": ks(before, 0.01 / 1000),
        }
        for name, changed in tests.items():
            blocks = streams.numbers(named, quiet, moved, n)
            found.setdefault(name, []).append(by_window(changed, blocks, quiet, window))
    return found


if __name__ == "__main__":
    print(json.dumps(alarms(**json.loads(sys.argv[1]))))
