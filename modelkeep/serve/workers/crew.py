"""Who runs the batches of a version: threads around a Runner in this process, or the processes of a Pool."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from modelkeep.serve.workers.pace import Pace
from modelkeep.serve.workers.ragged import Ragged
from modelkeep.serve.workers.runs import Part
from modelkeep.types import Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


@dataclass(slots=True)
class Answer:
    """What one request got: its own rows, and the seconds it waited and its run took."""

    outputs: Arrays
    queue: float
    compute: float


@dataclass(eq=False, slots=True)
class Pending:
    """A request in the queue or in a run. ``answer`` is a future of Answer; ``guilt`` grows where its worker ended.

    ``stage`` is its time in the queue, where a profile is taken (stages.py). ``length`` is that of its sequences, where
    they may be padded.
    """

    inputs: Arrays
    rows: int
    key: Hashable
    queued: float
    deadline: float | None
    answer: asyncio.Future[Answer]
    timer: asyncio.TimerHandle | None = None
    guilt: float = 0.0
    stage: Any = None
    length: int = 0


@dataclass(eq=False, slots=True)
class Batch:
    """Requests that share a run, which was given to a worker at ``started`` (time.monotonic). ``padding`` says how,
    where their sequences are not of one length.
    """

    requests: list[Pending]
    started: float
    padding: Ragged | None = None

    @property
    def length(self) -> int:
        """Of the longest sequence: what the others are padded to."""
        return max(p.length for p in self.requests)

    def pieces(self) -> dict[str, list[Array]]:
        """By input, what is to be joined."""
        names = list(self.requests[0].inputs)
        if (padding := self.padding) is None:
            return {name: [p.inputs[name] for p in self.requests] for name in names}
        length = self.length
        return {name: [padding.pad(name, p.inputs[name], length) for p in self.requests] for name in names}

    def rows(self) -> list[int]:
        """Of each request."""
        return [p.rows for p in self.requests]


class Host(Protocol):
    """Whom a crew tells what became of its batches: the Batcher. All of it in the event loop's thread."""

    name: str
    pace: Pace

    def finished(self, batch: Batch, parts: Sequence[Part], seconds: float) -> None:
        """It ran, well or not, for so many seconds."""

    def lost(self, batch: Batch | None, kind: str, why: str) -> None:
        """A worker ended, in this run or in none. ``kind`` is ``crash`` or ``hang``."""

    def wake(self) -> None:
        """A worker is free that was not there before."""


@runtime_checkable
class Crew(Protocol):
    """Some workers, each of which runs one batch at a time. All methods but ``close`` belong to the loop's thread."""

    signature: Signature
    ragged: Ragged | None
    """How requests of different lengths may share a run; None where they may not."""
    mixes: str
    """Which answer the rows of a batch change for each other, so that no requests may share a run; empty for none."""

    @property
    def free(self) -> int:
        """How many batches could start now."""

    @property
    def alive(self) -> int:
        """How many workers there are."""

    @property
    def memory(self) -> int:
        """Bytes that loading and warming up took, in all workers; 0 where the system does not say."""

    @property
    def trouble(self) -> str:
        """Why nothing can run, now and until further notice; empty where it can."""

    def pids(self) -> list[int]:
        """Of the workers that are processes; none where they are threads."""

    def begin(self, host: Host) -> None:
        """From now on batches come from this one."""

    def start(self, batch: Batch) -> None:
        """Run it; only while one is free. Raises BadInput for inputs that no worker can be given."""

    def end(self) -> None:
        """No batch will come any more."""

    def close(self) -> None:
        """Give everything back; may block. Calling it twice is harmless."""
