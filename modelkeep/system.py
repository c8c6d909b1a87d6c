"""What the system says: of a process (proc(5), on Linux), and of what this one may use (cgroups, version 2)."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on: state, parent, …; a name may hold spaces and brackets."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):  # it has ended meanwhile, or this is no Linux
        return None


def resident(pid: int) -> int | None:
    """Bytes of a process that are in memory, shared libraries included; None where the system does not say."""
    found = stat(pid)
    return None if found is None else int(found[21]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float | None:
    """User and system time of a process; None where the system does not say."""
    found = stat(pid)
    return None if found is None else sum(map(int, found[11:13])) / os.sysconf("SC_CLK_TCK")


def affinity() -> int:
    """Cores that this process may run on, which is what libraries count."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its cgroups; one at least."""
    allowed = affinity()
    for text in _limits("cpu.max"):
        with contextlib.suppress(ValueError, ZeroDivisionError):  # the quota is "max"
            quota, period = text.split()
            allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def ran() -> float:
    """Seconds that the calling thread has run or, where the system tells (Linux does: sched-stats.rst), waited for a
    core to run on.
    """
    try:
        return _ran(PROC / "thread-self")
    except (OSError, ValueError):
        return time.thread_time()


def all_ran() -> float:
    """The same of all threads of this process that are there."""
    try:
        threads = list((PROC / "self/task").iterdir())
    except OSError:
        return time.process_time()
    found = 0.0
    for thread in threads:
        with contextlib.suppress(OSError, ValueError):  # one that has just ended
            found += _ran(thread)
    return found or time.process_time()


def _ran(thread: Path) -> float:
    run, waited, _ = (thread / "schedstat").read_text().split()
    return (int(run) + int(waited)) / 1e9


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, and the limit of its cgroups; 0 if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    for text in _limits("memory.max"):
        with contextlib.suppress(ValueError):  # the limit is "max"
            total = min(total, int(text))
    return total


def available() -> int | None:
    """Bytes of memory that could still be had without swapping: the machine's, and what cgroups leave."""
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
        found = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # it has no limit
            found = min(found, int(_read(group, "memory.max")) - int(_read(group, "memory.current")))
    return max(found, 0)


def disk(folder: Path) -> tuple[int, int] | None:
    """Bytes in all and free, of the disk that holds a folder; None for a folder that is not there."""
    try:
        found = shutil.disk_usage(folder)
    except OSError:
        return None
    return found.total, found.free


def _limits(file: str) -> Iterator[str]:
    for group in _groups():
        with contextlib.suppress(OSError):
            yield _read(group, file)


def _read(group: Path, file: str) -> str:
    return (group / file).read_text()


def _groups() -> list[Path]:
    """This process's cgroup and each above it, for a limit holds for all below."""
    root = Path("/sys/fs/cgroup")
    group = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = next((line[len("0::/") :] for line in lines if line.startswith("0::/")), "")
    return [root / folder for folder in dict.fromkeys((Path(group), *Path(group).parents))]
