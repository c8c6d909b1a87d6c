"""The journal: who did what, when and why. Entries are written in the transaction of what they tell of, and stay."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from modelkeep.registry.schema import journal, plain

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Row

OWN = ("add", "route", "alias", "config")
"""Kinds that only the registry itself writes: each tells of a change that was made with it."""


@dataclass(frozen=True)
class Entry:
    """One line of the journal. ``at`` is in epoch seconds; ``data`` is what JSON can hold."""

    id: int
    at: float
    who: str
    name: str
    kind: str
    why: str
    data: Mapping[str, Any]


def author(who: str) -> str:
    """``person`` becomes ``person:<login name>``; anything else stays."""
    if who != "person":
        return who
    try:
        return f"person:{getpass.getuser()}"
    except (KeyError, ImportError, OSError):  # a user id without a name, as in many containers
        return f"person:{os.getuid() if hasattr(os, 'getuid') else 'unknown'}"


def write(
    connection: Connection, name: str, kind: str, why: str, data: Mapping[str, Any], who: str, at: float | None = None
) -> Entry:
    """Append an entry within the caller's transaction."""
    values = {
        "at": time.time() if at is None else at,
        "who": author(who),
        "name": name,
        "kind": kind,
        "why": why,
        "data": plain(data),
    }
    key = connection.execute(insert(journal).values(values)).inserted_primary_key
    assert key is not None  # the table has a primary key, so the insert gives one
    return Entry(id=key[0], **values)


def read(
    connection: Connection,
    name: str | None = None,
    *,
    after: int = 0,
    kind: str | Collection[str] | None = None,
    limit: int | None = None,
    before: int | None = None,
    since: float = 0.0,
) -> list[Entry]:
    """Entries whose id is above ``after``, the oldest first; with ``before`` the newest ``limit`` of those below it."""
    query = select(journal).where(journal.c.id > after)
    query = query.order_by(journal.c.id if before is None else journal.c.id.desc())
    if before is not None:
        query = query.where(journal.c.id < before)
    if name is not None:
        query = query.where(journal.c.name == name)
    if kind is not None:
        query = query.where(journal.c.kind.in_([kind] if isinstance(kind, str) else kind))
    if since:
        query = query.where(journal.c.at >= since)
    if limit is not None:
        query = query.limit(limit)
    found = [_entry(row) for row in connection.execute(query)]
    return found if before is None else found[::-1]


def _entry(row: Row[Any]) -> Entry:
    return Entry(**row._mapping)
