"""Arrays of any shape as columns of numbers, one line a row, each column with a name that a person understands."""

from __future__ import annotations

import base64
import re
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from modelkeep.data import lengths
from modelkeep.data.summaries import (
    MAX_VALUES,
    PROJECTIONS,
    SUMMARIES,
    are_probabilities,
    at_places,
    narrowed,
    of_scores,
    projected,
    summaries,
)

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays, TensorSpec

MAX_COLUMNS = 32
"""A tensor with more values a row gives summaries and projections, else a column for each value."""
MAX_FEATURES = 64
MAX_TEXTS = 11
MAX_WORDS, MAX_CHARACTERS = 20_000, 2000
MAX_TOKEN = 2**20
CONFIDENCES = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
ENTROPIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Fixed bins. Quantiles of reference rows that the model was trained on would call every new row less sure."""
CONFIDENCE = "confidence"
EMBEDDINGS = ("embed", "hidden_state", "pooler")
"""In the name of an output, such as Hugging Face's."""

Edges = tuple[float, ...] | None


class Column(NamedTuple):
    """``edges`` are fixed ones, or None where the reference decides; ``category``: its numbers stand for kinds."""

    name: str
    edges: Edges = None
    category: bool = False


class Reader(Protocol):
    """How the rows of one tensor become columns. ``kept`` is what it learned from the reference, as JSON."""

    columns: list[Column]

    def read(self, rows: Array, sizes: Array | None) -> Array:
        """[rows, values] → [rows, columns]; ``sizes`` [rows] say how many values each row has, where that is free."""
        ...

    def kept(self) -> dict[str, Any]:
        """What ``READERS[kind](name, shape, **kept)`` makes the same reader of."""
        ...


class Scores:
    """Scores of classes: which class, how sure. ``whole``: of however many classes; once, of MAX_VALUES of them."""

    def __init__(self, name: str, shape: Sequence[int | None], whole: bool = False) -> None:
        self.whole = whole
        self.columns = [
            Column("predicted class", category=True),
            Column(CONFIDENCE, CONFIDENCES),
            Column("entropy", ENTROPIES),
        ]

    def read(self, rows: Array, sizes: Array | None) -> Array:
        """See Reader."""
        return of_scores(rows)

    def kept(self) -> dict[str, Any]:
        """See Reader."""
        return {"whole": self.whole}


class Values:
    """A few numbers: each of them."""

    def __init__(self, name: str, shape: Sequence[int | None]) -> None:
        self.columns = [Column(each) for each in _named(name, shape)]

    def read(self, rows: Array, sizes: Array | None) -> Array:
        """See Reader."""
        return rows.astype(np.float64)

    def kept(self) -> dict[str, Any]:
        """See Reader."""
        return {}


class Many:
    """Many numbers, or a free number of them: summaries; of real ones projections; of tokens, how many are unknown."""

    def __init__(self, name: str, shape: Sequence[int | None], project: bool = True, tokens: str = "") -> None:
        self.project, self.tokens = project, tokens
        self._known = _table(tokens) if tokens else None
        names = [f"{what} of {name}" for what in SUMMARIES]
        names += [f"number of values of {name}"] if None in shape else []
        names += [f"projection {at} of {name}" for at in range(1, PROJECTIONS + 1)] if project else []
        names += [f"unknown tokens of {name}"] if tokens else []
        self.columns = [Column(text) for text in names]

    @classmethod
    def learned(
        cls, name: str, shape: Sequence[int | None], dtype: str, reference: Array | None, within: int = 1
    ) -> Many:
        """Small integers are images' and projected as real numbers are; large ones are tokens, and known where so many
        reference rows have them.
        """
        whole = np.dtype(dtype).kind in "iu" and np.dtype(dtype).itemsize > 1
        return cls(name, shape, not whole, _packed(reference, within) if whole and reference is not None else "")

    def read(self, rows: Array, sizes: Array | None) -> Array:
        """See Reader."""
        values = narrowed(rows)
        seen = None if sizes is None else np.minimum(sizes, MAX_VALUES)
        parts = [summaries(values, None if seen is None or (seen == rows.shape[1]).all() else seen)]
        if sizes is not None:
            parts.append(sizes.astype(np.float64)[:, None])
        if self.project:
            parts.append(projected(values))
        if self._known is not None:
            n = rows.shape[1] if seen is None else np.maximum(seen, 1)
            parts.append((self._unknown(values, self._known) / n)[:, None])
        return np.concatenate(parts, axis=1)

    def _unknown(self, values: Array, known: Array) -> Array:
        """[rows]: how many."""
        last = len(known) - 1
        ids = np.where((values >= 0) & (values < last), values, last).astype(np.int64)
        found: Array = (~known[ids] & ~np.isnan(values)).sum(axis=1)
        return found

    def kept(self) -> dict[str, Any]:
        """See Reader."""
        return {"project": self.project, "tokens": self.tokens}


