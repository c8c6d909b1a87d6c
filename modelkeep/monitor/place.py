"""Where one is in a file that grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


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
