"""Times and sizes as a person reads them, at a terminal and on a page."""

from __future__ import annotations


def seconds(value: float) -> str:
    """0.00123 → '1.23 ms'."""
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def size(value: float) -> str:
    """1234 → '1.2 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
