"""Writes the recurrent rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo import inputs, weights
from zoo.recurrent import tagger
from zoo.row import Source
from zoo.saved import saved


def bilstm(folder: Path, **options: Any) -> Source:
    """The tagger, its head scaled so that sentences get different tags."""
    made = weights.seeded(tagger.Tagger, **options)
    rows = {"tokens": inputs.tokens(16, 9, made.words.num_embeddings)}
    weights.spread(made, made.head, rows)
    return saved(folder, made, Path(tagger.__file__), "Tagger", options, rows)
