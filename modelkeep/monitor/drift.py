"""Drift: has the share of requests that moved to other bins than the reference rows' grown over a tolerance?

For each feature the effect is the total variation distance of its bins, the share of requests that moved. Evidence that
it is over the tolerance comes from bets: past live requests say which bins are over-represented, and the next ones are
bet to fall there more often than the reference share, plus the tolerance, plus what the reference rows may err by. That
is an e-process for a composite hypothesis (betting: Waudby-Smith & Ramdas 2024, JRSS-B; a predictor learned from the
past as the payoff: Podkopaev & Ramdas 2023, "Sequential predictive two-sample and independence testing", NeurIPS), run
as an e-detector (see detector.py). A shift below the tolerance stays silent however many requests come, and looking
often costs nothing. A class of the answers that hardly comes any more is drift too, however few requests it moves.

It takes requests to come independently: bursts of alike requests look like drift, for the time of the burst.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data.bins import Bins
from modelkeep.monitor.detector import Detector
from modelkeep.quantities import counted
from modelkeep.types import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from modelkeep.data.features import Edges
    from modelkeep.types import Array

CHUNK = 16
"""Requests of one step where they come one by one: their bets are laid before the first of them is seen."""
KEEP = 0.9
"""Of the memory of what is over-represented, for each CHUNK of requests: about 160 requests back."""
KEEP_CLASSES = 0.8
"""Likewise of which class hardly comes any more: about 80 back. One that is gone is seen sooner than one that grows."""
MAX_ROWS = 32
"""Of one request; more of them tell little more about its kind."""
MAX_KEPT = 128
"""Chunks that are remembered to tell since when; of more, the older ones are joined in pairs."""
TOLD = 5
CLASS = "predicted class"
"""The feature of the answers whose bins are classes."""


@dataclass(frozen=True)
class Tolerance:
    """What drift may be: the share of requests that may move, and how many requests there are per false alarm."""

    share: float = 0.1
    false_alarm_every: float = 1e6
    told: float | None = None
    """What a finding says of it, where several runs share the false alarms."""
    lost: float = 1 / 4
    """What a class of the answers may lose of its share: one of ten that never comes any more moves 10 % only. Of a
    class that 40 % have, a quarter is the share that may move anyway.
    """


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Requests as counts [features, bins]: from which step of the detector on, how many came before, and when."""

    step: int
    before: int
    at: float
    counts: Array


def _joined(one: _Chunk, next_: _Chunk) -> _Chunk:
    return replace(one, counts=one.counts + next_.counts)


