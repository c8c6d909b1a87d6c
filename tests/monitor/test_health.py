"""Health: failures and slowness beyond chance, bursts forgiven, silence said."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkeep.data.traffic import Exchange
from modelkeep.monitor.health import Health


def feed(health: Health, lasts: float, rate: int, share: float, seed: int = 0, at: float = 0.0, **bad: Any) -> None:
    """Traffic of ``rate`` a second, a share of which is bad in this way."""
    rng = np.random.default_rng(seed)
    for i in range(int(lasts * rate)):
        plain: dict[str, Any] = {"outcome": "ok", "seconds": 0.01}
        fields = {**plain, **(bad if rng.random() < share else {})}
        health.add(Exchange(f"r{i}", at + i / rate, "digits", 1, "live", **fields))


def test_no_traffic_is_a_finding_of_its_own() -> None:
    (found,) = Health(None, 1e6).findings()
    assert (found.kind, found.subject) == ("no-data", "traffic")
    assert "is the version served, and does traffic reach it?" in found.why
    assert Health(None, 1e6).numbers() == {"n": 0}
    assert Health(None, 1e6).describe() == "no request was captured"


def test_healthy_traffic_has_none() -> None:
    health = Health(0.05, 1e6)
    feed(health, 300, 20, 0.005, outcome="error")
    assert health.findings() == []
    assert health.numbers()["n"] == 6000


def test_failures_are_found() -> None:
    for outcome in ("error", "late", "overloaded"):
        health = Health(None, 1e6)
        feed(health, 60, 50, 0.001)
        feed(health, 20, 50, 0.3, at=60.0, outcome=outcome)
        (found,) = health.findings()
        assert (found.kind, found.subject) == ("health", "errors")
        assert found.since is not None
        assert 55 <= found.since <= 66
        assert "of the requests failed, on average over" in found.why
        assert found.evidence["share"] > 0.1


def test_failures_are_found_where_the_clock_was_set_back() -> None:
    health = Health(None, 1e6)
    feed(health, 60, 50, 0.001, at=86400.0)
    feed(health, 20, 50, 0.3, outcome="error")
    assert [found.subject for found in health.findings()] == ["errors"]


def test_slowness_is_found_where_a_latency_was_promised() -> None:
    promised, free = Health(0.05, 1e6), Health(None, 1e6)
    for health in (promised, free):
        feed(health, 40, 20, 0.3, seconds=0.2)
    (found,) = promised.findings()
    assert found.subject == "latency"
    assert "of the answers took longer than 0.05 s" in found.why
    assert free.findings() == []


def test_exactly_what_may_be_is_no_finding() -> None:
    for seed in range(10):
        health = Health(None, 1e6)
        feed(health, 200, 20, 0.01, seed=seed, outcome="error")
        assert health.findings() == []


def test_one_burst_is_forgiven() -> None:
    """Thirty failures within half a second count once."""
    health = Health(None, 1e6)
    feed(health, 30, 60, 0.0)
    feed(health, 0.5, 60, 1.0, at=30.0, outcome="error")
    feed(health, 30, 60, 0.0, at=31.0)
    assert health.failed == 30
    assert health.findings() == []


def test_slow_traffic_is_judged_too() -> None:
    """Four requests a minute, half of them failing: found within five minutes."""
    health = Health(None, 1e6)
    rng = np.random.default_rng(1)
    for i in range(20):
        outcome = "error" if rng.random() < 0.5 else "ok"
        health.add(Exchange(f"r{i}", i * 15.0, "digits", 1, "live", outcome, 0.01))
    assert [f.subject for f in health.findings()] == ["errors"]


def test_numbers() -> None:
    health = Health(0.5, 1e6)
    feed(health, 10, 10, 0.0)
    health.add(Exchange("last", 11.0, "digits", 1, "live", "error", 0.4))
    numbers = health.numbers()
    assert (numbers["n"], numbers["failed"], numbers["promised_p99"]) == (101, 1, 0.5)
    assert health.describe() == "1 of 101 captured requests failed"
