"""Quality without labels: close to the real one while calibration holds, and loud once labels say that it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.monitor.classified import auc, f1, probabilities
from modelkeep.monitor.estimated import CELLS, FEWEST, Calibrated, Calibration, Estimated, cells, expected, isotonic

HEAT = 1.6
"""The model of these tests is overconfident: its logits are so many times too large."""


def world(rng: Any, n: int, classes: int = 4, sharp: float = 1.5) -> tuple[Any, Any]:
    """(scores, truth): the scores are too sure, by the same function of the truth everywhere; a smaller ``sharp`` is a
    harder world."""
    logits = rng.normal(0, sharp, (n, classes))
    truth = (probabilities(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, classes - 1)
    return probabilities(logits * HEAT), truth


def fitted(rng: Any, n: int = 1024, **given: Any) -> Calibration:
    scores, truth = world(rng, n, **given)
    return Calibration(scores.max(axis=1), scores.argmax(axis=1) == truth)


class TestIsotonic:
    def test_it_is_that_of_scikit_learn(self) -> None:
        regression = pytest.importorskip("sklearn.isotonic")
        rng = np.random.default_rng(0)
        for _ in range(20):
            x = np.round(rng.random(80), 2)
            y = (rng.random(80) < x).astype(float)
            points, values = isotonic(x, y)
            assert values == pytest.approx(regression.IsotonicRegression().fit(x, y).predict(points))

    def test_what_rises_already_stays(self) -> None:
        points, values = isotonic(np.array([3.0, 1.0, 2.0]), np.array([0.9, 0.1, 0.5]))
        assert points.tolist() == [1, 2, 3]
        assert values.tolist() == pytest.approx([0.1, 0.5, 0.9])

    def test_what_falls_is_pooled(self) -> None:
        _, values = isotonic(np.array([1.0, 2.0, 3.0]), np.array([0.9, 0.5, 0.1]))
        assert values.tolist() == pytest.approx([0.5, 0.5, 0.5])


class TestCells:
    def test_they_rise_with_confidence_and_hold_the_ends(self) -> None:
        found = cells(np.array([0.0, 0.1, 0.5, 0.9, 0.99, 0.999999, 1.0]))
        assert found[0] == 0
        assert found[-1] == CELLS - 1
        assert (np.diff(found) > 0).all()


class TestCalibration:
    def test_too_few_rows_are_none(self) -> None:
        assert Calibration.of(np.full(FEWEST - 1, 0.9), np.ones(FEWEST - 1, bool)) is None
        assert Calibration.of(np.full(FEWEST, 0.9), np.ones(FEWEST, bool)) is not None

    def test_it_takes_back_what_the_model_is_too_sure_of(self) -> None:
        calibration = fitted(np.random.default_rng(1), 4000)
        scores, truth = world(np.random.default_rng(2), 20_000)
        right, sure = scores.argmax(axis=1) == truth, scores.max(axis=1)
        assert sure.mean() - right.mean() > 0.05
        assert calibration.map[cells(sure)].mean() == pytest.approx(right.mean(), abs=0.02)

    def test_chances_sum_to_one_and_keep_the_best(self) -> None:
        calibration = fitted(np.random.default_rng(3))
        scores = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
        chances = calibration.chances(scores)
        assert chances.sum(axis=1) == pytest.approx(np.ones(2))
        assert chances[0, 1] == pytest.approx(2 * chances[0, 2])
        assert chances[1, 1] == pytest.approx(chances[1, 2])

    def test_more_rows_err_less(self) -> None:
        few, many = fitted(np.random.default_rng(4), 200), fitted(np.random.default_rng(4), 5000)
        assert many.slack(many.spread) < few.slack(few.spread) < 0.1


class TestExpected:
    def test_nothing_yet(self) -> None:
        assert expected(fitted(np.random.default_rng(5)), np.empty((0, 4))) == {}

    @pytest.mark.parametrize("classes", [2, 4])
    def test_it_is_close_to_the_real_metrics_as_the_world_grows_harder(self, classes: int) -> None:
        """Eight worlds from easy to hopeless; on average within 1.5 points of the accuracy that labels would show."""
        rng = np.random.default_rng(6)
        calibration = fitted(rng, 4000, classes=classes)
        off: dict[str, list[float]] = {"accuracy": [], "f1": [], "auc": []}
        held = 0
        for sharp in (2.5, 2.0, 1.5, 1.2, 1.0, 0.8, 0.6, 0.4):
            scores, truth = world(rng, 4000, classes, sharp)
            told, answers = expected(calibration, scores), scores.argmax(axis=1)
            area = auc(scores, truth)
            assert area is not None
            real = {"accuracy": (answers == truth).mean(), "f1": f1(answers, truth).value, "auc": area.value}
            for name, value in real.items():
                off[name].append(abs(told[name].value - value))
            accuracy = told["accuracy"]
            assert accuracy.low is not None
            assert accuracy.high is not None
            held += accuracy.low <= real["accuracy"] <= accuracy.high
        assert np.mean(off["accuracy"]) <= 0.015
        assert np.mean(off["f1"]) <= 0.03
        assert np.mean(off["auc"]) <= 0.03
        assert held >= 7

    @pytest.mark.parametrize("share", [0.25, 1.0])
    def test_answers_of_nan_are_wrong(self, share: float) -> None:
        scores, truth = world(np.random.default_rng(6), 4000)
        scores[: int(share * 4000)] = np.nan
        answers = np.where(np.isnan(scores[:, 0]), -2, scores.argmax(axis=1))
        told = expected(fitted(np.random.default_rng(5), 4000), scores)
        accuracy = told["accuracy"]
        assert accuracy.n == 4000
        assert accuracy.value == pytest.approx((answers == truth).mean(), abs=0.03)
        assert accuracy.low is not None
        assert accuracy.high is not None
        assert accuracy.low <= (answers == truth).mean() <= accuracy.high
        if share < 1:
            assert told["f1"].value == pytest.approx(f1(answers, truth).value, abs=0.03)

    def test_intervals_hold_the_real_accuracy(self) -> None:
        """Calibration and answers drawn anew each time."""
        rng, missed = np.random.default_rng(7), 0
        many, truth = world(rng, 100_000)
        real = (many.argmax(axis=1) == truth).mean()
        for _ in range(40):
            told = expected(fitted(rng, 500), world(rng, 500)[0])["accuracy"]
            assert told.low is not None
            assert told.high is not None
            missed += not told.low <= real <= told.high
        assert missed <= 4


def feed(estimated: Estimated, scores: Any) -> Estimated:
    for at, row in enumerate(scores):
        estimated.add(row[None], float(at))
    return estimated


def hold(scores: Any, truth: Any, seed: int = 8) -> Calibrated:
    made = Calibrated(fitted(np.random.default_rng(seed), 2000), 1e6)
    for at, row in enumerate(scores):
        made.add(row[None], float(row.argmax() == truth[at]), float(at))
    return made


class TestCalibrated:
    def test_labels_that_bear_it_out_are_no_finding(self) -> None:
        for seed in range(5):
            made = hold(*world(np.random.default_rng(seed + 20), 2000))
            assert made.finding() is None
            assert made.holds
            assert made.numbers()["low"] < 0.05
            assert made.numbers()["high"] > -0.05

    @pytest.mark.parametrize("way", ["fewer", "more"])
    def test_a_meaning_that_changed_is_found(self, way: str) -> None:
        """The same inputs mean something else now: answers stay as sure, and half of them are right no more, or all."""
        rng = np.random.default_rng(9)
        scores, truth = world(rng, 1200)
        changed = (truth + 1) % 4 if way == "fewer" else scores.argmax(axis=1)
        other = np.where((np.arange(1200) >= 800) & (rng.random(1200) < 0.7), changed, truth)
        made = hold(scores, other)
        found = made.finding()
        assert found is not None
        assert (found.kind, found.subject) == ("quality", "calibration")
        assert found.since is not None
        assert 700 <= found.since <= 900
        assert found.evidence["way"] == way
        assert found.evidence["low"] > 0
        assert "estimates of quality without labels are void" in found.why
        assert made.numbers()["holds"] is False
        assert made.numbers()["gap"] * (1 if way == "more" else -1) > 0

    def test_no_labels_yet(self) -> None:
        made = hold(np.empty((0, 4)), [])
        assert made.holds
        assert made.numbers()["n"] == 0


class TestEstimated:
    def make(self, floor: float | None = None, seed: int = 8) -> Estimated:
        return Estimated(fitted(np.random.default_rng(seed), 2000), floor, "what was promised", 1e6)

    def test_it_is_close_to_the_real_accuracy(self) -> None:
        scores, truth = world(np.random.default_rng(30), 2500)
        accuracy = feed(self.make(), scores).measured()["accuracy"]
        assert abs(accuracy.value - (scores.argmax(axis=1) == truth)[-2000:].mean()) < 0.04

    def test_a_harder_world_is_told_without_labels(self) -> None:
        rng = np.random.default_rng(10)
        usual, hard = world(rng, 1000, sharp=2.5)[0], world(rng, 1000, sharp=0.5)[0]
        quiet, loud = feed(self.make(floor=0.55), usual), feed(self.make(floor=0.55), np.concatenate([usual, hard]))
        assert quiet.finding() is None
        found = loud.finding()
        assert found is not None
        assert found.subject == "estimated accuracy"
        assert "without labels; what was promised is 55.0%. It assumes that an answer" in found.why

    def test_a_model_that_answers_with_nan_is_found_without_labels(self) -> None:
        usual = world(np.random.default_rng(10), 1000, sharp=2.5)[0]
        usual[500::2] = np.nan
        found = feed(self.make(floor=0.6), usual).finding()
        assert found is not None
        assert found.evidence["at_most"] < 0.5

    def test_without_a_promise_nothing_is_judged(self) -> None:
        assert feed(self.make(), world(np.random.default_rng(11), 500, sharp=0.1)[0]).finding() is None

    def test_the_newest_rows_count(self) -> None:
        rng = np.random.default_rng(12)
        made = feed(self.make(), np.concatenate([world(rng, 2500, sharp=0.3)[0], world(rng, 2100, sharp=3.0)[0]]))
        assert made.n == 4600
        assert made.measured()["accuracy"].n <= 2008
        assert made.measured()["accuracy"].value > 0.6

    def test_as_a_person_reads_it(self) -> None:
        made = self.make()
        assert made.describe() == "estimated without labels: no answers yet"
        assert made.numbers()["n"] == 0
        feed(made, world(np.random.default_rng(13), 50)[0])
        assert made.describe().startswith("estimated without labels: accuracy ")
        assert made.describe(holds=False).endswith("void, for calibration no longer holds")
