"""The sample: never in the way, within its bounds, and rows for the other verbs."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import dataset, labels, sample, sample_files
from modelkeep.data.masks import Masks
from modelkeep.data.sample import Sample
from modelkeep.data.traffic import TrafficLog
from modelkeep.errors import BadData, BadSettings, MissingExtra, NotFound
from modelkeep.types import Signature, TensorSpec
from tests.data.conftest import Open, exchange, fill
from tests.waiting import until

pytest.importorskip("pyarrow")
KEY = bytes(range(32))


class TestRows:
    SIGNATURE = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "int64", (None,)),))

    def test_a_folder_is_data_for_the_other_verbs(self, opened: Open, folder: Path) -> None:
        fill(opened(), [exchange(0), exchange(1, outcome="error", outputs=None), exchange(2, track="shadow")])
        found = dataset.read(folder, self.SIGNATURE)
        assert found.inputs["x"].tolist() == [[0, 0, 0, 0]]
        assert found.labels is None
        assert found.source == f"the sample in {folder}"

    def test_labels_are_joined(self, opened: Open, folder: Path) -> None:
        fill(opened(), [exchange(i) for i in range(4)])
        found = sample.rows(folder, "digits", {"r1": 7, "r3": [8], "x": 1})
        assert found.labels is not None
        assert (found.inputs["x"][:, 0].tolist(), found.labels.tolist()) == ([1, 3], [7, 8])
        assert sample.rows(folder, "digits", {"x": 1}).labels is None

    @pytest.mark.parametrize("masks", ["user", "hash:user"])
    def test_masked_inputs_are_for_no_model(self, opened: Open, folder: Path, masks: str) -> None:
        given = {"x": np.zeros((1, 4), "float32"), "user": np.array([["ann"]], dtype=object)}
        fill(opened(masks=Masks(masks, KEY)), [exchange(0, inputs=given)])
        with pytest.raises(BadData, match=r"has masked input.user \(sample_mask\), which a model cannot take"):
            dataset.read(folder)
        labels.record(folder / "traffic.db", "digits", {"r0": 1})
        with pytest.raises(BadData, match="no captured request of 'digits' has a label yet"):
            sample.labelled(folder / "traffic.db", str(folder), "digits")

    def test_labelled_ones_for_the_loop(self, opened: Open, folder: Path) -> None:
        one = opened()
        fill(one, [exchange(i) for i in range(3)])
        fill(one, [replace(exchange(i), at=time.time() + i) for i in range(3, 5)])
        captured = folder / "traffic.db"
        log = TrafficLog(captured)
        log.offer(exchange(0))
        log.close()
        labels.record(captured, "digits", {"r0": 4, "r1": 5, "r4": 6, "r9": 7})

        def found(where: str, **options: Any) -> list[tuple[int, int]]:
            rows = sample.labelled(captured, where, "digits", **options)
            assert rows.labels is not None
            return list(zip(rows.inputs["x"][:, 0].astype(int).tolist(), rows.labels.tolist(), strict=True))

        assert found("") == [(0, 4)]
        assert found(str(folder)) == [(0, 4), (1, 5), (4, 6)]
        assert found(str(folder), limit=2) == [(1, 5), (4, 6)]
        assert found(str(folder), since=2000.0) == [(4, 6)]
        with pytest.raises(BadData, match="no captured request of 'digits' has a label yet"):
            found(str(folder), since=time.time() + 3600)
        assert found(str(folder / "none")) == [(0, 4)]

    def test_of_large_ones_no_more_are_read_than_are_asked_for(self, tmp_path: Path) -> None:
        captured = tmp_path / "traffic.db"
        log = TrafficLog(captured, span=0)
        for at in range(12):
            log.offer(exchange(at, inputs={"x": np.full((1, 100_000), at, "float32")}))
        log.close()
        labels.record(captured, "digits", {f"r{at}": at for at in range(10)})
        sample.labelled(captured, "", "digits", limit=1)
        tracemalloc.start()
        counted = sample.most_rows(sample.truth(captured, "", "digits").values())
        _, counting = tracemalloc.get_traced_memory()
        rows = sample.labelled(captured, "", "digits", limit=2)
        _, reading = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows.labels is not None
        assert (counted, rows.labels.tolist()) == (10, [8, 9])
        assert counting < 100_000
        assert reading < 5 * 400_000

    def test_they_are_in_memory_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sample, "PART_BYTES", 1_000_000)
        captured = tmp_path / "traffic.db"
        log = TrafficLog(captured, span=0)
        for at in range(30):
            log.offer(exchange(at, inputs={"x": np.full((1, 100_000), at, "float32")}))
            log.flush()
        log.close()
        labels.record(captured, "digits", {f"r{at}": at for at in range(30)})
        sample.labelled(captured, "", "digits", limit=1)
        tracemalloc.start()
        rows = sample.labelled(captured, "", "digits")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows.labels is not None
        assert rows.labels.tolist() == list(range(30)) == rows.inputs["x"][:, 7].tolist()
        assert peak < 1.4 * rows.inputs["x"].nbytes

    def test_of_a_sample_the_newest_files_that_are_needed(
        self, opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = opened()
        for at in range(5):
            fill(one, [replace(exchange(at), at=time.time())])
        captured = folder / "traffic.db"
        labels.record(captured, "digits", {"r0": 0, "r1": [1], "r3": [3]})
        decode, read = sample_files.decode, []
        monkeypatch.setattr(
            sample_files,
            "decode",
            lambda path, *, arrays=True: (read.append(path) if arrays else None, decode(path, arrays=arrays))[1],
        )
        assert sorted(sample.truth(captured, str(folder), "digits").values(), key=str) == [0, [1], [3]]
        assert read == []
        rows = sample.labelled(captured, str(folder), "digits", limit=2)
        assert rows.labels is not None
        assert rows.labels.tolist() == [1, 3]
        files = sample_files.files(folder)
        assert read == [files[1], files[3]], "nor is one between them, in which nobody is labelled"

    def test_labels_of_requests_without_their_inputs_are_told(self, tmp_path: Path) -> None:
        captured = tmp_path / "traffic.db"
        log = TrafficLog(captured, max_bytes=1_000_000, span=1e9)
        for at in range(3):
            log.offer(exchange(at))
        log.close()
        labels.record(captured, "digits", {"r0": 4, "r2": 5, "r9": 7})
        with pytest.raises(BadData, match="2 requests of 'digits' got a label, but the inputs of none were kept"):
            sample.labelled(captured, "", "digits")

    def test_a_folder_without_one(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="is a folder without a sample of traffic"):
            dataset.read(tmp_path)

    def test_a_damaged_file_is_named(self, opened: Open, folder: Path) -> None:
        fill(opened(), [exchange(0)])
        (file,) = sample_files.files(folder)
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(BadData, match=rf"{file.name} is not a file of sampled traffic"):
            sample.read(folder)


class TestBounds:
    def test_a_share_of_the_requests_by_id(self, opened: Open, folder: Path) -> None:
        fill(opened(share=0.3), [exchange(i) for i in range(400)])
        found = sample.read(folder)
        assert 80 < len(found) < 160
        assert opened().dropped == 0

    def test_the_oldest_files_go_first(self, opened: Open, folder: Path) -> None:
        one = opened(max_bytes=40_000)
        rng = np.random.default_rng(0)
        for i in range(12):
            fill(one, [exchange(i, inputs={"x": rng.random((1, 1000))})])
        assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 40_000
        found = sample.read(folder)
        assert found[-1].id == "r11"
        assert 2 <= len(found) <= 5

    def test_files_go_when_they_are_too_old_and_others_stay(self, opened: Open, folder: Path) -> None:
        one = opened(max_age=3600.0)
        fill(one, [exchange(0)])
        (old,) = sample_files.files(folder)
        (folder / "digits" / "mine.parquet").write_bytes(b"mine")
        left = folder / "digits" / f".{old.name}.part"
        left.write_bytes(b"half")
        for path in (old, left, folder / "digits" / "mine.parquet"):
            os.utime(path, (time.time() - 7200, time.time() - 7200))
        fill(one, [exchange(1)])
        assert [e.id for e in sample.read(folder)] == ["r1"]
        assert not left.exists()
        assert (folder / "digits" / "mine.parquet").exists()

    def test_a_file_is_written_at_its_size_without_being_asked(
        self, opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sample, "FILE_ROWS", 5)
        one = opened()
        for i in range(12):
            one.offer(exchange(i))
        until(lambda: one.written == 10)
        assert len(sample.read(folder)) == 10

    def test_a_file_is_written_at_its_age(self, opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sample, "FILE_SECONDS", 0.0)
        one = opened()
        one.offer(exchange(0))
        until(lambda: one.written)
        assert [e.id for e in sample.read(folder)] == ["r0"]

    def test_many_versions_do_not_gather_without_end(
        self, opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sample, "MAX_GROUPS", 3)
        one = opened()
        fill(one, [exchange(i, version=i) for i in range(8)])
        assert [e.version for e in sample.read(folder)] == list(range(8))

    @pytest.mark.parametrize("given", [{"share": 0.0}, {"share": 1.5}, {"max_bytes": 0}, {"max_age": 0.0}])
    def test_numbers_that_make_no_sense(self, folder: Path, given: dict[str, Any]) -> None:
        with pytest.raises(BadSettings, match="keeps nothing"):
            Sample(folder, **given)


class TestTrouble:
    def test_a_stuck_disk_costs_samples_and_no_time(
        self, opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sample, "WAITING_ROWS", 10)
        stuck, go_on = threading.Event(), threading.Event()
        store = sample_files.store

        def slow(*given: Any) -> Path:
            stuck.set()
            assert go_on.wait(20)
            return store(*given)

        monkeypatch.setattr(sample_files, "store", slow)
        one = opened()
        one.offer(exchange(0))
        assert not one.flush(0.01)
        assert stuck.wait(20)
        began = time.perf_counter()
        for i in range(1, 1001):
            one.offer(exchange(i))
        assert time.perf_counter() - began < 0.5
        assert one.dropped == 990
        go_on.set()
        assert one.flush(20)
        assert one.written == 11
        assert one.written + one.dropped == 1001

    def test_a_full_disk_costs_samples_leaves_nothing_and_passes(
        self, opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = opened()
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):

            def full(*_: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "fsync", full)
            fill(one, [exchange(0), exchange(1)])
            fill(one, [exchange(2)])
        assert one.dropped == 3
        assert caplog.messages == [f"a sample of digits@1 was lost: {OSError(errno.ENOSPC, 'No space left on device')}"]
        assert list((folder / "digits").iterdir()) == []
        fill(one, [exchange(3)])
        assert [e.id for e in sample.read(folder)] == ["r3"]

    def test_a_request_that_cannot_be_kept_is_the_only_one_lost(
        self, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        odd = exchange(1, inputs={"x": object()}, outputs=None)
        one = opened()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sample, "_nbytes", lambda _: 0)
            fill(one, [exchange(0), odd, exchange(2)])
        assert (one.written, one.dropped) == (2, 1)
        assert caplog.messages[0].startswith("a request of digits cannot be sampled: ")

    def test_bytes_that_wait_are_bounded(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sample, "WAITING_BYTES", 1000)
        one = opened()
        one.offer(exchange(0, inputs={"x": np.zeros(1000)}))
        assert one.dropped == 1

    def test_killed_in_the_midst_finished_files_can_be_read(self, folder: Path) -> None:
        text = (
            "import sys, numpy as np\n"
            "from pathlib import Path\n"
            "from modelkeep.data import sample\n"
            "from modelkeep.data.traffic import Exchange\n"
            "sample.FILE_ROWS, sample.CPU = 20, 1e9\n"
            "one = sample.Sample(Path(sys.argv[1]), share=1.0)\n"
            "i = 0\n"
            "while True:\n"
            "    x = {'x': np.full((1, 400), i, 'float32')}\n"
            "    one.offer(Exchange(f'r{i}', float(i), 'digits', 1, 'live', 'ok', 0.0, x, x))\n"
            "    i += 1\n"
            "    if i % 50 == 0:\n"
            "        one.flush()\n"
            "    if i == 200:\n"
            "        print('go', flush=True)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", text, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        process.stdout.close()
        found = sample.read(folder)
        assert len(found) >= 200
        assert all(e.inputs is not None and e.inputs["x"].shape == (1, 400) for e in found)
        again = Sample(folder, share=1.0)
        again.offer(exchange(10**6))
        again.close()
        assert sample.read(folder)[-1].id == "r1000000"

    def test_after_close_offers_are_dropped(self, opened: Open, folder: Path) -> None:
        one = opened()
        one.offer(exchange(0))
        one.close()
        one.close()
        one.offer(exchange(1))
        assert (one.written, one.dropped) == (1, 1)
        assert one.flush(0.1)

    def test_a_place_that_cannot_be_written_is_refused_at_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(BadSettings, match=r"cannot be sampled into .*give another with --sample"):
            Sample(tmp_path / "file" / "sample")

    def test_a_disk_that_is_full_at_the_start_is_not(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "touch", full)
            Sample(folder).close()

    def test_without_pyarrow(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtra, match=r"pip install 'modelkeep\[sample\]'"):
            Sample(folder)


class TestPace:
    def test_it_takes_fewer_when_it_costs_too_much_and_comes_back(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = opened(share=0.8)
        one.close()  # its own thread must not turn the screws too
        monkeypatch.setattr(sample, "CPU", 0.02)
        clock, cpu = [100.0], [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(time, "thread_time", lambda: cpu[0])
        window = (100.0, 0.0)

        def pass_(seconds: float, work: float) -> None:
            nonlocal window
            clock[0] += seconds
            cpu[0] += work
            window = one._pace(*window)

        pass_(1.0, 1.0)
        assert one.share == 0.8, "the window is not over"
        pass_(1.0, 0.0)
        assert one.share == pytest.approx(0.2), "not less than a quarter at a time"
        pass_(2.0, 0.08)
        assert one.share == pytest.approx(0.1), "twice too much: half"
        for _ in range(10):
            pass_(2.0, 0.001)
        assert one.share == 0.8

    def test_a_row_says_the_share_it_was_taken_at(self, opened: Open, folder: Path) -> None:
        one = opened()
        one.share = 0.5
        fill(one, [exchange(i) for i in range(50)])
        table = pytest.importorskip("pyarrow.parquet").read_table(sample_files.files(folder)[0])
        assert set(table["share"].to_pylist()) == {0.5}
        assert 10 < table.num_rows < 40


def test_many_threads_may_offer(opened: Open, folder: Path) -> None:
    one = opened()
    threads = [
        threading.Thread(target=lambda k=k: [one.offer(exchange(i, id=f"{k}-{i}")) for i in range(100)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.flush()
    assert len({e.id for e in sample.read(folder)}) == 400
