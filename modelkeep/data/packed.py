"""Arrays by name as bytes and back: a JSON header and their raw bytes. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


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
    for one in json.loads(blob[4:at]):
        if "texts" in one:
            found[one["name"]] = np.array(one["texts"], dtype=object).reshape(one["shape"])
            continue
        dtype, count = np.dtype(one["dtype"]), int(np.prod(one["shape"], dtype=np.int64))
        found[one["name"]] = np.frombuffer(blob, dtype, count, at).reshape(one["shape"])
        at += count * dtype.itemsize
    return found
