"""What the system says of processes, memory and disks; and nothing where it does not."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from modelkeep import system

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")


@linux
def test_memory_and_cpu_time_are_those_of_the_process() -> None:
    before = system.resident(os.getpid())
    held = bytearray(b"x") * 50_000_000
    after, spent = system.resident(os.getpid()), system.cpu_seconds(os.getpid())
    assert before is not None
    assert after is not None
    assert spent is not None
    assert after - before > 45_000_000
    assert abs(spent - sum(os.times()[:2])) < 0.2
    del held


def test_a_process_that_has_ended_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "PROC", tmp_path)
    assert system.resident(os.getpid()) is None
    assert system.cpu_seconds(os.getpid()) is None
    assert system.available() is None


def test_a_name_with_brackets_and_spaces_is_no_trouble(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = ["S", "1", *"0" * 9, "250", "50", *"0" * 8, "3", "0"]
    (tmp_path / "7" / "stat").write_text(f"7 (a ) b) {' '.join(fields)}")
    monkeypatch.setattr(system, "PROC", tmp_path)
    assert system.cpu_seconds(7) == 300 / os.sysconf("SC_CLK_TCK")
    assert system.resident(7) == 3 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("most", "taken", "left"), [("max", "5000", 8192_000), ("1000000", "900000", 100_000), ("1000", "2000", 0)]
)
def test_what_a_container_leaves_is_all_that_is_available(
    monkeypatch: pytest.MonkeyPatch, most: str, taken: str, left: int
) -> None:
    found = {
        "/proc/meminfo": "MemTotal: 16000 kB\nMemAvailable: 8000 kB\n",
        "/proc/self/cgroup": "0::/keep\n",
        "/sys/fs/cgroup/keep/memory.max": most,
        "/sys/fs/cgroup/keep/memory.current": taken,
    }

    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if str(self) not in found:
            raise FileNotFoundError(self)
        return found[str(self)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert system.available() == left


def test_the_disk_of_a_folder(tmp_path: Path) -> None:
    found = system.disk(tmp_path)
    assert found is not None
    assert found[0] == shutil.disk_usage(tmp_path).total
    assert 0 < found[1] <= found[0]
    assert system.disk(tmp_path / "gone") is None


def test_a_thread_ran_or_waited_for_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thread-self").mkdir()
    (tmp_path / "thread-self" / "schedstat").write_text("2000000000 500000000 17\n")
    monkeypatch.setattr(system, "PROC", tmp_path)
    assert system.ran() == 2.5


def test_all_threads_of_the_process_and_one_that_ends_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for thread, told in (("17", "2000000000 500000000 17\n"), ("18", "1000000000 250000000 3\n"), ("19", None)):
        (there := tmp_path / "self" / "task" / thread).mkdir(parents=True)
        if told:
            (there / "schedstat").write_text(told)
    monkeypatch.setattr(system, "PROC", tmp_path)
    assert system.all_ran() == 3.75


def test_where_the_system_does_not_tell_it_is_the_time_of_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "PROC", tmp_path)
    before = time.thread_time()
    assert before <= system.ran() <= time.thread_time()
    before = time.process_time()
    assert before <= system.all_ran() <= time.process_time()
