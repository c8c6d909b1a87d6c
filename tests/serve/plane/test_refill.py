"""Patience after a run: for those who come back together, for no longer than it can save, and not where it was vain."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from modelkeep.serve.plane.batcher import Batcher
from modelkeep.serve.plane.refill import LEAST_COST, PROBE, Refill
from modelkeep.types import ServeConfig


def test_a_cheap_run_is_never_waited_for() -> None:
    refill = Refill()
    refill.answered(10.0, 8, LEAST_COST / 2)
    assert refill.due(10.0, 1) == 10.0


def test_it_ends_when_all_are_back() -> None:
    refill = Refill()
    refill.answered(10.0, 3, 0.008)
    for back in (1, 2):
        refill.came(10.0 + back / 10_000)
        assert refill.due(10.0 + back / 10_000, back) > 10.0002
    refill.came(10.0003)
    assert refill.due(10.0003, 3) == 10.0003


def test_it_ends_after_a_pause_and_at_the_cost_of_a_run_at_the_latest() -> None:
    refill = Refill()
    refill.answered(10.0, 100, 0.008)
    assert refill.due(10.0, 1) == 10.001, "an eighth of the cost"
    for step in range(1, 11):
        refill.came(10.0 + 0.0009 * step)
        assert refill.due(10.0 + 0.0009 * step, step) <= 10.008 or step > 8
    assert refill.due(10.0091, 11) <= 10.0091


def test_while_the_loop_is_busy_nobody_can_come() -> None:
    """A timer that is late has waited for answers to be sent; whom they reach has had no pause yet."""
    refill = Refill()
    refill.answered(10.0, 100, 0.008)
    assert refill.due(10.0, 1) == 10.001
    assert refill.due(10.003, 1) == 10.004
    assert refill.due(10.004, 1) == 10.004, "and not for ever"


def test_a_lone_client_is_not_made_to_wait() -> None:
    refill = Refill()
    refill.answered(10.0, 1, 0.008)
    assert refill.due(10.0, 1) == 10.0


def test_where_nobody_comes_back_it_is_tried_seldom() -> None:
    """As with requests that come at random, and not from clients that wait for their answers."""
    refill, held = Refill(), 0
    for number in range(20 * PROBE):
        now = float(number)
        refill.answered(now, 2, 0.008)
        held += refill.due(now, 1) > now
    assert 20 <= held <= 30


def test_clients_in_a_closed_loop_share_their_runs(fakes: SimpleNamespace, row: Any) -> None:
    """Each asks again a moment after its answer, one after the other; without patience, the first would run alone."""

    class Dear(fakes.Fake):  # type: ignore[misc, name-defined]
        def run(self, inputs: Any) -> Any:
            time.sleep(0.05)  # whatever its rows
            return super().run(inputs)

    async def client(batcher: Batcher, number: int) -> None:
        for _ in range(6):
            await batcher.submit({"x": row(number)}, {}, None).answer
            await asyncio.sleep(0.0003 * number)

    async def main() -> list[int]:
        runner = Dear()
        batcher = Batcher(runner, ServeConfig(), name="m@1")
        await asyncio.gather(*(client(batcher, n) for n in range(6)))
        await batcher.close()
        return [len(x) for x in runner.runs]

    runs = asyncio.run(main())
    assert sum(runs) == 36
    assert len(runs) <= 9, runs


def test_who_is_turned_away_is_not_waited_for() -> None:
    refill = Refill()
    refill.answered(10.0, 8, 0.008)
    assert refill.due(10.0, 2) > 10.0
    assert refill.refused()
    assert refill.due(10.0001, 2) == 10.0001
    assert not refill.refused(), "nobody was waited for any more"
    refill.answered(10.1, 8, 0.008)
    assert refill.due(10.1, 2) > 10.1, "after the next run they are"


def test_a_run_that_waits_for_company_begins_where_company_is_turned_away(fakes: SimpleNamespace, row: Any) -> None:
    class Dear(fakes.Fake):  # type: ignore[misc, name-defined]
        def run(self, inputs: Any) -> Any:
            time.sleep(0.05)
            return super().run(inputs)

    async def main() -> bool:
        batcher = Batcher(Dear(), ServeConfig(), name="m@1")
        for _ in range(3):
            await asyncio.gather(*(batcher.submit({"x": row(n)}, {}, None).answer for n in range(4)))
        last = batcher.submit({"x": row(9)}, {}, None)
        await asyncio.sleep(0)
        held = batcher.longest() == 0.0
        batcher.refused()
        await asyncio.sleep(0)
        begun = batcher.longest() > 0.0
        await last.answer
        await batcher.close()
        return held and begun

    assert asyncio.run(main())
