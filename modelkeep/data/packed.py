"""Arrays by name as bytes and back: a JSON header and their raw bytes. Never pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


TEXT = 48
"""Bytes that Python takes for a text besides its characters."""


def size_of(arrays: Arrays | None) -> int:
    """Bytes in memory; of an array of objects, those of its texts too."""
    size = 0
    for array in arrays.values() if arrays else ():
        size += array.nbytes
        if array.dtype.kind == "O":
            size += _texts(array)
    return size


def _texts(array: Array) -> int:
    return TEXT * array.size + sum(map(len, array.flat))


def pack(arrays: Arrays | None) -> bytes | None:
    """A JSON header and the raw bytes; texts of dtype object go into the header. None stays None."""
    if arrays is None:
        return None
    described: list[tuple[Any, ...]] = []
    body: list[bytes] = []
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            described.append((name, array.shape, None, tuple(map(str, array.ravel().tolist()))))
        else:
            described.append((name, array.shape, array.dtype.str))
            body.append(array.tobytes())
    return b"".join([_head(tuple(described)) if len(body) == len(described) else _headed(described), *body])


def _headed(described: Iterable[tuple[Any, ...]]) -> bytes:
    """The header, its length before it, of (name, shape, dtype) or (name, shape, None, texts) of each array."""
    header = [
        {"name": name, "shape": shape, **({"texts": texts[0]} if texts else {"dtype": dtype})}
        for name, shape, dtype, *texts in described
    ]
    head = json.dumps(header).encode()
    return len(head).to_bytes(4, "little") + head


_head = lru_cache(256)(_headed)
"""Of arrays without texts: most requests are alike."""


def unpack(blob: bytes | None) -> dict[str, Array] | None:
    """What ``pack`` was given."""
    if blob is None:
        return None
    at = 4 + int.from_bytes(blob[:4], "little")
    found: dict[str, Array] = {}
    for name, shape, dtype, count, texts in (_plan if at < LONG else _planned)(blob[4:at]):
        if texts is not None:
            found[name] = np.array(texts, dtype=object).reshape(shape)
            continue
        found[name] = np.frombuffer(blob, dtype, count, at).reshape(shape)
        at += count * dtype.itemsize
    return found


def _planned(header: bytes) -> list[tuple[str, list[int], np.dtype[Any], int, list[str] | None]]:
    """(name, shape, dtype, number of elements, texts) of each array."""
    return [
        (one["name"], one["shape"], np.dtype(one.get("dtype", "O")), math.prod(one["shape"]), one.get("texts"))
        for one in json.loads(header)
    ]


_plan = lru_cache(256)(_planned)
LONG = 1024
"""Bytes of a header that is not worth keeping: it holds texts, and comes once."""
