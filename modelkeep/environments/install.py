"""How an environment is filled: python -m venv, then pip with a lock file, honouring the person's own pip settings."""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

from modelkeep.errors import MissingExtra, StorageFull

SECONDS = 1800.0
"""Longer than any connection that is worth waiting for."""
_OFFLINE = re.compile(r"NewConnectionError|Temporary failure in name resolution|ConnectTimeout|ProxyError|SSLError")
_FULL = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)


def python_of(environment: Path) -> Path:
    """Its interpreter."""
    return environment / "bin" / "python"


def install(python: Path, into: Path, lock: Path, tell: Callable[[str, float | None], None]) -> None:
    """A virtual environment at ``into`` that holds what ``lock`` pins and nothing else.

    Raises StorageFull or MissingExtra with the reason in one sentence.
    """
    _run([str(python), "-m", "venv", str(into)], tell, 0)
    command = [str(python_of(into)), "-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--no-input"]
    # without --no-deps pip would bring what the libraries name and conversion never imports
    pinned = sum(1 for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line)
    _run([*command, "--disable-pip-version-check", "--requirement", str(lock)], tell, pinned)


def _run(command: list[str], tell: Callable[[str, float | None], None], steps: int) -> None:
    """Run it to its end; each line that begins ``Collecting`` is one of ``steps``."""
    last: deque[str] = deque(maxlen=50)
    done = 0
    with _started(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.strip())
            if line.startswith("Collecting ") and steps:
                done += 1
                tell(line.split()[1], min(done / steps, 1.0) * 0.7)  # what is left is unpacking
            elif line.startswith("Installing collected"):
                tell("unpacking", 0.8)
            elif line.startswith("Successfully installed"):
                tell("unpacked", 1.0)
    if process.returncode:
        raise _failed(command, list(last))


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Ended when the body ends, be it by Ctrl-C, and after SECONDS."""
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
    ) as process:
        clock = Timer(SECONDS, process.kill)
        clock.daemon = True
        clock.start()
        try:
            yield process
        except BaseException:  # Ctrl-C too; it is raised again
            process.kill()
            raise
        finally:
            clock.cancel()


def _failed(command: list[str], lines: list[str]) -> MissingExtra | StorageFull:
    text = "\n".join(lines)
    if found := _FULL.search(text):
        return StorageFull(
            f"the environment cannot be made: {found[0]}; nothing was kept; free some space, or set "
            "MODELKEEP_ENVIRONMENTS (and TMPDIR, where pip unpacks) to another folder"
        )
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    why = (errors or [line for line in lines if line] or ["it was stopped"])[0].rstrip(".")
    if _OFFLINE.search(text):
        why = f"no package index can be reached from here ({why})"
    elif "ensurepip" in text:
        why = "this Python has no ensurepip; install the package python3-venv"
    what = "venv" if "venv" in command else "pip"
    return MissingExtra(f"the environment cannot be made, for {what} fails: {why}; nothing was kept")
