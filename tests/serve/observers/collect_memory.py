"""Prints how many MB a process grew by for what is gathered of one model: test_collect.py runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from modelkeep.data.bins import Bins
from modelkeep.data.features import MAX_COLUMNS, Columns
from modelkeep.data.profiles import ProfileLog
from modelkeep.data.sketches import Sketches
from modelkeep.metrics import Metrics
from modelkeep.model.baseline import Baseline, Subject
from modelkeep.serve.observers.collect import Budget, Collector
from modelkeep.types import Request, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", (None, 784)), TensorSpec("a", "float32", (None, MAX_COLUMNS))),
    (TensorSpec("y", "float32", (None, 10)), TensorSpec("b", "float32", (None, MAX_COLUMNS))),
)


class Target(SimpleNamespace):
    """As much of a Loaded as the collector looks at."""

    __hash__ = object.__hash__


def rows(rng: np.random.Generator, n: int, specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    return {one.name: rng.random((n, one.shape[1]), dtype=np.float32) for one in specs}  # type: ignore[arg-type]


def subject(rng: np.random.Generator, specs: tuple[TensorSpec, ...], *, answers: bool) -> Subject:
    columns = Columns.of(specs, given := rows(rng, 1024, specs), answers=answers)
    return Subject(columns, Bins.of(columns.read(given), columns.edges))


def resident() -> float:
    """MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1024**2


def main(room: Path) -> None:
    rng = np.random.default_rng(0)
    known = Baseline(subject(rng, SIGNATURE.inputs, answers=False), subject(rng, SIGNATURE.outputs, answers=True))
    Sketches([False, True]).update(np.zeros((1, 2)), {1: {"a": 1}})
    target: Any = Target(name="m", number=1, ref="m@1", signature=SIGNATURE)
    metrics, before, most = Metrics(), resident(), 0.0
    collector = Collector(metrics, lambda name, number: known, ProfileLog(room / "profiles.db"))
    collector._budget = Budget(share=1e6)
    for at in range(20_000):
        request = Request(f"r{at}", "m", rows(rng, 1, SIGNATURE.inputs))
        collector.offer(target, "live", request, rows(rng, 1, SIGNATURE.outputs))
        most = max(most, resident()) if at % 500 == 0 else most
    collector.close()
    sys.stdout.write(f"{max(most, resident()) - before}\n")


main(Path(sys.argv[1]))
