"""What is refused at once: over the bounds, too late, or more than was promised."""

from __future__ import annotations

import pytest

from modelkeep.errors import BadInput, Overloaded, TooLate
from modelkeep.serve.plane.limits import Limits


@pytest.fixture
def refused() -> list[str]:
    return []


@pytest.fixture
def limits(refused: list[str]) -> Limits:
    return Limits(2, 100, refused.append)


def enter(limits: Limits, size: int = 1, *, deadline: float | None = None, wait: float = 0.0) -> None:
    limits.enter(size, now=10.0, deadline=deadline, wait=wait)


def test_requests_are_bounded_and_leaving_makes_room(limits: Limits, refused: list[str]) -> None:
    enter(limits)
    enter(limits)
    with pytest.raises(Overloaded, match=r"2 requests are in the server already.*max_queue_requests") as caught:
        enter(limits, wait=3.5)
    assert caught.value.retry_after == 3.5
    assert refused == ["queue_full"]
    limits.leave(1)
    enter(limits)
    assert (limits.requests, limits.bytes) == (2, 2)


def test_bytes_are_bounded(limits: Limits, refused: list[str]) -> None:
    enter(limits, 60)
    with pytest.raises(Overloaded, match=r"60 bytes of requests .* of 100 at most"):
        enter(limits, 41)
    enter(limits, 40)
    assert refused == ["queue_bytes"]
    assert limits.requests == 2


def test_what_can_never_fit_is_no_overload(limits: Limits, refused: list[str]) -> None:
    with pytest.raises(BadInput, match=r"holds 101 bytes and the server takes 100 in all"):
        enter(limits, 101)
    assert refused == []
    assert limits.requests == limits.bytes == 0


def test_a_deadline_that_passed_is_too_late(limits: Limits, refused: list[str]) -> None:
    with pytest.raises(TooLate, match="the deadline had passed before the request could be queued"):
        enter(limits, deadline=10.0)
    assert refused == ["deadline_passed"]
    assert limits.requests == 0


def test_a_hopeless_deadline_is_refused_with_the_wait(limits: Limits, refused: list[str]) -> None:
    with pytest.raises(Overloaded, match=r"the queue takes 5 s .* the request allows 4 s") as caught:
        enter(limits, deadline=14.0, wait=5.0)
    assert caught.value.retry_after == 5.0
    assert refused == ["deadline_hopeless"]
    assert limits.requests == limits.bytes == 0
    enter(limits, deadline=15.1, wait=5.0)


def test_spare_room_is_half() -> None:
    limits = Limits(4, 100, lambda reason: None)
    assert limits.spare(50)
    assert not limits.spare(51)
    enter(limits)
    assert limits.spare(1)
    enter(limits)
    assert not limits.spare(1)


def test_a_promise_is_kept_by_refusing_what_would_break_it() -> None:
    said: list[str] = []
    limits = Limits(10, 1000, said.append)
    limits.promised(0.1, expected=0.069, wait=0.05)
    with pytest.raises(Overloaded, match=r"would take 0\.08 s at the present pace, and 0\.1 s are promised") as error:
        limits.promised(0.1, expected=0.08, wait=0.05)
    assert error.value.retry_after == 0.05
    assert said == ["promise"]
    assert limits.requests == 0
