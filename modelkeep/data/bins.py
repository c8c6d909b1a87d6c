"""Reference rows cut into bins, feature by feature: what share of them fell where, and how unsure that share is."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelkeep.data.features import Edges
    from modelkeep.types import Array

QUANTILES = 8
MAX_CATEGORIES = 12
ROUNDING = 4
"""Values of a feature that lie within so many millionths of its size are one: the norms of embeddings of length 1
differ by what their engine rounds, and another engine, number of threads or batch rounds otherwise."""
WHOLE, EXACT_WHOLE = 2**23, 2**52
"""From here on float32, and float64, has no digits behind the point."""
OTHER = "any other"
"""The label of what is none of the kinds that a feature's numbers stand for."""
LABEL = 24
"""Characters of a kind's label."""
REFERENCE_RISK = 0.01
"""The chance, borne once, that the reference rows are so untypical of their world that the guarantee fails."""


class Bins:
    """Bins of features. Of a feature's reference values, up to 12 different ones are a bin each (classes are
    categories); of more, there are 8 quantiles, where a value that fills a quantile alone has its own bin. NaN has one,
    and so has all outside.

    ``cuts`` are the rising edges of each feature; ``shares`` [features, bins] those of the ``n`` reference rows, 0 in
    bins that a feature does not use.
    """

    def __init__(self, cuts: Sequence[Sequence[float]], n: int, shares: Array | None = None) -> None:
        self.cuts, self.n, self.features = [list(one) for one in cuts], n, len(cuts)
        width = max((len(one) for one in self.cuts), default=0)
        self.count = width + 2
        self._edges = np.full((self.features, width), np.inf)
        for row, one in zip(self._edges, self.cuts, strict=True):
            row[: len(one)] = one
        self._unused = np.array([len(one) for one in self.cuts], dtype=np.intp)
        self.shares = np.zeros((self.features, self.count)) if shares is None else shares
        self.kinds: Mapping[int, Sequence[str]] = {}
        """What a feature's numbers 0, 1, … stand for, by its place, where they do."""

    @classmethod
    def of(cls, reference: Array, fixed: Sequence[Edges], exact: Sequence[bool] = ()) -> Bins:
        """The bins of a reference matrix [rows, features], with their shares; ``fixed`` edges are taken as they are,
        and ``exact`` says of which features no value was ever a float32."""
        cuts = [
            list(given) if given is not None else cut(reference[:, at], bool(exact) and exact[at])
            for at, given in enumerate(fixed)
        ]
        found = cls(cuts, len(reference))
        found.shares = found.tally(found.place(reference), np.full(found.n, 1 / max(found.n, 1)))
        return found

    @cached_property
    def form(self) -> str:
        """Names these bins: counts of other ones cannot be compared with them."""
        return hashlib.sha256(json.dumps(self.cuts).encode()).hexdigest()[:16]

    def place(self, values: Array) -> Array:
        """[rows, features] of numbers → [rows, features] of bins; the last bin is NaN's."""
        above = np.zeros(values.shape, dtype=np.uint8)
        with np.errstate(invalid="ignore"):
            for edge in self._edges.T:
                above += values >= edge
        found: Array = above.astype(np.intp)
        if not np.isfinite(values).all():
            found[np.isnan(values)] = self.count - 1
            found = np.where(np.isposinf(values), self._unused, found)  # which passes the unused edges too
        return found

    def tally(self, places: Array, weights: Array) -> Array:
        """[features, bins]: the sum of the rows' weights in each bin."""
        flat = places + np.arange(self.features) * self.count
        each = np.broadcast_to(weights[:, None], places.shape)
        found = np.bincount(flat.ravel(), each.ravel(), minlength=self.features * self.count)
        return found.reshape(self.features, self.count)

    def upper(self, chosen: Array) -> Array:
        """[features]: an upper bound of the true share of a union of bins, ``chosen`` [features, bins] of bool.

        It holds for all unions and features at once but for REFERENCE_RISK: Chernoff's bound with a union over them,
        where those of all bins but one, which are few, bear half of the risk.
        """
        hits = np.rint((self.shares * chosen).sum(axis=1) * self.n).astype(np.int64)
        places = np.arange(self.count)
        used = (places <= self._unused[:, None]) | (places == self.count - 1)
        but_one = ((used & ~chosen).sum(axis=1) == 1).astype(np.intp)
        found: Array = self._upper[but_one, np.arange(self.features), hits]
        return found

    @cached_property
    def _upper(self) -> Array:
        """[2, features, n + 1]: the bounds by the number of reference rows inside; of all bins but one, the second."""
        found = np.empty((2, self.features, self.n + 1))
        seen = np.arange(self.n + 1) / self.n
        known: dict[int, list[Array]] = {}
        for at, cuts in enumerate(self.cuts):
            bins, risk = len(cuts) + 2, log(2 * self.features / REFERENCE_RISK)
            if bins not in known:
                known[bins] = [_chernoff(seen, (unions + risk) / self.n) for unions in (bins * log(2), log(bins))]
            found[:, at] = known[bins]
        return found

    def label(self, feature: int, place: int, kinds: Sequence[str] = ()) -> str:
        """What a bin holds, for a person; ``kinds`` are what its numbers stand for, if not those that are known."""
        cuts = self.cuts[feature]
        if place == self.count - 1:
            return "NaN"
        if not cuts:
            return "any"
        near = (cuts[max(place - 1, 0)], cuts[min(place, len(cuts) - 1)])
        only = _only(*near, max(abs(edge) for edge in cuts))
        if (named := kinds or self.kinds.get(feature, ())) and (place == 0 or only == -1):
            return OTHER
        if only is not None:
            return _short(named[only]) if 0 <= only < len(named) else f"{only}"
        ends = _ends(cuts)
        low, high = ends[max(place - 1, 0)], ends[min(place, len(cuts) - 1)]
        if place == 0:
            return f"< {high}"
        return f"≥ {low}" if place >= len(cuts) else f"{low} to {high}" if low != high else low


