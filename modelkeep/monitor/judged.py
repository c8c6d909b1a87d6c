"""The version that is judged, what is known of it, and what it is held to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.data.bins import REFERENCE_RISK
from modelkeep.evidence import wilson
from modelkeep.monitor.limits import Limits

if TYPE_CHECKING:
    from modelkeep.model.baseline import Baseline
    from modelkeep.types import Model

RUNS = 2
"""A row is in so many runs of the detectors at most, each of which may be wrong once."""


@dataclass(frozen=True)
class Judged:
    """One version and what is known of it. ``most`` bounds the rows that one look reads of each file, the rest being
    for the next ones; of captured requests the newest are read, and others left out. None reads all. ``home`` is the
    folder with the files that servers write.
    """

    name: str
    number: int
    model: Model
    home: Path
    limits: Limits
    known: Baseline | None
    most: int | None = None

    @property
    def ref(self) -> str:
        """``name@number``."""
        return f"{self.name}@{self.number}"

    @property
    def traffic(self) -> Path:
        """Captured requests and late labels."""
        return self.home / "traffic.db"

    @property
    def profiles(self) -> Path:
        """Counts of features by bin."""
        return self.home / "profiles.db"

    @property
    def pulses(self) -> Path:
        """Counts of requests, failures and slow answers; memory."""
        return self.home / "pulses.db"

    @property
    def every(self) -> float:
        """Requests per false alarm that each run of a detector is held to."""
        return RUNS * self.limits.false_alarm_every

    @property
    def floor(self) -> tuple[float | None, str]:
        """The accuracy that is held, and whose promise it is; None where there is none.

        That of the reference rows is lowered by the tolerance, or by what they may err by, of which few rows have more.
        """
        if self.limits.min_accuracy is not None:
            return self.limits.min_accuracy, "what was promised"
        known = self.known
        if known is None or known.right is None or known.accuracy is None:
            return None, ""
        surely, _ = wilson(int(known.right.sum()), len(known.right), 1 - 2 * REFERENCE_RISK)
        least = min(known.accuracy - self.limits.tolerance, surely)
        return max(least, 0.0), "the least to expect from its reference rows"
