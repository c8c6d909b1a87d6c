"""Keys, cookies and scopes: who may look, who may change, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.console import access as accesses
from modelkeep.console.access import Access
from modelkeep.keep import Keep
from modelkeep.serve.protocol import keys
from modelkeep.serve.protocol.keys import Gate, Ring

Serve = Callable[[], Any]
Browse = Callable[[str], Any]
Tokens = dict[str, str]


def test_without_a_log_in_there_is_nothing_but_the_log_in(tokens: Tokens, serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    for path in ("/", "/journal", "/models/digits", "/models/digits/versions/2/promote"):
        answer = browser.get(path)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/console/login?next=%2F")
        assert "digits" not in answer.text
    stream = browser.client.get("/live?topic=model:digits", headers={"accept": "text/event-stream"})
    assert stream.text == 'event: end\ndata: {"why":"log in with an API key"}\n\n', "and nothing else"
    assert browser.client.post("/models/digits/rollback").status_code == 401
    assert browser.get("/static/console.css").status_code == 200
    for key in (tokens["change"], "mk_wrong"):
        bearer = {"authorization": f"Bearer {key}"}
        assert browser.client.get("/", headers=bearer).status_code == 303, "the console goes by its cookie only"


def test_a_key_that_may_look_sees_and_changes_nothing(tokens: Tokens, keep: Keep, serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    logged_in = browser.submit("/login", key=tokens["look"], next="/models/digits")
    assert (logged_in.status_code, logged_in.headers["location"]) == (303, "/console/models/digits")
    cookie = logged_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/console" in cookie
    assert tokens["look"] not in cookie
    page = browser.get("/models/digits")
    assert page.status_code == 200
    assert 'class="only-looks"' in page.text
    assert "looker (may look)" in page.text
    refused = browser.get("/models/digits/versions/2/promote")
    assert refused.status_code == 403
    assert "key &#39;looker&#39; may look; to change what is served needs scope &#39;admin&#39;" in refused.text
    fields = browser.fields("/") | {"revision": "1"}
    assert browser.client.post("/models/digits/versions/2/promote", data=fields).status_code == 403
    assert keep.registry.route("digits").live == 1


def test_who_changed_it_is_in_the_journal(tokens: Tokens, keep: Keep, serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    browser.log_in(tokens["change"])
    assert browser.submit("/models/digits/versions/2/promote").status_code == 303
    assert keep.registry.journal("digits", kind="route")[-1].who == "console:changer"


@pytest.mark.parametrize(
    ("key", "status", "said"),
    [
        ("mk_wrong", 401, "this key is not known here<"),
        ("", 401, "this key is not known here<"),
        ("ask", 403, "needs scope &#39;read&#39;"),
    ],
)
def test_a_key_that_will_not_do(key: str, status: int, said: str, tokens: Tokens, serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    answer = browser.log_in(tokens.get(key, key))
    assert answer.status_code == status
    assert said in answer.text
    assert browser.get("/").status_code == 303


def test_a_log_in_begins_a_session_of_its_own_and_a_log_out_ends_it(
    tokens: Tokens, serve: Serve, browse: Browse
) -> None:
    browser = browse(f"{serve().url}/console")
    before = browser.get("/login").headers["set-cookie"].partition(";")[0]
    after = browser.log_in(tokens["look"]).headers["set-cookie"].partition(";")[0]
    assert before != after
    kept = dict(browser.client.cookies)
    assert browser.client.post("/logout", data={"token": "wrong"}).status_code == 403
    assert browser.get("/").status_code == 200
    fields = browser.fields("/")
    assert browser.client.post("/logout", data=fields).headers["location"] == "/console/login"
    browser.client.cookies.update(kept)
    assert browser.get("/").status_code == 303


def test_a_revoked_key_is_out(tokens: Tokens, keep: Keep, serve: Serve, browse: Browse) -> None:
    served = serve()
    browser = browse(f"{served.url}/console")
    browser.log_in(tokens["look"])
    assert browser.get("/").status_code == 200
    Ring(keep.settings.keys_file).revoke("looker")
    served.running.service.keys._looked = -keys.LOOK_AGAIN  # as if a second had passed
    assert browser.get("/").status_code == 303


def test_the_other_routes_ask_for_the_header_still(tokens: Tokens, serve: Serve, browse: Browse) -> None:
    served = serve()
    browser = browse(served.url)
    browser.client.base_url = f"{served.url}/console"
    browser.log_in(tokens["change"])
    assert browser.client.get(f"{served.url}/metrics").status_code == 401


class Asking:
    """As much of a request as Access looks at."""

    def __init__(self, cookie: str = "") -> None:
        self.cookies = {"modelkeep_console_1": cookie}
        self.scope = {"server": ("127.0.0.1", 1)}
        self.headers: dict[str, str] = {}


def test_sessions_end_by_themselves_and_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(tmp_path / "keys.json")
    token = ring.add("one", ["read"])
    access: Any = Access(Gate(ring))
    monkeypatch.setattr(accesses, "MOST", 3)
    first = access.log_in(Asking(), token)
    assert access.caller(Asking(first)).who == "console:one"
    others = [access.log_in(Asking(), token) for _ in range(3)]
    assert len(access._sessions) == 3
    with pytest.raises(accesses.Unauthenticated):
        access.caller(Asking(first))
    now = time.monotonic()
    for passed in (accesses.IDLE + 1, accesses.LONGEST + 1):
        cookie = others.pop()
        if passed > accesses.IDLE + 1:
            access._sessions[cookie].seen = now + passed
        monkeypatch.setattr(time, "monotonic", lambda passed=passed: now + passed)
        with pytest.raises(accesses.Unauthenticated):
            access.caller(Asking(cookie))
        monkeypatch.undo()


def test_a_token_belongs_to_one_cookie(tmp_path: Path) -> None:
    access: Any = Access(Gate(None))
    cookie, token = access.visitor(Asking())
    assert access.visitor(Asking(cookie)) == (cookie, token)
    access.check_form(Asking(cookie), token)
    with pytest.raises(accesses.Forbidden):
        access.check_form(Asking("another"), token)
    other: Any = Access(Gate(None))
    with pytest.raises(accesses.Forbidden):
        other.check_form(Asking(cookie), token)
