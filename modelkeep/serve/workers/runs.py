"""What a worker does with a batch, on a thread or in a process of its own: run, check, look, find who makes it fail."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from modelkeep import stages
from modelkeep.errors import ModelkeepError
from modelkeep.types import Runner

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


@dataclass(frozen=True, slots=True)
class Seen:
    """What is counted of a good run: rows, seconds, rows that are not finite, rows by the class that they were given.

    A class is the argmax of the first output, where that is of floats and two-dimensional.
    """

    rows: int
    seconds: float
    invalid: int = 0
    classes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """What became of the requests from ``start`` to ``stop`` of a batch: joined outputs, or one request's error."""

    start: int
    stop: int
    outputs: Arrays = field(default_factory=dict)
    seen: Seen | None = None
    error: ModelkeepError | None = None


class Runs:
    """Runs batches of requests that may be joined. Safe from several threads. ``name`` goes into error sentences."""

    def __init__(self, runner: Runner, *, name: str) -> None:
        self.name = name
        self._runner = runner
        self._batched = runner.signature.batched
        self._outputs = tuple(t.name for t in runner.signature.outputs)

    def parts(self, inputs: Arrays, rows: Sequence[int], first: int = 0) -> list[Part]:
        """Run them together; where that fails, run the halves, so that only the guilty one fails.

        ``inputs`` are joined, ``rows`` how many of them belong to each request; several only where they may be joined.
        """
        stop = first + len(rows)
        try:
            outputs, seen = self._run(inputs, sum(rows))
        except Exception as error:  # noqa: BLE001 - a model may raise anything, and the server must outlive it
            if len(rows) == 1:
                return [Part(first, stop, error=self._sentence(error))]
            half = len(rows) // 2
            cut = sum(rows[:half])
            return [
                *self.parts({n: a[:cut] for n, a in inputs.items()}, rows[:half], first),
                *self.parts({n: a[cut:] for n, a in inputs.items()}, rows[half:], first + half),
            ]
        return [Part(first, stop, outputs, seen)]

    def _run(self, inputs: Arrays, rows: int) -> tuple[dict[str, Array], Seen]:
        started = time.monotonic()
        with stages.stage("compute"):
            outputs = self._runner.run(inputs)
        seconds = time.monotonic() - started
        with stages.stage("check"):
            return self._check(outputs, rows, seconds)

    def _check(self, outputs: Arrays, rows: int, seconds: float) -> tuple[dict[str, Array], Seen]:
        for name in self._outputs:
            if name not in outputs:
                raise ModelkeepError(f"{self.name} gave no output '{name}', which its signature promises")
            if self._batched and outputs[name].shape[:1] != (rows,):
                raise ModelkeepError(
                    f"{self.name} gave output '{name}' of shape {list(outputs[name].shape)} for {rows} rows"
                )
        kept = {name: outputs[name] for name in self._outputs}
        return kept, look(kept, rows, seconds)

    def _sentence(self, error: Exception) -> ModelkeepError:
        """What a client is told: one line, no traceback."""
        if isinstance(error, ModelkeepError):
            return error
        text = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
        return ModelkeepError(f"{self.name} failed on this request: {said}")


def look(outputs: Mapping[str, Array], rows: int, seconds: float) -> Seen:
    """What is to be counted of a run that gave these outputs."""
    invalid = 0
    for array in outputs.values():
        if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
            invalid += int((~finite.reshape(len(array), -1).all(axis=1)).sum()) if array.ndim else 1
    scores = next(iter(outputs.values()))
    if scores.dtype.kind == "f" and scores.ndim == 2 and scores.shape[1] > 1:
        return Seen(rows, seconds, invalid, Counter(scores.argmax(axis=1).tolist()))
    return Seen(rows, seconds, invalid)
