"""python -m scripts.dashboards [FOLDER]: write the dashboards, by default where they are shipped from.

A test sees whether what is shipped is what is written here. The JSON is type-checked by scripts/check_dashboards.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.dashboards import write

INTO = Path(__file__).parents[2] / "modelkeep" / "monitor" / "prometheus" / "dashboards"

if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else INTO)
