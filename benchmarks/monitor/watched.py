"""Rows and answers through modelkeep's own features, bins and detectors, without a server between."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mnist import Array

from modelkeep.data.features import Columns
from modelkeep.monitor.drift import Drift, Tolerance
from modelkeep.monitor.numeric import Numeric
from modelkeep.monitor.quality import Quality
from modelkeep.types import Finding, TensorSpec

WORSE = 1.5
"""The mean absolute error of numbers may be so many times that of the reference rows."""


class Watched:
    """Drift of inputs and answers, and quality where labels come, at the defaults, from reference rows on.

    ``answers`` are [rows, classes], and ``truth`` [rows] their classes; or numbers, both [rows].
    """

    def __init__(self, inputs: Mapping[str, Array], answers: Array, truth: Array) -> None:
        self.inputs = Columns.of([_spec(name, column) for name, column in inputs.items()], inputs)
        self.answers = Columns.of([_spec("answer", answers)], {"answer": answers}, answers=True)
        tolerance = Tolerance()
        self.drifts = [
            Drift(
                subject,
                columns.read_reference(rows),
                columns.names,
                columns.edges,
                tolerance,
                tests=2 * len(columns.names),
            )
            for subject, columns, rows in (
                ("inputs", self.inputs, inputs),
                ("answers", self.answers, {"answer": answers}),
            )
        ]
        self.classes, every = answers.ndim == 2, tolerance.false_alarm_every
        floor = self.score(answers, truth) - tolerance.share
        self.right = Quality(floor, "the least to expect", every)
        self.error = Numeric(None if self.classes else WORSE * float(np.abs(answers - truth).mean()), every)
        self.n = 0

    def score(self, answers: Array, truth: Array) -> float:
        """Accuracy; of numbers the mean absolute error."""
        return float((answers.argmax(1) == truth).mean() if self.classes else np.abs(answers - truth).mean())

    def add(self, inputs: Mapping[str, Array], answers: Array, truth: Array | None) -> None:
        """Requests of a row each, and their truth where it comes."""
        for drift, columns, rows in zip(
            self.drifts, (self.inputs, self.answers), (inputs, {"answer": answers}), strict=True
        ):
            places = drift.bins.place(columns.read(rows))
            counts = drift.bins.tally(places, np.ones(len(places)))
            drift.add_counts(counts, len(places), float(self.n), float(self.n + len(places)))
        if truth is not None:
            self._judge(answers, truth)
        self.n += len(answers)

    def _judge(self, answers: Array, truth: Array) -> None:
        for row in range(len(truth)):
            at = float(self.n + row)
            if self.classes:
                self.right.add(float(answers[row].argmax() == truth[row]), at)
            else:
                self.error.add(answers[row : row + 1], truth[row : row + 1], at)

    def findings(self) -> list[Finding]:
        """What is so now."""
        judges = [*self.drifts, self.right if self.classes else self.error]
        return [finding for judge in judges if (finding := judge.finding()) is not None]

    def moved(self, inputs: Mapping[str, Array], answers: Array, most: int = 3) -> str:
        """Of many requests, the features that moved most, and what share of the requests did."""
        found: list[tuple[float, str]] = []
        for drift, columns, rows in zip(
            self.drifts, (self.inputs, self.answers), (inputs, {"answer": answers}), strict=True
        ):
            places = drift.bins.place(columns.read(rows))
            live = drift.bins.tally(places, np.full(len(places), 1 / len(places)))
            found += zip(np.abs(live - drift.bins.shares).sum(axis=1) / 2, columns.names, strict=True)
        return ", ".join(f"{name} {share:.0%}" for share, name in sorted(found, reverse=True)[:most])


def _spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name, "float32", (None, *array.shape[1:]))
