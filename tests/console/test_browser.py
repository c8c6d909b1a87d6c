"""The console in a real Chromium: what a person sees, clicks, types and reads on a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelkeep.keep import Keep

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGES = (
    "/",
    "/journal",
    "/models/digits",
    "/models/digits/versions",
    "/models/digits/versions/2",
    "/models/digits/monitor",
    "/models/digits/rollouts",
    "/models/digits/versions/2/promote",
    "/models/digits/versions/2/rollout",
    "/models/digits/rollback",
)
PHONE = {"width": 390, "height": 844}
Serve = Callable[[], Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def see(chromium: Any) -> Iterator[Callable[..., Any]]:
    """``see(url, **options)``: a page at the console there; at the end no script has complained and no request has
    left the service."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_(url: str, **options: Any) -> Any:
        context = chromium.new_context(base_url=url, **options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(url) else wrong.append(f"left: {asked.url}"))
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


def tab_to(page: Any, name: str) -> Any:
    """Press Tab until what has this name has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and name in (focused.get_attribute("aria-label") or focused.inner_text() or ""):
            return focused
    raise AssertionError(f"Tab never came to {name!r}")


def test_each_page_loads_alone_and_draws(serve: Serve, see: Callable[..., Any]) -> None:
    served = serve()
    served.ask(20)
    page = see(served.url)
    for path in PAGES:
        answer = page.goto(f"/console{path}")
        assert answer.status == 200, path
        expect(page.locator("h1")).to_have_count(1)
    page.goto("/console/models/digits")
    expect(page.locator(".chart canvas")).to_have_count(2)
    expect(page.locator("#pulse")).to_have_text("live")
    for _ in range(20):  # what is captured and counted is written once a second
        page.goto("/console/models/digits/monitor")
        if page.locator(".chart canvas").count():
            break
        page.wait_for_timeout(250)
    expect(page.locator(".chart canvas").first).to_be_visible()
    assert page.locator("time").first.inner_text() != page.locator("time").first.get_attribute("datetime")


def test_what_happens_is_seen_without_loading_again(serve: Serve, see: Callable[..., Any], keep: Keep) -> None:
    served = serve()
    page = see(served.url)
    page.goto("/console/models/digits")
    expect(page.locator("#part-newest")).to_contain_text("No request was captured yet")
    expect(page.locator("#pulse")).to_have_text("live")
    served.ask(20)
    expect(page.locator("#part-newest table tbody tr")).to_have_count(8)
    expect(page.locator("#part-answers")).to_contain_text("20 rows")
    page.evaluate("window.stayed = true")
    keep.promote("digits@2")
    expect(page.locator("#part-state")).to_contain_text("Roll back to @1")
    assert page.evaluate("window.stayed"), "the page was not loaded again"


def test_a_rollout_is_started_and_rolled_back_by_clicking(serve: Serve, see: Callable[..., Any], keep: Keep) -> None:
    served = serve()
    page = see(served.url)
    page.goto("/console/")
    page.get_by_role("link", name="digits", exact=True).first.click()
    page.get_by_role("link", name="Roll out @2…").click()
    expect(page.get_by_role("heading", name="Roll out digits@2?")).to_be_visible()
    page.get_by_label("Shares, in percent").fill("50")
    page.get_by_role("button", name="Start the rollout").click()
    expect(page.get_by_text("The rollout has begun.")).to_be_visible()
    expect(page.locator("#part-going")).to_contain_text("50% of the traffic")
    assert (keep.registry.route("digits").canary, keep.registry.route("digits").weight) == (2, 0.5)
    served.ask(12)
    expect(page.locator("#part-going table")).to_contain_text("canary")
    page.get_by_role("link", name="Roll back the canary…").click()
    page.get_by_label("Why?").fill("I have seen enough")
    page.get_by_role("button", name="Roll back @2").click()
    expect(page.get_by_text("It was rolled back.")).to_be_visible()
    assert (keep.registry.route("digits").canary, keep.registry.route("digits").live) == (None, 1)
    page.get_by_role("link", name="Rollouts").click()
    expect(page.locator("article")).to_contain_text("rolled back")
    expect(page.locator("article")).to_contain_text("I have seen enough")
    expect(page.locator("article svg path.area")).to_have_count(1)


def test_a_question_can_be_left_without_an_answer(serve: Serve, see: Callable[..., Any], keep: Keep) -> None:
    page = see(serve().url)
    page.goto("/console/models/digits/versions/2")
    page.get_by_role("link", name="Promote…").click()
    page.get_by_role("link", name="Cancel").click()
    expect(page.get_by_role("heading", name="digits", exact=True)).to_be_visible()
    assert keep.registry.route("digits").live == 1


def test_the_keyboard_is_enough(serve: Serve, see: Callable[..., Any], keep: Keep, tokens: dict[str, str]) -> None:
    page = see(serve().url)
    page.goto("/console/models/digits")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(tokens["change"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="digits", exact=True)).to_be_visible()
    assert page.evaluate("document.cookie") == "", "no script can read it"
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the content"
    expect(skip, "it is seen once it has the focus").to_be_in_viewport(ratio=0.9)
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    focused = tab_to(page, "Promote @2")
    assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Promote digits@2?")).to_be_visible()
    tab_to(page, "Promote @2")
    page.keyboard.press("Enter")
    expect(page.get_by_text("It is live.")).to_be_visible()
    assert keep.registry.route("digits").live == 2
    assert keep.registry.journal("digits", kind="route")[-1].who == "console:changer"


def test_a_page_whose_session_has_gone_asks_for_the_key_again(
    serve: Serve, see: Callable[..., Any], tokens: dict[str, str]
) -> None:
    """As after a restart of the service: the stream that is opened anew is refused."""
    page = see(serve().url)
    page.goto("/console/models/digits")
    page.get_by_label("API key").fill(tokens["look"])
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#pulse")).to_have_text("live")
    page.context.clear_cookies()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_who_may_only_look_is_offered_nothing_to_change(
    serve: Serve, see: Callable[..., Any], tokens: dict[str, str]
) -> None:
    page = see(serve().url)
    page.goto("/console/")
    page.get_by_label("API key").fill(tokens["look"])
    page.get_by_role("button", name="Log in").click()
    for path in ("/models/digits", "/models/digits/versions/2"):
        page.goto(f"/console{path}")
        expect(page.locator("[data-changes]").first).to_be_hidden()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways(serve: Serve, see: Callable[..., Any], scheme: str) -> None:
    served = serve()
    served.ask(60, shift=3.0)
    page = see(served.url, viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    for path in PAGES:
        page.goto(f"/console{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        small = page.evaluate(
            "[...document.querySelectorAll('main button, main .button')].filter(b => b.offsetHeight < 30).length"
        )
        assert small == 0, f"{path}: too small for a finger"
    back, text = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert contrast(back, text) > 7
    assert (brightness(back) < 0.2) == (scheme == "dark")


def test_a_long_name_leaves_room_for_the_rest(serve: Serve, see: Callable[..., Any], keep: Keep) -> None:
    keep.registry.add("n" * 64, keep.model("digits@1").path, made_by="by hand")
    page = see(serve().url, viewport={"width": 1200, "height": 900})
    for path in ("/", "/journal"):
        page.goto(f"/console{path}")
        expect(page.locator(".journal").get_by_text("n" * 64, exact=True)).to_have_count(1)
        assert page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.wide'))") == 0, path


def test_every_word_can_be_read(serve: Serve, see: Callable[..., Any]) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, of text on what is behind it."""
    served = serve()
    served.ask(60, shift=3.0)
    for scheme in ("light", "dark"):
        page = see(served.url, color_scheme=scheme)
        for path in PAGES:
            page.goto(f"/console{path}")
            for back, text, said in page.evaluate(COLOURS):
                assert contrast(back, text) >= 4.5, (scheme, path, said, back, text)


