"""How arrays cross between two processes: a JSON header, then each array's bytes. Both ends import this file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

MAX_HEADER = 4 * 1024**2
MAX_ARRAYS = 8 * 1024**3
"""Bytes of all arrays of one message."""


def send(connection: Connection, header: Mapping[str, Any], arrays: Arrays) -> None:
    """One message. Text arrays go as JSON. Raises OSError where the other end is gone."""
    packed = {name: _packed(array) for name, array in arrays.items()}
    listed = [(name, kind, list(array.shape), len(body)) for (name, array), (kind, body) in _both(arrays, packed)]
    connection.send_bytes(json.dumps({**header, "arrays": listed}).encode())
    for _, body in packed.values():
        if len(body):
            connection.send_bytes(body)


def receive(connection: Connection) -> tuple[dict[str, Any], dict[str, Array]]:
    """The next message; its arrays are the caller's to keep. Raises EOFError where the other end is gone, OSError for a
    message beyond its bounds.
    """
    header = json.loads(connection.recv_bytes(MAX_HEADER))
    listed = header.pop("arrays")
    if sum(size for *_, size in listed) > MAX_ARRAYS:
        raise OSError(f"the message holds more than {MAX_ARRAYS:,} bytes")
    arrays: dict[str, Array] = {}
    for name, kind, shape, size in listed:
        body = bytearray(size)
        if size:
            connection.recv_bytes_into(body)
        arrays[name] = _unpacked(kind, tuple(shape), body)
    return header, arrays


def _both(arrays: Arrays, packed: Mapping[str, tuple[str, Any]]) -> Any:
    return zip(arrays.items(), packed.values(), strict=True)


def _packed(array: Array) -> tuple[str, Any]:
    if array.dtype.kind in "OUS":
        text = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
        return "str", json.dumps(text).encode()
    whole = np.ascontiguousarray(array)
    return whole.dtype.str, whole.reshape(-1).view(np.uint8).data if whole.size else b""


def _unpacked(kind: str, shape: tuple[int, ...], body: bytearray) -> Array:
    if kind == "str":
        return np.array(json.loads(bytes(body)), dtype=object).reshape(shape)
    dtype = np.dtype(kind)
    if dtype.hasobject or len(body) != math.prod(shape) * dtype.itemsize:
        raise OSError(f"{len(body)} bytes are no {kind} of shape {list(shape)}")
    return np.frombuffer(body, dtype).reshape(shape)
