"""Plots as SVG text for a page: bars before and after, and lines with a band. Colours are the page's (page.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 460, 210
LEFT, RIGHT, TOP, BOTTOM = 60, 10, 12, 30
MOST_LABELS = 5
CHARACTER = 7.5
"""How wide one is, at most: labels below bars may not run into each other."""
GAP = 4.0
"""A line breaks where two points are so many times as far apart as they usually are."""


@dataclass(frozen=True)
class Line:
    """Values over the same x as its plot's; None where there is none. ``kind`` is a class of the page's style."""

    name: str
    values: Sequence[float | None]
    kind: str = "live"
    band: tuple[Sequence[float | None], Sequence[float | None]] | None = field(default=None, repr=False)


def percent(value: float) -> str:
    """0.125 → 12.5%; what is next to nothing, 0%."""
    share = 100 * value
    return f"{share:.3g}%" if 1e-4 <= abs(share) < 999.5 else f"{round(share):,}%"


def clock(at: float) -> str:
    """The time of day here."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def day(at: float) -> str:
    """The day here, and its hour and minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def bars(title: str, labels: Sequence[str], groups: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """Shares by label, side by side: ``groups`` are (name, kind, values). A pointer on a bar tells its value."""
    top = _nice(max((max(values, default=0.0) for _, _, values in groups), default=0.0) or 1.0)
    step = (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    wide = step * 0.8 / max(len(groups), 1)
    shapes = [_frame(0.0, top, percent)]
    for at, label in enumerate(labels):
        for place, (name, kind, values) in enumerate(groups):
            height = (HEIGHT - TOP - BOTTOM) * min(values[at] / top, 1.0)
            x, y = LEFT + at * step + 0.1 * step + place * wide, HEIGHT - BOTTOM - height
            said = escape(f"{label}, {name}: {percent(values[at])}")
            box = f'x="{x:.1f}" y="{y:.1f}" width="{max(wide - 1, 1):.1f}" height="{height:.1f}"'
            shapes.append(f'<rect class="{kind}" {box}><title>{said}</title></rect>')
    every = max(ceil(len(labels) / MOST_LABELS), ceil(CHARACTER * (max(map(len, labels), default=0) + 2) / step))
    for at in range(0, len(labels), every):
        shapes.append(_text(LEFT + (at + 0.5) * step, HEIGHT - BOTTOM + 18, labels[at], "middle"))
    return _svg(title, shapes)


def lines(
    title: str,
    x: Sequence[float],
    drawn: Sequence[Line],
    *,
    form: Callable[[float], str] = percent,
    marks: Sequence[tuple[str, float]] = (),
    low: float | None = 0.0,
) -> str:
    """Lines over time (``x`` in epoch seconds), with bands; ``marks`` are (name, height) of dashed lines. The axis
    begins at ``low``, or at the lowest value where that is None."""
    known = [v for line in drawn for values in (line.values, *(line.band or ())) for v in values if _known(v)]
    known += [height for _, height in marks]
    if not known or not x:
        return ""
    bottom, top = _range(min(known) if low is None else low, max(known))
    first, last = min(x), max(x)

    def across(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((at - first) / (last - first) if last > first else 0.5)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max((value - bottom) / (top - bottom), 0.0), 1.0)

    shapes = [_frame(bottom, top, form)]
    for line in drawn:
        shapes += _band(x, line, across, up)
        shapes += [_path(run, line, across, up, form) for run in _runs(x, line.values)]
    for name, height in marks:
        shapes.append(
            f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(height):.1f}" y2="{up(height):.1f}"/>'
        )
        shapes.append(_text(WIDTH - RIGHT, up(height) - 4, name, "end"))
    when = clock if day(first)[:10] == day(last)[:10] else day
    for at in (first, last) if last > first else (first,):
        shapes.append(_text(across(at), HEIGHT - BOTTOM + 18, when(at), "start" if at == first else "end"))
    return _svg(title, shapes)


def _band(x: Sequence[float], line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    if line.band is None:
        return []
    found = []
    for run in _runs(x, line.band[0]):
        highs = [line.band[1][at] for at, _, _ in run]
        edge = [f"{across(t):.1f},{up(v):.1f}" for _, t, v in run]
        back = [f"{across(t):.1f},{up(h):.1f}" for (_, t, _), h in zip(run, highs, strict=True) if h is not None]
        found.append(f'<polygon class="band {line.kind}" points="{" ".join([*edge, *reversed(back)])}"/>')
    return found


def _path(
    run: Sequence[tuple[int, float, float]],
    line: Line,
    across: Callable[[float], float],
    up: Callable[[float], float],
    form: Callable[[float], str],
) -> str:
    said = escape(f"{line.name}: {form(run[-1][2])} at {day(run[-1][1])}")
    if len(run) == 1:
        at = f'cx="{across(run[0][1]):.1f}" cy="{up(run[0][2]):.1f}"'
        return f'<circle class="{line.kind}" r="2.5" {at}><title>{said}</title></circle>'
    points = " ".join(f"{across(t):.1f},{up(v):.1f}" for _, t, v in run)
    return f'<polyline class="line {line.kind}" points="{points}"><title>{said}</title></polyline>'


def _runs(x: Sequence[float], values: Sequence[float | None]) -> list[list[tuple[int, float, float]]]:
    """(place, x, value) of what is known, cut where something is missing or there is a gap in x."""
    points = [(at, t, v) for at, (t, v) in enumerate(zip(x, values, strict=True)) if v is not None and isfinite(v)]
    steps = sorted(b[1] - a[1] for a, b in pairwise(points))
    usual = steps[len(steps) // 2] if steps else 0.0
    runs: list[list[tuple[int, float, float]]] = []
    for point in points:
        near = bool(runs) and point[0] == runs[-1][-1][0] + 1 and point[1] - runs[-1][-1][1] <= GAP * usual
        (runs[-1].append if near else lambda one: runs.append([one]))(point)
    return runs


def _frame(bottom: float, top: float, form: Callable[[float], str]) -> str:
    """The axis at the left with three ticks, and their lines."""
    found = []
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        found.append(_text(LEFT - 6, y + 4, form(bottom + share * (top - bottom)), "end"))
    return "".join(found)


def _svg(title: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(shapes)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _nice(span: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    power = 10.0 ** floor(log10(span))
    return next((power * m for m in (1.0, 2.0, 2.5, 5.0) if power * m >= span * 0.999), power * 10)


def _range(low: float, high: float) -> tuple[float, float]:
    """Round ends that hold both; half of the way between is round too."""
    span = _nice((high - low) or abs(high) or 1.0)
    while True:
        bottom = floor(low / (span / 2) + 1e-9) * (span / 2)
        if bottom + span >= high * (1 - 1e-9) - 1e-12:
            return bottom, bottom + span
        span = _nice(span * 1.5)


def _known(value: float | None) -> bool:
    return value is not None and isfinite(value)
