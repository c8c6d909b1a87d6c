"""How a model folder becomes a version: its bytes first, then one transaction with its row and its journal entry.

Killed at any point, it leaves either no version (and bytes that nothing names, which a later add sweeps) or all of it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from modelkeep.errors import Damaged, ModelkeepError
from modelkeep.registry import checkout, journal, manifest, space, versions
from modelkeep.registry.schema import about

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from modelkeep.registry.database import Database
    from modelkeep.registry.manifest import Manifest
    from modelkeep.registry.store import Store
    from modelkeep.registry.versions import New

SWEEP_SECONDS = 3600.0
"""How often an add looks for what killed processes left behind, and how old that must be."""


def add(database: Database, store: Store, checkouts: Path, folder: Path, new: New, who: str) -> int:
    """Store the folder as the next version; returns its number. Raises what Registry.add does."""
    files = manifest.survey(folder)
    written: set[str] = set()
    try:
        number = None
        while number is None:
            _put(store, folder, files, new.name, written)
            with database.write() as connection:
                number = _remember(connection, store, files, new, who)
                sweep_due = _sweep_due(connection, new.created)
    except ModelkeepError:
        with suppress(OSError, ModelkeepError):  # the first error is the one to tell; a later add sweeps
            _delete_unused(database, store, written)
        raise
    if sweep_due:
        with suppress(OSError, ModelkeepError):  # the version is stored; what cannot be swept now is swept later
            sweep(database, store, checkouts, new.created - SWEEP_SECONDS)
    return number


def sweep(database: Database, store: Store, checkouts: Path, before: float) -> None:
    """Remove what is older than ``before`` (epoch seconds) and belongs to no version."""
    checkout.sweep(checkouts, before)
    old = store.orphans(before)
    with database.read() as connection:
        unused = set(old) - versions.blobs_in_use(connection)
    _delete_unused(database, store, unused)


def _put(store: Store, folder: Path, files: Manifest, name: str, written: set[str]) -> None:
    """Every file's bytes into the store; those that were not there before are added to ``written``."""
    try:
        with space.told(name, sum(file.size for file in files.values()), store.disk):
            missing = {file for file in files.values() if not store.has(file.sha256)}
            needed, free = sum(file.size for file in missing), store.free()
            if free is not None and free < needed:
                raise space.full(name, needed, free, store.url)
            for path, file in files.items():
                if store.put(folder / path, file):
                    written.add(file.sha256)
            store.settle()
    except OSError as error:
        raise Damaged(f"{name} cannot be stored at {store.url}: {error}; nothing was stored") from error


def _remember(connection: Connection, store: Store, files: Manifest, new: New, who: str) -> int | None:
    """The row and the journal entry; None where a sweep has removed bytes that were thought to be there."""
    if not all(store.has(file.sha256) for file in files.values()):
        return None
    number = versions.insert_version(connection, files, new)
    data = {"number": number, "digest": manifest.digest(files), "parent": new.parent, "made_by": new.made_by}
    why = f"{new.name}@{number} was made by {new.made_by}"
    journal.write(connection, new.name, "add", why, data, who, new.created)
    return number


def _sweep_due(connection: Connection, now: float) -> bool:
    """Whether it is time to sweep; the caller's transaction writes down that it was done."""
    last: float = connection.execute(select(about.c.swept)).scalar_one()
    if now - last < SWEEP_SECONDS:
        return False
    connection.execute(update(about).values(swept=now))
    return True


def _delete_unused(database: Database, store: Store, blobs: Collection[str]) -> None:
    """Nobody can begin to use these meanwhile: an add looks for its bytes under the same lock."""
    if blobs:
        with database.write(changes=False) as connection:
            for sha256 in set(blobs) - versions.blobs_in_use(connection):
                store.delete(sha256)
