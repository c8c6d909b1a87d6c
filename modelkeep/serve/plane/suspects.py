"""Inputs that are known to end a worker: refused when they come again, or a client that retries would end them all."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelkeep.types import Arrays

REMEMBERED = 60.0
"""Seconds: a worker may have been ended by something else each time."""
MOST = 128


class Suspects:
    """Digests of such inputs, with why; empty, and so for nothing, until a worker has ended."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def convict(self, inputs: Arrays, why: str, now: float) -> None:
        """These inputs ended their worker each time that they were run."""
        while len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[_digest(inputs)] = (why, now + REMEMBERED)

    def known(self, inputs: Arrays, now: float) -> str:
        """Why these inputs must not be run; empty where nothing is known against them."""
        for digest in [d for d, (_, until) in self._known.items() if until <= now]:
            del self._known[digest]
        if not self._known:
            return ""
        why, _ = self._known.get(_digest(inputs), ("", 0.0))
        return why and f"{why} (so it was each time that these inputs were run, and they are not run again for a while)"


def _digest(inputs: Arrays) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    feed(found, inputs)
    return found.digest()


def feed(found: hashlib.blake2b, inputs: Arrays) -> None:
    """Names, dtypes, shapes and contents, in an order that depends on nothing else."""
    for name, array in sorted(inputs.items()):
        content = repr(array.tolist()).encode() if array.dtype.kind in "OUS" else array.tobytes()
        found.update(f"{name} {array.dtype.str} {array.shape} {len(content)} ".encode())
        found.update(content)
