"""Quality without labels: what accuracy, F1 and AUC are to be expected from how sure the answers are (CBPE).

Confidence-based performance estimation (NannyML; the idea is that of Guillory et al. 2021, ICCV, "Predicting with
confidence on unseen distributions"): of the reference rows it is known how often an answer of which confidence was
right; isotonic regression makes a map of that (Zadrozny & Elkan 2002, KDD), and the mean of the mapped confidences of
live answers is the accuracy to expect.

It holds so long as an answer of a given confidence is right as often as it was on the reference rows. A world where the
same inputs mean something else breaks it, and no input tells: only labels do. So once there are labels, they are held
against it, and it says by itself when it no longer holds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.evidence import mean_interval
from modelkeep.monitor.classified import MAX_CLASSES, Measured
from modelkeep.monitor.detector import Rising
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.types import Array

ASSUMES = "an answer of a given confidence is right as often as on the reference rows"
FEWEST = 100
"""Reference rows with labels that a calibration needs."""
CELLS = 512
"""Cells of confidence, equally wide in its log odds from LEAST to MOST."""
LEAST, MOST = -5.0, 17.0
RESAMPLES = 60
SLACK = 0.02
"""What the share that is right may differ from calibrated confidence, beside what the reference rows may err by."""
WINDOW = 2000
"""The estimate is of the newest rows, so many at most."""
MAX_ROWS = 8
"""Of one request."""
TELLING = 100
"""Labels since the inputs moved, before these tell whether estimates hold for what is asked now."""
CHUNK = 16


def isotonic(x: Array, y: Array) -> tuple[Array, Array]:
    """(x, fitted), both rising: the rising function closest to ``y`` in squares, at each different ``x``.

    Pool-adjacent-violators (Ayer, Brunk, Ewing, Reid & Silverman 1955, Ann. Math. Stat. 26).
    """
    points, which, times = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(which, y) / times
    values: list[float] = []
    weights: list[float] = []
    spans: list[int] = []
    for mean, weight in zip(means.tolist(), times.tolist(), strict=True):
        span = 1
        while values and values[-1] >= mean:
            total = weights[-1] + weight
            mean, weight, span = (values.pop() * weights.pop() + mean * weight) / total, total, span + spans.pop()
        values.append(mean)
        weights.append(weight)
        spans.append(span)
    return points, np.repeat(values, spans)


def cells(confidence: Array) -> Array:
    """Which cell a confidence falls into."""
    sure = np.clip(confidence.astype(np.float64), 1e-12, 1 - 1e-12)
    odds = np.log(sure) - np.log1p(-sure)
    return np.clip(((odds - LEAST) * (CELLS / (MOST - LEAST))).astype(np.int64), 0, CELLS - 1)


class Calibration:
    """How often an answer of a confidence was right, of the reference rows: ``confidence`` and ``right``, [rows].

    ``maps`` [1 + resamples, cells] are the map itself, and maps of resampled rows, which show how unsure it is.
    """

    def __init__(self, confidence: Array, right: Array) -> None:
        self.n = len(confidence)
        at, right = cells(confidence), right.astype(np.float64)
        self.spread = np.bincount(at, minlength=CELLS).astype(np.float64)
        chance = np.random.default_rng(0)
        draws = [np.arange(self.n), *(chance.integers(self.n, size=self.n) for _ in range(RESAMPLES))]
        self.maps = np.stack([np.interp(np.arange(CELLS), *isotonic(at[rows], right[rows])) for rows in draws])
        self.map = self.maps[0]
        self.most = np.quantile(self.maps[1:], 0.975, axis=0)
        """[cells]: the most that may be hoped for."""

    @classmethod
    def of(cls, confidence: Array, right: Array) -> Calibration | None:
        """None where the rows are too few."""
        return cls(confidence, right) if len(confidence) >= FEWEST else None

    def chances(self, scores: Array) -> Array:
        """Probabilities [rows, classes] as calibrated ones: the map gives the best class its chance to be right, and
        the others share the rest as they did."""
        rows, best = np.arange(len(scores)), scores.argmax(axis=1)
        right = self.map[cells(scores[rows, best])]
        rest = scores.astype(np.float64).copy()
        rest[rows, best] = 0.0
        left = rest.sum(axis=1)
        even = (1.0 - np.eye(scores.shape[1])[best]) / max(scores.shape[1] - 1, 1)
        shares = np.where(left[:, None] > 1e-12, rest / np.maximum(left, 1e-12)[:, None], even)
        found: Array = shares * (1 - right)[:, None]
        found[rows, best] = right
        return found

    def slack(self, spread: Array) -> float:
        """Half the width of what the map may err by (95 %), for answers spread over the cells so; 0.5 at most."""
        each = self.maps[1:] @ (spread / max(spread.sum(), 1.0))
        low, high = np.quantile(each, (0.025, 0.975))
        return float(high - low) / 2


def expected(calibration: Calibration, scores: Array) -> dict[str, Measured]:
    """Accuracy, F1 (macro) and AUC to expect of answers with these probabilities [rows, classes], one row a request.

    A row of NaN answers no class: it is wrong, and its truth is taken to be spread as that of the others; AUC is of
    these. The interval of accuracy holds what the answers at hand say of those to come (a confidence sequence) and what
    the reference rows may err by (resampled); F1 and AUC have none.
    """
    n = len(scores)
    scores = scores[~np.isnan(scores).any(axis=1)]
    void = n - len(scores)
    if not n:
        return {}
    spread = np.bincount(cells(scores.max(axis=1)), minlength=CELLS).astype(np.float64)
    value, slack = float(calibration.map @ spread) / n, calibration.slack(spread) * len(scores) / n
    low, high = mean_interval([*calibration.map, 0.0], counts=[*spread, void])
    found = {"accuracy": Measured(value, max(low - slack, 0.0), min(high + slack, 1.0), n)}
    if void == n:
        return found
    chances, best = calibration.chances(scores), scores.argmax(axis=1)
    found["f1"] = Measured(_expected_f1(chances, best, n / len(scores)), None, None, n)
    if (area := _expected_auc(chances, scores)) is not None:
        found["auc"] = Measured(area, None, None, n)
    return found


def _expected_f1(chances: Array, best: Array, more: float) -> float:
    """From the expected counts of each class: 2TP / (answered + true). There are so many times ``more`` rows than these
    answers."""
    answered = np.bincount(best, minlength=chances.shape[1])
    hits = np.bincount(best, chances[np.arange(len(best)), best], minlength=chances.shape[1])
    true = chances.sum(axis=0) * more
    there = (answered > 0) | (true >= 0.5)
    return float((2 * hits[there] / (answered + true)[there]).mean())


def _expected_auc(chances: Array, scores: Array) -> float | None:
    """Of the second class where there are two, else the mean of each against the rest: the expected share of pairs."""
    count = scores.shape[1]
    if count > MAX_CLASSES:
        return None
    found = []
    for one in [1] if count == 2 else range(count):
        order = np.argsort(scores[:, one], kind="stable")
        score, mine = scores[order, one], chances[order, one]
        _, tied = np.unique(score, return_inverse=True)
        below = np.bincount(tied, 1 - mine)
        beaten = np.cumsum(below) - below / 2
        pairs = mine.sum() * (1 - mine).sum()
        if pairs > 0:
            found.append(float((mine * beaten[tied]).sum() / pairs))
    return float(np.mean(found)) if found else None


class Calibrated:
    """Whether labels bear calibration out: that as many answers are right as their confidence lets expect.

    What is tested is a mean of numbers from −1 to 1, right or not less calibrated confidence, by betting (detector.py)
    from both sides, with a tolerance: what the reference rows may err by, and SLACK.
    """

    def __init__(self, calibration: Calibration, false_alarm_every: float) -> None:
        self.calibration = calibration
        self.spare = SLACK + calibration.slack(calibration.spread)
        most = (1 + self.spare) / 2
        self._off = {way: Rising(most, 2 * false_alarm_every, chunk=CHUNK) for way in ("fewer", "more")}

    def add(self, scores: Array, right: float, at: float) -> None:
        """The truth of a request came: its probabilities [rows, classes], and the share of its rows that were right."""
        fewer = float(self.calibration.map[cells(scores.max(axis=1))].mean()) - right
        self._off["fewer"].add((1 + fewer) / 2, at)
        self._off["more"].add((1 - fewer) / 2, at)

    @property
    def holds(self) -> bool:
        """Whether nothing that is known speaks against it."""
        return not any(check.raised for check in self._off.values())

    def since(self, at: float) -> int:
        """How many labelled answers were given at that time (epoch seconds) or later."""
        return sum(answered >= at for answered in self._off["more"].ats)

    def finding(self) -> Finding | None:
        """That it no longer holds."""
        return next((self._finding(way, check) for way, check in self._off.items() if check.raised), None)

    def _finding(self, way: str, check: Rising) -> Finding:
        since, off = check.since()
        gap = 2 * float(off.mean()) - 1
        low, high = (2 * end - 1 for end in mean_interval(off))
        why = (
            f"calibration no longer holds: of the last {len(off):,} labelled answers {gap:.1%} ({low:.1%} to "
            f"{high:.1%}) {way} were right than their confidence let expect, "
            "so estimates of quality without labels are void"
        )
        evidence = {"gap": gap, "low": low, "high": high, "n": len(off), "way": way, "tolerance": self.spare}
        return Finding("quality", "calibration", why, evidence | check.evidence, since)

    def numbers(self) -> dict[str, Any]:
        """n, how many more were right than expected with its confidence sequence, the tolerance, and the verdict."""
        more = 2 * np.array(self._off["more"].values) - 1
        low, high = mean_interval((1 + more) / 2)
        found: dict[str, Any] = {"n": len(more), "tolerance": self.spare, "holds": self.holds}
        return found | ({"gap": float(more.mean()), "low": 2 * low - 1, "high": 2 * high - 1} if len(more) else {})


class Estimated:
    """The estimate of one version as answers come, without labels. ``floor`` is what was promised."""

    def __init__(self, calibration: Calibration, floor: float | None, promise: str, false_alarm_every: float) -> None:
        self.calibration, self.floor, self.promise = calibration, floor, promise
        self.n = 0
        self._known: tuple[int, dict[str, Measured]] = (0, {})
        self._newest: deque[Array] = deque()
        self._rows = 0
        self._wrong = Rising(1.0 if floor is None else 1 - floor, false_alarm_every, chunk=CHUNK)

    def add(self, scores: Array, at: float) -> None:
        """The probabilities [rows, classes] that a request was answered with, NaN in a row that answers no class."""
        rows = scores[:MAX_ROWS]
        void = np.isnan(rows).any(axis=1)
        self.n += 1
        self._newest.append(rows)
        self._rows += len(rows)
        while self._rows - len(self._newest[0]) >= WINDOW:
            self._rows -= len(self._newest.popleft())
        right = float(self.calibration.most[cells(rows[~void].max(axis=1))].sum())
        self._wrong.add(1 - right / len(rows), at)

    def finding(self) -> Finding | None:
        """That the most to hope for lies below what was promised; None while there is too little evidence."""
        if self.floor is None or not self._wrong.raised:
            return None
        since, wrong = self._wrong.since()
        most = 1 - float(wrong.mean())
        why = (
            f"accuracy is estimated to be at most {most:.1%} on the last {len(wrong):,} answers, without labels; "
            f"{self.promise} is {self.floor:.1%}. It assumes that {ASSUMES}"
        )
        evidence = {"at_most": most, "n": len(wrong), "floor": self.floor, "assumes": ASSUMES}
        return Finding("quality", "estimated accuracy", why, evidence | self._wrong.evidence, since)

    def measured(self) -> dict[str, Measured]:
        """Accuracy, F1 and AUC to expect of the newest answers, WINDOW rows at most. Worked out once for each n."""
        if self._known[0] != self.n:
            self._known = self.n, expected(self.calibration, np.concatenate(self._newest))
        return self._known[1]

    def numbers(self) -> dict[str, Any]:
        """n, the estimates, and what they assume."""
        found = {name: one._asdict() for name, one in self.measured().items()}
        return {"n": self.n, "reference_rows": self.calibration.n, "assumes": ASSUMES, **found}

    def describe(self, *, holds: bool = True, doubtful: bool = False) -> str:
        """One line for a person; ``holds`` is whether labels bear the assumption out, as far as there are any, and
        ``doubtful`` whether the inputs have moved and too few labels have come since to tell.
        """
        if not self.n:
            return "estimated without labels: no answers yet"
        told = ", ".join(f"{name} {one.describe('{:.1%}'.format)}" for name, one in self.measured().items())
        if not holds:
            told += "; void, for calibration no longer holds"
        elif doubtful:
            told += f"; doubtful, for the inputs moved, and it assumes that {ASSUMES}"
        return f"estimated without labels: {told}"
