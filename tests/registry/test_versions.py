from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.errors import BadModel, BadRef, NotFound
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.types import Ref, Report, Route, ServeConfig

Make = Callable[..., Path]


def test_a_version_is_remembered_whole(registry: Registry, make: Make, settings: Settings) -> None:
    before = time.time()
    report = Report("score", True, "97 % of 100 rows", {"accuracy": 0.97}, "digits.npz")
    first = registry.add("digits", make(b"one"), made_by="add('m.onnx')")
    second = registry.add("digits", make(b"two"), parent=1, made_by="Quantize()", reports=[report], who="loop")
    assert (first.number, first.parent, first.reports) == (1, None, ())
    assert second == registry.get("digits@2")
    assert (second.name, second.number, second.parent, second.made_by) == ("digits", 2, 1, "Quantize()")
    assert second.reports == (report,)
    assert before <= second.created <= time.time()
    assert second.model.format == "onnx"
    assert second.model.files == ("model.onnx",)
    assert second.model.labels == ("no", "yes")
    assert second.model.options == {"opset": 18}
    assert second.model.path == settings.home / "checkouts" / second.digest


def test_it_is_there_after_closing(settings: Settings, make: Make) -> None:
    with Registry.open(settings) as registry:
        added = registry.add("digits", make(), made_by="test")
    with Registry.open(settings) as registry:
        assert registry.get("digits") == added


def test_the_size_of_a_version_is_known_without_a_checkout(registry: Registry, make: Make) -> None:
    version = registry.add("digits", make(b"x" * 1234, **{"code/net.py": b"y" * 66}), made_by="test")
    assert not version.model.path.exists()
    assert version.model.size == 1300
    assert registry.checkout(version).size == 1300


def test_versions_are_listed_in_order(three: Registry, make: Make) -> None:
    three.add("abalone", make(), made_by="test")
    assert three.names() == ["abalone", "digits"]
    assert [version.ref for version in three.versions("digits")] == ["digits@1", "digits@2", "digits@3"]


def test_the_folder_may_go_once_it_was_added(registry: Registry, make: Make) -> None:
    folder = make(b"weights")
    version = registry.add("digits", folder, made_by="test")
    (folder / "model.onnx").write_bytes(b"other")
    assert registry.checkout(version).main.read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("ref", "number"),
    [
        ("digits", 2),
        ("digits@1", 1),
        ("digits@live", 2),
        ("digits@canary", 3),
        ("digits@previous", 1),
        ("digits@newest", 3),
        ("digits@stable", 1),
    ],
)
def test_every_way_to_name_a_version(three: Registry, ref: str, number: int) -> None:
    three.set_route(Route("digits", live=2, canary=3, weight=0.1, previous=1), why="test")
    three.set_alias("digits", "stable", 1, None)
    assert three.get(ref).number == number
    assert three.get(Ref.parse(ref)).number == number


def test_a_name_alone_is_the_newest_while_nothing_is_live(three: Registry) -> None:
    assert three.get("digits").number == 3


def test_an_unknown_model_is_told_with_those_there_are(three: Registry, make: Make) -> None:
    three.add("abalone", make(), made_by="test")
    for ask in (three.get, three.versions):
        with pytest.raises(NotFound, match=r"no model is called 'digit'; there are: abalone, digits$"):
            ask("digit")


def test_an_empty_registry_says_how_to_begin(registry: Registry) -> None:
    assert registry.names() == []
    with pytest.raises(NotFound, match=r"no model is called 'digits'; none is registered yet: modelkeep add NAME FILE"):
        registry.get("digits@live")


def test_an_unknown_number_is_told_with_those_there_are(three: Registry) -> None:
    with pytest.raises(NotFound, match=r"there is no digits@4; there are: digits@1, digits@2, digits@3$"):
        three.get("digits@4")


@pytest.mark.parametrize("which", ["live", "shadow", "stable"])
def test_an_unknown_word_is_told_with_those_there_are(three: Registry, which: str) -> None:
    three.set_alias("digits", "best", 2, None)
    there = "digits@1, digits@2, digits@3, digits@newest, digits@best$"
    with pytest.raises(NotFound, match=rf"there is no digits@{which}; there are: {there}"):
        three.get(f"digits@{which}")


def test_a_bad_name_is_refused_before_anything_is_stored(registry: Registry, make: Make, settings: Settings) -> None:
    with pytest.raises(BadRef, match=r"'digits@3' names one version; give the new one the model's name only: digits"):
        registry.add("digits@3", make(), made_by="test")
    with pytest.raises(BadRef, match=r"'../x' does not name a model"):
        registry.add("../x", make(), made_by="test")
    assert os.listdir(settings.home / "store" / "blobs") == []


