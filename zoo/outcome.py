"""What became of a row, and how it is kept between runs: one JSON file a row."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "timm",
    "transformers",
    "diffusers",
    "scikit-learn",
    "numpy",
)


@dataclass(frozen=True)
class Cell:
    """One conversion of a row: whether it passed, and why in one sentence. Seconds are wall clock."""

    ok: bool
    why: str
    seconds: float = 0.0
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A row's conversions by target. ``why`` says what ended it before any of them; ``code`` is what it was judged by.

    ``takes`` describes the inputs, ``weights`` are bytes of the model as it was added, ``peak`` bytes of memory.
    """

    row: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    why: str = ""
    takes: tuple[str, ...] = ()
    weights: int = 0
    seconds: float = 0.0
    peak: int = 0
    code: str = ""

    @property
    def ok(self) -> bool:
        """Whether all of it passed."""
        return not self.why and bool(self.cells) and all(cell.ok for cell in self.cells.values())

    def failures(self) -> dict[str, str]:
        """The sentence of each target that failed; of the row itself, where it was not even added."""
        found = {"": self.why} if self.why else {}
        return found | {target: cell.why for target, cell in self.cells.items() if not cell.ok}


def write(outcome: Outcome, file: Path) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".half")
    half.write_text(json.dumps(asdict(outcome), indent=1, default=_plain), encoding="utf-8")
    half.replace(file)


def read(file: Path) -> Outcome | None:
    """What ``write`` left there; None where there is nothing."""
    if not file.is_file():
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    cells = {target: Cell(**cell) for target, cell in data.pop("cells").items()}
    return Outcome(cells=cells, **{**data, "takes": tuple(data["takes"])})


@cache
def code() -> str:
    """A digest of all that a verdict depends on: modelkeep, the zoo, and the versions of the libraries."""
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for folder in ("modelkeep", "zoo"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str:
    """The short name of the commit that is checked out; empty where git does not know, or this code is not its."""
    if _git("status", "--porcelain", "--", "modelkeep", "zoo"):
        return ""
    return _git("rev-parse", "--short=7", "HEAD")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()


def versions() -> dict[str, str]:
    """The libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
