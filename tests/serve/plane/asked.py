"""What the tests of the plane ask, of what, and who keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import numpy as np

from modelkeep.serve.plane.loaded import Loaded
from modelkeep.serve.plane.plane import Plane
from modelkeep.types import Request, ServeConfig


class Log:
    """A TrafficLog that keeps what it was offered."""

    dropped, bare, rate = 0, 0, float("inf")

    def __init__(self) -> None:
        self.offered: list[Any] = []

    def offer(self, exchange: Any) -> None:
        self.offered.append(exchange)

    def of(self, what: str) -> list[Any]:
        return [getattr(e, what) for e in self.offered]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def ask(*values: float, **changes: Any) -> Request:
    return replace(Request("r1", "m", {"x": np.array([values or (1.0,)], np.float32)}), **changes)


def serve(plane: Plane, number: int, runner: Any, *, p99: float | None = None, **options: Any) -> Loaded:
    return Loaded("m", number, runner, config=ServeConfig(p99=p99), metrics=plane.metrics, **options)
