"""Every row of the suite, room by room."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from zoo.row import Row

ROOMS = ("vision", "text", "generative", "recurrent", "keras", "trees")


def rows() -> tuple[Row, ...]:
    """All of them, in the order of the matrix."""
    return tuple(row for room in ROOMS for row in importlib.import_module(f"zoo.{room}").ROWS)


def chosen(names: Iterable[str] = (), rooms: Iterable[str] = (), *, small: bool = False) -> tuple[Row, ...]:
    """Those of these names and of these rooms, all where none is given. KeyError, which says what there is."""
    names, rooms, there = set(names), set(rooms), rows()
    for given, known in ((names, {row.name for row in there}), (rooms, set(ROOMS))):
        if given - known:
            raise KeyError(f"there is no {', '.join(sorted(given - known))}; there are: {', '.join(sorted(known))}")
    picked = [r for r in there if not (names or rooms) or r.name in names or r.room in rooms]
    return tuple(row for row in picked if row.small or not small)
