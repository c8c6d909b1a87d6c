"""Rollouts from the console: begun, watched, ended by a person, by evidence, or by the end of the server."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.console import rollouts
from modelkeep.console.rollouts import Runs, compared, entries_of, told
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.errors import Conflict, NotFound, Overloaded
from modelkeep.keep import Keep
from modelkeep.rollout import attended
from modelkeep.rollout.canary import Canary
from tests.waiting import until

QUICK = Canary(steps=(0.5,), tolerance=0.2, min_requests=5, poll=0.01)


@pytest.fixture
def runs(keep: Keep) -> Iterator[Runs]:
    made = Runs(keep.settings)
    yield made
    made.stop()
    for run in made._runs.values():
        assert run.thread is not None
        run.thread.join(10)
        assert not run.alive


def answer(path: Path, n: int, *, canary: str = "ok") -> None:
    log = TrafficLog(path)
    for number in range(n):
        name = f"{time.time()}-{number}"
        log.offer(Exchange(f"{name}l", time.time(), "digits", 1, "live", "ok", 0.002))
        log.offer(Exchange(f"{name}c", time.time(), "digits", 2, "canary", canary, 0.002))
    log.close()


def test_a_rollout_is_begun_and_rolled_back_by_a_person(keep: Keep, runs: Runs) -> None:
    run = runs.start("digits", 2, QUICK, who="console:ann")
    until(lambda: keep.registry.route("digits").canary == 2)
    assert runs.of("digits") is run
    with pytest.raises(Conflict, match="goes on already"):
        runs.start("digits", 2, QUICK, who="console")
    (one,) = told(entries_of(keep, "digits"))
    assert (one.version, one.verdict, one.who, one.ended) == (2, "", "console:ann", None)
    keep.rollback("digits", why="I do not like it")
    until(lambda: not run.alive)
    assert runs.of("digits") is None
    (one,) = told(entries_of(keep, "digits"))
    assert (one.verdict, one.why) == ("rollback", "I do not like it")
    assert [share for _, share in one.steps] == [0.5, 0.0]
    said = "the rollout of digits@2 stopped: console changed the route of digits: I do not like it"
    assert run.said[-1][1] == said


def test_one_that_goes_on_elsewhere_is_not_joined(keep: Keep, runs: Runs) -> None:
    with attended.alone(keep.settings.home, "digits"), pytest.raises(Conflict, match="goes on already; roll it back"):
        runs.start("digits", 2, QUICK, who="console")


def test_evidence_promotes_it(keep: Keep, runs: Runs) -> None:
    run = runs.start("digits", 2, QUICK, who="console")
    until(lambda: keep.registry.route("digits").canary == 2)
    answer(keep.traffic, 150)
    until(lambda: not run.alive)
    assert keep.registry.route("digits").live == 2
    (one,) = told(entries_of(keep, "digits"))
    assert one.verdict == "promote"
    assert one.steps[-1][1] == 1.0
    assert "errors" in dict(one.harms)
    assert one.ended is not None


def test_harm_rolls_it_back(keep: Keep, runs: Runs) -> None:
    run = runs.start("digits", 2, QUICK, who="console")
    until(lambda: keep.registry.route("digits").canary == 2)
    answer(keep.traffic, 100, canary="error")
    until(lambda: not run.alive)
    (one,) = told(entries_of(keep, "digits"))
    assert (one.verdict, keep.registry.route("digits").live) == ("rollback", 1)
    assert "errors: 100.0%" in one.why


def test_the_end_of_the_server_leaves_the_canary_and_another_goes_on(keep: Keep, runs: Runs) -> None:
    first = runs.start("digits", 2, QUICK, who="console")
    until(lambda: keep.registry.route("digits").canary == 2)
    runs.stop()
    until(lambda: not first.alive)
    assert keep.registry.route("digits").canary == 2
    assert first.said[-1][1] == "the server ended; the canary stays as it is"
    later = Runs(keep.settings)
    second = later.start("digits", 2, QUICK, who="console")
    answer(keep.traffic, 150)
    until(lambda: not second.alive)
    assert keep.registry.route("digits").live == 2
    assert len(told(entries_of(keep, "digits"))) == 1


def test_what_cannot_begin_is_said_at_once(keep: Keep, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="no digits@9"):
        runs.start("digits", 9, QUICK, who="console")
    with pytest.raises(Conflict, match="is live already"):
        runs.start("digits", 1, QUICK, who="console")
    with pytest.raises(Conflict, match="other has no live version"):
        runs.start("other", 1, QUICK, who="console")
    monkeypatch.setattr(rollouts, "MOST", 0)
    with pytest.raises(Overloaded, match="0 rollouts go on"):
        runs.start("digits", 2, QUICK, who="console")


def test_what_ends_it_is_told_on_the_page(
    keep: Keep, runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Conflict("no, thanks")

    monkeypatch.setattr(Keep, "rollout", refuse)
    run = runs.start("digits", 2, QUICK, who="console")
    until(lambda: not run.alive)
    assert run.said[-1][1] == "it ended: no, thanks"

    def fail(*_: Any, **__: Any) -> None:
        raise sqlite3.Error("odd")

    monkeypatch.setattr(Keep, "rollout", fail)
    run = runs.start("digits", 2, QUICK, who="console")
    until(lambda: not run.alive)
    assert "it failed: Error" in run.said[-1][1]
    assert "a rollout failed" in caplog.text


def test_canary_beside_live_since_it_began(keep: Keep, runs: Runs) -> None:
    answer(keep.traffic, 10)
    runs.start("digits", 2, Canary(steps=(0.5,), poll=0.01), who="console")
    until(lambda: keep.registry.route("digits").canary == 2)
    answer(keep.traffic, 4, canary="error")
    (one,) = told(entries_of(keep, "digits"))
    canary, live = compared(keep, one)
    assert (canary["track"], canary["n"], canary["failed"], canary["p50"]) == ("canary", 4, 4, None)
    assert (live["track"], live["n"], live["failed"], live["p99"]) == ("live", 4, 0, 0.002)


def test_a_rollout_that_was_killed_ends_with_what_a_person_did(keep: Keep) -> None:
    keep.registry.note("digits", "rollout", "began", {"stage": "began", "version": 2, "row": 0}, who="ann")
    from dataclasses import replace

    route = keep.registry.set_route(replace(keep.registry.route("digits"), canary=2, weight=0.1), why="step")
    assert told(entries_of(keep, "digits"))[0].verdict == ""
    keep.registry.promote("digits", 2, why="by hand")
    keep.registry.rollback("digits", why="oh no")
    (one,) = told(entries_of(keep, "digits"))
    assert (one.verdict, one.why, one.ended) == ("promote", "by hand", None)
    assert [share for _, share in one.steps] == [route.weight, 1.0]
