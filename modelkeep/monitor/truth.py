"""Quality: labels that came, each held against the answer that its request was given."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import labels, traffic
from modelkeep.errors import BadSettings, brief
from modelkeep.model import baseline
from modelkeep.monitor.estimated import Calibrated, Calibration
from modelkeep.monitor.labelled import Labelled, Slices, answer
from modelkeep.monitor.place import Place
from modelkeep.monitor.quality import are_classes
from modelkeep.quantities import counted, figure, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelkeep.data.labels import Lag
    from modelkeep.data.traffic import Exchange
    from modelkeep.monitor.classified import Measured
    from modelkeep.monitor.judged import Judged

RUN = 5000
"""A run covers the newest RUN to 2·RUN labels of the model."""
PAGE, PAGE_BYTES = 100, 1024**2
"""What is read at a time: slices need inputs, and pictures must not take more memory than their model."""
MAX_WAITING = 20_000
TRIES = 5
"""Looks for which a label waits for its request: it may be on its way into the file, or have gone from it."""
LAG_EVERY, LAG_SHARE = 60.0, 0.001
"""Where looks are bounded, how late labels come is asked once in so many seconds at most, for this share of a core: it
reads all that is captured, and a look that cost much has the next one wait.
"""
WORSE = 1.5
"""Answers that are numbers may miss by so many times what they missed by on the reference rows."""


class Truth:
    """The labelled requests of one version; each look reads on where the last one ended."""

    def __init__(self, judged: Judged, calibration: Calibration | None) -> None:
        self.judged, self._calibration = judged, calibration
        path, name = judged.traffic, judged.name
        place = Place(path, partial(labels.newest, path), lambda: labels.run_start(path, name, RUN))
        self._place = place if judged.most is None else place.once()
        self.lag: Lag = labels.Lag()
        self.behind = False
        """Whether the last look left labels for the next ones."""
        self._ask = float("-inf")
        """When to ask for it again, on time.monotonic's clock."""
        self._several = _several(judged)
        self._begin()

    def _begin(self) -> None:
        who = self.judged
        floor, promise = who.floor
        self.labelled = Labelled(floor, promise, who.every, worst=_worst(who))
        self.calibrated = None if self._calibration is None else Calibrated(self._calibration, who.every)
        self.slices = None
        if who.limits.slices:
            if who.known is None:
                raise BadSettings(f"there is nothing to slice by: {baseline.lacking(who.model)}")
            columns, bins = who.known.inputs.columns, who.known.inputs.bins
            self.slices = Slices(bins, columns, who.limits.slices, floor, promise, who.every)
        self.strange, self.example = 0, ""
        """Labels that cannot be compared with their answers, and one of them."""
        self.unsaid = 0
        """Labels of answers without the output that is held against them: their clients asked for others only."""
        self._waiting: dict[str, tuple[Any, int]] = {}
        """Labels whose request is not known yet, and for how many more looks they wait."""

    def look(self) -> None:
        """Take the labels that are new."""
        if self._place.moved():
            self._begin()
        who = self.judged
        new = labels.read(who.traffic, who.name, after=self._place.row, limit=who.most)
        self.behind = len(new) == who.most
        for row, request, label in new:
            self._place.row = row
            if len(self._waiting) < MAX_WAITING:
                self._waiting[request] = label, TRIES
        ids = list(self._waiting)
        for at in range(0, len(ids), PAGE):
            self._take(ids[at : at + PAGE])
        if who.most is None or time.monotonic() >= self._ask:
            began = time.thread_time()
            self.lag = labels.lag(who.traffic, who.name, version=who.number)
            self._ask = time.monotonic() + max(LAG_EVERY, (time.thread_time() - began) / LAG_SHARE)

    def _take(self, ids: Sequence[str]) -> None:
        """Judge those of these requests that were captured; the others wait."""
        who, left = self.judged, dict.fromkeys(ids)
        known: Any = {"inputs": self.slices is not None, "max_bytes": PAGE_BYTES}
        while left and (page := traffic.read(who.traffic, who.name, ids=list(left), **known)):
            for exchange in page:
                del left[exchange.id]
                self._judge(exchange, self._waiting.pop(exchange.id)[0])
        for request in left:
            label, tries = self._waiting.pop(request)
            if tries > 1:
                self._waiting[request] = label, tries - 1

    def _judge(self, exchange: Exchange, label: Any) -> None:
        model = self.judged.model
        if exchange.version != self.judged.number or exchange.outcome != "ok":
            return
        one = answer(exchange.outputs, label, model, several=self._several)
        if one is None:
            if exchange.outputs is not None and model.signature.outputs[0].name not in exchange.outputs:
                self.unsaid += 1
            elif exchange.outputs is not None:
                self.strange += 1
                self.example = self.example or f"{brief(label)} of request {exchange.id[:40]}"
            return
        self.labelled.add(one, exchange.at)
        if self.slices is not None:
            self.slices.add(exchange.inputs, one, exchange.at)
        if self.calibrated is not None and one.chances is not None and one.right is not None:
            self.calibrated.add(one.chances, one.right, exchange.at)

    @property
    def kept(self) -> bool:
        """Whether labels show that the accuracy is what was promised."""
        accuracy, floor = self.labelled.quality.measured().get("accuracy"), self.judged.floor[0]
        return accuracy is not None and accuracy.low is not None and floor is not None and accuracy.low >= floor

    @property
    def idle_promise(self) -> bool:
        """Whether a mean error was promised, and the answers are classes, which miss by none."""
        return self.judged.limits.max_error is not None and are_classes(self.judged.model) and not self._several

    def numbers(self) -> dict[str, Any]:
        """Accuracy and the floor, the other metrics by name, coverage and lag."""
        others = {name: one._asdict() for name, one in self.labelled.measured().items() if name != "accuracy"}
        lag = {"lag": self.lag.median, "lag_p90": self.lag.p90, "unmatched": self.lag.unmatched}
        whole = {"n": self.labelled.n, "coverage": self.lag.coverage or 0.0, "answers": self.lag.answers}
        return {**self.labelled.quality.numbers(), **whole, **others, **lag}

    def _awaited(self) -> str:
        """What labels would tell; empty where answers are embeddings, or several numbers a row."""
        if not are_classes(self.judged.model):
            return "their error"
        return "" if self._several else "accuracy"

    def describe(self) -> list[str]:
        """Lines for a person."""
        quality, n = self.labelled.quality, self.labelled.n
        if not n:
            what = self._awaited()
            answers = counted(self.lag.answers, "captured answer")
            told = f"no truth has come for {answers}, so {what} is unknown (modelkeep label)"
            lines = [told] if what else []
        else:
            told = quality.describe() if quality.wrong.values else f"the truth is known of {counted(n, 'request')}"
            answers = counted(self.lag.answers, "captured answer")
            lines = [f"{told}; labels came for {self.lag.coverage or 0:.0%} of {answers}"]
        others = {name: one for name, one in self.labelled.measured().items() if name != "accuracy"}
        if others:
            lines.append(", ".join(_told(name, one) for name, one in others.items()))
        if self.lag.median is not None:
            lines.append(f"labels come {seconds(self.lag.median)} after the answer (median of {self.lag.n:,})")
        return lines + (self.slices.describe() if self.slices else [])


