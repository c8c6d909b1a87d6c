"""A command on a disk that is soon full."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def on(place: Path, size: str) -> list[str | Path]:
    """What stands before a command, so that it finds a disk of that size (``2m``) at ``place``; skips where nobody may
    mount one.
    """
    mounted = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    before = [*mounted, f'mount -t tmpfs -o size={size} none "$1" && shift && "$@"', "sh", place]
    if not shutil.which("unshare") or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    return before
