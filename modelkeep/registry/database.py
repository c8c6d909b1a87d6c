"""The database of a registry: opened, laid out once under a lock, written to by one transaction at a time.

All that differs between SQLite and PostgreSQL is here (and the triggers in schema.py).
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, NullPool, create_engine, event, func, insert, inspect, select, update
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from modelkeep.data import sqlite
from modelkeep.data.sqlite import BUSY_SECONDS
from modelkeep.errors import BadSettings, Busy, Damaged, ModelkeepError, StorageFull
from modelkeep.registry.schema import SCHEMA, about, tables

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

SHARED_BYTES = 32 * 1024
"""What SQLite needs beside a database in WAL mode for its readers, too (the -shm file)."""
_LAYOUT_LOCK = 0x6D6F64656C6B  # any number that other programs in the same PostgreSQL are unlikely to lock


class Database:
    """One engine. Threads may share it; a forked child must open its own.

    A file that only may be read, or whose disk is full, is read, until a write finds that it may be written.

    Raises BadSettings for a URL that cannot be used, Damaged for a file that is not a registry or is newer, Busy when
    another process holds the lock too long, StorageFull when the disk is.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            self._engine = create_engine(url, connect_args=_connect_args(url))
        except (ArgumentError, NoSuchModuleError) as error:
            raise BadSettings(
                f"database is {url!r}, which is no database URL ({error}); write sqlite:///FILE or postgresql://…"
            ) from error
        except ModuleNotFoundError as error:
            raise BadSettings(
                f"the database needs the Python package {error.name}; install it with: pip install "
                f"'{error.name}[binary]'"
            ) from error
        self._sqlite = self._engine.dialect.name == "sqlite"
        file = self._engine.url.database if self._sqlite else None
        self.where = file or self._engine.url.render_as_string(hide_password=True)
        self._wanted = self._engine
        if self._sqlite:
            _as_sqlite(self._engine)
        with self._told():
            try:
                self._lay_out()
            except OperationalError as error:
                if not (file and self._may_only_read(error) and sqlite.lies_still(Path(file))):
                    raise
                self._wanted.dispose()
                self._engine = _reading(Path(file))
                self._lay_out()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view that blocks nobody."""
        with self._told(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, changes: bool = True) -> Iterator[Connection]:
        """The one transaction that may write now; all of it is stored on leaving, or nothing. As each waits for the one
        before, ids are seen in the order in which they were given: who reads on from the last one passes over none.

        ``changes`` says that servers should look again: it makes the revision grow.
        """
        with self._told(), self._alone() as connection:
            self._engine = self._wanted  # where it was only read, that is over now
            revision = connection.execute(select(about.c.revision).with_for_update()).scalar_one()
            if changes:
                connection.execute(update(about).values(revision=revision + 1))
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        self._wanted.dispose()

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        with self._wanted.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._explain(error) from error

    def _may_only_read(self, error: DBAPIError) -> bool:
        return sqlite.kept_out(error.orig) or isinstance(self._explain(error), StorageFull)

    def _explain(self, error: DBAPIError) -> ModelkeepError:
        text = str(error.orig).strip()
        if "is full" in text or "No space left" in text or ("I/O error" in text and self._is_full()):
            return StorageFull(
                f"no space left for the registry {self.where}: {self._free()} are free, about 100,000 needed; nothing "
                "was stored; free some space, then do it again"
            )
        if "readonly" in text or (self._engine is not self._wanted and sqlite.kept_out(error.orig)):
            return Damaged(
                f"the registry {self.where} can only be read here, and nothing was stored; get the right to write to "
                "it and to its folder, or copy the folder and set `home` to the copy"
            )
        if "locked" in text:
            return Busy(
                f"another process has kept the registry {self.where} locked for {BUSY_SECONDS:g} s; try again, "
                "and look for a process that hangs if this comes back"
            )
        if "not a database" in text or "malformed" in text or "no such table" in text or "no such column" in text:
            return Damaged(
                f"{self.where} is not a registry of modelkeep, or is damaged ({text}); restore it from a backup, or "
                "move it away to begin with an empty one"
            )
        return Damaged(
            f"the registry {self.where} cannot be used: {text}; check that it is there and may be read and written"
        )

    def _free(self) -> str:
        return f"{shutil.disk_usage(Path(self.where).parent).free:,} bytes" if self._sqlite else "no bytes"

    def _is_full(self) -> bool:
        """SQLite calls it an I/O error where there is no room even for what its readers share."""
        return self._sqlite and shutil.disk_usage(Path(self.where).parent).free < SHARED_BYTES

    def _lay_out(self) -> None:
        """Create the tables where there are none. Several processes may come here at the same moment."""
        with self._engine.connect() as connection:
            if inspect(connection).has_table(about.name):
                return self._check(connection)
        if self._sqlite:
            self._to_wal()
        with self._alone() as connection:
            if not self._sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(_LAYOUT_LOCK)))
            found = inspect(connection).get_table_names()
            if about.name in found:  # another process was faster
                return self._check(connection)
            if found:
                raise Damaged(
                    f"{self.where} holds tables of another program ({', '.join(sorted(found)[:3])}); "
                    "give modelkeep a database of its own"
                )
            tables.create_all(connection)
            connection.execute(insert(about).values(id=1, schema=SCHEMA, revision=0, swept=time.time()))
        return None

    def _check(self, connection: Connection) -> None:
        columns = {column["name"] for column in inspect(connection).get_columns(about.name)}
        if not {column.name for column in about.columns} <= columns:
            raise Damaged(f"{self.where} is the database of another program; give modelkeep a database of its own")
        schema = connection.execute(select(about.c.schema)).scalar_one()
        if schema != SCHEMA:
            raise Damaged(
                f"{self.where} was written by a newer modelkeep (layout {schema}, this one knows {SCHEMA}); "
                "upgrade with: pip install --upgrade modelkeep"
            )

    def _to_wal(self) -> None:
        """Readers and the writer stop blocking each other. SQLite does not wait for its lock here, so this does."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise OperationalError("PRAGMA journal_mode=WAL", None, error) from error
            finally:
                connection.close()
            time.sleep(0.01)


def _reading(file: Path) -> Engine:
    """Reads a file, opened anew each time (sqlite.reading)."""
    engine = create_engine("sqlite://", creator=lambda: sqlite.reading(file), poolclass=NullPool)
    _as_sqlite(engine)
    return engine


def _connect_args(url: str | URL) -> dict[str, Any]:
    return {"timeout": BUSY_SECONDS} if str(url).startswith("sqlite") else {}


def _as_sqlite(engine: Engine) -> None:
    """Every commit reaches the disk, and a transaction that writes takes its lock when it begins.

    A lock that is taken at the first write instead fails at once, without waiting, when another writer was faster.
    """

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def began(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
