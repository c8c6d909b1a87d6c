"""The registry's tables, in SQLAlchemy Core; the same for SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    event,
)

if TYPE_CHECKING:
    from sqlalchemy import ExecutableDDLElement
    from sqlalchemy.engine import Dialect

SCHEMA = 1
"""The number of this layout. A file with a higher one was written by a newer modelkeep."""


def plain(value: Any) -> Any:
    """What JSON knows, from dataclass values, numpy arrays and scalars, paths, sets and tuples. NaN stays NaN."""
    if isinstance(value, str | int | float) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return [plain(item) for item in value] if isinstance(value, Iterable) else str(value)


class Json(TypeDecorator[Any]):
    """A value as JSON text: PostgreSQL's own JSON types refuse NaN, which reports may hold."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """To text."""
        return json.dumps(plain(value), sort_keys=True)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """From text."""
        return json.loads(value)


tables = MetaData()

about = Table(  # one row: its lock orders all writers, its revision is what servers poll
    "modelkeep",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("schema", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("swept", Double, nullable=False),
)

versions = Table(
    "versions",
    tables,
    Column("name", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("manifest", Json, nullable=False),
    Column("model", Json, nullable=False),
    Column("parent", Integer),
    Column("made_by", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("reports", Json, nullable=False),
    PrimaryKeyConstraint("name", "number"),
)


def _of_version(column: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["name", column], ["versions.name", "versions.number"])


reports = Table(  # those that came after the version was added
    "reports",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("report", Json, nullable=False),
    _of_version("number"),
)

configs = Table(
    "configs",
    tables,
    Column("name", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("machine", Text, nullable=False),
    Column("config", Json, nullable=False),
    PrimaryKeyConstraint("name", "number", "machine"),
    _of_version("number"),
)

routes = Table(
    "routes",
    tables,
    Column("name", Text, primary_key=True),
    Column("live", Integer),
    Column("canary", Integer),
    Column("weight", Double, nullable=False),
    Column("shadow", Integer),
    Column("previous", Integer),
    Column("revision", BigInteger, nullable=False),
    *(_of_version(column) for column in ("live", "canary", "shadow", "previous")),
)

aliases = Table(
    "aliases",
    tables,
    Column("name", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("number", Integer, nullable=False),
    PrimaryKeyConstraint("name", "alias"),
    _of_version("number"),
)

journal = Table(
    "journal",
    tables,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("who", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("data", Json, nullable=False),
    Index("journal_of_model", "name", "kind", "id"),
)


def _append_only(table: Table) -> None:
    """What is append-only here is append-only for every other program that opens the database too."""
    for verb in ("UPDATE", "DELETE"):
        head = f"CREATE TRIGGER {table.name}_{verb.lower()} BEFORE {verb} ON {table.name}"
        sqlite = f"{head} BEGIN SELECT RAISE(ABORT, 'a row of {table.name} is never changed'); END"
        event.listen(table, "after_create", _ddl(sqlite, "sqlite"))
        event.listen(
            table, "after_create", _ddl(f"{head} FOR EACH ROW EXECUTE FUNCTION modelkeep_refuse()", "postgresql")
        )


def _ddl(text: str, dialect: str) -> ExecutableDDLElement:
    return DDL(text).execute_if(dialect=dialect)  # type: ignore[no-untyped-call]  # SQLAlchemy leaves DDL() untyped


_FUNCTION = (
    "CREATE OR REPLACE FUNCTION modelkeep_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'a row of %% is never changed', TG_TABLE_NAME; END $$"
)
event.listen(tables, "before_create", _ddl(_FUNCTION, "postgresql"))
for _table in (versions, reports, journal):
    _append_only(_table)
