"""The best of several candidates, and why each of the others is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from modelkeep.types import Report

ALIKE = 0.05
"""Sizes that differ by less than this share count as the same, and speed decides."""


class Choice(NamedTuple):
    """``name`` is None where nothing was accepted: the model stays as it is. ``reasons`` has every candidate."""

    name: str | None
    reasons: dict[str, str]


def best(reports: Mapping[str, Report]) -> Choice:
    """The accepted candidate (see budget.within) that is smallest; of those about as small, the fastest.

    Reports are of one base model, by candidate.
    """
    accepted = {name: report for name, report in reports.items() if report.ok}
    reasons = {name: f"refused: {report.why}" for name, report in reports.items() if not report.ok}
    if not accepted:
        return Choice(None, {name: reasons[name] for name in reports})
    least = min(_size(report) for report in accepted.values())
    small = [name for name, report in accepted.items() if _size(report) <= least * (1 + ALIKE)]
    chosen = max(small, key=lambda name: _speed(accepted[name]))
    for name, report in accepted.items():
        if name == chosen:
            reasons[name] = f"best: {report.why}"
        elif name in small:
            reasons[name] = f"about as small as {chosen}, and slower: {report.why}"
        else:
            reasons[name] = f"larger than {chosen}: {report.why}"
    return Choice(chosen, {name: reasons[name] for name in reports})


def _size(report: Report) -> float:
    return float(report.numbers["size_ratio"])


def _speed(report: Report) -> float:
    return float(report.numbers["speedup"])
