"""Runs rows one after the other, each in a process of its own, and remembers what became of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from zoo import outcome
from zoo.outcome import ROOT, Outcome
from zoo.row import Row

TIMEOUT = 3600.0
"""Seconds that one row may take."""
LAST_WORDS = 3
"""Lines of a dead process's standard error that are told."""
Told = Callable[[int, Row, Outcome | None, bool], None]


def run(rows: Sequence[Row], results: Path, *, fresh: bool = False, timeout: float = TIMEOUT, told: Told) -> None:
    """Each row's Outcome to ``results``/ROW.json. One that has passed with this very code is not run again.

    ``told`` is called with the row's number from 1, the row, its Outcome (None: it begins), and whether that is an
    earlier run's.
    """
    for number, row in enumerate(rows, 1):
        file = results / f"{row.name}.json"
        known = None if fresh else outcome.read(file)
        if known and known.ok and known.code == outcome.code() and set(known.cells) == set(row.targets):
            told(number, row, known, True)
            continue
        told(number, row, None, False)
        file.unlink(missing_ok=True)
        found = one(row, file, timeout)
        told(number, row, found, False)


def one(row: Row, file: Path, timeout: float = TIMEOUT) -> Outcome:
    """What became of the row, also where its process died or took too long; written to ``file``."""
    with tempfile.TemporaryDirectory(prefix=f"zoo-{row.name}-") as folder:
        command = [sys.executable, *judge_command(row), row.name, str(file.absolute()), folder]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout, errors="replace"
            )
            why = _death(done.returncode, done.stderr)
        except subprocess.TimeoutExpired:
            why = f"it took more than {timeout:g} seconds and was ended"
    found = None if why else outcome.read(file)
    if found is None:
        found = Outcome(row.name, why=why or "its process left no result", code=outcome.code())
        outcome.write(found, file)
    return found


def judge_command(row: Row) -> list[str]:
    """What Python runs to judge the row; it gets the row's name, the result's file and an empty folder."""
    return ["-m", "zoo.judge"]


def _death(code: int, stderr: str) -> str:
    """How a process ended that did not end well; empty where it did."""
    if code == 0:
        return ""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    last = [line.strip() for line in stderr.splitlines() if line.strip()][-LAST_WORDS:]
    return f"its process {how}{': ' if last else ''}{' / '.join(last)}"