def _told(name: str, one: Measured) -> str:
    """Errors are in the unit of the answers, however large or small that makes them."""
    form = figure if name in ("rmse", "mae") else "{:.3f}".format
    return f"{name.replace('_', ' ')} {one.describe(form)}"


def _several(judged: Judged) -> bool:
    """Whether an answer is known to be several numbers, or an embedding, and no scores of classes."""
    known, first = judged.known, judged.model.signature.outputs[0]
    read = known.answers.columns.tensors if known is not None and known.answers is not None else []
    scores = {tensor.name: tensor.kind == "scores" for tensor in read}
    return are_classes(judged.model) and first.dtype.startswith("float") and not scores.get(first.name, True)


def _worst(judged: Judged) -> tuple[float | None, str]:
    """The mean absolute error that is held, and whose promise it is; None where there is none."""
    known = judged.known
    if judged.limits.max_error is not None:
        return judged.limits.max_error, "what was promised"
    if known is None or known.predicted is None or known.truth is None:
        return None, ""
    if known.predicted.dtype.kind != "f" or known.truth.dtype.kind not in "iuf":
        return None, ""
    errors = np.abs(known.predicted - known.truth)
    mean = float(errors[np.isfinite(errors)].mean()) if np.isfinite(errors).any() else 0.0
    return mean * WORSE or None, f"{WORSE:g} times that of its reference rows"
