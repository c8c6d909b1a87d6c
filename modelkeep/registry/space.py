"""A disk that is full while something is stored: one sentence with the bytes needed and free."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelkeep.errors import StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def told(what: str, needed: int, at: Path) -> Iterator[None]:
    """Turn the OSError of a full disk, or of a spent quota, into StorageFull. Other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise full(what, needed, shutil.disk_usage(at).free, at) from error


def is_full(error: Exception) -> bool:
    """Whether an error says so, of the system or of a library that failed by it."""
    return any(os.strerror(code) in str(error) for code in FULL)


def full(what: str, needed: int, free: int, at: object) -> StorageFull:
    """The error to raise. Sizes are bytes."""
    return StorageFull(
        f"no space left while storing {what}: it needs {needed:,} bytes and {free:,} bytes are free at {at}; nothing "
        "was stored; free some space or set `store` to another place, then do it again"
    )
