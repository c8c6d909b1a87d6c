"""Truth that arrives late: labels by request id, in the same file as the captured requests."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from modelkeep.data.capture import connect, number
from modelkeep.errors import BadData

MAX_LABELS = 200_000
"""The oldest go first."""


def record(path: Path, model: str, labels: Mapping[str, Any], at: float | None = None) -> int:
    """Keep the truth of these requests: a label, or a list with one a row of the request. Saying it twice is harmless.

    Returns how many belong to a captured request; the others are kept too, for a request that is still being written.
    Raises BadData for a label that is no number, text, bool, or list of these.
    """
    now = time.time() if at is None else at
    rows = [(model, request, _as_json(request, label), now) for request, label in labels.items()]
    with closing(connect(path)) as database, database:
        database.executemany(
            "INSERT INTO labels (model, id, label, at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (model, id) DO UPDATE SET label = excluded.label",
            rows,
        )
        database.execute("DELETE FROM labels WHERE row <= (SELECT MAX(row) FROM labels) - ?", (MAX_LABELS,))
        find = "SELECT EXISTS (SELECT 1 FROM exchanges WHERE model = ? AND id = ?)"
        return sum(database.execute(find, (model, request)).fetchone()[0] for _, request, *_ in rows)


def read(path: Path, model: str, *, after: int = 0) -> list[tuple[int, str, Any]]:
    """(row, request id, label) of the labels that came after row ``after``, the oldest first."""
    if not path.is_file():
        return []
    with closing(connect(path)) as database:
        found = database.execute(
            "SELECT row, id, label FROM labels WHERE model = ? AND row > ? ORDER BY row", (model, after)
        ).fetchall()
    return [(row, request, json.loads(label)) for row, request, label in found]


def newest(path: Path) -> int:
    """The newest row of any model, for ``read`` to go on after; 0 where there is none."""
    return number(path, "SELECT MAX(row) FROM labels")


def _as_json(request: str, label: Any) -> str:
    plain = label.tolist() if hasattr(label, "tolist") else label
    each = plain if isinstance(plain, list) else [plain]
    if not each or any(not isinstance(one, str | int | float) or one != one for one in each):
        raise BadData(f"the label of request '{request}' is {label!r}; give a number, a text, or a list with one a row")
    return json.dumps(plain)


def read_file(path: Path) -> dict[str, Any]:
    """Request id → label, from a csv with the columns id and label, or JSON lines with these keys. Raises BadData."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadData(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path} cannot be read as text: {error}") from error
    found = _from_lines(path, text) if text.lstrip().startswith("{") else _from_csv(path, text)
    if not found:
        raise BadData(f"{path} holds no labels; give a csv with columns id,label or JSON lines with these keys")
    return found


def _from_csv(path: Path, text: str) -> dict[str, Any]:
    rows = csv.DictReader(text.splitlines())
    if not {"id", "label"} <= set(rows.fieldnames or ()):
        raise BadData(f"{path} has the columns {', '.join(rows.fieldnames or ()) or 'none'}; it needs id and label")
    found: dict[str, Any] = {}
    for at, row in enumerate(rows, start=2):
        if not row["id"] or not row["label"]:
            raise BadData(f"{path} line {at} lacks an id or a label")
        found[row["id"]] = _number(row["label"])
    return found


def _number(text: str) -> Any:
    """7 → 7, 0.5 → 0.5, cat → cat."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _from_lines(path: Path, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for at, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found[str(row["id"])] = row["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadData(f'{path} line {at} is not {{"id": …, "label": …}}: {error!r}') from error
    return found
