"""Answers that were given before, by what was asked: bounded in bytes, the least recently used go first."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.serve.plane.suspects import feed

if TYPE_CHECKING:
    from modelkeep.serve.plane.loaded import Loaded
    from modelkeep.types import Array, Arrays, Request

OVERHEAD = 512
"""Bytes of an array or an entry besides its content."""


@dataclass(frozen=True, slots=True)
class _Kept:
    outputs: Arrays
    size: int


def question(request: Request, target: Loaded, parameters: Mapping[str, Any]) -> bytes:
    """A digest (BLAKE2b, 256 bits) of all that an answer may depend on: inputs, parameters, the outputs asked for, and
    the version as it is loaded now, so that no answer outlives its version or its settings.
    """
    found = hashlib.blake2b(digest_size=32)
    # the type is part of it: True == 1 == 1.0 in Python, and a model may tell them apart
    told = sorted((name, type(value).__name__, repr(value)) for name, value in parameters.items())
    found.update(repr((target.ref, target.serial, told, request.outputs)).encode())
    feed(found, request.inputs)
    return found.digest()


class Cache:
    """Of all models of one server. Off where ``max_bytes`` is 0. Belongs to the event loop's thread."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, question: bytes) -> Arrays | None:
        """What was answered, in arrays that cannot be written to; None where it is not known."""
        kept = self._kept.get(question)
        if kept is None:
            return None
        self._kept.move_to_end(question)
        return kept.outputs

    def put(self, question: bytes, outputs: Arrays) -> None:
        """Keep a copy: the arrays of an answer may be parts of a whole batch's."""
        size = OVERHEAD + sum(_size(array) for array in outputs.values())
        if size > self.max_bytes or question in self._kept:
            return
        self._kept[question] = _Kept({name: _own(array) for name, array in outputs.items()}, size)
        self.bytes += size
        self.bound(self.max_bytes)

    def bound(self, max_bytes: int) -> None:
        """Hold so many bytes at most from now on."""
        self.max_bytes = max_bytes
        while self.bytes > max_bytes:
            _, gone = self._kept.popitem(last=False)
            self.bytes -= gone.size


def _own(array: Array) -> Array:
    own = np.array(array)
    own.flags.writeable = False
    return own


def _size(array: Array) -> int:
    texts = sum(OVERHEAD // 8 + 4 * len(text) for text in array.flat) if array.dtype.kind == "O" else 0
    return OVERHEAD + array.nbytes + texts
