from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.errors import BadRef, Conflict, No, NotFound, Wrong
from modelkeep.registry import Registry, routes
from modelkeep.types import Route


def test_a_model_without_a_route_has_an_empty_one(three: Registry) -> None:
    assert three.route("digits") == Route("digits")
    assert three.route("unknown") == Route("unknown")


def test_a_route_is_stored_with_the_next_revision_and_its_entry(three: Registry) -> None:
    wanted = Route("digits", live=1, canary=2, weight=0.25, shadow=3)
    stored = three.set_route(wanted, why="a first look", who="loop")
    assert stored == replace(wanted, revision=1) == three.route("digits")
    (entry,) = three.journal("digits", kind="route")
    assert (entry.who, entry.why) == ("loop", "a first look")
    assert entry.data == {"did": "set", "before": asdict(Route("digits")), "after": asdict(stored)}


@pytest.mark.parametrize("stale", [0, 1, 3])
def test_a_route_that_somebody_else_changed_is_refused_and_nothing_is_written(three: Registry, stale: int) -> None:
    three.promote("digits", 1, why="the first", who="ann")
    now = three.promote("digits", 2, why="better on the new rows", who="ben")
    who = "" if stale > 2 else r": ben changed it last \(better on the new rows\)"
    with pytest.raises(
        Conflict,
        match=rf"the route of digits is at revision 2, not {stale}{who}; look at it again, .*: modelkeep list digits$",
    ):
        three.set_route(Route("digits", live=3, revision=stale), why="")
    assert three.route("digits") == now
    assert len(three.journal("digits", kind="route")) == 2


def test_who_decided_by_an_earlier_share_of_a_canary_is_told_that_a_rollout_moves_it(three: Registry) -> None:
    three.promote("digits", 1, why="")
    seen = three.set_route(replace(three.route("digits"), canary=2, weight=0.1), why="step 1 of 2", who="operate")
    now = three.set_route(
        replace(seen, weight=0.5), why="digits@2 gets 50% of the traffic (step 2 of 2)", who="operate"
    )
    with pytest.raises(
        Conflict,
        match=r"operate changed it last \(digits@2 gets 50% .*\), and nothing but the canary's share, as a rollout "
        r"does; wait for its verdict, or end it: modelkeep rollback digits$",
    ):
        three.set_route(replace(seen, shadow=3), why="")
    assert three.route("digits") == now


@pytest.mark.parametrize("word", ["live", "canary", "shadow", "previous"])
def test_a_route_names_only_versions_that_are_there(three: Registry, word: str) -> None:
    given: dict[str, Any] = {"live": 1, word: 9}
    with pytest.raises(NotFound, match=r"there is no digits@9; there are: digits@1, digits@2, digits@3"):
        three.set_route(Route("digits", **given), why="")
    assert three.route("digits") == Route("digits")


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_outside_0_and_1_is_refused(three: Registry, weight: float) -> None:
    with pytest.raises(Wrong, match=r"the canary's share is .*; it must be between 0 and 1"):
        three.set_route(Route("digits", live=1, canary=2, weight=weight), why="")


def test_a_canary_without_a_live_version_is_refused(three: Registry) -> None:
    with pytest.raises(
        Wrong, match=r"digits has no live version that a canary could be compared to; promote one first"
    ):
        three.set_route(Route("digits", canary=2, weight=0.1), why="")


def test_an_unknown_model_has_no_route_to_write(three: Registry) -> None:
    for write in (
        lambda: three.set_route(Route("digit"), why=""),
        lambda: three.promote("digit", 1, why=""),
        lambda: three.rollback("digit", why=""),
    ):
        with pytest.raises(NotFound, match=r"no model is called 'digit'; there are: digits"):
            write()


def test_promote_makes_live_what_was_named_and_remembers_what_was(three: Registry) -> None:
    assert three.promote("digits", 1, why="first") == Route("digits", live=1, revision=1)
    assert three.promote("digits", 3, why="better") == Route("digits", live=3, previous=1, revision=2)
    assert three.get("digits").number == 3
    assert [(e.why, e.data["did"]) for e in three.journal(kind="route")] == [
        ("first", "promote"),
        ("better", "promote"),
    ]


def test_promote_ends_the_canary_and_the_shadow_of_the_same_version(three: Registry) -> None:
    three.set_route(Route("digits", live=1, canary=2, weight=0.5, shadow=2), why="")
    assert three.promote("digits", 2, why="") == Route("digits", live=2, previous=1, revision=2)


