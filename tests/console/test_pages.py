"""What the pages collect: answers in few words, lineage, bounded lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.console import pages as pages_
from modelkeep.console.looks import Looks
from modelkeep.console.pages import Pages, answer, truth
from modelkeep.console.rollouts import Runs
from modelkeep.console.templates import Templates
from modelkeep.keep import Keep
from modelkeep.types import Model, Signature, TensorSpec


@pytest.fixture
def pages(keep: Keep) -> Pages:
    return Pages(keep, Runs(keep.settings), Looks(keep))


def model(dtype: str, width: int | None, labels: tuple[str, ...] = ()) -> Any:
    given = TensorSpec("x", "float32", (None, 1))
    shape = (None,) if width is None else (None, width)
    return Model(
        path=None,
        format="onnx",
        signature=Signature((given,), (TensorSpec("y", dtype, shape),)),
        files=("m",),
        labels=labels,
    )  # type: ignore[arg-type]


def test_an_answer_in_few_words() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    assert answer({"y": scores}, model("float32", 2, ("cat", "dog"))) == "dog, cat"
    assert answer({"y": scores}, model("float32", 2)) == "1, 0"
    many = np.tile(scores, (5, 1))
    assert answer({"y": many}, model("float32", 2, ("cat", "dog"))) == "dog, cat, dog, cat and 6 more"
    scores[0, 0] = np.nan
    assert answer({"y": scores}, model("float32", 2, ("cat", "dog"))) == "NaN, cat"
    assert answer({"y": np.array([[1.23456]], np.float32)}, model("float32", 1)) == "1.235"
    assert answer({"y": np.array([[1, 0], [0, 1]])}, model("int64", 2, ("cat", "dog"))) == "[1, 0], [0, 1]"
    for kind in ("U3", object):  # as numpy makes texts, and as engines and what was captured hold them
        assert answer({"y": np.array(["pos", "neg"], dtype=kind)}, model("str", None)) == "pos, neg"
    assert len(answer({"y": np.array(["long " * 9000], dtype=object)}, model("str", None))) == 60


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (None, ""),
        (1, "dog"),
        (0.0, "cat"),
        ("dog", "dog"),
        (7, "7"),
        ([1, None, 0], "dog, –, cat"),
        ([1] * 9, "dog, dog, dog, dog and 5 more"),
        ([[1.5, 2.0]], "[1.5, 2.0]"),
        ("long " * 9000, "long " * 11 + "long…"),
    ],
)
def test_the_truth_is_said_as_the_answer_is(label: Any, said: str) -> None:
    assert truth(label, ("cat", "dog")) == said


def test_versions_hang_below_what_they_were_made_from(keep: Keep, pages: Pages) -> None:
    found = pages.versions("digits")
    assert [v.number for v in found["versions"]] == [2, 1]
    assert [v.number for v in found["children"][None]] == [1, 2]
    child = keep.registry.add("digits", keep.model("digits@1").path, parent=1, made_by="Quantize()")
    assert [v.number for v in pages.versions("digits")["children"][1]] == [child.number]


def test_a_long_list_is_cut_and_said_to_be(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_, "MOST_VERSIONS", 1)
    found = pages.versions("digits")
    assert ([v.number for v in found["versions"]], found["more"]) == ([2], 1)
    assert [v.number for v in found["children"][None]] == [2]


def test_the_journal_goes_back_page_by_page(keep: Keep, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_, "MOST_ENTRIES", 2)
    seen: list[int] = []
    before = None
    while True:
        page = pages.journal(None, None, before)
        seen += [entry.id for entry in page["entries"]]
        before = page["older"]
        if before is None:
            break
    assert seen == sorted((entry.id for entry in keep.registry.journal()), reverse=True)


def test_a_damaged_file_of_traffic_leaves_the_page(keep: Keep, pages: Pages) -> None:
    keep.traffic.write_bytes(b"no database" * 100)
    assert pages._newest("digits") == []
    found = pages.monitor("digits", None)
    assert found["checked"] is None
    assert "not a file of captured traffic" in found["problem"]


def test_a_card_shows_the_newest_finding_that_is_not_over(keep: Keep, pages: Pages) -> None:
    number = keep.registry.route("digits").live

    def note(kind: str, subject: str, **other: object) -> None:
        keep.registry.note("digits", kind, "…", {"kind": "drift", "subject": subject, "version": number, **other})

    def shown() -> object:
        found = pages._found("digits", number)
        return found and found.data["subject"]

    note("finding", "inputs")
    note("finding", "answers")
    note("finding", "memory", version=99)
    assert shown() == "answers"
    note("finding-over", "answers")
    assert shown() == "inputs"
    note("finding-over", "inputs")
    assert shown() is None
    note("finding", "answers")
    assert shown() == "answers", "it came again"


def test_how_a_version_was_made_is_said_in_words(keep: Keep, pages: Pages) -> None:
    raw = "SklearnToOnnx(opset=None, atol=0.0001, rtol=0.001, rename={})"
    keep.registry.add("digits", keep.model("digits@1").path, parent=1, made_by=raw)
    known = {"caller": None, "open": True, "done": None, "path": "/"}
    text = Templates("/console").page("journal", {**known, **pages.journal("digits", "add", None)})
    assert "digits@3 was made by SklearnToOnnx<" in text
    assert "atol" not in text
