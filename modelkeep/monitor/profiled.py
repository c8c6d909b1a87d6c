"""Drift of inputs and answers, from the counts that a server keeps of all its requests (data.profiles)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from modelkeep.data import profiles
from modelkeep.monitor.drift import Drift, Tolerance
from modelkeep.monitor.watched import Place, stride

if TYPE_CHECKING:
    from modelkeep.data.profiles import Chunk
    from modelkeep.monitor.watched import Watched

RUN = 4000
"""A run covers the newest RUN to 2·RUN chunks, of all models and subjects."""
PAGE = 250


class Profiled:
    """The detectors of drift of one version; each look reads on where the last one ended."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        path = watched.profiles
        newest = partial(profiles.newest, path)
        self._place = Place(path, newest, lambda: stride(newest(), RUN))
        self._begin()

    def _begin(self) -> None:
        self.drifts = drifts(self.watched)
        self.n = self.strange = 0
        self.since: float | None = None

    def look(self) -> None:
        """Take the chunks that are new; those of another form than the baseline's are counted as ``strange``."""
        if self._place.moved():
            self._begin()
        who = self.watched
        while page := profiles.read(who.profiles, who.name, who.number, after=self._place.row, limit=PAGE):
            for chunk in page:
                if chunk.track != "shadow":
                    self._take(chunk)
            self._place.row = page[-1].row

    def _take(self, chunk: Chunk) -> None:
        if self.since is None:
            self.since = chunk.at
        if chunk.subject == "inputs":
            self.n += chunk.n
        drift = self.drifts.get(chunk.subject)
        if drift is None:
            return
        if chunk.form != drift.bins.form:
            self.strange += chunk.n
        else:
            drift.add_counts(chunk.counts, chunk.n, chunk.at, chunk.until)


def drifts(watched: Watched) -> dict[str, Drift]:
    """New detectors for the subjects that have a reference; each has an equal part of the false alarms, for the few
    features of the answers would else have next to none."""
    known = watched.known
    if known is None:
        return {}
    subjects = {name: one for name in ("inputs", "answers") if (one := known.subject(name)) is not None}
    limits = watched.limits
    tolerance = Tolerance(limits.tolerance, watched.every, told=limits.false_alarm_every)
    return {
        name: Drift(
            name,
            one.bins,
            one.columns.names,
            one.columns.edges,
            tolerance,
            tests=len(subjects) * len(one.columns.names),
        )
        for name, one in subjects.items()
        if one.columns.names
    }
