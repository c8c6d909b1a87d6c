"""Accuracy with its interval, and whether a new model is worse than the old."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData
from modelkeep.model import engines, score
from modelkeep.types import Signature, TensorSpec


def signature(*shape: int | None, dtype: str = "float32", batch: int | None = None) -> Signature:
    return Signature((TensorSpec("x", "int64", (batch,)),), (TensorSpec("output", dtype, (batch, *shape)),))


class Fixed:
    """Answers row i of a table with what stands there."""

    def __init__(self, answers: np.ndarray, made: Signature | None = None) -> None:
        self.signature = made or signature(*answers.shape[1:], dtype=answers.dtype.name)
        self.answers = answers
        self.batches: list[int] = []

    def run(self, inputs: Any) -> dict[str, Any]:
        self.batches.append(len(inputs["x"]))
        return {"output": self.answers[inputs["x"]]}

    def close(self) -> None: ...


def scores(classes: np.ndarray, n: int = 3) -> np.ndarray:
    return np.eye(n, dtype=np.float32)[classes]


def rows(labels: Any) -> Dataset:
    return Dataset({"x": np.arange(len(labels))}, np.asarray(labels), "made rows")


class TestPredictions:
    @pytest.mark.parametrize(
        ("output", "expected"),
        [
            (np.array([[0.1, 0.7], [0.6, 0.4]], np.float32), [1, 0]),
            (np.array([3, 1]), [3, 1]),
            (np.array(["cat", "dog"]), ["cat", "dog"]),
            (np.array([[3], [1]]), [[3], [1]]),
            (np.array([[np.nan, 0.7], [0.6, 0.4], [np.nan, np.nan]], np.float32), [score.NO_CLASS, 0, score.NO_CLASS]),
        ],
    )
    def test_scores_become_classes_and_classes_stay(self, output: np.ndarray, expected: list) -> None:
        assert score.predictions({"output": output}, signature(2)).tolist() == expected


class TestCorrect:
    def test_each_row_is_judged_in_batches(self) -> None:
        runner = Fixed(scores(np.array([0, 1, 2, 0, 1])))
        assert score.correct(runner, rows([0, 1, 1, 0, 2]), batch=2).tolist() == [True, True, False, True, False]
        assert runner.batches == [2, 2, 1]

    def test_a_baked_in_batch_is_filled_up(self) -> None:
        runner = Fixed(scores(np.array([0, 1, 2])), signature(3, batch=2))
        assert score.correct(runner, rows([0, 1, 1])).tolist() == [True, True, False]
        assert runner.batches == [2, 2]

    def test_truth_as_names_is_turned_into_class_numbers(self) -> None:
        runner = Fixed(scores(np.array([0, 1, 2])))
        assert score.correct(runner, rows(["cat", "dog", "cat"]), ["cat", "dog", "eel"]).tolist() == [True, True, False]

    def test_a_model_that_answers_with_names_or_one_column(self) -> None:
        assert score.correct(Fixed(np.array(["cat", "dog"])), rows(["cat", "cat"])).tolist() == [True, False]
        assert score.correct(Fixed(np.array([[1], [2]])), rows([1, 1])).tolist() == [True, False]

    def test_a_class_that_the_model_has_never_seen_is_just_wrong(self) -> None:
        assert score.correct(Fixed(scores(np.array([0, 1]))), rows([0, 9])).tolist() == [True, False]

    @pytest.mark.parametrize(
        ("answers", "labels", "said"),
        [
            (
                scores(np.array([0, 1])),
                None,
                "made rows has no labels; put them into an array 'labels' (.npz) or a column 'label' (.csv); those",
            ),
            (scores(np.array([0, 1])), ["cat", "dog"], "the labels of made rows are"),
            (np.array([0.3, 0.7], np.float32), [0, 1], "needs classes, and the model's first output is float32 [2]"),
            (np.array([[1, 2], [3, 4]]), [0, 1], "has labels of shape [2], the answers [2, 2]"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, answers: np.ndarray, labels: Any, said: str) -> None:
        given = rows([0, 0]) if labels is None else rows(labels)
        given = Dataset(given.inputs, None if labels is None else given.labels, given.source)
        with pytest.raises(BadData) as error:
            score.correct(Fixed(answers), given)
        assert said in str(error.value)

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(BadData, match="has the label 'fox'; the model's classes are cat, dog"):
            score.correct(Fixed(scores(np.array([0, 1]))), rows(["cat", "fox"]), ["cat", "dog"])


class TestScore:
    def test_the_interval_is_wilsons_and_the_worst_class_is_named(self) -> None:
        truth = np.repeat([0, 1, 2], 30)
        answers = truth.copy()
        answers[60:75] = 0  # half of class 2 is wrong
        report = score.score(Fixed(scores(answers)), rows(truth), ["cat", "dog", "eel"])
        assert report.kind == "score"
        assert report.ok is None
        assert report.numbers["accuracy"] == pytest.approx(75 / 90)
        # Wilson's interval by hand: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
        p, n, z = 75 / 90, 90, 1.959964
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert report.numbers["low"] == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-5)
        assert report.numbers["high"] == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-5)
        assert (report.numbers["worst_class"], report.numbers["worst_accuracy"]) == ("eel", 0.5)
        assert "accuracy 0.8333 on 90 rows" in report.why
        assert "worst is class eel, 0.5000" in report.why

    def test_rows_with_nan_are_told(self) -> None:
        inputs = {
            "x": np.arange(4),
            "seen": np.zeros((4, 2, 2)),
            "age": np.zeros(4, np.float32),
            "name": np.array(["nan"] * 4),
        }
        inputs["seen"][1] = inputs["age"][1] = inputs["age"][3] = np.nan
        report = score.score(Fixed(scores(np.zeros(4, int))), Dataset(inputs, np.zeros(4, int), "made rows"))
        assert report.numbers["nan"] == 2
        assert report.why.endswith("; the inputs of 2 rows hold NaN")
        report = score.score(Fixed(scores(np.zeros(1, int))), rows([0]))
        assert report.numbers["nan"] == 0
        assert report.why == "accuracy 1.0000 on 1 row (95 % interval 0.2065 to 1.0000)"

    def test_scores_of_nan_are_wrong(self) -> None:
        """To argmax they are class 0, which half of these rows are of."""
        given = scores(np.array([0, 0, 1, 1]))
        given[0] = np.nan
        report = score.score(Fixed(given), rows([0, 0, 1, 1]))
        assert (report.numbers["accuracy"], report.numbers["worst_class"]) == (0.75, "0")

    def test_a_trained_network_on_real_digits(self, adopted: Any, digits: Any) -> None:
        for name in ("MLP", "Conv", "Encoder"):
            report = score.score(engines.load(adopted(name)), digits[1])
            assert report.numbers["accuracy"] > 0.85, name
            assert report.numbers["n"] == 597


class TestRegression:
    def test_a_model_that_is_as_good_passes(self) -> None:
        truth = np.arange(600) % 3
        same = Fixed(scores(truth))
        report = score.regression(same, same, rows(truth), max_drop=0.01)
        assert report.ok is True
        assert report.numbers["drop"] == 0
        assert 0 <= report.numbers["drop_upper"] <= 0.01
        assert "accuracy 1.0000 → 1.0000 on 600 rows" in report.why

    def test_a_worse_one_does_not_and_the_bound_is_told(self) -> None:
        truth = np.arange(600) % 3
        worse = truth.copy()
        worse[:60] = (worse[:60] + 1) % 3
        report = score.regression(Fixed(scores(truth)), Fixed(scores(worse)), rows(truth), max_drop=0.05)
        assert report.ok is False
        assert report.numbers["drop"] == pytest.approx(0.1)
        assert report.numbers["drop_upper"] > 0.1
        assert (report.numbers["lost"], report.numbers["won"]) == (60, 0)
        assert "more than the 0.0500 allowed" in report.why

    def test_too_few_rows_cannot_promise_much(self) -> None:
        truth = np.arange(20) % 3
        same = Fixed(scores(truth))
        report = score.regression(same, same, rows(truth), max_drop=0.01)
        assert report.ok is False
        assert "more labelled rows may narrow the bound" in report.why


def test_a_regression_may_be_judged_from_what_was_right_before_and_after() -> None:
    before = np.ones(400, bool)
    after = before.copy()
    after[:2] = False
    report = score.judge(before, after, 0.03, "rows")
    assert (report.ok, report.numbers["lost"], report.numbers["won"], report.data) == (True, 2, 0, "rows")
    assert score.judge(before, after, 0.005, "rows").ok is False
