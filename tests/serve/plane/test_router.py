"""Who answers: weights, stickiness, pinned versions, and what is said when nobody can."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.errors import NotFound, NotReady
from modelkeep.serve.plane.router import Router


def loaded(number: int) -> Any:
    return SimpleNamespace(number=number, ref=f"digits@{number}")


def test_without_a_canary_live_answers() -> None:
    live = loaded(1)
    assert Router("digits", live).pick("any") == (live, "live")
    assert Router("digits", live, canary=loaded(2), weight=0.0).pick("any") == (live, "live")
    assert Router("digits", live, canary=None, weight=0.5).pick("any") == (live, "live")


@pytest.mark.parametrize("key", ["user-{}", ""])
@pytest.mark.parametrize("weight", [0.01, 0.3, 0.9])
def test_the_canary_gets_its_share(weight: float, key: str) -> None:
    router = Router("digits", loaded(1), canary=loaded(2), weight=weight)
    n = 20_000
    share = sum(router.pick(key.format(i))[1] == "canary" for i in range(n)) / n
    assert share == pytest.approx(weight, abs=4 * (weight * (1 - weight) / n) ** 0.5)


def test_weight_one_is_everything() -> None:
    router = Router("digits", loaded(1), canary=loaded(2), weight=1.0)
    assert {router.pick(key)[1] for i in range(1000) for key in (str(i), "")} == {"canary"}


def test_the_same_key_stays_while_the_weight_grows_and_another_canary_gets_others() -> None:
    keys = [f"user-{i}" for i in range(2000)]

    def chosen(canary: int, weight: float) -> set[str]:
        router = Router("digits", loaded(1), canary=loaded(canary), weight=weight)
        return {k for k in keys if router.pick(k)[1] == "canary"}

    assert chosen(2, 0.1) == chosen(2, 0.1)
    assert chosen(2, 0.1) < chosen(2, 0.4)
    assert len(chosen(2, 0.1) & chosen(3, 0.1)) < 0.3 * len(chosen(2, 0.1))


def test_a_pinned_version_comes_from_its_track() -> None:
    router = Router("digits", loaded(1), canary=loaded(2), weight=0.5, shadow=loaded(3))
    assert [router.pick("k", n)[1] for n in (1, 2, 3)] == ["live", "canary", "shadow"]
    with pytest.raises(NotFound, match=r"digits@4 is not served; this server holds digits@1, digits@2, digits@3"):
        router.pick("k", 4)
    with pytest.raises(NotFound, match="holds no version of it"):
        Router("digits").pick("k", 4)


def test_no_live_version_is_not_ready_and_says_why() -> None:
    with pytest.raises(NotReady, match=r"no version of 'digits' is loaded; send the request again later"):
        Router("digits").pick("k")
    router = Router("digits", problems={3: "it is being loaded"})
    with pytest.raises(NotReady, match=r"\(digits@3: it is being loaded\)"):
        router.pick("k")
    with pytest.raises(NotReady, match="digits@3 cannot answer: it is being loaded"):
        router.pick("k", 3)


def test_shares_are_what_is_in_force() -> None:
    assert Router("digits").shares == {"live": 0.0, "canary": 0.0, "shadow": 0.0}
    assert Router("digits", loaded(1), weight=0.2).shares == {"live": 1.0, "canary": 0.0, "shadow": 0.0}
    shares = Router("digits", loaded(1), canary=loaded(2), weight=0.2, shadow=loaded(3)).shares
    assert shares == {"live": 0.8, "canary": 0.2, "shadow": 1.0}
