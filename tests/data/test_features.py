"""Every kind of tensor becomes columns with names, and the columns hold what their names say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelkeep.data.features import CONFIDENCE, MAX_COLUMNS, MAX_FEATURES, Columns, picked
from modelkeep.data.summaries import MAX_VALUES, PROJECTIONS, SUMMARIES, projected
from modelkeep.types import TensorSpec

WIDE = MAX_COLUMNS + 1


def spec(name: str, dtype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, dtype, (None, *shape))


def of(one: TensorSpec, reference: Any, **options: Any) -> Columns:
    """The columns of one tensor."""
    return Columns.of([one], None if reference is None else {one.name: reference}, **options)


def texts(*rows: str) -> Any:
    return np.array(rows, dtype=object)


class TestNumbers:
    def test_each_of_a_few(self) -> None:
        rows = np.arange(12, dtype="float32").reshape(3, 4)
        columns = of(spec("x", "float32", 4), rows)
        assert columns.names == ["x[0]", "x[1]", "x[2]", "x[3]"]
        np.testing.assert_array_equal(columns.read({"x": rows}), rows)

    def test_names_of_many_dimensions(self) -> None:
        columns = of(spec("x", "float32", 2, 2), np.zeros((5, 2, 2), "float32"))
        assert columns.names == ["x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]"]

    def test_a_lone_value(self) -> None:
        assert of(spec("age", "int64"), np.arange(5)).names == ["age"]
        assert of(spec("age", "int64", 1), np.arange(5)[:, None]).names == ["age[0]"]

    def test_many_give_summaries_and_projections(self) -> None:
        rows = np.random.default_rng(0).normal(size=(6, WIDE)).astype("float32")
        columns = of(spec("image", "float32", WIDE), rows)
        assert columns.names[: len(SUMMARIES)] == [f"{what} of image" for what in SUMMARIES]
        assert columns.names[len(SUMMARIES)] == "projection 1 of image"
        read = columns.read({"image": rows})
        assert read.shape == (6, len(SUMMARIES) + PROJECTIONS)
        np.testing.assert_allclose(read[:, 0], rows.mean(axis=1), rtol=1e-4)
        np.testing.assert_allclose(read[:, len(SUMMARIES) :], projected(rows), rtol=1e-4)

    def test_of_huge_rows_some_places_are_looked_at(self) -> None:
        rows = np.random.default_rng(1).normal(3, 1, (4, 3, 200, 200)).astype("float32")
        columns = of(spec("image", "float32", 3, 200, 200), rows)
        read = columns.read({"image": rows})
        np.testing.assert_allclose(read[:, 0], 3, atol=0.2)
        np.testing.assert_allclose(read[:, 1], 1, atol=0.2)
        np.testing.assert_array_equal(read, columns.read({"image": rows}))

    def test_what_is_picked_of_huge_rows_reads_the_same(self) -> None:
        specs = [spec("image", "uint8", 3, 50, 50), spec("few", "float32", 2), spec("free", "float32", None)]
        rng = np.random.default_rng(0)
        rows = {
            "image": rng.integers(0, 255, (4, 3, 50, 50), dtype=np.uint8),
            "few": rng.random((4, 2), dtype=np.float32),
            "free": rng.random((4, 2 * MAX_VALUES), dtype=np.float32),
        }
        columns = Columns.of(specs, rows)
        found = picked(rows, specs)
        assert {name: array.shape for name, array in found.items()} == {
            "image": (4, MAX_VALUES),
            "few": (4, 2),
            "free": (4, 2 * MAX_VALUES),
        }
        np.testing.assert_array_equal(columns.read(found), columns.read(rows))
        none = {name: array[:0] for name, array in rows.items()}
        assert picked(none, specs)["image"].shape == (0, 3, 50, 50)

    def test_pixels_are_projected_and_tokens_are_not(self) -> None:
        pixels = of(spec("image", "uint8", WIDE), np.zeros((60, WIDE), "uint8"))
        assert "projection 1 of image" in pixels.names
        tokens = of(spec("tokens", "int64", WIDE), np.zeros((60, WIDE), "int64"))
        assert "projection 1 of tokens" not in tokens.names
        assert "unknown tokens of tokens" in tokens.names

    def test_booleans(self) -> None:
        assert of(spec("flag", "bool"), np.array([True, False])).read({"flag": np.array([True, False])})[
            :, 0
        ].tolist() == [1, 0]

    def test_a_model_without_a_batch_is_one_row(self) -> None:
        columns = of(TensorSpec("x", "float32", (3,)), np.zeros(3, "float32"))
        both = columns.read_all([{"x": np.array([1, 2, 3], "float32")}, {"x": np.array([4, 5, 6], "float32")}])
        assert both.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.filterwarnings("error")
class TestHugeNumbers:
    """They are told as what they are, or as infinite, and nothing warns of it."""

    def test_of_many_numbers(self) -> None:
        rows = np.full((2, WIDE), 1e38, "float32")
        columns = of(spec("x", "float32", WIDE), rows)
        found = dict(zip(columns.names, columns.read({"x": rows})[0].tolist(), strict=True))
        assert found["mean of x"] == found["max of x"] == pytest.approx(1e38)
        assert found["std of x"] == pytest.approx(0, abs=1e33)
        assert found["norm of x"] == pytest.approx(1e38 * WIDE**0.5)

    @pytest.mark.parametrize("masked", [True, False])
    def test_of_doubles_beyond_float32(self, masked: bool) -> None:
        names = ("x", "mask") if masked else ("x",)
        specs = [TensorSpec(name, "float64", (None, None), ("batch", "sequence")) for name in names]
        requests = [{"x": np.full((2, n), -1e300), "mask": np.eye(2, n) + np.eye(2, n, 1)} for n in (5, 7)]
        columns = Columns.of(specs, requests[0])
        read = columns.read_all(requests)
        assert (read[:, columns.names.index("min of x")] == -np.inf).all()

    def test_of_a_few_and_of_embeddings(self) -> None:
        rows = np.full((3, 4), -1e300)
        columns = of(spec("y", "float64", 4), rows, answers=True)
        assert CONFIDENCE in columns.names
        assert of(spec("x", "float64", 4), rows).read({"x": rows}).tolist() == rows.tolist()


class TestLengths:
    """A free dimension: requests of several lengths are read together."""

    def test_their_number_is_a_feature(self) -> None:
        columns = of(spec("audio", "float32", None), np.ones((4, 7), "float32"))
        at = columns.names.index("number of values of audio")
        read = columns.read_all([{"audio": np.ones((1, 3), "float32")}, {"audio": np.ones((2, 5), "float32")}])
        assert read[:, at].tolist() == [3, 5, 5]

    def test_together_they_are_as_alone(self) -> None:
        rng = np.random.default_rng(2)
        requests = [{"audio": rng.normal(size=(2, n)).astype("float32")} for n in (5, 40, MAX_VALUES + 500)]
        columns = of(spec("audio", "float32", None), requests[1]["audio"])
        alone = np.concatenate([columns.read(one) for one in requests])
        some = [at for at, name in enumerate(columns.names) if not name.startswith("projection")]
        np.testing.assert_allclose(columns.read_all(requests)[:, some], alone[:, some], rtol=1e-4, atol=1e-6)

    def test_unknown_tokens(self) -> None:
        columns = of(spec("tokens", "int64", None), np.array([[5, 6, 7], [7, 2_000_000, -1]]))
        at = columns.names.index("unknown tokens of tokens")
        read = columns.read_all(
            [{"tokens": np.array([[5, 7]])}, {"tokens": np.array([[5, 8, 9, 10**9]])}, {"tokens": np.array([[-3]])}]
        )
        assert read[:, at].tolist() == [0, 0.75, 1]

    def test_of_the_reference_a_token_of_one_row_alone_is_unknown(self) -> None:
        """As it would be, had that row come later."""
        rows = np.array([[5, 6, 7, 7], [7, 6, 8, 9]])
        columns = of(spec("tokens", "int64", None), rows)
        at = columns.names.index("unknown tokens of tokens")
        assert columns.read_reference({"tokens": rows})[:, at].tolist() == [0.25, 0.5]
        assert columns.read({"tokens": rows})[:, at].tolist() == [0, 0]

    def test_padding_is_not_looked_at_where_a_mask_tells(self) -> None:
        """One client pads to 64 and another not at all; neither is a change of the world."""
        specs = [TensorSpec(name, "int64", (None, None), ("batch", "sequence")) for name in ("ids", "mask")]
        ids, mask = np.array([[5, 6, 7, 0, 0], [8, 9, 5, 6, 7]]), np.array([[1, 1, 1, 0, 0], [1] * 5])
        learned = Columns.of(specs, {"ids": ids, "mask": mask})
        columns = Columns.again(specs, json.loads(json.dumps(learned.kept())))
        bare = columns.read_all(
            [{"ids": ids[at : at + 1, :n], "mask": mask[at : at + 1, :n]} for at, n in ((0, 3), (1, 5))]
        )
        np.testing.assert_allclose(columns.read({"ids": ids, "mask": mask}), bare, rtol=1e-5)
        assert bare[:, columns.names.index("number of values of ids")].tolist() == [3, 5]
        assert bare[:, columns.names.index("min of ids")].tolist() == [5, 5]

    def test_a_baseline_from_before_reads_as_it_did(self) -> None:
        specs = [TensorSpec(name, "int64", (None, None), ("batch", "sequence")) for name in ("ids", "mask")]
        rows = {"ids": np.array([[5, 0]]), "mask": np.array([[1, 0]])}
        kept = [{key: value for key, value in one.items() if key != "mask"} for one in Columns.of(specs, rows).kept()]
        columns = Columns.again(specs, kept)
        assert columns.read(rows)[0, columns.names.index("min of ids")] == 0


class TestTexts:
    def test_a_few_are_categories(self) -> None:
        rows = texts("cat", "dog", "cat")
        columns = of(spec("kind", "str"), rows)
        assert columns.names == ["kind"]
        assert columns.read({"kind": rows})[:, 0].tolist() == [0, 1, 0]
        assert columns.read({"kind": texts("owl")})[:, 0].tolist() == [-1]

    def test_many_have_lengths_and_unknown_words(self) -> None:
        rows = texts(*(f"The film number {n} was good" for n in range(20)))
        columns = of(spec("review", "str"), rows)
        assert columns.names == ["review", "length of review", "unknown words of review"]
        read = columns.read({"review": texts("the FILM was splendid", "", "the film was good")})
        assert read[:, 1].tolist() == [21, 0, 17]
        assert read[:, 2].tolist() == [0.25, 0, 0]

    def test_of_the_reference_a_word_of_one_row_alone_is_unknown(self) -> None:
        rows = texts(*(f"word {n} {n}" for n in (*range(12), 0)))
        columns = of(spec("review", "str"), rows)
        read = columns.read_reference({"review": rows})[:, 2]
        assert read.tolist() == [0, *[pytest.approx(2 / 3)] * 11, 0]
        assert not columns.read({"review": rows})[:, 2].any()

    def test_a_free_number_of_them(self) -> None:
        columns = of(spec("words", "str", None), np.array([[f"w{n}", f"v{n}"] for n in range(9)], dtype=object))
        assert columns.names == ["length of words", "unknown words of words"]
        read = columns.read_all([{"words": np.array([["w1", "x", "y"]], dtype=object)}, {"words": texts("v1")[None]}])
        assert read.tolist() == [[4, pytest.approx(2 / 3)], [2, 0]]

    def test_which_occur(self) -> None:
        rows = texts("cat", "dog", "cat")
        columns = Columns.of([spec("kind", "str"), spec("age", "int64")], {"kind": rows, "age": np.arange(3)})
        requests = [{"kind": rows, "age": np.arange(3)}, {"kind": texts("owl"), "age": np.arange(1)}]
        assert columns.occurring(requests, columns.read_all(requests)) == {0: {"cat": 2, "dog": 1, "owl": 1}}


class TestAnswers:
    def test_scores_are_class_confidence_and_entropy(self) -> None:
        scores = {"logits": np.array([[0, 10], [10, 0]], "float32"), "embedding": np.zeros((2, 2), "float32")}
        specs = [spec("logits", "float32", 2), spec("embedding", "float32", 2)]
        columns = Columns.of(specs, scores, answers=True)
        assert columns.names == ["predicted class", "confidence", "entropy", "embedding[0]", "embedding[1]"]
        assert columns.edges[0] is None
        assert columns.edges[1] is not None
        read = columns.read(scores)
        assert read[:, 0].tolist() == [1, 0]
        assert columns.occurring([scores], read) == {0: {"0": 1, "1": 1}}

    def test_of_however_many_classes(self) -> None:
        scores = np.zeros((3, 21_843), "float32")
        scores[[0, 1, 2], [7, 21_842, 12_345]] = 20.0
        columns = of(spec("logits", "float32", 21_843), scores, answers=True)
        assert columns.read({"logits": scores})[:, 0].tolist() == [7, 21_842, 12_345]
        [kept] = columns.kept()
        before = Columns.again([spec("logits", "float32", 21_843)], [kept | {"learned": {}}])
        assert before.read({"logits": scores})[:, 0].max() < MAX_VALUES, "as a baseline from before was counted"

    def test_labels_beside_probabilities(self) -> None:
        """As scikit-learn's models answer: the class, then a probability for each."""
        answers = {"label": np.array([1, 0]), "probabilities": np.array([[0.2, 0.8], [0.9, 0.1]], "float32")}
        specs = [spec("label", "int64"), spec("probabilities", "float32", 2)]
        columns = Columns.of(specs, answers, answers=True)
        assert columns.names == ["label", "predicted class", "confidence", "entropy"]
        np.testing.assert_allclose(columns.read(answers)[:, 2], [0.8, 0.9])

    def test_embeddings_are_projected_and_no_classes(self) -> None:
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(80, 48)).astype("float32")
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for name, given in (("text_embeds", rows), ("pooler_output", rows), ("y", unit)):
            spec = TensorSpec(name, "float32", (None, 48))
            assert f"projection 1 of {name}" in Columns.of((spec,), {name: given}, answers=True).names
        spec = TensorSpec("y", "float32", (None, 48))
        assert "confidence" in Columns.of((spec,), {"y": rows}, answers=True).names
        assert (
            "confidence" not in Columns.of((TensorSpec("embedding", "float32", (None, 48)),), None, answers=True).names
        )

    def test_several_numbers_a_row_are_each_looked_at(self) -> None:
        spec = TensorSpec("place", "float32", (None, 2))
        rows = {"place": np.random.default_rng(0).normal(size=(80, 2)).astype("float32")}
        assert Columns.of((spec,), rows, answers=True, classes=False).names == ["place[0]", "place[1]"]

    def test_without_a_reference_the_first_output_tells(self) -> None:
        assert of(spec("logits", "float32", 2), None, answers=True).names[1] == "confidence"
        assert of(spec("logits", "float32", 2), None).names == ["logits[0]", "logits[1]"]

    def test_answers_that_are_no_scores_are_values(self) -> None:
        assert of(spec("price", "float32", 1), np.array([[1.5], [2.5]], "float32"), answers=True).names == ["price[0]"]


