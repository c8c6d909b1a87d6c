"""modelkeep serve, told a name: a model of the registry, or a file that lies there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.registry import Registry
from modelkeep.serve import server
from modelkeep.settings import Settings
from tests.cli.conftest import Run


@pytest.fixture
def home(tmp_path: Path, adopted: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where digits and digits.v1 are registered, and a folder and a file are called so, too."""
    monkeypatch.setenv("MODELKEEP_HOME", str(tmp_path / ".modelkeep"))
    with Registry.open(Settings(home=tmp_path / ".modelkeep")) as registry:
        for name in ("digits", "digits.v1"):
            registry.add(name, adopted("MLP").path, made_by="test")
    (tmp_path / "digits").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "model.onnx").touch()
    return tmp_path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was to be served: files, and models of the registry."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(server, "serve_file", lambda path, *_, **__: found.append(("file", str(path))))
    monkeypatch.setattr(server, "serve_registry", lambda _, names, *__, **___: found.append(("model", *names)))
    return found


@pytest.mark.parametrize(
    ("word", "kind", "said"),
    [
        ("digits", "model", "digits is a model of the registry; what lies here under that name is ./digits"),
        ("digits.v1", "model", ""),
        ("./digits", "file", ""),
        ("other", "file", ""),
        ("model.onnx", "file", ""),
    ],
)
def test_a_registered_model_comes_before_what_lies_there(
    run: Run, served: list[tuple[str, str]], word: str, kind: str, said: str
) -> None:
    """A folder of that name was served in its place, without its route, and no name with a dot could be served."""
    code, _, err = run("serve", word)
    assert code == 0
    assert served == [(kind, str(Path(word)))]
    assert said in err
    assert ("lies here" in err) == bool(said)


def test_one_bare_file_and_no_other_model(run: Run, served: list[tuple[str, str]]) -> None:
    """It was said that no model is called model.onnx."""
    for words in (["model.onnx", "other"], ["digits", "model.onnx"]):
        code, _, err = run("serve", *words)
        assert (code, served) == (2, [])
        assert (
            "model.onnx is a bare file, of which serve takes one and no other model; first: modelkeep add NAME" in err
        )


def test_a_version_is_no_name(run: Run, served: list[tuple[str, str]]) -> None:
    code, _, err = run("serve", "digits@1")
    assert (code, served) == (2, [])
    assert "serve takes a model's name and follows its route; first: modelkeep promote digits@1" in err
    assert run("promote", "digits@1")[0] == 0
    for word in ("digits@1", "digits@live"):
        assert "serve takes a model's name and follows its route; serve digits" in run("serve", word)[2]
    assert served == []