def _ends(cuts: Sequence[float]) -> list[str]:
    """The edges in as few digits as tell the bins between them apart; 0 for the ends of the bin of zeros alone."""
    scale = max(abs(edge) for edge in cuts)
    zeros = {end for low, high in pairwise(cuts) if low == -high for end in (low, high)}
    zeros |= {cuts[0]} if -1e-5 * scale < cuts[0] < 0 else set()
    ends: list[str] = []
    for digits in range(4, 18):
        ends = ["0" if edge in zeros else _digits(edge, digits) for edge in cuts]
        between = [low if low == high else (low, high) for low, high in pairwise(ends)]
        if len(set(between)) == len(between):
            break
    return ends


def _digits(value: float, digits: int) -> str:
    """0.25, 1,700,045,000 or 1e+20."""
    return f"{float(f'{value:.{digits}g}'):,}".removesuffix(".0")


def _short(text: str) -> str:
    return f"{text[: LABEL - 1]}…" if len(text) > LABEL else text or "''"


def _only(low: float, high: float, scale: float) -> int | None:
    """The whole number that a category is, where it lies between its neighbours' halves; None for other bins. Ends of
    ``cut`` lie beside it by up to a millionth of the ``scale``."""
    slack, number = min(1.1e-6 * scale, 0.49), round((low + high) / 2)
    ends = all(edge % 1 == 0.5 or abs(edge - number) < slack for edge in (low, high))
    return number if low < number < high and (ends or low == -high) else None


def _codes(values: Array, exact: bool) -> bool:
    """Whether they are whole numbers, as of shops, which no rounding makes one of another; from WHOLE on all are."""
    most = EXACT_WHOLE if exact else WHOLE
    return bool(np.abs(values).max() < most and (values == np.rint(values)).all())


def cut(column: Array, exact: bool = False) -> list[float]:
    """The rising edges between the bins of one feature; ``exact``: no value of it was ever a float32."""
    known = column[np.isfinite(column)]
    if not known.size:
        return []
    values = np.unique(known)
    small, codes = 1e-6 * (float(np.abs(values).max()) or 1.0), _codes(values, exact)
    if codes:
        small = min(small, 0.5)
    elif values[-1] - values[0] <= ROUNDING * small:
        return [float(values[0]) - ROUNDING * small, float(values[-1]) + ROUNDING * small]
    if len(values) <= MAX_CATEGORIES:
        between = ((values[1:] + values[:-1]) / 2).tolist()
        return [float(values[0]) - small, *between, float(values[-1]) + small]
    marks = np.unique(np.quantile(known, np.arange(1, QUANTILES) / QUANTILES, method="nearest"))
    edges: set[float] = set()
    for mark in marks.tolist():
        alone = (known == mark).mean() >= 1 / QUANTILES
        apart = np.abs(marks[marks != mark] - mark).min(initial=np.inf) / 2  # in a long tail the others may be nearer
        beside = max(min(small, float(apart)), 1e-6 * abs(mark))
        edges.update((mark - beside, mark + beside) if alone else (mark,))
    return sorted(edges)


def _chernoff(seen: Array, exponent: float) -> Array:
    """The largest u with KL(seen ‖ u) ≤ exponent (Bernoulli), by bisection."""
    low, high = seen.copy(), np.ones_like(seen)
    for _ in range(50):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            first = np.where(seen > 0, seen * np.log(seen / middle), 0.0)
            second = np.where(seen < 1, (1 - seen) * np.log((1 - seen) / (1 - middle)), 0.0)
        inside = first + second <= exponent
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return high
