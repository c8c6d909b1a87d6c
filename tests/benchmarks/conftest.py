"""Benchmarks lie at the repository's root, beside the package, and are imported from there."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("monitor", "serving"):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / folder))
