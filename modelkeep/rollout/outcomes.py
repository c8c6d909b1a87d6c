"""What became of the requests of a canary and of the live version beside it, read from the captured traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import labels, traffic
from modelkeep.monitor.labelled import answer
from modelkeep.monitor.quality import are_classes, predicted, share_right
from modelkeep.rollout.judge import WRONG

if TYPE_CHECKING:
    from modelkeep.data.traffic import Exchange
    from modelkeep.rollout.judge import Judge
    from modelkeep.types import Array, Model

PAGE, PAGE_BYTES = 1000, 4 * 1024**2
"""What is read at a time; inputs never are, for what they were changes no verdict, and pictures would fill memory."""
HISTORY, FEWEST = 2000, 100
MAX_PENDING = 100_000
ARMS = {"live": False, "canary": True}


def usual_p99(path: Path, name: str, number: int) -> float | None:
    """Seconds that 99 % of a version's answers stayed under so far; None where too few were captured."""
    past = traffic.read(path, name, version=number, limit=HISTORY, newest=True, arrays=False)
    seconds = [e.seconds for e in past if e.outcome == "ok" and e.track != "shadow"]
    return float(np.quantile(seconds, 0.99)) if len(seconds) >= FEWEST else None


class Outcomes:
    """Reads on from row ``after`` and tells a Judge. ``models`` by version number: the live one and the canary.

    A refusal for overload is no outcome of a version: it is decided before one is chosen.
    """

    def __init__(self, path: Path, name: str, models: dict[bool, tuple[int, Model]], after: int) -> None:
        """``models``: whether it is the canary → its number and its Model."""
        self.path, self.name, self.models = path, name, models
        self._row, self._label_row = after, labels.newest(path)
        self._pending: dict[str, tuple[bool, Array]] = {}

    def tell(self, judge: Judge, slow: float | None) -> None:
        """Everything that became known since the last call. ``slow`` is the seconds from which an answer harms."""
        for row, request, label in labels.read(self.path, self.name, after=self._label_row):
            self._label_row = row
            if request in self._pending:
                self._answered(judge, *self._pending.pop(request), label)
        known: Any = {"limit": PAGE, "max_bytes": PAGE_BYTES, "inputs": False}
        while page := traffic.read(self.path, self.name, after=self._row, **known):
            self._row = page[-1].row
            for exchange in page:
                self._take(judge, exchange, slow)

    def _take(self, judge: Judge, exchange: Exchange, slow: float | None) -> None:
        canary = ARMS.get(exchange.track)
        if canary is None or exchange.outcome == "overloaded" or exchange.version != self.models[canary][0]:
            return
        failed = exchange.outcome != "ok"
        judge.add("errors", canary, float(failed))
        if slow is not None and (not failed or exchange.outcome == "late"):
            judge.add("slow answers", canary, float(exchange.outcome == "late" or exchange.seconds > slow))
        answers = None if failed else _said(exchange, self.models[canary][1], judge.rules.max_error is not None)
        if answers is None:
            return
        if exchange.label is not None:
            self._answered(judge, canary, answers, exchange.label)
        elif len(self._pending) < MAX_PENDING:
            self._pending[exchange.id] = (canary, answers)

    def _answered(self, judge: Judge, canary: bool, answers: Array, label: object) -> None:
        model = self.models[canary][1]
        if judge.rules.max_error is None:
            right = share_right(answers, label, model.labels)
            harm = None if right is None else 1 - right
        else:
            harm = _far(answers, label, model, judge.rules.unit)
        if harm is not None:
            judge.add(WRONG, canary, harm)


def _said(exchange: Exchange, model: Model, numbers: bool) -> Array | None:
    """The answers that labels are held against: classes or, where ``numbers`` are judged, these as they came."""
    if not numbers:
        return predicted(exchange.outputs, model)
    return None if are_classes(model) else (exchange.outputs or {}).get(model.signature.outputs[0].name)


def _far(answers: Array, label: object, model: Model, most: float) -> float | None:
    """The mean error of a request's rows as a share of ``most``, 1 where it is more or where an answer is no number;
    None where answers and truth cannot be compared.
    """
    found = answer({model.signature.outputs[0].name: answers}, label, model)
    if found is None or found.numbers is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.abs(found.numbers[0] - found.numbers[1]).mean())
    return min(error / most, 1.0) if np.isfinite(error) else 1.0
