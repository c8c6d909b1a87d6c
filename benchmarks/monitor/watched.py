"""Rows and answers through modelkeep's own features, bins and detectors, without a server between."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mnist import Array

from modelkeep.data.features import Columns
from modelkeep.monitor.drift import CHUNK, Drift, Tolerance
from modelkeep.monitor.quality import Quality
from modelkeep.types import Finding, TensorSpec


class Watched:
    """Drift of inputs and answers, and quality, at the defaults, from reference rows on."""

    CHUNK = CHUNK

    def __init__(self, inputs: Mapping[str, Array], answers: Array, truth: Array, *, labels_come: bool = True) -> None:
        specs = [_spec(name, column) for name, column in inputs.items()]
        self.inputs = Columns(specs, inputs)
        self.answers = Columns([_spec("answer", answers)], {"answer": answers}, answers=True)
        tolerance = Tolerance()
        tests = len(self.inputs.names) + len(self.answers.names)
        self.drifts = [
            Drift(subject, columns.read(rows), columns.names, columns.edges, tolerance, tests=tests)
            for subject, columns, rows in (
                ("inputs", self.inputs, inputs),
                ("answers", self.answers, {"answer": answers}),
            )
        ]
        self.classes = answers.ndim == 2
        self.quality = None
        if self.classes and labels_come:
            accuracy = self.score(answers, truth)
            self.quality = Quality(accuracy - tolerance.share, "the least to expect", tolerance.false_alarm_every)
        self.n = 0

    def score(self, answers: Array, truth: Array) -> float:
        """Accuracy; of numbers the root of the mean squared error."""
        if self.classes:
            return float((answers.argmax(1) == truth).mean())
        return float(np.sqrt(((answers - truth) ** 2).mean()))

    def add(self, inputs: Mapping[str, Array], answers: Array, truth: Array | None) -> None:
        """Some requests of a row each."""
        for drift, columns, rows in zip(
            self.drifts, (self.inputs, self.answers), (inputs, {"answer": answers}), strict=True
        ):
            places = drift.bins.place(columns.read(rows))
            counts = drift.bins.tally(places, np.ones(len(places)))
            drift.add_counts(counts, len(places), float(self.n), float(self.n + len(places)))
        if self.quality is not None and truth is not None:
            for right in (answers.argmax(1) == truth).tolist():
                self.quality.add(float(right), float(self.n))
        self.n += len(answers)

    def findings(self) -> list[Finding]:
        """What is so now."""
        judges = [*self.drifts, *([] if self.quality is None else [self.quality])]
        return [finding for judge in judges if (finding := judge.finding()) is not None]


def _spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name, "float32", (None, *array.shape[1:]))
