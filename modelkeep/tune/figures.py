"""Numbers as a person reads them."""

from __future__ import annotations


def rate(value: float) -> str:
    """Four digits that count, and never a power of ten: 16,230, 208.7, 3.142."""
    return f"{float(f'{value:.4g}'):,.12g}"