def test_promote_of_what_is_live_ends_a_canary_and_keeps_previous(three: Registry) -> None:
    three.set_route(Route("digits", live=2, canary=3, weight=0.5, previous=1), why="")
    assert three.promote("digits", 2, why="") == Route("digits", live=2, previous=1, revision=2)


def test_promote_twice_writes_once(three: Registry) -> None:
    first = three.promote("digits", 1, why="")
    assert three.promote("digits", 1, why="") == first
    assert len(three.journal(kind="route")) == 1


def test_rollback_brings_previous_back_in_one_write_and_can_be_undone(three: Registry) -> None:
    three.promote("digits", 1, why="")
    three.promote("digits", 2, why="")
    assert three.rollback("digits", why="slow", who="loop") == Route("digits", live=1, previous=2, revision=3)
    entry = three.journal(kind="route")[-1]
    assert (entry.who, entry.why, entry.data["did"]) == ("loop", "slow", "rollback")
    assert three.rollback("digits", why="") == Route("digits", live=2, previous=1, revision=4)


def test_rollback_of_a_canary_keeps_live(three: Registry) -> None:
    three.set_route(Route("digits", live=2, canary=3, weight=0.5, previous=1), why="")
    assert three.rollback("digits", why="") == Route("digits", live=2, previous=1, revision=2)


def test_rollback_with_nothing_to_go_back_to_is_refused(three: Registry) -> None:
    three.promote("digits", 1, why="")
    with pytest.raises(No, match=r"digits has no previous version to go back to; promote one with: modelkeep promote"):
        three.rollback("digits", why="")
    assert three.route("digits").revision == 1


numbers = st.integers(1, 4)
maybe = st.none() | numbers


@given(live=numbers, canary=maybe, shadow=maybe, previous=maybe, target=numbers)
def test_going_back_after_a_promotion_restores_what_was_live(
    live: int, canary: int | None, shadow: int | None, previous: int | None, target: int
) -> None:
    before = Route("digits", live, canary, 0.5 if canary else 0.0, shadow, previous, 7)
    after = routes.promoted(before, target)
    assert (after.live, after.canary, after.weight) == (target, None, 0.0)
    assert after.previous == (previous if target == live else live)
    assert after.shadow != target or shadow != target or after == before
    if target != live:
        back = routes.rolled_back(after)
        assert (back.live, back.previous, back.canary) == (live, target, None)


def test_an_alias_is_set_moved_and_read(three: Registry) -> None:
    assert three.alias("digits", "stable") is None
    three.set_alias("digits", "stable", 1, None, who="loop")
    three.set_alias("digits", "stable", 3, 1)
    assert three.alias("digits", "stable") == 3
    first, second = three.journal("digits", kind="alias")
    assert (first.who, first.why) == ("loop", "digits@stable is digits@1; new")
    assert second.why == "digits@stable is digits@3; it was digits@1"
    assert second.data == {"alias": "stable", "before": 1, "after": 3}


@pytest.mark.parametrize(("expect", "named"), [(None, "not set"), (3, "digits@3")])
def test_an_alias_that_somebody_else_moved_is_refused(three: Registry, expect: int | None, named: str) -> None:
    three.set_alias("digits", "stable", 1, None)
    with pytest.raises(
        Conflict, match=rf"digits@stable is digits@1, not {named}: somebody else changed it; look at it"
    ):
        three.set_alias("digits", "stable", 2, expect)
    assert three.alias("digits", "stable") == 1
    assert len(three.journal(kind="alias")) == 1


def test_an_alias_that_is_not_set_cannot_be_moved(three: Registry) -> None:
    with pytest.raises(Conflict, match=r"digits@stable is not set, not digits@1"):
        three.set_alias("digits", "stable", 2, 1)


@pytest.mark.parametrize("word", ["live", "canary", "shadow", "previous", "newest", "3", "Best", "a b", "", "x" * 33])
def test_words_that_would_mean_something_else_cannot_be_aliases(three: Registry, word: str) -> None:
    with pytest.raises(BadRef, match=rf"'{word}' cannot be an alias: small letters, digits and '-', a letter first"):
        three.set_alias("digits", word, 1, None)


def test_an_alias_names_a_version_that_is_there(three: Registry) -> None:
    with pytest.raises(NotFound, match=r"there is no digits@9"):
        three.set_alias("digits", "stable", 9, None)
