"""The judge's promises, measured: wrong rollbacks, wrong promotions, and how soon a bad version is found."""

from __future__ import annotations

from collections import Counter
from math import log

import numpy as np
import pytest

from modelkeep.errors import BadSettings
from modelkeep.rollout.judge import WRONG, Harm, Judge, Rules

LOOK_EVERY = 10


def verdict_of(judge: Judge) -> str:
    """What a rollout of one step makes of it."""
    if judge.harmful():
        return "rollback"
    return "promote" if judge.progress() >= 1 else "continue"


def simulate(
    live: float, canary: float, weight: float, *, rules: Rules, requests: int = 1500, seed: int = 0
) -> tuple[str, int]:
    """One canary with these shares of wrong answers, asked after every few requests: verdict, canary requests."""
    rng = np.random.default_rng(seed)
    judge = Judge(rules, slow=False)
    arms = rng.random(requests) < weight
    wrong = rng.random(requests) < np.where(arms, canary, live)
    for at in range(requests):
        judge.add("errors", bool(arms[at]), 0.0)
        judge.add("wrong answers", bool(arms[at]), float(wrong[at]))
        if at % LOOK_EVERY == 0 and (verdict := verdict_of(judge)) != "continue":
            return verdict, judge.requests
    return "continue", judge.requests


def verdicts(live: float, canary: float, runs: int, rules: Rules, **other: int) -> Counter[str]:
    weights = (0.1, 0.3, 0.5)
    return Counter(
        simulate(live, canary, weights[seed % 3], rules=rules, seed=seed, **other)[0] for seed in range(runs)
    )


def within(count: int, runs: int, most: float) -> bool:
    """Whether the count could come of a chance of ``most``, three standard errors allowed."""
    return count / runs <= most + 3 * (most * (1 - most) / runs) ** 0.5


class TestPromises:
    def test_no_more_wrong_rollbacks_of_equals_than_alpha(self) -> None:
        """400 canaries that are the same as the live version, looked at all the time."""
        rules = Rules(alpha=0.05, beta=0.05, needs_labels=True)
        assert within(verdicts(0.1, 0.1, 400, rules, requests=700)["rollback"], 400, rules.alpha)

    def test_equals_are_promoted_in_time(self) -> None:
        """Accuracy 0.95 both: of 30 canaries at half the traffic, most within 3,000 requests."""
        runs = [simulate(0.05, 0.05, 0.5, rules=Rules(needs_labels=True), requests=3000, seed=s) for s in range(30)]
        assert sum(verdict == "promote" for verdict, _ in runs) >= 26
        assert np.median([requests for _, requests in runs]) <= 900

    def test_no_more_wrong_rollbacks_at_the_very_tolerance_than_alpha(self) -> None:
        rules = Rules(tolerance=0.05, alpha=0.1, beta=0.1, needs_labels=True)
        assert within(verdicts(0.1, 0.15, 240, rules, requests=600)["rollback"], 240, rules.alpha)

    def test_no_more_wrong_promotions_than_beta(self) -> None:
        """Canaries whose harm is exactly the tolerance, and a little more."""
        rules = Rules(tolerance=0.05, alpha=0.1, beta=0.1, needs_labels=True)
        for canary in (0.15, 0.17):
            assert within(verdicts(0.1, canary, 200, rules, requests=700)["promote"], 200, rules.beta)

    def test_a_bad_version_is_found_within_two_hundred_of_its_requests(self) -> None:
        """Accuracy 0.95 against 0.6, at every weight."""
        took = []
        for seed in range(90):
            verdict, requests = simulate(
                0.05, 0.4, (0.1, 0.3, 0.5)[seed % 3], rules=Rules(needs_labels=True), seed=seed
            )
            took.append(requests)
            assert verdict == "rollback"
        assert max(took) <= 200
        assert np.median(took) <= 80

    def test_a_better_version_is_promoted_within_three_hundred(self) -> None:
        for seed in range(30):
            verdict, requests = simulate(0.4, 0.05, 0.3, rules=Rules(needs_labels=True), seed=seed)
            assert verdict == "promote"
            assert requests <= 300

    def test_the_first_requests_alone_decide_nothing(self) -> None:
        judge = Judge(Rules(needs_labels=True), slow=False)
        for harm in ("errors", "wrong answers"):
            judge.add(harm, False, 0.0)
            judge.add(harm, True, 1.0)
        assert verdict_of(judge) == "continue"

    def test_a_world_that_turns_bad_for_both_is_no_harm(self) -> None:
        """The same fall of accuracy in both arms, after a while: a threshold on the canary alone would roll back."""
        rng = np.random.default_rng(1)
        judge = Judge(Rules(needs_labels=True), slow=False)
        for at in range(3000):
            canary = bool(rng.random() < 0.3)
            judge.add("wrong answers", canary, float(rng.random() < (0.02 if at < 300 else 0.5)))
            assert judge.harmful() is None


