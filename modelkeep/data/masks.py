"""Fields of a request that are never written in clear: left out, or replaced by a keyed hash."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.errors import BadSettings

if TYPE_CHECKING:
    from modelkeep.types import Array

HASHED = "hash:"
REQUEST = "request"
"""``request.id``, under this name only, is a field too."""
KINDS, WILD = ("input.", "output.", "request."), set("*?[")
KEY_BYTES, HASH_BYTES = 32, 16


class Mask(Enum):
    """What becomes of a field."""

    CLEAR = "clear"
    DROPPED = "dropped"
    HASHED = "hashed"


@dataclass(frozen=True)
class Masks:
    """Which fields are masked, from a text such as ``email, hash:user_id, input.scan*``.

    A pattern (fnmatch, in any case) fits a name or, with ``input.``, ``output.`` or ``parameter.`` before it, one of
    that kind. The field is left out; after ``hash:`` texts and whole numbers are replaced one by one by their keyed
    hash (BLAKE2b, RFC 7693), so that equal ones stay equal and nobody without ``key`` can find them by trying. Numbers
    with fractions and booleans have no hash worth the name, and are left out.
    """

    text: str = ""
    key: bytes = b""

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            if not pattern.removeprefix(HASHED) or " " in pattern:
                raise BadSettings(f"'{pattern}' masks no field; give names or patterns such as email,hash:user_id")
        if self.hashes and not self.key:
            raise BadSettings("a mask with 'hash:' needs a key")

    @property
    def patterns(self) -> list[str]:
        """Each as it was given, in small letters."""
        return [part.strip().lower() for part in self.text.split(",") if part.strip()]

    @property
    def hashes(self) -> bool:
        """Whether a key is needed."""
        return any(pattern.startswith(HASHED) for pattern in self.patterns)

    def of(self, kind: str, name: str) -> Mask:
        """What becomes of the ``kind`` (input, output, parameter, request) of this name; the strictest pattern wins."""
        fitting = [p for p in self.patterns if _fits(p.removeprefix(HASHED), kind, name.lower())]
        if not fitting:
            return Mask.CLEAR
        return Mask.HASHED if all(p.startswith(HASHED) for p in fitting) else Mask.DROPPED

    def idle(self, fields: Sequence[tuple[str, str]]) -> list[str]:
        """The patterns that fit none of these (kind, name): misspelled, it may be."""
        return [p for p in self.patterns if not any(_fits(p.removeprefix(HASHED), k, n.lower()) for k, n in fields)]

    def misnamed(self, fields: Sequence[tuple[str, str]]) -> list[str]:
        """Those of ``idle`` that fit no parameter either, of which nobody knows the names beforehand: such a one is
        named with ``parameter.``, or by a pattern that says no kind.
        """
        bare = ((p, p.removeprefix(HASHED)) for p in self.idle(fields))
        return [p for p, b in bare if not b.startswith("parameter.") and (b.startswith(KINDS) or not set(b) & WILD)]

    def hashed(self, value: Any) -> str:
        """The keyed hash of a text, bytes or a whole number: 32 hexadecimal digits."""
        raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self.key, digest_size=HASH_BYTES).hexdigest()

    def hashed_array(self, array: Array) -> Array | None:
        """The same shape of texts; None where the dtype is none that is hashed."""
        if array.dtype.kind not in "OSUiu":
            return None
        found = [self.hashed(value) for value in array.ravel().tolist()]
        made: Array = _objects(found).reshape(array.shape)
        return made


def _fits(pattern: str, kind: str, name: str) -> bool:
    if kind == REQUEST and not pattern.startswith(f"{REQUEST}."):
        return False  # labels are joined by it, so that only who names it masks it
    return fnmatchcase(f"{kind}.{name}", pattern) or fnmatchcase(name, pattern)


def _objects(values: list[str]) -> Array:
    import numpy as np

    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def key(file: Path) -> bytes:
    """The key in this file, made by chance and readable by its owner only where there is none. Raises BadSettings."""
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as made:
                made.write(secrets.token_hex(KEY_BYTES) + "\n")
    except OSError as error:
        if not file.is_file():  # else another server was quicker
            raise BadSettings(f"the key of the masks cannot be written to {file} ({error})") from error
    try:
        found = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise BadSettings(f"{file} is no key of masks ({error}); move it away, a new one is made") from error
    if len(found) != KEY_BYTES:
        raise BadSettings(f"{file} is no key of masks: it has {len(found)} bytes of {KEY_BYTES}; move it away")
    return found
