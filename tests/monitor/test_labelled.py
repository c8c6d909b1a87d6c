"""Answers beside their truth, in every form that both come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.bins import Bins
from modelkeep.data.features import Columns
from modelkeep.errors import BadSettings
from modelkeep.model.score import NO_CLASS
from modelkeep.monitor.labelled import Answer, Labelled, Slices, answer, chances
from modelkeep.types import Model, Signature, TensorSpec


def model(dtype: str, shape: tuple[int | None, ...], labels: tuple[str, ...] = ()) -> Model:
    return Model(Path("unused"), "onnx", Signature((), (TensorSpec("y", dtype, shape),)), ("model.onnx",), labels)


SCORES = model("float32", (None, 3), ("cat", "dog", "owl"))
SKLEARN = Model(
    Path("unused"),
    "onnx",
    Signature((), (TensorSpec("label", "int64", (None,)), TensorSpec("chances", "float32", (None, 3)))),
    ("model.onnx",),
)
PRICE = model("float32", (None, 1))
NO_LABELS: list[Any] = [float("nan"), float("inf"), 10**400, "nan", ""]
"""None of them is taken any more; a file may hold some that were."""
ANSWERED = [({"y": np.eye(1, 3, dtype="float32")}, SCORES), ({"y": np.ones((1, 1), "float32")}, PRICE)]


class TestAnswer:
    def test_scores_and_a_class(self) -> None:
        one = answer({"y": np.array([[0.1, 0.7, 0.2]], "float32")}, 1, SCORES)
        assert one is not None
        assert one.right == 1.0
        assert one.classes is not None
        assert [each.tolist() for each in one.classes] == [[1], [1]]
        assert one.chances is not None
        assert one.chances[0] == pytest.approx([0.1, 0.7, 0.2])

    def test_rows_without_a_known_truth_are_left_out(self) -> None:
        outputs = {"y": np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3]], "float32")}
        one = answer(outputs, ["cat", None, "cat"], SCORES)
        assert one is not None
        assert one.right == 0.5
        assert one.classes is not None
        assert [each.tolist() for each in one.classes] == [[0, 2], [0, 0]]
        assert one.chances is not None
        assert one.chances.shape == (2, 3)
        assert one.chances.sum(axis=1) == pytest.approx(np.ones(2))

    def test_a_name_that_is_not_known_is_no_class(self) -> None:
        one = answer({"y": np.array([[0.1, 0.7, 0.2]], "float32")}, "wolf", SCORES)
        assert one is not None
        assert one.right == 0.0
        assert one.classes is not None
        assert one.classes[1].tolist() == [-1]

    def test_the_class_first_and_then_its_chances(self) -> None:
        """As scikit-learn's classifiers answer."""
        outputs = {"label": np.array([2, 0]), "chances": np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], "float32")}
        one = answer(outputs, [2, 1], SKLEARN)
        assert one is not None
        assert one.right == 0.5
        assert one.chances is not None
        assert one.chances[0] == pytest.approx([0.1, 0.2, 0.7])

    def test_chances_in_another_order_are_none_of_these_classes(self) -> None:
        """Of the classes 1, 2 and 5, say."""
        outputs = {"label": np.array([5]), "chances": np.array([[0.1, 0.2, 0.7]], "float32")}
        one = answer(outputs, 5, SKLEARN)
        assert one is not None
        assert (one.right, one.chances) == (1.0, None)

    @pytest.mark.parametrize("of", ["classes", "price"])
    def test_a_client_asked_for_another_output(self, of: str) -> None:
        assert answer({"other": np.zeros((1, 2), "float32")}, 1, SCORES if of == "classes" else PRICE) is None

    def test_a_price(self) -> None:
        one = answer({"y": np.array([[3.5], [4.0]], "float32")}, [3.0, 5], PRICE)
        assert one is not None
        assert (one.right, one.classes) == (None, None)
        assert one.numbers is not None
        assert [each.tolist() for each in one.numbers] == [[3.5, 4.0], [3.0, 5.0]]

    @pytest.mark.parametrize(
        ("label", "several", "true"),
        [
            ([[1.5, 20, 0], None], False, [[1.5, 20.0, 0.0]]),
            ([[1, 0, 0], [0, 0, 1]], True, [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        ],
    )
    def test_several_numbers_a_row(self, label: Any, several: bool, true: Any) -> None:
        outputs = {"y": np.arange(6, dtype="float32").reshape(2, 3)}
        one = answer(outputs, label, model("float32", (None, 3)), several=several)
        assert one is not None
        assert (one.right, one.classes, one.chances) == (None, None, None)
        assert one.numbers is not None
        assert one.numbers[0].tolist() == outputs["y"].tolist()[: len(true)]
        assert one.numbers[1].tolist() == true

    def test_the_only_row_needs_no_list_around_it(self) -> None:
        one = answer({"y": np.zeros((1, 3), "float32")}, [3, 1, 2], model("float32", (None, 3)), several=True)
        assert one is not None
        assert one.numbers is not None
        assert one.numbers[1].tolist() == [[3.0, 1.0, 2.0]]

    @pytest.mark.parametrize("label", [[[1, 2, 3, 4]], [1, 2, 3, 4]])
    def test_numbers_of_an_answer_of_more_dimensions(self, label: Any) -> None:
        """Of one request nested, of the next flat, say."""
        one = answer({"y": np.zeros((1, 2, 2), "float32")}, label, model("float32", (None, 2, 2)))
        assert one is not None
        assert one.numbers is not None
        assert one.numbers[1].tolist() == [[1.0, 2.0, 3.0, 4.0]]

    def test_where_how_many_they_are_is_free_all_are_as_one(self) -> None:
        """A forecast of so many days: the first of one request's is not that of another's, and no mean is of each."""
        labelled = Labelled(None, "", 1e6)
        for n in (3, 1, 5):
            outputs = {"y": np.zeros((1, n), "float32")}
            one = answer(outputs, [[float(n + day) for day in range(n)]], model("float32", (None, None)), several=True)
            assert one is not None
            labelled.add(one, 0.0)
        assert labelled.measured()["mae"].value == pytest.approx((4 + 1 + 7) / 3)
        assert labelled.measured()["rmse"].value == pytest.approx(np.sqrt((50 / 3 + 1 + 51) / 3))

    def test_one_number_in_a_list_is_that_number(self) -> None:
        one = answer({"y": np.array([[3.5], [4.0]], "float32")}, [[3.0], None], PRICE)
        assert one is not None
        assert one.numbers is not None
        assert [each.tolist() for each in one.numbers] == [[3.5], [3.0]]

    @pytest.mark.parametrize(
        ("label", "several"),
        [
            ([[0, 0, 1]], False),
            ([[1.0, 2.0]], True),
            ([[1.0, 2.0, 3.0]] * 2, True),
            ([[1.0, 2.0, float("nan")]], True),
            ([["a", "b", "c"]], True),
            (1, True),
            ("cat", True),
        ],
    )
    def test_what_is_no_list_of_as_many_numbers_is_none(self, label: Any, several: bool) -> None:
        """A one among zeros may be a class; where numbers are known to be meant, a class is none."""
        assert answer({"y": np.zeros((1, 3), "float32")}, label, SCORES, several=several) is None

    def test_several_classes_a_row_are_right_or_wrong(self) -> None:
        tags = {"y": np.array([[1, 0, 1], [0, 1, 0]])}
        one = answer(tags, [[1, 0, 1], [1, 1, 0]], model("int64", (None, 3)))
        assert one is not None
        assert (one.right, one.classes, one.chances, one.numbers) == (0.5, None, None, None)
        assert answer(tags, [1, 0], model("int64", (None, 3))) is None

    def test_scores_with_nan_answer_no_class(self) -> None:
        """The first NaN is the largest score to argmax: class 0 would be right here."""
        scores = np.array([[np.nan, 0.2, 0.1], [0.9, 0.1, 0.0]], "float32")
        one = answer({"y": scores}, [0, 0], SCORES)
        assert one is not None
        assert one.classes is not None
        assert (one.right, one.chances, one.classes[0].tolist()) == (0.5, None, [NO_CLASS, 0])

    def test_texts_are_right_or_wrong(self) -> None:
        one = answer({"y": np.array(["cat", "dog"], dtype=object)}, ["cat", "owl"], model("str", (None,)))
        assert one is not None
        assert one.classes is not None
        assert (one.right, [each.tolist() for each in one.classes]) == (0.5, [["cat", "dog"], ["cat", "owl"]])

    def test_texts_that_the_model_names_are_classes_of_a_column_each(self) -> None:
        specs = (TensorSpec("label", "str", (None,)), TensorSpec("chances", "float32", (None, 3)))
        named = Model(Path("unused"), "onnx", Signature((), specs), ("model.onnx",), ("cat", "dog", "owl"))
        given = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.0, 0.1, 0.9]], "float32")
        outputs: Any = {"label": np.array(["dog", "cat", "owl"], dtype=object), "chances": given}
        one = answer(outputs, ["dog", 2, "wolf"], named)
        assert one is not None
        assert one.classes is not None
        assert one.chances is not None
        assert (one.right, [each.tolist() for each in one.classes]) == (1 / 3, [[1, 0, 2], [1, 2, -1]])
        labelled = Labelled(None, "", 1e6)
        labelled.add(one, 0.0)
        assert set(labelled.measured()) >= {"accuracy", "f1", "log_loss"}
        other = answer({"label": np.array(["Dog"], dtype=object)}, "Dog", named)
        assert other == Answer(1.0), "its names are others'"

    def test_f1_of_texts_without_names_and_none_of_what_is_no_class(self) -> None:
        texts = model("str", (None,))
        labelled = Labelled(None, "", 1e6)
        for said, true in (("cat", "cat"), ("cat", "dog"), ("dog", "dog"), ("dog", "dog")):
            one = answer({"y": np.array([said], dtype=object)}, true, texts)
            assert one is not None
            labelled.add(one, 0.0)
        f1 = labelled.measured()["f1"]
        assert f1.value == pytest.approx((2 / 3 + 4 / 5) / 2)  # as sklearn.metrics.f1_score(average="macro") says
        assert f1.n == 4
        for number in range(300):
            one = answer({"y": np.array([f"a sentence {number}"], dtype=object)}, f"another {number}", texts)
            assert one is not None
            labelled.add(one, 0.0)
        assert set(labelled.measured()) == {"accuracy"}

    def test_texts_keep_the_chances_that_calibration_is_held_against(self) -> None:
        specs = (TensorSpec("label", "str", (None,)), TensorSpec("chances", "float32", (None, 3)))
        texts = Model(Path("unused"), "onnx", Signature((), specs), ("model.onnx",))
        given = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], "float32")
        outputs: Any = {"label": np.array(["owl", "cat"], dtype=object), "chances": given}
        one = answer(outputs, ["owl", None], texts)
        assert one is not None
        assert one.chances is not None
        assert (one.right, one.chances.tolist()) == (1.0, given[:1].tolist())
        labelled = Labelled(None, "", 1e6)
        labelled.add(one, 0.0)
        assert set(labelled.measured()) == {"accuracy", "f1"}, "no number says which text a column is of"
        short = answer(outputs | {"chances": given[:1]}, ["owl", "dog"], texts)
        assert short is not None
        assert (short.right, short.chances) == (0.5, None)

    @pytest.mark.parametrize(
        ("outputs", "label", "whose"),
        [
            (None, 1, SCORES),
            ({"y": np.zeros((2, 3), "float32")}, 1, SCORES),
            ({"y": np.zeros((1, 3), "float32")}, [None], SCORES),
            ({"y": np.zeros((1, 1), "float32")}, "cheap", PRICE),
            ({"y": np.zeros((2, 1), "float32")}, 1.0, PRICE),
            ({"y": np.zeros((1, 3), "float32")}, "cat", model("float32", (None, 3))),
            *((outputs, label, whose) for label in NO_LABELS for outputs, whose in ANSWERED),
        ],
    )
    def test_what_cannot_be_compared_is_none(self, outputs: Any, label: Any, whose: Model) -> None:
        assert answer(outputs, label, whose) is None

    @pytest.mark.filterwarnings("error")  # numpy would warn a person of infinite scores
    def test_a_row_with_nan_has_no_chances(self) -> None:
        """The others have theirs: they are probabilities, and no logits."""
        found = chances({"y": np.array([[np.nan, 1, 0], [0.5, 0.25, 0.25]], "float32")}, SCORES)
        assert found is not None
        np.testing.assert_array_equal(found, [[np.nan] * 3, [0.5, 0.25, 0.25]])
        with np.errstate(all="raise"):  # or each such answer would be a warning in a server's log
            assert chances({"y": np.array([[np.inf, 1, 2]], "float32")}, SCORES) is None
        assert chances({"y": np.zeros((1, 1), "float32")}, PRICE) is None


