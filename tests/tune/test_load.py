"""The load is what it says, and a stall does not hide the queue behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import Overloaded
from modelkeep.tune import load
from modelkeep.tune.load import Measured
from modelkeep.types import Reply, Request

ROWS: list[Any] = [{"x": np.full((1, 4), n, np.float32)} for n in range(3)]


class Counting:
    """Answers after some seconds; keeps the requests, and the most that were in flight at a time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.flying = self.most = 0
        self.seen: list[Request] = []
        self.times: list[float] = []

    async def infer(self, request: Request) -> Reply:
        self.seen.append(request)
        self.times.append(time.monotonic())
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(self.seconds)
        self.flying -= 1
        return Reply(request.id, request.model, 1, {})


class Refusing:
    def __init__(self) -> None:
        self.requests = 0

    async def infer(self, request: Request) -> Reply:
        self.requests += 1
        raise Overloaded(f"full at request {self.requests}")


def closed(plane: Any, concurrency: int, seconds: float) -> Measured:
    return asyncio.run(load.closed(plane, "m", ROWS, concurrency=concurrency, seconds=seconds))


def poisson(plane: Any, rate: float, seconds: float, seed: int = 0) -> Measured:
    return asyncio.run(load.poisson(plane, "m", ROWS, rate=rate, seconds=seconds, seed=seed))


class TestClosed:
    def test_so_many_are_kept_in_flight(self) -> None:
        plane = Counting(0.01)
        found = closed(plane, concurrency=4, seconds=0.15)
        assert plane.most == 4
        assert len(found.latencies) == len(plane.seen) >= 8
        assert min(found.latencies) >= 0.009
        assert found.seconds >= 0.15
        assert found.throughput == len(found.latencies) / found.seconds
        assert found.errors == 0

    def test_every_row_is_sent_and_no_request_twice(self) -> None:
        plane = Counting(0.001)
        closed(plane, concurrency=3, seconds=0.05)
        assert len({r.id for r in plane.seen}) == len(plane.seen)
        assert {float(r.inputs["x"][0, 0]) for r in plane.seen} == {0.0, 1.0, 2.0}

    def test_refusals_are_counted_with_the_first_reason(self) -> None:
        plane = Refusing()
        found = closed(plane, concurrency=2, seconds=0.02)
        assert (found.errors, found.latencies) == (plane.requests, [])
        assert found.trouble == "full at request 1"
        assert found.throughput == 0.0


class TestPoisson:
    def test_a_latency_counts_from_the_time_it_was_due(self, stalling: Callable[[float], Any]) -> None:
        plane = stalling(0.2)
        found = poisson(plane, rate=200, seconds=0.25, seed=1)
        # each request is answered at once when it is sent: only the time it was due shows that it came late
        late = [latency for latency in found.latencies if latency > 0.05]
        assert len(late) >= 15
        assert max(found.latencies) >= 0.19
        assert len(found.latencies) == plane.requests

    def test_the_rate_is_kept_whether_or_not_there_are_answers(self) -> None:
        plane = Counting(0.3)
        found = poisson(plane, rate=200, seconds=0.25, seed=3)
        assert plane.most == len(found.latencies)  # none was answered before the last was sent
        assert 25 <= len(found.latencies) <= 80  # 50 ± more than four standard deviations

    def test_the_seed_decides(self) -> None:
        counts = [len(poisson(Counting(), rate=400, seconds=0.05, seed=seed).latencies) for seed in (1, 1, 2, 3, 4)]
        assert counts[0] == counts[1]
        assert len(set(counts)) > 1

    def test_the_times_reach_to_the_end(self) -> None:
        sent = [len(poisson(Counting(), rate=100, seconds=0.02, seed=seed).latencies) for seed in range(40)]
        assert 1.5 <= np.mean(sent) <= 2.5  # two are due on average
        assert max(sent) > 3  # more than one and a half times as many

    def test_refusals_are_counted(self) -> None:
        found = poisson(Refusing(), rate=300, seconds=0.05)
        assert found.errors > 0
        assert found.trouble == "full at request 1"

    def test_how_late_they_were_sent_is_known(self, stalling: Callable[[float], Any]) -> None:
        found = poisson(stalling(0.1), rate=200, seconds=0.2, seed=1)
        assert len(found.late) == len(found.latencies)
        assert 0.05 <= max(found.late) <= 0.3

    def test_a_hopeless_load_ends_early_and_takes_back_what_waits(self) -> None:
        plane = Counting(30.0)

        async def run() -> Measured:
            enough = lambda found: len(plane.seen) >= 20  # noqa: E731
            return await load.poisson(plane, "m", ROWS, rate=200, seconds=60.0, hopeless=enough)  # type: ignore[arg-type]

        found = asyncio.run(run())
        assert found.seconds < 10
        assert (found.errors, found.latencies) == (20, [])
        assert found.trouble == "taken back: the queue had grown too long"


def test_each_reply_is_shown_with_its_number() -> None:
    told: list[tuple[int, str]] = []

    async def run() -> None:
        plane: Any = Counting(0.001)
        seen = lambda number, reply: told.append((number, reply.id))  # noqa: E731
        await load.closed(plane, "m", ROWS, concurrency=2, seconds=0.02, seen=seen)

    asyncio.run(run())
    assert len(told) >= 4
    assert all(reply == f"load-{number}" for number, reply in told)


class TestLeast:
    def test_it_goes_on_until_there_are_enough(self) -> None:
        found = asyncio.run(load.closed(Counting(0.005), "m", ROWS, concurrency=1, seconds=0.0, least=12, most=5.0))  # type: ignore[arg-type]
        assert len(found.latencies) == 12

    def test_but_no_longer_than_it_may(self) -> None:
        found = asyncio.run(load.closed(Counting(0.01), "m", ROWS, concurrency=1, seconds=0.01, least=10**6, most=0.1))  # type: ignore[arg-type]
        assert found.seconds < 2
        assert len(found.latencies) < 100


class TestMeasured:
    def test_percentiles(self) -> None:
        found = Measured([0.1, 0.2, 0.3], 1.0)
        assert found.percentile(0.5) == pytest.approx(0.2)
        assert found.percentile(1.0) == pytest.approx(0.3)
        assert Measured().percentile(0.5) == float("inf")
        assert Measured().throughput == 0.0

    def test_rounds_add_up(self) -> None:
        found = Measured([0.1], 1.0)
        found.extend(Measured([0.2], 2.0, errors=1, trouble="first"))
        found.extend(Measured([], 1.0, errors=2, trouble="second"))
        assert found == Measured([0.1, 0.2], 4.0, errors=3, trouble="first")
        assert found.throughput == 0.5
