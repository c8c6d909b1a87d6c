"""Rows of numbers as a few numbers each: summary statistics, fixed random projections, what a row of scores says."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array

SUMMARIES = ("mean", "std", "norm", "min", "max", "share of zeros", "share of NaN", "constant")
MAX_VALUES = 1024
"""Of a row; one with more is looked at in so many fixed places."""
PROJECTIONS = 8
AT_ONCE = 2**18
"""Scores that are made doubles at a time."""
ONE_THREAD = 4 * 65_536
"""Multiplications up to which OpenBLAS stays on the calling thread (interface/gemm.c); other cores are the model's."""


def narrowed(values: Array) -> Array:
    """As float32, where numbers beyond its 3.4e38 are infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def summaries(values: Array, sizes: Array | None = None) -> Array:
    """[rows, 8]: SUMMARIES of each row; of none of its values, NaN.

    ``sizes`` [rows] says how many values a row has where it is filled up with NaN.
    """
    width = values.shape[1]
    if not width:
        return np.full((len(values), len(SUMMARIES)), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(axis=1)
        if sizes is not None or not np.isfinite(total).all():
            return _in_doubles(values.astype(np.float64), sizes)
        mean = total / width
        around = values - mean[:, None]
        std = np.sqrt(np.einsum("ij,ij->i", around, around) / width)
        if not np.isfinite(std).all():  # squares of 2e19 are beyond float32
            return _in_doubles(values.astype(np.float64), sizes)
        low, high = values.min(axis=1), values.max(axis=1)
        norm = np.sqrt(width * (std.astype(np.float64) ** 2 + mean.astype(np.float64) ** 2))
        zeros = 1 - np.add.reduce(values != 0, axis=1, dtype=np.uint32) / width  # thrice as fast as count_nonzero
    return np.stack([mean, std, norm, low, high, zeros, np.zeros(len(values)), low == high], axis=1, dtype=np.float64)


def _in_doubles(values: Array, sizes: Array | None) -> Array:
    """The same where values are missing (NaN), infinite, or so large that float32 cannot hold their sum or squares."""
    missing = np.isnan(values)
    given = np.full(len(values), float(values.shape[1])) if sizes is None else np.maximum(sizes, 1).astype(np.float64)
    known = values.shape[1] - missing.sum(axis=1)
    n = np.maximum(known, 1)
    filled = np.where(missing, 0.0, values)
    mean = filled.sum(axis=1) / n
    around = np.where(missing, 0.0, values - mean[:, None])
    std = np.sqrt((around**2).sum(axis=1) / n)
    norm = np.sqrt((filled**2).sum(axis=1))
    low = np.where(missing, np.inf, values).min(axis=1)
    high = np.where(missing, -np.inf, values).max(axis=1)
    found: Array = np.stack(
        [mean, std, norm, low, high, (values == 0).sum(axis=1) / given, 1 - known / given, low == high], axis=1
    )
    found[known == 0, :5] = np.nan
    return found


def projected(values: Array) -> Array:
    """[rows, 8]: a row's products with eight fixed vectors of random signs; NaN counts as 0.

    Signs keep distances as well as normal numbers do (Achlioptas 2003, "Database-friendly random projections", Journal
    of Computer and System Sciences 66). They are the same in every process, so that versions can be compared.
    """
    found = _products(values)
    if np.isnan(found).any():
        found = _products(np.where(np.isnan(values), 0, values))
    return found.astype(np.float64)


def _products(values: Array) -> Array:
    signs = _signs(values.shape[1])
    step = max(1, ONE_THREAD // max(signs.size, 1))
    found = np.empty((len(values), PROJECTIONS), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for at in range(0, len(values), step):
            np.matmul(values[at : at + step], signs, out=found[at : at + step])
    return found


@lru_cache(maxsize=32)
def _signs(width: int) -> Array:
    """[width, 8] of ±1/√width. A bit generator's stream never changes, unlike what numpy draws from it (NEP 19)."""
    raw = np.random.PCG64(20_260_101).random_raw(MAX_VALUES * PROJECTIONS // 64)
    bits = np.unpackbits(raw.astype("<u8").view(np.uint8)).reshape(MAX_VALUES, PROJECTIONS)[:width]
    found: Array = ((bits * 2.0 - 1.0) / np.sqrt(max(width, 1))).astype(np.float32)
    return found


@lru_cache(maxsize=64)
def places(size: int) -> Array:
    """The rising places, at most MAX_VALUES, at which a row of ``size`` values is looked at. They lie by chance, for
    even strides would meet the same column of each image, and the same channel."""
    if size <= MAX_VALUES:
        return np.arange(size)
    shares = np.sort(np.random.PCG64(20_260_102).random_raw(MAX_VALUES)) / 2.0**64
    found: Array = np.minimum((shares * size).astype(np.int64), size - 1)
    return found


def at_places(rows: Array) -> Array:
    """[rows, values] → [rows, at most MAX_VALUES]: those at ``places``."""
    return rows if rows.shape[1] <= MAX_VALUES else rows.take(places(rows.shape[1]), axis=1)


def of_scores(scores: Array) -> Array:
    """[rows, 3]: predicted class, its probability, and the entropy as a share of the highest possible one.

    Scores that are no probabilities are taken for logits; a row with NaN has NaN for all three.
    """
    are_logits, step = not are_probabilities(scores), max(1, AT_ONCE // max(scores.shape[1], 1))
    parts = [_of_scores(scores[at : at + step], are_logits) for at in range(0, len(scores), step)]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, 3)), *parts])


def _of_scores(scores: Array, are_logits: bool) -> Array:
    values = scores.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if are_logits:
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        entropy = -(values * np.log(np.maximum(values, 1e-12))).sum(axis=1) / np.log(values.shape[1])
    found = np.stack([values.argmax(axis=1).astype(np.float64), values.max(axis=1), entropy], axis=1)
    found[np.isnan(values).any(axis=1)] = np.nan
    return found


def are_probabilities(rows: Array) -> bool:
    """Whether each row is of numbers from 0 on that sum to 1."""
    return bool(np.all(rows >= 0) and np.all(np.abs(rows.sum(axis=1, dtype=np.float64) - 1.0) <= 1e-3))
