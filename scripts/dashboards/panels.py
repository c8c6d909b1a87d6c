"""What a dashboard is made of: rows of panels, and what each of them asks Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ONE = 'model=~"$model"'
FAILED, COUNTED = 'outcome=~"error|overloaded|late"', 'outcome=~"ok|error|overloaded|late"'
BY = "{{model}}@{{version}}"
SHADOWLESS = f'{ONE},track!="shadow"'
Target = tuple[str, str]
"""An expression, and the legend of its series."""


@dataclass(frozen=True)
class Plot:
    """Lines over time. ``stack`` piles them up, as shares of the whole with ``percent``."""

    title: str
    unit: str
    targets: Sequence[Target]
    why: str = ""
    stack: str = ""
    width: int = 8


@dataclass(frozen=True)
class Number:
    """The value now, of each series. Below ``good`` it is red, above it green."""

    title: str
    unit: str
    targets: Sequence[Target]
    why: str = ""
    good: float | None = None
    width: int = 6


@dataclass(frozen=True)
class Heat:
    """How a histogram moves over time."""

    title: str
    unit: str
    targets: Sequence[Target]
    why: str = ""
    width: int = 12


@dataclass(frozen=True)
class Rows:
    """The labels of the series that there are now, as a table."""

    title: str
    targets: Sequence[Target]
    why: str = ""
    hide: tuple[str, ...] = ()
    unit: str = "none"
    width: int = 12


Panel = Plot | Number | Heat | Rows


@dataclass(frozen=True)
class Page:
    """A dashboard: rows of panels, each with its title."""

    name: str
    title: str
    about: str
    rows: Sequence[tuple[str, Sequence[Panel]]]


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def rate(metric: str, *by: str, where: str = ONE) -> str:
    """How much a counter grows a second, summed up by these labels."""
    series = f"{metric}{{{where}}}" if where else metric
    return f"sum by ({', '.join(by)}) (rate({series}[$__rate_interval]))"


def quantile(q: float, metric: str, *by: str, where: str = ONE) -> str:
    """A quantile of a histogram, by these labels."""
    return f"histogram_quantile({q:g}, {rate(f'{metric}_bucket', 'le', *by, where=where)})"


def quantiles(metric: str, where: str = ONE) -> list[Target]:
    """Median, 95th and 99th percentile by version."""
    return [(quantile(q, metric, "model", "version", where=where), f"{BY} p{100 * q:g}") for q in (0.5, 0.95, 0.99)]


def share(part: str, whole: str) -> str:
    """Of two rates; none, and not zero, where nothing happened."""
    return f"{part} / ({whole} > 0)"
