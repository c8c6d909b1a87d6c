"""Files of labels: .csv, .parquet or JSON lines, each row a request id and its label."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelkeep import extras
from modelkeep.errors import BadData, brief

COLUMNS = ("id", "label")
PARQUET = b"PAR1"
"""The first bytes of a parquet file (github.com/apache/parquet-format, 'File format')."""


@dataclass(frozen=True)
class Truth:
    """Request id → label. ``repeated`` rows had an id that came again further down, where the label counts."""

    labels: dict[str, Any] = field(default_factory=dict)
    repeated: int = 0


def read(path: Path) -> Truth:
    """The columns ``id`` and ``label`` of a .csv or .parquet file, or JSON lines with these keys; others are left out.

    A cell of a .csv may hold a list, ``[3, null, 1]``, for a request of several rows. Raises BadData, which names the
    line; MissingExtra for parquet without pyarrow.
    """
    try:
        with path.open("rb") as file:
            first = file.read(len(PARQUET))
        if first == PARQUET:
            rows = _from_parquet(path)
        else:
            text = path.read_text(encoding="utf-8-sig")
            rows = _from_lines(path, text) if text.lstrip().startswith("{") else _from_csv(path, text)
        given = list(rows)
    except FileNotFoundError:
        raise BadData(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path} cannot be read as text: {error}") from error
    if not given:
        raise BadData(f"{path} holds no labels; give a csv with columns id,label or JSON lines with these keys")
    found = dict(given)
    return Truth(found, len(given) - len(found))


def _from_csv(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))  # splitlines() would part cells of several lines
    try:
        if not set(COLUMNS) <= set(rows.fieldnames or ()):
            raise BadData(f"{path} has the columns {', '.join(rows.fieldnames or ()) or 'none'}; it needs id and label")
        for row in rows:
            if not row["id"] or not row["label"]:
                raise BadData(f"{path} line {rows.line_num} lacks an id or a label")
            yield row["id"], _value(row["label"])
    except csv.Error as error:
        raise BadData(f"{path} line {rows.line_num + 1} cannot be read as csv: {error}") from error


def _value(text: str) -> Any:
    """7 → 7, 0.5 → 0.5, cat → cat, 1_0 → 1_0, [1, 2] → a list, [nan, 2] too, for which it will be refused."""
    kinds = (json.loads, _with_nan) if text.startswith("[") else (int, float) if "_" not in text else ()
    for kind in kinds:
        try:
            return kind(text)
        except (ValueError, RecursionError):
            continue
    return text


def _with_nan(text: str) -> Any:
    """A list as Python writes it, and JSON does not."""
    return json.loads(re.sub(r"\bnan\b", "NaN", text))


def _from_lines(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    for at, line in enumerate(text.split("\n"), start=1):  # splitlines() would part texts with U+2028 in them
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{path} line {at} is not JSON: {error}") from error
        if not isinstance(row, dict) or not set(COLUMNS) <= set(row):
            raise BadData(f'{path} line {at} is not {{"id": …, "label": …}}')
        if not isinstance(row["id"], str | int):
            raise BadData(f"{path} line {at} has the id {brief(row['id'])}; give a text or a whole number")
        yield str(row["id"]), row["label"]


def _from_parquet(path: Path) -> Iterable[tuple[str, Any]]:
    parquet = extras.need("pyarrow.parquet", extra="sample")
    arrow = extras.need("pyarrow", extra="sample")
    try:
        names = parquet.read_schema(path).names
        if not set(COLUMNS) <= set(names):
            raise BadData(f"{path} has the columns {', '.join(names) or 'none'}; it needs id and label")
        table = parquet.read_table(path, columns=list(COLUMNS)).to_pydict()
    except arrow.ArrowException as error:
        raise BadData(f"{path} cannot be read as parquet: {error}") from error
    for at, (request, label) in enumerate(zip(table["id"], table["label"], strict=True), start=1):
        if request is None or label is None:
            raise BadData(f"{path} row {at} lacks an id or a label")
        yield str(request), label
