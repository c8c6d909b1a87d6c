"""API keys: what is kept of them, who is let in, how often, and how soon a revoked one is refused."""

from __future__ import annotations

import base64
import json
import stat
import threading
from pathlib import Path

import pytest

from modelkeep.errors import BadSettings, Conflict, Damaged, Forbidden, NotFound, Overloaded, Unauthenticated
from modelkeep.serve.protocol import keys
from modelkeep.serve.protocol.keys import Gate, Ring


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "home" / "keys.json")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    return now


def test_only_the_hash_is_kept_and_only_its_owner_may_read_it(ring: Ring) -> None:
    token = ring.add("web", ["infer"], rate=5)
    assert token.startswith("mk_")
    assert len(token) > 40
    assert token not in ring.path.read_text()
    assert stat.S_IMODE(ring.path.stat().st_mode) == 0o600
    (kept,) = ring.read()
    assert (kept.name, kept.scopes, kept.rate) == ("web", ("infer",), 5)
    assert token not in repr(kept)
    assert keys.describe(kept).keys() == {"name", "scopes", "rate", "created"}


def test_no_two_keys_are_alike(ring: Ring) -> None:
    assert len({ring.add(f"k{n}", ["read"]) for n in range(20)}) == 20


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, ".x"])
def test_names_that_cannot_be(ring: Ring, name: str) -> None:
    with pytest.raises(BadSettings, match="cannot name a key"):
        ring.add(name, ["infer"])


@pytest.mark.parametrize("scopes", [[], ["root"], ["infer", "root"]])
def test_scopes_that_are_none(ring: Ring, scopes: list[str]) -> None:
    with pytest.raises(BadSettings, match="of infer, read, admin"):
        ring.add("web", scopes)
    assert not ring.path.exists()


def test_a_name_is_used_once_and_can_be_used_again_after_it_was_revoked(ring: Ring) -> None:
    ring.add("web", ["infer"])
    with pytest.raises(Conflict, match="--revoke web"):
        ring.add("web", ["read"])
    ring.revoke("web")
    ring.add("web", ["read"])
    with pytest.raises(NotFound, match="no key 'other'; there are: web"):
        ring.revoke("other")


def test_keys_that_are_added_at_once_are_all_kept(ring: Ring) -> None:
    threads = [threading.Thread(target=ring.add, args=(f"k{n}", ["infer"])) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in ring.read()} == {f"k{n}" for n in range(12)}


def test_a_full_disk_leaves_the_old_file(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    ring.add("web", ["infer"])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys.os, "fsync", full)
    with pytest.raises(Damaged, match=r"keys.json cannot be written: No space left on device; they are as they were"):
        ring.add("more", ["infer"])
    assert [key.name for key in ring.read()] == ["web"]
    assert {p.name for p in ring.path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": [{"name": "x"}]}', '{"keys": 3}', "\x00"])
def test_a_damaged_file_is_told_and_opens_no_door(ring: Ring, text: str) -> None:
    ring.path.parent.mkdir()
    ring.path.write_text(text)
    with pytest.raises(BadSettings, match=r"keys\.json holds no keys that can be read"):
        Gate(ring)


# ── the gate ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_everybody_may_write_to_is_not_trusted(ring: Ring, clock: list[float]) -> None:
    token = ring.add("web", ["infer"])
    gate = Gate(ring)
    assert ring.path.stat().st_mode & 0o777 == 0o600
    ring.path.write_text(ring.path.read_text().replace("web", "who"))
    ring.path.chmod(0o666)
    with pytest.raises(BadSettings, match=f"everybody may write to {ring.path}, and so make keys; first: chmod 600"):
        Gate(ring)
    clock[0] += keys.LOOK_AGAIN
    assert gate.admit(f"Bearer {token}", "infer") == "web"  # what was read before stays in force


def test_without_a_ring_everybody_may() -> None:
    assert Gate(None).admit(None, "admin") == ""


def test_a_gate_that_waits_for_a_first_key_is_open_until_then_and_never_again(ring: Ring, clock: list[float]) -> None:
    gate = Gate(ring, until_there=True)
    assert (gate.open, gate.admit(None, "admin")) == (True, "")
    token = ring.add("web", ["infer"])
    clock[0] += keys.LOOK_AGAIN
    with pytest.raises(Unauthenticated):
        gate.admit(None, "infer")
    assert not gate.open
    assert gate.admit(f"Bearer {token}", "infer") == "web"
    ring.path.unlink()
    clock[0] += keys.LOOK_AGAIN
    assert not gate.open
    with pytest.raises(Unauthenticated):
        gate.admit(f"Bearer {token}", "infer")


def test_a_first_file_that_is_damaged_lets_nobody_in(ring: Ring, clock: list[float]) -> None:
    gate = Gate(ring, until_there=True)
    ring.path.parent.mkdir(parents=True, exist_ok=True)
    ring.path.write_text("{")
    clock[0] += keys.LOOK_AGAIN
    with pytest.raises(Unauthenticated):
        gate.admit(None, "read")


def test_a_key_opens_what_its_scopes_say(ring: Ring) -> None:
    ask, look = ring.add("web", ["infer"]), ring.add("prometheus", ["read"])
    gate = Gate(ring)
    assert gate.admit(f"Bearer {ask}", "infer") == "web"
    assert gate.admit(f"bearer  {look} ", "read") == "prometheus"
    with pytest.raises(Forbidden, match="'web' may infer, and this needs scope 'admin'") as denied:
        gate.admit(f"Bearer {ask}", "admin")
    assert ask not in str(denied.value)


def test_basic_for_browsers_and_for_what_can_do_no_other(ring: Ring) -> None:
    token = ring.add("prometheus", ["read"])
    both = base64.b64encode(f"anybody:{token}".encode()).decode()
    assert Gate(ring).admit(f"Basic {both}", "read") == "prometheus"


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer mk_no", "Basic", "Basic !!!", "Basic /w==", "Digest x", "mk_no"]
)
def test_whoever_has_no_key_is_refused(ring: Ring, given: str | None) -> None:
    ring.add("web", ["infer"])
    with pytest.raises(Unauthenticated, match="Authorization: Bearer KEY"):
        Gate(ring).admit(given, "infer")


