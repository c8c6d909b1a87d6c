"""Captured requests in one SQLite file: the server writes, monitor and rollout read. Bounded in rows and bytes."""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.data.allowance import Allowance
from modelkeep.data.capture import connect, number, trouble
from modelkeep.data.packed import pack, size_of, unpack
from modelkeep.data.sampler import ALL, mark_of
from modelkeep.data.sqlite import renewed, stride
from modelkeep.data.troubles import Troubles
from modelkeep.errors import ModelkeepError

if TYPE_CHECKING:
    from modelkeep.types import Arrays

WAITING_ROWS, WAITING_BYTES = 10_000, 12 * 1024**2
"""What offer() lets wait for the writer; more is dropped and counted."""
WAITING_ARRAYS = 8 * 1024**2
"""Where so many bytes wait, rows come without their arrays, as where those would fill the file too soon."""
GATHER_SECONDS, GATHER_ROWS, GATHER_BYTES = 1.0, 1000, 1024**2
"""What the writer waits for, to write many rows at once, and no more of them than that."""
ROW_OVERHEAD = 200
SPAN = 512.0
"""Seconds of requests whose arrays fill the file, at least: else pictures would fill it in half a minute, and writing
them would take a tenth of the core that answers them.
"""
SPARED = 10
"""Of the rows one in so many is for the newest of each model, in equal parts: a busy one would push all others out."""
MOST_SPARED = 100
"""Models; of more, which would have few each, none is spared."""
OLDER = "(model != ? OR row <= (SELECT row FROM exchanges WHERE model = ? ORDER BY row DESC LIMIT 1 OFFSET ?))"
"""Rows of other models, and those that lie before so many newest of this one."""
SMALL = 4096
"""Bytes of outputs that are kept whatever the inputs are: without them a label tells nothing."""
PLAIN = ("id", "at", "model", "version", "track", "outcome", "seconds")
plain = attrgetter(*PLAIN)
INSERT = f"INSERT INTO exchanges ({', '.join(PLAIN)}, seq, inputs, outputs, bytes) VALUES ({', '.join('?' * 11)})"
JOINED = "exchanges e LEFT JOIN labels l ON l.model = e.model AND l.id = e.id"
NEWEST = "SELECT COALESCE(MAX(seq), 0) FROM exchanges WHERE model = ? AND version = ?"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Exchange:
    """One request and what became of it, which nobody changes. ``at`` is epoch seconds, ``seconds`` its latency.

    ``track`` is live, canary or shadow; ``outcome`` is ok, error, overloaded or late. Readers fill ``row``, ``label``
    (once the truth has come) and ``seq``: the how-manieth request of its version whose inputs were captured, else 0.
    ``parameters`` are those of the request; a sample keeps them (data.sample), this file does not.
    """

    id: str
    at: float
    model: str
    version: int
    track: str
    outcome: str
    seconds: float
    inputs: Arrays | None = None
    outputs: Arrays | None = None
    row: int = 0
    label: Any = None
    seq: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)


