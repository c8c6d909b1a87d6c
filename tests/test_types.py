"""The nouns: how a person names a version, what fits a signature, and what is read back as it was written."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.errors import BadInput, BadRef
from modelkeep.types import (
    Bounds,
    Finding,
    Model,
    Ref,
    Report,
    Route,
    Runner,
    ServeConfig,
    Signature,
    Step,
    TensorSpec,
    Version,
    added,
)

IMAGE = TensorSpec("image", "float32", (None, 4))
MASK = TensorSpec("mask", "bool", (None,))
SIGNATURE = Signature((IMAGE, MASK), (TensorSpec("logits", "float32", (None, 3)),))


class TestRef:
    @pytest.mark.parametrize(
        ("text", "which"),
        [("digits", None), ("digits@3", 3), ("digits@live", "live"), ("Digits.v2_a-b@my-alias2", "my-alias2")],
    )
    def test_what_people_write(self, text: str, which: str | int | None) -> None:
        ref = Ref.parse(text)
        assert (ref.name, ref.which) == (text.partition("@")[0], which)
        assert str(ref) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "@3",
            "digits@",
            "digits@Live",
            "digits@3@4",
            "digits@-1",
            "digits@9999999999",
            "digits@l_ive",
            "digits\n",
            *["-digits", ".hidden", "a b", "../up", "a/b", "x" * 65],
        ],
    )
    def test_anything_else_is_refused_with_the_grammar(self, text: str) -> None:
        with pytest.raises(BadRef, match="does not name a model; write NAME, NAME@NUMBER or NAME@live"):
            Ref.parse(text)

    def test_the_longest_name(self) -> None:
        assert Ref.parse("x" * 64).name == "x" * 64

    @settings(max_examples=30, deadline=None)
    @given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), st.integers(0, 10**9 - 1) | st.none())
    def test_what_is_printed_is_read_back(self, name: str, number: int | None) -> None:
        assert Ref.parse(str(Ref(name, number))) == Ref(name, number)

    @given(st.text())
    def test_any_text_is_a_ref_or_refused(self, text: str) -> None:
        try:
            found = str(Ref.parse(text))
        except BadRef as error:
            found = str(error)
        assert text in found or int(text.partition("@")[2]) == int(found.partition("@")[2])


class TestTensorSpec:
    def test_describe(self) -> None:
        assert IMAGE.describe() == "image float32 [batch, 4]"
        assert TensorSpec("x", "int64", ()).describe() == "x int64 []"

    @pytest.mark.parametrize(
        ("shape", "fits"), [((1, 4), True), ((0, 4), True), ((9, 4), True), ((4,), False), ((1, 5), False)]
    )
    def test_accepts(self, shape: tuple[int, ...], fits: bool) -> None:
        assert IMAGE.accepts(shape) is fits

    def test_a_fixed_shape(self) -> None:
        assert TensorSpec("x", "float32", (2, 2)).accepts((2, 2))
        assert not TensorSpec("x", "float32", (2, 2)).accepts((1, 2))

    def test_every_free_dimension_has_a_name(self) -> None:
        spec = TensorSpec("image", "float32", (None, 3, None, None), (None, None, "height", None))
        assert spec.axes == ("batch", None, "height", "image.3")
        assert spec.describe() == "image float32 [batch, 3, height, ?]"
        assert TensorSpec("x", "float32", (None, 4)) == TensorSpec("x", "float32", (None, 4), ("batch", None))
        with pytest.raises(ValueError, match="x has 1 dimensions and 2 names"):
            TensorSpec("x", "float32", (None,), ("batch", "sequence"))


class TestNamedDimensions:
    """A decoder with a cache: the mask is as long as what is kept and what is new together."""

    SIGNATURE = Signature(
        (
            TensorSpec("ids", "int64", (None, None), ("batch", "sequence")),
            TensorSpec("mask", "int64", (None, None), ("batch", "past+sequence")),
            TensorSpec("cache", "float32", (None, 2, None, 8), ("batch", None, "past", None)),
        ),
        (TensorSpec("logits", "float32", (None, None, 9), ("batch", "sequence", None)),),
        {"sequence": Bounds(1, 32, 4), "past": Bounds(0, 64)},
    )

    def inputs(self, ids: int = 4, mask: int = 10, cache: int = 6, rows: int = 2) -> dict[str, Any]:
        return {
            "ids": np.zeros((2, ids), np.int64),
            "mask": np.zeros((2, mask), np.int64),
            "cache": np.zeros((rows, 2, cache, 8), np.float32),
        }

    def test_names_and_bounds_are_read_back(self) -> None:
        assert Signature.from_json(json.loads(json.dumps(self.SIGNATURE.to_json()))) == self.SIGNATURE
        assert hash(self.SIGNATURE) == hash(Signature.from_json(self.SIGNATURE.to_json()))

    def test_what_was_written_before_there_were_names_is_read(self) -> None:
        old = {
            "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 4]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [None]}],
        }
        found = Signature.from_json(old)
        assert found.inputs == (TensorSpec("x", "float32", (None, 4)),)
        assert found.batched

    def test_the_free_dimensions_and_their_sizes(self) -> None:
        assert self.SIGNATURE.free == ("batch", "sequence", "past")
        assert self.SIGNATURE.batched
        self.SIGNATURE.check(self.inputs())
        self.SIGNATURE.check(self.inputs(mask=4, cache=0))
        shapes = {name: array.shape for name, array in self.inputs().items()}
        assert self.SIGNATURE.sizes(shapes) == {"batch": 2, "sequence": 4, "past": 6}

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"mask": 9}, "a dimension of input 'mask' is 9; it must be past+sequence = 10 (past 6, sequence 4)"),
            ({"ids": 6, "mask": 12}, "'sequence' is 6; the model takes 1 to 32, in multiples of 4"),
            ({"cache": 65, "mask": 69}, "'past' is 65; the model takes 0 to 64"),
            ({"rows": 3}, "the inputs differ in their number of rows: {'ids': 2, 'mask': 2, 'cache': 3}"),
        ],
    )
    def test_sizes_that_do_not_fit_are_refused(self, wrong: dict[str, int], said: str) -> None:
        with pytest.raises(BadInput) as caught:
            self.SIGNATURE.check(self.inputs(**wrong))
        assert said in str(caught.value)

    def test_dimensions_of_one_name_are_equal(self) -> None:
        two = Signature(
            (
                TensorSpec("a", "int64", (None, None), ("batch", "sequence")),
                TensorSpec("b", "int64", (None, None), ("batch", "sequence")),
            ),
            (),
        )
        with pytest.raises(BadInput, match="'sequence' must be the same in every input, and input 'b' differs"):
            two.check({"a": np.zeros((1, 3), np.int64), "b": np.zeros((1, 4), np.int64)})

    def test_a_model_whose_rows_come_second_is_not_batched(self) -> None:
        spec = TensorSpec("steps", "float32", (None, None, 4), ("sequence", "batch", None))
        assert not Signature((spec,), ()).batched

    @pytest.mark.parametrize(
        ("name", "size"), [("past", 6), ("past+1", 7), ("past+sequence", 10), ("past+nothing", None), ("2", 2)]
    )
    def test_sums(self, name: str, size: int | None) -> None:
        assert added(name, {"past": 6, "sequence": 4}) == size


class TestSignature:
    def good(self, rows: int = 2) -> dict[str, Any]:
        return {"image": np.zeros((rows, 4), np.float32), "mask": np.zeros(rows, bool)}

    def test_is_read_back_as_it_was_written(self) -> None:
        assert Signature.from_json(json.loads(json.dumps(SIGNATURE.to_json()))) == SIGNATURE

    def test_batched_needs_a_free_first_dimension_everywhere(self) -> None:
        assert SIGNATURE.batched
        for odd in (TensorSpec("y", "float32", (1, 3)), TensorSpec("y", "float32", ())):
            assert not Signature((IMAGE,), (odd,)).batched
            assert not Signature((odd,), (IMAGE,)).batched

    def test_arrays_that_fit(self) -> None:
        SIGNATURE.check(self.good())
        SIGNATURE.check(self.good(0))

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (
                {"extra": np.zeros(1)},
                "no input is called 'extra'; the model takes image float32 [batch, 4], mask bool [batch]",
            ),
            ({"mask": None}, "input 'mask' is missing; the model takes image float32 [batch, 4], mask bool [batch]"),
            ({"image": np.zeros((2, 4))}, "input 'image' is float64; the model takes image float32 [batch, 4]"),
            ({"image": np.array([["a"]])}, "input 'image' is str; the model takes image float32 [batch, 4]"),
            (
                {"image": np.zeros((2, 5), np.float32)},
                "input 'image' has shape [2, 5]; the model takes image float32 [batch, 4]",
            ),
            (
                {"image": np.zeros((3, 4), np.float32)},
                "the inputs differ in their number of rows: {'image': 3, 'mask': 2}; give each the same",
            ),
        ],
    )
    def test_arrays_that_do_not(self, change: dict[str, Any], sentence: str) -> None:
        inputs = {name: array for name, array in (self.good() | change).items() if array is not None}
        with pytest.raises(BadInput) as caught:
            SIGNATURE.check(inputs)
        assert str(caught.value) == sentence

    @pytest.mark.parametrize("array", [np.array(["a"]), np.array([b"a"]), np.array(["a", None], object)])
    def test_text_of_any_kind_is_str(self, array: Any) -> None:
        Signature((TensorSpec("text", "str", (None,)),), ()).check({"text": array})


class TestModel:
    def test_main_size_and_moved(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"12345")
        (tmp_path / "m.data").write_bytes(b"123")
        (tmp_path / "reference.npz").write_bytes(b"not counted")
        model = Model(tmp_path, "onnx", SIGNATURE, ("m.onnx", "m.data"))
        assert model.main == tmp_path / "m.onnx"
        assert model.size == 8
        assert model.moved(Path("/else")).main == Path("/else/m.onnx")
        assert model.moved(tmp_path) == model

    def test_a_version_names_itself(self, tmp_path: Path) -> None:
        model = Model(tmp_path, "onnx", SIGNATURE, ("m.onnx",))
        version = Version("digits", 3, "sha", model, 2, "Convert()", 0.0)
        assert version.ref == "digits@3"
        assert str(Ref.parse(version.ref)) == version.ref


class TestRecords:
    def test_reports_and_findings_are_read_back(self) -> None:
        report = Report("score", True, "fine", {"n": 3}, "rows")
        assert Report(**json.loads(json.dumps(report.to_json()))) == report
        finding = Finding("drift", "pixels", "moved", {"p": 0.01}, 12.5)
        assert Finding(**json.loads(json.dumps(finding.to_json()))) == finding

    def test_the_versions_of_a_route(self) -> None:
        assert Route("digits").numbers == frozenset()
        assert Route("digits", live=3, canary=4, shadow=4, previous=2).numbers == {3, 4}

    def test_a_config_can_be_a_key(self) -> None:
        assert len({ServeConfig(), ServeConfig(), ServeConfig(threads=2)}) == 2

    @pytest.mark.parametrize("noun", [Ref("a"), IMAGE, SIGNATURE, Report("k", None, "w"), Route("r"), ServeConfig()])
    def test_nouns_are_frozen(self, noun: Any) -> None:
        with pytest.raises(FrozenInstanceError):
            setattr(noun, next(iter(vars(noun))), None)


class TestProtocols:
    def test_a_runner_is_told_by_its_shape(self) -> None:
        class Runs:
            signature = SIGNATURE

            def run(self, inputs: Any) -> Any: ...

            def close(self) -> None: ...

        assert isinstance(Runs(), Runner)
        assert not isinstance(object(), Runner)
        assert isinstance(Runs(), Step)
        assert not isinstance(object(), Step)
