"""The tree in errors.py is the tree of its classes; what a caller sees of each is as it says."""

from __future__ import annotations

import inspect

import pytest

from modelkeep import errors
from modelkeep.errors import ModelkeepError, Overloaded, first_line

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, ModelkeepError) and kind.__module__ == errors.__name__
}
STATUS = {
    "ModelkeepError": 500,
    "Wrong": 400,
    "Unauthenticated": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "No": 409,
    "Busy": 503,
    "Overloaded": 429,
    "NotReady": 503,
    "TooLate": 504,
    "Damaged": 500,
}
EXIT = {"ModelkeepError": 2, "Wrong": 2, "NotFound": 2, "No": 1, "Busy": 1, "Damaged": 1}


def drawn() -> dict[str, str]:
    """Class to parent, as the docstring draws them."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        name = line.lstrip("├└│─ ").split(" ")[0]
        if name not in CLASSES or (line[0] not in "├└│ " and name != "ModelkeepError"):
            continue
        depth = 0 if name == "ModelkeepError" else line.index("── ") // 4 + 1
        path[depth:] = [name]
        if depth:
            parents[name] = path[depth - 1]
    return parents


def promised(table: dict[str, int], name: str) -> int:
    """What the table says of the class, or of the nearest parent."""
    return next(table[kind.__name__] for kind in CLASSES[name].__mro__ if kind.__name__ in table)


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {name: kind.__bases__[0].__name__ for name, kind in CLASSES.items() if kind is not ModelkeepError}
    assert len(real) >= 20
    assert drawn() == real


@pytest.mark.parametrize("name", CLASSES)
def test_exit_code_and_status(name: str) -> None:
    assert CLASSES[name].exit_code == promised(EXIT, name)
    assert CLASSES[name].status == promised(STATUS, name)


@pytest.mark.parametrize("name", CLASSES)
def test_each_says_its_sentence_and_what_it_is(name: str) -> None:
    error = CLASSES[name]("the disk is full; free some space")
    assert str(error) == "the disk is full; free some space"
    assert isinstance(error, ModelkeepError)
    assert CLASSES[name].__doc__


def test_the_drawing_tells_the_codes() -> None:
    lines = {line.lstrip("├└│─ ").split(" ")[0]: line for line in str(errors.__doc__).splitlines() if line}
    for name in ("NotFound", "Overloaded", "NotReady", "TooLate", "Wrong"):
        assert f"status {CLASSES[name].status}" in lines[name]
    for name in ("Wrong", "NotFound", "No", "Damaged"):
        assert f"exit code {CLASSES[name].exit_code}" in lines[name]


def test_overloaded_says_when_to_come_back() -> None:
    assert Overloaded("full").retry_after == 1.0
    assert Overloaded("full", retry_after=2.5).retry_after == 2.5


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), "one"),
        (RuntimeError("\n\n  the third line \n"), "the third line"),
        (KeyError(), "KeyError()"),
        (ValueError(" \n"), "ValueError(' \\n')"),
    ],
)
def test_a_library_is_quoted_in_one_line(error: Exception, said: str) -> None:
    assert first_line(error) == said
