"""Streams of normal numbers of which a known share moves: as numbers, and as counts of bins, so that 10⁹ are feasible.

Needs numpy only, for the other detectors read it in an environment of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

BLOCK = 50_000
NORMAL = NormalDist()


def shift(moved: float) -> float:
    """How far, in standard deviations, a normal distribution must be shifted for this share of it to move.

    The share is the total variation distance, 2·Φ(shift / 2) − 1.
    """
    return 2 * NORMAL.inv_cdf((1 + moved) / 2)


def reference(seed: Sequence[int], rows: int, features: int) -> np.ndarray:
    """[rows, features] before anything has changed."""
    return np.random.default_rng([*seed, 0]).standard_normal((rows, features))


def numbers(seed: Sequence[int], quiet: int, moved: float, n: int) -> Iterator[np.ndarray]:
    """A stream of one feature in blocks: ``quiet`` numbers as the reference, then ``n`` shifted ones."""
    rng = np.random.default_rng([*seed, 1])
    for length, far in ((quiet, 0.0), (n, shift(moved))):
        for at in range(0, length, BLOCK):
            yield rng.standard_normal(min(BLOCK, length - at)) + far


def shares(cuts: Sequence[float], far: float, width: int) -> np.ndarray:
    """[width]: what share of a normal distribution, shifted by ``far``, falls into each bin between ``cuts``."""
    below = np.array([0.0, *(NORMAL.cdf(cut - far) for cut in cuts), 1.0])
    found = np.zeros(width)
    found[: len(cuts) + 1] = np.diff(below)
    return found


def counts(rng: np.random.Generator, each: np.ndarray, n: int, looks: int) -> np.ndarray:
    """[looks, features, bins]: how many of ``n`` fell where, look by look; ``each`` [features, bins] are the shares.

    The features are independent, which is where sharing the false alarms among them is hardest.
    """
    return rng.multinomial(n, each, size=(looks, len(each))).astype(np.float64)
