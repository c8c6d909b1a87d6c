"""Bytes by SHA-256, in a local folder or behind any other fsspec URL.

``blobs/<sha256>`` holds whole files only: bytes are written under ``temp/``, synced, then renamed. A process that is
killed leaves at most an orphan in one of the two, which ``orphans`` finds once it is old.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from modelkeep.errors import BadModel, BadSettings, Damaged
from modelkeep.registry.manifest import File, sha256

CHUNK = 1024**2


class Store:
    """One store. ``local`` says whether it lies in a folder of this machine.

    An OSError of ``put`` or ``fetch`` is left to the caller, who knows what was being stored.
    """

    def __init__(self, url: str) -> None:
        self._root: str
        try:  # a path is no URL, and '::' in it joins none
            self._fs, self._root = (LocalFileSystem(), url) if url.startswith("/") else url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadSettings(f"store is '{url}', which cannot be opened: {error}") from error
        self._root = self._root.rstrip("/")
        self.url = url
        self.local = isinstance(self._fs, LocalFileSystem)
        self.disk = Path(self._root) if self.local else Path(tempfile.gettempdir())  # where a copy needs space
        if self.local:
            try:
                for folder in ("blobs", "temp"):
                    Path(self._root, folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Damaged(
                    f"the store {url} cannot be made: {error.strerror}; set `store` to another place"
                ) from error

    def put(self, source: Path, file: File) -> bool:
        """Store a file's bytes; False when they were there already. A stored copy that is damaged is replaced.

        Raises BadModel when the file is not what its ``File`` says any more.
        """
        if self.whole(file):
            return False
        temp = f"{self._root}/temp/{uuid.uuid4().hex}"
        try:
            with source.open("rb") as reader, self._fs.open(temp, "wb") as writer:
                got = _copy(reader, writer)
                if self.local:
                    _sync(writer)
            if got != file.sha256:
                raise BadModel(f"{source} changed while it was being stored; do it again once nothing writes to it")
            if self.local:
                os.replace(temp, self._blob(file.sha256))
            else:
                self._fs.mv(temp, self._blob(file.sha256))
        except BaseException:  # Ctrl-C too must leave no half-written file; it is raised again
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self._fs.rm_file(temp)
            raise
        return True

    def settle(self) -> None:
        """Make the names of all that was put survive a loss of power."""
        if self.local:
            sync_folder(Path(self._root, "blobs"))

    def has(self, sha256: str) -> bool:
        """Whether a blob of that name is there."""
        return bool(self._fs.exists(self._blob(sha256)))

    def whole(self, file: File) -> bool:
        """Whether the stored bytes are right: read again in a local store, told by their size elsewhere."""
        try:
            if self.local:
                return sha256(Path(self._blob(file.sha256))) == file.sha256
            return int(self._fs.info(self._blob(file.sha256))["size"]) == file.size
        except FileNotFoundError:
            return False

    def fetch(self, sha256: str, into: Path) -> str:
        """Copy a blob to a local file, synced; returns the SHA-256 of what was copied. Raises FileNotFoundError."""
        with self._fs.open(self._blob(sha256), "rb") as reader, into.open("xb") as writer:
            got = _copy(reader, writer)
            _sync(writer)
        return got

    def delete(self, sha256: str) -> None:
        """Remove a blob; no matter if it is gone already."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._blob(sha256))

    def free(self) -> int | None:
        """Bytes that a local store can still take."""
        return shutil.disk_usage(self._root).free if self.local else None

    def orphans(self, before: float) -> list[str]:
        """Remove temporary files older than ``before`` (epoch seconds); name the blobs that are as old."""
        for path in self._older("temp", before):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(path)
        return [path.rpartition("/")[2] for path in self._older("blobs", before)]

    def _older(self, folder: str, before: float) -> Iterator[str]:
        found: dict[str, dict[str, Any]] = self._fs.find(f"{self._root}/{folder}", detail=True)
        for path, info in found.items():
            written = info.get("mtime") or info.get("LastModified") or info.get("created")
            if isinstance(written, datetime):
                written = written.timestamp()
            if isinstance(written, int | float) and written < before:
                yield path

    def _blob(self, sha256: str) -> str:
        return f"{self._root}/blobs/{sha256}"


def _copy(reader: BinaryIO, writer: BinaryIO) -> str:
    """Copy to the end; returns the SHA-256 of what was copied."""
    seen = hashlib.sha256()
    while chunk := reader.read(CHUNK):
        seen.update(chunk)
        writer.write(chunk)
    return seen.hexdigest()


def _sync(writer: BinaryIO) -> None:
    writer.flush()
    os.fsync(writer.fileno())


def sync_folder(folder: Path) -> None:
    """Make a folder's names survive a loss of power, where the system can."""
    if os.name == "posix":
        at = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(at)
        finally:
            os.close(at)
