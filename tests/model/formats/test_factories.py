"""What builds a module is kept with the version, and built from what was kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from modelkeep.errors import BadModel
from modelkeep.model.formats import factories

NET = "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self, n={n}):\n        super().__init__(n, 2)\n"


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return folder


def test_the_file_is_copied_and_editing_yours_changes_nothing(tmp_path: Path) -> None:
    mine, into = write(tmp_path / "mine", "net.py", NET.format(n=3)), tmp_path / "kept"
    assert factories.keep("net:Net", into, near=(mine,)) == ("code/net.py",)
    write(mine, "net.py", NET.format(n=7))
    built = factories.build("net:Net", {}, into)
    assert isinstance(built, torch.nn.Module)
    assert built.weight.shape == (2, 3)
    assert factories.build("net:Net", {"n": 5}, into).weight.shape == (2, 5)


def test_two_versions_keep_different_files_of_one_name(tmp_path: Path) -> None:
    for n in (3, 4):
        factories.keep("net:Net", tmp_path / f"v{n}", near=(write(tmp_path / "mine", "net.py", NET.format(n=n)),))
    assert [factories.build("net:Net", {}, tmp_path / f"v{n}").weight.shape[1] for n in (3, 4, 3)] == [3, 4, 3]


def test_the_nearest_folder_wins_and_a_package_is_found_by_its_dots(tmp_path: Path) -> None:
    write(tmp_path / "far", "net.py", NET.format(n=1))
    write(tmp_path / "near", "net.py", NET.format(n=2))
    write(tmp_path / "far", "parts/net.py", NET.format(n=3))
    near = (tmp_path / "near", tmp_path / "far")
    factories.keep("net:Net", tmp_path / "a", near)
    assert factories.build("net:Net", {}, tmp_path / "a").weight.shape[1] == 2
    assert factories.keep("parts.net:Net", tmp_path / "b", near) == ("code/parts.net.py",)
    assert factories.build("parts.net:Net", {}, tmp_path / "b").weight.shape[1] == 3


def test_what_is_installed_is_not_copied(tmp_path: Path) -> None:
    assert factories.keep("torch.nn:Linear", tmp_path, near=(tmp_path,)) == ()
    assert factories.build("torch.nn:Linear", {"in_features": 3, "out_features": 2}, tmp_path).weight.shape == (2, 3)


def test_a_module_on_pythons_path_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write(tmp_path / "path", "net_on_the_path.py", NET.format(n=6)))
    assert factories.keep("net_on_the_path:Net", tmp_path / "v", near=()) == ("code/net_on_the_path.py",)


@pytest.mark.parametrize("factory", ["net", "net:", ":Net", ""])
def test_another_form_is_refused(tmp_path: Path, factory: str) -> None:
    with pytest.raises(BadModel, match="is not of the form module:Name"):
        factories.keep(factory, tmp_path, near=())


@pytest.mark.parametrize(
    ("factory", "arguments", "said"),
    [
        ("net:Nothing", {}, "module 'net' has no 'Nothing'"),
        ("net:Net", {"width": 3}, "factory net:Net(width=3) fails: TypeError"),
        ("net:VALUE", {}, "factory net:VALUE() fails: TypeError"),
        ("net:make", {}, "factory 'net:make' gives a int, which is no torch.nn.Module"),
    ],
)
def test_a_factory_that_gives_no_module_is_refused(tmp_path: Path, factory: str, arguments: dict, said: str) -> None:
    write(tmp_path / "mine", "net.py", NET.format(n=1) + "VALUE = 3\ndef make():\n    return 3\n")
    factories.keep(factory, tmp_path, near=(tmp_path / "mine",))
    with pytest.raises(BadModel) as error:
        factories.build(factory, arguments, tmp_path)
    assert said in str(error.value)


def test_a_module_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"module 'no_such_net' of the factory is neither in .* nor installed"):
        factories.keep("no_such_net:Net", tmp_path, near=(tmp_path,))


def test_a_folder_that_is_searched_twice_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadModel, match=rf"is neither in {tmp_path} nor installed"):
        factories.keep("no_such_net:Net", tmp_path / "into", near=(Path.cwd(), Path(".")))


def test_a_file_that_needs_another_of_yours_is_refused(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", "net.py", "from layers_beside import Layer as Net\n")
    factories.keep("net:Net", tmp_path, near=(write(mine, "layers_beside.py", "Layer = 1\n"),))
    with pytest.raises(BadModel, match=r"No module named 'layers_beside'.*must be installed, or be in that file"):
        factories.build("net:Net", {}, tmp_path)


def test_a_file_that_fails_is_refused(tmp_path: Path) -> None:
    factories.keep("net:Net", tmp_path, near=(write(tmp_path / "mine", "net.py", "1 / 0\n"),))
    with pytest.raises(BadModel, match="module 'net' of 'net:Net' cannot be imported: ZeroDivisionError"):
        factories.build("net:Net", {}, tmp_path)


def test_the_path_is_as_before_once_a_file_is_loaded(tmp_path: Path) -> None:
    before = list(sys.path)
    with factories.importable(tmp_path):
        assert sys.path[0] == str(tmp_path)
    assert sys.path == before
