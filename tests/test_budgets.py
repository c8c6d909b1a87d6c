"""Each budget can be broken, and is measured as scripts/budgets.py says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "budgets.py"
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def budgets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("budgets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["budgets"] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A project of one small package and its tests, and the function that adds files to it."""

    def add(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    add("modelkeep/things.py", "def one() -> int:\n    return 1\n")
    add("tests/test_things.py", "def test_one() -> None:\n    assert 1\n\n\ndef test_two() -> None:\n    assert 2\n")
    return add


def function(name: str, lines: int) -> str:
    """A function of so many lines that count."""
    return f"def {name}():\n" + "    x = 1\n" * (lines - 1)


def broken(budgets: Any, root: Path) -> list[str]:
    return [line.what for line in budgets.check(root / "modelkeep", root / "tests") if not line.ok]


def found(budgets: Any, root: Path, what: str) -> Any:
    return next(line for line in budgets.check(root / "modelkeep", root / "tests") if line.what == what)


def test_a_small_project_keeps_them_all(budgets: Any, write: Write, tmp_path: Path) -> None:
    assert broken(budgets, tmp_path) == []


@pytest.mark.parametrize("room", ["package", "tests"])
def test_a_function_may_have_100_lines_and_no_more(budgets: Any, write: Write, tmp_path: Path, room: str) -> None:
    file = "modelkeep/long.py" if room == "package" else "tests/test_long.py"
    many = "".join(function(f"f{n}", 1) for n in range(40))  # so that p95 stays small
    write("modelkeep/many.py", many.replace("():\n", "(): ...\n"))
    write("tests/test_many.py", "x = 1\n" * 200 + many.replace("():\n", "(): ...\n"))
    write(file, function("f", 100))
    assert broken(budgets, tmp_path) == []
    write(file, function("f", 101))
    assert broken(budgets, tmp_path) == [f"{room}: functions, longest"]
    assert "long.py:1 f (101)" in found(budgets, tmp_path, f"{room}: functions, longest").where


def test_more_than_one_function_in_twenty_above_40_lines_is_too_many(
    budgets: Any, write: Write, tmp_path: Path
) -> None:
    write("tests/test_many.py", "x = 1\n" * 290)
    short = "".join(f"def f{n}(): ...\n" for n in range(36))
    write("modelkeep/mixed.py", short + function("a", 41) + function("b", 41))  # with one() 39 functions, p95 the 38th
    assert found(budgets, tmp_path, "package: functions, p95").found == "41"
    assert broken(budgets, tmp_path) == ["package: functions, p95"]
    write(
        "modelkeep/mixed.py", short + "def g(): ...\n" * 2 + function("a", 41) + function("b", 41)
    )  # 41, the 39th is one()
    assert found(budgets, tmp_path, "package: functions, p95").found == "2"
    write("modelkeep/mixed.py", short + function("a", 40) + function("b", 40))
    assert broken(budgets, tmp_path) == []


def test_a_file_may_have_450_lines_and_no_more(budgets: Any, write: Write, tmp_path: Path) -> None:
    for n in range(40):
        write(f"modelkeep/small{n}.py", "x = 1\n")
    write("tests/test_many.py", "x = 1\n" * 449)
    write("tests/test_more.py", "x = 1\n" * 100)
    for n in range(40):
        write(f"tests/small{n}.py", "x = 1\n")
    write("modelkeep/long.py", "x = 1\n" * 450)
    assert broken(budgets, tmp_path) == []
    write("modelkeep/long.py", "x = 1\n" * 451)
    assert broken(budgets, tmp_path) == ["package: files, longest"]
    assert "long.py (451)" in found(budgets, tmp_path, "package: files, longest").where


def test_files_above_300_lines_are_the_exception(budgets: Any, write: Write, tmp_path: Path) -> None:
    write("modelkeep/long.py", "x = 1\n" * 301)
    assert "package: files, p95" in broken(budgets, tmp_path)
    write("modelkeep/long.py", "x = 1\n" * 300)
    assert "package: files, p95" not in broken(budgets, tmp_path)


def test_a_class_may_have_250_lines_and_no_more(budgets: Any, write: Write, tmp_path: Path) -> None:
    write("tests/test_many.py", "x = 1\n" * 290)
    write("modelkeep/wide.py", "class Wide:\n" + "    x = 1\n" * 249)
    assert broken(budgets, tmp_path) == []
    write("modelkeep/wide.py", "class Wide:\n" + "    x = 1\n" * 250)
    assert broken(budgets, tmp_path) == ["package: classes, longest"]


@pytest.mark.parametrize(
    "path",
    [
        "modelkeep/utils.py",
        "modelkeep/_common.py",
        "modelkeep/helpers/files.py",
        "modelkeep/model_manager.py",
        "modelkeep/base.py",
        "tests/helpers.py",
    ],
)
def test_a_file_or_folder_is_not_called_so(budgets: Any, write: Write, tmp_path: Path, path: str) -> None:
    write(path, "")
    assert broken(budgets, tmp_path) == ["names that say nothing"]
    assert str(Path(path).parts[1]) in found(budgets, tmp_path, "names that say nothing").where


@pytest.mark.parametrize("name", ["ModelManager", "BaseModel", "HTTPHelper", "Utils"])
def test_a_class_is_not_called_so(budgets: Any, write: Write, tmp_path: Path, name: str) -> None:
    write("modelkeep/fine.py", f"class {name}: ...\n")
    assert broken(budgets, tmp_path) == ["names that say nothing"]


@pytest.mark.parametrize("name", ["Database", "Based", "Managed", "Commonness", "Refuse"])
def test_words_that_only_contain_them_are_fine(budgets: Any, write: Write, tmp_path: Path, name: str) -> None:
    write("modelkeep/database.py", f"class {name}: ...\n")
    assert broken(budgets, tmp_path) == []


BARE = "try:\n    x = 1\nexcept{kind}:{beside}\n    {then}\n"


@pytest.mark.parametrize(
    "kind", ["", " Exception", " BaseException as e", " (ValueError, Exception)", " builtins.Exception"]
)
@pytest.mark.parametrize("beside", ["", "  # noqa: BLE001", "  # type: ignore[misc]", "  # pragma: no cover", "  #"])
def test_a_broad_except_without_a_reason_is_found(
    budgets: Any, write: Write, tmp_path: Path, kind: str, beside: str
) -> None:
    write("modelkeep/wide.py", BARE.format(kind=kind, beside=beside, then="pass"))
    write("tests/test_more.py", "x = 1\n" * 9)
    assert broken(budgets, tmp_path) == ["broad excepts without a reason"]
    assert found(budgets, tmp_path, "broad excepts without a reason").where.endswith("modelkeep/wide.py:3")


@pytest.mark.parametrize(
    "text",
    [
        BARE.format(kind=" Exception", beside="  # noqa: BLE001 - a model may raise anything", then="pass"),
        BARE.format(kind=" Exception", beside="  # a person's module may raise anything", then="pass"),
        BARE.format(kind=" Exception", beside="\n    # whatever it was, the loop goes on", then="pass"),
        BARE.format(kind=" BaseException", beside="", then="raise"),  # all of it goes on
        BARE.format(kind=" ValueError", beside="", then="pass"),
        "import contextlib\nwith contextlib.suppress(OSError):\n    x = 1\n",
    ],
)
def test_with_a_reason_or_narrow_it_is_not(budgets: Any, write: Write, tmp_path: Path, text: str) -> None:
    write("modelkeep/wide.py", text)
    write("tests/test_more.py", "x = 1\n" * 9)
    assert broken(budgets, tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        BARE.format(kind=" Exception", beside="", then="raise ValueError from None"),  # turned into another
        "import contextlib\nwith contextlib.suppress(Exception):\n    x = 1\n",
        'try:\n    x = "a reason that is no comment"\nexcept Exception:\n    pass\n',
        "try:\n    x = 1  # about x\nexcept Exception:\n    pass\n",
    ],
)
def test_what_swallows_everything_is_found_in_any_form(budgets: Any, write: Write, tmp_path: Path, text: str) -> None:
    write("modelkeep/wide.py", text)
    write("tests/test_more.py", "x = 1\n" * 9)
    assert broken(budgets, tmp_path) == ["broad excepts without a reason"]


