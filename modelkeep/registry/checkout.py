"""A version's folder on this machine, made from the store. Every file's SHA-256 is verified every time."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from modelkeep.errors import Damaged, DigestMismatch
from modelkeep.registry import space
from modelkeep.registry.manifest import Manifest, digest, is_inside, sha256
from modelkeep.registry.store import Store, sync_folder

TEMP = ".temp-"


def checkout(store: Store, manifest: Manifest, folder: Path, ref: str) -> Path:
    """``folder``, holding exactly the files that were stored as ``ref``.

    In a local store the stored bytes are read again even where the folder is there already, so that damage is noticed
    while a whole copy is left. Raises DigestMismatch that names the file and the version, Damaged, StorageFull.
    """
    _check_manifest(manifest, folder.name, ref)
    try:
        if not folder.is_dir():
            _make(store, manifest, folder, ref)
            return folder
        if store.local:
            _check_store(store, manifest, ref)
        _check_folder(manifest, folder, ref)
    except OSError as error:
        raise Damaged(f"{ref} cannot be brought to {folder}: {error}; check that it may be read and written") from error
    return folder


def sweep(checkouts: Path, before: float) -> None:
    """Remove what processes that were killed before ``before`` (epoch seconds) left half made."""
    for temp in checkouts.glob(f"{TEMP}*"):
        if temp.stat().st_mtime < before:
            shutil.rmtree(temp, ignore_errors=True)  # another process may be sweeping it too


def _check_manifest(manifest: Manifest, expected: str, ref: str) -> None:
    if digest(manifest) != expected:
        raise DigestMismatch(
            f"the list of files of {ref} is not the one that was stored; restore the registry's backup"
        )
    for path in manifest:
        if not is_inside(path):
            raise Damaged(f"{ref} lists the file '{path}', which would lie outside its folder; it is not loaded")


def _make(store: Store, manifest: Manifest, folder: Path, ref: str) -> None:
    """All files into a temporary folder, then one rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(file.size for file in manifest.values())
    temp = folder.parent / f"{TEMP}{uuid.uuid4().hex}"
    try:
        temp.mkdir()
        with space.told(f"the checkout of {ref}", needed, folder.parent):
            for path, file in manifest.items():
                (temp / path).parent.mkdir(parents=True, exist_ok=True)
                try:
                    got = store.fetch(file.sha256, temp / path)
                except FileNotFoundError:
                    raise _lost(ref, path) from None
                if got != file.sha256:
                    raise _damaged(ref, path, got, file.sha256)
            for at in {(temp / path).parent for path in manifest} | {temp}:
                sync_folder(at)
        _settle(temp, folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)  # gone already when all went well


def _settle(temp: Path, folder: Path) -> None:
    try:
        os.rename(temp, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster: its files came from the same verified bytes
            raise
    sync_folder(folder.parent)


def _check_store(store: Store, manifest: Manifest, ref: str) -> None:
    for path, file in manifest.items():
        if not store.has(file.sha256):
            raise _lost(ref, path)
        if not store.whole(file):
            raise _damaged(ref, path, "another one", file.sha256)


def _check_folder(manifest: Manifest, folder: Path, ref: str) -> None:
    root = folder.resolve()
    for path, file in manifest.items():
        at = folder / path
        mend = f"it is not loaded; delete {folder} and it is made again from the store"
        if not at.is_file():
            raise DigestMismatch(f"the file '{path}' of {ref} is missing from its checkout; {mend}")
        if not at.resolve().is_relative_to(root) or sha256(at) != file.sha256:
            raise DigestMismatch(f"the file '{path}' of {ref} was changed in its checkout; {mend}")
    for cache in folder.rglob("__pycache__"):  # compiled code that no digest covers would run instead of the source
        shutil.rmtree(cache, ignore_errors=True)


def _damaged(ref: str, path: str, got: str, wanted: str) -> DigestMismatch:
    return DigestMismatch(
        f"the stored file '{path}' of {ref} is not the one that was stored (SHA-256 {got[:12]}, it was {wanted[:12]}), "
        "so it is not loaded; add the same files again, which mends the store, or restore a backup"
    )


def _lost(ref: str, path: str) -> DigestMismatch:
    return DigestMismatch(
        f"the stored file '{path}' of {ref} is missing from the store, so it is not loaded; add the same files again, "
        "which mends the store, or restore a backup"
    )
