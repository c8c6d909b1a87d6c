"""What requests and answers look like, in little room: the server writes, monitor and console read. Bounded in size.

A chunk holds for many requests how many of them fell into each bin of each feature (data.bins, data.features). A bucket
holds sketches of one minute (data.sketches); after two hours they are joined to hours, which stay for two weeks.
"""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data.sqlite import File, renewed, stride
from modelkeep.data.troubles import Troubles
from modelkeep.errors import ModelkeepError

if TYPE_CHECKING:
    from modelkeep.data.sketches import Sketches
    from modelkeep.types import Array

SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    row INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, until REAL NOT NULL, model TEXT NOT NULL,
    version INTEGER NOT NULL, track TEXT NOT NULL, subject TEXT NOT NULL, form TEXT NOT NULL, n INTEGER NOT NULL,
    features INTEGER NOT NULL, counts BLOB NOT NULL, seq INTEGER);
CREATE INDEX IF NOT EXISTS by_version ON chunks (model, version, row);
CREATE TABLE IF NOT EXISTS buckets (
    at REAL NOT NULL, span REAL NOT NULL, model TEXT NOT NULL, version INTEGER NOT NULL, track TEXT NOT NULL,
    subject TEXT NOT NULL, names TEXT NOT NULL, n INTEGER NOT NULL, sketches BLOB NOT NULL,
    PRIMARY KEY (model, version, track, subject, at, span));
"""
FILE = File(
    "profiles",
    SCHEMA,
    last="buckets",
    later=(("chunks", "seq INTEGER", "row"),),
    indexes={"by_seq": "chunks (model, version, seq)"},
)
WAITING = 256
"""Chunks that wait for the writer; more are dropped, and their requests counted."""
TRIM = 0.05
"""Of chunks and buckets, the share that goes at once where the file has grown too large."""
MINUTE, HOUR = 60.0, 3600.0
MINUTES_KEPT, HOURS_KEPT = 2 * HOUR, 14 * 24 * HOUR
FOLD = 600.0
"""Seconds between two looks for minutes to join."""
PLAIN = ("at", "until", "model", "version", "track", "subject", "form", "n")
WHOSE = ("model", "version", "track", "subject")
SELECT = "SELECT at, span, model, version, track, subject, names, n, sketches FROM buckets"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Requests that came one after the other, ``n`` of them from ``at`` to ``until`` (epoch seconds).

    ``subject`` is inputs or answers. ``counts`` [features, bins] are float64: of each feature a request adds 1, and one
    of k rows adds 1/k for each. ``form`` names the features and bins that were counted (Bins.form): counts of another
    form cannot be compared. Readers fill ``row``, which grows from chunk to chunk.
    """

    at: float
    until: float
    model: str
    version: int
    track: str
    subject: str
    form: str
    n: int
    counts: Array = field(repr=False)
    row: int = 0


@dataclass(frozen=True, eq=False)
class Bucket:
    """``n`` requests of the ``span`` seconds from ``at`` (epoch seconds), as one sketch for each of ``names``."""

    at: float
    span: float
    model: str
    version: int
    track: str
    subject: str
    names: tuple[str, ...]
    n: int
    sketches: Sketches = field(repr=False)


Gathered = tuple[Sequence[Chunk], Sequence[Bucket]]