class TestPromisedAccuracy:
    """A share of answers that are right was promised; the tolerance alone asks only not to be much worse than live."""

    RULES = Rules(needs_labels=True, min_accuracy=0.95)
    FREE = Rules(needs_labels=True)

    def ends(self, live: float, canary: float, rules: Rules, runs: int = 10, requests: int = 3000) -> Counter[str]:
        return Counter(simulate(live, canary, 0.5, rules=rules, requests=requests, seed=s)[0] for s in range(runs))

    def test_equals_that_are_nearly_all_wrong_are_not_promoted(self) -> None:
        assert self.ends(0.9, 0.9, self.FREE)["promote"] >= 7, "what it is about: without a promise they are"
        assert self.ends(0.9, 0.9, self.RULES) == {"continue": 10}

    def test_one_that_is_better_is_promoted_though_it_misses_the_promise(self) -> None:
        assert self.ends(0.9, 0.4, self.RULES) == {"promote": 10}

    def test_one_that_misses_what_the_live_version_keeps_is_rolled_back_within_the_tolerance(self) -> None:
        assert self.ends(0.04, 0.085, self.FREE)["rollback"] == 0
        assert self.ends(0.04, 0.085, self.RULES, requests=6000)["rollback"] >= 9

    def test_one_that_keeps_it_is_judged_as_before(self) -> None:
        for live, canary in ((0.02, 0.02), (0.05, 0.05), (0.4, 0.05), (0.0, 0.035)):
            told = [
                [simulate(live, canary, 0.3, rules=rules, seed=seed) for seed in range(10)]
                for rules in (self.RULES, self.FREE)
            ]
            assert told[0] == told[1]

    def test_one_that_keeps_it_by_a_hair_is_rarely_said_to_miss_it(self) -> None:
        """90 % right where 90 % was promised, looked at after each answer: wrong with a chance of alpha."""
        rules, said = Rules(alpha=0.05, min_accuracy=0.9), 0
        for seed in range(200):
            judge, wrong = Judge(rules, slow=False), np.random.default_rng(seed).random(1000) < 0.1
            for one in wrong:
                judge.add(WRONG, True, float(one))
                if judge.misses:
                    said += 1
                    break
        assert within(said, 200, rules.alpha)

    @pytest.mark.parametrize("keeps", [True, False])
    def test_all_tests_together_roll_back_wrongly_no_more_than_alpha(self, keeps: bool) -> None:
        """Each test errs as often as Ville's inequality lets it, apart from the others: evidence of 1/a with chance a.

        The canary keeps the promise and is worse within the tolerance, or misses it and is not worse.
        """
        rules, runs, rng = Rules(alpha=0.2, min_accuracy=0.95), 2000, np.random.default_rng(0)
        judge, ended = Judge(rules), 0
        assert judge.promised is not None
        for evidence in -np.log(rng.random((runs, 4))):
            for harm, worst in zip(judge.harms.values(), evidence[:3], strict=True):
                harm.worst = float(worst)
            judge.promised._below.log_e = float(evidence[3] if keeps else np.inf)
            judge.promised._not_as_good.log_e = float(np.inf if keeps else evidence[3])
            ended += judge.harmful() is not None
        assert within(ended, runs, rules.alpha)

    @pytest.mark.parametrize(("live", "canary", "floor"), [(0.05, 0.1, 0.9), (0.6, 0.6, 0.95)])
    def test_no_more_wrong_rollbacks_than_alpha_beside_a_promise(
        self, live: float, canary: float, floor: float
    ) -> None:
        rules = Rules(alpha=0.1, beta=0.01, needs_labels=True, min_accuracy=floor)
        assert within(verdicts(live, canary, 80, rules, requests=900)["rollback"], 80, rules.alpha)

    def test_no_more_wrong_promotions_of_equals_than_beta(self) -> None:
        """Shown to miss it early, so that only a bet on better can promote them."""
        rules = Rules(alpha=0.1, beta=0.1, needs_labels=True, min_accuracy=0.95)
        assert within(verdicts(0.6, 0.6, 80, rules, requests=900)["promote"], 80, rules.beta)

    def test_labels_that_come_though_not_needed_hold_a_promotion_back(self) -> None:
        judge = Judge(Rules(min_accuracy=0.95), slow=False)
        for at in range(600):
            for canary in (False, True):
                judge.add("errors", canary, 0.0)
                if at % 10 == 0:
                    judge.add("wrong answers", canary, 1.0)
        assert judge.misses
        assert judge.required == ["errors", "wrong answers"]
        assert verdict_of(judge) == "continue"

    def test_a_bad_last_step_takes_better_back(self) -> None:
        judge = Judge(self.RULES, steps=2, slow=False)
        for at in range(400):
            judge.add("errors", True, 0.0)
            judge.add("errors", False, 0.0)
            judge.add("wrong answers", False, 1.0)
            judge.add("wrong answers", True, float(at % 2))
        assert (verdict_of(judge), judge.misses) == ("promote", True)
        judge.begin_step()
        for _ in range(20):
            judge.add("errors", True, 0.0)
            judge.add("errors", False, 0.0)
            judge.add("wrong answers", False, 1.0)
            judge.add("wrong answers", True, 1.0)
        assert verdict_of(judge) == "continue"

    @pytest.mark.parametrize("floor", [None, 0.0])
    def test_no_promise_changes_nothing(self, floor: float | None) -> None:
        judge = Judge(Rules(min_accuracy=floor), slow=False)
        assert "promise" not in judge.numbers()
        assert not judge.misses

    def test_a_promise_without_labels_changes_no_verdict(self) -> None:
        bound, free = Judge(Rules(min_accuracy=0.95), slow=False), Judge(Rules(), slow=False)
        for at in range(400):
            for judge in (bound, free):
                judge.add("errors", False, 0.0)
                judge.add("errors", True, 0.0)
            assert verdict_of(bound) == verdict_of(free), f"at request {at}"
        assert verdict_of(free) == "promote"
        numbers = bound.numbers()
        assert numbers.pop("promise")["missed"] is False
        assert numbers == free.numbers()

    @pytest.mark.parametrize("floor", [-0.1, 1.0, float("nan")])
    def test_what_cannot_be_promised_is_refused(self, floor: float) -> None:
        with pytest.raises(BadSettings, match=r"min_accuracy is .*; give a share from 0 up to, but not, 1"):
            Rules(min_accuracy=floor)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_error_that_cannot_be_promised_is_refused(value: float) -> None:
    with pytest.raises(BadSettings, match=r"max_error is .*; give a number, more than 0"):
        Rules(max_error=value)


