"""An opt-in sample of requests and replies in parquet files: bounded, masked, and never in the way of an answer."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.data import labels, sample_files, traffic
from modelkeep.data.dataset import Dataset
from modelkeep.data.exchanged import Labelled, from_exchanges
from modelkeep.data.masks import Masks
from modelkeep.data.packed import size_of
from modelkeep.data.sample_files import Group
from modelkeep.data.sampler import ALL, mark_of
from modelkeep.data.troubles import Troubles
from modelkeep.errors import BadData, BadSettings, NotFound
from modelkeep.quantities import counted

if TYPE_CHECKING:
    from modelkeep.data.traffic import Exchange

WAITING_ROWS, WAITING_BYTES = 4_000, 64 * 1024**2
"""What offer() lets wait for the writer; more is dropped and counted."""
FILE_ROWS, FILE_BYTES, FILE_SECONDS = 20_000, 16 * 1024**2, 300.0
"""A file is written once the requests of a version are so many, have so many bytes, or the first waited so long."""
MAX_GROUPS = 32
"""Versions that gather at a time; the one that gathers for the longest is written when there are more."""
TICK, TRIM_SECONDS = 0.25, 60.0
WINDOW, CPU = 2.0, 0.02
"""Every WINDOW seconds the share is set anew, so that the writer takes CPU of one core at most."""
LEAST = 1e-5
NEWEST = 50_000
"""Requests that ``read`` gives at most."""
PART_BYTES = 16 * 1024**2
"""Of captured requests that are read at a time, to be rows."""

_log = logging.getLogger(__name__)


class Sample:
    """The writer. ``offer`` never blocks and never raises; what does not fit is dropped and counted.

    A ``share`` of the requests is taken, chosen by id as in TrafficLog. Under load that would cost more than CPU of a
    core it takes fewer: each row says the share that was in force, so 1/share weighs it. The oldest files go once there
    are ``max_bytes`` bytes, and those older than ``max_age`` seconds. A stuck or a full disk costs samples.
    ``private`` are parameters that are never kept.

    Raises MissingExtra without pyarrow, and BadSettings for a folder that cannot be written or numbers that make no
    sense.
    """

    def __init__(
        self,
        folder: Path,
        *,
        share: float = 0.1,
        max_bytes: int = 1024**3,
        max_age: float = 7 * 86_400.0,
        masks: Masks | None = None,
        private: Collection[str] = (),
    ) -> None:
        sample_files.need()
        if not 0 < share <= 1 or max_bytes <= 0 or not max_age > 0:
            raise BadSettings(
                f"a sample of share {share}, {max_bytes} bytes and {max_age} seconds keeps nothing; give a share above "
                "0 and up to 1, and a size and an age above 0"
            )
        self.folder, self.max_bytes, self.max_age = folder, max_bytes, max_age
        self.masks, self._private = masks or Masks(), frozenset(private)
        self.written = self.dropped = 0
        self._share = share
        self._now = share
        self._waiting: deque[tuple[Exchange, float, int]] = deque()
        self._waiting_bytes = 0
        self._groups: dict[tuple[str, int], tuple[float, Group]] = {}
        self._troubles = Troubles(_log)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._flushing: list[threading.Event] = []
        self._closed = False
        self._trimmed = 0.0
        _writable(folder)
        self._thread = threading.Thread(target=self._work, name="sample", daemon=True)
        self._thread.start()

    @property
    def share(self) -> float:
        """The share that is in force now; set, it is the most that may be taken from now on."""
        return self._now

    @share.setter
    def share(self, most: float) -> None:
        self._share = self._now = min(max(most, 0.0), 1.0)

    def wants(self, mark: int) -> bool:
        """Whether the request of this mark (sampler.py) belongs to the share."""
        return mark < self._now * ALL

    def offer(self, exchange: Exchange) -> None:
        """Hand over one exchange; returns at once. Its arrays must not be changed afterwards."""
        share = self._now
        if not self.wants(mark_of(exchange.id)):
            return
        size = _nbytes(exchange)
        with self._lock:
            if self._closed or len(self._waiting) >= WAITING_ROWS or self._waiting_bytes + size > WAITING_BYTES:
                self.dropped += 1
                return
            self._waiting.append((exchange, share, size))
            self._waiting_bytes += size

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was offered before is in files; False when that took longer than ``timeout`` s."""
        done = threading.Event()
        with self._lock:
            self._flushing.append(done)
        self._wake.set()
        return done.wait(timeout) if self._thread.is_alive() else not self._waiting

    def close(self) -> None:
        """Write what waits, for a few seconds at most, then stop. Later offers are dropped; twice is harmless."""
        with self._lock:
            self._closed = True
        self._wake.set()
        self._thread.join(5.0)

    # ── the writer's thread ──────────────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        window = (time.monotonic(), time.thread_time())
        last = False
        while not last:
            self._wake.wait(TICK)
            self._wake.clear()
            with self._lock:
                last, waiters, self._flushing = self._closed, self._flushing, []
            self._gather()
            self._write_due(everything=last or bool(waiters))
            window = self._pace(*window)
            for waiter in waiters:
                waiter.set()

    def _gather(self) -> None:
        for _ in range(len(self._waiting)):
            with self._lock:
                exchange, share, size = self._waiting.popleft()
                self._waiting_bytes -= size
            try:
                self._take(exchange, share)
            except Exception as error:  # noqa: BLE001 - whatever one request holds, the next is sampled
                self._lost(1, f"a request of {exchange.model} cannot be sampled: {error!r}")

    def _take(self, exchange: Exchange, share: float) -> None:
        key = (exchange.model, exchange.version)
        if key not in self._groups:
            if len(self._groups) >= MAX_GROUPS:
                self._write(min(self._groups, key=lambda one: self._groups[one][0]))
            self._groups[key] = (time.monotonic(), Group(self.masks, self._private))
        group = self._groups[key][1]
        if not group.add(exchange, share):  # other dtypes: a file has one of each column
            self._write(key)
            self._take(exchange, share)
        elif len(group.rows) >= FILE_ROWS or group.nbytes >= min(FILE_BYTES, self.max_bytes // 4):
            self._write(key)

    def _write_due(self, *, everything: bool) -> None:
        now = time.monotonic()
        for key, (began, _) in list(self._groups.items()):
            if everything or now - began >= FILE_SECONDS:
                self._write(key)
        if now - self._trimmed >= TRIM_SECONDS:
            self._trim()

    def _write(self, key: tuple[str, int]) -> None:
        _, group = self._groups.pop(key)
        model, version = key
        try:
            self._warn_of_idle_masks(model, group)
            sample_files.store(sample_files.folder_of(self.folder, model), version, sample_files.encode(group))
            self.written += len(group.rows)
        except Exception as error:  # noqa: BLE001 - a full disk or a defect costs these samples, never the thread
            self._lost(len(group.rows), f"a sample of {model}@{version} was lost: {error}")
        self._trim()

    def _trim(self) -> None:
        self._trimmed = time.monotonic()
        try:
            sample_files.trim(self.folder, self.max_bytes, self.max_age)
        except OSError as error:
            self._lost(0, f"old samples in {self.folder} cannot be removed: {error}")

    def _pace(self, began: float, used: float) -> tuple[float, float]:
        """Set the share by what the last window cost; gives the window that is open now."""
        now, cpu = time.monotonic(), time.thread_time()
        if now - began < WINDOW:
            return began, used
        cost = (cpu - used) / (now - began)
        step = min(max(CPU / cost, 0.25), 2.0) if cost > 0 else 2.0
        if step < 1 or self._now < self._share:
            self._now = min(max(self._now * step, LEAST), self._share)
        return now, cpu

    def _lost(self, rows: int, why: str) -> None:
        self.dropped += rows
        self._troubles.tell(why)

    def _warn_of_idle_masks(self, model: str, group: Group) -> None:
        if idle := self.masks.idle(list(group.fields)):
            there = ", ".join(sorted(f"{kind}.{name}" for kind, name in group.fields)[:20])
            self._troubles.tell(f"sample_mask {', '.join(idle)} fits no field of {model}: it has {there}")


def read(
    folder: Path,
    model: str | None = None,
    *,
    limit: int = NEWEST,
    since: float = 0.0,
    arrays: bool = True,
    ids: Collection[str] | None = None,
) -> list[Exchange]:
    """The newest ``limit`` exchanges in the files of a sample, the oldest first; none before ``since`` (epoch seconds).

    ``folder`` is the sample's or a model's in it; without ``model`` it must hold one only. With ``ids`` those of these
    requests only; without ``arrays``, inputs and outputs are None. Raises NotFound, BadData, MissingExtra.
    """
    found: list[Exchange] = []
    for path in _paths(folder, model, since):
        if len(found) >= limit:
            break
        found[:0] = _of(path, since, arrays=arrays, ids=ids)
    return sorted(found, key=lambda exchange: exchange.at)[-limit:]


def _paths(folder: Path, model: str | None, since: float) -> Iterator[Path]:
    """The files with requests from then on, the newest first. Raises NotFound, BadData."""
    return takewhile(lambda path: sample_files.since(path, since), reversed(sample_files.files(folder, model)))


def _of(path: Path, since: float, *, arrays: bool = True, ids: Collection[str] | None = None) -> list[Exchange]:
    """Those of one file; none where a server has trimmed it meanwhile."""
    with suppress(FileNotFoundError):
        if ids is None or any(one in ids for one in sample_files.ids(path)):
            exchanges = sample_files.decode(path, arrays=arrays)
            return [e for e in exchanges if e.at >= since and (ids is None or e.id in ids)]
    return []


def rows(folder: Path, model: str | None = None, truth: Mapping[str, Any] | None = None) -> Dataset:
    """The newest sampled requests that were answered, as rows; where ``truth`` has labels by request id, these only.

    Raises BadData where there are none, they differ in form or have masked inputs, NotFound, MissingExtra.
    """
    if masked := _masked(folder, model):
        raise BadData(f"the sample in {folder} has masked {', '.join(masked)} (sample_mask), which a model cannot take")
    known = _joined(_answered(read(folder, model, ids=truth)), truth) if truth else []
    return from_exchanges(known or _answered(read(folder, model)), source=f"the sample in {folder}")


def labelled(captured: Path, folder: str, model: str, *, since: float = 0.0, limit: int | None = None) -> Dataset:
    """Requests whose truth has come, the newest ``limit``: of the captured traffic, and of the sample in ``folder``.

    Of the sample none where ``folder`` is empty, nothing lies there, or inputs are masked. Raises BadData where there
    is none or a file is damaged, MissingExtra.
    """
    known, sampled = _labelled(captured, folder, model, since)
    chosen = sorted((*known, *sampled), key=lambda exchange: exchange.at)[-limit if limit else 0 :]
    if not chosen:
        raise BadData(_unlabelled(captured, model, since))
    if len(chosen) < len(known) + len(sampled):
        since = chosen[0].at
    wanted = {(e.id, e.at) for e in chosen}
    rows = Labelled(most_rows(e.label for e in chosen), f"labelled traffic of {model}")
    for part in traffic.parts(captured, model, since=since, max_bytes=PART_BYTES):
        rows.take([e for e in part if (e.id, e.at) in wanted])
    kept = {e.id: e.label for e in sampled if (e.id, e.at) in wanted}
    with suppress(NotFound):
        for path in reversed(list(_paths(Path(folder), model, since))) if kept else ():
            rows.take(_joined(_answered(_of(path, since, ids=kept)), kept))
    return rows.dataset()


def truth(captured: Path, folder: str, model: str, *, since: float = 0.0) -> dict[tuple[str, float], Any]:
    """The label of each request that ``labelled`` reads, by its id and time, without reading its inputs.

    Raises BadData where a file is damaged, MissingExtra.
    """
    return {(e.id, e.at): e.label for part in _labelled(captured, folder, model, since) for e in part}


def most_rows(truth: Iterable[Any]) -> int:
    """How many rows these labels are for at most: a list is a label for each of some rows."""
    return sum(len(label) - label.count(None) if isinstance(label, list) else 1 for label in truth)


def _labelled(captured: Path, folder: str, model: str, since: float) -> tuple[list[Exchange], list[Exchange]]:
    """Requests whose truth has come, without their arrays: the captured ones, and those that are only in the sample."""
    known = traffic.read(captured, model, since=since, labelled=True, arrays=False)
    truth = labels.known(captured, model) if folder else {}
    for exchange in known:
        truth.pop(exchange.id, None)
    with suppress(NotFound):
        if truth and not _masked(Path(folder), model):
            sampled = read(Path(folder), model, since=since, arrays=False, ids=truth)
            return known, _joined(_answered(sampled), truth)
    return known, []


def _unlabelled(captured: Path, model: str, since: float) -> str:
    """Why there are no labelled rows."""
    if bare := traffic.bare_labels(captured, model, since):
        return (
            f"{counted(bare, 'request')} of '{model}' got a label, but the inputs of none were kept (capture_share, "
            "capture_bytes); keep them with: modelkeep serve --sample DIR"
        )
    return f"no captured request of '{model}' has a label yet; hand labels in with: modelkeep label {model} FILE"


def _masked(folder: Path, model: str | None) -> list[str]:
    found: set[str] = set()
    for path in sample_files.files(folder, model):
        with suppress(FileNotFoundError):
            found.update(sample_files.masked(path))
    return sorted(found)


def _answered(exchanges: Iterable[Exchange]) -> list[Exchange]:
    return [e for e in exchanges if e.outcome == "ok" and e.track != "shadow"]


def _joined(exchanges: Iterable[Exchange], truth: Mapping[str, Any]) -> list[Exchange]:
    return [replace(e, label=truth[e.id]) for e in exchanges if e.id in truth]


def _nbytes(exchange: Exchange) -> int:
    return 200 + size_of(exchange.inputs) + size_of(exchange.outputs)


def _writable(folder: Path) -> None:
    """Raises BadSettings where that is so for good; a disk that is full now may have room later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{sample_files.PART}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        raise BadSettings(f"traffic cannot be sampled into {folder} ({error}); give another with --sample") from error
