"""Every kind of tensor becomes columns with names, and the columns hold what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from modelkeep.monitor.features import MAX_VALUES, SUMMARIES, Columns, of_scores, summaries
from modelkeep.types import TensorSpec


def spec(name: str, dtype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, dtype, (None, *shape))


class TestColumns:
    def test_each_value_and_the_summaries(self) -> None:
        rows = {"x": np.arange(12, dtype="float32").reshape(3, 4)}
        columns = Columns([spec("x", "float32", 4)], rows)
        assert columns.names == ["x[0]", "x[1]", "x[2]", "x[3]", *(f"{what} of x" for what in SUMMARIES)]
        read = columns.read(rows)
        assert read.shape == (3, 4 + len(SUMMARIES))
        np.testing.assert_array_equal(read[:, :4], rows["x"])
        np.testing.assert_allclose(read[:, 4], rows["x"].mean(axis=1))

    def test_names_of_many_dimensions(self) -> None:
        columns = Columns([spec("x", "float32", 2, 2)], {"x": np.zeros((5, 2, 2), "float32")})
        assert columns.names[:4] == ["x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]"]

    def test_a_lone_value_needs_no_summaries(self) -> None:
        assert Columns([spec("age", "int64")], {"age": np.arange(5)}).names == ["age"]
        assert Columns([spec("age", "int64", 1)], {"age": np.arange(5)[:, None]}).names == ["age[0]"]

    def test_large_tensors_give_summaries_only(self) -> None:
        big = {"image": np.ones((2, MAX_VALUES + 1), "float32")}
        columns = Columns([spec("image", "float32", MAX_VALUES + 1)], big)
        assert columns.names == [f"{what} of image" for what in SUMMARIES]
        assert columns.read(big).shape == (2, len(SUMMARIES))

    def test_free_dimensions_give_summaries_with_their_size(self) -> None:
        columns = Columns([spec("tokens", "int64", None)], {"tokens": np.ones((4, 7), "int64")})
        assert columns.names[-1] == "number of values of tokens"
        assert columns.read({"tokens": np.ones((1, 3), "int64")})[0, -1] == 3

    def test_several_tensors(self) -> None:
        rows = {"a": np.zeros((3, 2)), "b": np.ones(3)}
        columns = Columns([spec("a", "float64", 2), spec("b", "float64")], rows)
        assert columns.names[0] == "a[0]"
        assert columns.names[-1] == "b"
        assert columns.read(rows)[:, -1].tolist() == [1, 1, 1]

    def test_texts_are_categories(self) -> None:
        rows = {"kind": np.array(["cat", "dog", "cat"], dtype=object)}
        columns = Columns([spec("kind", "str")], rows)
        assert columns.read(rows)[:, 0].tolist() == [0, 1, 0]
        assert columns.read({"kind": np.array(["owl"], dtype=object)})[:, 0].tolist() == [-1]

    def test_booleans(self) -> None:
        rows = {"flag": np.array([True, False])}
        assert Columns([spec("flag", "bool")], rows).read(rows)[:, 0].tolist() == [1, 0]

    def test_a_model_without_a_batch_is_one_row(self) -> None:
        columns = Columns([TensorSpec("x", "float32", (3,))], {"x": np.zeros(3, "float32")})
        assert columns.read({"x": np.array([1, 2, 3], "float32")})[:, :3].tolist() == [[1, 2, 3]]

    def test_another_form_is_refused(self) -> None:
        columns = Columns([spec("x", "float32", 4)], {"x": np.zeros((2, 4), "float32")})
        with pytest.raises(ValueError, match="'x' gives 13 features where its reference gave 12"):
            columns.read({"x": np.zeros((2, 5), "float32")})
        with pytest.raises(KeyError):
            columns.read({"y": np.zeros((2, 4), "float32")})

    def test_answers_are_class_confidence_and_entropy(self) -> None:
        scores = {"logits": np.array([[0, 10], [10, 0]], "float32"), "embedding": np.zeros((2, 2), "float32")}
        specs = [spec("logits", "float32", 2), spec("embedding", "float32", 2)]
        columns = Columns(specs, scores, answers=True)
        assert columns.names[:4] == ["predicted class", "confidence", "entropy", "embedding[0]"]
        assert columns.edges[0] is None
        assert columns.edges[1] is not None
        assert columns.read(scores)[:, 0].tolist() == [1, 0]

    def test_answers_that_are_no_scores_are_values(self) -> None:
        price = {"price": np.array([[1.5], [2.5]], "float32")}
        assert Columns([spec("price", "float32", 1)], price, answers=True).names == ["price[0]"]


class TestSummaries:
    def test_known_values(self) -> None:
        mean, std, zeros, nans, low, high, norm, size = summaries(np.array([[0.0, 3.0, 4.0, np.nan]]))[0]
        assert mean == pytest.approx(7 / 3)
        assert std == pytest.approx(np.std([0, 3, 4]))
        assert (zeros, nans, low, high, norm, size) == (0.25, 0.25, 0, 4, 5, 4)

    def test_all_nan(self) -> None:
        found = summaries(np.full((1, 3), np.nan))[0]
        assert found[3] == 1
        assert np.isinf(found[4])

    def test_none_at_all(self) -> None:
        found = summaries(np.empty((2, 0)))
        assert np.isnan(found[:, :-1]).all()
        assert found[:, -1].tolist() == [0, 0]


class TestScores:
    def test_logits_and_probabilities_are_the_same(self) -> None:
        logits = np.random.default_rng(0).normal(size=(20, 5))
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(of_scores(logits), of_scores(chances), atol=1e-9)

    def test_ends(self) -> None:
        sure, unsure = of_scores(np.array([[1.0, 0, 0, 0], [0.25] * 4]))
        assert sure.tolist() == pytest.approx([0, 1, 0], abs=1e-9)
        assert unsure.tolist() == pytest.approx([0, 0.25, 1])

    def test_huge_logits(self) -> None:
        assert of_scores(np.array([[1e30, -1e30]]))[0].tolist() == [0, 1, 0]

    def test_nan(self) -> None:
        found = of_scores(np.array([[np.nan, 1.0], [3.0, 1.0]]))
        assert np.isnan(found[0]).all()
        assert not np.isnan(found[1]).any()