def test_neither_the_hash_nor_an_empty_key_opens(ring: Ring) -> None:
    ring.add("web", ["infer"])
    digest = json.loads(ring.path.read_text())["keys"][0]["digest"]
    gate = Gate(ring)
    for wrong in (digest, ""):
        with pytest.raises(Unauthenticated):
            gate.admit(f"Bearer {wrong}", "infer")


def test_an_empty_ring_lets_nobody_in(ring: Ring) -> None:
    gate = Gate(ring)
    with pytest.raises(Unauthenticated):
        gate.admit("Bearer x", "infer")


def test_a_rate_is_kept_and_says_when_to_come_again(ring: Ring, clock: list[float]) -> None:
    token = ring.add("web", ["infer"], rate=4)
    gate = Gate(ring)

    for passed, allowed in ((0.0, 4), (0.5, 2), (100.0, 4)):
        clock[0] += passed
        for _ in range(allowed):
            gate.admit(f"Bearer {token}", "infer")
        with pytest.raises(Overloaded) as told:
            gate.admit(f"Bearer {token}", "infer")
        assert told.value.retry_after == pytest.approx(0.25)


def test_one_keys_rate_is_no_others(ring: Ring, clock: list[float]) -> None:
    slow, free = ring.add("slow", ["infer"], rate=1), ring.add("free", ["infer"])
    gate = Gate(ring)
    gate.admit(f"Bearer {slow}", "infer")
    with pytest.raises(Overloaded):
        gate.admit(f"Bearer {slow}", "infer")
    for _ in range(50):
        gate.admit(f"Bearer {free}", "infer")


def test_changes_reach_a_running_gate_within_a_second(ring: Ring, clock: list[float]) -> None:
    old = ring.add("old", ["infer"])
    gate = Gate(ring)
    gate.admit(f"Bearer {old}", "infer")
    ring.revoke("old")
    new = ring.add("new", ["infer"])
    clock[0] += keys.LOOK_AGAIN
    assert gate.admit(f"Bearer {new}", "infer") == "new"
    with pytest.raises(Unauthenticated):
        gate.admit(f"Bearer {old}", "infer")


def test_a_file_that_goes_bad_changes_nothing_and_one_that_goes_away_opens_nothing(
    ring: Ring, clock: list[float]
) -> None:
    token = ring.add("web", ["infer"])
    gate = Gate(ring)
    ring.path.write_text("{")
    clock[0] += 1
    assert gate.admit(f"Bearer {token}", "infer") == "web"
    ring.path.unlink()
    clock[0] += 1
    with pytest.raises(Unauthenticated):
        gate.admit(f"Bearer {token}", "infer")
    with pytest.raises(Unauthenticated):
        gate.admit(None, "infer")
