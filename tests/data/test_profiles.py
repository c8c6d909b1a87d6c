"""Profiles: what was counted comes out as it went in, the file is bounded, and its trouble never reaches a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import profiles
from modelkeep.data.profiles import Bucket, Chunk, ProfileLog
from modelkeep.data.sketches import Sketches
from modelkeep.errors import BadData

COUNTS = np.array([[16.0, 0, 0], [4, 11, 1]])


def chunk(at: int = 0, **other: Any) -> Chunk:
    plain: dict[str, Any] = {"at": 10.0 + at, "until": 10.5 + at, "model": "digits", "version": 1, "track": "live"}
    return Chunk(**{**plain, "subject": "inputs", "form": "f", "n": 16, "counts": COUNTS, **other})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profiles.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[..., ProfileLog]]:
    logs: list[ProfileLog] = []

    def open_(**options: Any) -> ProfileLog:
        logs.append(ProfileLog(path, **options))
        return logs[-1]

    yield open_
    for log in logs:
        log.close()


def fill(log: ProfileLog, *chunks: Chunk) -> None:
    log.offer(chunks)
    assert log.flush()


class TestRoundTrip:
    def test_what_went_in_comes_out(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        shares = np.array([[1 / 3, 2 / 3, 15.0], [16, 0, 0]])
        fill(opened(), chunk(3, track="canary", subject="answers", version=7, n=16, counts=shares))
        (got,) = profiles.read(path, "digits", 7)
        assert (got.at, got.until, got.model, got.version, got.track) == (13.0, 13.5, "digits", 7, "canary")
        assert (got.subject, got.form, got.n, got.row) == ("answers", "f", 16, 1)
        assert got.counts.dtype == np.float64
        np.testing.assert_allclose(got.counts, shares, rtol=1e-6)

    def test_whole_counts_are_exact(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        many = np.array([[16_777_215.0, 1]])
        fill(opened(), chunk(counts=many))
        np.testing.assert_array_equal(profiles.read(path, "digits", 1)[0].counts, many)

    def test_order_limit_and_where_to_go_on(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        log = opened()
        fill(log, *(chunk(at, version=1 + at % 2, model="other" if at == 9 else "digits") for at in range(10)))
        first = profiles.read(path, "digits", 1, limit=2)
        assert [c.at for c in first] == [10, 12]
        rest = profiles.read(path, "digits", 1, after=first[-1].row)
        assert [c.at for c in rest] == [14, 16, 18]
        assert profiles.newest(path) == 10
        assert profiles.read(path, "digits", 1, after=profiles.newest(path)) == []

    def test_a_run_is_of_the_newest_of_one_version(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        log = opened()
        for at in range(25):
            fill(log, chunk(at), *(chunk(at, version=2), chunk(at, model="busy")) * 9)
        start = profiles.run_start(path, "digits", 1, 10)
        assert [c.at for c in profiles.read(path, "digits", 1, after=start)] == [20.0 + at for at in range(15)]
        assert profiles.run_start(path, "digits", 1, 100) == profiles.run_start(path, "none", 1, 10) == 0

    def test_a_file_from_before_is_taken_over(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        old = profiles.SCHEMA.replace(", seq INTEGER", "")
        assert old != profiles.SCHEMA
        with closing(sqlite3.connect(path)) as database:
            database.executescript(old)
        fill(opened(), chunk(0), chunk(1))
        assert profiles.run_start(path, "digits", 1, 1) == 0
        assert len(profiles.read(path, "digits", 1)) == 2

    def test_no_file_is_no_chunks(self, path: Path) -> None:
        assert profiles.read(path, "digits", 1) == []
        assert profiles.newest(path) == 0
        assert not path.exists()

    def test_a_second_server_writes_on(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        fill(opened(), chunk(0))
        fill(opened(), chunk(1))
        assert [c.row for c in profiles.read(path, "digits", 1)] == [1, 2]


def bucket(at: float = 600.0, values: Any = (1.0, 2.0, 3.0), **other: Any) -> Bucket:
    """One minute of one feature."""
    sketches = Sketches([False])
    sketches.update(np.array(values)[:, None], {})
    plain: dict[str, Any] = {"at": at, "span": profiles.MINUTE, "model": "digits", "version": 1, "track": "live"}
    more = {"subject": "inputs", "names": ("x",), "n": len(values), "sketches": sketches}
    return Bucket(**{**plain, **more, **other})


class TestBuckets:
    def test_what_went_in_comes_out(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        log = opened()
        log.offer([], [bucket(660), bucket(600), bucket(600, subject="answers")])
        assert log.flush()
        first, second = profiles.buckets(path, "digits", 1, "inputs")
        assert (first.at, first.span, first.track, first.names, first.n) == (600, 60, "live", ("x",), 3)
        assert first.sketches.quantiles(0, [0, 0.5, 1]) == [1, 2, 3]
        assert second.at == 660
        assert [b.at for b in profiles.buckets(path, "digits", 1, "inputs", since=601)] == [660]
        assert [b.at for b in profiles.buckets(path, "digits", 1, "inputs", until=660)] == [600]
        assert profiles.buckets(path, "digits", 2, "inputs") == []

    def test_a_minute_that_was_cut_by_a_restart_is_one(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        for values in ([1.0, 2.0], [3.0]):
            log = opened()
            log.offer([], [bucket(values=values)])
            log.close()
        (one,) = profiles.buckets(path, "digits", 1, "inputs")
        assert (one.n, one.sketches.n(0)) == (3, 3)

    def test_minutes_of_other_features_are_not_joined(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        log = opened()
        log.offer([], [bucket(), bucket(names=("y",), values=[5.0])])
        assert log.flush()
        (one,) = profiles.buckets(path, "digits", 1, "inputs")
        assert (one.names, one.n) == (("y",), 1)

    def test_old_minutes_become_hours_and_old_hours_go(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        log, now = opened(), 40 * 24 * profiles.HOUR
        old, recent = now - 5 * profiles.HOUR, now - profiles.HOUR
        minutes = [bucket(old + 60 * at, values=[float(at)] * 10) for at in range(90)]
        log.offer([], [*minutes, bucket(recent), bucket(1000.0), bucket(2000.0, span=profiles.HOUR)])
        assert log.flush()
        for _ in range(2):  # once more changes nothing
            with closing(sqlite3.connect(path)) as database, database:
                profiles.fold(database, now)
        found = profiles.buckets(path, "digits", 1, "inputs")
        assert [(b.at, b.span, b.n) for b in found] == [(old, 3600, 600), (old + 3600, 3600, 300), (recent, 60, 3)]
        assert found[0].sketches.n(0) == 600
        assert found[0].sketches.quantiles(0, [0.0, 1.0]) == [0.0, 59.0]

    def test_a_bucket_that_cannot_be_read_costs_itself(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        log = opened()
        log.offer([], [bucket()])
        assert log.flush()
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE buckets SET sketches = x'00'")
        log.offer([chunk()], [bucket(), bucket(660)])
        assert log.flush()
        assert log.dropped == 16
        fill(log, chunk(1))
        assert len(profiles.read(path, "digits", 1)) == 1


class TestBounds:
    def test_the_oldest_go_first_and_rows_go_on_growing(self, opened: Callable[..., ProfileLog], path: Path) -> None:
        log = opened(max_bytes=200_000)
        rng = np.random.default_rng(0)
        for at in range(0, 400, 10):
            fill(log, *(chunk(at + i, counts=rng.random((40, 14))) for i in range(10)))
        kept = profiles.read(path, "digits", 1)
        assert 20 < len(kept) < 200
        assert kept[-1].at == 10 + 399
        assert [c.row for c in kept] == list(range(kept[0].row, 401))
        assert path.stat().st_size < 400_000

    def test_what_a_stuck_disk_holds_up_is_dropped_and_counted(
        self, opened: Callable[..., ProfileLog], path: Path
    ) -> None:
        """Another program holds the file's lock, so that the writer waits for it."""
        log = opened()
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            for at in range(profiles.WAITING + 20):
                log.offer([chunk(at)])
            assert log.dropped >= 16 * 18
            other.execute("ROLLBACK")
        other.close()
        assert log.flush()
        assert log.written + log.dropped == 16 * (profiles.WAITING + 20)

    def test_a_full_disk_costs_chunks_only(
        self,
        opened: Callable[..., ProfileLog],
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        log = opened()
        fill(log, chunk(0))
        real = ProfileLog._write

        def full(self: ProfileLog, database: sqlite3.Connection, chunks: Any, buckets: Any) -> None:
            database.execute("PRAGMA max_page_count = 1")
            real(self, database, chunks, buckets)

        monkeypatch.setattr(ProfileLog, "_write", full)
        big = np.random.default_rng(0).random((100, 100))
        fill(log, *(chunk(at, counts=big) for at in range(3)))
        assert log.dropped == 48
        assert caplog.messages == [
            f"counts of features are lost: the profiles in {path} cannot be used (database or disk is full); "
            "check the disk and who may write there"
        ]
        monkeypatch.setattr(ProfileLog, "_write", real)
        fill(log, chunk(4))
        assert [c.at for c in profiles.read(path, "digits", 1)] == [10, 14]

    def test_after_the_end_chunks_are_counted_as_dropped(self, opened: Callable[..., ProfileLog]) -> None:
        log = opened()
        log.close()
        log.close()
        log.offer([chunk()])
        assert log.dropped == 16


class TestTrouble:
    def test_a_damaged_file_is_moved_aside(
        self, opened: Callable[..., ProfileLog], path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.write_bytes(b"no database at all" * 100)
        with pytest.raises(BadData, match="is not a file of profiles"):
            profiles.read(path, "digits", 1)
        log = opened()
        assert caplog.messages[0].startswith(f"what was in {path} is set aside (.damaged)")
        fill(log, chunk())
        assert len(profiles.read(path, "digits", 1)) == 1
        assert path.with_name("profiles.db.damaged").exists()

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "home").write_text("a file where the folder should be")
        log = ProfileLog(tmp_path / "home" / "profiles.db")
        log.offer([chunk()])
        assert log.flush()
        assert log.dropped == 16
        assert caplog.messages[-1].startswith("counts of features are lost: ")
        log.close()
