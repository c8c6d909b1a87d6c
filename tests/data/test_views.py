"""Views look like the arrays that they stand for, and copy nothing before they are read."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset, concat, read, write
from modelkeep.data.views import View

FIRST, SECOND = np.arange(12.0).reshape(4, 3), np.arange(100.0, 106.0).reshape(2, 3)


class TestView:
    @pytest.mark.parametrize(
        "key", [slice(1, 4), np.array([4, 0, 0]), np.array([True, False, True, False, True]), 3, ...]
    )
    def test_it_is_read_as_the_array_would_be(self, key: Any) -> None:
        numbers = np.array([5, 0, 3, 3, 4])
        view, array = View([FIRST, SECOND], numbers), np.concatenate([FIRST, SECOND])[numbers]
        assert (view.shape, view.ndim, view.dtype, view.nbytes, len(view)) == (
            *(array.shape, array.ndim, array.dtype, array.nbytes),
            len(array),
        )
        np.testing.assert_array_equal(view[key], array[key])
        np.testing.assert_array_equal(view, array)
        assert np.asarray(view, np.float32).dtype == np.float32

    def test_a_view_of_views(self) -> None:
        views = View([FIRST], np.array([2, 0])), View([SECOND, FIRST], np.array([5, 1]))
        np.testing.assert_array_equal(View(views, np.array([3, 0, 2])), [SECOND[1], FIRST[2], FIRST[3]])


class TestDatasets:
    PICTURES = Dataset({"x": np.zeros((60, 3, 224, 224), np.float32)}, np.arange(60), "pictures")

    def test_what_is_not_copied_is_the_same(self) -> None:
        rows = Dataset({"x": FIRST}, np.arange(4), "made")
        for given in ([3, 1], slice(1, 3), np.array([True, False, True, True])):
            view, copy = rows.take(given, copy=False), rows.take(given)
            both = concat(view, rows, copy=False)
            np.testing.assert_array_equal(view.inputs["x"], copy.inputs["x"])
            np.testing.assert_array_equal(both.inputs["x"], concat(copy, rows).inputs["x"])
            assert both.labels is not None
            assert both.labels.tolist() == [*copy.labels.tolist(), 0, 1, 2, 3]  # type: ignore[union-attr]

    def test_sequences_of_several_lengths_are_padded_all_the_same(self) -> None:
        parts = [Dataset({"ids": np.ones((1, n), int), "mask": np.ones((1, n), int)}, None, "texts") for n in (3, 2)]
        assert concat(*parts, copy=False).inputs["ids"].tolist() == [[1, 1, 1], [1, 1, 0]]

    def test_texts_are_written_too(self, tmp_path: Any) -> None:
        """Reference rows are a view of what was given where that is more than is kept."""
        texts = Dataset({"x": np.array([["a"], ["bcd"], ["e"]], dtype=object)}, np.arange(3), "texts")
        write(texts.take([2, 1], copy=False), tmp_path / "texts.npz")
        assert read(tmp_path / "texts.npz").inputs["x"].tolist() == [["e"], ["bcd"]]

    def test_pictures_are_copied_by_the_portion(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dataset, "PORTION", 1024**2)
        file = tmp_path / "pictures.npz"
        tracemalloc.start()
        some = concat(self.PICTURES, self.PICTURES.take(range(20), copy=False), copy=False).sample(70, copy=False)
        _, viewing = tracemalloc.get_traced_memory()
        write(some, file)
        _, writing = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert viewing < 3e6
        assert writing < 6e6  # the pictures are 42 MB
        back = read(file)
        assert back.labels is not None
        assert some.labels is not None
        assert back.inputs["x"].shape == (70, 3, 224, 224)
        assert back.labels.tolist() == some.labels.tolist()
