"""The SQLite file of captured requests and late labels: its tables, and what it says when it cannot be opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from modelkeep.errors import BadData, Damaged, ModelkeepError

SCHEMA = """
CREATE TABLE IF NOT EXISTS exchanges (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, at REAL NOT NULL, model TEXT NOT NULL,
    version INTEGER NOT NULL, track TEXT NOT NULL, outcome TEXT NOT NULL, seconds REAL NOT NULL,
    seq INTEGER NOT NULL, inputs BLOB, outputs BLOB, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_id ON exchanges (model, id);
CREATE INDEX IF NOT EXISTS by_seq ON exchanges (model, version, seq);
CREATE TABLE IF NOT EXISTS labels (
    row INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, id TEXT NOT NULL, label TEXT NOT NULL, at REAL NOT NULL,
    answered REAL, UNIQUE (model, id));
"""


def connect(path: Path) -> sqlite3.Connection:
    """The file, made where it is missing; close it yourself.

    Raises BadData where it is damaged or no such file, Damaged where it cannot be used now (no room, no right, locked).
    """
    database: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=10.0)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        made = database.execute("SELECT sql FROM sqlite_master WHERE name = 'labels'").fetchone()
        if made is None:
            database.executescript(SCHEMA)
        elif "answered" not in made[0]:
            _grow(database)
    except (sqlite3.Error, OSError) as error:
        if database is not None:
            database.close()
        raise trouble(path, error) from error
    return database


def _grow(database: sqlite3.Connection) -> None:
    """A file from before labels knew when their requests were answered."""
    try:
        database.execute("ALTER TABLE labels ADD COLUMN answered REAL")
    except sqlite3.OperationalError as error:
        if "duplicate column" not in str(error):  # another process was quicker
            raise


def trouble(path: Path, error: Exception) -> ModelkeepError:
    """What a failure of SQLite or of the disk means, as a sentence."""
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return BadData(f"{path} is not a file of captured traffic ({error}); move it away, it is made anew")
    return Damaged(f"the captured traffic in {path} cannot be used ({error}); check the disk and who may write there")


def number(path: Path, query: str, *values: Any) -> int:
    """The one number that a query gives; 0 for none, and for a file that is missing."""
    if not path.is_file():
        return 0
    with closing(connect(path)) as database:
        try:
            found = database.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise trouble(path, error) from error
    return int(found[0] or 0) if found else 0
