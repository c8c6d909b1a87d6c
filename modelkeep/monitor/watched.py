"""The version that is looked at, and where one is in a file that grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.monitor.limits import Limits

if TYPE_CHECKING:
    from modelkeep.model.baseline import Baseline
    from modelkeep.types import Model

RUNS = 2
"""A row is in so many runs of the detectors at most, each of which may be wrong once."""


@dataclass(frozen=True)
class Watched:
    """One version and what is known of it. ``most`` bounds the rows that one look reads of each file, the rest being
    for the next ones; of captured requests the newest are read, and others left out. None reads all. ``home`` is the
    folder with the files that servers write."""

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
        """The accuracy that is held, and whose promise it is; None where there is none."""
        if self.limits.min_accuracy is not None:
            return self.limits.min_accuracy, "what was promised"
        if self.known is None or self.known.accuracy is None:
            return None, ""
        return max(self.known.accuracy - self.limits.tolerance, 0.0), "the least to expect from its reference rows"


class Place:
    """Where one reads in a file: from a row that moves in strides, and anew where the file was made anew."""

    def __init__(self, path: Path, newest: Callable[[], int], start: Callable[[], int]) -> None:
        self.path, self._newest, self._start = path, newest, start
        self.row = 0
        self.anew = True
        """Whether the last move was to another file, and not to a later row of the same."""
        self._at: tuple[int, int] | None = None

    def moved(self) -> bool:
        """Whether the run begins elsewhere than it did at the last call, so that all before is void."""
        at = (self.path.stat().st_ino if self.path.is_file() else 0, self._start())
        self.anew = self._at is None or at[0] != self._at[0] or self.row > self._newest()
        if at == self._at and not self.anew:
            return False
        self._at, self.row = at, at[1]
        return True

    def once(self) -> Place:
        """The same place, which moves no more once it is in a file: for one who reads on and on."""
        start = self._start
        begun: list[int] = []

        def fixed() -> int:
            if not begun and self.path.is_file():
                begun.append(start())
            return begun[0] if begun else 0

        return Place(self.path, self._newest, fixed)


def stride(newest: int, length: int) -> int:
    """The row after which the newest ``length`` to 2 × ``length`` rows lie; it moves in strides of ``length``."""
    return max(0, (newest - 1) // length - 1) * length
