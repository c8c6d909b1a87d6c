"""kill -9 at any point leaves the old state or the new one: a real process is killed at each of its steps."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from modelkeep.registry import Registry, adding, manifest
from modelkeep.settings import Settings

Run = Callable[..., str]
Make = Callable[..., Path]


@pytest.fixture
def run(settings: Settings) -> Iterator[Run]:
    """``run(folder, what=…, point=…)`` → the step that the process was killed at, or "done"."""
    program = Path(__file__).with_name("crash_child.py")
    server = subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None

    def run(folder: Path, *, home: Path = settings.home, **job: Any) -> str:
        assert server.stdin is not None
        assert server.stdout is not None
        job |= {"home": str(home), "database": settings.database, "folder": str(folder)}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        died: str = json.loads(server.stdout.readline())
        assert "failed" not in died, died
        return died

    yield run
    server.stdin.close()
    assert server.wait(timeout=10) == 0
    server.stdout.close()


@pytest.fixture
def ready(settings: Settings, three: Registry, make: Make) -> Registry:
    """Three versions, a route with a previous version, an alias."""
    three.promote("digits", 1, why="")
    three.promote("digits", 2, why="")
    three.set_alias("digits", "stable", 1, None)
    return three


def state(registry: Registry) -> dict[str, Any]:
    """All that a change could change."""
    here = registry.get("digits@1")
    return {
        "versions": registry.versions("digits"),
        "route": registry.route("digits"),
        "alias": registry.alias("digits", "stable"),
        "config": registry.config(here, "here"),
        "reports": registry.reports(here),
        "journal": [entry.id for entry in registry.journal()],
        "revision": registry.revision(),
    }


def check(registry: Registry, settings: Settings) -> None:
    """What must hold at any time: bytes, rows and journal agree."""
    versions = registry.versions("digits")
    assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    for version in {version.digest: version for version in versions}.values():
        path = registry.checkout(version).path  # verifies every stored file and every copy
        assert manifest.digest(manifest.survey(path)) == version.digest
    added = registry.journal("digits", kind="add")
    assert [(e.data["number"], e.data["digest"]) for e in added] == [(v.number, v.digest) for v in versions]
    route, moves = registry.route("digits"), registry.journal("digits", kind="route")
    assert {n for n in (*route.numbers, route.previous) if n} <= {version.number for version in versions}
    assert [e.data["after"]["revision"] for e in moves] == list(range(1, route.revision + 1))
    assert all(e.data["before"] == f.data["after"] for f, e in itertools.pairwise(moves))
    assert not moves or moves[-1].data["after"] == asdict(route)
    aliases = registry.journal("digits", kind="alias")
    assert registry.alias("digits", "stable") == (aliases[-1].data["after"] if aliases else None)
    configs, here = registry.journal("digits", kind="config"), registry.get("digits@1")
    config = registry.config(here, "here")
    assert (config and asdict(config)) == (configs[-1].data["config"] if configs else None)
    assert len(registry.reports(here)) == len(configs)


def outcome(before: dict[str, Any], after: dict[str, Any]) -> str:
    """``old`` when nothing changed; ``new`` when what changed came with exactly one more entry of the journal."""
    if after == before:
        return "old"
    assert len(after["journal"]) == len(before["journal"]) + 1
    assert after["revision"] == before["revision"] + 1
    return "new"


@pytest.mark.parametrize(
    ("what", "steps"),
    [("add", 20), ("promote", 10), ("rollback", 10), ("set_route", 10), ("set_alias", 8), ("set_config", 8)],
)
def test_killed_at_every_step_of_a_change(
    what: str, steps: int, ready: Registry, run: Run, make: Make, settings: Settings
) -> None:
    died, outcomes = [], []
    while not died or died[-1] != "done":
        folder = make(uuid.uuid4().bytes * 100, **{"code/net.py": b"width = 3\n"})
        before = state(ready)
        died.append(run(folder, what=what, point=len(died) + 1))
        outcomes.append(outcome(before, state(ready)))
        check(ready, settings)
    assert len(died) > steps
    assert outcomes[-1] == "new"
    commit = max(i for i, step in enumerate(died) if step == "before do_commit")
    assert set(outcomes[: commit + 1]) == {"old"}
    assert set(outcomes[commit + 1 :]) == {"new"}
    with Registry.open(settings) as reopened:
        check(reopened, settings)


def test_killed_adds_leave_only_what_a_sweep_removes(ready: Registry, run: Run, make: Make, settings: Settings) -> None:
    died = {
        run(make(uuid.uuid4().bytes, **{"code/net.py": uuid.uuid4().bytes}), what="add", point=p) for p in range(1, 25)
    }
    assert {"half written", "before fsync", "after fsync", "before replace", "after replace"} <= died
    stored = settings.home / "store"
    in_use = {file for v in ready.versions("digits") for file in _blobs(ready, v.number)}
    assert any((stored / "temp").iterdir())
    assert {path.name for path in (stored / "blobs").iterdir()} > in_use
    adding.sweep(ready._database, ready._store, settings.home / "checkouts", before=float("inf"))
    assert list((stored / "temp").iterdir()) == []
    assert {path.name for path in (stored / "blobs").iterdir()} == in_use
    check(ready, settings)


def _blobs(registry: Registry, number: int) -> set[str]:
    path = registry.checkout(registry.get(f"digits@{number}")).path
    return {file.sha256 for file in manifest.survey(path).values()}


def test_killed_at_every_step_of_a_checkout(ready: Registry, run: Run, make: Make, settings: Settings) -> None:
    folder, version = make(), ready.get("digits@1")
    died: list[str] = []
    while not died or died[-1] != "done":
        shutil.rmtree(version.model.path, ignore_errors=True)
        died.append(run(folder, what="checkout", point=len(died) + 1))
        if version.model.path.exists():
            assert manifest.digest(manifest.survey(version.model.path)) == version.digest
        assert ready.checkout(version).main.read_bytes() == b"weights 1"
    assert {"half written", "before rename", "after rename"} <= set(died)


def test_killed_at_every_step_of_the_first_start_sqlite(run: Run, make: Make, tmp_path: Path) -> None:
    folder, died = make(), []
    while not died or died[-1] != "done":
        home = tmp_path / f"home-{len(died)}"
        died.append(run(folder, home=home, what="", point=len(died) + 1))
        with Registry.open(Settings(home=home)) as registry:
            assert registry.names() == []
            assert registry.revision() == 0
            assert registry.add("digits", folder, made_by="test").number == 1
    assert len(died) > 20


def test_killed_at_any_time_while_everything_changes(ready: Registry, run: Run, make: Make, settings: Settings) -> None:
    chance, entries, done = random.Random(7), len(ready.journal()), 0
    for _ in range(12):
        folder = make(uuid.uuid4().bytes * 1000)
        told = run(folder, what="everything", changes=chance.randint(1, 6), after=chance.uniform(0.0, 0.01))
        done += len(told)
        assert set(told) == {"."}
        check(ready, settings)
        assert entries + done <= len(ready.journal()) <= entries + done + 12  # at most one a kill was not told
    with Registry.open(settings) as reopened:
        check(reopened, settings)
