from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.errors import Damaged, DigestMismatch, NotFound, StorageFull
from modelkeep.model import folder
from modelkeep.registry import Registry, checkout, manifest, registry
from modelkeep.registry.manifest import File
from modelkeep.registry.store import Store
from modelkeep.settings import Settings
from modelkeep.types import Version


@pytest.fixture
def version(registry: Registry, make: Callable[..., Path]) -> Version:
    return registry.add("digits", make(b"weights", **{"code/net.py": b"width = 3\n"}), made_by="test")


def blob(settings: Settings, content: bytes) -> Path:
    return next(path for path in (settings.home / "store" / "blobs").iterdir() if path.read_bytes() == content)


def test_a_checkout_holds_what_was_added(registry: Registry, version: Version, settings: Settings) -> None:
    model = registry.checkout(version)
    assert model.path == settings.home / "checkouts" / version.digest
    assert model.main.read_bytes() == b"weights"
    assert (model.path / "code" / "net.py").read_bytes() == b"width = 3\n"
    assert folder.read(model.path).signature == model.signature == version.model.signature
    assert manifest.digest(manifest.survey(model.path)) == version.digest


def test_a_second_checkout_keeps_the_folder(registry: Registry, version: Version) -> None:
    first = registry.checkout(version).path.stat().st_ino
    assert registry.checkout(version).path.stat().st_ino == first


def test_a_file_changed_in_the_checkout_is_refused_by_name_until_it_is_deleted(
    registry: Registry, version: Version
) -> None:
    model = registry.checkout(version)
    (model.path / "code" / "net.py").write_bytes(b"width = 4\n")
    with pytest.raises(
        DigestMismatch, match=r"the file 'code/net.py' of digits@1 was changed in its checkout; .* delete .*/checkouts/"
    ):
        registry.checkout(version)
    shutil.rmtree(model.path)
    assert (registry.checkout(version).path / "code" / "net.py").read_bytes() == b"width = 3\n"


def test_a_file_missing_from_the_checkout_is_refused_by_name(registry: Registry, version: Version) -> None:
    registry.checkout(version).main.unlink()
    with pytest.raises(DigestMismatch, match=r"the file 'model.onnx' of digits@1 is missing from its checkout"):
        registry.checkout(version)


def test_a_link_in_the_checkout_that_leads_out_is_refused(registry: Registry, version: Version, tmp_path: Path) -> None:
    model = registry.checkout(version)
    (tmp_path / "same").write_bytes(b"weights")
    model.main.unlink()
    model.main.symlink_to(tmp_path / "same")
    with pytest.raises(DigestMismatch, match=r"'model.onnx' of digits@1 was changed in its checkout"):
        registry.checkout(version)


@pytest.mark.parametrize("made_before", [False, True])
def test_a_stored_file_that_changed_is_refused_by_name(
    registry: Registry, version: Version, settings: Settings, made_before: bool
) -> None:
    if made_before:
        registry.checkout(version)
    blob(settings, b"weights").write_bytes(b"WEIGHTS")
    with pytest.raises(
        DigestMismatch, match=r"the stored file 'model.onnx' of digits@1 is not the one that was stored .*add the same"
    ):
        registry.checkout(version)
    assert (settings.home / "checkouts" / version.digest).is_dir() == made_before


@pytest.mark.parametrize("made_before", [False, True])
def test_a_stored_file_that_is_gone_is_refused_by_name(
    registry: Registry, version: Version, settings: Settings, made_before: bool
) -> None:
    if made_before:
        registry.checkout(version)
    blob(settings, b"width = 3\n").unlink()
    with pytest.raises(DigestMismatch, match=r"the stored file 'code/net.py' of digits@1 is missing from the store"):
        registry.checkout(version)


def test_adding_the_same_files_again_mends_the_store(
    registry: Registry, version: Version, settings: Settings, make: Callable[..., Path]
) -> None:
    blob(settings, b"weights").write_bytes(b"WEIGHTS")
    blob(settings, b"width = 3\n").unlink()
    again = registry.add("digits", make(b"weights", **{"code/net.py": b"width = 3\n"}), made_by="test")
    assert again.digest == version.digest
    assert registry.checkout(version).main.read_bytes() == b"weights"


