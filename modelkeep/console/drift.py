"""What monitor says of a version, for a page: the findings, and of each feature that is known what moved where."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelkeep.monitor import watch

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.monitor.watch import Checked
    from modelkeep.types import Version

FRESH = 5.0
"""Seconds that a look is good for, whoever asks."""
KEPT = 16
"""Versions whose last look is kept."""
MOST_BINS = 24


@dataclass(frozen=True)
class Moved:
    """One feature: the share of requests that fall elsewhere than the reference rows did, and what fell where.

    ``bins`` are (what is in it, share of the reference rows, share of the requests).
    """

    subject: str
    feature: str
    moved: float
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
                checked = watch.check(version, self._keep.model(version), self._keep.settings.home)
                self._known[version.ref] = (time.monotonic(), checked)
                self._known.move_to_end(version.ref)
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
            return self._known[version.ref][1]


def moved(checked: Checked) -> list[Moved]:
    """The features of which before and after are known, each subject's most moved first."""
    found: dict[tuple[str, str], Moved] = {}
    for subject, row in _rows(checked):
        bins = tuple(zip(row["bins"], row["before"], row["after"], strict=True))[:MOST_BINS]
        one = Moved(subject, str(row["feature"]), float(row["moved"]), bins)
        found.setdefault((subject, one.feature), one)
    return sorted(found.values(), key=lambda m: (m.subject != "inputs", -m.moved))


def _rows(checked: Checked) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What findings say first: they tell of the requests since it moved, and not of all."""
    for finding in checked.findings:
        if finding.kind == "drift":
            yield from ((finding.subject, row) for row in finding.evidence.get("most_moved", ()))
    for subject, numbers in checked.numbers.items():
        rows = numbers.get("most_moved") if isinstance(numbers, Mapping) else None
        if isinstance(rows, list):
            yield from ((subject, row) for row in rows)
