"""Who is given what was asked: shares where more is asked than is wanted, and each track by itself."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.data.sampler import Sampler
from modelkeep.serve.plane.loaded import Loaded
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import Router
from modelkeep.settings import Settings
from modelkeep.types import Request
from tests.serve.plane.asked import Log, ask, run, serve


class Gatherer:
    """A Collector that keeps the ids of what it was offered."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.ids: list[tuple[str, str]] = []

    def offer(self, target: Loaded, track: str, request: Request, outputs: Any) -> None:
        self.ids.append((track, request.id))


async def crowd(plane: Plane, n: int, seed: int = 0) -> None:
    for at in range(n):
        await plane.infer(ask(1.0, id=f"{seed}-{at}"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that the plane reads, where it stands still, on a thread that has nothing to do."""
    told = SimpleNamespace(now=1000.0)
    for module in ("plane", "asking"):
        there = SimpleNamespace(monotonic=lambda: told.now, time=time.time)
        monkeypatch.setattr(f"modelkeep.serve.plane.{module}.time", there)
    assert Sampler.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(Sampler.__init__.__kwdefaults__, "ran", lambda: 0.0)
    return told


def live_of(gatherer: Gatherer) -> list[str]:
    return [i for track, i in gatherer.ids if track == "live"]


def test_beyond_their_rates_readers_get_shares_live_and_shadow_the_same(
    fakes: SimpleNamespace, clock: SimpleNamespace
) -> None:
    async def main() -> None:
        log, gatherer = Log(), Gatherer(20.0)
        log.rate = 10.0
        plane = Plane(Settings(), traffic=log)
        plane.collector = gatherer
        plane.swap(Router("m", serve(plane, 1, fakes.Fake()), shadow=serve(plane, 2, fakes.Fake())))
        await crowd(plane, 200)
        clock.now += 1.0
        log.offered.clear()
        gatherer.ids.clear()
        passed = plane.passed
        await crowd(plane, 200, seed=1)
        await plane.close()
        for found in (gatherer.ids, [(e.track, e.id) for e in log.offered]):
            live, shadow = ({i for track, i in found if track == wanted} for wanted in ("live", "shadow"))
            assert live <= shadow
            assert 0 < len(live) <= len(shadow) < 60
        assert {e.id for e in log.offered} <= {i for _, i in gatherer.ids}
        assert plane.passed - passed == 200 - len(live_of(gatherer))

    run(main())


def test_a_canary_has_a_rate_of_its_own(fakes: SimpleNamespace, clock: SimpleNamespace) -> None:
    async def main() -> None:
        log = Log()
        log.rate = 5.0
        plane = Plane(Settings(), traffic=log)
        plane.swap(Router("m", serve(plane, 1, fakes.Fake()), serve(plane, 2, fakes.Fake()), weight=0.05))
        await crowd(plane, 1000)
        assert log.of("track").count("live") == 25, "a first rush"
        assert log.of("track").count("canary") > 20
        log.rate = 0.0
        log.offered.clear()
        plane.adjust(Settings())
        await crowd(plane, 100)
        assert log.offered == [], "a rate that was changed"
        await plane.close()

    run(main())
