"""The loop's decisions, against a Keep that is played: what it does, in which order, and what it leaves alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, Regressed, Unsupported
from modelkeep.operate.loop import Loop
from modelkeep.operate.policy import Policy, Rolling, Spending, Updating
from modelkeep.types import Finding, Ref, Report, Route

DRIFT = Finding("drift", "inputs", "12 features moved", since=50.0)


class Registry:
    def __init__(self) -> None:
        self.now = Route("m", live=1)
        self.entries: list[Any] = []

    def route(self, name: str) -> Route:
        return self.now

    def journal(self, name: str, *, kind: str) -> list[Any]:
        return [e for e in self.entries if e.kind == kind]

    def note(self, name: str, kind: str, why: str, data: dict[str, Any], who: str = "") -> None:
        self.entries.append(SimpleNamespace(kind=kind, why=why, data=data, at=100.0))


class PlayedKeep:
    """Says what a test wants to hear, and writes down what it was asked to do."""

    def __init__(self, *, findings: list[Finding], labels: int, verdict: str = "promote") -> None:
        self.registry, self.who = Registry(), "operate"
        self.findings, self.labels, self.verdict = findings, labels, verdict
        self.refuse: Exception | None = None
        self.untrainable: Exception | None = None
        self.done: list[str] = []

    def monitor(self, ref: Ref, **limits: Any) -> Any:
        return SimpleNamespace(findings=self.findings, describe=lambda: "something was found")

    def labelled(self, name: str, *, since: float, limit: int) -> Dataset:
        assert since == 50.0, "only what came after the change teaches the new world"
        if not self.labels:
            raise BadData("no labels")
        return Dataset({"x": np.zeros((self.labels, 2), np.float32)}, np.zeros(self.labels, np.int64), "played")

    def get(self, ref: Ref) -> Any:
        number = 1 if ref.which == "live" else ref.which
        return SimpleNamespace(ref=f"m@{number}", number=number, name="m", reports=())

    def trainable(self, ref: Ref) -> list[Any]:
        if self.untrainable:
            raise self.untrainable
        return [self.get(ref)]

    def update(self, base: Any, rows: Dataset, *, method: str, on_step: Any, **options: Any) -> Any:
        self.done.append(f"{method} on {len(rows)}")
        on_step(0, 2, "Finetune with epochs=3")
        if self.refuse:
            raise self.refuse
        return SimpleNamespace(ref="m@2", number=2, name="m", reports=(Report("score", True, "better"),))

    def rollout(self, version: Any, plan: Any, *, on_step: Any) -> Any:
        self.done.append(f"rollout {version.ref} {plan.steps}")
        self.registry.now = Route("m", live=version.number if self.verdict == "promote" else 1)
        return SimpleNamespace(verdict=self.verdict, why=f"{version.ref}: {self.verdict}")


def loop(keep: PlayedKeep, **spending: Any) -> Loop:
    policy = Policy("m", update=Updating(min_labels=100), rollout=Rolling(steps=(0.5,)), budget=Spending(**spending))
    return Loop(keep, policy, sleep=lambda seconds: None, now=lambda: 100.0)  # type: ignore[arg-type]


def test_it_does_nothing_while_nothing_is_found() -> None:
    keep = PlayedKeep(findings=[], labels=500)
    assert loop(keep).turn() is None
    assert keep.done == []
    assert keep.registry.entries == []


def test_a_sick_service_is_not_mended_by_training() -> None:
    keep = PlayedKeep(findings=[Finding("health", "latency", "slow")], labels=500)
    assert loop(keep).turn() is None
    assert keep.done == []


@pytest.mark.parametrize("labels", [0, 99])
def test_it_waits_for_labels(labels: int) -> None:
    keep = PlayedKeep(findings=[DRIFT], labels=labels)
    said: list[str] = []
    waiting = loop(keep)
    waiting.tell = said.append
    assert waiting.turn() is None
    assert keep.done == []
    why = "" if labels else "; no labels"
    assert said[-1] == f"waiting for labels: {labels} of 100 since the change{why}"


def test_drift_is_answered_by_update_and_rollout() -> None:
    keep = PlayedKeep(findings=[DRIFT], labels=100)
    outcome = loop(keep).run(cycles=1)
    assert keep.done == ["finetune on 100", "rollout m@2 (0.5,)"]
    assert outcome.promoted
    assert outcome.live == 2
    assert [e.data["stage"] for e in keep.registry.entries] == ["update started", "verified", "promoted"]


def test_each_step_of_an_update_is_told_as_it_begins() -> None:
    keep, said = PlayedKeep(findings=[DRIFT], labels=100), []
    told = loop(keep)
    told.tell = said.append
    told.turn()
    assert "step 1 of 2: Finetune with epochs=3" in said


def test_what_cannot_be_trained_is_watched_and_told_of_from_the_start() -> None:
    keep, said, clock = PlayedKeep(findings=[DRIFT], labels=500), [], iter(range(1000))
    keep.untrainable = Unsupported("m@1 has no PyTorch ancestor to train")
    watching = loop(keep)
    watching.tell, watching.now = said.append, lambda: float(next(clock))
    outcome = watching.run(max_seconds=5)
    assert outcome.cycles == 0
    assert said[1] == "it is watched and told of, but cannot be updated: m@1 has no PyTorch ancestor to train"
    assert said[2:] == [
        "something was found",
        "not acting on drift of inputs: m@1 has no PyTorch ancestor to train",
    ]
    assert keep.done == keep.registry.entries == []
    keep.untrainable = None  # a person put another version in its place
    assert watching.turn() is True


def test_updates_that_are_asked_for_and_cannot_be_are_refused_at_once() -> None:
    keep = PlayedKeep(findings=[], labels=0)
    keep.untrainable = Unsupported("m@1 has no PyTorch ancestor to train")
    with pytest.raises(Unsupported, match="no PyTorch ancestor"):
        loop(keep).run(cycles=1)


def test_a_rolled_back_canary_counts_as_failed() -> None:
    keep = PlayedKeep(findings=[DRIFT], labels=100, verdict="rollback")
    outcome = loop(keep).run(cycles=1)
    assert not outcome.promoted
    assert outcome.live == 1
    assert keep.registry.entries[-1].data["stage"] == "failed"


def test_a_refused_update_leaves_the_route_alone() -> None:
    keep = PlayedKeep(findings=[DRIFT], labels=100)
    keep.refuse = Regressed("it forgets the old digits")
    assert loop(keep).turn() is False
    assert keep.done == ["finetune on 100"]
    assert "it forgets the old digits" in keep.registry.entries[-1].why
    assert keep.registry.now.live == 1


def test_the_budget_holds_it_back() -> None:
    keep = PlayedKeep(findings=[DRIFT], labels=100)
    held = loop(keep, cooldown=1000.0)
    assert held.turn() is True
    assert held.turn() is None
    assert len(keep.done) == 2


def test_a_canary_that_was_left_behind_is_judged_further() -> None:
    keep = PlayedKeep(findings=[], labels=0)
    keep.registry.now = Route("m", live=1, canary=7, weight=0.5)
    assert loop(keep).turn() is True
    assert keep.done == ["rollout m@7 (0.5,)"]
    assert keep.registry.entries[0].data["stage"] == "resumed"


def test_it_stops_in_time() -> None:
    keep = PlayedKeep(findings=[], labels=0)
    clock = iter(range(1000))
    timed = loop(keep)
    timed.now = lambda: float(next(clock))
    assert timed.run(max_seconds=5).cycles == 0


def test_a_loop_that_waits_does_not_repeat_itself() -> None:
    """However the numbers of a look move, and although it says two things in each turn."""
    keep, said, looks = PlayedKeep(findings=[DRIFT], labels=3), [], iter(range(9))
    keep.monitor = lambda ref, **limits: SimpleNamespace(  # type: ignore[method-assign]
        findings=keep.findings, describe=lambda: f"found in {next(looks)} requests"
    )
    waits = loop(keep)
    waits.tell = said.append
    for _ in range(3):
        assert waits.turn() is None
    assert said == ["found in 0 requests", "waiting for labels: 3 of 100 since the change"]
    keep.findings = [DRIFT, Finding("quality", "accuracy", "worse", since=50.0)]
    waits.turn()
    assert said[2:] == ["found in 3 requests"]