class TestKayenta:
    """Documented failures of a fixed Mann-Whitney look, as counts. See spinnaker/kayenta issues 426 and 799, and
    spinnaker/spinnaker issue 6278."""

    def judge(self, harm: str, canary: list[int], live: list[int], tolerance: float) -> Judge:
        """Points of the canary and of the live version side by side; each is harms of 20 requests."""
        judge = Judge(Rules(tolerance=tolerance, alpha=0.05))
        for harmed, usual in zip(canary, live, strict=True):
            for at in range(20):
                judge.add(harm, False, float(at < usual))
                judge.add(harm, True, float(at < harmed))
        return judge

    def test_sparse_errors_are_not_passed(self) -> None:
        """426: errors 0 1 2 1 0 0 against none passed. 4 of 120 is too little to roll back, but never a promotion
        where one in a hundred is borne; three times as long, it is rolled back."""
        points = [0, 1, 2, 1, 0, 0]
        once = self.judge("errors", points, [0] * 6, 0.005)
        assert verdict_of(once) == "continue"
        assert once.progress() < 0.2
        assert verdict_of(self.judge("errors", points * 3, [0] * 18, 0.005)) == "rollback"

    def test_errors_against_none_are_found(self) -> None:
        """799: errors 1 4 2 3 1 against none, or against no data."""
        points = [1, 4, 2, 3, 1]
        assert self.judge("errors", points, [0] * 5, 0.01).harmful() == "errors"
        alone = Judge(Rules())
        for harmed in points:
            for at in range(20):
                alone.add("errors", True, float(at < harmed))
        assert verdict_of(alone) == "continue"

    def test_seventy_times_the_latency_is_found(self) -> None:
        """6278: 100 × 7, 1, 1, 1 against 1 × 10 passed. Slow is what is over the live version's own p99."""
        canary, live = [100] * 7 + [1] * 3, [1] * 10
        judge = Judge(Rules())
        for _ in range(2):
            for slow, usual in zip(canary, live, strict=True):
                judge.add("slow answers", False, float(usual > 1))
                judge.add("slow answers", True, float(slow > 1))
        assert judge.harmful() == "slow answers"


