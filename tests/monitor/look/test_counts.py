"""``serve --capture 0``: what a server counts is enough for drift and health."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelkeep.data import pulses
from modelkeep.metrics import SECONDS
from modelkeep.monitor.look import check
from modelkeep.types import Model, Version
from tests.monitor.look.found import Profile, Send, kinds


def test_drift_is_judged_by_counts(
    version: Version, model: Model, home: Path, profile: Profile, held_out: Any, changed: Any
) -> None:
    profile(held_out(1000)[0])
    quiet = check(version, model, home)
    assert quiet.findings == ()
    assert quiet.about == "digits@1, 1,000 requests looked at"
    assert any("1,000 requests looked at (tolerance" in line for line in quiet.lines)
    profile(changed(held_out(500)[0]))
    assert [k for k in kinds(check(version, model, home)) if k[0] == "drift"] == [
        ("drift", "inputs"),
        ("drift", "answers"),
    ]


def test_health_is_judged_by_counts(version: Version, model: Model, home: Path) -> None:
    for at in range(60):
        failed = 50 if at >= 40 else 0
        slower = tuple(80 if bound < 0.1 else 0 for bound in SECONDS)
        pulses.write(home / "pulses.db", 1e6 + 5 * at, {("digits", 1): pulses.Counts(100, failed, slower)})
    checked = check(version, model, home, p99=0.05, slo=0.999)
    assert kinds(checked) == [("health", "errors"), ("health", "latency")]
    assert checked.n == 6000
    assert checked.findings[0].evidence["worth"] == "page"
    assert "the error budget is spent 166.7 times over; burn rates 5m 167, 30m 167" in checked.findings[0].why
    assert kinds(check(version, model, home, p99=0.2)) == [("health", "errors")]


def test_counts_come_before_captured_requests(
    version: Version, model: Model, home: Path, send: Send, profile: Profile, held_out: Any, changed: Any
) -> None:
    send(changed(held_out(400)[0]))
    profile(held_out(400)[0])
    assert [k for k in kinds(check(version, model, home)) if k[0] == "drift"] == []
