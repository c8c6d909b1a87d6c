"""Truth that arrives late: labels by request id, in the same file as the captured requests, and how late they are."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.data.capture import connect, number, trouble
from modelkeep.data.sqlite import stride
from modelkeep.errors import BadData, brief

MAX_LABELS = 200_000
"""Of a model; the oldest go first."""
MAX_TEXT = 64 * 1024
"""Characters of one id, and of one label as JSON."""
HALF = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON can spell and no file can hold."""
AT_A_TIME = 5_000
"""Labels of one transaction: between two, the server's own writes get their turn."""
NAMED = 3
"""Ids without a request that are told by name."""
NEWEST = 10_000
"""Labels whose lag is told."""


@dataclass(frozen=True)
class Recorded:
    """What became of the labels that were handed in, in numbers of request ids.

    ``new`` had no label before and ``changed`` had another, which counts no more; ``matched`` are ids of captured
    requests and ``unmatched`` are not, with ``examples`` of these.
    """

    given: int = 0
    new: int = 0
    changed: int = 0
    matched: int = 0
    examples: tuple[str, ...] = ()

    @property
    def unmatched(self) -> int:
        """Ids of no captured request: never answered here, not written yet, or no longer kept."""
        return self.given - self.matched

    def numbers(self) -> dict[str, int]:
        """What the route answers."""
        names = ("new", "changed", "matched", "unmatched")
        return {name: getattr(self, name) for name in names}


def record(path: Path, model: str, labels: Mapping[str, Any], at: float | None = None) -> Recorded:
    """Keep the truth of these requests: a label, or a list with one a row of the request, None where it is not known;
    a row's own label is a list of numbers where an answer is several.

    The last label of a request is the one that counts; its time stays that of the first. Those without a captured
    request are kept too, for one that is still being written. Raises BadData for a label that is no finite number,
    text, bool, or list of these; then none is kept.
    """
    now = time.time() if at is None else at
    rows = iter([(_id(request), _as_json(request, label)) for request, label in labels.items()])
    found = Recorded(given=len(labels))
    with closing(connect(path)) as database:
        try:
            while lot := list(itertools.islice(rows, AT_A_TIME)):
                found = _record(database, model, lot, now, found)
        except sqlite3.Error as error:
            raise trouble(path, error) from error
    return found


def _record(
    database: sqlite3.Connection, model: str, lot: list[tuple[str, str]], now: float, found: Recorded
) -> Recorded:
    new, changed, matched, examples = found.new, found.changed, found.matched, found.examples
    with database:
        database.execute("BEGIN IMMEDIATE")
        seq = database.execute("SELECT COALESCE(MAX(seq), 0) FROM labels WHERE model = ?", (model,)).fetchone()[0]
        for request, label in lot:
            key = (model, request)
            before = database.execute("SELECT label FROM labels WHERE model = ? AND id = ?", key).fetchone()
            answered, version = database.execute(
                "SELECT MAX(at), version FROM exchanges WHERE model = ? AND id = ? AND track != 'shadow'", key
            ).fetchone()
            database.execute(
                "INSERT INTO labels (model, id, label, at, answered, version, seq) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (model, id) DO UPDATE SET label = excluded.label, "
                "answered = COALESCE(answered, excluded.answered), version = COALESCE(version, excluded.version)",
                (*key, label, now, answered, version, seq + 1),
            )
            new, seq = new + (before is None), seq + (before is None)
            changed += before is not None and before[0] != label
            matched += answered is not None
            if answered is None and len(examples) < NAMED:
                examples = (*examples, request)
        database.execute("DELETE FROM labels WHERE model = ? AND seq <= ?", (model, seq - MAX_LABELS))
    return Recorded(found.given, new, changed, matched, examples)


def read(path: Path, model: str, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str, Any]]:
    """(row, request id, label) of the labels that came after row ``after``, the oldest ``limit`` of them first."""
    if not path.is_file():
        return []
    with closing(connect(path)) as database:
        found = database.execute(
            "SELECT row, id, label FROM labels WHERE model = ? AND row > ? ORDER BY row LIMIT ?",
            (model, after, -1 if limit is None else limit),
        ).fetchall()
    return [(row, request, json.loads(label)) for row, request, label in found]


def known(path: Path, model: str) -> dict[str, Any]:
    """Request id → label, of all that are kept."""
    return {request: label for _, request, label in read(path, model)}


def is_one(label: Any) -> bool:
    """Whether it says what was so: a finite number, a bool, or a text that is neither empty nor another way to write
    NaN."""
    if isinstance(label, str):
        return label.strip().lower() not in ("", "nan")
    return isinstance(label, int | float) and abs(label) <= sys.float_info.max