COLOURS = """() => [...document.querySelectorAll("body *")].filter(
    one => one.offsetParent && [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
).map(one => {
    let behind = one;
    while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const back = getComputedStyle(behind || document.body).backgroundColor;
    return [back, getComputedStyle(one).color, one.textContent.trim()];
})"""


def brightness(colour: str) -> float:
    """Relative luminance (WCAG 2.2), 0 to 1."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)


def test_without_scripts_the_pages_stand_still_and_work(serve: Serve, see: Callable[..., Any], keep: Keep) -> None:
    page = see(serve().url, java_script_enabled=False)
    page.goto("/console/models/digits")
    page.get_by_role("link", name="Promote @2…").click()
    page.get_by_role("button", name="Promote @2").click()
    expect(page.get_by_text("It is live.")).to_be_visible()
    assert keep.registry.route("digits").live == 2


def test_a_chart_of_several_days_tells_the_day(serve: Serve, see: Callable[..., Any]) -> None:
    page = see(serve().url, timezone_id="UTC", locale="en-US")
    page.goto("/console/models/digits")
    said = "(last) => tick({ scales: { x: { min: 1e9, max: 1e9 + last } } }, 1e9 + 60)"
    assert page.evaluate(said, 600) == "01:47:40"
    assert page.evaluate(said, 200_000) == "Sep 9, 01:47"


def test_a_line_breaks_where_nothing_came(serve: Serve, see: Callable[..., Any]) -> None:
    served = serve()
    served.ask(20)
    page = see(served.url)
    page.goto("/console/models/digits")
    expect(page.locator(".uplot").first).to_be_visible()
    drawn = """async (x) => {
        const chart = plot(document.querySelector("main"), [line([0, "p99", "live"])], [x, x.map(() => 1)], []);
        await new Promise(requestAnimationFrame);
        const [left, right] = [x[2], x[3]].map((at) => chart.valToPos(at, "x", true));
        const { data } = chart.ctx.getImageData(left + 10, 0, right - left - 20, chart.ctx.canvas.height);
        const [r, g, b] = colour("live").match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
        let seen = 0;
        for (let i = 0; i < data.length; i += 4) seen += data[i] === r && data[i + 1] === g && data[i + 2] === b;
        return seen;
    }"""
    assert page.evaluate(drawn, [0, 1, 2, 60, 61]) == 0, "between the third and the fourth"
    assert page.evaluate(drawn, [0, 20, 40, 60, 80]) > 0
