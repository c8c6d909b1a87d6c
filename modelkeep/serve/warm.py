"""A version runs on its own rows before it answers anybody."""

from __future__ import annotations

import time

import numpy as np

from modelkeep.errors import ModelkeepError
from modelkeep.model import folder
from modelkeep.model.signature import example
from modelkeep.types import Model, Runner, ServeConfig

Paces = list[tuple[int, float]]
"""Rows and seconds of the runs of a warm-up."""


def warm(model: Model, runner: Runner, config: ServeConfig) -> Paces:
    """Run it at batch 1 and at max_batch, twice each, and give the second runs' seconds: a first idea of its pace.

    On the model's own reference rows, where it has any: a model that fails on these must not be served, and the
    engine's error is passed on. Made-up rows may be refused by a sound model, so that such a failure is let pass.
    """
    rows = folder.reference(model.path)
    paces: Paces = []
    for batch in sorted({1, config.max_batch}) if runner.signature.batched else [1]:
        made_up = example(runner.signature, batch)
        inputs = made_up if rows is None else rows.take(np.arange(batch) % len(rows)).inputs
        try:
            runner.run(inputs)
            started = time.monotonic()
            runner.run(inputs)
            paces.append((batch, time.monotonic() - started))
        except Exception as error:  # an engine may raise anything
            if rows is None:
                break
            raise ModelkeepError(
                f"the model fails on its own reference rows: {type(error).__name__}: {error}"
            ) from error
    return paces
