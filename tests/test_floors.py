"""The floors hold, and an import upwards or between siblings breaks them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINT = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package and its contracts, elsewhere."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "modelkeep", tmp_path / "modelkeep", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_floors_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("data/dataset.py", "modelkeep.registry.registry"),  # three floors up
        ("errors.py", "modelkeep.cli"),  # from the ground to the roof
        ("monitor/look.py", "modelkeep.serve.plane.plane"),  # a sibling
        ("serve/grpc/endpoint.py", "modelkeep.serve.http.listener"),  # the other door
        ("serve/plane/plane.py", "modelkeep.serve.observers.collect"),  # nothing waits for an observer
        ("serve/workers/pool.py", "modelkeep.serve.plane.batcher"),  # from those who run to those who ask
    ],
)
def test_an_import_that_does_not_go_down_breaks_them(copied: Path, importer: str, imported: str) -> None:
    file = copied / "modelkeep" / importer
    file.write_text(f"{file.read_text(encoding='utf-8')}\nimport {imported}\n", encoding="utf-8")
    done = lint(copied)
    assert done.returncode == 1
    module = "modelkeep." + importer.removesuffix(".py").replace("/", ".")
    assert f"{module} -> {imported}" in done.stdout


def test_a_new_room_needs_a_floor(copied: Path) -> None:
    (copied / "modelkeep" / "attic.py").write_text("")
    done = lint(copied)
    assert done.returncode == 1
    assert "attic" in done.stdout
