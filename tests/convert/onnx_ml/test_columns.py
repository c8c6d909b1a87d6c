"""What prepares columns does the same in the standard operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from modelkeep.convert import onnx_ml
from modelkeep.errors import Unsupported

ROWS = np.array([[1, -2, 3], [0, 0, 0], [4, 5, -6]], np.float32)
HOLES = np.array([[1, np.nan, 3], [np.nan, 0, 0]], np.float32)
THREE = (TensorProto.FLOAT, [None, 3])


@pytest.mark.parametrize(
    "change", [{"offset": [1.0, 2.0, 3.0], "scale": [0.5, 1.0, 2.0]}, {"offset": [1.0], "scale": [2.0]}]
)
def test_scaling(same: Callable[..., Any], one_node: Callable[..., Any], change: dict[str, Any]) -> None:
    same(one_node("Scaler", ROWS, THREE, **change), ROWS)


@pytest.mark.parametrize(
    ("rows", "missing", "filled"),
    [(HOLES, float("nan"), [7.0, 8.0, 9.0]), (HOLES, float("nan"), [7.0]), (ROWS, 0.0, [7.0, 8.0, 9.0])],
)
def test_filling(
    same: Callable[..., Any], one_node: Callable[..., Any], rows: np.ndarray, missing: float, filled: list[float]
) -> None:
    same(one_node("Imputer", rows, THREE, imputed_value_floats=filled, replaced_value_float=missing), rows)


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_norms_of_rows_and_of_a_row_of_zeros(same: Callable[..., Any], one_node: Callable[..., Any], norm: str) -> None:
    same(one_node("Normalizer", ROWS, THREE, norm=norm), ROWS)


def test_columns_are_chosen_in_their_order(same: Callable[..., Any], one_node: Callable[..., Any]) -> None:
    columns = numpy_helper.from_array(np.array([2, 0]), "columns")
    same(one_node("ArrayFeatureExtractor", ROWS, (TensorProto.FLOAT, [None, 2]), constants=[columns]), ROWS)


def test_categories_unknown_ones_included(same: Callable[..., Any], one_node: Callable[..., Any]) -> None:
    rows = np.array([[1], [3], [2]], np.int64)
    same(one_node("OneHotEncoder", rows, (TensorProto.FLOAT, [None, 1, 2]), cats_int64s=[1, 2], zeros=1), rows)


@pytest.mark.parametrize(
    ("operator", "attributes", "why"),
    [
        ("Normalizer", {"norm": "MAX"}, "divides by the norm MAX"),
        ("Imputer", {"imputed_value_int64s": [1], "replaced_value_int64": 0}, "fills in whole numbers"),
        ("OneHotEncoder", {"cats_strings": ["a"]}, "the categories are text"),
        ("OneHotEncoder", {"cats_int64s": [1], "zeros": 0}, "refuses unknown categories"),
    ],
)
def test_what_is_not_known_is_named(
    one_node: Callable[..., Any], tmp_path: Path, operator: str, attributes: dict[str, Any], why: str
) -> None:
    onnx.save(one_node(operator, ROWS, THREE, **attributes), tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match=why):
        onnx_ml.rewritten(tmp_path / "m.onnx")