def are_numbers(label: Any) -> bool:
    """Whether it is the truth of one row whose answer is several numbers."""
    return isinstance(label, list) and bool(label) and all(is_one(n) and not isinstance(n, str) for n in label)


def newest(path: Path) -> int:
    """The newest row of any model, for ``read`` to go on after; 0 where there is none."""
    return number(path, "SELECT MAX(row) FROM labels")


def run_start(path: Path, model: str, length: int) -> int:
    """The row after which the newest ``length`` to 2 × ``length`` labels of a model lie, in strides."""
    last = number(path, "SELECT MAX(seq) FROM labels WHERE model = ?", model)
    before = "SELECT row FROM labels WHERE model = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
    return number(path, before, model, stride(last, length))


@dataclass(frozen=True)
class Lag:
    """How complete the truth of a model is, and how late it comes.

    ``answers`` are the captured answers that are kept, shadows left out, the oldest of ``since`` (epoch seconds), and
    ``labelled`` those whose truth has come. ``labels`` are all that are kept; ``unmatched`` of them never met a
    captured request. ``median`` and ``p90`` are seconds from the answer to its label, over the newest ``n`` labels,
    None where there are none.
    """

    answers: int = 0
    labelled: int = 0
    labels: int = 0
    unmatched: int = 0
    n: int = 0
    median: float | None = None
    p90: float | None = None
    since: float | None = None

    @property
    def coverage(self) -> float | None:
        """The share of the answers whose truth has come; None where there are none."""
        return self.labelled / self.answers if self.answers else None


def lag(path: Path, model: str, version: int | None = None) -> Lag:
    """The Lag of a model, or of one version, as it is now; a label that met no request belongs to all versions.

    Reads every captured row: tens of milliseconds, so once a minute is enough.
    """
    if not path.is_file():
        return Lag()
    given = {"model": model, "version": version}
    with closing(connect(path)) as database:
        try:
            answers, since = database.execute(_ANSWERS, given).fetchone()
            labels, met, early = database.execute(_KNOWN, given).fetchone()
            labelled = database.execute(_LABELLED, {**given, "since": since or 0.0}).fetchone()[0] + (early or 0)
            waits = [max(0.0, seconds) for (seconds,) in database.execute(_LATE, {**given, "most": NEWEST})]
        except sqlite3.Error as error:
            raise trouble(path, error) from error
    median, p90 = np.quantile(waits, (0.5, 0.9)).tolist() if waits else (None, None)
    unmatched = labels - met - (early or 0)
    return Lag(answers, min(labelled, answers), labels, unmatched, len(waits), median, p90, since)


_OWN = "model = :model AND (:version IS NULL OR version = :version)"
_ANSWERS = f"SELECT COUNT(*), MIN(at) FROM exchanges WHERE {_OWN} AND outcome = 'ok' AND track != 'shadow'"
_LABELLED = f"SELECT COUNT(*) FROM labels WHERE {_OWN} AND answered >= :since"
_LATE = f"SELECT at - answered FROM labels NOT INDEXED WHERE {_OWN} AND answered NOT NULL ORDER BY row DESC LIMIT :most"
"""From the newest row backwards: by the index on model and id all would be sorted for it."""
_KNOWN = """
SELECT COUNT(*), COUNT(answered), SUM(CASE WHEN answered IS NULL THEN EXISTS (
    SELECT 1 FROM exchanges e WHERE e.model = l.model AND e.id = l.id AND e.track != 'shadow'
    AND (:version IS NULL OR e.version = :version)) END)
FROM labels l WHERE model = :model AND (:version IS NULL OR version IS NULL OR version = :version)
"""
"""All, those that met their request when they came, and those that came before it was written: CASE looks for the
requests of labels that met none only, where AND would look for all.
"""


def _id(request: Any) -> str:
    if not isinstance(request, str) or not request or len(request) > MAX_TEXT or HALF.search(request):
        raise BadData(f"a request id is a text of 1 to {MAX_TEXT} characters, and not {brief(request)}")
    return request


def _as_json(request: str, label: Any) -> str:
    plain = label.tolist() if hasattr(label, "tolist") else label
    each = plain if isinstance(plain, list) else [plain]
    known = [one for one in each if one is not None or plain is None]
    if not known or not all(is_one(one) or are_numbers(one) for one in known):
        raise BadData(
            f"the label of request '{request}' is {brief(label)}; give a number, a text, or a list with one a row "
            "(null where a row has none; a list of numbers where an answer is several), and leave out a request whose "
            "truth is not known"
        )
    text = json.dumps(plain)
    if len(text) > MAX_TEXT:
        raise BadData(f"the label of request '{request}' has {len(text)} characters; {MAX_TEXT} are the most")
    return text
