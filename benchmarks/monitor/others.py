"""The environment of the libraries that monitoring is measured beside, made on first use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DATA = "nannyml==0.13.1"
"""Only for the data that it carries, so without what it needs to run."""


def python() -> Path:
    """Its Python. It lies in $MODELKEEP_PEERS (default ~/.cache/modelkeep/peers)/monitor, about 1 GB."""
    root = Path(os.environ.get("MODELKEEP_PEERS", Path.home() / ".cache" / "modelkeep" / "peers")) / "monitor"
    found = root / "bin" / "python"
    if not found.exists():
        print(f"making the environment of River and Evidently in {root}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", root], check=True)
        command: list[str | Path] = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--requirement", HERE / "requirements.txt"], check=True)
        subprocess.run([*command, "--no-deps", DATA], check=True)
    return found


def data() -> Path:
    """The folder of NannyML's data sets."""
    return next(python().parents[1].glob("lib/python*/site-packages/nannyml/datasets/data"))
