"""A sample of what a plane answers, where settings ask for one (data.sample)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from modelkeep.data import masks
from modelkeep.data.masks import HASHED, Masks
from modelkeep.data.sample import Sample
from modelkeep.data.traffic import Exchange
from modelkeep.serve.plane import Plane, Traffic
from modelkeep.serve.router import STICKY
from modelkeep.settings import Settings


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


def watch(plane: Plane, sample: Sample) -> None:
    """At scrape time: what is written and dropped, and which share of the requests is in force."""
    plane.sinks["sample"] = lambda: sample.dropped
    plane.metrics.watch(
        "modelkeep_sample_requests_total",
        "Requests written to the sample",
        lambda: [({}, float(sample.written))],
    )
    plane.metrics.watch("modelkeep_sample_share_ratio", "Share of requests in force", lambda: [({}, sample.share)])


class Both:
    """Offers each exchange to the traffic that is kept, if any, and to the sample."""

    def __init__(self, kept: Traffic | None, sample: Sample) -> None:
        self._kept, self._sample = kept, sample

    @property
    def dropped(self) -> int:
        """Of the traffic; the sample's are a sink of their own."""
        return self._kept.dropped if self._kept else 0

    def consider(self, request: str, model: str, version: int, track: str, exchange: Callable[[], Exchange]) -> None:
        """Never blocks, never raises."""
        made = cache(exchange)
        if self._kept is not None:
            self._kept.consider(request, model, version, track, made)
        self._sample.consider(request, made)
