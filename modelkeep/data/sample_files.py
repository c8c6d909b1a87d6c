"""Exchanges as parquet and back: one row a request, one column a tensor. docs/monitor.md gives the columns."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from modelkeep import extras
from modelkeep.data.masks import Mask, Masks
from modelkeep.data.traffic import Exchange
from modelkeep.errors import BadData, NotFound

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

NAME = re.compile(r"sample-\d{8}T\d{6}\.\d{6}-v\d+-[0-9a-f]{8}\.parquet")
"""Files of ours, in the order of their time: no other file of the folder is read or removed."""
PART = ".part"
STALE = 3600.0
"""Seconds after which a file that was not finished is one that a killed server left."""
EXTRA, ABOUT = "sample", b"modelkeep"
KINDS = {"inputs": "input", "outputs": "output"}
SHAPE = "shape."
"""Before the name of a tensor's column: the column of its shape."""
PLAIN = ("id", "model", "version", "track", "outcome", "seconds", "share")
Row = dict[str, Any]


def need() -> tuple[Any, Any]:
    """pyarrow and its parquet module. Raises MissingExtra."""
    return extras.need("pyarrow", extra=EXTRA), extras.need("pyarrow.parquet", extra=EXTRA)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Group:
    """Requests of one version that wait to become a file.

    ``columns`` are the dtypes of the tensors by column, ``fields`` all (kind, name) that were seen, and their masks;
    ``private`` parameters are never taken.
    """

    masks: Masks
    private: frozenset[str] = frozenset()
    rows: list[Row] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    fields: dict[tuple[str, str], Mask] = field(default_factory=dict)
    nbytes: int = 0

    def add(self, exchange: Exchange, share: float) -> bool:
        """Take a masked copy of an exchange; False where its tensors have other dtypes than those before."""
        row: Row = {name: getattr(exchange, name) for name in PLAIN[:-1]} | {"answered_at": exchange.at, "share": share}
        if (mask := self._mask("request", "id")) is not Mask.CLEAR:
            row["id"] = self.masks.hashed(exchange.id) if mask is Mask.HASHED else ""
        row["parameters"] = json.dumps(self._parameters(exchange.parameters), default=str)
        columns: dict[str, str] = {}
        for attribute, kind in KINDS.items():
            for name, array in self._arrays(kind, getattr(exchange, attribute)).items():
                column = f"{kind}.{name}"
                columns[column] = _dtype(array)
                row[column], row[SHAPE + column] = _flat(array), array.shape
        if any(self.columns.get(column, dtype) != dtype for column, dtype in columns.items()):
            return False
        self.columns |= columns
        self.rows.append(row)
        self.nbytes += sum(_nbytes(row[column]) for column in columns) + len(row["parameters"]) + 200
        return True

    def _mask(self, kind: str, name: str) -> Mask:
        mask = self.fields.get((kind, name))
        if mask is None:
            mask = self.fields[kind, name] = self.masks.of(kind, name)
        return mask

    def _parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name in self.private:
                continue
            mask = self._mask("parameter", name)
            hashable = isinstance(value, str | int) and not isinstance(value, bool)
            if mask is Mask.CLEAR:
                found[name] = value
            elif mask is Mask.HASHED and hashable:
                found[name] = self.masks.hashed(value)
        return found

    def _arrays(self, kind: str, arrays: Arrays | None) -> Arrays:
        found: dict[str, Array] = {}
        for name, array in (arrays or {}).items():
            mask = self._mask(kind, name)
            kept = array if mask is Mask.CLEAR else self.masks.hashed_array(array) if mask is Mask.HASHED else None
            if kept is not None and kept.dtype.kind in "OSUbiuf":
                found[name] = kept
        return found


def _dtype(array: Array) -> str:
    return "str" if array.dtype.kind in "OSU" else array.dtype.name


