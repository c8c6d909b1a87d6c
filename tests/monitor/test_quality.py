"""Quality: right and wrong in every form that truth comes in, and a verdict only with enough of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.monitor.quality import CHUNK, Quality, are_classes, predicted, share_right
from modelkeep.types import Model, Signature, TensorSpec


def model(outputs: TensorSpec, labels: tuple[str, ...] = ()) -> Model:
    return Model(Path("unused"), "onnx", Signature((), (outputs,)), ("model.onnx",), labels)


SCORES = model(TensorSpec("scores", "float32", (None, 3)))


class TestPredicted:
    def test_scores(self) -> None:
        found = predicted({"scores": np.array([[0, 1, 0], [3, 2, 1]], "float32")}, SCORES)
        assert found is not None
        assert found.tolist() == [1, 0]

    def test_classes(self) -> None:
        found = predicted({"kind": np.array([4, 2])}, model(TensorSpec("kind", "int64", (None,))))
        assert found is not None
        assert found.tolist() == [4, 2]

    def test_texts(self) -> None:
        found = predicted({"kind": np.array(["cat"], dtype=object)}, model(TensorSpec("kind", "str", (None,))))
        assert found is not None
        assert found.tolist() == ["cat"]

    def test_a_price_is_neither_right_nor_wrong(self) -> None:
        assert predicted({"price": np.array([1.5], "float32")}, model(TensorSpec("price", "float32", (None,)))) is None

    def test_nothing_captured(self) -> None:
        assert predicted(None, SCORES) is None


class TestShareRight:
    @pytest.mark.parametrize(
        ("answers", "label", "names", "share"),
        [
            ([3], 3, (), 1.0),
            ([3], 4, (), 0.0),
            ([3], 3.0, (), 1.0),
            ([3], [3], (), 1.0),
            ([1, 2, 3, 4], [1, 2, 0, 0], (), 0.5),
            ([1], "dog", ("cat", "dog"), 1.0),
            ([1], "cat", ("cat", "dog"), 0.0),
            ([1], "owl", ("cat", "dog"), 0.0),
            ([1], True, (), 1.0),
            ([1], "dog", (), None),
            ([1, 2], 1, (), None),
            ([1], [1, 2], (), None),
            ([1], float("nan"), (), None),
            ([1], None, (), None),
            ([], [], (), None),
            ([1, 2, 3], [1, None, 0], (), 0.5),
            ([1, 2], [None, "dog"], ("cat", "owl", "dog"), 1.0),
            ([1, 2], [None, None], (), None),
        ],
    )
    def test_numbers(self, answers: list[int], label: Any, names: tuple[str, ...], share: float | None) -> None:
        assert share_right(np.array(answers, dtype=np.int64), label, names) == share

    @pytest.mark.parametrize(
        ("label", "share"),
        [
            ([[1, 0, 1], [0, 0, 0]], 0.5),
            ([[1, 0, 1], None], 1.0),
            ([[True, False, True], [0, 1, 0]], 1.0),
            ([None, None], None),
            ([[1, 0], [0, 1]], None),
            ([1, 0], None),
            (1, None),
        ],
    )
    def test_of_several_classes_a_row_all_must_be_right(self, label: Any, share: float | None) -> None:
        answers = np.array([[1, 0, 1], [0, 1, 0]])
        spec = TensorSpec("tags", "int64", (None, 3))
        assert share_right(predicted({"tags": answers}, model(spec)), label) == share

    def test_of_a_single_row_its_classes_alone_will_do(self) -> None:
        assert share_right(np.array([[1, 0, 1]]), [1, 0, 1]) == 1.0
        assert share_right(np.array([[1, 0, 1]]), [1, 0, 0]) == 0.0

    def test_texts(self) -> None:
        assert share_right(np.array(["cat", "dog"], dtype=object), ["cat", "cat"]) == 0.5

    @pytest.mark.parametrize(
        ("answer", "label", "names", "share"),
        [
            ("dog", 1, ("cat", "dog"), 1.0),
            ("dog", 0.0, ("cat", "dog"), 0.0),
            ("dog", 7, ("cat", "dog"), 0.0),
            ("7", 7, (), 1.0),
            ("dog", "owl", ("cat", "dog"), 0.0),
        ],
    )
    def test_the_number_of_a_text(self, answer: str, label: Any, names: tuple[str, ...], share: float | None) -> None:
        """Where the model has names, a class is its number or its name."""
        assert share_right(np.array([answer], dtype=object), label, names) == share

    def test_nothing_known(self) -> None:
        assert share_right(None, 3) is None


def quality(rates: list[tuple[int, float]], floor: float | None = 0.9, seed: int = 0) -> Quality:
    """So many labelled requests with that accuracy, one after the other, one a second."""
    rng = np.random.default_rng(seed)
    made, at = Quality(floor, "what was promised", 1e6), 0
    for count, accuracy in rates:
        for _ in range(count):
            made.add(float(rng.random() < accuracy), float(at))
            at += 1
    return made


class TestVerdict:
    def test_exactly_what_was_promised_is_no_finding(self) -> None:
        assert not any(quality([(5000, 0.9)], seed=seed).finding() for seed in range(20))

    def test_too_low_is_found(self) -> None:
        assert all(quality([(160, 0.6)], seed=seed).finding() for seed in range(20))

    def test_a_fall_after_a_long_good_time_is_found(self) -> None:
        found = quality([(5000, 0.97), (192, 0.6)]).finding()
        assert found is not None
        assert (found.kind, found.subject) == ("quality", "accuracy")
        assert found.since is not None
        assert 4900 <= found.since <= 5080
        assert found.evidence["n"] == 5192 - found.since
        assert found.evidence["low"] < 0.6 < found.evidence["high"] < 0.9
        assert found.why.startswith("accuracy is ")
        assert "labelled requests; what was promised is 90.0%" in found.why

    def test_without_a_floor_nothing_is_judged(self) -> None:
        assert quality([(500, 0.0)], floor=None).finding() is None

    def test_fewer_than_a_chunk_is_too_little(self) -> None:
        assert quality([(CHUNK - 1, 0.0)]).finding() is None


class TestNumbers:
    def test_accuracy_with_its_interval(self) -> None:
        made = quality([(400, 0.95)])
        numbers = made.numbers()
        assert numbers["n"] == 400
        assert numbers["low"] < numbers["accuracy"] < numbers["high"]
        assert made.describe().endswith(" on 400 labelled requests")
        assert quality([(1, 1.0)]).describe().endswith(" on 1 labelled request")
        assert quality([(1400, 1.0)]).describe().endswith(" on 1,400 labelled requests")

    def test_without_labels_there_is_none(self) -> None:
        made = Quality(0.9, "what was promised", 1e6)
        assert made.numbers() == {"n": 0, "floor": 0.9}
        assert made.finding() is None


@pytest.mark.parametrize(
    ("dtype", "shape", "classes"),
    [
        ("float32", (None, 10), True),
        ("int64", (None,), True),
        ("str", (None,), True),
        ("float32", (None, 1), False),
        ("float64", (None,), False),
    ],
)
def test_which_answers_are_classes(dtype: str, shape: tuple[int | None, ...], classes: bool) -> None:
    signature = Signature((), (TensorSpec("y", dtype, shape),))
    assert are_classes(Model(Path("unused"), "onnx", signature, ("model.onnx",))) == classes