def test_the_tests_are_as_long_as_the_code(budgets: Any, write: Write, tmp_path: Path) -> None:
    write("modelkeep/more.py", "x = 1\n" * 2)
    assert broken(budgets, tmp_path) == []
    write("modelkeep/more.py", "x = 1\n" * 3)
    assert broken(budgets, tmp_path) == ["test lines for each line of code"]
    assert found(budgets, tmp_path, "test lines for each line of code").where == "4 for 5"


def test_which_lines_count(budgets: Any, write: Write) -> None:
    text = '''"""Docstring
of two lines."""

# a comment
SIZE = 3
"""What SIZE is."""


@decorated
def function(
    first: int,
) -> str:
    """Docstring."""
    # a comment
    text = """three
    lines of

    text"""  # one more comment

    return text
'''
    source = budgets.read(write("modelkeep/counted.py", text))
    assert sorted(source.code) == [5, 9, 10, 11, 12, 15, 16, 17, 18, 20]
    (function,) = [node for node in source.tree.body if hasattr(node, "args")]
    assert source.length(function) == 8  # the decorator is not of it


def run(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(root)], capture_output=True, text=True, check=False)


def test_the_command_prints_a_table_and_its_exit_code_is_the_verdict(write: Write, tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 13
    assert all(line.startswith("ok  ") for line in done.stdout.splitlines())
    write("modelkeep/utils.py", "")
    done = run(tmp_path)
    assert done.returncode == 1
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("NO  ")] == [
        ["NO", "names", "that", "say", "nothing", "1", "none", "modelkeep/utils.py"]
    ]


def test_a_folder_that_is_no_project_is_named(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"budgets: there is no folder {tmp_path / 'modelkeep'}\n"
