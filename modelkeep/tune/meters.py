"""What a measured part costs: CPU seconds and memory of this process and of every process below it.

Linux tells both of each process (proc(5)); elsewhere only of this one. The peak is that of the measured part: the
kernel's high-water mark is set back when it begins (``/proc/PID/clear_refs``), which costs the part itself nothing.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from dataclasses import dataclass

from modelkeep import system

RESET_PEAK = "5"
"""What clear_refs wants to hear to set VmHWM back to what is resident now (Linux 4.0)."""


@dataclass(frozen=True)
class Usage:
    """Of one part: ``seconds`` by the clock and of the CPU; ``peak_memory`` in bytes resident, over all processes.

    ``whole_life`` says that the kernel would not set the peak back, so that it may be older than the part. The sum of
    the peaks of several processes is the most that they can have had together.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    processes: int = 1
    whole_life: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_memory, other.peak_memory),
            max(self.processes, other.processes),
            self.whole_life or other.whole_life,
        )


@dataclass
class Meter:
    """``start`` and ``stop`` stand right beside the part that is measured."""

    _began: float = 0.0
    _cpu: float = 0.0
    _whole_life: bool = False

    def start(self) -> None:
        """Set the peak back and look at the clocks."""
        self._whole_life = False in [_reset_peak(pid) for pid in family()]
        self._cpu = cpu_seconds()
        self._began = time.monotonic()

    def stop(self) -> Usage:
        """What it cost since ``start``. A process that began in between counts whole."""
        seconds = time.monotonic() - self._began
        spent = cpu_seconds() - self._cpu
        pids = family()
        return Usage(seconds, spent, sum(map(_peak, pids)), len(pids), self._whole_life)


def family(root: int | None = None) -> list[int]:
    """This process (or ``root``), then every process below it; only itself where the system does not tell."""
    root = os.getpid() if root is None else root
    below: dict[int, list[int]] = {}
    for entry in system.PROC.glob("[0-9]*"):
        if (found := system.stat(int(entry.name))) is not None:
            below.setdefault(int(found[1]), []).append(int(entry.name))
    found_pids = [root]
    for pid in found_pids:  # it grows as it goes
        found_pids += below.get(pid, [])
    return found_pids


def memory(root: int | None = None) -> int:
    """Bytes resident now, of this process and those below it; shared libraries count once for each."""
    return sum(_status(pid, "VmRSS") for pid in family(root)) or _lifetime_peak()


def cpu_seconds() -> float:
    """User and system time of this process, of those below it, and of those that have ended and were waited for."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    tick = os.sysconf("SC_CLK_TCK")
    for pid in family()[1:]:
        if (fields := system.stat(pid)) is not None:
            total += sum(int(ticks) for ticks in fields[11:15]) / tick
    return total


def _status(pid: int, key: str) -> int:
    """A size of /proc/PID/status in bytes; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in (system.PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak(pid: int) -> bool:
    try:
        (system.PROC / str(pid) / "clear_refs").write_text(RESET_PEAK)
    except OSError:  # no Linux, a sandbox, or it has ended
        return False
    return True


def _peak(pid: int) -> int:
    return _status(pid, "VmHWM") or (_lifetime_peak() if pid == os.getpid() else 0)


def _lifetime_peak() -> int:
    """The largest this process has ever been; macOS tells bytes where Linux tells KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
