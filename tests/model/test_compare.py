"""Two models agree only when every output does, on rows that could have shown a difference."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput
from modelkeep.model import compare as comparing
from modelkeep.model import engines
from modelkeep.model.compare import answers, compare, other_sizes
from modelkeep.model.engines.torch import TorchRunner
from modelkeep.types import Bounds, Runner, Signature, TensorSpec

ONE = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("output", "float32", (None, 3)),))
WEIGHTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class Fake:
    """A runner made of a function; remembers the batches it saw."""

    def __init__(self, function: Callable[..., Any], signature: Signature = ONE) -> None:
        self.signature, self.function = signature, function
        self.batches: list[int] = []

    def run(self, inputs: Any) -> dict[str, Any]:
        self.batches.append(len(next(iter(inputs.values()))))
        found = self.function(**inputs)
        return found if isinstance(found, dict) else {self.signature.outputs[0].name: found}

    def close(self) -> None: ...


def right(x: np.ndarray) -> np.ndarray:
    return x @ WEIGHTS


def rows(n: int = 100) -> Dataset:
    return Dataset({"x": np.random.default_rng(1).standard_normal((n, 4)).astype(np.float32)}, None, "made rows")


class TestAgreement:
    def test_the_numbers_are_those_of_the_differences(self) -> None:
        shift = np.float32(5e-5)
        report = compare(Fake(right), Fake(lambda x: right(x) + shift), rows())
        assert report.ok is True
        assert report.kind == "compare"
        assert report.numbers["max_abs"] == pytest.approx(5e-5, rel=0.02)
        assert report.numbers["top1_agreement"] == 1.0
        assert report.numbers["cosine"] == pytest.approx(1.0, abs=1e-6)
        assert report.numbers["n"] == 100
        assert report.numbers["outputs"]["output"]["max_abs"] == report.numbers["max_abs"]
        assert report.data == "100 rows of made rows"
        assert "agree: largest difference 5e-05, the same class for 100.00%" in report.why

    def test_every_row_and_the_given_batches_are_run(self) -> None:
        new = Fake(right)
        report = compare(Fake(right), new, rows(100), batches=(1, 2, 7))
        assert new.batches == [1, 2, 7, 2, 2, 2, 2, 2, 64, 36]  # the twos are edge rows
        assert report.numbers["batches"] == [1, 2, 7]
        assert report.numbers["n"] == 100

    def test_answers_that_are_large_are_compared_in_smaller_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(comparing, "CHUNK_BYTES", 10 * 3 * 8)
        new = Fake(right)
        assert compare(Fake(right), new, rows(30)).ok is True
        assert new.batches[-3:] == [10, 10, 10]

    def test_a_slow_model_is_compared_on_fewer_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(comparing, "MAX_SECONDS", 0.0)
        report = compare(Fake(right), Fake(right), rows(1000))
        assert report.ok is True
        assert report.numbers["n"] == 64
        assert report.data == "64 rows of made rows"

    def test_the_reference_s_noise_is_measured_where_it_could_matter(self) -> None:
        """Each measurement is a run of one row more; of all trials but the first only where something differs."""
        quiet, loud = Fake(right), Fake(right)
        assert compare(quiet, Fake(right), rows(100)).ok is True
        # twice for the first row, which shows its noise
        assert quiet.batches == [1, 1, 1, 2, 7, 2, 2, 2, 2, 2, 64, 36]
        off = Fake(lambda x: right(x) + np.float32(2e-4) * (len(x) == 7) * np.sign(right(x)))
        report = compare(loud, off, rows(100), rtol=0.1)
        assert report.ok is True
        assert loud.batches == [1, 1, 1, 2, 7, 1, 2, 2, 2, 2, 2, 64, 36]

    def test_noise_that_shows_on_later_rows_only_is_taken_for_noise(self) -> None:
        """A kernel that sums in another order for seven rows: the reference is off by as much as the new model."""

        def reference(x: np.ndarray) -> np.ndarray:
            return right(x) + np.float32(4e-4) * (len(x) == 7)

        assert compare(Fake(reference), Fake(right), rows()).ok is True
        assert compare(Fake(right), Fake(reference), rows()).ok is False  # a new model may not be off by that much

    def test_seeded_rows_stand_in_for_real_ones(self) -> None:
        report = compare(Fake(right), Fake(right), None, seed=3)
        assert report.ok is True
        assert report.data == "32 seeded random rows (seed 3)"
        assert compare(Fake(right), Fake(lambda x: right(x) * 1.01), None).ok is False

    def test_free_dimensions_are_tried_at_several_sizes(self) -> None:
        free = Signature((TensorSpec("x", "float32", (None, None)),), ONE.outputs)
        seen: set[int] = set()

        def sums(x: np.ndarray) -> np.ndarray:
            seen.add(x.shape[1])
            return np.stack([x.sum(1), x.max(1), x.min(1)], 1)

        report = compare(Fake(sums, free), Fake(sums, free), None)
        assert report.ok is True
        assert report.numbers["sizes"] == {"x.1": [1, 2, 5, 8]}
        assert seen == {1, 2, 4, 5, 8}
        report = compare(Fake(sums, free), Fake(lambda x: sums(x[:, :4]), free), None)  # stops at what it was made for
        assert report.ok is False

    def test_a_baked_in_batch_is_run_at_that_batch(self) -> None:
        fixed = Signature((TensorSpec("x", "float32", (8, 4)),), (TensorSpec("output", "float32", (8, 3)),))
        new = Fake(right, fixed)
        assert compare(Fake(right, fixed), new, rows(20)).ok is True
        assert set(new.batches) == {8}

    def test_whole_numbers_and_text_must_be_equal(self) -> None:
        def classes(x: np.ndarray) -> np.ndarray:
            return right(x).argmax(1)

        def names(x: np.ndarray) -> np.ndarray:
            return np.array(["a", "b", "c"], dtype=object)[classes(x)]

        for answer, wrong in ((classes, 2), (names, "c")):
            assert compare(Fake(answer), Fake(answer), rows()).ok is True
            spoilt = _but_last(answer, wrong)
            report = compare(Fake(answer), Fake(spoilt), rows())
            assert report.ok is False
            assert f"{wrong} instead of" in report.why

    def test_the_same_infinities_agree_and_others_do_not(self) -> None:
        def masked(x: np.ndarray) -> np.ndarray:
            return np.where(x[:, :3] < 0, -np.inf, right(x)).astype(np.float32)

        assert compare(Fake(masked), Fake(masked), rows()).ok is True
        report = compare(Fake(masked), Fake(lambda x: np.where(np.isinf(masked(x)), np.inf, masked(x))), rows())
        assert report.ok is False
        assert compare(Fake(masked), Fake(lambda x: np.where(np.isinf(masked(x)), 0, masked(x))), rows()).ok is False


def _but_last(answer: Callable[[np.ndarray], np.ndarray], wrong: object) -> Callable[[np.ndarray], np.ndarray]:
    def spoilt(x: np.ndarray) -> np.ndarray:
        found = answer(x).copy()
        found[np.flatnonzero(found != wrong)[:1]] = wrong
        return found

    return spoilt


def _fails_at(count: int) -> Callable[[np.ndarray], np.ndarray]:
    def answer(x: np.ndarray) -> np.ndarray:
        if len(x) == count:
            raise BadInput("Got: 7 Expected: 2")
        return right(x)

    return answer


class TestDifference:
    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (lambda x: right(x) * np.float32(1.01), "output 'output' at 1 row differs in"),
            (lambda x: right(x) + (np.arange(len(x)) == 6)[:, None], "output 'output' at 7 rows differs in 3 of 21"),
            (lambda x: np.where(x[:, :1] > 1.5, np.nan, right(x)), "of the new model is NaN"),
            (lambda x: np.zeros((len(x), 3), np.float32), "(0 instead of"),
            (lambda x: np.resize(right(x[:1]), (1, 3)), "at 2 rows has shape [1, 3] instead of [2, 3]"),
            (lambda x: right(x).astype(str), "instead of float32"),
            (_fails_at(7), "at 7 rows the new model fails: Got: 7 Expected: 2"),
        ],
    )
    def test_is_found_and_named(self, wrong: Callable[..., Any], said: str) -> None:
        report = compare(Fake(right), Fake(wrong), rows())
        assert report.ok is False
        assert said in report.why

    def test_the_output_that_differs_is_named(self) -> None:
        two = Signature(
            ONE.inputs, (TensorSpec("boxes", "float32", (None, 3)), TensorSpec("scores", "float32", (None,)))
        )
        good = Fake(lambda x: {"boxes": right(x), "scores": x[:, 0]}, two)
        report = compare(good, Fake(lambda x: {"boxes": right(x), "scores": x[:, 0] + 1}, two), rows())
        assert report.ok is False
        assert "output 'scores' at 1 row differs in 1 of 1, by up to 1" in report.why

    def test_other_names_are_refused_before_anything_runs(self) -> None:
        other = Signature(ONE.inputs, (TensorSpec("logits", "float32", (None, 3)),))
        report = compare(Fake(right), new := Fake(right, other), rows())
        assert report.ok is False
        assert report.why == "the outputs are logits instead of output"
        assert new.batches == []

    def test_the_tolerance_is_the_one_given(self) -> None:
        off = Fake(lambda x: right(x) + np.float32(0.01))
        assert compare(Fake(right), off, rows()).ok is False
        assert compare(Fake(right), off, rows(), atol=0.02).ok is True


class TestEdges:
    def test_extreme_rows_are_compared_too(self) -> None:
        report = compare(Fake(right), Fake(right), rows())
        assert report.numbers["edges"] == [
            "rows of zeros",
            "rows of ones",
            "rows of the smallest values",
            "rows of the largest values",
            "rows of a thousandth of their values",
        ]

    def test_a_fault_that_only_they_show_is_found(self) -> None:
        wrong = Fake(lambda x: right(x) + (np.abs(x).sum(1, keepdims=True) == 0))
        assert "output 'output' at rows of zeros differs" in compare(Fake(right), wrong, rows()).why

    @pytest.mark.parametrize("other", [1e-12, 2e-5])
    def test_another_epsilon_of_a_norm_shows_on_small_rows(self, other: float) -> None:
        def norm(x: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
            middle = x - x.mean(1, keepdims=True)
            return (middle / np.sqrt(x.var(1, keepdims=True) + np.float32(epsilon)))[:, :3]

        assert compare(Fake(norm), Fake(norm), rows()).ok is True
        said = compare(Fake(norm), Fake(lambda x: norm(x, other)), rows()).why
        assert "at rows of a thousandth of their values differs" in said

    def test_half_precision_is_not_held_to_rows_of_other_magnitudes(self) -> None:
        edges = compare(Fake(right), Fake(right), rows(), precision="bfloat16").numbers["edges"]
        assert not any("their values" in edge for edge in edges)

    @pytest.mark.parametrize(("name", "dtype"), [("padding", "int64"), ("attention_mask", "float32")])
    def test_a_mask_that_was_dropped_shows_though_no_row_is_padded(self, name: str, dtype: str) -> None:
        signature = Signature((TensorSpec("ids", "int64", (None, 8)), TensorSpec(name, dtype, (None, 8))), ONE.outputs)

        def pooled(ids: np.ndarray, kept: np.ndarray) -> np.ndarray:
            words = np.sin(ids[..., None] * np.arange(1, 4))
            return ((words * kept[..., None]).sum(1) / np.maximum(kept.sum(1)[:, None], 1)).astype(np.float32)

        model = Fake(lambda **given: pooled(given["ids"], given[name]), signature)
        deaf = Fake(lambda **given: pooled(given["ids"], np.ones_like(given[name])), signature)
        ids = np.random.default_rng(0).integers(0, 50, (20, 8))
        data = Dataset({"ids": ids, name: np.ones((20, 8), dtype)}, None, "whole sentences")
        assert compare(model, model, data).ok is True
        assert compare(model, deaf, data).ok is False

    def test_whole_numbers_are_tried_at_the_largest_there_are(self) -> None:
        """Ids that were cast to 8 bits go wrong only above 127."""
        signature = Signature((TensorSpec("ids", "int64", (None, 4)),), ONE.outputs)
        ids = np.random.default_rng(0).integers(0, 20, (40, 4))
        ids[-1] = 300

        def table(ids: np.ndarray) -> np.ndarray:
            return np.sin(ids[:, :3]).astype(np.float32)

        data = Dataset({"ids": ids}, None, "ids")
        cut = Fake(lambda ids: table(ids.astype(np.int8).astype(np.int64)), signature)
        assert "rows of the largest values" in compare(Fake(table, signature), cut, data).why

    def test_ids_cast_to_8_bits_are_found_in_a_small_vocabulary_without_rows(self) -> None:
        signature = Signature((TensorSpec("ids", "int64", (None, 4)),), ONE.outputs)

        def table(ids: np.ndarray) -> np.ndarray:
            if (ids >= 1000).any():
                raise BadInput("there are 1,000 words")
            return np.sin(ids[:, :3]).astype(np.float32)

        cut = Fake(lambda ids: table(ids.astype(np.int8).astype(np.int64)), signature)
        assert "rows of ids above 255 differs" in compare(Fake(table, signature), cut, None).why
        assert compare(Fake(table, signature), Fake(table, signature), None).numbers["skipped"] == []

    def test_where_the_reference_itself_has_no_answer_is_told(self) -> None:
        def unit(x: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                return x[:, :3] / np.linalg.norm(x[:, :3], axis=1, keepdims=True)

        report = compare(Fake(unit), Fake(unit), rows())
        assert report.ok is True
        assert report.numbers["skipped"] == ["rows of zeros: the reference answers NaN"]

    def test_masks_are_padded_and_never_zeroed(self) -> None:
        signature = Signature(
            (
                TensorSpec("ids", "int64", (None, None), ("batch", "sequence")),
                TensorSpec("mask", "int64", (None, None), ("batch", "sequence")),
            ),
            ONE.outputs,
        )
        seen: list[np.ndarray] = []

        def mean(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            seen.append(mask)
            share = (ids * mask).sum(1) / mask.sum(1)
            return np.stack([share, share**2, share**3], 1).astype(np.float32)

        report = compare(Fake(mean, signature), Fake(mean, signature), None)
        assert report.ok is True
        assert "rows of padding in their second half" in report.numbers["edges"]
        assert all(mask.any(1).all() for mask in seen)

    @pytest.mark.parametrize(
        ("usual", "bounds", "sizes"),
        [
            (12, Bounds(1, 40), [1, 6, 13, 40]),
            (32, Bounds(4, None, 4), [4, 16, 36, 64]),
            (7, Bounds(7, 7), []),
            (6, Bounds(0), [0, 3, 7, 12]),
            (512, Bounds(1, 512), [1, 256]),
        ],
    )
    def test_other_sizes(self, usual: int, bounds: Bounds, sizes: list[int]) -> None:
        assert other_sizes(usual, bounds) == sizes


class TestUseless:
    def test_a_constant_reference_cannot_tell(self) -> None:
        constant = Fake(lambda x: np.full((len(x), 3), 0.5, np.float32))
        report = compare(constant, constant, rows())
        assert report.ok is False
        assert "gives the same answer to all of the rows, within the tolerance (output)" in report.why
        assert report.numbers["constant"] == ["output"]

    @pytest.mark.parametrize("dtype", ["float32", "int64"])
    def test_another_length_of_the_input_is_no_other_answer(self, dtype: str) -> None:
        free = ("batch", "sequence")
        ids, tags = (TensorSpec(name, kind, (None, None), free) for name, kind in (("ids", "int64"), ("tags", dtype)))
        signature = Signature((ids,), (tags,))
        constant = Fake(lambda ids: np.zeros(ids.shape, dtype), signature)
        assert "gives the same answer to all of the rows" in compare(constant, constant, None).why
        echo = Fake(lambda ids: ids.astype(dtype), signature)
        assert compare(echo, echo, None).ok is True

    def test_answers_smaller_than_the_tolerance_cannot_tell(self) -> None:
        small = Fake(lambda x: right(x) * np.float32(1e-6))
        zeros = Fake(lambda x: np.zeros((len(x), 3), np.float32))
        assert compare(small, zeros, rows()).ok is False  # |difference| is within 1e-4 everywhere
        assert compare(small, small, rows(), atol=1e-9).ok is True

    def test_one_constant_output_of_two_is_told(self) -> None:
        two = Signature(ONE.inputs, (*ONE.outputs, TensorSpec("version", "float32", (None, 1))))
        runner = Fake(lambda x: {"output": right(x), "version": np.ones((len(x), 1), np.float32)}, two)
        report = compare(runner, runner, rows())
        assert report.ok is True
        assert "the same for every row: version" in report.why

    def test_one_row_cannot_tell(self) -> None:
        report = compare(Fake(right), Fake(right), rows(1))
        assert report.ok is False
        assert report.why == "one row cannot show whether two models agree; give more rows"

    def test_a_reference_of_chance_cannot_tell(self) -> None:
        rng = np.random.default_rng(0)
        noisy = Fake(lambda x: right(x) + rng.standard_normal((len(x), 3)))
        report = compare(noisy, Fake(right), rows())
        assert report.ok is False
        assert "the reference gives different answers to the same rows" in report.why

    @pytest.mark.parametrize(
        ("reference", "said"),
        [
            (lambda x: right(x) * np.nan, "of the reference itself is NaN in 3 of 3"),
            (_fails_at(1), "the reference itself fails on 1 row (Got: 7 Expected: 2); give rows that it can answer"),
        ],
    )
    def test_a_reference_that_does_not_answer(self, reference: Callable[..., Any], said: str) -> None:
        report = compare(Fake(reference), Fake(right), rows())
        assert report.ok is False
        assert said in report.why


@contextlib.contextmanager
def runner(signature: Signature, module: torch.nn.Module) -> Iterator[Runner]:
    with contextlib.closing(TorchRunner(signature, module, torch.device("cpu"), None)) as made:
        yield made


class TestPlantedFaults:
    """Trained networks of three kinds, and one that was made slightly wrong."""

    @pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
    def test_a_faithful_copy_passes(self, name: str, adopted: Any, trained: Any, digits: Any) -> None:
        model = adopted(name)
        with contextlib.closing(engines.load(model)) as a, runner(model.signature, copy.deepcopy(trained(name))) as b:
            report = compare(a, b, digits[1])
        assert report.ok is True, report.why
        assert report.numbers["max_abs"] < 1e-5

    @pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
    def test_every_layer_changed_by_one_percent_is_caught(
        self, name: str, adopted: Any, trained: Any, digits: Any
    ) -> None:
        model = adopted(name)
        state = trained(name).state_dict()
        for key in [k for k, v in state.items() if k.endswith("weight") and v.ndim > 1]:
            wrong = copy.deepcopy(trained(name))
            with torch.no_grad():
                wrong.get_parameter(key).mul_(1.01)
            with contextlib.closing(engines.load(model)) as a, runner(model.signature, wrong) as b:
                assert compare(a, b, digits[1].head(64)).ok is False, key

    @pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
    def test_one_spoilt_weight_is_caught(self, name: str, adopted: Any, trained: Any, digits: Any) -> None:
        model = adopted(name)
        wrong = copy.deepcopy(trained(name))
        with torch.no_grad():
            wrong.head.weight[3, 2] = torch.nan
        with contextlib.closing(engines.load(model)) as a, runner(model.signature, wrong) as b:
            report = compare(a, b, digits[1])
        assert report.ok is False
        assert "is NaN" in report.why

    def test_dropout_left_on_is_caught(self, adopted: Any, trained: Any, digits: Any) -> None:
        model = adopted("Conv")
        left_on = copy.deepcopy(trained("Conv")).train()
        with contextlib.closing(engines.load(model)) as a, runner(model.signature, left_on) as b:
            assert compare(a, b, digits[1].head(64)).ok is False
            assert "different answers to the same rows" in compare(b, a, digits[1].head(64)).why


class TestAnswers:
    """Answers that are there already, pair by pair."""

    PAIRS: ClassVar[Any] = [({"y": np.array([[1.0, 2.0]]), "n": np.array([n])},) * 2 for n in range(5)]

    def test_the_same(self) -> None:
        report = answers(self.PAIRS)
        assert report.ok
        assert report.numbers["n"] == 5
        assert report.numbers["max_abs"] == 0.0

    def test_alike_for_every_row_is_fine_here(self) -> None:
        assert answers([({"y": np.ones((1, 2))}, {"y": np.ones((1, 2))})] * 3).ok

    def test_the_first_that_differs_is_named(self) -> None:
        wrong = {"y": np.array([[1.0, 2.1]]), "n": np.array([0])}
        report = answers([self.PAIRS[0], (self.PAIRS[0][0], wrong), self.PAIRS[1]])
        assert not report.ok
        assert report.numbers["n"] == 2
        assert "output 'y' at 1 row differs in 1 of 2, by up to 0.1" in report.why

    def test_an_output_that_is_missing(self) -> None:
        report = answers([({"y": np.ones(1)}, {"z": np.ones(1)})])
        assert report.why == "output 'y' is missing"

    def test_no_pairs_at_all(self) -> None:
        assert answers([]).why == "there are no answers to compare"
        assert not answers([]).ok
