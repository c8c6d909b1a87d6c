"""What switched.py turns off keeps nothing, and what it turns on again keeps what it kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import pytest
import switched

from modelkeep.monitor.thread import Watcher
from modelkeep.serve.plane.plane import Plane
from modelkeep.settings import Settings


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[switched.Switch]:
    monkeypatch.setattr(Plane, "__init__", Plane.__init__)
    monkeypatch.setattr(Watcher, "turn", Watcher.turn)
    before = signal.getsignal(signal.SIGUSR1)
    yield switched.Switch()
    signal.signal(signal.SIGUSR1, before)


class Keeps:
    """Stands for the capture, of which the sampler asks the rate only."""

    rate = 1e9


def kept(plane: Plane, n: int = 50) -> int:
    sampler, found = plane.samplers["live"]["m"], 0
    for _ in range(n):
        sampler.left -= 1
        found += bool(sampler.choose(1.0) if not sampler.left else 0)
    return found


def test_a_signal_turns_it(switch: switched.Switch) -> None:
    looks: list[str] = []
    plane = Plane(Settings(), traffic=cast(Any, Keeps()))
    watcher: Any = type(
        "Looks", (), {"_do": lambda self, part: looks.append(part) or "", "_beat": "b", "_judge": "j"}
    )()
    watcher.looks, watcher._said = 0, ""
    for on in (True, False, True):
        assert (switch.on, kept(plane)) == (on, 50 if on else 0)
        looks.clear()
        Watcher.turn(watcher)
        assert bool(looks) == on
        os.kill(os.getpid(), signal.SIGUSR1)
