"""Quality of classes: F1, AUC and log loss of labelled answers, each with an interval that may be looked at any time.

The intervals are confidence sequences by betting (evidence.mean_interval: Waudby-Smith & Ramdas 2024, JRSS-B 86(1)), so
each metric is put as means of independent numbers in [0, 1]. Rows of one request may be alike, so only its first row
counts for the interval of F1 and of AUC, and its mean for log loss; the values themselves are over all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modelkeep.data.summaries import are_probabilities
from modelkeep.evidence import mean_interval
from modelkeep.monitor.detector import MAX_VALUES

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelkeep.types import Array

CONFIDENCE = 0.95
CLIP = 10.0
"""Log loss of one row counts so much at most, in nats: the truth was given a chance of 0.000045 or less."""
BLOCK = 4
"""Rows of the class, and of the others, whose comparisons make one observation of AUC."""
MAX_TEXTS = 200
"""More of them, answered or true, are no classes."""
MAX_CLASSES = 20
"""More classes have no AUC: it is one comparison a class."""


class Measured(NamedTuple):
    """A metric: its value, its confidence sequence at this ``n`` (None where it has none, or no upper end), and n."""

    value: float
    low: float | None
    high: float | None
    n: int

    def describe(self, form: Callable[[float], str] = "{:.3f}".format) -> str:
        """``0.912 (0.880 to 0.940, n 400)``."""
        ends = [form(end) for end in (self.low, self.high) if end is not None]
        band = "" if not ends else f"{' to '.join(ends)}{', ' if len(ends) == 2 else ' or more, '}"
        return f"{form(self.value)} ({band}n {self.n:,})"


def probabilities(scores: Array) -> Array:
    """[rows, classes] that sum to 1 in each row: scores that are no probabilities are taken for logits."""
    values = scores.astype(np.float64)
    if not are_probabilities(values):
        with np.errstate(invalid="ignore"):  # of infinite ones comes NaN, and who asks looks for that
            values = np.exp(values - values.max(axis=1, keepdims=True))
        values = values / values.sum(axis=1, keepdims=True)
    return values


class Classified:
    """What was answered and what was so, as class numbers; with the probabilities where the model gives them.

    The newest MAX_VALUES to twice as many requests are remembered.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._answers: list[Array] = []
        self._truth: list[Array] = []
        self._chances: list[Array | None] = []

    def add(self, answers: Array, truth: Array, chances: Array | None = None) -> None:
        """One request: ``answers`` and ``truth`` [rows] of class numbers (negative: none that the model knows), or of
        texts; ``chances`` [rows, classes], which sum to 1 in each row. Beside texts these count for nothing: who knows
        which class a column is of has numbers.
        """
        if answers.dtype.kind not in "iu":
            answers, truth, chances = self._numbered(answers), self._numbered(truth), None
        self._answers.append(answers.astype(np.int64))
        self._truth.append(truth.astype(np.int64))
        self._chances.append(chances)
        for kept in (self._answers, self._truth, self._chances):
            if len(kept) > 2 * MAX_VALUES:
                del kept[:MAX_VALUES]

    def _numbered(self, texts: Array) -> Array:
        """Numbers in the order of their first coming, as long as there may be classes."""
        for text in texts.tolist():
            if len(self._numbers) <= MAX_TEXTS:
                self._numbers.setdefault(text, len(self._numbers))
        return np.array([self._numbers.get(text, -1) for text in texts.tolist()])

    def __len__(self) -> int:
        """Requests."""
        return len(self._truth)

    def measured(self) -> dict[str, Measured]:
        """F1 (macro), and with probabilities AUC and log loss, by name; empty before the first label, and where answers
        are so many texts that they are no classes. AUC and log loss are of the requests whose answers were classes:
        where scores were NaN there is no chance that was given.
        """
        if not self._truth or len(self._numbers) > MAX_TEXTS:
            return {}
        answers, truth = np.concatenate(self._answers), np.concatenate(self._truth)
        first = np.cumsum([0, *(len(t) for t in self._truth[:-1])])
        found = {"f1": f1(answers, truth, first)}
        given = [(c, t) for c, t in zip(self._chances, self._truth, strict=True) if c is not None]
        void = sum(c is None and bool((a < 0).any()) for c, a in zip(self._chances, self._answers, strict=True))
        if len(given) + void == len(self._truth) and len({c.shape[1] for c, _ in given}) == 1:
            chances, truth = (np.concatenate(each) for each in zip(*given, strict=True))
            first = np.cumsum([0, *(len(t) for _, t in given[:-1])])
            found["log_loss"] = log_loss(chances, truth, first)
            if (area := auc(chances, truth, first)) is not None:
                found["auc"] = area
        return found


