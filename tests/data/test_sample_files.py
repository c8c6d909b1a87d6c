"""The files of a sample: what went in comes out, other readers know it, and nothing masked is in clear."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from modelkeep.data import sample, sample_files
from modelkeep.data.masks import Masks
from modelkeep.errors import BadData, NotFound
from tests.data.conftest import Open, exchange, fill

pytest.importorskip("pyarrow")
KEY = bytes(range(32))


class TestRoundTrip:
    def test_what_went_in_comes_out(self, opened: Open, folder: Path) -> None:
        inputs = {
            "x": np.arange(6, dtype="float32").reshape(2, 3),
            "half": np.array([[0.5]], "float16"),
            "flags": np.array([True, False]),
            "big": np.array([2**63], "uint64"),
            "words": np.array([["é", ""], ["b", "c"]], dtype=object),
            "none": np.zeros((0, 4), "int8"),
            "one": np.array(3, "int64"),
        }
        given = exchange(3, inputs=inputs, track="canary", seconds=0.25, version=7, parameters={"t": 0.5, "on": True})
        fill(opened(), [given])
        (got,) = sample.read(folder)
        for name in ("id", "at", "model", "version", "track", "outcome", "seconds", "parameters"):
            assert getattr(got, name) == getattr(given, name)
        assert got.inputs is not None
        assert set(got.inputs) == set(inputs)
        for name, array in inputs.items():
            assert got.inputs[name].dtype == array.dtype
            np.testing.assert_array_equal(got.inputs[name], array)
        np.testing.assert_array_equal(got.outputs["y"], [3])  # type: ignore[index]

    def test_without_an_answer_and_with_some_of_the_outputs(self, opened: Open, folder: Path) -> None:
        failed = exchange(1, outcome="error", outputs=None)
        fill(opened(), [exchange(0), failed, exchange(2, outputs={"z": np.array(["a"], dtype=object)})])
        first, second, third = sample.read(folder)
        assert second.outputs is None
        assert (list(first.outputs or ()), list(third.outputs or ())) == (["y"], ["z"])

    def test_other_dtypes_go_to_another_file(self, opened: Open, folder: Path) -> None:
        fill(opened(), [exchange(0), exchange(1, outputs={"y": np.array([0.5])}), exchange(2)])
        assert [e.outputs["y"].dtype.name for e in sample.read(folder)] == ["int64", "float64", "int64"]  # type: ignore[index]
        assert len(sample_files.files(folder)) == 3

    def test_versions_and_models_have_files_of_their_own(self, opened: Open, folder: Path) -> None:
        fill(opened(), [exchange(0), exchange(1, version=2), exchange(2, model="../odd name"), exchange(3, model=".b")])
        assert sorted(p.name for p in folder.iterdir()) == ["%2E.%2Fodd%20name", "%2Eb", "digits"]
        assert [e.id for e in sample.read(folder, "digits")] == ["r0", "r1"]
        assert [e.id for e in sample.read(folder, "../odd name")] == ["r2"]
        assert [e.id for e in sample.read(folder / "digits")] == ["r0", "r1"]
        with pytest.raises(BadData, match=r"holds samples of .*; name the folder of one of them"):
            sample.read(folder)
        with pytest.raises(NotFound, match="without a sample of traffic"):
            sample.read(folder / "none")

    def test_the_newest_where_there_are_more(self, opened: Open, folder: Path) -> None:
        one = opened()
        for start in (0, 5, 10):
            fill(one, [exchange(i) for i in range(start, start + 5)])
        assert [e.id for e in sample.read(folder, limit=7)] == [f"r{i}" for i in range(8, 15)]

    def test_other_readers_know_the_columns(self, opened: Open, folder: Path) -> None:
        pandas = pytest.importorskip("pandas")
        fill(opened(share=1.0), [exchange(i) for i in range(3)])
        frame = pandas.read_parquet(folder / "digits")
        assert list(frame.columns[:9]) == [
            *("id", "answered_at", "model", "version", "track", "outcome", "seconds", "share", "parameters")
        ]
        assert frame["input.x"].iloc[2].tolist() == [2, 2, 2, 2]
        assert frame["shape.input.x"].iloc[2].tolist() == [1, 4]
        assert str(frame["answered_at"].iloc[0]) == "1970-01-01 00:16:40.500000+00:00"
        assert frame["share"].tolist() == [1.0, 1.0, 1.0]


class TestMasks:
    def test_nothing_of_it_is_in_the_files(self, opened: Open, folder: Path) -> None:
        secret = {"email": np.array([["ann@example.org"]], dtype=object), "user": np.array([987654321], "int64")}
        masks = Masks("email, hash:user*, hash:request.id, output.y, parameter.token", KEY)
        given = exchange(
            0, id="ann-1", inputs={**secret, "x": np.ones((1, 1))}, outputs={"y": np.array(["ann"], object)}
        )
        given = exchange(
            0,
            id="ann-1",
            inputs=given.inputs,
            outputs=given.outputs,
            parameters={"token": "s3cret", "user_name": "ann", "user_score": 0.5, "t": 1},
        )
        fill(opened(masks=masks), [given])
        (file,) = sample_files.files(folder)
        pyarrow = pytest.importorskip("pyarrow.parquet")
        text = str(pyarrow.read_table(file).to_pydict()) + str(pyarrow.read_schema(file).metadata)
        for word in ("ann", "example.org", "987654321", "s3cret", "0.5"):
            assert word not in text.replace("0.01", "")
            assert word.encode() not in file.read_bytes()
        (got,) = sample.read(folder)
        assert got.id == masks.hashed("ann-1")
        assert got.outputs is None
        assert got.parameters == {"user_name": masks.hashed("ann"), "t": 1}
        assert got.inputs is not None
        assert sorted(got.inputs) == ["user", "x"]
        assert got.inputs["user"].tolist() == [masks.hashed(987654321)]

    def test_private_parameters_are_never_kept(self, opened: Open, folder: Path) -> None:
        fill(opened(private=("who",)), [exchange(0, parameters={"who": "ann", "t": 1})])
        assert sample.read(folder)[0].parameters == {"t": 1}

    def test_a_mask_that_fits_nothing_is_said(
        self, opened: Open, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            one = opened(masks=Masks("emial, x"))
            fill(one, [exchange(0)])
            fill(one, [exchange(1)])
        assert caplog.messages == ["sample_mask emial fits no field of digits: it has input.x, output.y, request.id"]