class Drift:
    """One subject (inputs, or answers) of one version. Give it requests in their order, then ask for ``finding``."""

    def __init__(
        self,
        subject: str,
        reference: Array | Bins,
        names: Sequence[str],
        fixed: Sequence[Edges],
        tolerance: Tolerance,
        *,
        tests: int = 0,
        of: str = "captured",
        classes: Sequence[str] = (),
        ignored: Collection[str] = (),
    ) -> None:
        """``reference`` [rows, features], cut at the ``fixed`` edges where there are such, or the bins it fell into;
        ``tests`` is how many features share the false alarms, if more than these; ``of`` says which requests come;
        ``classes`` are the names of the classes, where they have some; ``ignored`` are features that may move, not all.
        """
        self.subject, self.names, self.tolerance, self.of = subject, tuple(names), tolerance, of
        self.bins = reference if isinstance(reference, Bins) else Bins.of(reference, fixed)
        self._judged = np.array([name not in ignored for name in names])
        self.features = int(self._judged.sum())
        """How many are judged."""
        steps = max(tolerance.false_alarm_every / CHUNK, 1.0)
        self.detector = Detector(len(names), log(max(tests, self.features) * steps))
        self._every = tolerance.told or tolerance.false_alarm_every
        self._classes = [at for at, name in enumerate(names) if subject == "answers" and name == CLASS]
        self._named = tuple(classes)
        self.n = 0
        self._seen = np.zeros_like(self.bins.shares)
        self._classes_seen = np.zeros_like(self.bins.shares[self._classes])
        self.until: float | None = None
        """When the last request came, epoch seconds."""
        self._kept: list[_Chunk] = []
        self._waiting: list[tuple[Array, float]] = []

    def add(self, values: Sequence[Array], ats: Sequence[float]) -> None:
        """Requests in their order: ``values`` [rows of the request, features] each, ``ats`` when (epoch seconds)."""
        self._waiting.extend((thin(rows), at) for rows, at in zip(values, ats, strict=True) if len(rows))
        while len(self._waiting) >= CHUNK:
            chunk, self._waiting = self._waiting[:CHUNK], self._waiting[CHUNK:]
            sizes = np.array([len(rows) for rows, _ in chunk])
            places = self.bins.place(np.concatenate([rows for rows, _ in chunk]))
            self.add_counts(self.bins.tally(places, np.repeat(1 / sizes, sizes)), CHUNK, chunk[0][1], chunk[-1][1])

    def add_counts(self, counts: Array, n: int, at: float, until: float) -> None:
        """The next ``n`` requests, from ``at`` to ``until`` (epoch seconds), as ``counts`` [features, bins].

        A request of k rows gives each of its rows the weight 1/k, so that each feature's counts sum to n: a request is
        one observation, however many rows it has, and its share in some bins is a number in [0, 1]
        (Detector.step_sums). Chunks may be of any size, so long as that does not depend on what is in them. Raises
        ValueError for counts of another shape.
        """
        if counts.shape != self.bins.shares.shape:
            wanted = list(self.bins.shares.shape)
            raise ValueError(f"counts of shape {list(counts.shape)}; the reference has {wanted} [features, bins]")
        if n < 1:
            return
        if self.n:
            chosen, bound = self._bet()
            self.detector.step_sums((counts * chosen).sum(axis=1), n, bound, stake=n / CHUNK)
        else:
            self.detector.skip()
        self._seen = KEEP ** (n / CHUNK) * self._seen + counts
        self._classes_seen = KEEP_CLASSES ** (n / CHUNK) * self._classes_seen + counts[self._classes]
        self._kept.append(_Chunk(self.detector.steps - 1, self.n, at, counts.astype(np.float32)))
        self.n += n
        self.until = until
        if len(self._kept) > MAX_KEPT:
            older = self._kept[: MAX_KEPT // 2]
            self._kept[: MAX_KEPT // 2] = [_joined(*pair) for pair in zip(older[::2], older[1::2], strict=True)]

    def _bet(self) -> tuple[Array, Array]:
        """[features, bins] of bool, [features]: the bins that requests are bet to fall into, and how often they may.

        They are those that recent requests fall into more often than the reference rows did; or, where more is to be
        won so, all classes but the one that has lost most of its share. Both bets are fair while nothing has drifted,
        so it is fair to choose between them by what is past.
        """
        share = self._seen / self._seen.sum(axis=1, keepdims=True)
        chosen = share > self.bins.shares
        bound = np.where(chosen.any(axis=1), self.bins.upper(chosen) + self.tolerance.share, 1.0)
        for at, seen in zip(self._classes, self._classes_seen, strict=True):
            others = chosen.copy()
            others[at] = np.arange(self.bins.count) != self._rarer(at, seen / seen.sum())
            most = 1 - (1 - self.tolerance.lost) * (1 - self.bins.upper(others)[at])
            if _gain(seen @ others[at] / seen.sum(), most) > _gain(share[at] @ chosen[at], bound[at]):
                chosen, bound[at] = others, most
        return chosen, bound

    def _rarer(self, feature: int, share: Array) -> int:
        """The bin that has lost most of its share of the reference rows."""
        before = self.bins.shares[feature]
        return int(np.argmin(np.where(before > 0, share / np.maximum(before, 1e-9), np.inf)))

    def finding(self) -> Finding | None:
        """Drift, with the features that moved, before and after; None while the evidence is too small."""
        moved = np.flatnonzero(self._raised)
        if not moved.size:
            return None
        start = self._moved_at()
        distance = self.distance(start)
        worst = moved[np.argsort(-distance[moved], kind="stable")]
        first = self._kept[self._at(start)]
        since, n = first.at, self.n - first.before
        top = int(worst[0])
        why = (
            f"{self._which(len(moved), self.names[top])}: "
            f"{self._what_moved(top, start, n)} (one false alarm in {self._every:,.0f} requests at most)"
        )
        evidence = {
            "n": n,
            "tolerance": self.tolerance.share,
            "false_alarm_every": self._every,
            "reference_rows": self.bins.n,
            "features": self.features,
            "moved": len(moved),
            "log_evidence": float(self.detector.log_evidence[worst].max()),
            "log_threshold": self.detector.needed,
            "most_moved": [self._describe(int(at), start, float(distance[at])) for at in worst[:TOLD]],
        }
        return Finding("drift", self.subject, why, evidence, since)

    def _which(self, moved: int, most: str) -> str:
        if self.features == 1:
            return f"{most}, the one feature of the {self.subject}, moved"
        return f"{moved} of {self.features} features of the {self.subject} moved, most of all {most}"

    def _what_moved(self, feature: int, start: int, n: int) -> str:
        before, after = self.bins.shares[feature], self._live(start)[feature]
        distance, rarer = float(np.abs(after - before).sum() / 2), self._rarer(feature, after)
        if feature in self._classes and before[rarer] - after[rarer] > distance / 2:
            return (
                f"{self._label(feature, rarer)} is the answer to {after[rarer]:.1%} of {self._counted(n)}, of "
                f"the reference rows to {before[rarer]:.1%}, of which it may lose {self.tolerance.lost:.0%}"
            )
        may = self.tolerance.share
        return f"{distance:.0%} of {self._counted(n)} fall elsewhere than the reference rows did, where {may:.0%} may"

    def _label(self, feature: int, place: int) -> str:
        return self.bins.label(feature, place, self._named if feature in self._classes else ())

    def _counted(self, n: int) -> str:
        return f"{counted(n, 'request')} {self.of}"

    def distance(self, start: int = 0) -> Array:
        """[features]: total variation distance of the requests since a step from the reference; 0 to 1.

        Chance alone makes it about sqrt(bins / (2π n)) for n requests, so it is an effect size, not a test.
        """
        found: Array = np.abs(self._live(start) - self.bins.shares).sum(axis=1) / 2
        return found

    def _at(self, start: int) -> int:
        """The place of the chunk that this step was, or is part of by now."""
        return max(bisect_right(self._kept, start, key=lambda chunk: chunk.step) - 1, 0)

    def _live(self, start: int) -> Array:
        counts = np.sum([chunk.counts for chunk in self._kept[self._at(start) :]], axis=0, dtype=np.float64)
        found: Array = counts / counts.sum(axis=1, keepdims=True)
        return found

    def _describe(self, feature: int, start: int, distance: float) -> dict[str, Any]:
        before, after = self.bins.shares[feature], self._live(start)[feature]
        used = [place for place in range(self.bins.count) if before[place] > 0 or after[place] > 0]
        return {
            "feature": self.names[feature],
            "moved": distance,
            "bins": [self._label(feature, place) for place in used],
            "before": [float(before[place]) for place in used],
            "after": [float(after[place]) for place in used],
        }

    def before_and_after(self, count: int) -> list[dict[str, Any]]:
        """Bins of the reference rows and of the requests, for so many features: those that moved, then the farthest."""
        raised, start = self._raised, self._moved_at()
        distance = self.distance(start)
        order = np.lexsort((-distance, ~raised, ~self._judged))[: min(count, self.features)]
        return [self._describe(int(at), start, float(distance[at])) | {"raised": bool(raised[at])} for at in order]

    @property
    def _raised(self) -> Array:
        """[features] of bool: those that moved, and are judged."""
        raised: Array = self.detector.raised & self._judged
        return raised

    def _moved_at(self) -> int:
        """The step that features moved at; the first one where none has."""
        raised = self._raised
        return int(np.median(self.detector.since[raised])) if raised.any() else 0

    def numbers(self) -> dict[str, Any]:
        """What was looked at, for a report: n, features, which moved most before and after, and the evidence so far.

        Where features moved, ``since_n`` requests came since then, and are compared; else all of them.
        """
        if not self.n:
            return {"n": 0, "features": self.features}
        most = self.before_and_after(TOLD)
        return {
            "n": self.n,
            "of": self.of,
            "since_n": self.n - self._kept[self._at(self._moved_at())].before,
            "features": self.features,
            "most_moved": most,
            "moved": most[0]["moved"],
            "tolerance": self.tolerance.share,
            "log_evidence": float(self.detector.log_evidence[self._judged].max()),
            "log_threshold": self.detector.needed,
        }

    def describe(self) -> str:
        """One line for a person."""
        if not self.n:
            return f"{self.subject}: too few requests were {self.of} to judge drift"
        numbers = self.numbers()
        of = f"of {numbers['features']} features " if numbers["features"] > 1 else ""
        return (
            f"{self.subject}: {of}{numbers['most_moved'][0]['feature']} moved{' most' if of else ''}, "
            f"{numbers['moved']:.0%} of {self._counted(numbers['since_n'])} (tolerance "
            f"{self.tolerance.share:.0%}); evidence {max(numbers['log_evidence'], 0):.1f} of the "
            f"{self.detector.needed:.1f} that make a finding"
        )


def _gain(share: float, bound: float) -> float:
    """What the best bet wins with each request, in nats, where this share of them falls inside and ``bound`` may."""
    if share <= bound:
        return 0.0
    outside = (1 - share) * log((1 - share) / (1 - bound)) if share < 1 else 0.0
    return share * log(share / bound) + outside


def thin(rows: Array) -> Array:
    """At most MAX_ROWS of a request's rows, evenly spread."""
    return rows if len(rows) <= MAX_ROWS else rows[np.linspace(0, len(rows) - 1, MAX_ROWS).astype(np.int64)]
