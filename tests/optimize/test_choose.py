"""The best of several, and a reason for each of the others."""

from __future__ import annotations

from modelkeep.optimize.choose import best
from modelkeep.types import Report


def report(size: float, speed: float, *, ok: bool = True) -> Report:
    return Report("optimize", ok, f"size {size}, speed {speed}", {"size_ratio": size, "speedup": speed})


def test_the_smallest_wins() -> None:
    choice = best({"a": report(0.5, 3.0), "b": report(0.25, 0.9), "c": report(0.9, 9.0)})
    assert choice.name == "b"
    assert choice.reasons == {
        "a": "larger than b: size 0.5, speed 3.0",
        "b": "best: size 0.25, speed 0.9",
        "c": "larger than b: size 0.9, speed 9.0",
    }


def test_of_those_about_as_small_the_fastest_wins() -> None:
    choice = best({"a": report(0.25, 1.1), "b": report(0.26, 1.4), "c": report(0.27, 9.0)})
    assert choice.name == "b", "c is 8 % larger than a, which counts"
    assert choice.reasons["a"].startswith("about as small as b, and slower: ")
    assert choice.reasons["c"].startswith("larger than b: ")


def test_what_was_refused_never_wins() -> None:
    choice = best({"tiny": report(0.01, 9.0, ok=False), "a": report(0.5, 1.0)})
    assert choice.name == "a"
    assert choice.reasons["tiny"] == "refused: size 0.01, speed 9.0"
    assert list(choice.reasons) == ["tiny", "a"]


def test_nothing_accepted_leaves_the_model_as_it_is() -> None:
    assert best({}) == (None, {})
    choice = best({"a": report(0.5, 1.0, ok=False)})
    assert choice.name is None
    assert choice.reasons == {"a": "refused: size 0.5, speed 1.0"}
