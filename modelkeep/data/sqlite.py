"""A SQLite file that a server writes while others read it: how it is opened, and what its trouble means."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelkeep.errors import Damaged, DamagedFile, ModelkeepError

BUSY_SECONDS = 10.0
"""How long one waits for another that holds the file before it gives up."""
CACHE_KB = 512
"""Of pages that a connection keeps. Those that the system keeps serve as well, and the 2,000 of SQLite's default would
be the memory of a server.
"""


@dataclass(frozen=True)
class File:
    """What a file holds, in words, and its tables; ``last`` is the one that is made last.

    Files did not always have all: ``later`` columns are (table, column with its type, what it is in rows from before),
    ``indexes`` are on what, by name.
    """

    holds: str
    schema: str
    last: str
    later: tuple[tuple[str, str, str], ...] = ()
    indexes: Mapping[str, str] = field(default_factory=dict)

    def connect(self, path: Path) -> sqlite3.Connection:
        """The file, made where it is missing; close it yourself. One that only may be read is read.

        Raises DamagedFile where it is damaged or no such file, Damaged where it cannot be used now (no room, no right,
        locked).
        """
        database: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = _opened(path)
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self.last,)).fetchone():
                database.executescript(self.schema)
            self._catch_up(database)
        except (sqlite3.Error, OSError) as error:
            if database is not None:
                database.close()
            raise self.trouble(path, error) from error
        return database

    def _catch_up(self, database: sqlite3.Connection) -> None:
        there = dict(database.execute("SELECT name, sql FROM sqlite_master").fetchall())
        for table, column, before in self.later:
            if column not in there[table]:
                _grow(database, table, column, before)
        for index, on in self.indexes.items():
            if index not in there:
                database.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {on}")

    def rows(self, path: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query gives; nothing where the file is missing. Raises Damaged."""
        if not path.is_file():
            return []
        with closing(self.connect(path)) as database:
            try:
                return database.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self.trouble(path, error) from error

    def number(self, path: Path, query: str, *values: Any) -> int:
        """The one number that a query gives; 0 for none, and for a file that is missing."""
        found = self.rows(path, query, *values)
        return int(found[0][0] or 0) if found else 0

    def trouble(self, path: Path, error: Exception) -> ModelkeepError:
        """What a failure of SQLite or of the disk means, as a sentence; one that is a sentence stays as it is."""
        if isinstance(error, ModelkeepError):
            return error
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return DamagedFile(f"{path} is not a file of {self.holds} ({error}); move it away, it is made anew")
        return Damaged(f"the {self.holds} in {path} cannot be used ({error}); check the disk and who may write there")


def _grow(database: sqlite3.Connection, table: str, column: str, before: str) -> None:
    try:
        with database:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
            database.execute(f"UPDATE {table} SET {column.split()[0]} = {before}")
    except sqlite3.OperationalError as error:
        if "duplicate column" not in str(error):  # another process was quicker
            raise


def stride(newest: int, length: int) -> int:
    """The number after which the newest ``length`` to 2 × ``length`` lie. It moves in strides of ``length``, so that
    readers who come back often begin at the same one."""
    return max(0, (newest - 1) // length - 1) * length


def renewed(path: Path, connect: Callable[[Path], sqlite3.Connection]) -> str:
    """Set aside a file that ``connect`` finds damaged, so that the next one is made anew. Says what was wrong, if
    anything was.
    """
    try:
        connect(path).close()
    except DamagedFile as error:
        set_aside(path)
        if path.exists():  # it could not be renamed
            return str(error)
        return f"what was in {path} is set aside (.damaged), and the file is made anew: {error.__cause__}"
    except ModelkeepError as error:
        return str(error)
    return ""


def set_aside(path: Path) -> None:
    """Rename a file and what SQLite has beside it (.damaged)."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            Path(f"{path}{suffix}").rename(f"{path}{suffix}.damaged")


def kept_out(error: BaseException | None) -> bool:
    """Whether SQLite could open or write no file, or not those that it wants beside it, as on a read-only disk."""
    return "unable to open" in str(error) or "readonly" in str(error)


def lies_still(file: Path) -> bool:
    """Whether all that a database holds is in its file: a writer that works, or was killed, leaves some beside it."""
    beside = Path(f"{file}-wal")
    return file.is_file() and not (beside.is_file() and beside.stat().st_size)


def reading(file: Path) -> sqlite3.Connection:
    """For one read where nothing may be written. SQLite takes what lies still for unchanging: another read opens it
    anew, and sees what others wrote meanwhile.
    """
    how = "immutable=1" if lies_still(file) else "mode=ro"
    return sqlite3.connect(f"{file.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_SECONDS)


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        database.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        database.close()
        if kept_out(error) and lies_still(path):
            return reading(path)
        raise
    except sqlite3.Error:
        database.close()
        raise
    return database
