"""Signs of life: how many requests each few seconds brought, how many failed or were slow, and the server's memory.

A server writes counts and no requests, so that health can be judged over weeks, and where no traffic is captured.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from modelkeep.data.sqlite import File, set_aside
from modelkeep.errors import DamagedFile

SCHEMA = """
CREATE TABLE IF NOT EXISTS pulses (
    row INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, model TEXT NOT NULL, version INTEGER NOT NULL,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL, slower TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS pulses_by_version ON pulses (model, version, row);
CREATE TABLE IF NOT EXISTS minutes (
    model TEXT NOT NULL, version INTEGER NOT NULL, minute INTEGER NOT NULL, requests INTEGER NOT NULL,
    failed INTEGER NOT NULL, PRIMARY KEY (model, version, minute)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memory (
    row INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, process INTEGER NOT NULL, bytes REAL NOT NULL);
"""
FILE = File("signs of life", SCHEMA, last="memory")
KEPT = (("pulses", "at", 6 * 3600.0), ("minutes", "minute", 31 * 86400.0), ("memory", "at", 2 * 86400.0))
"""Table, column, and after how many seconds a row goes."""


@dataclass(frozen=True)
class Counts:
    """What the requests to a version came to: all, those that failed, and those that took longer than each bound.

    ``slower`` are as many as the bounds of the server's histogram of seconds, which stay the same for ever.
    """

    requests: int
    failed: int
    slower: tuple[int, ...] = ()

    def since(self, before: Counts) -> Counts:
        """What came after ``before``, where both are counted from one start."""
        slower = tuple(a - b for a, b in zip(self.slower, before.slower or (0,) * len(self.slower), strict=True))
        return Counts(self.requests - before.requests, self.failed - before.failed, slower)


class Pulse(NamedTuple):
    """The counts of the time up to ``at`` (epoch seconds)."""

    row: int
    at: float
    counts: Counts


class Sample(NamedTuple):
    """Bytes of memory of one server, workers included; ``process`` is its id."""

    at: float
    process: int
    bytes: float


def write(path: Path, at: float, counts: Mapping[tuple[str, int], Counts], memory: Sample | None = None) -> None:
    """Add the counts of the time up to ``at``, by model and version. What is too old goes.

    Raises Damaged; a damaged file (DamagedFile) is moved aside (.damaged), so that the next one is made anew.
    """
    try:
        with closing(FILE.connect(path)) as database, database:
            _write(database, at, counts, memory)
    except (sqlite3.Error, DamagedFile) as error:
        trouble = FILE.trouble(path, error)
        if isinstance(trouble, DamagedFile):
            set_aside(path)
        raise trouble from error


def _write(
    database: sqlite3.Connection, at: float, counts: Mapping[tuple[str, int], Counts], memory: Sample | None
) -> None:
    for (model, version), one in counts.items():
        database.execute(
            "INSERT INTO pulses (at, model, version, requests, failed, slower) VALUES (?, ?, ?, ?, ?, ?)",
            (at, model, version, one.requests, one.failed, ",".join(map(str, one.slower))),
        )
        database.execute(
            "INSERT INTO minutes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "requests = requests + excluded.requests, failed = failed + excluded.failed",
            (model, version, int(at // 60) * 60, one.requests, one.failed),
        )
    if memory is not None:
        database.execute("INSERT INTO memory (at, process, bytes) VALUES (?, ?, ?)", memory)
    for table, column, keep in KEPT:
        database.execute(f"DELETE FROM {table} WHERE {column} < ?", (at - keep,))


def read(path: Path, model: str, version: int, *, after: int = 0, limit: int | None = None) -> list[Pulse]:
    """Those of a version whose row is above ``after``, the oldest ``limit``; none where the file is missing."""
    query = (
        "SELECT row, at, requests, failed, slower FROM pulses WHERE model = ? AND version = ? AND row > ? "
        "ORDER BY row LIMIT ?"
    )
    return [
        Pulse(row, at, Counts(requests, failed, tuple(map(int, slower.split(","))) if slower else ()))
        for row, at, requests, failed, slower in FILE.rows(
            path, query, model, version, after, -1 if limit is None else limit
        )
    ]


def newest(path: Path) -> int:
    """The newest row of any model; 0 where there is none. Below what was read before: the file was made anew."""
    return FILE.number(path, "SELECT MAX(row) FROM pulses")


def minutes(path: Path, model: str, version: int) -> list[tuple[float, int, int]]:
    """(beginning, requests, failed) of each minute that had requests, the oldest first."""
    query = (
        "SELECT minute, requests, failed FROM minutes WHERE model = ? AND version = ? AND requests > 0 ORDER BY minute"
    )
    return [(float(at), requests, failed) for at, requests, failed in FILE.rows(path, query, model, version)]


def memory(path: Path, *, after: int = 0, limit: int | None = None) -> list[tuple[int, Sample]]:
    """(row, sample) of those whose row is above ``after``, the oldest ``limit``."""
    query = "SELECT row, at, process, bytes FROM memory WHERE row > ? ORDER BY row LIMIT ?"
    return [(row, Sample(*rest)) for row, *rest in FILE.rows(path, query, after, -1 if limit is None else limit)]