class TrafficLog:
    """The writer. ``offer`` never blocks and never raises; what does not fit is dropped and counted.

    Of each track the plane offers ``rate`` requests a second at most (sampler.py), chosen as they arrive, so that the
    live and the shadow answer to one request are kept or left out together. Each is a row with its outcome; inputs and
    outputs are kept of a ``share`` of them, by id, for the same reason. Where they are so large that the file would be
    full in less than ``span`` seconds (0: however soon), or come faster than they are written, fewer are: ``bare``
    counts rows without the inputs. The oldest rows go first once there are ``max_rows`` rows or ``max_bytes`` bytes; of
    the rows, those that are SPARED of each model last. A damaged file is moved aside (.damaged): traffic may be lost,
    the service may not.
    """

    def __init__(
        self,
        path: Path,
        *,
        share: float = 1.0,
        rate: float = 250.0,
        max_rows: int = 50_000,
        max_bytes: int = 512 * 1024**2,
        span: float = SPAN,
    ) -> None:
        self.path, self.share, self.rate, self.max_rows, self.max_bytes = path, share, rate, max_rows, max_bytes
        self.written = self.dropped = self.bare = 0
        self._troubles = Troubles(_log)
        self._allowance = Allowance(max_bytes / span if span else 0.0)
        self._new = max_rows
        self._added: float = max_bytes  # so that the first batch counts what an earlier server left
        self._waiting: queue.Queue[tuple[Exchange, int] | threading.Event | None] = queue.Queue(WAITING_ROWS)
        """Rows with their bytes; who waits until they are written; None for the end."""
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._hurry = threading.Event()
        self._closed = False
        if why := renewed(path, connect):
            self._troubles.tell(why)
        self._thread = threading.Thread(target=self._write_all, name="traffic", daemon=True)
        self._thread.start()

    def adjust(self, share: float, rate: float) -> None:
        """From now on so many are kept."""
        self.share, self.rate = share, rate

    def offer(self, exchange: Exchange) -> None:
        """Hand over one exchange; returns at once. Its arrays must not be changed afterwards."""
        with self._lock:
            exchange, size = self._lightened(exchange)
            if self._closed or self._waiting_bytes > WAITING_BYTES:
                self.dropped += 1
                return
            try:
                self._waiting.put_nowait((exchange, size))
                self._waiting_bytes += size
            except queue.Full:
                self.dropped += 1
        if self._waiting_bytes > GATHER_BYTES and not self._hurry.is_set():
            self._hurry.set()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was offered before is in the file; False when that took longer than ``timeout`` s."""
        done = threading.Event()
        if not self._thread.is_alive():
            return self._waiting.empty()
        try:
            self._waiting.put(done, timeout=timeout)
        except queue.Full:
            return False
        self._hurry.set()
        return done.wait(timeout)

    def close(self) -> None:
        """Write what waits, then stop. Later offers are dropped; closing twice is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with suppress(queue.Full):  # the writer is stuck (a full disk, say): it is a daemon, so leave it
            self._waiting.put(None, timeout=5.0)
        self._hurry.set()
        self._thread.join(timeout=10.0)

    def _lightened(self, exchange: Exchange) -> tuple[Exchange, int]:
        """Without those of its arrays that are not kept; and the bytes of the row."""
        lot = mark_of(exchange.id) / ALL
        if lot >= self.share:
            return replace(exchange, inputs=None, outputs=None), ROW_OVERHEAD
        inputs, outputs = size_of(exchange.inputs), size_of(exchange.outputs)
        large, small = (outputs, 0) if outputs > SMALL else (0, outputs)
        room = self._waiting_bytes < WAITING_ARRAYS
        if self._allowance.takes(inputs + large, lot / self.share, room=room):
            return exchange, ROW_OVERHEAD + inputs + outputs
        self.bare += 1
        return replace(exchange, inputs=None, outputs=None if large else exchange.outputs), ROW_OVERHEAD + small

    def _write_all(self) -> None:
        database: sqlite3.Connection | None = None
        open_ = True
        while open_:
            batch, waiters, open_ = self._gather()
            try:
                database = database or connect(self.path)
                self._write(database, batch)
                self.written += len(batch)
            except (sqlite3.Error, OSError, ModelkeepError) as error:
                # a full disk or a removed folder: count the loss, open the file anew for the next batch
                database = None
                self._troubles.tell(f"captured requests are lost: {trouble(self.path, error)}")
                self.dropped += len(batch)
            batch.clear()  # or pictures would stay until the next ones come
            for waiter in waiters:
                waiter.set()
        if database is not None:
            database.close()

    def _gather(self) -> tuple[list[Exchange], list[threading.Event], bool]:
        """The next batch, who waits for it, and whether more may come. A short wait makes batches, not single rows."""
        item: tuple[Exchange, int] | threading.Event | None = self._waiting.get()
        self._hurry.wait(GATHER_SECONDS)
        self._hurry.clear()
        batch: list[Exchange] = []
        waiters: list[threading.Event] = []
        size = 0
        while item is not None:
            if isinstance(item, threading.Event):
                waiters.append(item)
            else:
                batch.append(item[0])
                size += item[1]
            if self._waiting.empty():
                break
            if len(batch) >= GATHER_ROWS or size >= GATHER_BYTES:
                self._hurry.set()  # for the rest
                break
            item = self._waiting.get_nowait()  # there is no other reader
        with self._lock:
            self._waiting_bytes -= size
            self._allowance.turn()
        return batch, waiters, item is not None

    def _write(self, database: sqlite3.Connection, batch: Sequence[Exchange]) -> None:
        if not batch:
            return
        with database:
            database.execute("BEGIN IMMEDIATE")
            seqs: dict[tuple[str, int], int] = {}
            database.executemany(INSERT, [self._row(database, one, seqs) for one in batch])
            self._new += len(batch)
            self._trim_rows(database)
            self._trim_bytes(database)

    def _row(self, database: sqlite3.Connection, one: Exchange, seqs: dict[tuple[str, int], int]) -> tuple[Any, ...]:
        """Of an exchange; ``seqs`` are the newest of each version, asked of the file once a batch."""
        inputs, outputs, seq = pack(one.inputs), pack(one.outputs), 0
        if inputs is not None and one.track != "shadow":
            key = (one.model, one.version)
            if key not in seqs:
                seqs[key] = database.execute(NEWEST, key).fetchone()[0]
            seq = seqs[key] = seqs[key] + 1
        size = ROW_OVERHEAD + len(inputs or b"") + len(outputs or b"")
        self._added += size
        return (*plain(one), seq, inputs, outputs, size)

    def _trim_rows(self, database: sqlite3.Connection) -> None:
        """Counting them takes milliseconds, so they are counted once 2 % more were written."""
        if self._new < self.max_rows / 50:
            return
        self._new = 0
        counts = dict(database.execute("SELECT model, COUNT(*) FROM exchanges GROUP BY model").fetchall())
        over, spared = sum(counts.values()) - self.max_rows, self.max_rows // (SPARED * len(counts))
        if over <= 0:
            return
        others = sorted(counts, key=counts.__getitem__)[:-1] if len(counts) <= MOST_SPARED else []  # than the busiest
        where = " AND ".join(["TRUE", *[OLDER] * len(others)])
        given = [value for model in others for value in (model, model, spared)]
        oldest = f"SELECT row FROM exchanges WHERE {where} ORDER BY row LIMIT ?"
        database.execute(f"DELETE FROM exchanges WHERE row IN ({oldest})", (*given, over))

    def _trim_bytes(self, database: sqlite3.Connection) -> None:
        """Counting all bytes for each batch would be slow, so they are counted once 5 % more were written."""
        if self._added < self.max_bytes / 20:
            return
        self._added = 0.0
        over = database.execute("SELECT COALESCE(SUM(bytes), 0) FROM exchanges").fetchone()[0] - 0.95 * self.max_bytes
        if over > 0:
            sums = "SELECT row, SUM(bytes) OVER (ORDER BY row) AS sum FROM exchanges"
            last = f"SELECT row FROM ({sums}) WHERE sum >= ? LIMIT 1"
            database.execute(f"DELETE FROM exchanges WHERE row <= ({last})", (over,))


