"""Drift of inputs and answers, from the counts that a server keeps of all its requests (data.profiles)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from modelkeep.data import profiles
from modelkeep.monitor.drift import Drift, Tolerance
from modelkeep.monitor.place import Place

if TYPE_CHECKING:
    from modelkeep.data.profiles import Chunk
    from modelkeep.monitor.judged import Judged

RUN = 4000
"""A run covers the newest RUN to 2·RUN chunks of the version, of inputs and answers together."""
PAGE = 50


class Profiled:
    """Drift of one version; each look reads on where the last one ended.

    A run that begins at a later row has to read what is there first, which may take several looks where these are
    bounded. The one before it goes on until then, so that what is found is not lost for a while.
    """

    def __init__(self, judged: Judged) -> None:
        self.judged = judged
        path, name, number = judged.profiles, judged.name, judged.number
        start = partial(profiles.run_start, path, name, number)
        self._place = Place(path, partial(profiles.newest, path), lambda: start(RUN))
        self.run = _Run(judged, 0)
        self._next: _Run | None = None

    @property
    def behind(self) -> bool:
        """Whether the last look left something for the next ones."""
        return self.run.behind

    def look(self) -> None:
        """Take the chunks that are new or, where looks are bounded, the next ones, for none may be left out."""
        if self._place.moved():
            fresh = _Run(self.judged, self._place.row)
            self.run, self._next = (fresh, None) if self._place.anew else (self.run, fresh)
        self.run.read()
        if self._next is not None:
            self._next.read()
            if self._next.row >= self.run.row:
                self.run, self._next = self._next, None
        self._place.row = self.run.row


class _Run:
    """The detectors, from one row on. ``n`` requests were counted, and ``strange`` ones by another form of bins."""

    def __init__(self, judged: Judged, row: int) -> None:
        self.judged, self.row = judged, row
        self.drifts = drifts(judged, "looked at")
        self.n = self.strange = self._answers = 0
        self.since: float | None = None
        self.behind = False

    @property
    def unsaid(self) -> int:
        """Requests whose inputs were counted and whose answers were not, as their clients asked for some outputs only;
        known once all is read."""
        several = "answers" in self.drifts and len(self.judged.model.signature.outputs) > 1
        return max(self.n - self._answers, 0) if several and not self.behind else 0

    def read(self) -> None:
        """Go on."""
        who = self.judged
        left = who.most
        while page := profiles.read(
            who.profiles, who.name, who.number, after=self.row, limit=PAGE if left is None else min(PAGE, left)
        ):
            for chunk in page:
                if chunk.track != "shadow":
                    self._take(chunk)
            self.row = page[-1].row
            if left is not None:
                left -= len(page)
        self.behind = left == 0

    def _take(self, chunk: Chunk) -> None:
        if self.since is None:
            self.since = chunk.at
        if chunk.subject == "inputs":
            self.n += chunk.n
        else:
            self._answers += chunk.n
        drift = self.drifts.get(chunk.subject)
        if drift is None:
            return
        if chunk.form != drift.bins.form:
            self.strange += chunk.n
        else:
            drift.add_counts(chunk.counts, chunk.n, chunk.at, chunk.until)


def features(judged: Judged) -> list[str]:
    """Of inputs and answers, by name; none where they have no reference."""
    known = judged.known
    subjects = () if known is None else [known.subject(name) for name in ("inputs", "answers")]
    return [name for one in subjects if one is not None for name in one.columns.names]


def drifts(judged: Judged, of: str = "captured") -> dict[str, Drift]:
    """New detectors for the subjects that have a reference; each has an equal part of the false alarms, for the few
    features of the answers would else have next to none."""
    known = judged.known
    if known is None:
        return {}
    subjects = {name: one for name in ("inputs", "answers") if (one := known.subject(name)) is not None}
    limits = judged.limits
    counts = {name: sum(each not in limits.ignore for each in one.columns.names) for name, one in subjects.items()}
    tolerance = Tolerance(limits.tolerance, judged.every, told=limits.false_alarm_every)
    return {
        name: Drift(
            name,
            one.bins,
            one.columns.names,
            one.columns.edges,
            tolerance,
            tests=len(subjects) * counts[name],
            of=of,
            classes=judged.model.labels,
            ignored=limits.ignore,
        )
        for name, one in subjects.items()
        if counts[name]
    }