def _flat(array: Array) -> Any:
    """A copy, row-major: [values], or a list of texts."""
    if array.dtype.kind in "OSU":
        return [x.decode("utf-8", "backslashreplace") if isinstance(x, bytes) else str(x) for x in array.ravel()]
    flat = array.astype(np.float32) if array.dtype == np.float16 else np.array(array)  # few readers know float16
    return flat.ravel()


def _nbytes(values: Any) -> int:
    return int(values.nbytes) if isinstance(values, np.ndarray) else sum(8 + len(text) for text in values)


def encode(group: Group) -> bytes:
    """The whole parquet file of a group."""
    pa, parquet = need()
    rows = group.rows
    arrays: dict[str, Any] = {
        "id": pa.array([row["id"] for row in rows], pa.string()),
        "answered_at": pa.array([round(row["answered_at"] * 1e6) for row in rows], pa.timestamp("us", tz="UTC")),
        "model": pa.array([row["model"] for row in rows], pa.string()),
        "version": pa.array([row["version"] for row in rows], pa.int32()),
        "track": pa.array([row["track"] for row in rows], pa.string()),
        "outcome": pa.array([row["outcome"] for row in rows], pa.string()),
        "seconds": pa.array([row["seconds"] for row in rows], pa.float64()),
        "share": pa.array([row["share"] for row in rows], pa.float64()),
        "parameters": pa.array([row["parameters"] for row in rows], pa.string()),
    }
    plain = list(arrays)
    for column in sorted(group.columns):
        arrays[column] = _column(pa, [row.get(column) for row in rows])
        shapes = [row.get(SHAPE + column) for row in rows]
        arrays[SHAPE + column] = pa.array([None if s is None else list(s) for s in shapes], pa.list_(pa.int64()))
    masked = {f"{kind}.{name}": mask.value for (kind, name), mask in group.fields.items() if mask is not Mask.CLEAR}
    about = json.dumps({"dtypes": group.columns, "masked": masked})
    table = pa.table(arrays).replace_schema_metadata({ABOUT: about.encode()})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd", compression_level=1, use_dictionary=plain)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def _column(pa: Any, rows: Sequence[Any]) -> Any:
    """[rows] of lists; a row that has none is null."""
    present = [row for row in rows if row is not None]
    if isinstance(present[0], list):
        return pa.array(rows, pa.list_(pa.string()))
    counts = [0 if row is None else len(row) for row in rows]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    missing = pa.array([row is None for row in rows])
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(present)), mask=missing)


def folder_of(folder: Path, model: str) -> Path:
    """Where the files of a model lie; a name of any letters stays inside ``folder``."""
    name = quote(model, safe="")
    return folder / (f"%2E{name[1:]}" if name.startswith(".") else name)


