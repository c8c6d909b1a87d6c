"""One version on one track: its requests and answers as features, added up until a chunk of them is full."""

from __future__ import annotations

from collections.abc import Sequence
from random import sample
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data.features import CONFIDENCE, CONFIDENCES, Columns
from modelkeep.data.packed import size_of
from modelkeep.data.profiles import MINUTE, Bucket, Chunk

if TYPE_CHECKING:
    from modelkeep.data.bins import Bins
    from modelkeep.data.sketches import Sketches
    from modelkeep.model.baseline import Baseline
    from modelkeep.serve.plane.loaded import Loaded
    from modelkeep.types import Array, Arrays

Offered = tuple["Loaded", str, str, "Arrays", "Arrays", int]
"""One answered request: its version, track, id, inputs, outputs and bytes."""

MAX_ROWS = 32
"""Of one request; more of them tell little more about its kind."""
SKETCHED = 64
"""Of requests that are read together; of more, every second goes into the sketches, every third, and so on."""
CHUNK_N, CHUNK_SECONDS, CHUNK_LATEST = 16, 1.0, 5.0
"""A chunk has so many requests and so many seconds at least; after the last of these, what there is. After as
long a pause more come, of 16 requests, 32, 64 and so on."""


class Confidences:
    """How sure answers were: rows by the first of CONFIDENCES that they do not exceed, and the sum of all."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(CONFIDENCES) + 1, dtype=np.int64)
        self.sum = 0.0

    def add(self, values: Array) -> None:
        """[rows]; NaN is no confidence."""
        known = values[~np.isnan(values)]
        self.counts += np.bincount(np.searchsorted(CONFIDENCES, known), minlength=len(self.counts))
        self.sum += float(known.sum())


class Gathered:
    """Inputs, or answers: counted since the last chunk, where there are ``bins``; sketched in this minute, where
    ``sketching`` is given.
    """

    def __init__(
        self,
        columns: Columns,
        bins: Bins | None,
        sketching: type[Sketches] | None,
        *,
        batched: bool,
        whose: dict[str, Any],
    ) -> None:
        self.columns, self.bins = columns, bins
        self._batched, self._whose, self._sketching = batched, whose, sketching
        self._counts: Array | None = None
        self._n, self._at = 0, 0.0
        self._until = float("-inf")
        """When the last chunk ended."""
        self._early = CHUNK_N
        """A chunk ends with so many requests, however soon they came."""
        self._full: list[Chunk] = []
        self._sketches: Sketches | None = None
        self._sketched, self._minute = 0, 0.0

    def take(self, requests: Sequence[Arrays], now: float) -> Array:
        """Count requests; gives their features [rows, features]. KeyError, ValueError where they have another form."""
        first = self.columns.tensors[0].name
        sizes = [len(one[first]) for one in requests] if self._batched else [1] * len(requests)
        if max(sizes) > MAX_ROWS:
            requests = [thin(one) for one in requests]
            sizes = [min(size, MAX_ROWS) for size in sizes]
        values = self.columns.read_all(requests)
        if self.bins is not None:
            self._count(self.bins, self.bins.place(values), np.array(sizes), now)
        if self._sketching is not None:
            if self._sketches is None:
                self._sketches = self._sketching([column.category for column in self.columns.columns])
                self._minute = now // MINUTE * MINUTE
            every = max(1, len(requests) // SKETCHED) if len(values) == len(requests) else 1
            some = values[::every]
            self._sketches.update(some, self.columns.occurring(requests[::every], some))
            self._sketched += len(requests)
        return values

    def _count(self, bins: Bins, places: Array, sizes: Array, now: float) -> None:
        """Bets are laid on what earlier chunks held, so that of a burst in one chunk nothing would be found until
        something more comes: after a pause the first CHUNK_N requests are a chunk, then twice as many, and so on."""
        if self._n == 0 and not 0 <= now - self._until <= CHUNK_LATEST:
            self._early = CHUNK_N
        while len(sizes) > (room := max(self._early - self._n, 0)):
            first = int(sizes[:room].sum())
            self._add(bins, places[:first], sizes[:room], now)
            self._end(bins, now)
            self._early *= 2
            places, sizes = places[first:], sizes[room:]
        self._add(bins, places, sizes, now)

    def _add(self, bins: Bins, places: Array, sizes: Array, now: float) -> None:
        counts = bins.tally(places, np.repeat(1 / sizes, sizes))
        self._counts = counts if self._counts is None else self._counts + counts
        self._at = self._at if self._n else now
        self._n += len(sizes)

    def _end(self, bins: Bins, now: float) -> None:
        if self._counts is not None:
            whose = self._whose
            self._full.append(Chunk(**whose, at=self._at, until=now, form=bins.form, n=self._n, counts=self._counts))
        self._counts, self._n, self._until = None, 0, now

    def chunks(self, now: float, *, last: bool) -> list[Chunk]:
        """What was counted, where a chunk is full, the clock was set back, or the ``last``; counting begins anew."""
        age = now - self._at
        full = (self._n >= CHUNK_N and age >= CHUNK_SECONDS) or age >= CHUNK_LATEST or age < 0 or last
        if self.bins is not None and self._n and full:
            if self._n < self._early // 4:
                self._early = max(self._early // 2, CHUNK_N)
            self._end(self.bins, now)
        found, self._full = self._full, []
        return found

    def bucket(self, now: float, *, last: bool) -> Bucket | None:
        """What was sketched, where its minute is over, or the ``last``; sketching begins anew."""
        if self._sketches is None or not (last or not self._minute <= now < self._minute + MINUTE):
            return None
        names = tuple(self.columns.names)
        kept: dict[str, Any] = {"names": names, "n": self._sketched, "sketches": self._sketches}
        self._sketches, self._sketched = None, 0
        return Bucket(**self._whose, at=self._minute, span=MINUTE, **kept)


class Profiled:
    """What is gathered of one version on one track. Of a shadow the answers only, for its inputs are those of live."""

    def __init__(
        self, target: Loaded, track: str, baseline: Baseline | None, sketching: type[Sketches] | None = None
    ) -> None:
        self.used = 0.0
        self.confidences = Confidences()
        signature = target.signature
        self.subjects: dict[str, Gathered] = {}
        for name, specs in (("inputs", signature.inputs), ("answers", signature.outputs)):
            if name == "inputs" and track == "shadow":
                continue
            known = baseline.subject(name) if baseline is not None else None
            columns = known.columns if known else Columns.of(specs, None, answers=name == "answers")
            whose = {"model": target.name, "version": target.number, "track": track, "subject": name}
            self.subjects[name] = Gathered(
                columns, known.bins if known else None, sketching, batched=signature.batched, whose=whose
            )
        names = self.subjects["answers"].columns.names
        self._confidence = names.index(CONFIDENCE) if CONFIDENCE in names else None

    def take(self, lot: Sequence[Offered], now: float) -> int:
        """Count requests; gives how many could not be, for they have another form than the signature says."""
        self.used = now
        strange = 0
        for name, gathered in self.subjects.items():
            given = [one[3] if name == "inputs" else one[4] for one in lot]
            try:
                values = [gathered.take(given, now)]
            except (KeyError, ValueError):  # one spoils all: a client may ask for some of the outputs only
                values, bad = _one_by_one(gathered, given, now)
                strange = max(strange, bad)
            if name == "answers" and self._confidence is not None:
                for part in values:
                    self.confidences.add(part[:, self._confidence])
        return strange

    def chunks(self, now: float, *, last: bool = False) -> list[Chunk]:
        """Those that are full; with ``last``, what there is."""
        return [chunk for one in self.subjects.values() for chunk in one.chunks(now, last=last)]

    def buckets(self, now: float, *, last: bool = False) -> list[Bucket]:
        """The minutes that are over; with ``last``, the one that is not as well."""
        found = (one.bucket(now, last=last) for one in self.subjects.values())
        return [bucket for bucket in found if bucket is not None]


def _one_by_one(gathered: Gathered, given: Sequence[Arrays], now: float) -> tuple[list[Array], int]:
    """The features of those that can be read, and how many cannot."""
    values = []
    for one in given:
        try:
            values.append(gathered.take([one], now))
        except (KeyError, ValueError):
            continue
    return values, len(given) - len(values)


def thin(arrays: Arrays, most: int = MAX_ROWS) -> Arrays:
    """At most so many of a request's rows, chosen by chance, each as likely as another."""
    rows = len(next(iter(arrays.values())))
    if rows <= most:
        return arrays
    chosen = sample(range(rows), most)
    return {name: array[chosen] for name, array in arrays.items()}


def within(arrays: Arrays, nbytes: int) -> Arrays:
    """As ``thin``, where all rows have more bytes than that: those that fit, but one at least."""
    size = size_of(arrays)
    if size <= nbytes:
        return arrays
    fitting = len(next(iter(arrays.values()))) * nbytes // size
    return thin(arrays, min(max(fitting, 1), MAX_ROWS))
