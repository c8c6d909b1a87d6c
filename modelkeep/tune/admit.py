"""Which ways to run a model answer well enough to be measured at all: a faster wrong answer wins no race."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from modelkeep.errors import ModelkeepError
from modelkeep.model import compare, engines, folder, score
from modelkeep.model.company import mixed
from modelkeep.tune.bench import on_thread
from modelkeep.tune.rounds import Entrant
from modelkeep.types import Model, Runner, ServeConfig

if TYPE_CHECKING:
    from modelkeep.data.dataset import Dataset
    from modelkeep.types import Array

LEAST = 2.0
"""Seconds that one comparison may take in any case."""


@dataclass
class Admission:
    """Judges each engine and precision of each model once. ``models[""]`` is the one that is tuned.

    An engine in the model's own precision must answer as the default engine does (compare's tolerance). What computes
    below it must stay within the wider tolerance of its precision; or, where ``rows`` are given, lose at most
    ``max_drop`` of accuracy on them, paired, with 95 % confidence on one side. Versions with other weights (int8) come
    with the verdict of the step that made them, and are judged by ``rows`` too where these are given.
    """

    models: Mapping[str, Model]
    rows: Dataset | None = None
    max_drop: float | None = None
    verdicts: dict[Entrant, str] = field(default_factory=dict)
    _right: Array | None = None

    def why_not(self, entrant: Entrant) -> str:
        """Why it may not take part, in one sentence; empty where it may."""
        way = self.way(entrant)
        if way not in self.verdicts:
            self.verdicts[way] = self._judge(way)
        return self.verdicts[way]

    def way(self, entrant: Entrant) -> Entrant:
        """Its engine and precision, without what changes no answer."""
        return Entrant(ServeConfig(entrant.config.engine, entrant.config.device, entrant.config.precision), entrant.of)

    def _judge(self, way: Entrant) -> str:
        model = self.models[way.of]
        default = engines.default_config(model.format)
        other_weights = bool(way.of)
        same_way = (way.config.engine, way.config.precision) == (default.engine, None)
        if same_way and not (other_weights and self._by_accuracy):
            return ""
        try:
            with contextlib.closing(engines.load(model, way.config)) as runner:
                if (other_weights or way.config.precision) and self._by_accuracy:
                    return self._less_accurate(runner, model)
                return self._different(model, runner, way.config.precision, other_weights)
        except ModelkeepError as error:
            return str(error)

    @property
    def _by_accuracy(self) -> bool:
        return self.rows is not None and self.max_drop is not None

    def _different(self, model: Model, runner: Runner, precision: str | None, other_weights: bool) -> str:
        """Against the default engine on the same model. Weights of int8 round differently on each engine."""
        held_to = precision or ("bfloat16" if other_weights else "float32")
        with contextlib.closing(engines.load(model)) as reference:
            report = compare.compare(reference, runner, folder.reference(model.path), precision=held_to)
        return "" if report.ok else report.why

    def _less_accurate(self, runner: Runner, model: Model) -> str:
        """Against the tuned model on its default engine, whose answers are worked out once."""
        assert self.rows is not None
        assert self.max_drop is not None
        if self._right is None:
            tuned = self.models[""]
            with contextlib.closing(engines.load(tuned)) as reference:
                self._right = score.correct(reference, self.rows, tuned.labels)
        right = score.correct(runner, self.rows, model.labels)
        report = score.judge(self._right, right, self.max_drop, self.rows.source)
        return "" if report.ok else report.why


async def admitted(
    admission: Admission, entrants: Sequence[Entrant], refused: dict[Entrant, str], *, end: float = math.inf
) -> list[Entrant]:
    """Those that may take part; the reasons of the others go into ``refused``.

    What is not judged by ``end`` (time.monotonic) takes no part either, but those of the default engine: a load that
    hangs or a long compilation must not take the whole budget.
    """
    late: set[Entrant] = set()
    found = []
    for entrant in entrants:
        way = admission.way(entrant)
        try:
            if way in late:
                raise TimeoutError
            async with asyncio.timeout(max(end - time.monotonic(), LEAST)):
                why = await on_thread(partial(admission.why_not, entrant), lambda said: None)
        except TimeoutError:
            late.add(way)
            why = "its answers could not be compared in its share of the budget"
        if why:
            refused[entrant] = why
        else:
            found.append(entrant)
    return found


async def company(model: Model, *, end: float) -> str:
    """Which output answers a row otherwise among others than alone; empty where requests may share a run, or where
    that could not be told by ``end``.
    """

    def judge() -> str:
        with contextlib.closing(engines.load(model)) as runner:
            return mixed(runner, folder.reference(model.path))

    try:
        async with asyncio.timeout(max(end - time.monotonic(), LEAST)):
            return await on_thread(judge, lambda said: None)
    except Exception:  # noqa: BLE001 - an engine may raise anything; what does not run says why where it is measured
        return ""
