"""CPU time and memory of the measured part, of this process and of those below it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modelkeep import system
from modelkeep.tune import meters
from modelkeep.tune.meters import Meter, Usage

MB = 1_000_000
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
CHILD = """
import sys, time
end = time.process_time() + 0.15
held = bytearray(80_000_000)
while time.process_time() < end:
    pass
print("ready", flush=True)
sys.stdin.read()
"""


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@linux
def test_the_peak_is_that_of_the_part_and_not_of_the_life() -> None:
    large = np.ones(200 * MB // 8)  # before the part, and gone again
    del large
    meter = Meter()
    meter.start()
    held = np.ones(60 * MB // 8)
    resident = meters.memory()
    del held
    found = meter.stop()
    assert resident - 5 * MB <= found.peak_memory <= resident + 40 * MB
    assert not found.whole_life


def test_cpu_time_is_that_of_the_part() -> None:
    spin(0.05)
    meter = Meter()
    meter.start()
    spin(0.1)
    time.sleep(0.05)
    found = meter.stop()
    assert 0.09 <= found.cpu_seconds <= 0.3
    assert found.seconds >= 0.14


@linux
def test_processes_below_count_too() -> None:
    meter = Meter()
    meter.start()
    before = meters.memory()
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in meters.family()
        assert meters.memory() - before > 75 * MB
        found = meter.stop()
    finally:
        child.communicate()
    assert found.processes >= 2
    assert found.cpu_seconds >= 0.14
    assert found.peak_memory > 80 * MB
    assert child.pid not in meters.family()


def test_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """macOS, or a sandbox without /proc: this process alone, and the peak may be older; it is said."""
    monkeypatch.setattr(system, "PROC", tmp_path)
    meter = Meter()
    meter.start()
    spin(0.02)
    found = meter.stop()
    assert found.whole_life
    assert found.processes == 1
    assert found.peak_memory > 5 * MB
    assert found.cpu_seconds > 0.01
    assert meters.memory() > 5 * MB


def test_rounds_add_up() -> None:
    total = Usage(1.0, 0.5, 100, 1) + Usage(2.0, 1.0, 80, 3, whole_life=True)
    assert total == Usage(3.0, 1.5, 100, 3, whole_life=True)
