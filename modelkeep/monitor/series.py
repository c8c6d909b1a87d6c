"""What a page draws: features before and after, quality with its band, seconds, failures and memory over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import pulses
from modelkeep.evidence import mean_interval

if TYPE_CHECKING:
    from modelkeep.monitor.drift import Drift
    from modelkeep.monitor.judged import Judged
    from modelkeep.monitor.look import Run
    from modelkeep.monitor.quality import Quality
    from modelkeep.types import Array

FEATURES = 6
POINTS = 40
FEWEST = 10
"""Requests that one point of a percentile needs."""


def of(run: Run) -> dict[str, Any]:
    """Everything that there is something of, by what it shows; over time, where there is more than one point."""
    truth = run.truth
    features = {subject: _features(drift) for subject, drift in run.drifts.items() if drift.n}
    over_time: dict[str, Any] = {
        "quality": _quality(truth.labelled.quality),
        "seconds": _seconds(np.array(run.captured.times).reshape(-1, 2)),
        "minutes": _minutes(run.judged),
        "memory": _memory(run.judged),
    }
    found = {name: points for name, points in over_time.items() if len(points) > 1}
    return found | ({"features": features} if features else {})


def _features(drift: Drift) -> list[dict[str, Any]]:
    """Those that moved first, then those that are farthest from the reference."""
    return drift.before_and_after(FEATURES)


def _quality(quality: Quality) -> list[dict[str, float]]:
    """Accuracy of all labelled requests up to a time, with its confidence sequence."""
    right, ats = 1 - np.array(quality.wrong.values), quality.wrong.ats
    found = []
    for end in _picked(len(right))[len(right) > POINTS :] + 1:  # the first one of many shows no more than its width
        low, high = mean_interval(right[:end])
        found.append({"at": ats[end - 1], "n": int(end), "value": float(right[:end].mean()), "low": low, "high": high})
    return sorted(found, key=lambda point: point["at"])


def _seconds(times: Array) -> list[dict[str, float]]:
    """Median and 99th percentile over spans of equally many requests; ``times`` [requests, 2] are when, and seconds."""
    spans = min(len(times) // FEWEST, POINTS)
    found = []
    for part in np.array_split(times, spans) if spans else []:
        median, high = np.quantile(part[:, 1], (0.5, 0.99))
        found.append({"at": float(part[-1, 0]), "p50": float(median), "p99": float(high)})
    return found


def _minutes(judged: Judged) -> list[dict[str, float]]:
    """Requests and failures of the newest hours, by spans of whole minutes."""
    rows = np.array(pulses.minutes(judged.pulses, judged.name, judged.number)[-360:])
    spans = min(len(rows), POINTS)
    return [
        {"at": float(part[-1, 0]), "requests": float(part[:, 1].sum()), "failed": float(part[:, 2].sum())}
        for part in (np.array_split(rows, spans) if spans else [])
    ]


def _memory(judged: Judged) -> list[dict[str, float]]:
    """Bytes of the server that told last."""
    samples = [sample for _, sample in pulses.memory(judged.pulses)]
    mine = [sample for sample in samples if sample.process == samples[-1].process][-1000:]
    return [{"at": mine[at].at, "bytes": mine[at].bytes} for at in _picked(len(mine))]


def _picked(count: int) -> Array:
    """POINTS places at most, evenly spread over so many, the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).astype(np.int64))