class TestLabelled:
    def test_classes(self) -> None:
        made = Labelled(None, "", 1e6)
        for at, label in enumerate([0, 1, 2, 1]):
            one = answer({"y": np.eye(3, dtype="float32")[[at % 3]]}, label, SCORES)
            assert one is not None
            made.add(one, float(at))
        measured = made.measured()
        assert set(measured) == {"accuracy", "f1", "log_loss", "auc"}
        assert measured["accuracy"].value == 0.75
        assert made.n == 4
        assert made.findings() == []

    def test_numbers_with_a_promise(self) -> None:
        made = Labelled(None, "", 1e6, worst=(1.0, "what was promised"))
        for at in range(200):
            made.add(Answer(numbers=(np.array([9.0]), np.array([1.0]))), float(at))
        assert set(made.measured()) == {"rmse", "mae"}
        (found,) = made.findings()
        assert found.subject == "error"


class TestSlices:
    def make(self, features: tuple[str, ...] = ("age",)) -> Slices:
        specs = (TensorSpec("age", "float32", (None,)), TensorSpec("sex", "int64", (None,)))
        rows = {"age": np.arange(800, dtype="float32") % 80, "sex": np.arange(800) % 2}
        columns = Columns.of(specs, rows)
        bins = Bins.of(columns.read(rows), columns.edges)
        return Slices(bins, columns, features, 0.9, "what was promised", 1e6)

    def feed(self, slices: Slices, count: int = 1200) -> None:
        """The old are answered wrong."""
        rng = np.random.default_rng(0)
        for at in range(count):
            age, sex = rng.uniform(0, 80, 1).astype("float32"), rng.integers(0, 2, 1)
            slices.add({"age": age, "sex": sex}, Answer(float(age[0] < 69)), float(at))

    def test_each_bin_has_its_metrics_and_its_verdict(self) -> None:
        slices = self.make()
        self.feed(slices)
        rows = slices.numbers()
        assert rows[0]["slice"] == "age ≥ 69"
        assert rows[0]["accuracy"]["value"] < 0.1
        assert rows[-1]["accuracy"]["value"] == 1.0
        assert sum(row["n"] for row in rows) == 1200
        (found,) = slices.findings()
        assert found.subject == "accuracy where age ≥ 69"
        assert found.why.startswith("where age ≥ 69, accuracy is ")
        assert slices.describe()[0].startswith("where age ≥ 69: accuracy 0.0%")

    def test_several_columns(self) -> None:
        slices = self.make(("age", "sex"))
        self.feed(slices)
        names = {row["slice"].split()[0] for row in slices.numbers()}
        assert names == {"age", "sex"}
        assert [f.subject for f in slices.findings() if "sex" in f.subject] == []

    def test_requests_without_inputs_are_in_none(self) -> None:
        slices = self.make()
        slices.add(None, Answer(1.0), 0.0)
        slices.add({"other": np.zeros(1)}, Answer(1.0), 0.0)
        assert slices.numbers() == []

    def test_a_column_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(BadSettings, match="there is no column 'height' to slice by; the inputs have age, sex"):
            self.make(("height",))
        with pytest.raises(BadSettings, match="9 columns to slice by; 8 are the most"):
            self.make(("age",) * 9)