def read(
    path: Path,
    model: str,
    *,
    version: int | None = None,
    after: int = 0,
    limit: int | None = None,
    newest: bool = False,
    since: float = 0.0,
    arrays: bool = True,
    inputs: bool = True,
    ids: Sequence[str] | None = None,
    labelled: bool = False,
    max_bytes: int | None = None,
) -> list[Exchange]:
    """Captured exchanges of a model, the oldest first; with ``newest`` the newest ``limit``, still the oldest first.

    ``after`` is a row, ``since`` is epoch seconds; with ``ids`` the newest of each of these requests, with ``labelled``
    those whose truth has come and whose inputs were kept, but no shadows. Labels are joined where the truth has come.
    Without ``arrays``, inputs and outputs are None, without ``inputs`` these. Fewer than ``limit``, and one at least,
    where their arrays come to ``max_bytes``. A missing file holds none. Raises BadData where the file is damaged.
    """
    if not path.is_file():
        return []
    wanted: dict[str, tuple[Any, ...]] = {"e.model = ?": (model,), "e.row > ?": (after,), "e.at >= ?": (since,)}
    if version is not None:
        wanted["e.version = ?"] = (version,)
    if ids is not None:
        of = f"SELECT MAX(row) FROM exchanges WHERE model = ? AND id IN ({', '.join('?' * len(ids))})"
        wanted[f"e.row IN ({of} AND track != 'shadow' GROUP BY id)"] = (*wanted.pop("e.model = ?"), *ids)
    if labelled:
        wanted["l.label IS NOT NULL AND e.inputs IS NOT NULL AND e.track != 'shadow'"] = ()
    order = f"ORDER BY e.row {'DESC' if newest else 'ASC'}"
    where = f"WHERE {' AND '.join(wanted)} {order} LIMIT ?"
    if version is None and ids is None:  # no index has these in order, and sorting numbers spares sorting pictures
        where = f"WHERE e.row IN (SELECT e.row FROM {JOINED} {where}) {order}"
    query = (
        f"SELECT e.id, e.at, e.model, e.version, e.track, e.outcome, e.seconds, e.row, e.seq, l.label, "
        f"{'e.inputs' if arrays and inputs else 'NULL'}, {'e.outputs' if arrays else 'NULL'} FROM {JOINED} {where}"
    )
    with closing(connect(path)) as database:
        try:
            given = [value for values in wanted.values() for value in values]
            found = database.execute(query, (*given, -1 if limit is None else limit))
            rows = found.fetchall() if max_bytes is None else _within(found, max_bytes)
        except sqlite3.Error as error:
            raise trouble(path, error) from error
    return [_exchange(row) for row in (reversed(rows) if newest else rows)]


