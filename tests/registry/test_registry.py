"""Many processes at once on one registry: nothing is lost, and nobody is told that the database is locked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from modelkeep.registry import Registry
from modelkeep.settings import Settings

WRITERS, WRITES = 8, 20

ALIAS = """
import sys
from pathlib import Path
from modelkeep.errors import Conflict
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.types import Route
from dataclasses import replace
home, database, me, writes, folder = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5])
registry = Registry.open(Settings(home=home, database=database))

def alias(turn):
    now = registry.alias("digits", "stable")
    registry.set_alias("digits", "stable", now % 3 + 1, now, who=me)

def route(turn):
    now = registry.route("digits")
    registry.set_route(replace(now, live=(now.live or 0) % 3 + 1), why=str(turn), who=me)

def add(turn):
    registry.add("new", folder, made_by=f"{me} {turn}")

print("ready", flush=True)
what = {"alias": alias, "route": route, "add": add}[sys.stdin.readline().strip()]
conflicts = 0
for turn in range(writes):
    while True:
        try:
            what(turn)
            break
        except Conflict:
            conflicts += 1
print(conflicts)
"""


def together(settings: Settings, what: str, writers: int, writes: int, folder: Path) -> list[int]:
    """So many processes do ``what`` so often, all at once; returns the conflicts of each."""
    arguments = [str(settings.home), settings.database]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ALIAS, *arguments, f"writer-{n}", str(writes), str(folder)],
            text=True,
            **pipes,  # type: ignore[call-overload]
        )
        for n in range(writers)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write(f"{what}\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=60) for child in children]
    assert [error for _, error in answers] == [""] * writers
    return [int(out) for out, _ in answers]


def test_no_write_of_an_alias_is_lost(three: Registry, settings: Settings, make: Callable[..., Path]) -> None:
    three.set_alias("digits", "stable", 1, None)
    together(settings, "alias", WRITERS, WRITES, make())
    entries = three.journal("digits", kind="alias")
    assert len(entries) == WRITERS * WRITES + 1
    assert [e.data["before"] for e in entries[1:]] == [e.data["after"] for e in entries[:-1]]
    assert three.alias("digits", "stable") == entries[-1].data["after"]
    assert {e.who: sum(f.who == e.who for f in entries) for e in entries[1:]} == {
        f"writer-{n}": WRITES for n in range(WRITERS)
    }


def test_no_write_of_a_route_is_lost(three: Registry, settings: Settings, make: Callable[..., Path]) -> None:
    together(settings, "route", 4, WRITES, make())
    entries = three.journal("digits", kind="route")
    assert [e.data["after"]["revision"] for e in entries] == list(range(1, 4 * WRITES + 1))
    assert entries[-1].data["after"] == asdict(three.route("digits"))


def test_versions_that_are_added_at_once_get_numbers_of_their_own(
    registry: Registry, settings: Settings, make: Callable[..., Path]
) -> None:
    together(settings, "add", 4, 5, make(b"the same bytes for all"))
    versions = registry.versions("new")
    assert [version.number for version in versions] == list(range(1, 21))
    assert len({version.made_by for version in versions}) == 20
    assert len({version.digest for version in versions}) == 1
    assert registry.checkout(versions[0]).main.read_bytes() == b"the same bytes for all"


@pytest.mark.parametrize("name", ["plain", "what?", "50%20 off", "a#b@c ñ", "a::b", "a?mode=memory&uri=true"])
def test_all_lies_in_the_home_whatever_its_name(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    """A path was read as a URL: what followed a '?' was no part of it, and two homes had one registry."""
    home = tmp_path / "homes" / name
    with Registry.open(Settings(home=home)) as registry:
        registry.checkout(registry.add("digits", make(), made_by="test"))
        assert {path.name for path in home.iterdir()} >= {"registry.db", "store", "checkouts"}
    assert [path.name for path in home.parent.iterdir()] == [name]
    with Registry.open(Settings(home=home)) as registry:
        assert registry.names() == ["digits"]


def test_what_one_process_writes_another_sees(settings: Settings, make: Callable[..., Path]) -> None:
    with Registry.open(settings) as writer, Registry.open(settings) as reader:
        assert reader.names() == []
        before = reader.revision()
        writer.add("digits", make(), made_by="test")
        assert reader.revision() > before
        assert reader.get("digits").number == 1
        writer.promote("digits", 1, why="")
        assert reader.route("digits").live == 1


def test_the_package_names_what_others_use() -> None:
    import modelkeep.registry as package

    assert package.__all__ == ["Entry", "Registry"]
    with pytest.raises(AttributeError):
        _ = package.Versions  # type: ignore[attr-defined]
