"""Sketches of features: how values are distributed, and which texts are common, in little room. They can be merged.

Quantiles come from KLL sketches (Karnin, Lang & Liberty 2016, "Optimal quantile approximation in streams", FOCS), and
common texts from the frequent-items sketch of Misra & Gries (1982), both of Apache DataSketches.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from datasketches import frequent_items_error_type, frequent_strings_sketch, kll_floats_sketch

from modelkeep.data.summaries import narrowed

if TYPE_CHECKING:
    from modelkeep.types import Array

K = 200
"""A rank read from the sketch is off by 1.33 % at most, with 99 % confidence; 2.5 to 3 KB."""
LOG_ITEMS = 6
"""48 texts of at most TEXT bytes, and their counts: below 4 KB."""
TEXT = 48
HEAD = struct.Struct("<cI")


class Sketches:
    """One sketch for each feature: of texts where ``categories`` says so, else of numbers. NaN is left out."""

    def __init__(self, categories: Sequence[bool]) -> None:
        self.each: list[kll_floats_sketch | frequent_strings_sketch] = [
            frequent_strings_sketch(LOG_ITEMS) if category else kll_floats_sketch(K) for category in categories
        ]

    def update(self, values: Array, texts: Mapping[int, Mapping[str, int]]) -> None:
        """Take rows [rows, features]; of categories instead ``texts``: by feature, how often each occurs."""
        numbers = np.ascontiguousarray(narrowed(values.T))
        for at, sketch in enumerate(self.each):
            if isinstance(sketch, kll_floats_sketch):
                sketch.update(numbers[at])
            else:
                for text, count in texts.get(at, {}).items():
                    sketch.update(_short(text), count)

    def merge(self, other: Sketches) -> None:
        """Take what another one saw of the same features. ValueError where they are others."""
        if [type(one) for one in self.each] != [type(one) for one in other.each]:
            raise ValueError("these are sketches of other features")
        for mine, given in zip(self.each, other.each, strict=True):
            mine.merge(given)

    def n(self, feature: int) -> int:
        """Values seen, NaN left out."""
        sketch = self.each[feature]
        return int(sketch.n if isinstance(sketch, kll_floats_sketch) else sketch.total_weight)

    def quantiles(self, feature: int, shares: Sequence[float]) -> list[float]:
        """The values below which these shares lie; none where none was seen, or the feature is a category."""
        sketch = self.each[feature]
        if not isinstance(sketch, kll_floats_sketch) or sketch.is_empty():
            return []
        return [float(value) for value in sketch.get_quantiles(list(shares))]

    def common(self, feature: int) -> list[tuple[str, int, int]]:
        """(text, at least, at most so many times), the most common first; none where the feature is of numbers."""
        sketch = self.each[feature]
        if isinstance(sketch, kll_floats_sketch):
            return []
        found = sketch.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
        return [(text, int(low), int(high)) for text, _, low, high in found]

    def to_bytes(self) -> bytes:
        """What ``from_bytes`` reads back."""
        parts = []
        for sketch in self.each:
            body = sketch.serialize()
            parts += [HEAD.pack(b"n" if isinstance(sketch, kll_floats_sketch) else b"t", len(body)), body]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Sketches:
        """What ``to_bytes`` gave. ValueError for anything else."""
        found, at = cls([]), 0
        try:
            while at < len(blob):
                kind, size = HEAD.unpack_from(blob, at)
                at += HEAD.size
                make = kll_floats_sketch if kind == b"n" else frequent_strings_sketch
                found.each.append(make.deserialize(blob[at : at + size]))
                at += size
        except (RuntimeError, ValueError, IndexError, struct.error) as error:
            raise ValueError(f"these are no sketches: {error}") from error
        return found


def _short(text: str) -> str:
    """As much of a text as TEXT bytes hold."""
    return text if len(text) <= TEXT // 4 else text.encode()[:TEXT].decode(errors="ignore")
