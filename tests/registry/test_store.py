from __future__ import annotations

import errno
import hashlib
import os
import uuid
from pathlib import Path

import pytest

from modelkeep.errors import BadModel, BadSettings, Damaged
from modelkeep.registry import store as store_module
from modelkeep.registry.manifest import File
from modelkeep.registry.store import Store

CONTENT = b"weights" * 1000
FILE = File(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=["folder", "file-url", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    urls = {"folder": str(tmp_path / "s"), "file-url": f"file://{tmp_path}/s", "memory": f"memory://{uuid.uuid4().hex}"}
    return Store(urls[request.param])


def test_what_was_put_comes_back(store: Store, source: Path, tmp_path: Path) -> None:
    assert not store.has(FILE.sha256)
    assert not store.whole(FILE)
    assert store.put(source, FILE)
    store.settle()
    assert store.has(FILE.sha256)
    assert store.whole(FILE)
    assert store.fetch(FILE.sha256, tmp_path / "back") == FILE.sha256
    assert (tmp_path / "back").read_bytes() == CONTENT


def test_the_same_bytes_are_stored_once(store: Store, source: Path) -> None:
    assert store.put(source, FILE)
    assert not store.put(source, FILE)
    assert store.orphans(before=0.0) == []
    assert store.orphans(before=float("inf")) == [FILE.sha256]


def test_deleting_twice_is_harmless(store: Store, source: Path, tmp_path: Path) -> None:
    store.put(source, FILE)
    store.delete(FILE.sha256)
    store.delete(FILE.sha256)
    assert not store.has(FILE.sha256)
    with pytest.raises(FileNotFoundError):
        store.fetch(FILE.sha256, tmp_path / "back")


def test_a_file_that_changes_meanwhile_is_refused_and_leaves_nothing(store: Store, source: Path) -> None:
    source.write_bytes(CONTENT + b"more")
    with pytest.raises(BadModel, match=r"source changed while it was being stored; do it again once nothing writes"):
        store.put(source, FILE)
    assert not store.has(FILE.sha256)
    assert store._fs.find(store._root) == []


def test_only_a_local_store_knows_its_free_space(store: Store) -> None:
    assert (store.free() is not None) == store.local


def test_a_damaged_blob_is_noticed_and_mended_by_putting_again(tmp_path: Path, source: Path) -> None:
    store = Store(str(tmp_path / "s"))
    store.put(source, FILE)
    blob = tmp_path / "s" / "blobs" / FILE.sha256
    blob.write_bytes(b"W" + CONTENT[1:])
    assert not store.whole(FILE)
    assert store.fetch(FILE.sha256, tmp_path / "damaged") != FILE.sha256
    assert store.put(source, FILE)
    assert blob.read_bytes() == CONTENT


def test_the_order_is_sync_then_rename_then_sync_of_the_folder(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "s"))
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(at: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{at}')).parent.name}")
        fsync(at)

    def replaced(a: str, b: str) -> None:
        calls.append("replace")
        replace(a, b)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    store.put(source, FILE)
    store.settle()
    assert calls == ["fsync temp", "replace", "fsync s"]


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "s"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left"):
        store.put(source, FILE)
    assert [path for path in (tmp_path / "s").rglob("*") if path.is_file()] == []


def test_orphans_removes_only_old_temporary_files(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    old, new = tmp_path / "s" / "temp" / "old", tmp_path / "s" / "temp" / "new"
    old.write_bytes(b"")
    new.write_bytes(b"")
    os.utime(old, (1000.0, 1000.0))
    assert store.orphans(before=2000.0) == []
    assert not old.exists()
    assert new.exists()


def test_fetch_never_writes_over_a_file(tmp_path: Path, source: Path) -> None:
    store = Store(str(tmp_path / "s"))
    store.put(source, FILE)
    with pytest.raises(FileExistsError):
        store.fetch(FILE.sha256, source)


def test_an_unknown_kind_of_store_is_refused() -> None:
    with pytest.raises(BadSettings, match=r"store is 'nowhere://x', which cannot be opened: .*nowhere"):
        Store("nowhere://x")


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        Damaged, match=r"the store .*/file/s cannot be made: Not a directory; set `store` to another place"
    ):
        Store(str(tmp_path / "file" / "s"))


def test_a_file_of_several_chunks(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHUNK", 999)
    store = Store(str(tmp_path / "s"))
    assert store.put(source, FILE)
    assert store.fetch(FILE.sha256, tmp_path / "back") == FILE.sha256
