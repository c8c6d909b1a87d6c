"""Numbers as a person reads them."""

from __future__ import annotations


def rate(value: float) -> str:
    """Four digits that count, and never a power of ten: 16,230, 208.7, 3.142."""
    return _figures(value, 4)


def milliseconds(seconds: float) -> str:
    """Three digits that count, and never a power of ten: 0.201 ms, 2,770 ms."""
    return f"{_figures(seconds * 1e3, 3)} ms"


def _figures(value: float, digits: int) -> str:
    return f"{float(f'{value:.{digits}g}'):,.12g}"
