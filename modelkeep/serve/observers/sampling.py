"""A sample of what a plane answers, where settings ask for one (data.sample)."""

from __future__ import annotations

from pathlib import Path

from modelkeep.data import masks
from modelkeep.data.masks import HASHED, REQUEST, Masks
from modelkeep.data.sample import Sample
from modelkeep.errors import BadSettings
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import STICKY
from modelkeep.settings import Settings

MOST = 20
"""Names in a sentence."""


def begin(settings: Settings) -> Sample | None:
    """A Sample at work. Raises MissingExtra and BadSettings, before any model is loaded."""
    if not settings.sample:
        return None
    text = settings.sample_mask
    return Sample(
        Path(settings.sample),
        share=settings.sample_share,
        max_bytes=settings.sample_bytes,
        max_age=settings.sample_age,
        masks=Masks(text, masks.key(settings.sample_key) if HASHED in text.lower() else b""),
        private=(STICKY,),  # it says who asks, and nothing that a model knows
    )


def check(plane: Plane, masks: Masks) -> None:
    """Raises BadSettings for a mask that fits nothing of the models that are loaded: a field that was to be left out
    would be written. Where one is not loaded, its fields are not known.
    """
    routers = [plane.router(name) for name in plane.names]
    signatures = [version.signature for router in routers for version in router.loaded.values()]
    fields = {("input", t.name) for one in signatures for t in one.inputs}
    fields |= {("output", t.name) for one in signatures for t in one.outputs}
    misnamed = masks.misnamed([*fields, (REQUEST, "id")])
    if misnamed and all(router.live is not None for router in routers):
        there = ", ".join(f"{kind}.{name}" for kind, name in sorted(fields)[:MOST])
        raise BadSettings(
            f"sample_mask {', '.join(misnamed)} fits nothing that is served: there is {there}"
            f"{', …' if len(fields) > MOST else ''}; a parameter is masked as parameter.NAME"
        )


def watch(plane: Plane, sample: Sample) -> None:
    """Let the plane offer; at scrape time: what is written and dropped, and which share of the requests is in force."""
    plane.sample = sample
    plane.sinks["sample"] = lambda: sample.dropped
    plane.metrics.watch(
        "modelkeep_sample_requests_total",
        "Requests written to the sample",
        lambda: [({}, float(sample.written))],
    )
    plane.metrics.watch("modelkeep_sample_share_ratio", "Share of requests in force", lambda: [({}, sample.share)])