class Texts:
    """Texts: which of the common ones; where most differ, how long they are and how many of their words are unknown."""

    def __init__(
        self, name: str, shape: Sequence[int | None], common: Sequence[str] = (), words: Sequence[str] | None = None
    ) -> None:
        self.common, self.words = tuple(common), None if words is None else tuple(words)
        self._codes = {text: float(code) for code, text in enumerate(common)}
        self._vocabulary = frozenset(words or ())
        each = _named(name, shape) if (_size(shape) or MAX_COLUMNS + 1) <= MAX_COLUMNS else []
        self.each = len(each)
        self.columns = [Column(text, category=True) for text in each]
        if words is not None:
            self.columns += [Column(f"length of {name}"), Column(f"unknown words of {name}")]

    @classmethod
    def learned(cls, name: str, shape: Sequence[int | None], reference: Array | None, within: int = 1) -> Texts:
        """The reference's common texts, and the words of so many rows where the texts are more than a few."""
        if reference is None:
            return cls(name, shape, words=())
        texts = Counter(str(text) for text in reference.ravel().tolist())
        words = Counter(word for text in texts for word in _words(text))
        free = len(texts) > MAX_TEXTS or (_size(shape) or MAX_COLUMNS + 1) > MAX_COLUMNS
        known = [word for word, _ in words.most_common(MAX_WORDS)] if free else None
        if known and within > 1:
            rows = reference.reshape(len(reference), -1).tolist()
            having = Counter(word for row in rows for word in {word for text in row for word in _words(str(text))})
            known = [word for word in known if having[word] >= within]
        return cls(name, shape, [text for text, _ in texts.most_common(MAX_TEXTS)], known)

    def read(self, rows: Array, sizes: Array | None) -> Array:
        """See Reader."""
        found = np.empty((len(rows), len(self.columns)))
        for at, row in enumerate(rows.tolist()):
            texts = [str(text) for text in row]
            if self.each:
                found[at, : self.each] = [self._codes.get(text, -1.0) for text in texts]
            if self.words is not None:
                found[at, -2] = sum(map(len, texts))
                found[at, -1] = self._unknown(texts)
        return found

    def _unknown(self, texts: list[str]) -> float:
        words = [word for text in texts for word in _words(text)]
        return sum(word not in self._vocabulary for word in words) / max(len(words), 1)

    def kept(self) -> dict[str, Any]:
        """See Reader."""
        return {"common": list(self.common), "words": None if self.words is None else list(self.words)}


READERS: dict[str, Any] = {"scores": Scores, "values": Values, "many": Many, "texts": Texts}


class Tensor:
    """One tensor of the signature: its rows from requests' arrays, and the reader that they are given to.

    ``apart`` reads the reference rows themselves, each as if it had been learned from the others alone: what no row but
    it has is unknown. They would have nothing unknown else, and every new row of the same world would be drift.
    """

    def __init__(
        self, spec: TensorSpec, kind: str, reader: Reader, mask: str = "", apart: Reader | None = None
    ) -> None:
        self.name, self.kind, self.reader, self.mask, self.apart = spec.name, kind, reader, mask, apart or reader
        self.batched = spec.shape[:1] == (None,)
        self.width = _size(_row(spec))
        self._most = sys.maxsize if isinstance(reader, Scores) and reader.whole else MAX_VALUES
        self.exact = kind == "values" and not spec.dtype.startswith(("float16", "float32", "bfloat"))
        """Whether no value of its columns was ever a float32, which tells no large whole number from the next."""

    @classmethod
    def learned(cls, spec: TensorSpec, reference: Array | None, *, scores: bool, mask: str = "") -> Tensor:
        """How to read it, as its reference is; None where there is none. ``mask`` is the input that says what of it is
        padding, which is not looked at: one client pads and another does not.
        """
        row = _row(spec)
        if scores:
            return cls(spec, "scores", Scores(spec.name, row, whole=True))
        if spec.dtype == "str":
            readers = [Texts.learned(spec.name, row, reference, within) for within in (1, 2)]
            return cls(spec, "texts", readers[0], apart=readers[1])
        if (_size(row) or MAX_COLUMNS + 1) <= MAX_COLUMNS:
            return cls(spec, "values", Values(spec.name, row))
        many, apart = (Many.learned(spec.name, row, spec.dtype, reference, within) for within in (1, 2))
        return cls(spec, "many", many, mask, apart)

    def read(self, requests: Sequence[Arrays], *, reference: bool = False) -> Array:
        """[rows, columns] of the requests, one after the other. ValueError where they are not as the signature says."""
        rows, sizes = self.rows([one[self.name] for one in requests])
        if self.mask and sizes is not None and sizes.max(initial=0) <= MAX_VALUES:
            rows, sizes = lengths.cut(rows, sizes, lengths.ends([one[self.mask] for one in requests]))
        return (self.apart if reference else self.reader).read(rows, sizes)

    def rows(self, arrays: Sequence[Array]) -> tuple[Array, Array | None]:
        """[rows, values]; and how many each row has, where that is free: short ones are filled up with NaN, or ''.
        Arrays may be whole or ``picked``.
        """
        if self.batched and self.width is not None and self.width <= self._most:  # the usual case, in one copy
            joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            flat = [joined.reshape(len(joined), -1)]
        else:
            flat = [array.reshape(len(array) if self.batched else 1, -1) for array in arrays]
        widths = [rows.shape[1] for rows in flat]
        if self.width is not None and not {self.width, min(self.width, self._most)}.issuperset(widths):
            raise ValueError(f"'{self.name}' has {max(widths)} values a row where its signature says {self.width}")
        seen = [rows if rows.shape[1] <= self._most else at_places(rows) for rows in flat]
        sizes = np.repeat(widths, [len(rows) for rows in flat]) if self.width is None else None
        if len(set(widths)) == 1:
            return (seen[0] if len(seen) == 1 else np.concatenate(seen)), sizes
        return _filled(seen, texts=self.kind == "texts"), sizes


