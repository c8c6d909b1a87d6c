"""What a model folder holds: every file's path, SHA-256 and size. The digest of that is the version's digest."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modelkeep.errors import BadModel


class File(NamedTuple):
    """The bytes of one file: SHA-256 in hex, and how many."""

    sha256: str
    size: int


Manifest = Mapping[str, File]
"""Paths inside the folder, parts joined by ``/`` on every system, to what lies there."""


def survey(folder: Path) -> dict[str, File]:
    """The manifest of a folder. Raises BadModel, by name, for links, for what is no plain file and for odd names."""
    try:
        found = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
        for path in found:
            if not is_inside(path):
                raise BadModel(f"'{path!r}' in {folder} is no name that every system can store; rename the file")
        return {path: File(sha256(found[path]), found[path].stat().st_size) for path in sorted(found)}
    except OSError as error:
        raise BadModel(f"the model folder {folder} cannot be read: {error}") from error


def _walk(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for at, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [f for f in folders if f != "__pycache__"]  # Python writes these beside code that was imported
        for name in (*folders, *files):
            path = Path(at, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise BadModel(f"{path} is a link, which could lead out of the model folder; put the file itself there")
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise BadModel(f"{path} is neither a file nor a folder, so it cannot be stored; remove it")
            if stat.S_ISREG(mode):
                yield path


def is_inside(path: str) -> bool:
    """Whether a manifest's path stays in its folder on every system: relative, no ``..``, no drive, no backslash."""
    parts = path.split("/")
    clean = not any(c in path for c in "\\:\0") and path.isprintable()
    return clean and all(part not in ("", ".", "..") for part in parts)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(manifest: Manifest) -> str:
    """The SHA-256 of the manifest's canonical JSON: keys sorted, no spaces, ASCII."""
    text = json.dumps(to_json(manifest), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def to_json(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """``{path: {"sha256": …, "size": …}}``."""
    return {path: file._asdict() for path, file in manifest.items()}


def from_json(data: Mapping[str, Mapping[str, Any]]) -> dict[str, File]:
    """The manifest that ``to_json`` wrote."""
    return {path: File(str(file["sha256"]), int(file["size"])) for path, file in data.items()}
