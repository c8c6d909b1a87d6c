"""What every version has done since it was loaded, in Triton's form.

docs/protocol/extension_statistics.md of triton-inference-server/server. Times are in nanoseconds; here inputs and
outputs are read and written outside of the run, so that only ``compute_infer`` takes time. ``inference_stats`` count
requests, each with the whole of its run, as Triton's clients divide by them; ``batch_stats`` count runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modelkeep.metrics import Metrics, Total
from modelkeep.serve.plane.plane import Plane


def of(plane: Plane, name: str | None = None, version: int | None = None) -> list[dict[str, Any]]:
    """A table for each version in memory, or of that name, or that one. Raises NotFound, NotReady."""
    if name is not None and version is not None:
        return [_one(plane.metrics, name, plane.find(name, version).number)]
    names = plane.names if name is None else [name]
    return [_one(plane.metrics, n, number) for n in names for number in sorted(plane.router(n).loaded)]


def _one(metrics: Metrics, name: str, number: int) -> dict[str, Any]:
    tracks, series = metrics.tracks(name, number), metrics.version(name, number)
    answered, failed = _sum(t.answered for t in tracks), _sum(t.failed for t in tracks)
    runs = sorted(series.runs.items())
    nothing = Total(series.computed.count)
    return {
        "name": name,
        "version": str(number),
        "last_inference": round(1000 * max((t.last for t in tracks), default=0.0)),
        "inference_count": sum(size * total.count for size, total in runs),
        "execution_count": sum(total.count for _, total in runs),
        "inference_stats": {
            "success": _told(answered),
            "fail": _told(failed),
            "queue": _told(series.waited),
            "compute_input": _told(nothing),
            "compute_infer": _told(series.computed),
            "compute_output": _told(nothing),
            "cache_hit": _told(series.cached),
            "cache_miss": _told(series.uncached),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _told(Total(total.count)),
                "compute_infer": _told(total),
                "compute_output": _told(Total(total.count)),
            }
            for size, total in runs
        ],
    }


def _sum(totals: Iterable[Total]) -> Total:
    whole = Total()
    for total in totals:
        whole.count += total.count
        whole.seconds += total.seconds
    return whole


def _told(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": round(1e9 * total.seconds)}
