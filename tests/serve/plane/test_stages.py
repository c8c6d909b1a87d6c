"""In a profile, a request's way through the plane has names: queue, join, compute, check, split."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from modelkeep import stages
from modelkeep.serve.plane.batcher import Batcher
from modelkeep.types import ServeConfig, Signature, TensorSpec


class Ranges:
    """Stands in for NVTX: every range that is closed, with the thread that opened it."""

    def __init__(self) -> None:
        self.open: dict[int, list[str]] = {}
        self.closed: list[tuple[str, str]] = []
        self.started: dict[int, str] = {}

    def push(self, name: str) -> None:
        self.open.setdefault(threading.get_ident(), []).append(name)

    def pop(self) -> None:
        self.closed.append((self.open[threading.get_ident()].pop(), threading.current_thread().name))

    def start(self, name: str) -> int:
        self.started[len(self.started) + len(self.closed)] = name
        return max(self.started)

    def end(self, handle: int) -> None:
        self.closed.append((self.started.pop(handle), ""))


class Doubling:
    signature = Signature((TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 2)),))

    def run(self, inputs: Any) -> dict[str, Any]:
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        pass


@pytest.fixture
def ranges() -> Iterator[Ranges]:
    recorder = Ranges()
    stages.on(recorder)
    yield recorder
    stages.off()


def ask(*, drop: bool = False) -> list[Any]:
    async def run() -> list[Any]:
        batcher = Batcher(Doubling(), ServeConfig(max_batch=4), name="m@1")
        asked = [batcher.submit({"x": np.full((1, 2), n, np.float32)}, {}, None) for n in range(3)]
        if drop:
            batcher.drop(asked.pop())
        found = [await pending.answer for pending in asked]
        await batcher.close()
        return found

    return asyncio.run(run())


def test_each_stage_of_a_batch_is_named_where_it_happens(ranges: Ranges) -> None:
    answers = ask()
    assert [a.outputs["y"][0, 0] for a in answers] == [0.0, 2.0, 4.0]
    names = [name for name, _ in ranges.closed]
    assert names == ["queue", "queue", "queue", "join", "compute", "check", "split"]
    assert {thread for name, thread in ranges.closed if name in ("join", "compute", "check")} == {"m@1-0"}
    assert not ranges.started
    assert not any(ranges.open.values())


def test_who_gives_up_has_left_the_queue(ranges: Ranges) -> None:
    ask(drop=True)
    assert [name for name, _ in ranges.closed].count("queue") == 3
    assert not ranges.started