class ProfileLog:
    """The writer. ``offer`` never blocks and never raises; chunks and buckets that cannot be written are dropped.

    ``dropped`` counts the requests of the chunks. The oldest go first once the file holds more than ``max_bytes``. A
    damaged file is moved aside (.damaged).
    """

    def __init__(self, path: Path, *, max_bytes: int = 64 * 1024**2) -> None:
        self.path, self.max_bytes = path, max_bytes
        self.written = self.dropped = 0
        """Requests."""
        self._troubles = Troubles(_log)
        self._waiting: queue.Queue[Gathered | threading.Event | None] = queue.Queue(WAITING)
        self._folded = time.monotonic()
        self._closed = False
        if why := renewed(path, FILE.connect):
            self._troubles.tell(why)
        self._thread = threading.Thread(target=self._write_all, name="profiles", daemon=True)
        self._thread.start()

    def offer(self, chunks: Sequence[Chunk], buckets: Sequence[Bucket] = ()) -> None:
        """Hand over what was gathered; returns at once. It must not be changed afterwards."""
        if (chunks or buckets) and not self._closed:
            with suppress(queue.Full):
                self._waiting.put_nowait((chunks, buckets))
                return
        self.dropped += sum(chunk.n for chunk in chunks)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was offered before is in the file; False when that took longer than ``timeout`` s."""
        done = threading.Event()
        with suppress(queue.Full):
            self._waiting.put(done, timeout=timeout)
            return done.wait(timeout)
        return False

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits, then stop; closing twice is harmless. A writer that is stuck is left alone."""
        if self._closed:
            return
        self._closed = True
        with suppress(queue.Full):
            self._waiting.put(None, timeout=timeout / 2)
            self._thread.join(timeout / 2)

    def _write_all(self) -> None:
        database: sqlite3.Connection | None = None
        while (item := self._waiting.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            n = sum(chunk.n for chunk in item[0])
            try:
                database = database or FILE.connect(self.path)
                self._write(database, *item)
                self.written += n
            except (sqlite3.Error, OSError, ValueError, ModelkeepError) as error:
                # a full disk or a removed folder: count the loss, open the file anew for the next chunks
                database = None
                self._troubles.tell(f"counts of features are lost: {FILE.trouble(self.path, error)}")
                self.dropped += n
        if database is not None:
            database.close()

    def _write(self, database: sqlite3.Connection, chunks: Sequence[Chunk], buckets: Sequence[Bucket]) -> None:
        with database:
            database.executemany(
                f"INSERT INTO chunks ({', '.join(PLAIN)}, features, counts, seq) VALUES (?{', ?' * (len(PLAIN) + 1)}, "
                "(SELECT COALESCE(MAX(seq), 0) + 1 FROM chunks WHERE model = ? AND version = ?))",
                [
                    (*(getattr(one, name) for name in PLAIN), len(one.counts), _packed(one.counts), *_who(one))
                    for one in chunks
                ],
            )
            for bucket in buckets:
                _put(database, bucket)
            if _used(database) > self.max_bytes:
                for table, key in (("chunks", "row"), ("buckets", "at")):
                    oldest = f"SELECT MIN({key}) + ? * (MAX({key}) - MIN({key})) FROM {table}"
                    database.execute(f"DELETE FROM {table} WHERE {key} <= ({oldest})", (TRIM,))
        if buckets and time.monotonic() - self._folded > FOLD:
            self._folded = time.monotonic()
            with database:
                fold(database, time.time())


def _put(database: sqlite3.Connection, bucket: Bucket) -> None:
    """Write a bucket, or join it with one that is there: of the same features, or else it takes the other's place."""
    whose = tuple(getattr(bucket, name) for name in WHOSE)
    key = (*whose, bucket.at, bucket.span)
    where = f"{' AND '.join(f'{name} = ?' for name in WHOSE)} AND at = ? AND span = ?"
    there = database.execute(f"SELECT names, n, sketches FROM buckets WHERE {where}", key).fetchone()
    names, n, sketches = json.dumps(bucket.names), bucket.n, bucket.sketches
    if there is not None and there[0] == names:
        sketches = sketches.from_bytes(there[2])
        sketches.merge(bucket.sketches)
        n += there[1]
    database.execute(
        f"INSERT OR REPLACE INTO buckets ({', '.join(WHOSE)}, at, span, names, n, sketches) VALUES "
        "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, names, n, sketches.to_bytes()),
    )


def fold(database: sqlite3.Connection, now: float) -> None:
    """Join minutes that are old to hours, and forget hours that are old."""
    until = (now - MINUTES_KEPT) // HOUR * HOUR
    for row in database.execute(f"{SELECT} WHERE span = ? AND at < ? ORDER BY at", (MINUTE, until)).fetchall():
        minute = _bucket(row)
        _put(database, replace(minute, at=minute.at // HOUR * HOUR, span=HOUR))
    database.execute("DELETE FROM buckets WHERE span = ? AND at < ?", (MINUTE, until))
    database.execute("DELETE FROM buckets WHERE at < ?", (now - HOURS_KEPT,))


def _used(database: sqlite3.Connection) -> int:
    """Bytes of the pages in use; those of deleted rows are used again."""
    size, pages, free = (
        database.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_size", "page_count", "freelist_count")
    )
    return int(size * (pages - free))


def _packed(counts: Array) -> bytes:
    return zlib.compress(counts.astype("<f4").tobytes(), 1)


def read(path: Path, model: str, version: int, *, after: int = 0, limit: int | None = None) -> list[Chunk]:
    """A version's chunks whose row is above ``after``, the oldest first, ``limit`` at most: of all tracks and subjects.

    A missing file holds none. Raises DamagedFile where the file is damaged, Damaged where it cannot be read now.
    """
    query = (
        f"SELECT {', '.join(PLAIN)}, row, features, counts FROM chunks "
        "WHERE model = ? AND version = ? AND row > ? ORDER BY row LIMIT ?"
    )
    found = FILE.rows(path, query, model, version, after, -1 if limit is None else limit)
    return [
        Chunk(**dict(zip(PLAIN, one, strict=False)), row=row, counts=_unpacked(counts, features))
        for *one, row, features, counts in found
    ]


def buckets(
    path: Path, model: str, version: int, subject: str, *, since: float = 0.0, until: float | None = None
) -> list[Bucket]:
    """A version's buckets that begin from ``since`` until before ``until`` (epoch seconds), the oldest first, of all
    tracks. A minute is written when it is over. A missing file holds none. Raises Damaged.
    """
    query = f"{SELECT} WHERE model = ? AND version = ? AND subject = ? AND at >= ? AND at < ? ORDER BY at"
    found = FILE.rows(path, query, model, version, subject, since, float("inf") if until is None else until)
    return [_bucket(row) for row in found]


def _bucket(row: Sequence[Any]) -> Bucket:
    from modelkeep.data.sketches import Sketches

    at, span, model, version, track, subject, names, n, sketches = row
    found = Sketches.from_bytes(sketches)
    return Bucket(at, span, model, version, track, subject, tuple(json.loads(names)), n, found)


def newest(path: Path) -> int:
    """The newest row of any model; 0 where there is none. Below what was read before: the file was made anew."""
    return FILE.number(path, "SELECT MAX(row) FROM chunks")


def run_start(path: Path, model: str, version: int, length: int) -> int:
    """The row after which the newest ``length`` to 2 × ``length`` chunks of a version lie, in strides."""
    last = FILE.number(path, "SELECT MAX(seq) FROM chunks WHERE model = ? AND version = ?", model, version)
    before = "SELECT row FROM chunks WHERE model = ? AND version = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
    return FILE.number(path, before, model, version, stride(last, length))


def _who(chunk: Chunk) -> tuple[str, int]:
    return chunk.model, chunk.version


def _unpacked(blob: bytes, features: int) -> Array:
    return np.frombuffer(zlib.decompress(blob), "<f4").astype(np.float64).reshape(features, -1)
