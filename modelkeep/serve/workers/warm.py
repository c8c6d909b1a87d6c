"""A version runs on its own rows before it answers anybody: whether it can, how fast, and whether rows may meet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.errors import ModelkeepError
from modelkeep.model import company, folder
from modelkeep.model.signature import example
from modelkeep.types import Model, Runner, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

Paces = list[tuple[int, float]]
"""Rows and seconds of the runs of a warm-up."""


def warm(model: Model, runner: Runner, config: ServeConfig) -> tuple[Paces, str]:
    """Run it at batch 1 and at max_batch, twice each, and give the second runs' seconds: a first idea of its pace; and
    which answer the rows of a batch change for each other (company.py), empty where they do not.

    On the model's own reference rows, where it has any: a model that fails on these must not be served, and so raises
    ModelkeepError with the engine's words. Made-up rows may be refused by a sound model: such a failure is let pass.
    """
    own = folder.reference(model.path)
    most = config.max_batch if runner.signature.batched else 1
    rows: Arrays = example(runner.signature, most) if own is None else own.take(np.arange(most) % len(own)).inputs
    paces: Paces = []
    answers: list[Arrays] = []
    for batch in sorted({1, most}):
        inputs = rows if batch == most else {name: array[:1] for name, array in rows.items()}
        try:
            answers.append(runner.run(inputs))
            started = time.monotonic()
            runner.run(inputs)
            paces.append((batch, time.monotonic() - started))
        except Exception as error:  # an engine may raise anything
            if own is None:
                break
            raise ModelkeepError(
                f"the model fails on its own reference rows: {type(error).__name__}: {error}"
            ) from error
    return paces, company.apart(*answers) if len(answers) == 2 else ""