def test_nothing_half_made_stays_after_a_refusal(registry: Registry, version: Version, settings: Settings) -> None:
    blob(settings, b"weights").write_bytes(b"WEIGHTS")
    with pytest.raises(DigestMismatch):
        registry.checkout(version)
    assert list((settings.home / "checkouts").iterdir()) == []


def test_compiled_code_beside_the_source_does_not_survive(registry: Registry, version: Version) -> None:
    cache = registry.checkout(version).path / "code" / "__pycache__"
    cache.mkdir()
    (cache / "net.cpython-311.pyc").write_bytes(b"other code")
    registry.checkout(version)
    assert not cache.exists()


def test_a_version_of_another_registry_is_not_found(registry: Registry, version: Version) -> None:
    with pytest.raises(NotFound, match=r"there is no digits@2; there are: digits@1"):
        registry.checkout(Version("digits", 2, version.digest, version.model, None, "", 0.0))


def test_a_version_whose_digest_is_another_is_refused(registry: Registry, version: Version) -> None:
    forged = Version("digits", 1, "0" * 64, version.model, None, "", 0.0)
    with pytest.raises(DigestMismatch, match=r"the list of files of digits@1 is not the one that was stored; restore"):
        registry.checkout(forged)


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "a/../../evil"])
def test_a_manifest_that_leads_out_of_the_folder_writes_nothing(tmp_path: Path, path: str) -> None:
    store = Store(str(tmp_path / "s"))
    source = tmp_path / "source"
    source.write_bytes(b"evil")
    file = File(manifest.sha256(source), 4)
    store.put(source, file)
    files = {path: file}
    with pytest.raises(Damaged, match=r"which would lie outside its folder; it is not loaded"):
        checkout.checkout(store, files, tmp_path / "checkouts" / manifest.digest(files), "digits@1")
    assert not (tmp_path / "checkouts").exists()
    assert list(tmp_path.rglob("evil")) == []


def test_a_process_that_was_faster_wins_and_its_folder_is_used(
    registry: Registry, version: Version, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename
    into = settings.home / "checkouts" / version.digest

    def too_late(a: Path, b: Path) -> None:
        shutil.copytree(a, b)
        rename(a, b)

    monkeypatch.setattr(os, "rename", too_late)
    assert registry.checkout(version).main.read_bytes() == b"weights"
    assert list(into.parent.iterdir()) == [into]


def test_a_full_disk_says_what_is_needed_and_leaves_nothing(
    registry: Registry, version: Version, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StorageFull,
        match=r"no space left while storing the checkout of digits@1: it needs [1-9][0-9,]* bytes and [\d,]+",
    ):
        registry.checkout(version)
    assert list((settings.home / "checkouts").iterdir()) == []


def test_a_checkout_that_cannot_be_written_says_so(registry: Registry, version: Version, settings: Settings) -> None:
    (settings.home / "checkouts").write_bytes(b"a file where the folder should be")
    with pytest.raises(Damaged, match=r"digits@1 cannot be brought to .*; check that it may be read and written"):
        registry.checkout(version)


def test_half_made_checkouts_are_swept_once_they_are_old(tmp_path: Path) -> None:
    old, new, kept = (tmp_path / name for name in (f"{checkout.TEMP}old", f"{checkout.TEMP}new", "0" * 64))
    for path in (old, new, kept):
        path.mkdir()
    for path in (old, kept):
        os.utime(path, (1000.0, 1000.0))
    checkout.sweep(tmp_path, before=2000.0)
    assert sorted(tmp_path.iterdir()) == sorted([new, kept])


def test_a_store_elsewhere_works_the_same(tmp_path: Path, make: Callable[..., Path], database: str) -> None:
    settings = Settings(home=tmp_path / "h", store=f"memory://{time.monotonic_ns()}", database=database)
    with registry.Registry.open(settings) as opened:
        version = opened.add("digits", make(b"far away"), made_by="test")
        assert opened.checkout(version).main.read_bytes() == b"far away"
        assert opened.checkout(version).main.read_bytes() == b"far away"
        store = opened._store
        store._fs.pipe_file(store._blob(manifest.sha256(opened.checkout(version).main)), b"FAR AWAY")
        shutil.rmtree(opened.checkout(version).path)
        with pytest.raises(DigestMismatch, match=r"the stored file 'model.onnx' of digits@1 is not the one"):
            opened.checkout(version)
