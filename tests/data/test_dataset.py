"""Rows are read as they are, fitted to a model without losing values, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset, columns, concat, fit, read, write
from modelkeep.errors import BadData, NotFound
from modelkeep.types import Signature, TensorSpec

ONE = Signature((TensorSpec("pixels", "float32", (None, 4)),), (TensorSpec("output", "float32", (None, 2)),))
TWO = Signature((TensorSpec("a", "float32", (None, 4)), TensorSpec("b", "int64", (None,))), ONE.outputs)


def rows(n: int = 10, labelled: bool = True) -> Dataset:
    pixels = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    return Dataset({"pixels": pixels}, np.arange(n) % 3 if labelled else None, "made rows")


class TestRows:
    @pytest.mark.parametrize(("shape", "portion"), [((4,), 256), ((3, 224, 224), 27), ((3, 2048, 2048), 1)])
    def test_large_rows_are_given_to_a_model_in_small_portions(self, shape: tuple[int, ...], portion: int) -> None:
        assert Dataset({"x": np.zeros((3, *shape), np.float32)}, None, "made").portion(256) == portion

    def test_take_head_and_sample_keep_rows_and_labels_together(self) -> None:
        whole = rows()
        for part in (whole.take([7, 2]), whole.head(3), whole.sample(5, seed=1)):
            first = part.inputs["pixels"][:, 0].astype(int) // 4
            assert part.labels is not None
            assert part.labels.tolist() == (first % 3).tolist()
        assert whole.take([7, 2]).inputs["pixels"][:, 0].tolist() == [28.0, 8.0]
        assert len(whole.head(3)) == 3

    def test_a_sample_has_no_row_twice_and_is_the_same_for_the_same_seed(self) -> None:
        picked = rows(100).sample(30, seed=5).inputs["pixels"][:, 0]
        assert len(set(picked.tolist())) == 30
        assert picked.tolist() == rows(100).sample(30, seed=5).inputs["pixels"][:, 0].tolist()
        assert picked.tolist() != rows(100).sample(30, seed=6).inputs["pixels"][:, 0].tolist()
        assert len(rows(5).sample(30)) == 5

    def test_a_split_is_two_parts_of_the_whole(self) -> None:
        a, b = rows(10).split(0.7, seed=1)
        assert (len(a), len(b)) == (7, 3)
        firsts = sorted([*a.inputs["pixels"][:, 0], *b.inputs["pixels"][:, 0]])
        assert firsts == rows(10).inputs["pixels"][:, 0].tolist()
        assert [len(part) for part in rows(3).split(0.999)] == [2, 1]
        with pytest.raises(BadData, match="has 1 row, which cannot be split"):
            rows(1).split(0.5)

    def test_concat_joins_rows_and_keeps_labels_only_where_both_have_them(self) -> None:
        both = concat(rows(2), rows(3))
        assert both.labels is not None
        assert both.labels.tolist() == [0, 1, 0, 1, 2]
        assert both.inputs["pixels"].shape == (5, 4)
        assert concat(rows(2), rows(3, labelled=False)).labels is None

    def test_concat_refuses_rows_that_do_not_match(self) -> None:
        other = Dataset({"sound": np.zeros((2, 4))}, None, "sounds")
        with pytest.raises(BadData, match="has the inputs pixels and sounds has sound"):
            concat(rows(2), other)
        wide = Dataset({"pixels": np.zeros((2, 5), np.float32)}, None, "wide rows")
        with pytest.raises(BadData, match="made rows and wide rows differ in shape"):
            concat(rows(2), wide)

    @pytest.mark.parametrize(
        ("inputs", "labels", "said"),
        [
            ({"a": np.zeros(3), "b": np.zeros(4)}, None, "differ in their number of rows: 'a' has 3, 'b' has 4"),
            ({"a": np.zeros(3)}, np.zeros(2), "'a' has 3, 'labels' has 2"),
            ({"a": np.zeros((0, 3))}, None, "x has no rows"),
            ({}, np.zeros(2), "x has no input array, only labels"),
            ({"a": np.float32(3)}, None, "array 'a' of x is a single number"),
        ],
    )
    def test_what_is_no_set_of_rows_is_refused(self, inputs: dict, labels: np.ndarray | None, said: str) -> None:
        with pytest.raises(BadData) as error:
            Dataset({name: np.asarray(array) for name, array in inputs.items()}, labels, "x")
        assert said in str(error.value)


class TestNpz:
    @pytest.mark.parametrize("name", ["labels", "label", "y"])
    def test_the_truth_is_found_under_its_usual_names(self, tmp_path: Path, name: str) -> None:
        np.savez(tmp_path / "d.npz", pixels=rows().inputs["pixels"], **{name: np.arange(10)})
        found = read(tmp_path / "d.npz", ONE)
        assert found.labels is not None
        assert found.labels.tolist() == list(range(10))
        assert list(found.inputs) == ["pixels"]

    def test_an_input_called_y_is_no_truth(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", y=np.zeros((3, 4), np.float32), label=[1, 2, 3])
        wants_y = Signature((TensorSpec("y", "float32", (None, 4)),), ONE.outputs)
        found = read(tmp_path / "d.npz", wants_y)
        assert found.labels is not None
        assert found.labels.tolist() == [1, 2, 3]
        assert found.inputs["y"].shape == (3, 4)

    def test_what_write_wrote_is_read_back(self, tmp_path: Path) -> None:
        text = np.array(["one", "a longer one"], dtype=object)
        made = Dataset({"words": text, "n": np.arange(2)}, np.array(["cat", "dog"]), "made")
        write(made, tmp_path / "d.npz")
        back = read(tmp_path / "d.npz")
        assert back.inputs["words"].tolist() == ["one", "a longer one"]
        assert back.inputs["n"].dtype == np.int64
        assert back.labels is not None
        assert back.labels.tolist() == ["cat", "dog"]

    def test_write_refuses_an_input_where_the_truth_goes(self, tmp_path: Path) -> None:
        with pytest.raises(BadData, match="an input is called 'labels'"):
            write(Dataset({"labels": np.zeros((2, 1))}, np.zeros(2), "x"), tmp_path / "d.npz")

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 but no more than that")
        with pytest.raises(BadData, match=r"d\.npz cannot be read as an \.npz file"):
            read(tmp_path / "d.npz")

    def test_a_file_with_python_objects_is_refused_and_not_unpickled(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", pixels=np.array([{"a": 1}], dtype=object))
        with pytest.raises(BadData, match=r"holds Python objects, save plain arrays with numpy\.savez"):
            read(tmp_path / "d.npz")

    def test_labels_that_are_missing_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", pixels=np.zeros((2, 4)), labels=[1.0, np.nan])
        with pytest.raises(BadData, match="has rows whose label is NaN"):
            read(tmp_path / "d.npz")

    def test_whole_numbers_are_class_numbers_and_fractions_stay(self, tmp_path: Path) -> None:
        for labels, dtype in (([1.0, 2.0], np.int64), ([1.5, 2.0], np.float64), ([[1.0], [2.0]], np.int64)):
            np.savez(tmp_path / "d.npz", pixels=np.zeros((2, 4)), labels=labels)
            found = read(tmp_path / "d.npz").labels
            assert found is not None
            assert (found.dtype, found.shape) == (dtype, (2,))


class TestCsv:
    def write(self, tmp_path: Path, text: str) -> Path:
        (tmp_path / "d.csv").write_text(text, encoding="utf-8")
        return tmp_path / "d.csv"

    def test_column_label_is_the_truth_wherever_it_stands(self, tmp_path: Path) -> None:
        found = read(self.write(tmp_path, "a,label,b\n1,7,2\n3,8,4.5\n"))
        assert found.inputs["input"].tolist() == [[1.0, 2.0], [3.0, 4.5]]
        assert found.inputs["input"].dtype == np.float64
        assert found.columns == ("a", "b")
        assert found.labels is not None
        assert found.labels.tolist() == [7, 8]
        assert found.labels.dtype == np.int64

    def test_labels_may_be_names_and_be_missing_altogether(self, tmp_path: Path) -> None:
        named = read(self.write(tmp_path, 'a,label\n1,"cat, big"\n2,dog\n'))
        assert named.labels is not None
        assert named.labels.tolist() == ["cat, big", "dog"]
        assert read(self.write(tmp_path, "a,b\n1,2\n")).labels is None

    def test_the_columns_take_the_name_and_the_shape_of_the_input(self, tmp_path: Path) -> None:
        image = Signature((TensorSpec("image", "float32", (None, 1, 2, 2)),), ONE.outputs)
        found = read(self.write(tmp_path, "a,b,c,d,label\n1,2,3,4,0\n"), image)
        assert found.inputs["image"].tolist() == [[[[1.0, 2.0], [3.0, 4.0]]]]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a,b\n", "has no rows"),
            ("", "has no rows"),
            ("a,label\n1,2\n3,\n", "has rows without a label"),
            ("a,b\n1,2\n3\n", "cannot be read as a .csv file with a header"),
            ("label\n1\n2\n", "only labels"),
        ],
    )
    def test_a_bad_file_is_refused_by_name(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(BadData) as error:
            read(self.write(tmp_path, text))
        assert said in str(error.value)
        assert "d.csv" in str(error.value)

    def test_text_for_a_model_of_numbers_is_refused_by_column(self, tmp_path: Path) -> None:
        with pytest.raises(BadData, match=r"d.csv cannot be read as a .csv file of numbers.*column 'b' holds 'x'"):
            read(self.write(tmp_path, "a,b\n1,x\n"), ONE)

    def test_text_makes_an_input_of_each_column_and_a_missing_number_is_nan(self, tmp_path: Path) -> None:
        found = read(self.write(tmp_path, 'age,city,label\n31,"Paris, FR",1\n,Rome,0\n'))
        assert found.inputs["age"].dtype == np.float64
        assert np.array_equal(found.inputs["age"], [[31.0], [np.nan]], equal_nan=True)
        assert found.inputs["city"].tolist() == [["Paris, FR"], ["Rome"]]

    def test_columns_that_do_not_fit_are_refused_with_what_the_model_takes(self, tmp_path: Path) -> None:
        with pytest.raises(
            BadData, match=r"'pixels' of .* has shape \[1, 2\]; the model takes pixels float32 \[batch, 4\]"
        ):
            read(self.write(tmp_path, "a,b\n1,2\n"), ONE)


class TestFiles:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match=r"is a folder without a sample of traffic .*name a file in it"):
            read(tmp_path)
        with pytest.raises(NotFound, match=r"there is no file .*gone\.npz"):
            read(tmp_path / "gone.npz")

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "d.xlsx").write_bytes(b"x")
        with pytest.raises(BadData, match=r"is not a data file that modelkeep reads; there are: \.npz, \.csv"):
            read(tmp_path / "d.xlsx")


class TestFit:
    def test_named_columns_become_the_inputs_of_that_name_in_any_order(self) -> None:
        each = Signature(tuple(TensorSpec(name, "float32", (None, 1)) for name in "ab"), ONE.outputs)
        rows = Dataset({"input": np.array([[1.0, 2.0], [3.0, 4.0]])}, None, "x", ("b", "a"))
        assert fit(rows.take([1]), each).inputs["a"].tolist() == [[4.0]]
        with pytest.raises(BadData, match="x has the inputs input; the model also takes a float32"):
            fit(Dataset(rows.inputs, None, "x", ("b", "c")), each)
        with pytest.raises(BadData, match="x lacks c; it has the columns b, a"):
            columns(rows, ["a", "c"])

    def test_a_list_is_a_column(self) -> None:
        one = Signature((TensorSpec("age", "float32", (None, 1)),), ONE.outputs)
        assert fit(Dataset({"age": np.array([1.0, 2.0])}, None, "x"), one).inputs["age"].tolist() == [[1.0], [2.0]]

    def test_a_model_baked_for_a_number_of_rows_takes_any(self) -> None:
        baked = Signature((TensorSpec("pixels", "float32", (8, 4)),), ONE.outputs)
        assert len(fit(Dataset({"x": np.zeros((30, 4), np.float32)}, None, "x"), baked)) == 30
        with pytest.raises(BadData, match=r"has shape \[30, 5\]; the model takes pixels float32 \[8, 4\]"):
            fit(Dataset({"x": np.zeros((30, 5), np.float32)}, None, "x"), baked)

    def test_a_lone_input_may_be_called_anything(self) -> None:
        assert list(fit(Dataset({"x": np.zeros((2, 4), np.float32)}, None, "x"), ONE).inputs) == ["pixels"]

    def test_inputs_come_in_the_models_order_and_what_it_does_not_take_is_left_out(self) -> None:
        given = {"id": np.arange(2), "b": np.arange(2), "a": np.zeros((2, 4), np.float32)}
        assert list(fit(Dataset(given, None, "x"), TWO).inputs) == ["a", "b"]

    def test_a_missing_input_is_named(self) -> None:
        with pytest.raises(BadData, match=r"x has the inputs a; the model also takes b int64 \[batch\]"):
            fit(Dataset({"a": np.zeros((2, 4), np.float32)}, None, "x"), TWO)

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64])
    def test_values_that_survive_are_cast(self, dtype: type) -> None:
        found = fit(Dataset({"x": np.arange(8).reshape(2, 4).astype(dtype)}, None, "x"), ONE).inputs["pixels"]
        assert found.dtype == np.float32
        assert found.ravel().tolist() == list(range(8))

    @pytest.mark.parametrize(
        "array",
        [
            np.full((2, 4), 2**24 + 1, np.int64),  # no float32 is this number
            np.full((2, 4), 1e300),
            np.full((2, 4), "a"),
        ],
    )
    def test_values_that_would_be_lost_are_refused(self, array: np.ndarray) -> None:
        with pytest.raises(BadData, match="cannot become float32 without losing values"):
            fit(Dataset({"x": array}, None, "x"), ONE)

    def test_fractions_never_become_whole_numbers(self) -> None:
        given = Dataset({"a": np.zeros((2, 4), np.float32), "b": np.array([0.5, 1.0])}, None, "x")
        with pytest.raises(BadData, match="'b' of x is float64, which cannot become int64"):
            fit(given, TWO)
