"""A look beside a busy service reads so much at a time, and the rest later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.data import labels
from modelkeep.monitor import profiled, truth
from modelkeep.monitor.look import check
from modelkeep.types import Model, Version
from tests.monitor.look.found import Profile, Send, kinds


def test_a_look_beside_a_busy_service_reads_the_newest_only(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    send(held_out(300)[0])
    assert check(version, model, home, most=100).n == 100
    send(held_out(40)[0])
    assert check(version, model, home, most=100).n == 140


def test_no_count_is_left_out_it_is_read_later(
    version: Version, model: Model, home: Path, profile: Profile, held_out: Callable[[int], Any]
) -> None:
    """320 requests are 20 chunks of inputs and as many of answers."""
    profile(held_out(320)[0])
    seen = [check(version, model, home, most=16).n for _ in range(4)]
    assert seen == [128, 256, 320, 320]
    assert check(version, model, home).numbers["inputs"]["n"] == 320


def test_what_is_found_is_not_lost_while_a_new_run_catches_up(
    version: Version,
    model: Model,
    home: Path,
    profile: Profile,
    held_out: Any,
    changed: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiled, "RUN", 60)
    found = []
    for _ in range(16):
        profile(changed(held_out(64)[0]))
        looked = kinds(check(version, model, home, most=20))
        found.append(("drift", "inputs") in looked)
    first = found.index(True)
    assert first < 8
    assert all(found[first:])


def test_no_label_is_left_out_it_is_read_later(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    pixels, truth = held_out(100)
    labels.record(path, "digits", dict(zip(send(pixels), truth.tolist(), strict=True)))
    seen = [check(version, model, home, most=40).numbers["quality"]["n"] for _ in range(4)]
    assert seen == [40, 80, 100, 100]


def test_how_late_labels_come_is_asked_the_more_seldom_the_more_it_costs(
    version: Version, model: Model, home: Path, send: Send, held_out: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which asking takes 0.3 s of CPU: 300 s are 0.1 % of a core. By hand it is asked each time."""
    now, asked = [0.0], []

    def lag(*_: Any, **__: Any) -> labels.Lag:
        asked.append(now[0])
        now[0] += 0.3
        return labels.Lag()

    clock = SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: now[0])
    monkeypatch.setattr(truth, "time", clock)
    monkeypatch.setattr(truth.labels, "lag", lag)
    send(held_out(20)[0])
    for now[0] in (0.0, 100.0, 299.0, 301.0, 400.0):
        check(version, model, home, most=500)
    assert asked == [0.0, 301.0]
    check(version, model, home)
    assert len(asked) == 3


def test_silence_is_a_finding_where_it_was_ruled_out(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    send(held_out(20)[0])
    assert kinds(check(version, model, home)) == []
    (found,) = check(version, model, home, silence=60.0).findings
    assert (found.kind, found.subject) == ("no-data", "traffic")
    assert "no request has come for" in found.why