class TestForm:
    def test_several_tensors(self) -> None:
        rows = {"a": np.zeros((3, 2)), "b": np.ones(3)}
        columns = Columns.of([spec("a", "float64", 2), spec("b", "float64")], rows)
        assert columns.names == ["a[0]", "a[1]", "b"]
        assert columns.read_all([rows, rows]).shape == (6, 3)

    def test_another_form_is_refused(self) -> None:
        columns = of(spec("x", "float32", 4), np.zeros((2, 4), "float32"))
        with pytest.raises(ValueError, match="'x' has 5 values a row where its signature says 4"):
            columns.read({"x": np.zeros((4, 5), "float32")})
        with pytest.raises(KeyError):
            columns.read({"y": np.zeros((2, 4), "float32")})

    def test_there_is_an_end_to_features(self) -> None:
        specs = [spec(f"x{at}", "float64", MAX_COLUMNS) for at in range(9)]
        columns = Columns.of(specs, None)
        assert len(columns.names) == MAX_FEATURES // MAX_COLUMNS * MAX_COLUMNS
        rows = {one.name: np.zeros((2, MAX_COLUMNS)) for one in specs}
        assert columns.read(rows).shape == (2, len(columns.names))

    def test_they_are_made_again_from_json(self) -> None:
        rng = np.random.default_rng(3)
        specs = [
            spec("image", "float32", WIDE),
            spec("tokens", "int64", None),
            spec("kind", "str"),
            spec("review", "str"),
            spec("x", "float64", 2),
        ]
        rows = {
            "image": rng.normal(size=(20, WIDE)).astype("float32"),
            "tokens": rng.integers(0, 40, (20, 9)),
            "kind": texts(*(["cat", "dog"] * 10)),
            "review": texts(*(f"good film {n}" for n in range(20))),
            "x": rng.normal(size=(20, 2)),
        }
        columns = Columns.of(specs, rows)
        again = Columns.again(specs, json.loads(json.dumps(columns.kept())))
        others = {**rows, "tokens": rng.integers(0, 90, (20, 5)), "kind": texts(*(["cat", "owl"] * 10))}
        assert again.names == columns.names
        np.testing.assert_array_equal(again.read(others), columns.read(others))
