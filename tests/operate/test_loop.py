"""The loop's decisions, against a Keep that is played: what it does, in which order, and what it leaves alone."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels, traffic
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, Regressed, Unsupported
from modelkeep.operate.budget import RESET, refusal
from modelkeep.operate.loop import Loop
from modelkeep.operate.policy import Policy, Rolling, Spending, Updating, Watching
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
        self.registry, self.who, self.traffic = Registry(), "operate", Path("traffic.db")
        self.settings = SimpleNamespace(sample="")
        self.findings, self.labels, self.verdict = findings, labels, verdict
        self.refuse: Exception | None = None
        self.untrainable: Exception | None = None
        self.rolled_out_by_others = False
        self.done: list[str] = []
        self.plan: Any = None

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
        on_step(0.01, 2, "epoch 1 of 3")
        if self.refuse:
            raise self.refuse
        return SimpleNamespace(ref="m@2", number=2, name="m", reports=(Report("score", True, "better"),))

    def attended(self, name: str) -> bool:
        return self.rolled_out_by_others

    def rollout(self, version: Any, plan: Any, *, on_step: Any) -> Any:
        self.done.append(f"rollout {version.ref} {plan.steps}")
        self.plan = plan
        on_step(f"{version.ref}: {self.verdict}")  # as the real one tells its decision
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


def test_while_it_waits_it_counts_and_reads_no_inputs(tmp_path: Path) -> None:
    """They may be pictures, and it looks every few seconds."""
    keep, said = PlayedKeep(findings=[replace(DRIFT, since=52.0)], labels=100), []
    keep.traffic = tmp_path / "traffic.db"
    log = traffic.TrafficLog(keep.traffic)
    for at in range(4):
        row = {"x": np.zeros((40, 2), np.float32)}
        log.offer(traffic.Exchange(f"r{at}", 50.0 + at, "m", 1, "live", "ok", 0.01, row, row))
    log.close()
    labels.record(keep.traffic, "m", {"r0": [1] * 40, "r2": [1] * 40, "r3": [*[1] * 39, None]})
    waits = loop(keep)
    waits.tell, waits.keep.labelled = said.append, None  # type: ignore[assignment, method-assign]
    assert waits.turn() is None
    assert said[-1] == "waiting for labels: 79 of 100 since the change"


class TestInputs:
    """Of labelled requests that are pictures, gigabytes were read every few seconds while too few could be used."""

    @pytest.fixture
    def keep(self, tmp_path: Path) -> PlayedKeep:
        """200 labels of requests of one row, of which it finds but 10 to be of use."""
        keep = PlayedKeep(findings=[DRIFT], labels=10)
        keep.traffic = tmp_path / "traffic.db"
        log = traffic.TrafficLog(keep.traffic)
        row = {"x": np.zeros((1, 2), np.float32)}
        for at in range(300):
            log.offer(traffic.Exchange(f"r{at}", 50.0 + at, "m", 1, "live", "ok", 0.01, row, row))
        log.close()
        labels.record(keep.traffic, "m", {f"r{at}": [1, 1] for at in range(200)})
        return keep

    @pytest.fixture
    def reads(self, keep: PlayedKeep, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        found: list[int] = []
        labelled = keep.labelled
        monkeypatch.setattr(keep, "labelled", lambda *a, **k: (found.append(keep.labels), labelled(*a, **k))[1])
        return found

    def test_they_are_read_again_once_labels_came_that_may_do(self, keep: PlayedKeep, reads: list[int]) -> None:
        waits, said = loop(keep), []
        waits.tell = said.append
        assert [waits.turn() for _ in range(3)] == [None] * 3
        assert reads == [10]
        labels.record(keep.traffic, "m", {f"r{at}": 1 for at in range(200, 289)})
        assert waits.turn() is None
        assert reads == [10]
        assert said[-1] == "waiting for labels: 99 of 100 since the change"
        keep.labels = 100
        labels.record(keep.traffic, "m", {"r0": 1})  # it was of two rows
        assert waits.turn() is True
        assert reads == [10, 100]
        assert keep.done[0] == "finetune on 100"

    def test_those_that_make_no_rows_are_read_again_once_any_came(self, keep: PlayedKeep, reads: list[int]) -> None:
        keep.labels = 0
        waits, said = loop(keep), []
        waits.tell = said.append
        assert [waits.turn() for _ in range(3)] == [None] * 3
        assert reads == [0]
        assert said[-1] == "waiting for labels: 0 of 100 since the change; no labels"
        labels.record(keep.traffic, "m", {"r200": 1})
        assert waits.turn() is None
        assert reads == [0, 0]

    def test_what_was_not_learned_is_read_for_the_next_try(self, keep: PlayedKeep, reads: list[int]) -> None:
        keep.labels, keep.refuse = 100, Regressed("worse")
        waits = loop(keep, cooldown=0.0)
        assert [waits.turn() for _ in range(2)] == [False, False]
        assert reads == [100, 100]


def test_labels_that_come_one_by_one_are_told_by_tenths() -> None:
    keep, said = PlayedKeep(findings=[DRIFT], labels=0), []
    waiting = loop(keep)
    waiting.tell = said.append
    for keep.labels in range(1, 100):
        assert waiting.turn() is None
    assert len([line for line in said if line.startswith("waiting for labels")]) == 10


def test_drift_is_answered_by_update_and_rollout() -> None:
    keep = PlayedKeep(findings=[DRIFT], labels=100)
    outcome = loop(keep).run(cycles=1)
    assert keep.done == ["finetune on 100", "rollout m@2 (0.5,)"]
    assert outcome.promoted
    assert outcome.live == 2
    assert [e.data["stage"] for e in keep.registry.entries] == ["update started", "verified", "promoted"]


def test_the_rows_that_were_learned_from_are_let_go_before_the_rollout() -> None:
    """Pictures would fill memory for as long as it lasts."""

    class Holding(PlayedKeep):
        def update(self, base: Any, rows: Dataset, **options: Any) -> Any:
            self.rows = weakref.ref(rows)
            return super().update(base, rows, **options)

        def rollout(self, version: Any, plan: Any, *, on_step: Any) -> Any:
            assert self.rows() is None
            return super().rollout(version, plan, on_step=on_step)

    assert loop(Holding(findings=[DRIFT], labels=200)).turn() is True


@pytest.mark.parametrize("floor", [None, 0.95])
def test_what_is_promised_of_answers_is_what_a_canary_is_held_to(floor: float | None) -> None:
    keep = PlayedKeep(findings=[DRIFT], labels=100)
    promised = loop(keep)
    promised.policy = replace(promised.policy, watch=Watching(min_accuracy=floor, max_error=floor))
    promised.turn()
    assert (keep.plan.min_accuracy, keep.plan.max_error) == (floor, floor)


def test_the_end_of_a_rollout_is_said_once_and_written() -> None:
    keep, said = PlayedKeep(findings=[DRIFT], labels=100, verdict="rollback"), []
    told = loop(keep)
    told.tell = said.append
    assert told.turn() is False
    assert said.count("m@2: rollback") == 1
    assert keep.registry.entries[-1].why == "m@2: rollback"


def test_each_step_of_an_update_is_told_as_it_begins() -> None:
    keep, said = PlayedKeep(findings=[DRIFT], labels=100), []
    told = loop(keep)
    told.tell = said.append
    told.turn()
    assert "step 1 of 2: Finetune with epochs=3" in said
    assert "step 1 of 2: epoch 1 of 3" not in said  # so soon it is worth no line


def test_how_far_a_long_step_is_is_told_now_and_then() -> None:
    said, clock = [], iter([0.0, 4.0, 11.0, 12.0, 13.0])
    told = loop(PlayedKeep(findings=[], labels=0))
    told.tell, told.now = said.append, lambda: next(clock)
    tell = told._telling()
    tell(0, 2, "Finetune")
    for epoch in (1, 2, 3):
        tell(epoch / 4, 2, f"epoch {epoch} of 4")
    tell(1, 2, "TorchToOnnx")
    assert said == ["step 1 of 2: Finetune", "step 1 of 2: epoch 2 of 4", "step 2 of 2: TorchToOnnx"]


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


def test_a_canary_that_somebody_judges_is_left_to_them() -> None:
    keep, said = PlayedKeep(findings=[DRIFT], labels=100), []
    keep.registry.now = Route("m", live=1, canary=7, weight=0.5)
    keep.rolled_out_by_others = True
    waits = loop(keep)
    waits.tell = said.append
    assert [waits.turn(), waits.turn()] == [None, None]
    assert (keep.done, keep.registry.entries) == ([], [])
    assert said == ["m@7 is rolled out by somebody else; waiting for the end"]


@pytest.mark.parametrize(
    ("now", "whose"),
    [(Route("m", live=5), "m@5 is live"), (Route("m", live=1, canary=5, weight=0.1), "m@5 is a canary")],
)
def test_who_changes_the_route_during_an_update_is_not_overruled(now: Route, whose: str) -> None:
    keep = PlayedKeep(findings=[DRIFT], labels=100)

    def step_in(text: str) -> None:
        if text.startswith("updating"):
            keep.registry.now = now

    steps = loop(keep, failures=1)
    steps.tell = step_in
    outcome = steps.run(cycles=1)
    assert keep.done == ["finetune on 100"]
    assert keep.registry.now == now
    assert not outcome.promoted
    assert outcome.last == (
        f"m@2 is not rolled out, for while it was made somebody changed the route: {whose}; "
        "to do so all the same: modelkeep rollout m@2"
    )
    assert refusal(Spending(failures=1, cooldown=0), keep.registry.entries) is None


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


class TestNobodyAsked:
    """A canary without a request has shown nothing: its version waits for one, and is not made again."""

    @pytest.fixture
    def keep(self, monkeypatch: pytest.MonkeyPatch) -> PlayedKeep:
        keep = PlayedKeep(findings=[DRIFT], labels=100, verdict="unasked")
        self.asked: list[int] = []
        monkeypatch.setattr(traffic, "newest", lambda path: 7)
        monkeypatch.setattr(traffic, "read", lambda path, model, *, after=8, **_: self.asked[after - 7 :])
        return keep

    def test_it_is_no_failure_and_the_update_is_not_made_again(self, keep: PlayedKeep) -> None:
        night, said = loop(keep, failures=1, cooldown=0.0), []
        night.tell = said.append
        assert night.turn() is None
        assert keep.registry.entries[-1].data == {"stage": "nobody asked", "version": 2, "live": 1, "row": 7}
        for _ in range(3):
            assert night.turn() is None
        assert keep.done == ["finetune on 100", "rollout m@2 (0.5,)"]
        assert said.count("m@2 waits for requests to be rolled out") == 1

    def test_it_is_rolled_out_again_once_somebody_asks(self, keep: PlayedKeep) -> None:
        assert loop(keep).turn() is None
        self.asked, keep.verdict = [1], "promote"
        assert loop(keep).turn() is True  # another process goes on with it
        assert keep.done[1:] == ["rollout m@2 (0.5,)"] * 2
        assert keep.registry.now.live == 2

    def test_a_person_who_forgets_failures_does_not_forget_it(self, keep: PlayedKeep) -> None:
        assert loop(keep).turn() is None
        keep.registry.note("m", "operate", "failures forgotten", {"stage": RESET})
        assert loop(keep, cooldown=0.0).turn() is None
        assert len(keep.done) == 2

    def test_once_a_person_has_made_another_live_it_is_left(self, keep: PlayedKeep) -> None:
        assert loop(keep).turn() is None
        self.asked, keep.registry.now = [1], Route("m", live=5)
        assert loop(keep, cooldown=1000.0).turn() is None
        assert len(keep.done) == 2
