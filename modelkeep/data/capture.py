"""The SQLite file of captured requests and late labels: its tables, and what it says when it cannot be opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from modelkeep.data.sqlite import File
from modelkeep.errors import ModelkeepError

SCHEMA = """
CREATE TABLE IF NOT EXISTS exchanges (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, at REAL NOT NULL, model TEXT NOT NULL,
    version INTEGER NOT NULL, track TEXT NOT NULL, outcome TEXT NOT NULL, seconds REAL NOT NULL,
    seq INTEGER NOT NULL, inputs BLOB, outputs BLOB, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_id ON exchanges (model, id);
CREATE INDEX IF NOT EXISTS by_seq ON exchanges (model, version, seq);
CREATE TABLE IF NOT EXISTS labels (
    row INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, id TEXT NOT NULL, label TEXT NOT NULL, at REAL NOT NULL,
    answered REAL, version INTEGER, UNIQUE (model, id));
"""
LATER = ("answered REAL", "version INTEGER")
"""Columns that the table of labels did not always have."""
INDEXES = {"by_row": "model, version", "by_bytes": "bytes"}
"""That files did not always have. Of each version its rows in order, as every index has them: without it the newest few
are found by sorting all. And how large each row is, which stands behind its arrays: else adding up reads all of them.
"""
FILE = File("captured traffic", SCHEMA, last="labels")


def connect(path: Path) -> sqlite3.Connection:
    """See File.connect."""
    database = FILE.connect(path)
    try:
        there = dict(database.execute("SELECT name, sql FROM sqlite_master").fetchall())
        for column in LATER:
            if column not in there["labels"]:
                _grow(database, column)
        for index, columns in INDEXES.items():
            if index not in there:
                database.execute(f"CREATE INDEX IF NOT EXISTS {index} ON exchanges ({columns})")
    except sqlite3.Error as error:
        database.close()
        raise trouble(path, error) from error
    return database


def _grow(database: sqlite3.Connection, column: str) -> None:
    """A file from before labels knew when their requests were answered, and by which version."""
    try:
        database.execute(f"ALTER TABLE labels ADD COLUMN {column}")
    except sqlite3.OperationalError as error:
        if "duplicate column" not in str(error):  # another process was quicker
            raise


def trouble(path: Path, error: Exception) -> ModelkeepError:
    """See File.trouble."""
    return FILE.trouble(path, error)


def number(path: Path, query: str, *values: Any) -> int:
    """See File.number."""
    return FILE.number(path, query, *values)
