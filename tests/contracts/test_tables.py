"""The tables of strings, which import-linter cannot see: each entry points into its own folder and exists."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

import pytest

from modelkeep import extras

TABLES = {
    "modelkeep.model.formats": "FORMATS",
    "modelkeep.model.engines": "ENGINES",
    "modelkeep.convert": "ROUTES",
    "modelkeep.optimize": "METHODS",
    "modelkeep.update": "METHODS",
}


def targets() -> Iterator[tuple[str, str]]:
    """Each table's folder and one of its entries."""
    for folder, table in TABLES.items():
        if importlib.util.find_spec(folder) is None:  # a room that has nothing yet is not created
            continue
        for entry in getattr(importlib.import_module(folder), table).values():
            yield folder, getattr(entry, "target", entry)


@pytest.mark.parametrize(("folder", "target"), sorted(set(targets())))
def test_it_points_into_its_own_folder_and_resolves(folder: str, target: str) -> None:
    assert target.startswith(f"{folder}.")
    module, colon, _ = target.partition(":")
    for library in ("openvino", "torch"):
        if module.rpartition(".")[2].startswith(library) and not extras.has(library):
            pytest.skip(f"{library} is not installed")
    found = extras.load(target) if colon else importlib.import_module(module)
    assert found is not None


@pytest.mark.parametrize("folder", list(TABLES))
def test_a_table_is_never_empty(folder: str) -> None:
    if importlib.util.find_spec(folder) is None:
        pytest.skip("that room is not there yet")
    assert getattr(importlib.import_module(folder), TABLES[folder])
