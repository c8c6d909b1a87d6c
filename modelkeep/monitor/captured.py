"""What is judged on captured requests: how sure the answers are, and where no server counted them, drift and health."""

from __future__ import annotations

from array import array
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import traffic
from modelkeep.monitor.drift import thin
from modelkeep.monitor.estimated import Calibration, Estimated
from modelkeep.monitor.health import Health
from modelkeep.monitor.labelled import chances
from modelkeep.monitor.place import Place
from modelkeep.monitor.profiled import drifts

if TYPE_CHECKING:
    from modelkeep.data.traffic import Exchange
    from modelkeep.monitor.judged import Judged
    from modelkeep.types import Array, Arrays

RUN = 5000
"""A run covers the newest RUN to 2·RUN captured requests, so each request is in two runs at most."""
PAGE, PAGE_BYTES = 500, 4 * 1024**2
"""What is read at a time: a page of pictures must not take more memory than the model that answered them."""
MAX_TIMES = 20_000


class Captured:
    """The captured requests of one version; each look reads on where the last one ended."""

    def __init__(self, judged: Judged, calibration: Calibration | None) -> None:
        self.judged, self._calibration = judged, calibration
        path, name, number = judged.traffic, judged.name, judged.number
        place = Place(path, partial(traffic.newest, path), lambda: traffic.run_start(path, name, number, RUN))
        self._place = place if judged.most is None else place.once()
        self._begin()

    def _begin(self) -> None:
        who = self.judged
        self.health = Health(who.limits.p99, who.every, slo=who.limits.slo, silence=who.limits.silence)
        self.drifts = drifts(who)
        self.estimated = None if self._calibration is None else Estimated(self._calibration, *who.floor, who.every)
        self.times: array[float] = array("d")
        """When each request came and how many seconds it took, one after the other; MAX_TIMES of them at least, and no
        more than twice as many.
        """
        self.unreadable = self.unsaid = 0
        """Requests of another form; and those whose clients asked for some of the outputs only."""
        self.since: float | None = None

    def look(self, *, features: bool = True) -> None:
        """Take the requests that are new; ``features`` is whether drift is judged on them, and their inputs needed."""
        if self._place.moved():
            self._begin()
        who, newest = self.judged, self.judged.most is not None
        known: Any = {"version": who.number, "limit": who.most or PAGE, "max_bytes": PAGE_BYTES, "newest": newest}
        arrays = features or self.estimated is not None
        while page := traffic.read(
            who.traffic, who.name, after=self._place.row, arrays=arrays, inputs=features, **known
        ):
            self._take([e for e in page if e.track != "shadow"], features)
            self._place.row = page[-1].row
            if newest:
                break

    def _take(self, page: list[Exchange], features: bool) -> None:
        if page and self.since is None:
            self.since = page[0].at
        for exchange in page:
            self.health.add(exchange)
            self.times.extend((exchange.at, exchange.seconds))
            if self.estimated is not None and exchange.outcome == "ok" and exchange.outputs is not None:
                given = chances(exchange.outputs, self.judged.model)
                if given is not None and len(given):
                    self.estimated.add(given, exchange.at)
        if len(self.times) >= 4 * MAX_TIMES:
            del self.times[: -2 * MAX_TIMES]
        if not features:
            return
        captured = [e for e in page if e.inputs is not None]
        self._features("inputs", [(e.inputs or {}, e.at) for e in captured])
        self._features("answers", [(e.outputs, e.at) for e in captured if e.outputs is not None])

    def seconds(self) -> dict[str, float]:
        """The median and the 99th percentile of the newest requests' seconds; empty where there are none."""
        if not self.times:
            return {}
        median, high = np.quantile(np.array(self.times)[1::2][-MAX_TIMES:], (0.5, 0.99))
        return {"p50": float(median), "p99": float(high)}

    def _features(self, subject: str, given: list[tuple[Arrays, float]]) -> None:
        known = self.judged.known
        if subject not in self.drifts or known is None:
            return
        reference = known.subject(subject)
        assert reference is not None  # or there would be no drift of it
        values: list[Array] = []
        ats: list[float] = []
        for arrays, at in given:
            try:
                values.append(reference.columns.read({name: thin(np.asarray(array)) for name, array in arrays.items()}))
                ats.append(at)
            except (KeyError, ValueError) as error:
                unsaid = subject == "answers" and isinstance(error, KeyError)
                self.unsaid, self.unreadable = self.unsaid + unsaid, self.unreadable + (not unsaid)
        self.drifts[subject].add(values, ats)


def calibration(judged: Judged) -> Calibration | None:
    """Of the reference rows; None where they have no labels, or the answers do not say how sure they are."""
    known = judged.known
    if known is None or known.right is None or known.confidence is None:
        return None
    there = np.isfinite(known.confidence)
    return Calibration.of(known.confidence[there], known.right[there])
