"""Arrays come back as they were, and nothing is ever unpickled."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from modelkeep.data.packed import pack, size_of, unpack


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool", "complex64"]
)
def test_numbers(dtype: str) -> None:
    array = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
    back = unpack(pack({"x": array}))
    assert back is not None
    assert back["x"].dtype == array.dtype
    np.testing.assert_array_equal(back["x"], array)


def test_several_in_their_order() -> None:
    arrays = {"b": np.arange(3), "a": np.float32([[1.5]]), "ü": np.zeros((0, 4)), "scalar": np.array(7)}
    back = unpack(pack(arrays))
    assert back is not None
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)


def test_texts() -> None:
    arrays = {"o": np.array([["cat", "dög"]], dtype=object), "u": np.array(["aa", "b"])}
    back = unpack(pack(arrays))
    assert back is not None
    assert back["o"].dtype == object
    assert back["o"].tolist() == [["cat", "dög"]]
    assert back["u"].tolist() == ["aa", "b"]


def test_nan_and_views() -> None:
    array = np.array([[1.0, np.nan], [np.inf, -0.0]])[:, ::-1]
    back = unpack(pack({"x": array}))
    assert back is not None
    np.testing.assert_array_equal(back["x"], array)


def test_none_and_nothing() -> None:
    assert pack(None) is None
    assert unpack(None) is None
    assert unpack(pack({})) == {}


def test_objects_become_text_and_never_code() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            raise AssertionError("pickled")

        def __str__(self) -> str:
            return "harmless"

    blob = pack({"x": np.array([Evil()], dtype=object)})
    assert blob is not None
    head = json.loads(blob[4 : 4 + int.from_bytes(blob[:4], "little")])
    assert head == [{"name": "x", "shape": [1], "texts": ["harmless"]}]


def test_the_size_of_a_text_is_what_python_takes_for_it() -> None:
    """Many short ones would be next to nothing."""
    texts = np.array([[f"{n:02d}" for n in range(10, 60)]], dtype=object)
    held = texts.nbytes + sum(map(sys.getsizeof, texts.flat))
    assert size_of({"x": texts}) == pytest.approx(held, rel=0.05)
    assert size_of({"x": np.full(1000, "", dtype=object)}) >= 8000
    assert size_of({"x": np.zeros((3, 5), np.float32)}) == 60
    assert size_of(None) == 0
