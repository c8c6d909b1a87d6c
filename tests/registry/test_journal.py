from __future__ import annotations

import getpass
import os
import sys
import time

import pytest

from modelkeep.errors import Wrong
from modelkeep.registry import Entry, Registry, journal


def test_a_note_comes_back_as_it_was_given(registry: Registry) -> None:
    before = time.time()
    entry = registry.note("digits", "finding", "the pixels are darker", {"p": 0.001}, who="loop")
    assert registry.journal() == [entry]
    assert entry == Entry(entry.id, entry.at, "loop", "digits", "finding", "the pixels are darker", {"p": 0.001})
    assert before <= entry.at <= time.time()


def test_entries_are_read_by_model_kind_and_from_where_one_was(three: Registry) -> None:
    three.note("other", "finding", "a", {})
    three.promote("digits", 1, why="b")
    three.note("digits", "finding", "c", {})
    whys = [entry.why for entry in three.journal()]
    assert whys[3:] == ["a", "b", "c"]
    assert [e.why for e in three.journal("digits")][3:] == ["b", "c"]
    assert [e.why for e in three.journal(kind="finding")] == ["a", "c"]
    assert [e.why for e in three.journal("digits", kind="finding")] == ["c"]
    assert [e.why for e in three.journal(kind=("finding", "route"))] == ["a", "b", "c"]
    third, last = three.journal()[3], three.journal()[-1]
    assert three.journal("digits", since=last.at)[-1:] == [last]
    assert three.journal(since=last.at + 1) == []
    assert [e.why for e in three.journal(after=third.id)] == ["b", "c"]
    assert [e.why for e in three.journal(after=third.id, limit=1)] == ["b"]
    assert three.journal(after=three.journal()[-1].id) == []
    assert [e.id for e in three.journal()] == sorted({e.id for e in three.journal()})


def test_one_who_has_not_read_all_writes_nothing(three: Registry) -> None:
    one = three.note("digits", "finding", "a", {})
    three.note("digits", "other kind", "b", {})
    three.note("other", "finding", "c", {})
    given = {"who": "loop", "kinds": ("finding", "finding-over")}
    two = three.note_unless("digits", "finding", "d", {}, after=one.id, **given)
    assert two is not None
    assert (two.why, two.who) == ("d", "loop")
    assert three.note_unless("digits", "finding-over", "e", {}, after=one.id, **given) is None
    assert [entry.why for entry in three.journal("digits", after=one.id)] == ["b", "d"]


def test_an_added_version_is_an_entry(three: Registry) -> None:
    entry = three.journal("digits", kind="add")[1]
    version = three.get("digits@2")
    assert (entry.who, entry.at, entry.why) == ("test", version.created, "digits@2 was made by add('2')")
    assert entry.data == {"number": 2, "digest": version.digest, "parent": None, "made_by": "add('2')"}


@pytest.mark.parametrize("kind", journal.OWN)
def test_nobody_else_writes_entries_that_tell_of_changes(registry: Registry, kind: str) -> None:
    with pytest.raises(
        Wrong, match=rf"the registry itself writes entries of the kind '{kind}'; take another word than"
    ):
        registry.note("digits", kind, "forged", {})
    assert registry.journal() == []


def test_a_person_is_named_by_login(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert registry.note("digits", "look", "", {}).who == "person:ada"
    assert journal.author("loop") == "loop"
    assert journal.author("person:grace") == "person:grace"


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no name"), ImportError("pwd")])
def test_a_user_without_a_name_is_named_by_number(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert journal.author("person") == f"person:{os.getuid()}"


def test_the_journal_is_read_backwards_page_by_page(three: Registry) -> None:
    for why in "abcde":
        three.note("digits", "finding", why, {})
    newest = three.journal("digits", kind="finding", before=sys.maxsize, limit=2)
    assert [e.why for e in newest] == ["d", "e"]
    assert [e.why for e in three.journal("digits", kind="finding", before=newest[0].id, limit=2)] == ["b", "c"]
    assert three.journal("digits", kind="finding", before=0, limit=2) == []
