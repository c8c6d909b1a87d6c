"""Rows by input name, with their truth where it is known: read from .npz and .csv, cut, joined, fitted to a model."""

from __future__ import annotations

import csv
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from modelkeep.data import lengths, mapping
from modelkeep.data.views import View
from modelkeep.errors import BadData, NotFound

if TYPE_CHECKING:
    from modelkeep.types import Array, Signature, TensorSpec

TRUTH = ("labels", "label", "y")
"""Arrays of these names are the truth, unless the model has an input called so."""
DAMAGED = (
    *(ValueError, OSError, EOFError, RuntimeError, SyntaxError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What numpy and zipfile raise for bytes that are no .npz file, or none any more."""
PORTION = 16 * 1024**2
"""Bytes of inputs that a model is given at a time, about."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """``inputs`` by name, each [rows, ...]; ``labels`` [rows] or [rows, ...], or None; ``source`` says where from.

    ``columns`` names the columns of the one input, where the file did.
    Raises BadData where there are no inputs, no rows, or arrays that differ in their number of rows.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    source: str
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs:
            raise BadData(f"{self.source} has no input array, only labels")
        everything = {**self.inputs, **({} if self.labels is None else {"labels": self.labels})}
        for name, array in everything.items():
            if array.ndim == 0:
                raise BadData(f"array '{name}' of {self.source} is a single number; its first axis must be the rows")
        counts = {name: len(array) for name, array in everything.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"'{name}' has {n}" for name, n in counts.items())
            raise BadData(f"the arrays of {self.source} differ in their number of rows: {told}")
        if len(self) == 0:
            raise BadData(f"{self.source} has no rows")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: Sequence[int] | slice | Array, *, copy: bool = True) -> Dataset:
        """The rows of these numbers, in that order; without ``copy`` inputs are copied only as they are read (View)."""
        chosen = indices if isinstance(indices, slice) else np.asarray(indices)
        labels = None if self.labels is None else self.labels[chosen]
        inputs: dict[str, Any] = {
            name: array[chosen] if copy else View([array], np.arange(len(self))[chosen])
            for name, array in self.inputs.items()
        }
        return Dataset(inputs, labels, self.source, self.columns)

    def head(self, n: int) -> Dataset:
        """The first ``n`` rows, or all where there are fewer."""
        return self.take(slice(0, n))

    def portion(self, most: int) -> int:
        """How many rows to give a model at a time: ``most``, and of large ones fewer, for layers make more of each."""
        size = sum(array.nbytes for array in self.inputs.values()) / len(self)
        return int(min(max(PORTION / max(size, 1), 1), most))

    def portions(self, most: int) -> Iterator[Dataset]:
        """The rows in their order, so many at a time."""
        size = self.portion(most)
        return (self.take(slice(at, at + size)) for at in range(0, len(self), size))

    def sample(self, n: int, seed: int = 0, *, copy: bool = True) -> Dataset:
        """``n`` different rows by chance, kept in their order; all of them where there are no more."""
        if n >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False)), copy=copy)

    def split(self, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Shuffled and cut in two, the first with ``share`` of the rows; each has at least one. BadData below two."""
        if len(self) < 2:
            raise BadData(f"{self.source} has {len(self)} row, which cannot be split in two")
        order = np.random.default_rng(seed).permutation(len(self))
        cut = min(max(round(share * len(self)), 1), len(self) - 1)
        return self.take(order[:cut]), self.take(order[cut:])


def concat(a: Dataset, b: Dataset, *, copy: bool = True) -> Dataset:
    """The rows of ``a``, then those of ``b``; labelled where both are. BadData where the inputs do not match.

    Sequences are padded to the longest where they have a mask (``lengths.joined``). Without ``copy`` other inputs are
    copied only as they are read (View).
    """
    if set(a.inputs) != set(b.inputs):
        raise BadData(
            f"{a.source} has the inputs {', '.join(sorted(a.inputs))} and {b.source} has "
            f"{', '.join(sorted(b.inputs))}; they cannot be joined"
        )
    try:
        inputs = lengths.joined([a.inputs, b.inputs]) if copy or not _alike(a, b) else _stacked(a, b)
        both = a.labels is not None and b.labels is not None
        labels = np.concatenate([a.labels, b.labels]) if both else None
    except ValueError as error:
        raise BadData(f"the rows of {a.source} and {b.source} differ in shape: {error}") from error
    return Dataset(inputs, labels, a.source if a.source == b.source else f"{a.source} and {b.source}")


def _alike(a: Dataset, b: Dataset) -> bool:
    """Whether their rows are of the same dtypes and shapes."""
    kinds = [{name: (array.dtype, array.shape[1:]) for name, array in one.inputs.items()} for one in (a, b)]
    return kinds[0] == kinds[1]


def _stacked(a: Dataset, b: Dataset) -> dict[str, Any]:
    every = np.arange(len(a) + len(b))
    return {name: View([array, b.inputs[name]], every) for name, array in a.inputs.items()}


def read(path: Path, signature: Signature | None = None, *, mapped: bool = False) -> Dataset:
    """Rows of an .npz or a .csv file, or of a folder of sampled traffic, fitted to ``signature`` where one is given.

    Those of an .npz that nobody changes may be mapped into memory, and are then loaded as they are read.

    In an .npz, ``labels`` (or ``label``, ``y``) is the truth and every other array is an input. In a .csv with a
    header, column ``label`` is the truth and the other columns are one float64 input [rows, columns], or, where some
    hold text, an input [rows, 1] each; a number that is missing is NaN.
    Raises NotFound, or BadData with what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        from modelkeep.data import sample  # which makes datasets of its own

        dataset = sample.rows(path)
    elif not path.is_file():
        raise NotFound(f"there is no file {path}")
    elif path.suffix == ".npz":
        dataset = _read_npz(path, signature, mapped=mapped)
    elif path.suffix == ".csv":
        dataset = _read_csv(path, signature)
    else:
        raise BadData(f"{path} is not a data file that modelkeep reads; there are: .npz, .csv")
    return fit(dataset, signature) if signature else dataset


def write(dataset: Dataset, path: Path) -> None:
    """An .npz file that ``read`` reads back. BadData where an input is itself called 'labels'."""
    if dataset.labels is not None and "labels" in dataset.inputs:
        raise BadData("an input is called 'labels', which is where the truth goes; rename the input")
    arrays = dict(dataset.inputs) | ({} if dataset.labels is None else {"labels": dataset.labels})
    size = dataset.portion(len(dataset))
    with zipfile.ZipFile(path, "w") as archive:  # what numpy.savez writes, which would need views whole
        for name, array in arrays.items():
            plain = _plain(array)
            about = {"descr": npy.dtype_to_descr(plain.dtype), "fortran_order": False, "shape": plain.shape}
            with archive.open(mapping.member(archive, f"{name}.npy"), "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, about)
                for at in range(0, len(plain), size):
                    file.write(plain[at : at + size].tobytes())


def fit(dataset: Dataset, signature: Signature) -> Dataset:
    """The same rows as the model takes them: a lone input may have any name, dtypes are cast where no value is lost.

    Raises BadData that names the input, what the model takes and what there is.
    """
    wanted = {t.name: t for t in signature.inputs}
    inputs = dict(dataset.inputs)
    if len(wanted) == 1 and len(inputs) == 1:
        inputs = {next(iter(wanted)): next(iter(inputs.values()))}
    if len(inputs) == 1 and len(wanted) > 1 and set(wanted) <= set(dataset.columns):
        inputs = columns(dataset, list(wanted))
    missing = [t.describe() for t in signature.inputs if t.name not in inputs]
    if missing:
        raise BadData(
            f"{dataset.source} has the inputs {', '.join(inputs)}; the model also takes {', '.join(missing)}: add "
            "what is missing under its name"
        )
    fitted = {name: _cast(inputs[name], spec, dataset.source) for name, spec in wanted.items()}
    return Dataset(fitted, dataset.labels, dataset.source)


def columns(dataset: Dataset, names: Sequence[str]) -> dict[str, Array]:
    """The columns of these names, each [rows, 1], be they inputs of their own or parts of the one input.

    Raises BadData, which names those that are missing.
    """
    found = {name: array.reshape(len(array), -1) for name, array in dataset.inputs.items()}
    if len(found) == 1 and dataset.columns:
        (whole,) = found.values()
        found = {name: whole[:, [at]] for at, name in enumerate(dataset.columns)}
    missing = [name for name in names if name not in found]
    if missing:
        raise BadData(f"{dataset.source} lacks {', '.join(missing)}; it has the columns {', '.join(found)}")
    return {name: found[name] for name in names}


def _cast(array: Array, spec: TensorSpec, source: str) -> Array:
    given = "str" if array.dtype.kind in "OUS" else array.dtype.name
    if array.ndim == 1 and spec.shape[1:] == (1,):
        array = array[:, None]  # a column, which people write as a list
    # a model that is baked for so many rows takes them in portions, so their number is never wrong
    inner = zip(spec.shape[1:], array.shape[1:], strict=False)
    if array.ndim != len(spec.shape) or any(want not in (None, got) for want, got in inner):
        raise BadData(f"'{spec.name}' of {source} has shape {list(array.shape)}; the model takes {spec.describe()}")
    if given == spec.dtype:
        return array
    target = None if spec.dtype == "str" else np.dtype(spec.dtype)
    if given != "str" and target is not None and np.can_cast(array.dtype, target, "same_kind"):
        with np.errstate(over="ignore"):
            cast = array.astype(target)
        exact = array.dtype.kind == "f" or np.array_equal(cast.astype(array.dtype), array)
        if exact and np.array_equal(np.isfinite(cast), np.isfinite(array)):
            return cast
    raise BadData(f"'{spec.name}' of {source} is {given}, which cannot become {spec.dtype} without losing values")


def _read_npz(path: Path, signature: Signature | None, *, mapped: bool) -> Dataset:
    try:
        arrays = mapping.load(path) if mapped else _loaded(path)
    except DAMAGED as error:
        hint = (
            "; it is no such file or holds Python objects, save plain arrays with numpy.savez"
            if "pickle" in str(error).lower()
            else ""
        )
        raise BadData(f"{path} cannot be read as an .npz file{hint or f': {error}'}") from error
    taken = {t.name for t in signature.inputs} if signature else set()
    truth = next((name for name in TRUTH if name in arrays and name not in taken), None)
    labels = None if truth is None else truth_of(arrays.pop(truth), str(path))
    return Dataset(arrays, labels, str(path))


def _loaded(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_csv(path: Path, signature: Signature | None) -> Dataset:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = [column.strip() for column in next(csv.reader(file), [])]
            lines = sum(1 for line in file if line.strip())
        if not lines:
            raise BadData(f"{path} has no rows")
        at = [i for i, column in enumerate(header) if column in TRUTH[:2]][:1]
        wanted = [i for i in range(len(header)) if i not in at]
        if not wanted:
            raise BadData(f"{path} has no input column, only labels")
        try:
            cells = list(_columns(path, wanted, np.float64).T)
        except ValueError:  # some hold text, or nothing
            cells = [_column(column) for column in _columns(path, wanted, str).T]
        labels = truth_of(_columns(path, at, str)[:, 0], str(path)) if at else None
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise BadData(f"{path} cannot be read as a .csv file with a header: {error}") from error
    return _shaped({header[i]: column for i, column in zip(wanted, cells, strict=True)}, labels, path, signature)


def _shaped(found: dict[str, Array], labels: Array | None, path: Path, signature: Signature | None) -> Dataset:
    """Columns of numbers as one input, as the lone input of the signature is shaped; else each as an input."""
    text = [name for name, column in found.items() if column.dtype.kind == "O"]
    alone = signature is None or len(signature.inputs) == 1
    if text and (signature is None or not alone):
        return Dataset({name: column[:, None] for name, column in found.items()}, labels, str(path))
    if text and signature and signature.inputs[0].dtype != "str":
        raise BadData(
            f"{path} cannot be read as a .csv file of numbers with a header: column '{text[0]}' holds "
            f"'{next(iter(found[text[0]]))}'"
        )
    rows = (
        np.stack([column.astype(object) for column in found.values()], 1) if text else np.stack(list(found.values()), 1)
    )
    spec = signature.inputs[0] if signature and alone else None
    inner = [size for size in spec.shape[1:] if size is not None] if spec else []
    if spec and len(inner) == len(spec.shape) - 1 and math.prod(inner) == rows.shape[1]:
        return Dataset({spec.name: rows.reshape(len(rows), *inner)}, labels, str(path), tuple(found))
    return Dataset({spec.name if spec else "input": rows}, labels, str(path), tuple(found))


def _column(cells: Array) -> Array:
    """Numbers as float64, an empty cell being NaN; text as it stands where one cell is no number."""
    try:
        return np.where(cells == "", "nan", cells).astype(np.float64)
    except ValueError:
        return cells.astype(object)


def _columns(path: Path, columns: Sequence[int], dtype: type) -> Array:
    found: Array = np.loadtxt(
        path, dtype, delimiter=",", skiprows=1, usecols=columns, ndmin=2, comments=None, quotechar='"', encoding="utf-8"
    )
    return found


def truth_of(labels: Array, source: str) -> Array:
    """Class numbers as int64 wherever they are whole numbers, in text and floats too; one column is flattened."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind in "OUS":
        if np.any(labels == "") or np.any(np.char.lower(labels.astype(str)) == "nan"):
            raise BadData(f"{source} has rows without a label; remove them")
        try:
            return truth_of(labels.astype(np.float64), source)
        except ValueError:
            return labels.astype(str)
    if labels.dtype.kind == "f":
        if np.isnan(labels).any():
            raise BadData(f"{source} has rows whose label is NaN; remove them")
        if np.isfinite(labels).all() and np.array_equal(labels, np.round(labels)):
            return labels.astype(np.int64)
    return labels


def _plain(array: Array) -> Array:
    """Text kept as objects becomes text of fixed width, which needs no pickle."""
    return np.asarray(array).astype(str) if array.dtype.kind == "O" else array
