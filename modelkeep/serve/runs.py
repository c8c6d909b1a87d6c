"""What a worker's thread does with a batch: join, run, check, split, and find the one that makes it fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.errors import ModelkeepError
from modelkeep.types import Runner

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


@dataclass(eq=False, slots=True)
class Pending:
    """A request in the queue or in a run. ``answer`` is a future of Answer."""

    inputs: Arrays
    rows: int
    key: Hashable
    queued: float
    deadline: float | None
    answer: asyncio.Future[Answer]
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got: its own rows, and the seconds it waited and its run took."""

    outputs: dict[str, Array]
    queue: float
    compute: float


Outcome = tuple[Pending, "dict[str, Array] | Exception"]
Watcher = Callable[["Mapping[str, Array]", int, float], None]


class Runs:
    """Runs batches of requests that may be joined. Safe from several threads.

    ``name`` goes into error sentences; ``watch`` is told the outputs, the rows and the seconds of each good run.
    """

    def __init__(self, runner: Runner, *, name: str, watch: Watcher | None = None) -> None:
        self._runner, self._name, self._watch = runner, name, watch
        self._batched = runner.signature.batched
        self._outputs = tuple(t.name for t in runner.signature.outputs)

    def outcomes(self, batch: list[Pending]) -> list[Outcome]:
        """Run them together; where that fails, run the halves, so that only the guilty one fails."""
        batch = [p for p in batch if not p.answer.done()]
        if not batch:
            return []
        try:
            parts = self._run([p.inputs for p in batch], [p.rows for p in batch])
        except Exception as error:  # noqa: BLE001 - a model may raise anything, and the server must outlive it
            if len(batch) == 1:
                return [(batch[0], self._sentence(error))]
            half = len(batch) // 2
            return [*self.outcomes(batch[:half]), *self.outcomes(batch[half:])]
        return list(zip(batch, parts, strict=True))

    def _run(self, inputs: Sequence[Arrays], rows: Sequence[int]) -> list[dict[str, Array]]:
        joined = inputs[0] if len(inputs) == 1 else {n: np.concatenate([i[n] for i in inputs]) for n in inputs[0]}
        total = sum(rows)
        started = time.monotonic()
        outputs = self._runner.run(joined)
        seconds = time.monotonic() - started
        for name in self._outputs:
            if name not in outputs:
                raise ModelkeepError(f"{self._name} gave no output '{name}', which its signature promises")
            if self._batched and outputs[name].shape[:1] != (total,):
                raise ModelkeepError(
                    f"{self._name} gave output '{name}' of shape {list(outputs[name].shape)} for {total} rows"
                )
        if self._watch is not None:
            self._watch(outputs, total, seconds)
        if len(inputs) == 1:
            return [{name: outputs[name] for name in self._outputs}]
        parts, start = [], 0
        for count in rows:
            parts.append({name: outputs[name][start : start + count] for name in self._outputs})
            start += count
        return parts

    def _sentence(self, error: Exception) -> ModelkeepError:
        """What a client is told: one line, no traceback."""
        if isinstance(error, ModelkeepError):
            return error
        text = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
        return ModelkeepError(f"{self._name} failed on this request: {said}")
