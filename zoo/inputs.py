"""Seeded inputs of the kinds that the rows take: pictures, token ids, latents, sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def pictures(rows: int, size: int, channels: int = 3, seed: int = 0) -> Array:
    """[rows, channels, size, size], float32, about standard normal: a few waves each, of its own contrast, and noise.

    White noise would look the same to a network that averages over the picture.
    """
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size), indexing="ij")
    waves = rng.uniform(-12, 12, (rows, channels, 4, 2))
    phase = rng.uniform(0, 2 * np.pi, (rows, channels, 4, 1, 1))
    turns = waves[..., :1, None] * x + waves[..., 1:, None] * y
    made = np.sin(turns + phase).sum(2) * rng.uniform(0.2, 1.2, (rows, channels, 1, 1))
    made += rng.normal(0, 0.7, (rows, channels, 1, 1)) + rng.normal(0, 0.3, made.shape)
    return made.astype(np.float32)


def with_extremes(rows: Array) -> Array:
    """``rows``, and after them the constant ones that a proof tries too (modelkeep.model.compare.EDGES)."""
    values = (0, 1, rows.min(), rows.max())
    return np.concatenate([rows, *(np.full_like(rows[:1], value) for value in values)])


def tokens(rows: int, length: int, vocabulary: int, seed: int = 0) -> Array:
    """[rows, length], int64, none of them 0."""
    return np.random.default_rng(seed).integers(1, vocabulary, (rows, length))


def normal(*shape: int, seed: int = 0) -> Array:
    """Standard normal, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
