from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from modelkeep.errors import BadModel, Damaged, StorageFull
from modelkeep.registry import Registry, adding
from modelkeep.registry.schema import about
from modelkeep.registry.store import Store
from modelkeep.settings import Settings
from tests.registry import small_disk

Make = Callable[..., Path]
LONG_AGO = time.time() - 7 * 24 * 3600.0


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def age(path: Path) -> Path:
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def last_swept(registry: Registry, at: float) -> None:
    with registry._database.write() as connection:
        connection.execute(update(about).values(swept=at))


def test_the_same_bytes_are_stored_once_for_all_versions(registry: Registry, make: Make, settings: Settings) -> None:
    one = registry.add("digits", make(b"weights"), made_by="test")
    stored = files(settings.home / "store")
    assert len(stored) == 2  # the weights and model.json
    two = registry.add("digits", make(b"weights"), made_by="test")
    assert (two.number, two.digest) == (2, one.digest)
    registry.add("digits", make(b"others"), made_by="test")
    assert len(files(settings.home / "store")) == 3


@pytest.mark.parametrize("call", range(1, 5))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_at_any_file_stores_nothing_and_tells_the_bytes(
    three: Registry, make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch, call: int, code: int
) -> None:
    folder = make(b"w" * 5000, **{"code/net.py": b"n" * 500})
    stored, entries, calls = files(settings.home / "store"), three.journal(), []
    fsync = os.fsync

    def full(at: int) -> None:
        calls.append(at)
        if len(calls) == call:
            raise OSError(code, os.strerror(code))
        fsync(at)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StorageFull,
        match=r"no space left while storing digits: it needs [56],[0-9]{3} bytes and [0-9,]+ bytes are free at /.*; "
        r"nothing was stored; free some space or set `store` to another place",
    ):
        three.add("digits", folder, made_by="test")
    assert len(calls) == call
    assert files(settings.home / "store") == stored
    assert three.journal() == entries
    monkeypatch.undo()
    assert three.add("digits", folder, made_by="test").number == 4


def test_too_little_space_is_told_before_anything_is_written(
    registry: Registry, make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 9000, 1000))
    monkeypatch.setattr(Store, "put", lambda *_: pytest.fail("wrote"))
    with pytest.raises(StorageFull, match=r"it needs [56],[0-9]{3} bytes and 1,000 bytes are free"):
        registry.add("digits", make(b"w" * 5000), made_by="test")
    assert files(settings.home / "store") == []


def test_bytes_that_are_stored_already_need_no_space(
    registry: Registry, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    registry.add("digits", make(b"w" * 5000), made_by="test")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 9900, 100))
    assert registry.add("digits", make(b"w" * 5000), made_by="test").number == 2


FULL = """
import sys
from pathlib import Path
from modelkeep.errors import StorageFull
from modelkeep.registry import Registry, adding
from modelkeep.registry.store import Store
from modelkeep.settings import Settings
home, disk, folder, early = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "early"
if not early:
    Store.free = lambda self: None
with Registry.open(Settings(home=home, store=str(disk / "store"))) as registry:
    try:
        registry.add("digits", folder, made_by="test")
    except StorageFull as error:
        print(error)
    print([str(p) for p in (disk / "store").rglob("*") if p.is_file()], registry.names(), registry.journal())
"""


@pytest.mark.parametrize("early", ["early", "late"])
@pytest.mark.parametrize("all_on_it", [False, True])
def test_a_disk_that_is_really_full_sqlite(tmp_path: Path, make: Make, early: str, all_on_it: bool) -> None:
    disk, folder = tmp_path / "disk", make(b"w" * 3_000_000)
    disk.mkdir()
    home = disk / "home" if all_on_it else tmp_path / "home"
    command = [*small_disk.on(disk, "2m"), sys.executable, "-c", FULL, home, disk, folder, early]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    said, left = done.stdout.splitlines()
    assert said.startswith("no space left while storing digits: it needs 3,000,")
    assert said.endswith("then do it again")
    assert left == "[] [] []"


def test_a_store_that_cannot_be_written_is_told(
    registry: Registry, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(Damaged, match=r"digits cannot be stored at .*: .*Permission denied; nothing was stored"):
        registry.add("digits", make(), made_by="test")
    assert registry.names() == []


def test_a_link_in_the_folder_stores_nothing(registry: Registry, make: Make, settings: Settings) -> None:
    folder = make()
    (folder / "secret").symlink_to("/etc/passwd")
    with pytest.raises(BadModel, match=r"secret is a link"):
        registry.add("digits", folder, made_by="test")
    assert files(settings.home / "store") == []


def test_what_a_killed_process_left_is_swept_once_it_is_old(three: Registry, make: Make, settings: Settings) -> None:
    store, checkouts = settings.home / "store", settings.home / "checkouts"
    checkouts.mkdir()
    left = [store / "temp" / "torn", store / "blobs" / ("0" * 64), checkouts / ".temp-0" / "model.onnx"]
    young = [store / "temp" / "young", store / "blobs" / ("1" * 64), checkouts / ".temp-1" / "model.onnx"]
    for path in (*left, *young):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    for path in (*left, checkouts / ".temp-0", *(p for p in (store / "blobs").iterdir() if p != young[1])):
        age(path)
    last_swept(three, LONG_AGO)
    three.add("digits", make(b"new"), made_by="test")
    assert [path.exists() for path in (*left, *young)] == [False] * 3 + [True] * 3
    for version in three.versions("digits"):
        assert three.checkout(version).path.is_dir()


def test_sweeping_is_done_once_an_hour(three: Registry, make: Make, settings: Settings) -> None:
    orphan = settings.home / "store" / "blobs" / ("0" * 64)
    orphan.write_bytes(b"")
    age(orphan)
    three.add("digits", make(b"new"), made_by="test")
    assert orphan.exists()
    last_swept(three, time.time() - 2 * adding.SWEEP_SECONDS)
    three.add("digits", make(b"newer"), made_by="test")
    assert not orphan.exists()


def test_a_sweep_that_fails_does_not_fail_the_add(three: Registry, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError("not yours")

    last_swept(three, LONG_AGO)
    monkeypatch.setattr(Store, "orphans", fail)
    assert three.add("digits", make(b"new"), made_by="test").number == 4


def test_bytes_that_a_sweep_took_while_they_were_being_added_are_stored_again(
    registry: Registry, make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, settle = [], Store.settle

    def swept(store: Store) -> None:
        settle(store)
        if not taken:
            adding.sweep(registry._database, store, settings.home / "checkouts", before=float("inf"))
            taken.append(len(files(settings.home / "store")))

    monkeypatch.setattr(Store, "settle", swept)
    version = registry.add("digits", make(b"weights"), made_by="test")
    assert taken == [0]
    assert registry.checkout(version).main.read_bytes() == b"weights"
    assert [v.number for v in registry.versions("digits")] == [1]


def test_a_failed_add_keeps_the_bytes_that_another_version_uses(
    registry: Registry, make: Make, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settle = Store.settle

    def full(store: Store) -> None:
        settle(store)
        monkeypatch.setattr(Store, "settle", settle)
        with Registry.open(settings) as other:  # another process adds the same bytes at that moment
            other.add("same", make(b"weights"), made_by="test")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "settle", full)
    with pytest.raises(StorageFull):
        registry.add("digits", make(b"weights"), made_by="test")
    assert registry.names() == ["same"]
    assert registry.checkout(registry.get("same")).main.read_bytes() == b"weights"
