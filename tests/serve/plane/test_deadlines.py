"""Requests are given up at their deadline, near or far, and those that were answered are not."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from modelkeep.serve.plane import deadlines
from modelkeep.serve.plane.deadlines import Deadlines
from modelkeep.serve.workers.crew import Pending


def pending(loop: asyncio.AbstractEventLoop) -> Pending:
    return Pending({}, 1, "key", 0.0, None, loop.create_future())


@pytest.mark.parametrize("seconds", [0.02, 0.08])
def test_both_kinds_expire_in_time_and_not_before(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "SOON", 0.04)
    monkeypatch.setattr(deadlines, "ROUND", 0.01)

    async def main() -> float:
        gone = asyncio.Event()
        waiting = Deadlines(asyncio.get_running_loop(), lambda one: gone.set())
        began = time.monotonic()
        waiting.add(pending(asyncio.get_running_loop()), seconds)
        await asyncio.wait_for(gone.wait(), 20)
        return time.monotonic() - began

    assert seconds - 0.002 <= asyncio.run(main()) < seconds + 5


def test_what_is_discarded_does_not_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "SOON", 0.03)
    monkeypatch.setattr(deadlines, "ROUND", 0.005)

    async def main() -> list[Any]:
        expired: list[Any] = []
        loop = asyncio.get_running_loop()
        waiting = Deadlines(loop, expired.append)
        kept = pending(loop)
        far, near, between = pending(loop), pending(loop), pending(loop)
        for one, seconds in ((far, 0.06), (near, 0.02), (between, 0.05), (kept, 0.06)):
            waiting.add(one, seconds)
        waiting.discard(far)
        waiting.discard(near)
        await asyncio.sleep(0.035)  # by now it has a timer of its own
        waiting.discard(between)
        while not expired:
            await asyncio.sleep(0.005)
        return [one is kept for one in expired]

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [True]
