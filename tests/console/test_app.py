"""Every page over a real socket, what a change needs, and headers that keep the page alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep.console.app import own_path
from modelkeep.keep import Keep

PAGES = [
    "/",
    "/journal",
    "/journal?model=digits&kind=route",
    "/models/digits",
    "/models/digits/versions",
    "/models/digits/versions/2",
    "/models/digits/monitor",
    "/models/digits/monitor?version=2",
    "/models/digits/rollouts",
    "/models/digits/versions/2/promote",
    "/models/digits/versions/2/rollout",
    "/models/digits/rollback",
    "/models/other",
    "/models/other/monitor",
]
Serve = Callable[[], Any]
Browse = Callable[[str], Any]


def test_each_page_is_there_and_alone(serve: Serve, browse: Browse) -> None:
    served = serve()
    served.ask(3)
    browser = browse(f"{served.url}/console")
    for path in PAGES:
        page = browser.get(path)
        assert page.status_code == 200, path
        assert page.text.count("<h1") == 1, path
        assert 'lang="en"' in page.text
        assert "http://" not in page.text.replace("http://www.w3.org/", ""), path
        assert "https://" not in page.text, path
        assert " style=" not in page.text, path
        assert " on" + "click=" not in page.text, path
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"


def test_what_a_page_says(serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    overview = browser.get("/").text
    assert "the first &lt;b&gt;one&lt;/b&gt;" in overview
    assert "<b>one</b>" not in overview
    version = browser.get("/models/digits/versions/2").text
    assert "pixels float32 [batch, 6]" in version
    assert "score" in version
    assert "accuracy" in version
    nothing = browser.get("/models/digits/rollback").text
    assert "nothing to go back to" in nothing
    assert 'name="why"' not in nothing, "nor is a reason asked for"


def test_the_bare_path_leads_to_the_console(serve: Serve, browse: Browse) -> None:
    browser = browse(serve().url)
    answer = browser.get("/console")
    assert (answer.status_code, answer.headers["location"]) == (307, "/console/")
    assert browser.get("/consolex").status_code == 404
    assert browser.get("/consolex").headers["content-type"] == "application/json"


def test_what_is_not_there(serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    for path, said in (
        ("/models/nope", "no model is called &#39;nope&#39;"),
        ("/models/digits/versions/9", "there is no digits@9"),
        ("/models/digits@1", "names a version"),
        ("/nowhere", "There is no such page."),
        ("/static/../app.py", "There is no such page."),
        ("/journal?model=nope", "no model is called"),
    ):
        page = browser.get(path)
        assert page.status_code in (400, 404), path
        assert said in page.text, path
    assert browser.get("/live?topic=models:digits").status_code == 400
    assert browser.get("/live?topic=model:nope").status_code == 404
    assert browser.client.put("/models/digits").status_code == 405


def test_promote_and_roll_back(keep: Keep, serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    assert "instead of to @1" in browser.get("/models/digits/versions/2/promote").text
    done = browser.submit("/models/digits/versions/2/promote", why="  it is\nbetter ")
    assert (done.status_code, done.headers["location"]) == (303, "/console/models/digits?done=promote")
    assert keep.registry.route("digits").live == 2
    last = keep.registry.journal("digits", kind="route")[-1]
    assert (last.who, last.why) == ("console", "it is better")
    assert browser.submit("/models/digits/rollback", why="").status_code == 303
    assert (keep.registry.route("digits").live, keep.registry.route("digits").previous) == (1, 2)
    assert keep.registry.journal("digits", kind="route")[-1].why == "decided in the console"


@pytest.mark.parametrize("promised", [0.0, 0.95])
def test_a_rollout_says_which_accuracy_it_is_held_to(keep: Keep, serve: Serve, browse: Browse, promised: float) -> None:
    keep.settings = replace(keep.settings, min_accuracy=promised)
    asks = browse(f"{serve().url}/console").get("/models/digits/versions/2/rollout").text
    said = "95.0% of its answers are promised to be right: where it is shown to miss that, it has to be better than @1."
    assert (said in asks) == bool(promised)
    assert ("are promised" in asks) == bool(promised)


def test_a_change_of_what_has_changed_meanwhile_is_not_made(keep: Keep, serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    fields = browser.fields("/models/digits/versions/2/promote")
    keep.promote("digits@2")
    refused = browser.client.post("/models/digits/rollback", data=fields)
    assert refused.status_code == 409
    assert "was changed since you opened the page: console did (promoted by hand); nothing was done" in refused.text
    assert keep.registry.route("digits").live == 2


def test_a_canary_ends_though_it_has_another_share_by_now(keep: Keep, serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    share, more = ({"canary": 2, "weight": weight} for weight in (0.1, 0.5))
    keep.registry.set_route(replace(keep.registry.route("digits"), **share), why="step 1")
    fields = browser.fields("/models/digits/rollback")
    keep.registry.set_route(replace(keep.registry.route("digits"), **more), why="step 2")
    refused = browser.client.post("/models/digits/versions/2/promote", data=fields)
    assert (refused.status_code, "did (step 2)" in refused.text) == (409, True)
    assert browser.client.post("/models/digits/rollback", data=fields).status_code == 303
    assert (keep.registry.route("digits").live, keep.registry.route("digits").canary) == (1, None)


def test_what_cannot_be_done_is_said(serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    refused = browser.submit("/models/digits/rollback")
    assert refused.status_code == 409
    assert "has no previous version to go back to" in refused.text
    assert "is live already" in browser.submit("/models/digits/versions/1/rollout").text
    asked_again = browser.submit("/models/digits/versions/2/rollout", steps="50, ten", tolerance="7")
    assert asked_again.status_code == 400
    assert "steps is &#39;50, ten&#39;; give growing percentages below 100" in asked_again.text
    assert 'value="7"' in asked_again.text
    assert "growing shares between 0 and 1" in browser.submit("/models/digits/versions/2/rollout", steps="50, 10").text


def test_a_form_of_another_site_does_nothing(keep: Keep, serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    path = "/models/digits/versions/2/promote"
    fields = browser.fields(path)
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert browser.client.post(path, data=fields, headers=headers).status_code == 403
    assert browser.submit(path, token="0" * 64).status_code == 403
    assert browser.submit(path, token=None).status_code == 403
    browser.client.cookies.clear()
    assert browser.client.post(path, data=fields).status_code == 403
    assert keep.registry.route("digits").live == 1


def test_a_form_is_bounded(serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    path = "/models/digits/versions/2/promote"
    assert "larger than" in browser.submit(path, why="x" * 20_000).text
    assert "cannot be read" in browser.client.post(path, content=b"\xff\xfe=1").text
    assert browser.client.post(path, content="&".join(f"a{n}=1" for n in range(50))).status_code == 400


def test_another_name_of_this_machine_is_refused_without_keys(serve: Serve, browse: Browse) -> None:
    browser = browse(f"{serve().url}/console")
    posing = browser.client.get("/", headers={"host": "evil.example"})
    assert posing.status_code == 403
    assert "answers to this machine&#39;s address only" in posing.text
    assert browser.client.get("/", headers={"host": "localhost:1"}).status_code == 200
    assert browser.client.get("/", headers={"host": "[::1]:1"}).status_code == 200


def test_events_of_a_page(serve: Serve, browse: Browse) -> None:
    served = serve()
    browser = browse(f"{served.url}/console")
    browser.get("/models/digits")
    served.ask(5)
    found: dict[str, Any] = {}
    with browser.client.stream("GET", "/live?topic=model:digits") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found[kind] = json.loads(line.removeprefix("data: "))
            if "look" in found and found["look"]["point"] is not None:
                break
    assert isinstance(found["history"], list)
    assert len(found["look"]["point"]) == 7
    assert set(found["look"]["html"]) == {"part-state", "part-numbers", "part-answers", "part-newest"}
    assert "From this service." in found["look"]["html"]["part-numbers"]


def test_a_server_with_open_pages_ends_at_once(serve: Serve, browse: Browse) -> None:
    served = serve()
    browser = browse(f"{served.url}/console")
    with browser.client.stream("GET", "/live?topic=overview:") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: history"
        served.running.stop()
        for _ in lines:
            pass
    assert not served.running._thread.is_alive()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/models/digits", "/models/digits"),
        ("", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/a\r\nx: y", "/"),
    ],
)
def test_after_a_log_in_nobody_is_sent_elsewhere(given: str, kept: str) -> None:
    assert own_path(given) == kept


def test_the_vendored_library_is_what_was_published() -> None:
    from hashlib import sha256

    folder = Path(__file__).parents[2] / "modelkeep" / "console" / "static" / "uplot"
    assert {file.name: sha256(file.read_bytes()).hexdigest()[:16] for file in folder.iterdir()} == {
        "LICENSE": "8f989229699b4fe2",
        "uPlot.iife.min.js": "19c8d4c6ad88929a",
        "uPlot.min.css": "df630c6a8d6f8eea",
    }
    assert "uPlot (v1.6.32)" in (folder / "uPlot.iife.min.js").read_text(encoding="utf-8")
    assert "MIT License" in (folder / "LICENSE").read_text(encoding="utf-8")
