"""Times, sizes and counts as a person reads them, at a terminal and on a page; which tellings of long work show."""

from __future__ import annotations

import time
from collections.abc import Callable

LINE_EVERY = 10.0
"""Seconds between two lines of a log about one step."""


def seconds(value: float) -> str:
    """0.00123 → '1.23 ms'."""
    if value < 0.9995e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.3g} ms" if value < 0.9995 else f"{value:.3g} s" if value < 999.5 else f"{value:,.0f} s"


def size(value: float) -> str:
    """1234 → '1.2 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:  # more would be read as 1e+03
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def figure(value: float) -> str:
    """0.000123456 → '0.0001235', 70710.7 → '70,711'."""
    return f"{value:,.0f}" if 9999.5 <= abs(value) < 1e15 else f"{value:.4g}"


def counted(number: int, thing: str) -> str:
    """1, 'row' → '1 row'; 1797, 'row' → '1,797 rows'. For what takes an s where there are more."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class Lines:
    """Which tellings of long work are worth a line of a log: each step as it begins, then one every LINE_EVERY seconds.

    ``now`` gives seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._step, self._at = -1, 0.0

    def of(self, done: float, total: float, note: object) -> str | None:
        """``step 1 of 2: epoch 3 of 8``, where so many steps are ``done``; None where nothing is due."""
        step, now = int(done), self.now()
        if step == self._step and now - self._at < LINE_EVERY:
            return None
        self._step, self._at = step, now
        return f"step {step + 1} of {total:g}: {note}"
