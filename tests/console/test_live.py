"""Looks shared by all who watch, bounded, and ended with the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from modelkeep.console import live as lives
from modelkeep.console.live import Live
from modelkeep.console.readings import Point, Reading
from modelkeep.errors import NotReady, Overloaded, Unauthenticated


class Source:
    """One request more with each reading; ``broken`` readings fail."""

    name = "a test"

    def __init__(self) -> None:
        self.reads = 0
        self.broken = False

    def read(self) -> Reading:
        self.reads += 1
        if self.broken:
            raise NotReady("the service is gone")
        found = Reading(float(self.reads))
        found.requests[("digits", "1", "live", "ok")] = self.reads
        found.classes[("digits", "seven")] = 2 * self.reads
        return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "EVERY", 0.005)
    monkeypatch.setattr(lives, "IDLE_EVERY", 0.01)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def make(source: Source) -> Callable[..., Live]:
    def made(
        draw: Callable[..., Any] = lambda topic, live: {"part-x": topic}, names: tuple[str, ...] = ("digits",)
    ) -> Live:
        first = Point(0.0, 1.0, {"live": 9.0}, 0.0, {}, {}, {})
        return Live(source, lambda: list(names), draw, lambda name: [first])

    return made


def event(raw: bytes) -> tuple[str, Any]:
    kind, data, _ = raw.decode().split("\n", 2)
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def upto(events: AsyncIterator[bytes], n: int) -> list[tuple[str, Any]]:
    found = []
    async for raw in events:
        found.append(event(raw))
        if len(found) == n:
            break
    return found


def test_history_then_looks(make: Callable[..., Live], source: Source) -> None:
    async def main() -> None:
        live = make()
        events = live.watch("model:digits", lambda: None)
        found = await asyncio.wait_for(upto(events, 5), 10)
        assert [kind for kind, _ in found] == ["history", *["look"] * 4]
        assert found[-1][1]["html"] == {"part-x": "model:digits"}
        assert found[-1][1]["point"][1] == 1.0, "one request a second of the source's clock"
        assert live.points("digits")[0].rates == {"live": 9.0}, "the points from before come first"
        live.stop()

    asyncio.run(main())


def test_one_look_serves_all_who_watch(make: Callable[..., Live], source: Source) -> None:
    async def main() -> None:
        drawn: list[str] = []
        live = make(draw=lambda topic, live: drawn.append(topic) or {})
        watching = [live.watch("model:digits", lambda: None) for _ in range(5)]
        await asyncio.wait_for(asyncio.gather(*(upto(one, 3) for one in watching)), 10)
        assert len(drawn) <= source.reads, "drawn once a look, for five who watch"
        live.stop()

    asyncio.run(main())


def test_watchers_are_bounded_and_leave_room_again(make: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "MOST_WATCHERS", 2)

    async def main() -> None:
        live = make()
        watching = [live.watch("overview:", lambda: None) for _ in range(2)]
        for one in watching:
            await anext(one)
        with pytest.raises(Overloaded, match="2 pages are watched already"):
            live.watch("overview:", lambda: None)
        await watching[0].aclose()
        await anext(live.watch("overview:", lambda: None))
        live.stop()

    asyncio.run(main())


def test_who_may_look_no_longer_is_told_and_sent_away(make: Callable[..., Live]) -> None:
    async def main() -> None:
        def still() -> None:
            raise Unauthenticated("the key was revoked")

        live = make()
        found = [event(raw) async for raw in live.watch("overview:", still)]
        assert found[-1] == ("end", {"why": "the key was revoked"})
        live.stop()

    asyncio.run(main())


def test_stop_ends_every_stream(make: Callable[..., Live]) -> None:
    async def main() -> None:
        live = make()
        events = live.watch("overview:", lambda: None)
        await upto(events, 2)
        live.stop()
        assert [raw async for raw in live.watch("overview:", lambda: None)] != []
        await asyncio.wait_for(asyncio.gather(*(_drain(events) for _ in range(1))), 5)

    async def _drain(events: AsyncIterator[bytes]) -> None:
        async for _ in events:
            pass

    asyncio.run(main())


def test_a_service_that_is_gone_is_said_and_comes_back(make: Callable[..., Live], source: Source) -> None:
    async def main() -> None:
        live = make()
        events = live.watch("model:digits", lambda: None)
        await upto(events, 3)
        source.broken = True
        while not live.problem:
            await asyncio.sleep(0.005)
        assert live.problem == "the service is gone"
        source.broken = False
        while live.problem:
            await asyncio.sleep(0.005)
        live.stop()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_page_that_cannot_be_drawn_ends_no_look(make: Callable[..., Live], source: Source) -> None:
    async def main() -> None:
        def broken(topic: str, live: Live) -> dict[str, str]:
            raise ZeroDivisionError

        live = make(draw=broken)
        events = live.watch("model:digits", lambda: None)
        await anext(events)
        seen = source.reads
        while source.reads < seen + 3:
            await asyncio.sleep(0.005)
        live.stop()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_points_are_bounded_and_go_with_their_model(
    make: Callable[..., Live], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lives, "KEPT", 5)
    live = make()
    for _ in range(20):
        live._look(frozenset())
    assert len(live.points("digits")) == 5
    assert live.newest("digits") is not None
    monkeypatch.setattr(lives.time, "time", lambda: float(source.reads))
    assert live.classes("digits", seconds=1.0) == [("seven", 4)]
    live._take([], source.read())
    assert live.newest("digits") is None
