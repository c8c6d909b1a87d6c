"""The settings worth trying for a model on this machine."""

from __future__ import annotations

from dataclasses import replace

from modelkeep import extras
from modelkeep.model.engines import ENGINES, default_config, engines_for
from modelkeep.tune.machine import cores
from modelkeep.types import Model, ServeConfig

BATCHES = (1, 8, 32)


def naive(model: Model) -> ServeConfig:
    """What one gets without thinking: the default engine's own defaults, one row at a time. Raises Unsupported."""
    return replace(default_config(model.format), max_batch=1)


def candidates(model: Model) -> list[ServeConfig]:
    """Installed engines × threads × max batch × workers, the naive setting first; threads × workers ≤ cores."""
    available = cores()
    found = [naive(model)]
    for engine in engines_for(model.format):
        if not extras.has(ENGINES[engine].library):
            continue
        for threads in sorted({1, max(1, available // 2), available}):
            for workers in sorted({1, available // threads}):
                for batch in BATCHES if model.signature.batched else (1,):
                    found.append(ServeConfig(engine=engine, threads=threads, workers=workers, max_batch=batch))
    return list(dict.fromkeys(found))
