from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.errors import BadModel
from modelkeep.registry import manifest
from modelkeep.registry.manifest import File


def test_survey_finds_nested_files_with_their_digest_and_size(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_bytes(b"x = 1\n")
    (tmp_path / "empty").write_bytes(b"")
    found = manifest.survey(tmp_path)
    assert found == {
        "code/net.py": File(hashlib.sha256(b"x = 1\n").hexdigest(), 6),
        "empty": File("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0),
    }


def test_survey_leaves_out_what_python_caches_beside_code(tmp_path: Path) -> None:
    (tmp_path / "code" / "__pycache__").mkdir(parents=True)
    (tmp_path / "code" / "net.py").write_bytes(b"")
    (tmp_path / "code" / "__pycache__" / "net.cpython-311.pyc").write_bytes(b"compiled")
    assert list(manifest.survey(tmp_path)) == ["code/net.py"]


@pytest.mark.parametrize("target", ["model.onnx", "code", "/etc/hostname"])
def test_survey_refuses_links_to_files_and_folders(tmp_path: Path, target: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "code").mkdir()
    (tmp_path / "sly").symlink_to(target)
    with pytest.raises(BadModel, match=r"sly is a link, which could lead out of the model folder; put the file itself"):
        manifest.survey(tmp_path)


def test_survey_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadModel, match=r"pipe is neither a file nor a folder, so it cannot be stored; remove it"):
        manifest.survey(tmp_path)


@pytest.mark.parametrize("name", ["a\\b", "c:d", "line\nbreak"])
def test_survey_refuses_names_that_another_system_would_read_otherwise(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadModel, match=r"is no name that every system can store; rename the file"):
        manifest.survey(tmp_path)


def test_survey_names_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"the model folder .*absent cannot be read: .*No such file"):
        manifest.survey(tmp_path / "absent")


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "./a", "a//b", "a/", "C:/x", "a\\..\\b", "a\0b", "a\nb"],
)
def test_paths_that_leave_the_folder_or_could_elsewhere_are_not_inside(path: str) -> None:
    assert not manifest.is_inside(path)


@pytest.mark.parametrize("path", ["model.onnx", "code/net.py", "a/b/c", "..x", "x..y/z", "données.bin", "a b"])
def test_plain_relative_paths_are_inside(path: str) -> None:
    assert manifest.is_inside(path)


def test_the_digest_is_that_of_the_canonical_json() -> None:
    files = {"b": File("22", 2), "a": File("11", 1)}
    text = '{"a":{"sha256":"11","size":1},"b":{"sha256":"22","size":2}}'
    assert manifest.digest(files) == hashlib.sha256(text.encode()).hexdigest()
    assert manifest.digest(dict(sorted(files.items()))) == manifest.digest(files)


def test_the_digest_changes_with_a_name_a_size_and_a_content() -> None:
    digests = {
        manifest.digest(files)
        for files in ({"a": File("11", 1)}, {"b": File("11", 1)}, {"a": File("12", 1)}, {"a": File("11", 2)}, {})
    }
    assert len(digests) == 5


def test_a_manifest_survives_json(make: Callable[..., Path]) -> None:
    files = manifest.survey(make(b"w", **{"code/net.py": b"n"}))
    assert set(files) == {"model.onnx", "model.json", "code/net.py"}
    assert manifest.from_json(json.loads(json.dumps(manifest.to_json(files)))) == files


def test_sha256_of_a_file_larger_than_one_read(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192
    (tmp_path / "large").write_bytes(content)
    assert manifest.sha256(tmp_path / "large") == hashlib.sha256(content).hexdigest()
