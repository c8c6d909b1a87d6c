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
        assert IMAGE.describe() == "image float32 [?, 4]"
        assert TensorSpec("x", "int64", ()).describe() == "x int64 []"

    @pytest.mark.parametrize(
        ("shape", "fits"), [((1, 4), True), ((0, 4), True), ((9, 4), True), ((4,), False), ((1, 5), False)]
    )
    def test_accepts(self, shape: tuple[int, ...], fits: bool) -> None:
        assert IMAGE.accepts(shape) is fits

    def test_a_fixed_shape(self) -> None:
        assert TensorSpec("x", "float32", (2, 2)).accepts((2, 2))
        assert not TensorSpec("x", "float32", (2, 2)).accepts((1, 2))


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
            ({"extra": np.zeros(1)}, "no input is called 'extra'; the model takes image float32 [?, 4], mask bool [?]"),
            ({"mask": None}, "input 'mask' is missing; the model takes image float32 [?, 4], mask bool [?]"),
            ({"image": np.zeros((2, 4))}, "input 'image' is float64; the model takes image float32 [?, 4]"),
            ({"image": np.array([["a"]])}, "input 'image' is str; the model takes image float32 [?, 4]"),
            (
                {"image": np.zeros((2, 5), np.float32)},
                "input 'image' has shape [2, 5]; the model takes image float32 [?, 4]",
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
