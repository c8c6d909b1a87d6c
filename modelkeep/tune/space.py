"""The settings worth trying for a model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelkeep import extras
from modelkeep.model.engines import ENGINES, default_config, engines_for
from modelkeep.tune import machine
from modelkeep.tune.machine import cores
from modelkeep.types import Model, ServeConfig

BATCHES = (1, 2, 4, 8, 16, 32, 64)
WAITS = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01)
MIDDLE = 8
"""Rows at which engines, precisions, threads and workers are compared first: batches show what an engine can."""
LOWER = {"bfloat16": ("openvino", "torch", "torch-compile"), "float16": ("openvino",)}
"""Precisions below the model's own, and the engines that compute in them on a CPU that has the instructions."""


@dataclass(frozen=True)
class Space:
    """Arms (engine × precision × threads × workers) × max batch × max wait.

    Every arm is given at the batch at which arms are compared, and without a wait.
    """

    arms: tuple[ServeConfig, ...]
    batches: tuple[int, ...]
    waits: tuple[float, ...]

    def settings(self) -> list[ServeConfig]:
        """All of them. A batch of one row waits for nobody."""
        return [
            replace(arm, max_batch=batch, max_wait=wait)
            for arm in self.arms
            for batch in self.batches
            for wait in (self.waits if batch > 1 else (0.0,))
        ]

    def beside(self, config: ServeConfig, axis: str, step: int) -> ServeConfig | None:
        """The setting one step up or down the axis ``max_batch`` or ``max_wait``; None where there is none."""
        ladder: Sequence[float] = self.batches if axis == "max_batch" else self.waits
        at = ladder.index(getattr(config, axis)) + step
        changed: dict[str, Any] = {axis: ladder[at] if 0 <= at < len(ladder) else None}
        return replace(config, **changed) if changed[axis] is not None else None


def naive(model: Model) -> ServeConfig:
    """What one gets without thinking: the default engine's own defaults, one row at a time. Raises Unsupported."""
    return replace(default_config(model.format), max_batch=1)


def space(model: Model, *, p99: float, concurrency: int, apart: bool = False) -> Space:
    """What there is to search: installed engines, the precisions that this processor has, threads × workers ≤ cores.

    Batches end where all ``concurrency`` requests fit into one, and are of one row where requests are to be kept
    ``apart``; a wait takes a quarter of the promise at most.
    """
    batches: tuple[int, ...] = (1,)
    if model.signature.batched and not apart:
        batches = tuple(b for b in BATCHES if b < 2 * concurrency)
    waits = tuple(w for w in WAITS if w <= p99 / 4) if len(batches) > 1 else (0.0,)
    middle = max(b for b in batches if b <= MIDDLE)
    arms = [
        ServeConfig(engine=engine, precision=precision, threads=threads, workers=workers, max_batch=middle)
        for engine in engines_for(model.format)
        if extras.has(ENGINES[engine].library)
        for precision in precisions(engine)
        for threads, workers in layouts(cores())
    ]
    return Space(tuple(arms), batches, waits)


def precisions(engine: str) -> list[str | None]:
    """The model's own (None), and those below it that this engine computes in on this machine."""
    return [None, *(name for name, able in LOWER.items() if engine in able and name in machine.precisions())]


def layouts(available: int) -> list[tuple[int, int]]:
    """(threads of a run, workers): powers of two and all cores, one worker or as many as fill the cores."""
    powers = {2**n for n in range(available.bit_length()) if 2**n < available}
    return [(t, w) for t in sorted(powers | {available}) for w in sorted({1, available // t})]


def central(arms: Sequence[ServeConfig]) -> ServeConfig:
    """The arm that speaks for its engine and precision before threads and workers are compared.

    It fills the cores, with about as many threads as workers.
    """
    filled = max((arm.threads or 1) * arm.workers for arm in arms)
    filling = [arm for arm in arms if (arm.threads or 1) * arm.workers == filled]
    return min(filling, key=lambda arm: (abs((arm.threads or 1) ** 2 - filled), arm.threads or 1))
