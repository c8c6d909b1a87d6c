from __future__ import annotations

from random import Random

import pytest

from modelkeep.data.allowance import SAVED, Allowance


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def seconds(allowance: Allowance, clock: Clock, n: int, each: list[int]) -> list[list[bool]]:
    """``n`` seconds, in each of which requests of so many bytes come; which of them were kept."""
    lots, found = Random(0), []
    for _ in range(n):
        found.append([allowance.takes(size, lots.random()) for size in each])
        clock.now += 1.0
        allowance.turn()
    return found


class TestAllowance:
    def test_what_is_within_the_rate_is_kept(self, clock: Clock) -> None:
        kept = seconds(Allowance(1000.0, clock), clock, 200, [100] * 10)
        assert all(all(each) for each in kept)

    def test_a_rush_is_kept_until_what_is_saved_is_spent(self, clock: Clock) -> None:
        (first,) = seconds(allowance := Allowance(1000.0, clock), clock, 1, [1000] * 100)
        assert sum(first) == int(SAVED)
        assert first[: int(SAVED)] == [True] * int(SAVED)
        assert allowance.chance < 0.1

    def test_of_more_it_keeps_the_rate_on_average(self, clock: Clock) -> None:
        allowance = Allowance(1000.0, clock)
        seconds(allowance, clock, 100, [100] * 100)
        kept = sum(map(sum, seconds(allowance, clock, 1000, [100] * 100)))
        assert kept * 100 == pytest.approx(1000 * 1000, rel=0.05)

    def test_large_and_small_have_the_same_chance(self, clock: Clock) -> None:
        allowance = Allowance(1000.0, clock)
        seconds(allowance, clock, 100, [10, 190] * 50)
        kept = seconds(allowance, clock, 2000, [10, 190] * 50)
        small, large = (sum(sum(each[at::2]) for each in kept) for at in (0, 1))
        assert large == pytest.approx(small, rel=0.05)

    def test_after_a_rush_all_is_kept_again(self, clock: Clock) -> None:
        allowance = Allowance(1000.0, clock)
        seconds(allowance, clock, 60, [1000] * 50)
        later = seconds(allowance, clock, 120, [100])
        assert all(all(each) for each in later[60:])

    def test_without_a_rate_there_is_no_bound(self, clock: Clock) -> None:
        assert all(map(all, seconds(Allowance(0.0, clock), clock, 3, [10**9] * 9)))

    def test_what_has_no_room_came_but_is_not_kept(self, clock: Clock) -> None:
        allowance = Allowance(1000.0, clock)
        assert not any(allowance.takes(1000, 0.0, room=False) for _ in range(100))
        clock.now += 1.0
        allowance.turn()
        assert allowance.chance < 0.1
        assert all(allowance.takes(1000, 0.0) for _ in range(int(SAVED)))
        assert not Allowance(0.0, clock).takes(1, 0.0, room=False)
