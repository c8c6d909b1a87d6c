"""Whole rollouts against a world that follows the route: promoted, rolled back, undecided, interrupted, overruled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadSettings, Conflict, NotFound
from modelkeep.rollout.canary import Canary, Decision
from modelkeep.types import Route

LABELLED = Canary(steps=(0.2, 0.5), max_seconds=60, p99=0.1, needs_labels=True)


def run(plan: Canary, world: Any, **other: Any) -> Decision:
    return plan.run(world.registry, "digits", 2, world.path, clock=world.clock, sleep=world.sleep, **other)


class TestVerdicts:
    def test_a_good_version_is_promoted(self, registry: Any, make_world: Any, ways: Any) -> None:
        told: list[str] = []
        decision = run(LABELLED, make_world(registry, ways(wrong=0.3), ways(wrong=0.05)), on_step=told.append)
        assert decision.verdict == "promote"
        assert registry.kept == Route("digits", live=2, previous=1, revision=registry.kept.revision)
        assert [(r.canary, r.weight) for r in registry.writes] == [(2, 0.2), (2, 0.5), (None, 0.0)]
        assert told[0] == "digits@2 gets 20% of the traffic (step 1 of 2)"
        assert told[1] == "digits@2 gets 50% of the traffic (step 2 of 2)"
        assert "digits@2 is live: not worse than digits@1 by 5 percentage points; errors: 0.0% of" in told[-1]

    def test_an_equal_version_is_promoted(self, registry: Any, make_world: Any, ways: Any) -> None:
        decision = run(LABELLED, make_world(registry, ways(), ways()))
        assert decision.verdict == "promote"

    def test_a_bad_version_is_rolled_back_in_one_write(self, registry: Any, make_world: Any, ways: Any) -> None:
        decision = run(LABELLED, make_world(registry, ways(wrong=0.05), ways(wrong=0.4)))
        assert decision.verdict == "rollback"
        assert [(r.live, r.canary, r.weight) for r in registry.writes] == [(1, 2, 0.2), (1, None, 0.0)]
        assert decision.why.startswith("digits@2 was rolled back at 20%; wrong answers: ")
        assert decision.why.endswith("5 percentage points more is borne, digits@1 stays live")
        assert decision.numbers["requests"] <= 200

    def test_one_that_fails_is_rolled_back_without_any_label(self, registry: Any, make_world: Any, ways: Any) -> None:
        world = make_world(registry, ways(), ways(errors=0.5), labelled=False)
        decision = run(LABELLED, world)
        assert decision.verdict == "rollback"
        assert "errors:" in decision.why

    def test_one_that_is_slow_is_rolled_back(self, registry: Any, make_world: Any, ways: Any) -> None:
        decision = run(LABELLED, make_world(registry, ways(), ways(seconds=0.2)))
        assert decision.verdict == "rollback"
        assert "slow answers: 100.0%" in decision.why

    def test_slow_against_the_usual_latency(self, registry: Any, make_world: Any, ways: Any) -> None:
        world = make_world(registry, ways(), ways(seconds=0.03))
        world.sleep(1)
        decision = run(replace(LABELLED, p99=None), world)
        assert decision.verdict == "rollback"
        assert decision.numbers["slow_over_seconds"] == pytest.approx(0.011, abs=1e-4)

    def test_harm_just_over_the_tolerance_is_never_promoted(self, registry: Any, make_world: Any, ways: Any) -> None:
        plan = replace(LABELLED, max_seconds=8)
        decision = run(plan, make_world(registry, ways(wrong=0.05), ways(wrong=0.11)))
        assert decision.verdict in ("rollback", "inconclusive")
        assert registry.kept.live == 1
        assert registry.kept.canary is None


class TestPromisedAccuracy:
    PROMISED = replace(LABELLED, min_accuracy=0.95, max_seconds=15)

    def test_two_that_are_nearly_always_wrong(self, registry: Any, make_world: Any, ways: Any) -> None:
        decision = run(self.PROMISED, make_world(registry, ways(wrong=0.9), ways(wrong=0.9)))
        assert decision.verdict == "inconclusive"
        assert (registry.kept.live, registry.kept.canary) == (1, None)
        assert decision.why.startswith("digits@2 stays undecided, so it is ended; ")
        missed = "its accuracy is shown to be below the promised 95%, so it has to be better than digits@1, which"
        assert decision.why.endswith(f"; {missed} stays live")
        assert decision.numbers["promise"]["missed"] is True

    def test_without_the_promise_they_are_promoted(self, registry: Any, make_world: Any, ways: Any) -> None:
        plan = replace(self.PROMISED, min_accuracy=None)
        decision = run(plan, make_world(registry, ways(wrong=0.9), ways(wrong=0.9)))
        assert decision.verdict == "promote"
        assert "promise" not in decision.numbers

    def test_a_better_one_takes_over_and_it_is_said_what_it_misses(
        self, registry: Any, make_world: Any, ways: Any
    ) -> None:
        decision = run(self.PROMISED, make_world(registry, ways(wrong=0.9), ways(wrong=0.4)))
        assert decision.verdict == "promote"
        missed = "though its accuracy is shown to be below the promised 95%"
        assert decision.why.startswith(f"digits@2 is live: better than digits@1, {missed}; errors: ")
        assert decision.numbers["promise"]["log_evidence_better"] >= np.log(100)

    def test_one_that_breaks_what_the_live_version_keeps(self, registry: Any, make_world: Any, ways: Any) -> None:
        """Six points worse where fifteen are borne."""
        plan = replace(self.PROMISED, tolerance=0.15, steps=(0.5,), max_seconds=60)
        decision = run(replace(plan, alpha=1e-3), make_world(registry, ways(wrong=0.02), ways(wrong=0.12)))
        assert decision.verdict == "rollback"
        assert "was rolled back at 50%; wrong answers: " in decision.why
        assert "its accuracy is shown to be below the promised 95%" in decision.why

    def test_one_that_keeps_it(self, registry: Any, make_world: Any, ways: Any) -> None:
        decision = run(self.PROMISED, make_world(registry, ways(wrong=0.3), ways(wrong=0.02)))
        assert decision.verdict == "promote"
        assert "not worse than digits@1 by 5 percentage points; errors" in decision.why


class TestNoData:
    def test_no_traffic_is_no_verdict(self, registry: Any, make_world: Any, ways: Any) -> None:
        decision = run(LABELLED, make_world(registry, ways(), ways(), rate=0))
        assert decision.verdict == "unasked"
        assert decision.why == ("digits@2 has no verdict: nobody asked it in 60 s, so it is ended; digits@1 stays live")
        assert (registry.kept.live, registry.kept.canary) == (1, None)

    def test_labels_that_are_needed_and_never_come(self, registry: Any, make_world: Any, ways: Any) -> None:
        plan = replace(LABELLED, max_seconds=5)
        decision = run(plan, make_world(registry, ways(), ways(), labelled=False))
        assert decision.verdict == "inconclusive"
        assert "0% of the evidence that promotion needs; wrong answers: nothing known" in decision.why
        assert "for no label of its answers came; give a step longer than labels take, or need none" in decision.why

    def test_without_that_need_it_is_promoted(self, registry: Any, make_world: Any, ways: Any) -> None:
        plan = replace(LABELLED, needs_labels=False)
        assert run(plan, make_world(registry, ways(), ways(), labelled=False)).verdict == "promote"

    def test_a_step_needs_requests_of_its_own(self, registry: Any, make_world: Any, ways: Any) -> None:
        world = make_world(registry, ways(), ways(), rate=2000)
        run(replace(LABELLED, min_requests=700), world)
        at_half = [e for e in registry.entries if e.kind == "route"]
        assert len(at_half) == 3
        assert world.now >= 3  # 400 canary requests a second at 20 %, 1,000 at 50 %


class TestPromisedError:
    """Answers are numbers, some 0.8 times ``off`` from the truth on average."""

    PLAN = replace(LABELLED, max_error=1.0, min_accuracy=0.95)

    def test_as_good_a_version_that_keeps_it_is_promoted(self, prices: Any, make_world: Any, ways: Any) -> None:
        decision = run(self.PLAN, make_world(prices, ways(off=0.5), ways(off=0.5)))
        assert decision.verdict == "promote"
        assert "not worse than digits@1 by 5 percentage points (of the mean error: 0.2); errors: " in decision.why
        assert "mean error: 0." in decision.why
        assert decision.numbers["promise"]["max_error"] == 1.0
        assert decision.numbers["wrong answers"]["canary"] == pytest.approx(0.4, abs=0.05)

    def test_one_that_is_far_off_is_rolled_back(self, prices: Any, make_world: Any, ways: Any) -> None:
        decision = run(self.PLAN, make_world(prices, ways(off=0.5), ways(off=4.0)))
        assert decision.verdict == "rollback"
        assert "mean error: " in decision.why

    def test_equals_that_miss_it_are_not_promoted(self, prices: Any, make_world: Any, ways: Any) -> None:
        plan = replace(self.PLAN, max_seconds=15)
        decision = run(plan, make_world(prices, ways(off=3.0), ways(off=3.0)))
        assert decision.verdict == "inconclusive"
        assert "its mean error is shown to be over the promised 1, so it has to be better than digits@1" in decision.why

    def test_one_that_is_better_is_though_it_misses_it(self, prices: Any, make_world: Any, ways: Any) -> None:
        decision = run(self.PLAN, make_world(prices, ways(off=9.0), ways(off=1.7)))
        assert decision.verdict == "promote"
        assert "better than digits@1, though its mean error is shown to be over the promised 1" in decision.why

    def test_labels_that_could_judge_nothing_are_not_waited_for(self, prices: Any, make_world: Any, ways: Any) -> None:
        with pytest.raises(
            BadSettings, match=r"digits@2 cannot be judged by labels: its answers are numbers.*--max-error"
        ):
            run(LABELLED, make_world(prices, ways(), ways()))
        assert (prices.writes, prices.entries) == ([], [])
        prices.kept = replace(prices.kept, canary=2, weight=0.5)
        left = run(replace(LABELLED, max_seconds=5), make_world(prices, ways(), ways()))
        assert (left.verdict, prices.kept.canary) == ("inconclusive", None), "who goes on with one ends it"
        assert "of which labels say nothing until an error is promised" in left.why
        assert run(replace(LABELLED, needs_labels=False), make_world(prices, ways(), ways())).verdict == "promote"

    def test_classes_have_no_error(self, registry: Any, make_world: Any, ways: Any) -> None:
        told: list[str] = []
        world = make_world(registry, ways(), ways())
        decision = run(replace(LABELLED, max_error=1.0), world, on_step=told.append)
        assert told[0].startswith("the promised mean error judges nothing: digits@2 answers in classes")
        assert decision.verdict == "promote"
        assert "promise" not in decision.numbers


class TestOthersMayStepIn:
    @pytest.mark.parametrize(
        "change",
        [
            {"canary": None, "weight": 0.0},
            {"live": 3, "canary": None, "weight": 0.0, "previous": 1},
            {"weight": 0.9},
            {"canary": 3},
        ],
    )
    def test_whoever_changes_the_route_wins(
        self, registry: Any, make_world: Any, ways: Any, change: dict[str, Any]
    ) -> None:
        world = make_world(registry, ways(), ways())

        def step_in() -> None:
            if world.now == 1:
                registry.set_route(replace(registry.kept, **change), why="by hand")

        world.then = step_in
        decision = run(LABELLED, world)
        assert decision.verdict == "stopped"
        assert decision.why == "the rollout of digits@2 stopped: person changed the route of digits: by hand"
        for field, value in change.items():
            assert getattr(registry.kept, field) == value

    def test_who_makes_it_live_has_promoted_it(self, registry: Any, make_world: Any, ways: Any) -> None:
        world = make_world(registry, ways(), ways())
        promoted = {"live": 2, "canary": None, "weight": 0.0, "previous": 1}
        world.then = lambda: registry.set_route(replace(registry.kept, **promoted), why="by hand", who="ann")
        decision = run(LABELLED, world)
        assert decision.verdict == "promote"
        assert decision.why == "digits@2 is live: ann made it so before there was a verdict: by hand"

    def test_one_who_comes_between_the_look_and_the_write_wins_too(
        self, registry: Any, make_world: Any, ways: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = make_world(registry, ways(), ways(wrong=0.9))
        write = type(registry).set_route

        def contested(self: Any, route: Route, **words: Any) -> Route:
            if route.canary is None:
                self.kept = replace(self.kept, shadow=7, revision=self.kept.revision + 1)
            return write(self, route, **words)

        monkeypatch.setattr(type(registry), "set_route", contested)
        assert run(LABELLED, world).verdict == "stopped"
        assert registry.kept.canary == 2

    def test_a_change_of_the_shadow_disturbs_nothing(self, registry: Any, make_world: Any, ways: Any) -> None:
        world = make_world(registry, ways(), ways(wrong=0.6))

        def shadow() -> None:
            if registry.kept.shadow is None:
                registry.set_route(replace(registry.kept, shadow=9), why="a shadow")

        world.then = shadow
        assert run(LABELLED, world).verdict == "rollback"
        assert registry.kept.shadow == 9


class Killed(BaseException):
    """Stands for kill -9."""


class TestInterruption:
    def kill_at(self, world: Any, second: int) -> None:
        def kill() -> None:
            if world.now == second:
                raise Killed

        world.then = kill

    def test_a_killed_run_leaves_a_valid_route_and_the_next_goes_on(
        self, registry: Any, make_world: Any, ways: Any
    ) -> None:
        world = make_world(registry, ways(), ways(), rate=100)
        self.kill_at(world, 2)
        with pytest.raises(Killed):
            run(LABELLED, world)
        assert (registry.kept.live, registry.kept.canary, registry.kept.weight) == (1, 2, 0.2)
        before = world.sent
        world.then = None
        decision = run(LABELLED, world)
        assert decision.verdict == "promote"
        assert [e.data.get("stage") for e in registry.entries if e.kind == "rollout"] == ["began", "ended"]
        counted = decision.numbers["errors"]["canary_n"] + decision.numbers["errors"]["live_n"]
        assert counted == world.sent > before  # what came before the kill, and while nobody looked, counts too

    def test_it_goes_on_at_the_weight_it_finds(self, registry: Any, make_world: Any, ways: Any) -> None:
        registry.kept = replace(registry.kept, canary=2, weight=0.5)
        told: list[str] = []
        decision = run(LABELLED, make_world(registry, ways(), ways()), on_step=told.append)
        assert told[0] == "digits@2 gets 50% of the traffic (step 2 of 2)"
        assert decision.verdict == "promote"
        assert len(registry.writes) == 1

    def test_a_weight_between_two_steps_goes_to_the_next(self, registry: Any, make_world: Any, ways: Any) -> None:
        registry.kept = replace(registry.kept, canary=2, weight=0.3)
        run(LABELLED, make_world(registry, ways(), ways()))
        assert registry.writes[0].weight == 0.5

    def test_a_bad_one_is_rolled_back_by_the_next_run(self, registry: Any, make_world: Any, ways: Any) -> None:
        world = make_world(registry, ways(), ways(wrong=0.6), rate=10)
        self.kill_at(world, 1)
        with pytest.raises(Killed):
            run(LABELLED, world)
        world.then, world.rate = None, 200
        assert run(LABELLED, world).verdict == "rollback"
        assert registry.kept.canary is None


class TestJournal:
    def test_beginning_and_end_with_the_evidence(self, registry: Any, make_world: Any, ways: Any) -> None:
        decision = run(LABELLED, make_world(registry, ways(), ways(wrong=0.5)), who="loop")
        began, ended = [e for e in registry.entries if e.kind == "rollout"]
        assert began.data == {"stage": "began", "version": 2, "row": 0}
        assert ended.data["verdict"] == "rollback"
        assert ended.data["numbers"] == decision.numbers
        assert ended.why == decision.why
        assert {e.who for e in registry.entries} == {"loop"}
        json.dumps(asdict(decision))

    def test_each_write_says_why(self, registry: Any, make_world: Any, ways: Any) -> None:
        decision = run(LABELLED, make_world(registry, ways(wrong=0.5), ways()))
        whys = [e.why for e in registry.entries if e.kind == "route"]
        assert whys[0].startswith("digits@2 gets 20%")
        assert whys[-1] == decision.why

    def test_now_and_then_it_says_how_far_it_is(self, registry: Any, make_world: Any, ways: Any) -> None:
        told: list[str] = []
        run(replace(LABELLED, max_seconds=30), make_world(registry, ways(), ways(), rate=1), on_step=told.append)
        assert any("of the evidence that promotion needs; " in text for text in told[1:-1])


class TestRefusals:
    def plain(self, registry: Any, tmp_path: Path, plan: Canary = LABELLED) -> Decision:
        return plan.run(registry, "digits", 2, tmp_path / "traffic.db", sleep=lambda _: pytest.fail("it waits"))

    def test_nothing_is_live(self, registry: Any, tmp_path: Path) -> None:
        registry.kept = Route("digits")
        with pytest.raises(NotFound, match="digits has no live version to compare digits@2 with; modelkeep promote"):
            self.plain(registry, tmp_path)

    def test_another_canary(self, registry: Any, tmp_path: Path) -> None:
        registry.kept = replace(registry.kept, canary=3, weight=0.1)
        with pytest.raises(Conflict, match="digits@3 is a canary already; end it first: modelkeep rollback digits"):
            self.plain(registry, tmp_path)

    def test_live_already(self, registry: Any, tmp_path: Path) -> None:
        registry.kept = replace(registry.kept, live=2)
        assert self.plain(registry, tmp_path) == Decision("promote", "digits@2 is live already")
        assert registry.entries == []

    @pytest.mark.parametrize("steps", [(), (0.5, 0.1), (0.0, 0.5), (0.5, 1.0), (0.2, 0.2), (-0.1,)])
    def test_steps_must_grow(self, steps: tuple[float, ...]) -> None:
        with pytest.raises(BadSettings, match="give growing shares between 0 and 1"):
            Canary(steps=steps)

    def test_rules_are_checked_at_once(self) -> None:
        with pytest.raises(BadSettings, match="alpha is 2"):
            Canary(alpha=2)


class TestWithTheRegistry:
    """The same with the real one."""

    @pytest.fixture
    def real(self, tmp_path: Path) -> Any:
        from modelkeep.model import folder
        from modelkeep.registry import Registry
        from modelkeep.settings import Settings
        from modelkeep.types import Model, Signature, TensorSpec

        signature = Signature((TensorSpec("x", "float32", (None,)),), (TensorSpec("scores", "float32", (None, 2)),))
        registry = Registry.open(Settings(home=tmp_path / "home"))
        for number in (1, 2):
            made = tmp_path / f"made{number}"
            made.mkdir()
            (made / "model.onnx").write_bytes(b"weights %d" % number)
            folder.write(Model(made, "onnx", signature, ("model.onnx",), ("no", "yes")))
            registry.add("digits", made, made_by="add('model.onnx')")
        registry.promote("digits", 1, why="the first")
        yield registry
        registry.close()

    def test_promoted(self, real: Any, make_world: Callable[..., Any], ways: Any) -> None:
        decision = run(LABELLED, make_world(real, ways(wrong=0.4), ways()))
        assert decision.verdict == "promote"
        route = real.route("digits")
        assert (route.live, route.previous, route.canary, route.weight) == (2, 1, None, 0.0)
        ended = real.journal("digits", kind="rollout")[-1]
        assert ended.data["verdict"] == "promote"
        assert real.rollback("digits", why="back").live == 1

    def test_rolled_back(self, real: Any, make_world: Callable[..., Any], ways: Any) -> None:
        decision = run(LABELLED, make_world(real, ways(), ways(wrong=0.5)))
        assert decision.verdict == "rollback"
        route = real.route("digits")
        assert (route.live, route.previous, route.canary) == (1, None, None)
        assert [e.why for e in real.journal("digits")][-1] == decision.why

    def test_a_killed_run_goes_on(self, real: Any, make_world: Callable[..., Any], ways: Any) -> None:
        world = make_world(real, ways(), ways())
        TestInterruption().kill_at(world, 1)
        with pytest.raises(Killed):
            run(LABELLED, world)
        world.then = None
        assert run(LABELLED, world).verdict == "promote"


def test_whole_rollouts_of_equals_are_rarely_rolled_back(make_world: Any, ways: Any, registry: Any) -> None:
    """Twelve of them through the file, at an alpha of 5 %: four wrong ones would have a chance below 0.3 %."""
    wrong = 0
    for seed in range(12):
        registry.kept = Route("digits", live=1, revision=1)
        world = make_world(registry, ways(wrong=0.2), ways(wrong=0.2), rng=np.random.default_rng(seed), rate=100)
        world.path = world.path.with_name(f"traffic{seed}.db")
        decision = run(replace(LABELLED, alpha=0.05, max_seconds=3), world)
        wrong += decision.verdict == "rollback"
    assert wrong <= 3