def test_a_parent_that_is_not_there_is_refused_before_anything_is_stored(
    three: Registry, make: Make, settings: Settings
) -> None:
    stored = sorted(os.listdir(settings.home / "store" / "blobs"))
    with pytest.raises(NotFound, match=r"there is no digits@7; there are: digits@1"):
        three.add("digits", make(b"new"), parent=7, made_by="test")
    assert sorted(os.listdir(settings.home / "store" / "blobs")) == stored


def test_a_folder_that_is_no_model_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"is not a model folder"):
        registry.add("digits", tmp_path, made_by="test")
    assert registry.names() == []
    assert registry.journal() == []


def test_reports_that_come_later_follow_those_of_the_version(registry: Registry, make: Make) -> None:
    early, later, last = (Report("score", True, why, {"n": 1}) for why in ("early", "later", "last"))
    version = registry.add("digits", make(), made_by="test", reports=(early,))
    registry.add_report(version, later, who="test")
    registry.add_report(version, last)
    assert registry.reports(version) == [early, later, last]
    assert registry.get("digits@1").reports == (early,)
    assert [(e.kind, e.why, e.data["number"]) for e in registry.journal("digits")][1:] == [
        ("report", "later", 1),
        ("report", "last", 1),
    ]


def test_a_config_belongs_to_a_version_and_a_machine(three: Registry) -> None:
    version, report = three.get("digits@2"), Report("tune", True, "twice as fast")
    assert three.config(version, "here") is None
    three.set_config(version, "here", ServeConfig(threads=2, max_wait=0.5), report, who="test")
    three.set_config(version, "here", ServeConfig(threads=4, precision="int8"), report, who="test")
    assert three.config(version, "here") == ServeConfig(threads=4, precision="int8")
    assert three.config(version, "there") is None
    assert three.config(three.get("digits@1"), "here") is None
    assert three.reports(version) == [report, report]
    entry = three.journal("digits", kind="config")[-1]
    assert entry.why == "twice as fast"
    assert (entry.data["machine"], entry.data["config"]["threads"]) == ("here", 4)


def test_nothing_is_written_about_a_version_that_is_not_there(registry: Registry, three: Registry, make: Make) -> None:
    gone = three.add("other", make(), made_by="test")
    object.__setattr__(gone, "number", 9)
    entries = len(three.journal())
    with pytest.raises(NotFound, match=r"there is no other@9; there are: other@1"):
        three.add_report(gone, Report("score", True, ""))
    with pytest.raises(NotFound, match=r"there is no other@9"):
        three.set_config(gone, "here", ServeConfig(), Report("tune", True, ""))
    assert len(three.journal()) == entries


def test_the_registry_offers_no_way_to_change_or_delete_a_version() -> None:
    verbs = {name for name in vars(Registry) if not name.startswith("_")}
    assert verbs == {
        *("open", "close", "add", "get", "names", "versions", "checkout", "add_report", "reports", "set_config"),
        *(
            "config",
            "machines",
            "route",
            "set_route",
            "promote",
            "rollback",
            "alias",
            "set_alias",
            "note",
            "note_unless",
            "journal",
            "revision",
        ),
    }


def test_the_revision_grows_with_every_change_and_with_nothing_else(three: Registry, make: Make) -> None:
    version, report = three.get("digits@1"), Report("tune", True, "")
    changes: list[Callable[[], object]] = [
        lambda: three.add("digits", make(), made_by="test"),
        lambda: three.promote("digits", 1, why=""),
        lambda: three.promote("digits", 2, why=""),
        lambda: three.rollback("digits", why=""),
        lambda: three.set_alias("digits", "stable", 1, None),
        lambda: three.set_config(version, "here", ServeConfig(), report),
    ]
    for change in changes:
        before = three.revision()
        change()
        assert three.revision() > before
    before = three.revision()
    three.note("digits", "look", "nothing", {})
    three.add_report(version, report)
    assert three.checkout(version).path.is_dir()
    assert three.revision() == before


def test_a_model_made_from_a_checkout_has_the_size_of_its_own_files(
    registry: Registry, make: Make, tmp_path: Path
) -> None:
    checked_out = registry.checkout(registry.add("m", make(b"x" * 1234), made_by="test"))
    (tmp_path / "smaller").mkdir()
    (tmp_path / "smaller" / checked_out.files[0]).write_bytes(b"1234")
    made = dataclasses.replace(checked_out, path=tmp_path / "smaller", files=checked_out.files[:1])
    assert made.size == 4
