"""A folder that is written whole or not at all: what a step does when it fails half-way."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(into: Path) -> Iterator[Path]:
    """``into``, made where it is missing; emptied again when the body raises, be it by Ctrl-C."""
    into.mkdir(parents=True, exist_ok=True)
    try:
        yield into
    except BaseException:  # Ctrl-C too must leave nothing half-made; it is raised again
        for path in into.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
