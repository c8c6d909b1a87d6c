"""A version's baseline: what it says of the reference rows and the answers, and that it is read back as it was kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep import Keep
from modelkeep.data.dataset import Dataset
from modelkeep.model import baseline, engines, folder
from modelkeep.model.baseline import MAX_ROWS, MIN_ROWS, build, ensure, find, inputs_only, lacking, read, write
from modelkeep.settings import Settings
from modelkeep.types import Model, Signature, TensorSpec, Version

ROWS = 200
SIGNATURE = Signature((TensorSpec("x", "float32", (None, 3)),), (TensorSpec("scores", "float32", (None, 2)),))


class Sign:
    """The first class where x[0] is negative, else the second."""

    signature = SIGNATURE

    def __init__(self) -> None:
        self.rows = 0

    def run(self, inputs: Any) -> dict[str, Any]:
        first = inputs["x"][:, 0]
        self.rows += len(first)
        return {"scores": np.stack([-first, first], axis=1)}

    def close(self) -> None:
        pass


def rows(n: int = ROWS, labels: Any = None) -> Dataset:
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return Dataset({"x": x}, labels, "rows")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Model, Any]]:
    """A model folder with reference rows, whose runner is ``runner``."""

    def make(given: Dataset | None, runner: Any = None, labels: tuple[str, ...] = ()) -> tuple[Model, Any]:
        runner = runner or Sign()
        monkeypatch.setattr(engines, "load", lambda model, config=None: runner)
        into = tmp_path / "model"
        into.mkdir(exist_ok=True)
        (into / "weights").write_bytes(b"1")
        model = folder.write(Model(into, "onnx", runner.signature, ("weights",), labels))
        if given is not None:
            folder.keep_reference(into, given)
        return model, runner

    return make


class TestBuild:
    def test_inputs_and_answers_as_features_and_bins(self, make: Callable[..., tuple[Model, Any]]) -> None:
        found = build(make(rows())[0])
        assert found is not None
        assert found.answers is not None
        assert found.inputs.columns.names == ["x[0]", "x[1]", "x[2]"]
        assert found.answers.columns.names == ["predicted class", "confidence", "entropy"]
        assert found.inputs.bins.n == ROWS
        assert found.inputs.bins.shares.sum(axis=1) == pytest.approx([1, 1, 1])
        assert found.subject("answers") is found.answers
        assert found.accuracy is None

    def test_answers_beside_their_truth(self, make: Callable[..., tuple[Model, Any]]) -> None:
        truth = (rows().inputs["x"][:, 0] > 0.2).astype(np.int64)
        found = build(make(rows(labels=truth))[0])
        assert found is not None
        assert found.right is not None
        assert found.accuracy == pytest.approx(((rows().inputs["x"][:, 0] > 0) == truth).mean())
        assert found.confidence is not None
        assert ((found.confidence >= 0.5) & (found.confidence <= 1)).all()
        assert found.confidence[~found.right].mean() < found.confidence[found.right].mean()

    @pytest.mark.parametrize(("names", "known"), [(("no", "yes"), True), ((), False)])
    def test_truth_by_name(self, make: Callable[..., tuple[Model, Any]], names: tuple[str, ...], known: bool) -> None:
        truth = np.where(rows().inputs["x"][:, 0] > 0, "yes", "no").astype(object)
        truth[0] = "perhaps"
        found = build(make(rows(labels=truth), labels=names)[0])
        assert found is not None
        assert (found.accuracy == 1 - 1 / ROWS) if known else (found.accuracy is None)

    def test_scores_of_nan_are_wrong(self, make: Callable[..., tuple[Model, Any]]) -> None:
        class Void(Sign):
            def run(self, inputs: Any) -> dict[str, Any]:
                scores = super().run(inputs)["scores"]
                return {"scores": np.where(scores[:, :1] > 0, np.nan, scores)}

        truth = (rows().inputs["x"][:, 0] > 0).astype(int)
        found = build(make(rows(labels=truth), Void())[0])
        assert found is not None
        assert found.accuracy == truth.mean()

    @pytest.mark.parametrize("labelled", [True, False])
    def test_of_several_classes_a_row_all_must_be_right(
        self, make: Callable[..., tuple[Model, Any]], labelled: bool, tmp_path: Path
    ) -> None:
        class Tags(Sign):
            signature = replace(SIGNATURE, outputs=(TensorSpec("tags", "int64", (None, 3)),))

            def run(self, inputs: Any) -> dict[str, Any]:
                return {"tags": (inputs["x"] > 0).astype(np.int64)}

        truth = (rows().inputs["x"] > 0).astype(np.int64)
        truth[:50, 1] = 1 - truth[:50, 1]
        model = make(rows(labels=truth if labelled else None), Tags())[0]
        found = build(model)
        assert found is not None
        assert found.accuracy == (0.75 if labelled else None)
        assert (found.predicted is None) == (not labelled)
        write(found, tmp_path / "kept.npz")
        again = read(tmp_path / "kept.npz", model.signature)
        assert again is not None
        assert again.accuracy == found.accuracy

    def test_values_are_not_right_or_wrong(self, make: Callable[..., tuple[Model, Any]]) -> None:
        class Price(Sign):
            signature = replace(SIGNATURE, outputs=(TensorSpec("price", "float32", (None, 1)),))

            def run(self, inputs: Any) -> dict[str, Any]:
                return {"price": inputs["x"][:, :1] * 2}

        found = build(make(rows(labels=np.ones(ROWS)), Price())[0])
        assert found is not None
        assert found.accuracy is None
        assert found.predicted is not None
        np.testing.assert_allclose(found.predicted, rows().inputs["x"][:, 0] * 2)
        assert found.truth is not None
        assert found.confidence is not None
        assert np.isnan(found.confidence).all()

    @pytest.mark.parametrize("places", [True, False])
    def test_several_numbers_a_row_are_no_scores(self, make: Callable[..., tuple[Model, Any]], places: bool) -> None:
        """Where a thing is, and not which it is; zeros and a one are a class."""
        truth = np.random.default_rng(0).normal(size=(ROWS, 2)) if places else np.eye(2)[np.arange(ROWS) % 2]
        found = build(make(rows(labels=truth))[0])
        assert found is not None
        assert found.answers is not None
        assert (found.answers.columns.names == ["scores[0]", "scores[1]"]) == places

    def test_a_slow_model_answers_some_of_its_rows(self, make: Callable[..., tuple[Model, Any]]) -> None:
        model, runner = make(rows(1000))
        found = build(model, seconds=0.0)
        assert found is not None
        assert found.answers is not None
        assert MIN_ROWS <= found.answers.bins.n < 200
        assert found.answers.bins.n == runner.rows
        assert found.inputs.bins.n == 1000

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (None, "the version keeps no reference rows; add it with --data"),
            (rows(1), "the version keeps 1 reference row, and 50 are the least; add it with more"),
            (rows(), "the model fails on its reference rows (modelkeep score tells how)"),
        ],
    )
    def test_why_there_is_none(self, make: Callable[..., tuple[Model, Any]], given: Dataset | None, told: str) -> None:
        assert lacking(make(given)[0]) == told

    def test_of_a_model_without_batches_there_is_none(self, make: Callable[..., tuple[Model, Any]]) -> None:
        class Lone(Sign):
            signature = Signature(SIGNATURE.inputs, (TensorSpec("scores", "float32", (2,)),))

        model = make(rows(), Lone())[0]
        assert build(model) is None
        assert lacking(model).startswith("an input or output of the model has no batch dimension")

    def test_too_few_rows_or_none(self, make: Callable[..., tuple[Model, Any]]) -> None:
        assert build(make(None)[0]) is None
        assert build(make(rows(MIN_ROWS - 1))[0]) is None
        assert inputs_only(make(rows(MIN_ROWS - 1))[0]) is None

    def test_rows_that_are_given_go_before(self, make: Callable[..., tuple[Model, Any]]) -> None:
        found = build(make(None)[0], rows(60))
        assert found is not None
        assert found.inputs.bins.n == 60

    def test_of_very_many_rows_a_sample_is_enough(self, make: Callable[..., tuple[Model, Any]]) -> None:
        found = build(make(None)[0], rows(MAX_ROWS + 10))
        assert found is not None
        assert found.inputs.bins.n == MAX_ROWS

    def test_all_rows_that_are_given_count_and_not_only_those_that_are_kept(
        self, make: Callable[..., tuple[Model, Any]]
    ) -> None:
        model, _ = make(rows(100))
        baseline.keep(model, rows(3000))
        found = find(model)
        assert found is not None
        assert found.inputs.bins.n == 3000

    def test_inputs_alone_need_no_engine(self, make: Callable[..., tuple[Model, Any]]) -> None:
        model, runner = make(rows())
        found = inputs_only(model)
        assert found is not None
        assert found.answers is None
        assert runner.rows == 0


class TestKept:
    def test_it_is_read_back(self, make: Callable[..., tuple[Model, Any]], tmp_path: Path) -> None:
        model, _ = make(rows(labels=np.arange(ROWS) % 2))
        made = build(model)
        assert made is not None
        assert made.answers is not None
        write(made, tmp_path / "deep" / "b.npz")
        again = read(tmp_path / "deep" / "b.npz", model.signature)
        assert again is not None
        assert again.answers is not None
        assert again.inputs.bins.form == made.inputs.bins.form
        np.testing.assert_array_equal(again.answers.bins.shares, made.answers.bins.shares)
        np.testing.assert_array_equal(again.confidence, made.confidence)
        np.testing.assert_array_equal(again.right, made.right)
        assert again.accuracy == made.accuracy
        x = {"x": np.ones((2, 3), np.float32)}
        np.testing.assert_array_equal(again.inputs.columns.read(x), made.inputs.columns.read(x))

    def test_it_lies_with_the_version_and_is_made_once(self, make: Callable[..., tuple[Model, Any]]) -> None:
        model, runner = make(rows())
        baseline.keep(model)
        assert (model.path / baseline.FILE).is_file()
        ran = runner.rows
        baseline.keep(model)
        assert find(model) is not None
        assert runner.rows == ran == ROWS

    def test_it_may_lie_elsewhere(self, make: Callable[..., tuple[Model, Any]], tmp_path: Path) -> None:
        model, runner = make(rows())
        assert find(model, tmp_path, "d1") is None
        made = ensure(model, tmp_path, "d1")
        assert made is not None
        assert find(model, tmp_path, "d1") is not None
        assert find(model, tmp_path, "d2") is None
        assert ensure(model, tmp_path, "d1") is not None
        assert runner.rows == ROWS

    def test_a_model_that_fails_keeps_none(self, make: Callable[..., tuple[Model, Any]]) -> None:
        class Broken(Sign):
            def run(self, inputs: Any) -> dict[str, Any]:
                raise RuntimeError("no")

        model, _ = make(rows(), Broken())
        baseline.keep(model)
        assert not (model.path / baseline.FILE).exists()

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
    def test_a_damaged_one_is_none(self, make: Callable[..., tuple[Model, Any]], content: bytes) -> None:
        model, _ = make(rows())
        (model.path / baseline.FILE).write_bytes(content)
        assert find(model) is None

    def test_one_of_another_signature_is_none(self, make: Callable[..., tuple[Model, Any]], tmp_path: Path) -> None:
        model, _ = make(rows())
        baseline.keep(model)
        other = Signature((TensorSpec("y", "float32", (None, 3)),), SIGNATURE.outputs)
        assert read(model.path / baseline.FILE, other) is None


class TestOfVersions:
    """Keep has it made, with whichever verb a version gets rows."""

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path / "home"

    @pytest.fixture
    def keep(self, home: Path) -> Iterator[Keep]:
        with Keep(Settings(home=home)) as opened:
            yield opened

    @pytest.fixture
    def onnx(self, keep: Keep, nets: Path, trained: Callable[[str], Any], digits: tuple[Dataset, Dataset]) -> Version:
        trained("MLP")
        return keep.convert(keep.add(nets / "MLP.pt", "digits", factory="nets:MLP", data=digits[0]), "onnx")

    @pytest.fixture
    def bare(self, keep: Keep, onnx: Version) -> Version:
        """The same model, added without rows."""
        return keep.add(keep.model(onnx).main, "bare")

    def test_add_and_convert_keep_one_of_their_own(self, keep: Keep, onnx: Version) -> None:
        one, other = find(keep.model("digits@1")), find(keep.model(onnx))
        assert one is not None
        assert other is not None
        assert one.inputs.bins.n > other.inputs.bins.n == 1024, "convert was given none, so it has those that are kept"
        assert one.accuracy is not None
        assert one.accuracy > 0.9
        assert other.accuracy == pytest.approx(one.accuracy, abs=0.01)
        assert one.inputs.columns.names == other.inputs.columns.names

    def test_rows_that_convert_is_given_become_the_reference(
        self, keep: Keep, bare: Version, digits: tuple[Dataset, Dataset]
    ) -> None:
        assert find(keep.model(bare)) is None
        made = keep.model(keep.convert(bare, "torch", rows=digits[1]))
        rows, kept = folder.reference(made.path), find(made)
        assert rows is not None
        assert len(rows) == len(digits[1])
        assert kept is not None
        assert kept.inputs.bins.n == len(digits[1])

    def test_a_version_that_came_without_gets_one_beside_it(
        self, keep: Keep, bare: Version, digits: tuple[Dataset, Dataset], home: Path
    ) -> None:
        model = keep.model(bare)
        assert ensure(model, home, bare.digest) is None
        made = ensure(model, home, bare.digest, digits[1])
        assert made is not None
        assert not (keep.model(bare).path / baseline.FILE).exists(), "a version never changes"
        again = ensure(model, home, bare.digest)
        assert again is not None
        assert again.accuracy == made.accuracy


def test_new_texts_of_the_same_world_fall_where_its_reference_rows_did(make: Callable[..., Any]) -> None:
    """Words are many, and most are rare: every text has some that no other has, those of the reference too."""

    class Length:
        signature = Signature((TensorSpec("ids", "int64", (None, 40)),), (TensorSpec("n", "float32", (None, 1)),))

        def run(self, inputs: Any) -> dict[str, Any]:
            return {"n": (inputs["ids"] > 9).sum(axis=1, keepdims=True).astype(np.float32)}

        def close(self) -> None:
            pass

    rng = np.random.default_rng(0)
    old, new = (np.minimum(rng.zipf(1.3, (2000, 40)), 200_000) for _ in range(2))
    model, _ = make(Dataset({"ids": old}, None, "texts"), Length())
    found = build(model, Dataset({"ids": old}, None, "texts"))
    assert found is not None
    bins, at = found.inputs.bins, found.inputs.columns.names.index("unknown tokens of ids")
    fell = bins.tally(bins.place(found.inputs.columns.read({"ids": new})), np.full(2000, 1 / 2000))
    assert bins.shares[at].max() < 0.5
    assert np.abs(fell[at] - bins.shares[at]).sum() / 2 < 0.05
