"""Captured requests: nothing blocks or raises on the way in, bounds hold, and what comes out is what went in."""

from __future__ import annotations

import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels, traffic
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.errors import BadData
from tests.data.conftest import exchange, fill


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traffic.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[..., TrafficLog]]:
    logs: list[TrafficLog] = []

    def open_(**options: Any) -> TrafficLog:
        logs.append(TrafficLog(path, **options))
        return logs[-1]

    yield open_
    for log in logs:
        log.close()


@contextmanager
def stuck(path: Path, monkeypatch: pytest.MonkeyPatch, batches: list[int] | None = None) -> Iterator[TrafficLog]:
    """A log whose writer holds one row and waits until the end; the rows of each batch go into ``batches``."""
    go_on, write = threading.Event(), TrafficLog._write

    def later(log: TrafficLog, database: sqlite3.Connection, batch: list[Exchange]) -> None:
        go_on.wait(10)
        if batches is not None:
            batches.append(len(batch))
        write(log, database, batch)

    monkeypatch.setattr(TrafficLog, "_write", later)
    log = TrafficLog(path)
    log.offer(exchange(-1))
    while log._waiting.qsize():
        time.sleep(0.001)
    yield log
    go_on.set()
    log.close()


class TestRoundTrip:
    def test_what_went_in_comes_out(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        given = exchange(3, track="canary", outcome="late", seconds=0.25, version=7)
        fill(opened(), [given])
        (got,) = traffic.read(path, "digits")
        for name in ("id", "at", "model", "version", "track", "outcome", "seconds"):
            assert getattr(got, name) == getattr(given, name)
        assert got.inputs is not None
        assert got.outputs is not None
        np.testing.assert_array_equal(got.inputs["x"], [[3, 3, 3, 3]])
        np.testing.assert_array_equal(got.outputs["y"], [3])
        assert (got.row, got.label, got.seq) == (1, None, 1)

    def test_without_arrays(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        fill(opened(), [exchange(0), exchange(1, inputs=None, outputs=None)])
        assert [e.inputs for e in traffic.read(path, "digits", arrays=False)] == [None, None]
        bare, empty = traffic.read(path, "digits", inputs=False)
        assert (bare.inputs, bare.outputs is None, empty.outputs) == (None, False, None)
        first, second = traffic.read(path, "digits")
        assert first.inputs is not None
        assert second.inputs is None
        assert second.seq == 0

    def test_of_a_request_that_came_twice_the_newest_and_no_shadow(
        self, opened: Callable[..., TrafficLog], path: Path
    ) -> None:
        again = [exchange(3, version=2), exchange(3, track="shadow", version=3), exchange(3, model="other", version=4)]
        fill(opened(), [exchange(i) for i in range(6)] + again)
        found = traffic.read(path, "digits", ids=["r4", "r3", "r1", "r99"])
        assert [(e.id, e.version) for e in found] == [("r1", 1), ("r4", 1), ("r3", 2)]

    def test_order_limits_and_filters(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        fill(opened(), [exchange(i, version=1 + i % 2, model="other" if i == 9 else "digits") for i in range(10)])

        def ids(**options: Any) -> list[str]:
            return [e.id for e in traffic.read(path, "digits", **options)]

        assert ids() == [f"r{i}" for i in range(9)]
        assert ids(version=2) == ["r1", "r3", "r5", "r7"]
        assert ids(limit=2) == ["r0", "r1"]
        assert ids(limit=2, newest=True) == ["r7", "r8"]
        assert ids(after=7) == ["r7", "r8"]
        assert ids(since=1007.0) == ["r7", "r8"]
        assert [e.id for e in traffic.read(path, "other")] == ["r9"]

    def test_no_more_than_so_many_bytes_and_one_at_least(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        log = opened()
        for at in range(6):
            log.offer(exchange(at, inputs={"x": np.zeros((1, 1000), "float32")}, outputs=None))
        assert log.flush()
        assert [e.id for e in traffic.read(path, "digits", max_bytes=8100)] == ["r0", "r1"]
        assert [e.id for e in traffic.read(path, "digits", max_bytes=8100, newest=True)] == ["r4", "r5"]
        assert [e.id for e in traffic.read(path, "digits", max_bytes=1, after=4)] == ["r4"]
        assert len(traffic.read(path, "digits", max_bytes=8100, inputs=False)) == 6

    def test_labels_are_joined(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        fill(opened(), [exchange(0), exchange(1)])
        labels.record(path, "digits", {"r1": [4]})
        assert [e.label for e in traffic.read(path, "digits")] == [None, [4]]

    def test_labelled_ones_without_shadows(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        tracks = ("live", "shadow", "canary", "live")
        fill(opened(), [exchange(at, track=track) for at, track in enumerate(tracks)])
        labels.record(path, "digits", {"r0": 1, "r1": 2, "r2": 3})
        assert [e.label for e in traffic.read(path, "digits", labelled=True)] == [1, 3]

    @pytest.mark.parametrize("options", [{}, {"newest": True, "limit": 2}, {"labelled": True}, {"version": 1}])
    def test_inputs_are_not_sorted(
        self, opened: Callable[..., TrafficLog], path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
    ) -> None:
        """SQLite would write all pictures into a file of its own for it."""
        opened().close()
        database, asked = sqlite3.connect(path), []
        traced = traffic.connect(path)
        traced.set_trace_callback(asked.append)
        monkeypatch.setattr(traffic, "connect", lambda path: traced)
        traffic.read(path, "digits", **options)
        plan = database.execute(f"EXPLAIN QUERY PLAN {asked[-1]}").fetchall()
        database.close()
        assert not [step for _, parent, _, step in plan if parent == 0 and "TEMP" in step]

    def test_a_missing_file_holds_nothing(self, path: Path) -> None:
        assert traffic.read(path, "digits") == []
        assert traffic.newest(path) == 0
        assert not path.exists()

    def test_a_damaged_file_is_refused_by_name(self, path: Path) -> None:
        path.write_text("no database " * 500)
        with pytest.raises(BadData, match=r"traffic\.db is not a file of captured traffic"):
            traffic.read(path, "digits")

    def test_a_table_of_another_kind_is_refused(self, path: Path) -> None:
        database = sqlite3.connect(path)
        database.executescript("CREATE TABLE labels (x); CREATE TABLE exchanges (y)")
        database.close()
        with pytest.raises(Exception, match=r"traffic\.db cannot be used .*no such column"):
            traffic.read(path, "digits")


class TestShare:
    def test_a_share_keeps_arrays_of_some_and_rows_of_all(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        fill(opened(share=0.3), [exchange(i) for i in range(400)])
        found = traffic.read(path, "digits")
        captured = [e for e in found if e.inputs is not None]
        assert len(found) == 400
        assert 80 < len(captured) < 160
        assert [e.seq for e in captured] == list(range(1, len(captured) + 1))

    def test_a_request_is_captured_on_every_track_or_on_none(
        self, opened: Callable[..., TrafficLog], path: Path
    ) -> None:
        given = [exchange(i, track=track, version=v) for i in range(60) for track, v in (("live", 1), ("shadow", 2))]
        fill(opened(share=0.5), given)
        found = traffic.read(path, "digits")
        for live, shadow in zip(found[::2], found[1::2], strict=True):
            assert live.id == shadow.id
            assert (live.inputs is None) == (shadow.inputs is None)

    def test_none(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        fill(opened(share=0.0), [exchange(0)])
        assert traffic.read(path, "digits")[0].inputs is None


class TestBounds:
    def test_the_oldest_rows_go_first(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        log = opened(max_rows=50)
        for start in range(0, 200, 20):
            fill(log, [exchange(i) for i in range(start, start + 20)])
        assert [e.id for e in traffic.read(path, "digits")] == [f"r{i}" for i in range(150, 200)]

    @pytest.mark.parametrize(("quiet", "kept"), [(8, range(8)), (30, range(20, 30))])
    def test_a_busy_model_leaves_others_their_newest(
        self, opened: Callable[..., TrafficLog], path: Path, quiet: int, kept: range
    ) -> None:
        """They were gone by the time that their truth came."""
        log = opened(max_rows=200)
        fill(log, [exchange(i, model="quiet") for i in range(quiet)])
        for start in range(0, 1000, 100):
            fill(log, [exchange(i) for i in range(start, start + 100)])
        assert [e.id for e in traffic.read(path, "quiet")] == [f"r{i}" for i in kept]
        assert [e.id for e in traffic.read(path, "digits")] == [f"r{i}" for i in range(800 + len(kept), 1000)]

    def test_of_very_many_models_none_is_spared(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        """Two thousand conditions would be more than SQLite takes, and the rows were lost."""
        log = opened(max_rows=3000)
        fill(log, [exchange(i, model=f"m{i}") for i in range(2000)])
        fill(log, [exchange(i) for i in range(2000)])
        assert log.dropped == 0
        assert len(traffic.read(path, "m1999")) == 1
        assert traffic.read(path, "m0") == []

    def test_bytes_are_bounded(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        log = opened(max_bytes=1_000_000, span=0)
        big = {"x": np.zeros((1, 10_000), "float32")}
        for start in range(0, 100, 10):
            fill(log, [exchange(i, inputs=big) for i in range(start, start + 10)])
        found = traffic.read(path, "digits")
        assert found[-1].id == "r99"
        assert 15 <= len(found) <= 35
        assert path.stat().st_size < 3_000_000

    def test_bytes_that_an_earlier_server_left_count(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        big = {"x": np.zeros((1, 10_000), "float32")}
        log = opened()
        fill(log, [exchange(i, inputs=big) for i in range(50)])
        log.close()
        fill(opened(max_bytes=400_000), [exchange(50)])
        assert len(traffic.read(path, "digits")) <= 11

    def test_pictures_do_not_fill_the_file_in_less_than_its_span(
        self, opened: Callable[..., TrafficLog], path: Path
    ) -> None:
        log = opened(max_bytes=1_600_000, span=100.0)
        picture = {"x": np.zeros((1, 10_000), "float32")}
        fill(log, [exchange(i, inputs=picture) for i in range(100)])
        found = traffic.read(path, "digits")
        kept = [e for e in found if e.inputs is not None]
        assert len(found) == 100
        assert 10 <= len(kept) <= 13  # of 40 kB each, 32 s of 16 kB
        assert log.bare == 100 - len(kept)
        assert all(e.outputs is not None for e in found)
        assert [e.seq for e in kept] == list(range(1, len(kept) + 1))

    def test_small_inputs_are_kept_whatever_came(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        row = {"x": np.zeros((1, 784), "float32")}
        log = opened(rate=1e9)
        fill(log, [exchange(i, inputs=row) for i in range(2000)])
        assert log.bare == 0
        assert all(e.inputs is not None for e in traffic.read(path, "digits"))

    def test_large_outputs_go_with_their_inputs(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        large = {"y": np.zeros((1, 10_000), "float32")}
        fill(log := opened(max_bytes=1_600_000, span=100.0), [exchange(i, outputs=large) for i in range(50)])
        found = traffic.read(path, "digits")
        assert {(e.inputs is None) == (e.outputs is None) for e in found} == {True}
        assert 0 < log.bare == sum(e.outputs is None for e in found)

    def test_texts_count_by_their_letters(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        text = {"x": np.array(["a" * 40_000], object)}
        fill(log := opened(max_bytes=1_600_000, span=100.0), [exchange(i, inputs=text) for i in range(50)])
        assert log.bare > 30

    def test_what_does_not_fit_the_queue_is_dropped_and_counted(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(traffic, "WAITING_ROWS", 10)
        with stuck(path, monkeypatch) as log:
            began = time.perf_counter()
            for i in range(99):
                log.offer(exchange(i))
            assert time.perf_counter() - began < 0.5
            assert log.dropped >= 80
        assert log.written + log.dropped == 100
        assert len(traffic.read(path, "digits")) == log.written

    def test_bytes_that_wait_are_bounded(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(traffic, "WAITING_BYTES", 1000)
        with stuck(path, monkeypatch) as log:
            for i in range(100):
                log.offer(exchange(i))
            assert log._waiting_bytes < 1300
            assert log.dropped > 90
        assert log.written + log.dropped == 101

    def test_of_pictures_that_wait_some_are_kept_and_of_the_others_the_rows(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        picture = {"x": np.zeros((1, 3, 224, 224), "float32")}
        with stuck(path, monkeypatch) as log:
            for i in range(100):
                log.offer(exchange(i, inputs=picture))
            assert 6 * 1024**2 < log._waiting_bytes < 10 * 1024**2
        found = traffic.read(path, "digits", inputs=False)
        assert len(found) == 101
        assert all(e.outputs is not None for e in found)
        assert log.dropped == 0
        assert 80 < log.bare < 95

    def test_what_is_larger_than_all_that_may_wait_is_kept(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        fill(log := opened(), [exchange(0, inputs={"x": np.zeros(2 * traffic.WAITING_BYTES, "uint8")})])
        assert log.bare == log.dropped == 0
        assert traffic.read(path, "digits", arrays=True)[0].inputs is not None

    def test_no_more_is_written_at_a_time_than_a_few_pictures(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches: list[int] = []
        with stuck(path, monkeypatch, batches) as log:
            for i in range(60):
                log.offer(exchange(i, inputs={"x": np.zeros((1, 30_000), "float32")}))
        assert sum(batches) == 61
        assert max(batches) <= 10

    def test_what_was_written_is_let_go(self, opened: Callable[..., TrafficLog]) -> None:
        picture = np.zeros((1, 3, 224, 224), "float32")
        there = weakref.ref(picture)
        fill(opened(), [exchange(0, inputs={"x": picture})])
        del picture
        assert there() is None

    def test_the_rest_is_written_without_waiting_for_more(
        self, opened: Callable[..., TrafficLog], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(traffic, "GATHER_SECONDS", 3600.0)
        log = opened()
        fill(log, [exchange(i, inputs=None) for i in range(3 * traffic.GATHER_ROWS)])
        assert log.written == 3 * traffic.GATHER_ROWS


class TestTrouble:
    def test_a_damaged_file_is_set_aside(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path.write_text("no database " * 500)
        log = TrafficLog(path)
        fill(log, [exchange(0)])
        log.close()
        assert caplog.messages[0].startswith(f"what was in {path} is set aside (.damaged)")
        assert Path(f"{path}.damaged").read_text().startswith("no database")
        assert [e.id for e in traffic.read(path, "digits")] == ["r0"]

    def test_a_locked_file_is_not_set_aside(self, path: Path) -> None:
        fill(log := TrafficLog(path), [exchange(0)])
        log.close()
        holder = sqlite3.connect(path)
        holder.execute("BEGIN EXCLUSIVE")
        again = TrafficLog(path)
        holder.rollback()
        holder.close()
        fill(again, [exchange(1)])
        again.close()
        assert [e.id for e in traffic.read(path, "digits")] == ["r0", "r1"]
        assert not Path(f"{path}.damaged").exists()

    def test_a_place_that_cannot_be_written_drops_and_says_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        log = TrafficLog(tmp_path / "file" / "traffic.db")
        log.offer(exchange(0))
        assert log.flush()
        assert (log.written, log.dropped) == (0, 1)
        assert all("check the disk and who may write there" in said for said in caplog.messages)
        assert len(caplog.messages) == 2  # at the start, and once something is lost
        log.close()

    def test_a_full_disk_loses_rows_and_then_goes_on(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = TrafficLog(path)
        with monkeypatch.context() as patch:

            def full(*_: object) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            patch.setattr(TrafficLog, "_write", full)
            fill(log, [exchange(0)])
            fill(log, [exchange(1)])
        assert log.dropped == 2
        assert caplog.messages == [
            f"captured requests are lost: the captured traffic in {path} cannot be used (database or disk is full); "
            "check the disk and who may write there"
        ]
        fill(log, [exchange(2)])
        log.close()
        assert [e.id for e in traffic.read(path, "digits")] == ["r2"]

    def test_after_close_offers_are_dropped(self, path: Path) -> None:
        log = TrafficLog(path)
        log.close()
        log.close()
        log.offer(exchange(0))
        assert log.dropped == 1
        assert log.flush(0.1)

    def test_close_writes_what_waits(self, path: Path) -> None:
        log = TrafficLog(path)
        for i in range(500):
            log.offer(exchange(i))
        log.close()
        assert len(traffic.read(path, "digits")) == 500


def test_many_threads_may_offer(path: Path) -> None:
    log = TrafficLog(path)
    threads = [
        threading.Thread(target=lambda k=k: [log.offer(exchange(i, id=f"{k}-{i}")) for i in range(100)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = traffic.read(path, "digits", arrays=False)
    assert len({e.id for e in found}) == 400
    assert sorted(e.seq for e in found) == list(range(1, 401))


def test_two_servers_may_write_one_file(opened: Callable[..., TrafficLog], path: Path) -> None:
    one, two = opened(), opened()
    for i in range(100):
        (one if i % 2 else two).offer(exchange(i))
    assert one.flush()
    assert two.flush()
    found = traffic.read(path, "digits")
    assert len(found) == 100
    assert sorted(e.seq for e in found) == list(range(1, 101))


class TestRunStart:
    def test_it_moves_in_strides(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        log = opened()
        fill(log, [exchange(i) for i in range(60)])
        assert traffic.run_start(path, "digits", 1, 10) == 40
        assert traffic.run_start(path, "digits", 1, 100) == 0
        assert traffic.run_start(path, "digits", 2, 10) == 0

    def test_it_covers_once_to_twice_the_length(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        log = opened()
        for i in range(45):
            log.offer(exchange(i))
            assert log.flush()
            covered = i + 1 - traffic.run_start(path, "digits", 1, 10)
            assert min(i + 1, 10) <= covered <= 20

    def test_rows_without_inputs_do_not_count(self, opened: Callable[..., TrafficLog], path: Path) -> None:
        fill(opened(), [exchange(i, inputs=None if i % 2 else {"x": np.zeros(1)}) for i in range(80)])
        assert traffic.run_start(path, "digits", 1, 10) == 39  # the 20th captured of 40
