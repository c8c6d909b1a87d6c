"""Arrays by name as bytes and back: a JSON header and their raw bytes. Never pickle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


def pack(arrays: Arrays | None) -> bytes | None:
    """A JSON header and the raw bytes; texts of dtype object go into the header. None stays None."""
    if arrays is None:
        return None
    header: list[dict[str, Any]] = []
    body: list[bytes] = []
    for name, array in arrays.items():
        one: dict[str, Any] = {"name": name, "shape": array.shape}
        if array.dtype.kind == "O":
            one["texts"] = [str(text) for text in array.ravel().tolist()]
        else:
            one["dtype"] = array.dtype.str
            body.append(array.tobytes())
        header.append(one)
    head = json.dumps(header).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *body])


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
