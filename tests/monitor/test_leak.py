"""A leak: found where memory grows on and on, and not where it steps, breathes or is given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.monitor.leak import BLOCK, WARM_UP, Leak

MB = 1e6


def watch(sizes: Any, *, every: float = 30.0, process: int = 1, leak: Leak | None = None, begin: float = 0.0) -> Leak:
    """A sample each ``every`` seconds."""
    leak = leak or Leak()
    for at, size in enumerate(sizes):
        leak.add(begin + at * every, process, float(size))
    return leak


def breathing(rng: Any, hours: float, noise: float = 2 * MB) -> Any:
    """300 MB, up and down for a while and back again, as allocators do."""
    n = int(hours * 120)
    found = np.empty(n)
    level = 0.0
    for at in range(n):
        level = 0.9 * level + rng.normal(0, noise)
        found[at] = 300 * MB + level
    return found


def test_a_leak_is_found_within_two_hours_with_its_slope() -> None:
    rng = np.random.default_rng(0)
    for slope in (60 * MB, 400 * MB):
        hours = np.arange(240) / 120
        found = watch(breathing(rng, 2, 0.2 * MB) + slope * hours).finding()
        assert found is not None
        assert (found.kind, found.subject) == ("health", "memory")
        assert found.evidence["low"] < slope < found.evidence["high"]
        assert abs(found.evidence["slope"] - slope) < 0.3 * slope
        assert "something is never given back" in found.why


def test_memory_that_breathes_for_two_days_is_none() -> None:
    for seed in range(3):
        leak = watch(breathing(np.random.default_rng(seed), 24), every=60.0)
        assert leak.finding() is None
        assert leak.numbers()["low"] < 0 < leak.numbers()["high"]


def test_what_is_given_back_every_half_hour_is_none() -> None:
    sizes = 1000 * MB + np.arange(12 * 120) % 60 * 7 * MB
    for hours in range(2, 13):
        leak = watch(sizes[: hours * 120])
        assert leak.finding() is None


def test_a_leak_of_workers_that_begin_anew_is_found() -> None:
    once = 1000 * MB + np.arange(3 * 120) * 2 * MB
    assert watch([*once, *once]).finding() is not None


def test_steps_are_none() -> None:
    """A version is loaded each hour: eight steps of 100 MB, which any line through them calls a slope."""
    rng = np.random.default_rng(6)
    steps = np.repeat(np.arange(8) * 100 * MB, 120)
    leak = watch(breathing(rng, 8, 0.5 * MB) + steps)
    assert leak.finding() is None
    assert abs(leak.numbers()["slope"]) < 20 * MB


def test_warming_up_is_none() -> None:
    rng = np.random.default_rng(7)
    hours = np.arange(600) / 120
    assert watch(breathing(rng, 5, 0.5 * MB) + 200 * MB * (1 - np.exp(-hours * 6))).finding() is None


def test_caches_that_fill_smoothly_for_hours_are_none() -> None:
    """Each block lies above the one before, all the way."""
    hours = np.arange(960) / 120
    leak = Leak()
    for at, size in enumerate(300 * MB + 200 * MB * (1 - np.exp(-hours * 3))):
        leak.add(at * 30.0, 1, float(size))
        assert leak.finding() is None
        assert "growing" not in leak.describe() or at * 30 > WARM_UP, "no slope is told minutes after the start"
    assert leak.numbers()["slope"] > 0


def test_growth_that_is_little_is_told_but_is_no_finding() -> None:
    leak = watch(300 * MB + 3 * MB * np.arange(480) / 120)
    assert leak.finding() is None
    assert leak.describe().startswith("memory 312.0 MB, growing by 3.0 MB an hour")


def test_two_servers_at_once_are_told_apart() -> None:
    """Their samples come by turns, and one of them leaks."""
    leak = Leak()
    for at in range(360):
        leak.add(at * 30.0, 1, 300 * MB + at * MB / 2)
        leak.add(at * 30.0 + 1, 2, 700 * MB)
    found = leak.finding()
    assert found is not None
    assert found.evidence["bytes"] == 479.5 * MB
    assert leak.numbers()["slope"] == pytest.approx(60 * MB)


def test_a_restart_is_no_fall_and_begins_anew() -> None:
    leak = watch(np.linspace(300, 480, 240) * MB)
    assert leak.finding() is not None
    watch(np.full(20, 100 * MB), process=2, leak=leak, begin=240 * 30)
    assert leak.finding() is None
    assert leak.describe() == "memory 100.0 MB"


def test_a_gap_is_no_block() -> None:
    leak = watch(np.full(160, 300 * MB))
    watch(np.full(160, 400 * MB), leak=leak, begin=160 * 30 + 10 * BLOCK)
    assert leak.describe() == "memory 400.0 MB, growing by 0.0 MB an hour (0.0 MB to 0.0 MB)"


def test_a_clock_that_is_set_back_begins_anew() -> None:
    leak = watch(np.full(160, 300 * MB), begin=86400.0)
    leak = watch(np.linspace(300, 480, 240) * MB, leak=leak)
    assert leak.finding() is not None


def test_a_few_samples_say_little() -> None:
    assert Leak().describe() == "memory: not known, for no server has told of it"
    leak = watch([300 * MB, 301 * MB])
    assert leak.describe() == "memory 301.0 MB"
    assert leak.numbers() == {"n": 2, "bytes": 301 * MB, "slope": None, "low": None, "high": None}
