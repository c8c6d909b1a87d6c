"""What monitor says of a version, for a page: what moved where, how good the answers are, and how that went."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelkeep.monitor import look

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.monitor.look import Checked
    from modelkeep.types import Version

FRESH = 5.0
"""Seconds that a look is good for, whoever asks."""
KEPT = 16
"""Versions whose last look is kept."""
MOST_BINS = 24
SHARES = ("accuracy", "f1", "auc")


@dataclass(frozen=True)
class Moved:
    """One feature: the share of requests that fall elsewhere than the reference rows did, and what fell where.
    ``raised``: whether that is a finding.

    ``bins`` are (what is in it, share of the reference rows, share of the requests).
    """

    subject: str
    feature: str
    moved: float
    raised: bool
    bins: tuple[tuple[str, float, float], ...]


class Looks:
    """Monitor's looks at versions, one at a time and each good for a moment, so that many readers cost one look."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._known: OrderedDict[str, tuple[float, Checked]] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, version: Version) -> Checked:
        """May block, and run the model on its reference rows. Raises what monitor raises. Writes nothing down."""
        with self._lock:
            known = self._known.get(version.ref)
            if known is None or time.monotonic() - known[0] > FRESH:
                model, home = self._keep.model(version), self._keep.settings.home
                checked = look.check(version, model, home, plots=True, **self._held(version))
                self._known[version.ref] = (time.monotonic(), checked)
                self._known.move_to_end(version.ref)
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
            return self._known[version.ref][1]

    def _held(self, version: Version) -> dict[str, Any]:
        """What the settings promise; that a version is not asked while it is not served is no finding."""
        promised, route = self._keep.settings.promised, self._keep.registry.route(version.name)
        if version.number not in (route.live, route.canary):
            promised.pop("silence", None)
        return promised


def moved(checked: Checked) -> list[Moved]:
    """The features of which before and after are known, each subject's most moved first."""
    found: dict[tuple[str, str], Moved] = {}
    for subject, row in _rows(checked):
        bins = tuple(zip(row["bins"], row["before"], row["after"], strict=True))[:MOST_BINS]
        raised = bool(row.get("raised", True))
        one = Moved(subject, str(row["feature"]), float(row["moved"]), raised, bins)
        found.setdefault((subject, one.feature), one)
    return sorted(found.values(), key=lambda m: (m.subject != "inputs", -m.moved))


@dataclass(frozen=True)
class Measured:
    """A metric: what labels say, and what was estimated without them; {value, low, high}, or None."""

    name: str
    labelled: Mapping[str, Any] | None
    estimated: Mapping[str, Any] | None

    @property
    def share(self) -> bool:
        """Whether it is a number from 0 to 1 that is read as a percentage."""
        return self.name in SHARES


def measured(checked: Checked) -> list[Measured]:
    """Every metric of quality that something is known of."""
    quality = checked.numbers.get("quality", {})
    labelled = {name: one for name, one in quality.items() if isinstance(one, Mapping) and "value" in one}
    if "accuracy" in quality and not isinstance(quality["accuracy"], Mapping):
        labelled["accuracy"] = {"value": quality["accuracy"], "low": quality["low"], "high": quality["high"]}
    told = checked.numbers.get("estimated", {})
    estimated = {name: one for name, one in told.items() if isinstance(one, Mapping) and "value" in one}
    names = sorted({*labelled, *estimated}, key=lambda name: (name not in SHARES, name))
    return [Measured(name, labelled.get(name), estimated.get(name)) for name in names]


@dataclass(frozen=True)
class Chart:
    """Lines over time for the page's script: ``lines`` are (name, colour, values); ``band`` are two of them, filled
    between. Values are multiplied by ``unit``.
    """

    title: str
    says: str
    x: Sequence[float | None]
    lines: Sequence[tuple[str, str, Sequence[float | None]]]
    band: bool = False
    unit: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """What the script reads."""
        return {"x": self.x, "lines": self.lines, "band": self.band, "unit": self.unit}


def charts(checked: Checked) -> list[Chart]:
    """How it went, of all that monitor draws over time."""
    found = []
    if points := checked.plots.get("quality"):
        lines = [("accuracy", "live", _of(points, "value"))]
        lines += [(name, "before", _of(points, name)) for name in ("low", "high")]
        says = "of all labelled requests up to then, with its confidence sequence; percent"
        found.append(Chart("Accuracy", says, _of(points, "at"), lines, band=True, unit=100.0))
    if points := checked.plots.get("seconds"):
        lines = [("p50", "before", _of(points, "p50")), ("p99", "live", _of(points, "p99"))]
        found.append(Chart("Latency", "milliseconds", _of(points, "at"), lines, unit=1000.0))
    if points := checked.plots.get("minutes"):
        shares = [p["failed"] / max(p["requests"], 1.0) for p in points]
        found.append(
            Chart("Failed", "percent of the requests", _of(points, "at"), [("failed", "bad", shares)], unit=100.0)
        )
    if points := checked.plots.get("memory"):
        lines = [("memory", "live", _of(points, "bytes"))]
        found.append(Chart("Memory", "MB, of the server and its workers", _of(points, "at"), lines, unit=1e-6))
    return found


def _of(points: Sequence[Mapping[str, float]], name: str) -> list[float | None]:
    return [point.get(name) for point in points]


def _rows(checked: Checked) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What findings say first: they tell of the requests since it moved, and not of all."""
    for finding in checked.findings:
        if finding.kind == "drift":
            yield from ((finding.subject, row) for row in finding.evidence.get("most_moved", ()))
    for subject, numbers in checked.numbers.items():
        rows = numbers.get("most_moved") if isinstance(numbers, Mapping) else None
        if isinstance(rows, list):
            yield from ((subject, row) for row in rows)
