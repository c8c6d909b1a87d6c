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
    answered REAL, version INTEGER, seq INTEGER, UNIQUE (model, id));
"""
FILE = File(
    "captured traffic",
    SCHEMA,
    last="labels",
    later=(
        ("labels", "answered REAL", "NULL"),
        ("labels", "version INTEGER", "NULL"),
        ("labels", "seq INTEGER", "row"),
    ),
    indexes={
        "by_row": "exchanges (model, version)",
        "by_bytes": "exchanges (bytes)",
        "labels_by_seq": "labels (model, seq)",
    },
)
"""The indexes: of each version its rows in order, as every index has them, without which the newest few are found by
sorting all; how large each row is, which stands behind its arrays, so that adding up need not read all of them; of each
model its labels in order.
"""


def connect(path: Path) -> sqlite3.Connection:
    """See File.connect."""
    return FILE.connect(path)


def trouble(path: Path, error: Exception) -> ModelkeepError:
    """See File.trouble."""
    return FILE.trouble(path, error)


def number(path: Path, query: str, *values: Any) -> int:
    """See File.number."""
    return FILE.number(path, query, *values)