def parts(path: Path, model: str, *, since: float, max_bytes: int) -> Iterator[list[Exchange]]:
    """What ``read`` gives of labelled ones since then, a part at a time: one is read when the one before was taken."""
    after = 0
    while part := read(path, model, after=after, since=since, labelled=True, max_bytes=max_bytes):
        after = part[-1].row
        yield part


def _within(found: Iterable[Any], max_bytes: int) -> list[Any]:
    """The first rows, until their arrays come to so many bytes."""
    rows, size = [], 0
    for row in found:
        rows.append(row)
        size += len(row[-2] or b"") + len(row[-1] or b"")
        if size >= max_bytes:
            break
    return rows


def bare_labels(path: Path, model: str, since: float = 0.0) -> int:
    """Labelled requests that were kept without their inputs. Raises BadData where the file is damaged."""
    joined = "exchanges e JOIN labels l ON l.model = e.model AND l.id = e.id"
    where = "e.model = ? AND e.at >= ? AND e.track != 'shadow' AND e.outcome = 'ok' AND e.inputs IS NULL"
    return number(path, f"SELECT COUNT(*) FROM {joined} WHERE {where}", model, since)


def newest(path: Path) -> int:
    """The newest row of any model; 0 where there is none."""
    return number(path, "SELECT MAX(row) FROM exchanges")


def run_start(path: Path, model: str, version: int, length: int) -> int:
    """The row after which the newest ``length`` to 2 × ``length`` captured requests of a version lie, in strides."""
    last = number(path, "SELECT MAX(seq) FROM exchanges WHERE model = ? AND version = ?", model, version)
    first = stride(last, length)
    find = "SELECT row FROM exchanges WHERE model = ? AND version = ? AND seq = ?"
    return number(path, find, model, version, first) if first > 0 else 0


def _exchange(values: Sequence[Any]) -> Exchange:
    *_, row, seq, label, inputs, outputs = values
    fields = dict(zip(PLAIN, values, strict=False))
    truth = None if label is None else json.loads(label)
    return Exchange(**fields, inputs=unpack(inputs), outputs=unpack(outputs), row=row, label=truth, seq=seq)
