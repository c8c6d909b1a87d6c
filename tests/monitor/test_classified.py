"""F1, AUC and log loss: the values that scikit-learn gives, and intervals that hold while one looks again and again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.monitor.classified import CLIP, Classified, Measured, auc, f1, log_loss, probabilities

metrics = pytest.importorskip("sklearn.metrics")


def world(rng: Any, n: int, classes: int, sharp: float = 2.0) -> tuple[Any, Any]:
    """(chances, truth) of a model that is calibrated, so that its expected metrics can be simulated."""
    chances = probabilities(rng.normal(0, sharp, (n, classes)))
    truth = (chances.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, classes - 1)
    return chances, truth


class TestValues:
    @pytest.mark.parametrize("classes", [2, 4])
    def test_they_are_those_of_scikit_learn(self, classes: int) -> None:
        chances, truth = world(np.random.default_rng(0), 500, classes)
        answers = chances.argmax(axis=1)
        assert f1(answers, truth).value == pytest.approx(metrics.f1_score(truth, answers, average="macro"))
        assert log_loss(chances, truth).value == pytest.approx(metrics.log_loss(truth, chances))
        area = auc(chances, truth)
        assert area is not None
        scores = chances[:, 1] if classes == 2 else chances
        assert area.value == pytest.approx(metrics.roc_auc_score(truth, scores, multi_class="ovr"))

    def test_a_label_that_the_model_does_not_know_is_wrong_for_all(self) -> None:
        chances = np.array([[0.9, 0.1], [0.2, 0.8]])
        assert f1(np.array([0, 1]), np.array([-1, 1])).value == pytest.approx((0 + 1) / 2)
        assert log_loss(chances, np.array([-1, 1])).value == pytest.approx((CLIP - np.log(0.8)) / 2)

    def test_ties_count_half(self) -> None:
        area = auc(np.full((6, 2), 0.5), np.array([0, 1, 0, 1, 1, 0]))
        assert area is not None
        assert area.value == 0.5

    def test_one_class_alone_has_no_area_and_many_have_none(self) -> None:
        assert auc(np.full((3, 2), 0.5), np.array([1, 1, 1])) is None
        assert auc(np.full((3, 30), 1 / 30), np.array([1, 2, 3])) is None

    def test_logits_are_made_probabilities(self) -> None:
        assert probabilities(np.array([[0.25, 0.75]])).tolist() == [[0.25, 0.75]]
        assert probabilities(np.array([[1000.0, 1000.0]])).tolist() == [[0.5, 0.5]]


class TestIntervals:
    """Looked at five times in each of 60 streams; with 95 % confidence 3 may have missed at any look, and some more by
    chance: the sequences are surer than they promise, so that 6 would be a fault."""

    @pytest.mark.parametrize("name", ["f1", "auc", "log_loss"])
    def test_they_hold_the_true_value_while_looking_again_and_again(self, name: str) -> None:
        rng = np.random.default_rng(1)
        metric: Any = {
            "f1": lambda chances, truth: f1(chances.argmax(axis=1), truth),
            "auc": auc,
            "log_loss": log_loss,
        }[name]
        many = metric(*world(rng, 100_000, 3)).value
        missed, widths = 0, []
        for _ in range(60):
            chances, truth = world(rng, 600, 3)
            looks = [metric(chances[:n], truth[:n]) for n in (20, 60, 150, 300, 600)]
            missed += any(look is not None and not look.low <= many <= look.high for look in looks)
            widths.append(looks[-1].high - looks[-1].low)
        assert missed < 6
        assert np.mean(widths) < {"f1": 0.5, "auc": 0.35, "log_loss": 0.5}[name]

    def test_rows_of_one_request_that_are_alike_make_nothing_surer(self) -> None:
        rng = np.random.default_rng(2)
        chances, truth = world(rng, 50, 2)
        many, single = Classified(), Classified()
        for one, label in zip(chances, truth, strict=True):
            alike, told = np.repeat(one[None], 40, axis=0), np.repeat(label, 40)
            many.add(alike.argmax(axis=1), told, alike)
            single.add(one[None].argmax(axis=1), told[:1], one[None])
        for name, measured in many.measured().items():
            other = single.measured()[name]
            assert measured.n == other.n == 50
            assert (measured.low, measured.high) == pytest.approx((other.low, other.high))


class TestClassified:
    def test_nothing_yet(self) -> None:
        assert Classified().measured() == {}

    def test_without_probabilities_there_is_f1_only(self) -> None:
        made = Classified()
        made.add(np.array([1, 0]), np.array([1, 1]))
        assert list(made.measured()) == ["f1"]
        assert len(made) == 1

    def test_an_answer_that_is_no_class_costs_the_others_no_metric(self) -> None:
        rng = np.random.default_rng(4)
        chances, truth = world(rng, 60, 3)
        whole, void = Classified(), Classified()
        for one, label in zip(chances, truth, strict=True):
            for made in (whole, void):
                made.add(one[None].argmax(axis=1), label[None], one[None])
        void.add(np.array([-2]), np.array([0]))
        for name in ("log_loss", "auc"):
            assert void.measured()[name] == whole.measured()[name]
        assert void.measured()["f1"].value < whole.measured()["f1"].value

    def test_as_a_person_reads_it(self) -> None:
        assert Measured(0.912, 0.88, 0.94, 1400).describe() == "0.912 (0.880 to 0.940, n 1,400)"
        assert Measured(0.5, None, None, 3).describe("{:.1%}".format) == "50.0% (n 3)"