def picked(arrays: Arrays, specs: Sequence[TensorSpec]) -> Arrays:
    """Inputs in less room, and the same to the Tensor of each spec: of rows with more values than are looked at, these
    alone. Where the number of values is free, it is read from the arrays, and they stay whole.
    """
    found = dict(arrays)
    for spec in specs:
        array = arrays.get(spec.name)
        if array is not None and array.size and (_size(_row(spec)) or 0) > MAX_VALUES:
            found[spec.name] = at_places(array.reshape(len(array) if spec.shape[:1] == (None,) else 1, -1))
    return found


class Columns:
    """Several tensors side by side. Tensors whose columns would be beyond the first MAX_FEATURES are left out."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        ends = np.cumsum([len(tensor.reader.columns) for tensor in tensors])
        self.tensors = [tensor for tensor, end in zip(tensors, ends, strict=True) if end <= MAX_FEATURES]
        self.columns = [column for tensor in self.tensors for column in tensor.reader.columns]
        self.names = [column.name for column in self.columns]
        self.edges = [column.edges for column in self.columns]
        self.exact = [tensor.exact for tensor in self.tensors for _ in tensor.reader.columns]

    @property
    def kinds(self) -> dict[int, tuple[str, ...]]:
        """Of each column whose numbers stand for texts, by its place, which."""
        found: dict[int, tuple[str, ...]] = {}
        at = 0
        for tensor in self.tensors:
            if isinstance(tensor.reader, Texts):
                found |= dict.fromkeys(range(at, at + tensor.reader.each), tensor.reader.common)
            at += len(tensor.reader.columns)
        return found

    @classmethod
    def of(
        cls, specs: Sequence[TensorSpec], reference: Arrays | None, *, answers: bool = False, classes: bool = True
    ) -> Columns:
        """Those of a signature's inputs, or answers; learned from reference rows, where there are some. ``classes``:
        whether answers may be scores of classes, which they are not where their truth is several numbers a row.
        """
        rows = {spec.name: None if reference is None else np.asarray(reference[spec.name]) for spec in specs}
        scores = next((spec.name for spec in specs if _are_scores(spec, rows[spec.name], spec is specs[0])), "")
        masks = {one.name: "" if answers else lengths.mask_of(one, specs) for one in specs}
        return cls(
            [
                Tensor.learned(
                    one, rows[one.name], scores=answers and classes and one.name == scores, mask=masks[one.name]
                )
                for one in specs
            ]
        )

    @classmethod
    def again(cls, specs: Sequence[TensorSpec], kept: Sequence[Mapping[str, Any]]) -> Columns:
        """The same, from what ``kept`` gave."""
        there = {spec.name: spec for spec in specs}
        tensors = []
        for one in kept:
            spec = there[one["name"]]
            reader = READERS[one["kind"]](spec.name, _row(spec), **one["learned"])
            tensors.append(Tensor(spec, one["kind"], reader, one.get("mask", "")))
        return cls(tensors)

    def kept(self) -> list[dict[str, Any]]:
        """What ``again`` makes the same of, as JSON."""
        return [
            {"name": one.name, "kind": one.kind, "learned": one.reader.kept(), "mask": one.mask} for one in self.tensors
        ]

    def read(self, arrays: Arrays) -> Array:
        """[rows, features]; KeyError or ValueError where the arrays are not as the signature says."""
        return self.read_all([arrays])

    def read_all(self, requests: Sequence[Arrays]) -> Array:
        """``read`` of requests one after the other."""
        return _beside([tensor.read(requests) for tensor in self.tensors])

    def read_reference(self, arrays: Arrays) -> Array:
        """``read`` of the rows that were learned from, each as if it were new."""
        return _beside([tensor.read([arrays], reference=True) for tensor in self.tensors])

    def occurring(self, requests: Sequence[Arrays], values: Array) -> dict[int, Counter[str]]:
        """Of each category, by its column in ``values`` (what was read of the requests), how often each kind occurs."""
        found: dict[int, Counter[str]] = {}
        at = 0
        for tensor in self.tensors:
            columns = tensor.reader.columns
            kinds = [at + place for place, column in enumerate(columns) if column.category]
            at += len(columns)
            if kinds and tensor.kind == "texts":
                rows, _ = tensor.rows([one[tensor.name] for one in requests])
                found.update({column: Counter(map(str, rows[:, column - kinds[0]])) for column in kinds})
            else:
                found.update({column: _counted(values[:, column]) for column in kinds})
        return found


def _beside(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _counted(numbers: Array) -> Counter[str]:
    each, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
    return Counter({f"{number:g}": int(count) for number, count in zip(each.tolist(), counts, strict=True)})


def _row(spec: TensorSpec) -> tuple[int | None, ...]:
    """The shape of one row: without the batch."""
    return spec.shape[1:] if spec.shape[:1] == (None,) else spec.shape


def _size(row: Sequence[int | None]) -> int | None:
    """Values of one row; None where their number is free."""
    return None if None in row else int(np.prod([size or 0 for size in row], dtype=np.int64))


def _are_scores(spec: TensorSpec, rows: Array | None, first: bool) -> bool:
    """One score for each class: the first output where it is a matrix of floats, or another one of probabilities."""
    if len(spec.shape) != 2 or spec.shape[0] is not None or spec.shape[1] == 1 or not spec.dtype.startswith("float"):
        return False
    if rows is None:
        return first and not are_embeddings(spec.name, None)
    if rows.ndim != 2 or rows.shape[1] < 2 or are_embeddings(spec.name, rows):
        return False
    return first or are_probabilities(rows)


def are_embeddings(name: str, rows: Array | None) -> bool:
    """Whether a matrix of floats is no scores of classes but embeddings: its name says so, or each row has length 1."""
    if any(word in name.lower() for word in EMBEDDINGS):
        return True
    if rows is None or not len(rows) or (rows >= 0).all():
        return False
    with np.errstate(over="ignore"):
        return bool(np.all(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1.0) <= 1e-3))


def _filled(seen: Sequence[Array], *, texts: bool) -> Array:
    """Rows of several lengths, one below the other."""
    shape = sum(map(len, seen)), max(rows.shape[1] for rows in seen)
    found: Array = np.full(shape, "", dtype=object) if texts else np.full(shape, np.nan, dtype=np.float32)
    at = 0
    for rows in seen:
        found[at : at + len(rows), : rows.shape[1]] = rows if texts else narrowed(rows)
        at += len(rows)
    return found


def _named(name: str, shape: Sequence[int | None]) -> list[str]:
    """A name for each value of a row."""
    return [f"{name}[{','.join(map(str, at))}]" if at else name for at in np.ndindex(*(size or 0 for size in shape))]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text[:MAX_CHARACTERS].lower())


def _packed(tokens: Array, within: int) -> str:
    """Which whole numbers occur in so many rows at least, as text."""
    rows = np.sort(tokens.reshape(len(tokens), -1), axis=1)
    new = np.ones(rows.shape, dtype=bool)  # once a row
    new[:, 1:] = rows[:, 1:] != rows[:, :-1]
    new &= (rows >= 0) & (rows < MAX_TOKEN)
    table = np.bincount(rows[new].astype(np.int64), minlength=MAX_TOKEN) >= within
    used = int(np.flatnonzero(table)[-1]) + 1 if table.any() else 0
    return base64.b64encode(zlib.compress(np.packbits(table[:used]).tobytes())).decode()


def _table(text: str) -> Array:
    """[tokens] of bool, from ``_packed``; the last is False, and stands for all beyond."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8))
    return np.concatenate([bits.astype(bool), [False]])
