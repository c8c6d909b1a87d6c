"""What the server and a worker process say to each other: frames over a socket, and an arena for what is large.

A frame is a prefix, a head (JSON) and a payload. Arrays lie in the payload, or in the arena where they are large:
memory that both processes map, so that joining requests into a batch is the only copy. No pickle on either side.
"""

from __future__ import annotations

import math
import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from modelkeep.errors import BadInput, brief

if TYPE_CHECKING:
    from modelkeep.types import Array

    Buffer = bytes | bytearray | memoryview | mmap.mmap
    Pieces = Mapping[str, Sequence[Array]]
    """By name, the arrays that are joined along the first dimension."""

PREFIX = struct.Struct("<IQ")
"""Bytes of the head, bytes of the payload."""
ALIGN = 64
"""Every array begins at a multiple of it, as vector instructions like it."""
INLINE = 32 * 1024
"""Bytes of arrays that go through the socket; above, the arena saves a copy and is the faster."""
SOCKET_BUFFER = 8 * INLINE
ARENA = 1024**3
"""Bytes of address space. Memory is taken only for what has been used."""
KEPT = 64 * 1024**2
"""Bytes of the arena that stay after a large batch."""
TEXT = "text"
_LENGTH = struct.Struct("<I")


class Arena:
    """Memory that two processes share. It has no name, so that it cannot outlive them."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _anonymous() if fd is None else fd
        self.map = mmap.mmap(self.fd, ARENA)

    def trim(self, used: int) -> None:
        """Give back what a batch of so many bytes took beyond KEPT."""
        if used > KEPT and hasattr(mmap, "MADV_REMOVE"):
            self.map.madvise(mmap.MADV_REMOVE, KEPT, ARENA - KEPT)

    def close(self) -> None:
        """Harmless while arrays still look into it: the memory goes with the last of them."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("modelkeep", os.MFD_CLOEXEC)
    else:  # macOS
        fd, path = tempfile.mkstemp(prefix="modelkeep-")
        os.unlink(path)
    os.ftruncate(fd, ARENA)
    return fd


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack(head: dict[str, Any], groups: Sequence[Pieces], arena: Arena, start: int = 0) -> bytearray:
    """A frame for some groups of arrays, which ``unpack`` gives back joined.

    Large arrays go into the arena from ``start`` on, if they fit there; the head's ``used`` says where it is free
    again. Raises BadInput for what cannot be sent.
    """
    texts = {id(pieces): _texts(pieces) for group in groups for pieces in group.values() if _is_text(pieces[0])}
    specs: list[list[list[Any]]] = []
    size = 0
    for group in groups:
        specs.append([])
        for name, pieces in group.items():
            text = texts.get(id(pieces))
            spec = _spec(name, pieces, size, None if text is None else len(text))
            specs[-1].append(spec)
            size = _aligned(size + spec[4])
    inside = size > INLINE and start + size <= ARENA
    payload = 0 if inside else size
    encoded = orjson.dumps(
        {**head, "groups": specs, "arena": start if inside else -1, "used": start + size if inside else start}
    )
    encoded = encoded.ljust(_aligned(PREFIX.size + len(encoded)) - PREFIX.size)  # JSON may end in spaces
    frame = bytearray(PREFIX.size + len(encoded) + payload)
    PREFIX.pack_into(frame, 0, len(encoded), payload)
    frame[PREFIX.size : PREFIX.size + len(encoded)] = encoded
    into: Buffer = arena.map if inside else frame
    at = start if inside else PREFIX.size + len(encoded)
    for group, rows in zip(groups, specs, strict=True):
        for pieces, (_, _, shape, offset, count) in zip(group.values(), rows, strict=True):
            text = texts.get(id(pieces))
            if text is not None:
                memoryview(into)[at + offset : at + offset + count] = text
            elif count:
                _join(pieces, np.ndarray(shape, pieces[0].dtype, into, at + offset))
    return frame


