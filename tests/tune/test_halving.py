"""The race: who is measured when, who is dropped, and who wins the final."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modelkeep.tune import halving
from modelkeep.tune.halving import Gain, Halving
from modelkeep.tune.load import Measured
from modelkeep.types import ServeConfig


class Clock:
    """Time that only measurements take."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[tuple[int, float]] = []

    def monotonic(self) -> float:
        return self.now


class Fast:
    """A bench that answers so many a second, each after ``latency``; ``then`` is what it does from the final on."""

    def __init__(self, clock: Clock, number: int, speed: float, latency: float = 0.01, then: Any = None) -> None:
        self.clock, self.number, self.speed, self.latency, self.then = clock, number, speed, latency, then
        self.measured = Measured()
        self.overrun = 1.0

    async def run(self, rows: Any, *, concurrency: int, seconds: float) -> Measured:
        self.clock.calls.append((self.number, seconds))
        self.clock.now += seconds * self.overrun
        found = Measured([self.latency] * round(self.speed * seconds), seconds)
        self.measured.extend(found)
        return found


def config(number: int) -> ServeConfig:
    return ServeConfig(threads=number)


def speeds(clock: Clock, *given: float | tuple[float, float]) -> list[Fast]:
    """Benches by requests a second, or by that and latency; the first is the naive setting."""
    pairs = [g if isinstance(g, tuple) else (g, 0.01) for g in given]
    return [Fast(clock, n, speed, latency) for n, (speed, latency) in enumerate(pairs)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(halving, "time", made)
    return made


def race(benches: Sequence[Fast], *, p99: float = 0.05, budget: float = 100.0, seed: int = 0) -> Halving:
    made: Any = {config(b.number): b for b in benches}
    return Halving(made, [], p99=p99, budget=budget, concurrency=4, seed=seed)


def order(one: Halving, tell: Callable[[int, int, ServeConfig], None] = lambda *said: None) -> list[int]:
    return [c.threads or 0 for c in asyncio.run(one.halve(tell))]


def final(one: Halving, numbers: Sequence[int]) -> tuple[int, Gain]:
    winner, gain = asyncio.run(one.final([config(n) for n in numbers]))
    return winner.threads or 0, gain


def test_the_fastest_is_first_and_the_field_is_halved(clock: Clock) -> None:
    one = race(speeds(clock, 100, 300, 200, 500, 400))
    assert order(one) == [3, 4, 1, 2, 0]
    measured = [number for number, _ in clock.calls]
    assert [measured.count(n) for n in range(5)] == [2, 4, 2, 6, 6]  # 5, 3 and 2 of them, in two turns each


def test_each_round_has_the_same_share_of_the_time(clock: Clock) -> None:
    order(race(speeds(clock, 100, 300, 200, 400), budget=100.0))
    assert sum(seconds for _, seconds in clock.calls) == pytest.approx(60.0)
    assert sum(seconds for _, seconds in clock.calls[:8]) == pytest.approx(30.0)


def test_they_take_turns_in_changing_orders_and_the_naive_one_begins(clock: Clock) -> None:
    order(race(speeds(clock, *[100 + n for n in range(8)])))
    first, second = ([number for number, _ in clock.calls[at : at + 8]] for at in (0, 8))
    assert first[0] == 0
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_the_seed_decides_the_orders(clock: Clock) -> None:
    calls = []
    for seed in (1, 1, 2):
        clock.calls.clear()
        order(race(speeds(clock, *[100 + n for n in range(8)]), seed=seed))
        calls.append([number for number, _ in clock.calls])
    assert calls[0] == calls[1] != calls[2]


def test_one_setting_is_measured_too(clock: Clock) -> None:
    assert order(race(speeds(clock, 100))) == [0]
    assert len(clock.calls) == halving.TURNS


def test_the_promise_comes_before_the_throughput(clock: Clock) -> None:
    one = race(speeds(clock, 100, (900, 0.06), 200, (800, 0.07)))
    assert order(one) == [2, 0, 1, 3]
    assert [one.keeps(config(n)) for n in range(4)] == [True, False, True, False]


def test_an_error_breaks_the_promise(clock: Clock) -> None:
    benches = speeds(clock, 100, 900)
    benches[1].measured.errors = 1
    assert order(race(benches)) == [0, 1]


def test_where_none_keeps_it_the_nearest_is_first(clock: Clock) -> None:
    assert order(race(speeds(clock, (100, 0.08), (900, 0.09), (50, 0.06)), p99=0.05)) == [2, 0, 1]


def test_progress_is_told_up_to_the_total(clock: Clock) -> None:
    told: list[tuple[int, int, int | None]] = []
    order(race(speeds(clock, 100, 300, 200)), lambda done, total, c: told.append((done, total, c.threads)))
    assert [done for done, _, _ in told] == list(range(1, 11))
    assert {total for _, total, _ in told} == {10}
    assert [number for number, _ in clock.calls] == [number for _, _, number in told]


def test_measurements_are_never_shorter_than_the_shortest(clock: Clock) -> None:
    one = race(speeds(clock, 100, 300, 200), budget=0.001)
    final(one, order(one))
    assert {seconds for _, seconds in clock.calls} == {halving.SHORTEST}


def test_requests_that_outlast_their_time_end_the_search(clock: Clock) -> None:
    benches = speeds(clock, *[100 + n for n in range(8)])
    for bench in benches:
        bench.overrun = 200.0
    one = race(benches)
    found = order(one)
    assert len(clock.calls) == 1
    assert found[0] == 0  # the naive setting, which began
    assert sorted(found) == list(range(8))
    assert final(one, found) == (0, Gain())
    assert len(clock.calls) <= 3


def test_the_final_is_paired_and_changes_who_begins(clock: Clock) -> None:
    one = race(speeds(clock, 100, 300))
    ranked = order(one)
    clock.calls.clear()
    winner, gain = final(one, ranked)
    assert winner == 1
    assert (gain.low, gain.ratio, gain.high) == pytest.approx((3.0, 3.0, 3.0), rel=0.02)
    pairs = [number for number, _ in clock.calls]
    assert len(pairs) == 2 * halving.PAIRS
    assert all({pairs[i], pairs[i + 1]} == {0, 1} for i in range(0, len(pairs), 2))
    assert pairs[:4] == [0, 1, 1, 0]
    assert sum(seconds for _, seconds in clock.calls) == pytest.approx(40.0)


def test_the_interval_is_that_of_the_sign_test(clock: Clock) -> None:
    benches = speeds(clock, 100, 300)
    one = race(benches)
    ranked = order(one)
    rates = iter([110, 900, 150, 140, 160, 170, 120, 180, 130])
    real = benches[1].run

    async def changing(rows: Any, **options: Any) -> Measured:
        benches[1].speed = next(rates)
        return await real(rows, **options)

    benches[1].run = changing  # type: ignore[method-assign]
    _, gain = final(one, ranked)
    assert (gain.low, gain.ratio, gain.high) == pytest.approx((1.2, 1.5, 1.8), rel=0.02)


def test_luck_in_the_rounds_does_not_win_the_final(clock: Clock) -> None:
    benches = speeds(clock, 100, 300)
    one = race(benches)
    ranked = order(one)
    assert ranked == [1, 0]
    benches[1].speed = 90
    assert final(one, ranked) == (0, Gain())


def test_one_that_breaks_the_promise_in_the_final_makes_room_for_the_next(clock: Clock) -> None:
    benches = speeds(clock, 100, 500, 400, 300)
    one = race(benches)
    ranked = order(one)
    assert ranked[:2] == [1, 2]
    benches[1].latency = 0.2
    winner, gain = final(one, ranked)
    assert winner == 2
    assert gain.ratio == pytest.approx(4.0, rel=0.02)
    assert one.keeps(config(2))


def test_the_naive_one_wins_where_all_others_break_the_promise(clock: Clock) -> None:
    benches = speeds(clock, 100, 500, 400, 300, 200)
    one = race(benches)
    ranked = order(one)
    for bench in benches[1:]:
        bench.latency = 0.2
    assert final(one, ranked) == (0, Gain())


def test_where_none_keeps_it_the_nearest_wins_with_its_gain(clock: Clock) -> None:
    one = race(speeds(clock, (100, 0.08), (150, 0.06), (900, 0.09)))
    winner, gain = final(one, order(one))
    assert (winner, one.keeps(config(1))) == (1, False)
    assert gain.ratio == pytest.approx(1.5, rel=0.02)