def store(folder: Path, version: int, content: bytes) -> Path:
    """Write a file whole or not at all. Raises OSError; nothing is left then."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{_stamped(time.time())}-v{version}-{uuid.uuid4().hex[:8]}.parquet"
    part = folder / f".{name}{PART}"
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder / name)
    except BaseException:  # whatever it was, half a file helps nobody; it is raised again
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    return folder / name


def _stamped(at: float) -> str:
    return f"sample-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%S.%f}"


def trim(folder: Path, max_bytes: int, max_age: float) -> None:
    """Remove our files that are older than ``max_age`` s, and the oldest while they are more than ``max_bytes``."""
    now = time.time()
    kept: list[tuple[float, int, Path]] = []
    for path in _ours(folder):
        with contextlib.suppress(FileNotFoundError):  # another server trims the same folder
            state = path.stat()
            kept.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in kept)
    for at, size, path in sorted(kept):
        if now - at <= (STALE if path.name.endswith(PART) else max_age) and total <= max_bytes:
            continue
        if path.name.endswith(PART) and now - at <= STALE:
            continue
        path.unlink(missing_ok=True)
        total -= size


def _ours(folder: Path) -> Iterable[Path]:
    for path in folder.glob("*/*"):
        if NAME.fullmatch(path.name.removeprefix(".").removesuffix(PART)):
            yield path


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def files(folder: Path, model: str | None = None) -> list[Path]:
    """The finished files of a sample, of a model or of the only one there is, the oldest first.

    ``folder`` is the sample's or the model's own. Raises NotFound, or BadData where several models have some.
    """
    own = [folder_of(folder, model)] if model is not None else []
    for place in (*own, folder):
        if found := [p for p in place.glob("*.parquet") if NAME.fullmatch(p.name)]:
            return sorted(found)
    models = sorted({p.parent for p in folder.glob("*/*.parquet") if NAME.fullmatch(p.name)})
    if model is None and len(models) == 1:
        return files(models[0])
    if models:
        raise BadData(f"{folder} holds samples of {', '.join(p.name for p in models)}; name the folder of one of them")
    raise NotFound(f"{folder} is a folder without a sample of traffic (modelkeep serve --sample); name a file in it")


def since(path: Path, at: float) -> bool:
    """Whether a file was written then (epoch seconds) or later: one that was not holds no request from then on."""
    return path.name >= _stamped(at)


def masked(path: Path) -> list[str]:
    """The masked inputs of a file, which no model can be given. Raises BadData, FileNotFoundError."""
    _, parquet = need()
    _, about = _about(path, lambda: parquet.read_schema(path))
    return [column for column in about["masked"] if column.startswith("input.")]


def _about(path: Path, read: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What ``read`` gives, a table or a schema, and what we say of it in its metadata. Raises BadData."""
    pa, _ = need()
    try:
        found = read()
        schema = found if isinstance(found, pa.Schema) else found.schema
        about: dict[str, Any] = json.loads(schema.metadata[ABOUT])
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise BadData(f"{path} is not a file of sampled traffic ({error}); move it away") from error
    return found, about


def decode(path: Path, *, arrays: bool = True) -> list[Exchange]:
    """The exchanges of one file, in their order. What was masked is not there, or its hash; without ``arrays``, inputs
    and outputs are None, and are not read.

    Raises BadData; FileNotFoundError, as a server that trims may be quicker.
    """
    pa, parquet = need()
    columns = None if arrays else [*PLAIN, "parameters", "answered_at"]
    table, about = _about(path, lambda: parquet.read_table(path, columns=columns, partitioning=None))
    plain = {name: table[name].to_pylist() for name in (*PLAIN, "parameters")}
    ats = table["answered_at"].cast(pa.int64()).to_pylist()
    dtypes = about["dtypes"] if arrays else {}
    tensors = {column: _tensors(table[column], table[SHAPE + column], dtype) for column, dtype in dtypes.items()}
    found = []
    for row in range(table.num_rows):
        kinds: dict[str, dict[str, Array]] = {"input": {}, "output": {}}
        for column, values in tensors.items():
            kind, _, name = column.partition(".")
            if (value := values[row]) is not None:
                kinds[kind][name] = value
        given = {name: plain[name][row] for name in PLAIN[:-1]}
        parameters = json.loads(plain["parameters"][row])
        found.append(
            Exchange(
                **given,
                at=ats[row] / 1e6,
                inputs=kinds["input"] or None,
                outputs=kinds["output"] or None,
                parameters=parameters,
            )
        )
    return found


def ids(path: Path) -> list[str]:
    """Of the requests of one file; nothing else of it is read. Raises BadData, FileNotFoundError."""
    _, parquet = need()
    table, _ = _about(path, lambda: parquet.read_table(path, columns=["id"], partitioning=None))
    found: list[str] = table["id"].to_pylist()
    return found


def _tensors(values: Any, shapes: Any, dtype: str) -> list[Array | None]:
    lists, sizes = values.combine_chunks(), shapes.to_pylist()
    offsets, flat = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=False)
    target = object if dtype == "str" else np.dtype(dtype)
    return [
        None if shape is None else flat[offsets[row] : offsets[row + 1]].astype(target).reshape(shape)
        for row, shape in enumerate(sizes)
    ]