def _join(pieces: Sequence[Array], into: Array) -> None:
    if len(pieces) == 1:
        into[...] = pieces[0]
    else:
        np.concatenate(pieces, out=into)


def _spec(name: str, pieces: Sequence[Array], offset: int, text: int | None) -> list[Any]:
    """Name, dtype, shape, offset and bytes of the joined array."""
    first = pieces[0]
    shape = list(first.shape)
    if len(pieces) > 1:
        shape[0] = sum(len(p) for p in pieces)
    if text is not None:
        return [name, TEXT, shape, offset, text]
    if first.dtype.kind not in "biufc":
        raise BadInput(f"'{name}' is of dtype {first.dtype}, which cannot be handed to a worker process")
    return [name, first.dtype.str, shape, offset, math.prod(shape) * first.dtype.itemsize]


def _is_text(array: Array) -> bool:
    return array.dtype.kind in "OUS"


def _texts(pieces: Sequence[Array]) -> bytes:
    """Each element as its length (the lowest bit says whether it is bytes, not str) and its UTF-8."""
    found: list[bytes] = []
    for array in pieces:
        for element in array.astype(object).flat:
            if not isinstance(element, str | bytes):
                raise BadInput(f"text is needed, and {brief(element)} is none")
            raw = element.encode("utf-8", "surrogatepass") if isinstance(element, str) else element
            found += (_LENGTH.pack(len(raw) << 1 | isinstance(element, bytes)), raw)
    return b"".join(found)


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def length(data: Buffer) -> int:
    """Bytes of the frame whose first bytes these are; 0 where there are too few to say."""
    if len(data) < PREFIX.size:
        return 0
    head, payload = PREFIX.unpack_from(data)
    return int(PREFIX.size + head + payload)


def unpack(data: Buffer, arena: Arena) -> tuple[dict[str, Any], list[dict[str, Array]], bool]:
    """Head, groups of arrays, and whether these lie in the arena (else in ``data``): they are views, not copies."""
    size, _ = PREFIX.unpack_from(data)
    head = orjson.loads(memoryview(data)[PREFIX.size : PREFIX.size + size])
    inside = head["arena"] >= 0
    buffer: Buffer = arena.map if inside else data
    start = head["arena"] if inside else PREFIX.size + size
    groups = [
        {name: _array(dtype, shape, buffer, start + offset, count) for name, dtype, shape, offset, count in group}
        for group in head["groups"]
    ]
    return head, groups, inside


def _array(dtype: str, shape: list[int], buffer: Buffer, offset: int, count: int) -> Array:
    if dtype == TEXT:
        return _untexts(shape, bytes(memoryview(buffer)[offset : offset + count]))
    if not count:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, buffer, offset)


def _untexts(shape: list[int], raw: bytes) -> Array:
    found = np.empty(math.prod(shape), object)
    at = 0
    for number in range(len(found)):
        (head,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        element = raw[at : at + (head >> 1)]
        at += head >> 1
        found[number] = element if head & 1 else element.decode("utf-8", "surrogatepass")
    return found.reshape(shape)


# ── over a blocking socket ───────────────────────────────────────────────────────────────────────────────────────────


class Receiver:
    """Reads frames into one buffer, again and again: what ``read`` gave is overwritten by the next.

    The other side must not send a frame before it has the answer to the last.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(PREFIX.size + 2 * INLINE))

    def read(self) -> memoryview | None:
        """The next frame, or None where the other side is gone."""
        at, size = 0, 0
        while not size or at < size:
            got = self._sock.recv_into(self._buffer[at:])  # only one frame is on its way at a time
            if not got:
                return None
            at += got
            size = length(self._buffer[:at])
            if size > len(self._buffer):
                larger = memoryview(bytearray(size))
                larger[:at] = self._buffer[:at]
                self._buffer = larger
        return self._buffer[:size]
