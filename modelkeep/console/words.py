"""Numbers and times as a person reads them; the filters of the templates."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modelkeep import quantities

UNKNOWN = "–"
MOST_FACTS, MOST_ITEMS = 200, 8
"""Rows of a report's table, and members of a list within one."""
MARKS = ((86_400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def percent(share: float | None, digits: int = 1) -> str:
    """0.0123 → '1.2%'."""
    return UNKNOWN if share is None else f"{share * 100:.{digits}f}%"


def seconds(value: float | None) -> str:
    """0.00123 → '1.23 ms'."""
    return UNKNOWN if value is None else quantities.seconds(value)


def rate(value: float | None) -> str:
    """Requests a second: '1,234', '12.3', '0'."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 or not value else f"{value:.1f}"


def iso(at: float) -> str:
    """Epoch seconds as a machine reads them, in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def when(at: float) -> str:
    """Epoch seconds as a person reads them, in UTC; the page's script turns it into the reader's own time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(at: float, now: float | None = None) -> str:
    """'3 minutes ago'."""
    passed = (time.time() if now is None else now) - at
    for length, name in MARKS:
        if passed >= length:
            count = int(passed // length)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def facts(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A report's numbers as (what, value), nested ones by the path to them; MOST_FACTS at most."""
    found: list[tuple[str, str]] = []
    for row in _facts("", numbers):
        if len(found) == MOST_FACTS:
            return [*found, ("…", "there is more: modelkeep show --json")]
        found.append(row)
    return found


def _facts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _facts(f"{path} › {key}" if path else str(key), inner)
    elif isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(v, Mapping) for v in value):
        for at, inner in enumerate(value[:MOST_ITEMS], start=1):
            yield from _facts(f"{path} › {at}", inner)
    else:
        yield path, plain(value)


def plain(value: Any) -> str:
    """One value in few characters."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return quantities.figure(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        more = f", … ({len(value)} in all)" if len(value) > MOST_ITEMS else ""
        return ", ".join(plain(one) for one in value[:MOST_ITEMS]) + more
    return str(value)
