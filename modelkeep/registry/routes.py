"""Routes (who should get a model's traffic) and aliases (names that a person gives to versions).

Both change by compare-and-swap within the caller's transaction, which holds the registry's one writer lock.
"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from modelkeep.errors import BadRef, Conflict, No, NotFound, Wrong
from modelkeep.registry import journal, versions
from modelkeep.registry.schema import aliases, routes
from modelkeep.types import Ref, Route

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

FROM_ROUTE = ("live", "canary", "shadow", "previous")
RESERVED = (*FROM_ROUTE, "newest")
MOST_CHANGES = 100
"""Of a route, the newest: looked through for what changed since somebody read it."""


def read(connection: Connection, name: str) -> Route:
    """A model's route; an empty one, of revision 0, where none was written."""
    row = connection.execute(select(routes).where(routes.c.name == name)).one_or_none()
    return Route(name) if row is None else Route(**row._mapping)


def write(connection: Connection, route: Route) -> Route:
    """Compare-and-swap on ``route.revision``. Raises Conflict, NotFound for a version, Wrong for a share."""
    _check(connection, route)
    now = read(connection, route.name)
    if now.revision != route.revision:
        raise Conflict(_changed(connection, now, route.revision))
    new = replace(route, revision=route.revision + 1)
    if now.revision == 0:
        connection.execute(insert(routes).values(asdict(new)))
    else:
        connection.execute(update(routes).where(routes.c.name == route.name).values(asdict(new)))
    return new


def _changed(connection: Connection, now: Route, seen: int) -> str:
    """Who changed a route since a revision that somebody decided by, and what to do: the journal knows."""
    entries = journal.read(connection, now.name, kind="route", before=sys.maxsize, limit=MOST_CHANGES)
    since = [entry for entry in entries if entry.data["after"]["revision"] > seen]
    said = f"the route of {now.name} is at revision {now.revision}, not {seen}"
    if not since:
        return f"{said}; look at it again, then decide: modelkeep list {now.name}"
    last = since[-1]
    said = f"{said}: {last.who} changed it last ({last.why})"
    first = since[0].data["before"]
    if now.canary is not None and {**first, "revision": 0, "weight": 0} == {**asdict(now), "revision": 0, "weight": 0}:
        return (
            f"{said}, and nothing but the canary's share, as a rollout does; wait for its verdict, or end it: "
            f"modelkeep rollback {now.name}"
        )
    return f"{said}; look at it again, then decide: modelkeep list {now.name}"


def promoted(now: Route, number: int) -> Route:
    """``number`` live at once, with no canary; what was live is previous."""
    if number == now.live and now.canary is None:
        return now
    previous = now.previous if number == now.live else now.live
    shadow = None if now.shadow == number else now.shadow
    return replace(now, live=number, canary=None, weight=0.0, shadow=shadow, previous=previous)


def rolled_back(now: Route) -> Route:
    """Without the canary, live staying; where there is no canary, previous and live change places. Raises No."""
    if now.canary is not None:
        return replace(now, canary=None, weight=0.0)
    if now.previous is None:
        raise No(f"{now.name} has no previous version to go back to; promote one with: modelkeep promote {now.name}@N")
    shadow = None if now.shadow == now.previous else now.shadow
    return replace(now, live=now.previous, previous=now.live, shadow=shadow)


def resolve(connection: Connection, ref: Ref) -> int:
    """The number that a Ref names now. Raises NotFound with what there is."""
    there = versions.numbers(connection, ref.name)
    if isinstance(ref.which, int):
        versions.find(connection, ref.name, ref.which)
        return ref.which
    if ref.which == "newest":
        return there[-1]
    if ref.which is None or ref.which in FROM_ROUTE:
        route = read(connection, ref.name)
        number: int | None = getattr(route, ref.which or "live")
        if number is None and ref.which is None:
            return there[-1]
    else:
        number = alias(connection, ref.name, ref.which)
    if number is None:
        raise NotFound(f"there is no {ref}; there are: {_there(connection, ref.name, there)}")
    return number


def alias(connection: Connection, name: str, word: str) -> int | None:
    """The number that a person gave this name to, or None."""
    mine = (aliases.c.name == name, aliases.c.alias == word)
    return connection.execute(select(aliases.c.number).where(*mine)).scalar_one_or_none()


def set_alias(connection: Connection, name: str, word: str, number: int, expect: int | None) -> None:
    """Compare-and-swap from ``expect`` (None: not set yet). Raises Conflict, NotFound, BadRef."""
    if word in RESERVED or not re.fullmatch("[a-z][a-z0-9-]{0,31}", word):
        raise BadRef(
            f"'{word}' cannot be an alias: small letters, digits and '-', a letter first, 32 at most, and none of "
            f"{', '.join(RESERVED)}"
        )
    versions.find(connection, name, number)
    now = alias(connection, name, word)
    if now != expect:
        raise Conflict(
            f"{name}@{word} is {_named(name, now)}, not {_named(name, expect)}: somebody else changed it; look at it "
            "again, then decide"
        )
    if now is None:
        connection.execute(insert(aliases).values(name=name, alias=word, number=number))
    else:
        mine = (aliases.c.name == name, aliases.c.alias == word)
        connection.execute(update(aliases).where(*mine).values(number=number))


def _named(name: str, number: int | None) -> str:
    return "not set" if number is None else f"{name}@{number}"


def _there(connection: Connection, name: str, numbers: list[int]) -> str:
    """Everything that may follow the @."""
    route: dict[str, Any] = asdict(read(connection, name))
    words = [word for word in FROM_ROUTE if route[word] is not None]
    given = connection.execute(select(aliases.c.alias).where(aliases.c.name == name).order_by(aliases.c.alias))
    return ", ".join(f"{name}@{which}" for which in [*numbers, "newest", *words, *given.scalars()])


def _check(connection: Connection, route: Route) -> None:
    if not 0 <= route.weight <= 1:
        raise Wrong(f"the canary's share is {route.weight}; it must be between 0 and 1")
    if route.canary is not None and route.live is None:
        raise Wrong(f"{route.name} has no live version that a canary could be compared to; promote one first")
    for word in FROM_ROUTE:
        number: int | None = getattr(route, word)
        if number is not None:
            versions.find(connection, route.name, number)
