"""Refusals take turns, so that who asks again at once leaves the processor to those who were let in."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from modelkeep.errors import ModelkeepError, Overloaded
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.refusals import BURST, MOST, RATE, SMALL, Refusals
from modelkeep.serve.plane.router import Router
from modelkeep.settings import Settings
from modelkeep.types import Reply
from tests.serve.plane.asked import ask, run, serve


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_told_at_once_and_a_flood_in_turn() -> None:
    refusals = Refusals(Clock())
    burst = [refusals.pause(100) for _ in range(int(RATE * BURST))]
    assert max(burst) == 0
    flood = [refusals.pause(100) for _ in range(100)]
    assert np.diff(flood) == pytest.approx(1 / RATE)
    assert flood[-1] == pytest.approx(99 / RATE)


def test_nobody_waits_for_longer_than_a_second_nor_past_a_deadline() -> None:
    refusals = Refusals(clock := Clock())
    assert max(refusals.pause(100) for _ in range(int(10 * RATE))) == pytest.approx(MOST)
    assert refusals.pause(100, clock.now + 0.25) == pytest.approx(0.25)
    assert refusals.pause(100, clock.now - 1) == 0
    clock.now += MOST + BURST  # and then it is as in the beginning
    assert refusals.pause(100) == 0


def test_a_large_question_is_refused_at_once() -> None:
    refusals = Refusals(Clock())
    for _ in range(int(10 * RATE)):
        refusals.pause(SMALL + 1)
    assert refusals.pause(SMALL + 1) == 0
    assert refusals.pause(SMALL) > 0  # though it counts


def test_a_flood_is_counted_at_once_and_told_in_turn(fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        plane = Plane(Settings(max_queue_requests=1))
        runner = fakes.Fake(gate=True)
        plane.swap(Router("m", serve(plane, 1, runner)))
        first = asyncio.create_task(plane.infer(ask()))
        await asyncio.sleep(0)
        monkeypatch.setattr(plane.refusals, "pause", lambda size, deadline: 0.2)
        told: list[Reply | ModelkeepError] = []
        began = time.monotonic()
        plane.ask(ask(), told.append)
        assert not told
        assert plane.metrics.value("modelkeep_rejections_total", reason="queue_full") == 1
        with pytest.raises(Overloaded):
            await plane.infer(ask())
        assert time.monotonic() - began >= 0.2
        assert [type(one) for one in told] == [Overloaded]
        runner.gate.set()
        await first
        await plane.close()

    run(main())


def test_who_leaves_before_the_refusal_hears_nothing_and_is_forgotten(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        plane = Plane(Settings(max_queue_requests=0))
        plane.swap(Router("m", serve(plane, 1, fakes.Fake())))
        monkeypatch.setattr(plane.refusals, "pause", lambda size, deadline: 0.1)
        request = ask()
        kept = weakref.ref(request.inputs["x"])
        task = asyncio.create_task(plane.infer(request))
        del request
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await asyncio.sleep(0.15)
        gc.collect()
        assert kept() is None
        assert plane.metrics.value("modelkeep_requests_in_flight") == 0
        await plane.close()

    run(main())