class TestNoData:
    def test_it_never_promotes(self) -> None:
        assert verdict_of(Judge(Rules())) == "continue"

    def test_a_canary_alone_never_promotes(self) -> None:
        judge = Judge(Rules(), slow=False)
        for _ in range(5000):
            judge.add("errors", True, 0.0)
        assert verdict_of(judge) == "continue"

    def test_no_labels_never_promote_where_they_are_needed(self) -> None:
        needs, free = Judge(Rules(needs_labels=True), slow=False), Judge(Rules(), slow=False)
        for judge in (needs, free):
            for _ in range(400):
                judge.add("errors", False, 0.0)
                judge.add("errors", True, 0.0)
        assert verdict_of(needs) == "continue"
        assert needs.least() == "wrong answers"
        assert verdict_of(free) == "promote"

    def test_labels_that_come_though_not_needed_can_roll_back(self) -> None:
        judge = Judge(Rules(), slow=False)
        for _ in range(60):
            judge.add("wrong answers", False, 0.0)
            judge.add("wrong answers", True, 1.0)
        assert judge.harmful() == "wrong answers"

    def test_a_kind_that_is_not_judged_is_passed_over(self) -> None:
        judge = Judge(Rules(), slow=False)
        judge.add("slow answers", True, 1.0)
        assert "slow answers" not in judge.harms
        assert judge.required == ["errors"]


class TestSteps:
    def feed(self, judge: Judge, count: int, canary: float, live: float = 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            judge.add("errors", False, float(rng.random() < live))
            judge.add("errors", True, float(rng.random() < canary))

    def test_evidence_goes_on_from_step_to_step(self) -> None:
        whole, cut = Judge(Rules(), slow=False), Judge(Rules(), steps=2, slow=False)
        self.feed(whole, 100, 0.0)
        self.feed(cut, 50, 0.0)
        half = cut.progress()
        cut.begin_step()
        self.feed(cut, 50, 0.0)
        assert 0.2 < half < cut.progress()
        assert cut.progress() == pytest.approx(whole.progress())

    def test_harm_that_comes_with_load_is_found_after_a_long_good_step(self) -> None:
        judge = Judge(Rules(), steps=2, slow=False)
        self.feed(judge, 3000, 0.0)
        judge.begin_step()
        self.feed(judge, 60, 0.6)
        assert judge.harmful() == "errors"

    def test_a_bad_last_step_is_not_promoted_on_the_strength_of_the_first(self) -> None:
        judge = Judge(Rules(), steps=2, slow=False)
        self.feed(judge, 500, 0.0)
        assert verdict_of(judge) == "promote"
        judge.begin_step()
        assert verdict_of(judge) == "continue"
        self.feed(judge, 30, 0.2)
        assert judge.progress() < 0

    def test_requests_are_counted_by_step(self) -> None:
        judge = Judge(Rules(), steps=2, slow=False)
        self.feed(judge, 7, 0.0)
        judge.begin_step()
        self.feed(judge, 3, 0.0)
        assert (judge.requests, judge.requests_here) == (10, 3)


class TestHarm:
    def test_blocks_compare_what_came_at_the_same_time(self) -> None:
        harm = Harm(Rules(), 1)
        for canary, value in [(False, 1), (False, 0), (True, 1), (True, 0), (False, 0)]:
            harm.add(canary, float(value))
        assert harm._blocks == [0.5, 0.0]
        assert harm.numbers()["canary"] == 0.5
        assert harm.numbers()["live"] == pytest.approx(1 / 3)

    def test_nothing_known(self) -> None:
        numbers = Harm(Rules(), 1).numbers()
        assert (numbers["canary"], numbers["canary_n"], numbers["blocks"]) == (None, 0, 0)

    def test_begun_steps_share_the_stake(self) -> None:
        """With steps still to come their part of the stake is kept, so the evidence is the lower for it."""
        one, four = Harm(Rules(), 1), Harm(Rules(), 4)
        for harm in (one, four):
            for _ in range(40):
                harm.add(False, 0.0)
                harm.add(True, 1.0)
            harm.settle()
        assert four.worst == pytest.approx(one.worst - log(4), abs=0.01)


class TestWords:
    def test_numbers_hold_the_rules_and_each_harm(self) -> None:
        judge = Judge(Rules(tolerance=0.02, alpha=0.03, beta=0.04))
        numbers = judge.numbers()
        assert set(numbers) >= {"errors", "slow answers", "wrong answers"}
        assert (numbers["tolerance"], numbers["alpha"], numbers["beta"]) == (0.02, 0.03, 0.04)
        assert numbers["log_evidence_needed"] == {"worse": pytest.approx(log(100)), "fine": pytest.approx(log(25))}

    def test_describe(self) -> None:
        judge = Judge(Rules())
        assert judge.describe("errors") == "errors: nothing known"
        judge.add("errors", True, 1.0)
        judge.add("errors", False, 0.0)
        assert judge.describe("errors") == "errors: 100.0% of 1 with the canary, 0.0% of 1 with the live version"


@pytest.mark.parametrize("name", ["tolerance", "alpha", "beta"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan")])
def test_wrong_rules_are_refused(name: str, value: float) -> None:
    with pytest.raises(BadSettings, match=f"{name} is .*; give a share between 0 and 1"):
        Rules(**{name: value})
