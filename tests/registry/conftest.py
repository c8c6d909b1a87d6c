"""A registry in a folder of its own. REGISTRY_TEST_DATABASE names a PostgreSQL to run the same tests on."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from modelkeep.model import folder
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.types import Model, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None, 2)),))
SERVER = os.environ.get("REGISTRY_TEST_DATABASE", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What breaks an SQLite file on purpose has nothing to break in PostgreSQL."""
    if SERVER:
        for item in items:
            if item.get_closest_marker("skipif") is None and "sqlite" in item.name:
                item.add_marker(pytest.mark.skip(reason="about an SQLite file"))


@pytest.fixture
def database() -> Iterator[str]:
    """A database URL of this test's own; empty for the default SQLite file."""
    if not SERVER:
        yield ""
        return
    name = f"t{uuid.uuid4().hex}"
    server = create_engine(SERVER, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield SERVER.rpartition("/")[0] + "/" + name
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def settings(tmp_path: Path, database: str) -> Settings:
    """Settings whose home does not exist yet."""
    return Settings(home=tmp_path / "home", database=database)


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    """An empty registry."""
    with Registry.open(settings) as opened:
        yield opened


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """``make(weights=b"…", **{"code/net.py": b"…"})`` → a model folder that holds these files."""

    def make(weights: bytes = b"weights", **more: bytes) -> Path:
        path = tmp_path / "made" / uuid.uuid4().hex
        for name, content in {"model.onnx": weights, **more}.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        folder.write(Model(path, "onnx", SIGNATURE, ("model.onnx", *more), ("no", "yes"), {"opset": 18}))
        return path

    return make


@pytest.fixture
def three(registry: Registry, make: Callable[..., Path]) -> Registry:
    """A registry that holds digits@1, digits@2 and digits@3."""
    for number in (1, 2, 3):
        registry.add("digits", make(f"weights {number}".encode()), made_by=f"add('{number}')", who="test")
    return registry
