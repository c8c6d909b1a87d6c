"""What became of the requests of a canary and of the live version beside it, read from the captured traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import labels, traffic
from modelkeep.monitor.quality import predicted, share_right

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
        answers = None if failed else predicted(exchange.outputs, self.models[canary][1])
        if answers is None:
            return
        if exchange.label is not None:
            self._answered(judge, canary, answers, exchange.label)
        elif len(self._pending) < MAX_PENDING:
            self._pending[exchange.id] = (canary, answers)

    def _answered(self, judge: Judge, canary: bool, answers: Array, label: object) -> None:
        right = share_right(answers, label, self.models[canary][1].labels)
        if right is not None:
            judge.add("wrong answers", canary, 1 - right)
