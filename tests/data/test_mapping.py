"""Arrays of .npz files that lie in the file until they are read."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from modelkeep.data import dataset, mapping
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData

ARRAYS = {
    "pixels": np.arange(60, dtype=np.float32).reshape(5, 3, 4),
    "naïve name": np.arange(5, dtype=np.int64),
    "text": np.array(["a", "bcd", "", "é", "e"]),
}


def test_what_is_written_is_mapped_aligned_and_equal(tmp_path: Path) -> None:
    dataset.write(Dataset(ARRAYS, np.arange(5), "made"), tmp_path / "rows.npz")
    found = mapping.load(tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as usual:
        assert sorted(found) == sorted(usual.files)
        for name, array in found.items():
            np.testing.assert_array_equal(array, usual[name])
            assert array.dtype == usual[name].dtype
            assert isinstance(array.base, mmap.mmap)
            assert array.flags.aligned
            assert array.ctypes.data % mapping.ALIGN == 0


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        dataset.write(Dataset(ARRAYS, None, "made"), tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_others_wrote_is_read_all_the_same(tmp_path: Path, save: object) -> None:
    save(tmp_path / "rows.npz", **ARRAYS, empty=np.empty((0, 2)), turned=np.asfortranarray(np.eye(3)[:2]))  # type: ignore[operator]
    found = mapping.load(tmp_path / "rows.npz")
    assert found["empty"].shape == (0, 2)
    np.testing.assert_array_equal(found["turned"], np.eye(3)[:2])
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_mapped_array_cannot_be_written_to(tmp_path: Path) -> None:
    dataset.write(Dataset(ARRAYS, None, "made"), tmp_path / "rows.npz")
    rows = dataset.read(tmp_path / "rows.npz", mapped=True)
    with pytest.raises(ValueError, match="read-only"):
        rows.inputs["pixels"][0] = 1
    rows.take([0]).inputs["pixels"][0] = 1


@pytest.mark.parametrize("cut", [0, 100, 700])
def test_a_damaged_file_is_told(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "rows.npz"
    dataset.write(Dataset(ARRAYS, None, "made"), file)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(BadData, match=r"cannot be read as an \.npz file"):
        dataset.read(file, mapped=True)


@pytest.mark.parametrize("mapped", [True, False])
def test_whatever_byte_is_wrong_it_is_read_or_told(tmp_path: Path, mapped: bool) -> None:
    """The file of a version is verified before it is opened; one that lies elsewhere is not."""
    file = tmp_path / "rows.npz"
    dataset.write(Dataset({"x": ARRAYS["naïve name"]}, None, "made"), file)
    sound, told = file.read_bytes(), 0
    for at, byte in enumerate(sound):
        file.unlink()  # mapped, and must not change
        file.write_bytes(sound[:at] + bytes([byte ^ 0xFF]) + sound[at + 1 :])
        try:
            dataset.read(file, mapped=mapped)
        except BadData:
            told += 1
    assert told > len(sound) / 4


def test_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.array([{}], dtype=object))
    with pytest.raises(BadData, match="holds Python objects"):
        dataset.read(tmp_path / "rows.npz", mapped=True)