def f1(answers: Array, truth: Array, first: Array | None = None, confidence: float = CONFIDENCE) -> Measured:
    """Macro F1: the mean over the classes that were answered or true. ``first`` are the rows that the interval is of.

    Of the rows where a class was answered or true, the share J where it was both is a mean of coins, and its F1 is
    2J / (1 + J), which grows with J: so a confidence sequence of each J is one of F1. The k-th class to appear gets the
    share 1 / (k (k + 1)) of the risk; these sum to 1.
    """
    rows = np.arange(len(truth)) if first is None else first
    classes = [int(c) for c in dict.fromkeys(np.stack([truth, answers], axis=1).ravel().tolist()) if c >= 0]
    values: list[float] = []
    lows: list[float] = []
    highs: list[float] = []
    for k, one in enumerate(classes, start=1):
        both, either = (answers == one) & (truth == one), (answers == one) | (truth == one)
        share = float(both.sum() / either.sum())
        hits, n = int(both[rows].sum()), int(either[rows].sum())
        level = 1 - (1 - confidence) / (k * (k + 1))
        low, high = mean_interval([0.0, 1.0], level, counts=[n - hits, hits])
        for found, j in ((values, share), (lows, min(low, share)), (highs, max(high, share))):
            found.append(2 * j / (1 + j))
    if not classes:
        return Measured(0.0, 0.0, 1.0, len(rows))
    return Measured(float(np.mean(values)), float(np.mean(lows)), float(np.mean(highs)), len(rows))


def auc(chances: Array, truth: Array, first: Array | None = None, confidence: float = CONFIDENCE) -> Measured | None:
    """Area under the ROC curve: of the second class where there are two, else the mean of each class against the rest.

    The area is the chance that a row of the class has the higher score than another row (Hanley & McNeil 1982), so the
    mean comparison of a block of 4 rows of each kind, which no other block shares, is an observation in [0, 1] with
    that mean. None for more than 20 classes, and while a class has no row or nothing but.
    """
    rows = np.arange(len(truth)) if first is None else first
    count = chances.shape[1]
    classes = [1] if count == 2 else range(count) if count <= MAX_CLASSES else []
    values, lows, highs = [], [], []
    for one in classes:
        mine = truth == one
        if not mine.any() or mine.all():
            continue
        values.append(_area(chances[mine, one], chances[~mine, one]))
        blocks = _blocks(chances[rows, one], mine[rows])
        low, high = mean_interval(blocks, 1 - (1 - confidence) / len(classes))
        lows.append(min(low, values[-1]))
        highs.append(max(high, values[-1]))
    if not values:
        return None
    return Measured(float(np.mean(values)), float(np.mean(lows)), float(np.mean(highs)), len(rows))


def log_loss(chances: Array, truth: Array, first: Array | None = None, confidence: float = CONFIDENCE) -> Measured:
    """Mean of −log of the chance that was given to the truth, in nats, each clipped at 10 so that it is bounded."""
    given = np.where(truth >= 0, chances[np.arange(len(truth)), np.clip(truth, 0, chances.shape[1] - 1)], 0.0)
    losses = np.minimum(-np.log(np.maximum(given, np.exp(-CLIP))), CLIP)
    starts = np.arange(len(truth)) if first is None else first
    sizes = np.diff(np.append(starts, len(losses)))
    low, high = mean_interval(np.clip(np.add.reduceat(losses, starts) / sizes / CLIP, 0.0, 1.0), confidence)
    value = float(losses.mean())
    return Measured(value, min(low * CLIP, value), max(high * CLIP, value), len(starts))


def _area(above: Array, below: Array) -> float:
    """The share of all pairs in which the first is larger, ties counting half (Mann & Whitney 1947)."""
    ordered = np.sort(below)
    wins = np.searchsorted(ordered, above, "left") + np.searchsorted(ordered, above, "right")
    return float(wins.mean() / (2 * len(below)))


def _blocks(scores: Array, mine: Array) -> Array:
    """The mean comparison of each block of BLOCK rows of the class and BLOCK others, in the order of coming."""
    count = min(int(mine.sum()), int((~mine).sum())) // BLOCK
    above, below = (scores[kind][: count * BLOCK].reshape(count, BLOCK) for kind in (mine, ~mine))
    wins = (above[:, :, None] > below[:, None, :]) + 0.5 * (above[:, :, None] == below[:, None, :])
    found: Array = wins.mean(axis=(1, 2))
    return found
