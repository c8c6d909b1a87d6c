"""Escaping, and the drawing of a rollout's weights."""

from __future__ import annotations

import jinja2
import pytest

from modelkeep.console.rollouts import Rollout
from modelkeep.console.templates import FOLDER, PARTS, Templates, weights


def test_values_are_escaped_and_names_that_are_not_there_are_errors() -> None:
    templates = Templates("")
    known = {"caller": None, "open": True, "done": None, "path": "/"}
    page = templates.page("error", {**known, "status": 404, "why": "<script>alert(1)</script>"})
    assert "&lt;script&gt;alert(1)" in page
    with pytest.raises(jinja2.UndefinedError):
        templates.page("error", {**known, "status": 404})


def test_no_template_takes_anything_as_it_is() -> None:
    for file in FOLDER.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert "safe" not in text, file
        assert "style=" not in text, file
        assert "javascript:" not in text, file


def test_each_part_has_its_file() -> None:
    assert all((FOLDER / "parts" / f"{part}.html").is_file() for parts in PARTS.values() for part in parts)


def test_the_weights_of_a_rollout() -> None:
    going = Rollout("digits", 2, began=0.0, row=0, who="ann", why="", steps=((0.0, 0.1), (50.0, 0.5)))
    assert weights(going, now=100.0) == "M0 80H0.0V72.0H300.0V40.0H600V80Z"
    ended = Rollout("digits", 2, 0.0, 0, "ann", "", ended=100.0, verdict="rollback", steps=((0.0, 0.5), (100.0, 0.0)))
    assert weights(ended, now=1e9) == "M0 80H0.0V40.0H600.0V80.0H600Z"
    assert weights(Rollout("digits", 2, 5.0, 0, "ann", ""), now=5.0) == "M0 80H600V80Z"
